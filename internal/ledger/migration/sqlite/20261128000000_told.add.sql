-- What a provider told of an answer besides prompt and completion, kept as it was told: a total, a cost (a decimal)
-- and its currency; and the tokens that went into its prompt cache, where it counts them. A request of which nothing of
-- that was told has no row. refused is 1 where
-- the answer, 200 by its status, was an error and nothing else: such a request cost nothing. told_nano and told_femto are the cost for sums, if it is in US dollars: told_nano * 1e-9 + told_femto * 1e-15. They are no columns of requests, because SQLite reads a STRICT table from
-- end to end when it gets one. A request takes its row along when it is deleted, by whatever release. The migration
-- behind this one puts them into the view.
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
