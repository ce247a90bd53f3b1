-- What a provider told of an answer besides prompt and completion, kept as it was told: a total, a cost (a decimal)
-- and its currency; and the tokens that went into its prompt cache, where it counts them. A request of which nothing of
-- that was told has no row. refused is 1 where
-- the answer, 200 by its status, was an error and nothing else: such a request cost nothing. told_nano and told_femto are the cost for sums, if it is in US dollars: told_nano * 1e-9 + told_femto * 1e-15. They are no columns of requests, because SQLite reads a STRICT table from
-- end to end when it gets one. A request takes its row along when it is deleted, by whatever release.
CREATE TABLE IF NOT EXISTS request_told (
  id                 BLOB PRIMARY KEY REFERENCES requests (id) ON DELETE CASCADE,
  cache_write_tokens INTEGER,
  told_total         INTEGER,
  told_cost          TEXT,
  told_currency      TEXT,
  told_nano          INTEGER,
  told_femto         INTEGER,
  refused            INTEGER
) STRICT, WITHOUT ROWID;

--bun:split

DROP VIEW IF EXISTS request_log;

--bun:split

CREATE VIEW request_log AS
SELECT r.id, s.key AS session, s.parent, c.name AS client, o.name AS route, m.name AS model, a.name AS answered_model,
       r.metered, r.stream, r.status, r.outcome,
       r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens, r.estimated_prompt, r.estimated_output,
       r.attempts, r.started_at, r.queue_ms, r.first_byte_ms, r.total_ms, r.session_id,
       t.cache_write_tokens, t.told_total, t.told_cost, t.told_currency
FROM requests AS r
JOIN names AS c ON c.id = r.client_id
JOIN names AS o ON o.id = r.route_id
JOIN names AS m ON m.id = r.model_id
JOIN names AS a ON a.id = r.answered_id
LEFT JOIN sessions AS s ON s.id = r.session_id
LEFT JOIN request_told AS t ON t.id = r.id;

--bun:split

ALTER TABLE sessions ADD COLUMN cache_write_tokens INTEGER DEFAULT 0;

--bun:split

ALTER TABLE sessions ADD COLUMN told_nano INTEGER DEFAULT 0;

--bun:split

ALTER TABLE sessions ADD COLUMN told_femto INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_hourly ADD COLUMN cache_write_tokens INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_hourly ADD COLUMN told_nano INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_hourly ADD COLUMN told_femto INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_daily ADD COLUMN cache_write_tokens INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_daily ADD COLUMN told_nano INTEGER DEFAULT 0;

--bun:split

ALTER TABLE usage_daily ADD COLUMN told_femto INTEGER DEFAULT 0;

--bun:split

ALTER TABLE budget_usage ADD COLUMN cache_write_tokens INTEGER DEFAULT 0;

--bun:split

ALTER TABLE budget_usage ADD COLUMN told_nano INTEGER DEFAULT 0;

--bun:split

ALTER TABLE budget_usage ADD COLUMN told_femto INTEGER DEFAULT 0;
