-- What budgets have been drawn for: totals of their own, since a session that is deleted must not refill its
-- budget. scope_id is the number of the budget's name; start is an hour or a day, in unix ms.
-- estimated_* are the estimates of the requests whose usage is unknown.
CREATE TABLE IF NOT EXISTS budget_usage (
  scope_id          INTEGER NOT NULL REFERENCES names (id),
  start             INTEGER NOT NULL,
  model_id          INTEGER NOT NULL REFERENCES names (id),
  requests          INTEGER NOT NULL,
  unknown           INTEGER NOT NULL,
  prompt_tokens     INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cached_tokens     INTEGER NOT NULL,
  reasoning_tokens  INTEGER NOT NULL,
  estimated_prompt  INTEGER NOT NULL,
  estimated_output  INTEGER NOT NULL,
  PRIMARY KEY (scope_id, start, model_id)
) STRICT, WITHOUT ROWID;

--bun:split

-- The budgets that requests in flight draw on.
CREATE TABLE IF NOT EXISTS inflight_draws (
  id    BLOB    NOT NULL CHECK (length(id) = 16),
  scope TEXT    NOT NULL,
  start INTEGER NOT NULL,
  PRIMARY KEY (id, scope)
) STRICT, WITHOUT ROWID;
