-- What budgets have been drawn for: totals of their own, since a session that is deleted must not refill its
-- budget. scope_id is the number of the budget's name; start is an hour or a day, in unix ms.
-- estimated_* are the estimates of the requests whose usage is unknown.
CREATE TABLE IF NOT EXISTS budget_usage (
  scope_id          bigint NOT NULL,
  start             bigint NOT NULL,
  model_id          bigint NOT NULL,
  requests          bigint NOT NULL,
  unknown           bigint NOT NULL,
  prompt_tokens     bigint NOT NULL,
  completion_tokens bigint NOT NULL,
  cached_tokens     bigint NOT NULL,
  reasoning_tokens  bigint NOT NULL,
  estimated_prompt  bigint NOT NULL,
  estimated_output  bigint NOT NULL,
  PRIMARY KEY (scope_id, start, model_id)
) WITH (fillfactor = 70);

--bun:split

-- The budgets that requests in flight draw on.
CREATE TABLE IF NOT EXISTS inflight_draws (
  id    uuid   NOT NULL,
  scope text   NOT NULL,
  start bigint NOT NULL,
  PRIMARY KEY (id, scope)
);
