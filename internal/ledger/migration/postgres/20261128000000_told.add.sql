-- What a provider told of an answer besides prompt and completion, kept as it was told: a total, a cost (a decimal)
-- and its currency; and the tokens that went into its prompt cache, where it counts them. A request of which nothing of
-- that was told has no row. refused is 1 where
-- the answer, 200 by its status, was an error and nothing else: such a request cost nothing. told_nano and told_femto are the cost for sums, if it is in US dollars: told_nano * 1e-9 + told_femto * 1e-15.
--
-- Tables are locked in the order in which writers lock them, behind the view, whose readers lock it first. The migration
-- behind this one replaces it: done once only, that bears to be done again.
ALTER VIEW IF EXISTS request_log SET (security_barrier = false);

--bun:split

CREATE TABLE IF NOT EXISTS request_told (
  id                 uuid PRIMARY KEY,
  cache_write_tokens bigint,
  told_total         bigint,
  told_cost          text,
  told_currency      text,
  told_nano          bigint,
  told_femto         bigint,
  refused            smallint
);

--bun:split

ALTER TABLE sessions
  ADD COLUMN IF NOT EXISTS cache_write_tokens bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_nano bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_femto bigint DEFAULT 0;

--bun:split

-- A request takes its row along when it is deleted, by whatever release. Its own row is all that this locks.
ALTER TABLE request_told
  DROP CONSTRAINT IF EXISTS request_told_of,
  ADD CONSTRAINT request_told_of FOREIGN KEY (id) REFERENCES requests (id) ON DELETE CASCADE;

--bun:split

ALTER TABLE usage_hourly
  ADD COLUMN IF NOT EXISTS cache_write_tokens bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_nano bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_femto bigint DEFAULT 0;

--bun:split

ALTER TABLE usage_daily
  ADD COLUMN IF NOT EXISTS cache_write_tokens bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_nano bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_femto bigint DEFAULT 0;

--bun:split

ALTER TABLE budget_usage
  ADD COLUMN IF NOT EXISTS cache_write_tokens bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_nano bigint DEFAULT 0,
  ADD COLUMN IF NOT EXISTS told_femto bigint DEFAULT 0;
