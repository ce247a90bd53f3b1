-- Times are unix milliseconds, durations milliseconds. See the package's doc.go for the reasons.

-- Model, client and route names, once each: a record holds their small numbers.
CREATE TABLE IF NOT EXISTS names (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

--bun:split

CREATE TABLE IF NOT EXISTS sessions (
  id                INTEGER PRIMARY KEY,
  key               TEXT    NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 128),
  parent            TEXT    NOT NULL DEFAULT '',
  requests          INTEGER NOT NULL DEFAULT 0,
  unknown           INTEGER NOT NULL DEFAULT 0,
  prompt_tokens     INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  cached_tokens     INTEGER NOT NULL DEFAULT 0,
  reasoning_tokens  INTEGER NOT NULL DEFAULT 0,
  first_at          INTEGER NOT NULL,
  last_at           INTEGER NOT NULL
) STRICT;

--bun:split

CREATE INDEX IF NOT EXISTS sessions_last ON sessions (last_at, id);

--bun:split

-- The key is a UUIDv7: idempotency key and order of time in one, and carried by the index.
CREATE TABLE IF NOT EXISTS requests (
  id                BLOB    PRIMARY KEY CHECK (length(id) = 16),
  session_id        INTEGER REFERENCES sessions (id),
  client_id         INTEGER NOT NULL REFERENCES names (id),
  route_id          INTEGER NOT NULL REFERENCES names (id),
  model_id          INTEGER NOT NULL REFERENCES names (id),
  answered_id       INTEGER NOT NULL REFERENCES names (id),
  metered           INTEGER NOT NULL CHECK (metered IN (0, 1)),
  stream            INTEGER NOT NULL CHECK (stream IN (0, 1)),
  status            INTEGER NOT NULL,
  outcome           INTEGER NOT NULL CHECK (outcome BETWEEN 1 AND 5),
  prompt_tokens     INTEGER CHECK (prompt_tokens >= 0),
  completion_tokens INTEGER CHECK (completion_tokens >= 0),
  cached_tokens     INTEGER CHECK (cached_tokens >= 0),
  reasoning_tokens  INTEGER CHECK (reasoning_tokens >= 0),
  estimated_prompt  INTEGER NOT NULL,
  estimated_output  INTEGER NOT NULL,
  attempts          INTEGER NOT NULL,
  started_at        INTEGER NOT NULL,
  queue_ms          INTEGER NOT NULL,
  first_byte_ms     INTEGER NOT NULL,
  total_ms          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

--bun:split

CREATE INDEX IF NOT EXISTS requests_session ON requests (session_id) WHERE session_id IS NOT NULL;

--bun:split

-- Requests in flight for more than a moment; what is left of them after a crash was interrupted.
CREATE TABLE IF NOT EXISTS inflight (
  id               BLOB    PRIMARY KEY CHECK (length(id) = 16),
  session          TEXT    NOT NULL,
  parent           TEXT    NOT NULL,
  client           TEXT    NOT NULL,
  route            TEXT    NOT NULL,
  model            TEXT    NOT NULL,
  metered          INTEGER NOT NULL,
  stream           INTEGER NOT NULL,
  estimated_prompt INTEGER NOT NULL,
  estimated_output INTEGER NOT NULL,
  attempts         INTEGER NOT NULL,
  started_at       INTEGER NOT NULL,
  queue_ms         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

--bun:split

CREATE TABLE IF NOT EXISTS usage_hourly (
  start             INTEGER NOT NULL,
  model_id          INTEGER NOT NULL REFERENCES names (id),
  client_id         INTEGER NOT NULL REFERENCES names (id),
  requests          INTEGER NOT NULL,
  unknown           INTEGER NOT NULL,
  prompt_tokens     INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cached_tokens     INTEGER NOT NULL,
  reasoning_tokens  INTEGER NOT NULL,
  PRIMARY KEY (start, model_id, client_id)
) STRICT, WITHOUT ROWID;

--bun:split

CREATE TABLE IF NOT EXISTS usage_daily (
  start             INTEGER NOT NULL,
  model_id          INTEGER NOT NULL REFERENCES names (id),
  client_id         INTEGER NOT NULL REFERENCES names (id),
  requests          INTEGER NOT NULL,
  unknown           INTEGER NOT NULL,
  prompt_tokens     INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cached_tokens     INTEGER NOT NULL,
  reasoning_tokens  INTEGER NOT NULL,
  PRIMARY KEY (start, model_id, client_id)
) STRICT, WITHOUT ROWID;

--bun:split

CREATE TABLE IF NOT EXISTS state (
  name TEXT PRIMARY KEY,
  data BLOB NOT NULL
) STRICT, WITHOUT ROWID;

--bun:split

-- For people with a database shell; the program reads it too.
CREATE VIEW IF NOT EXISTS request_log AS
SELECT r.id, s.key AS session, s.parent, c.name AS client, o.name AS route, m.name AS model, a.name AS answered_model,
       r.metered, r.stream, r.status, r.outcome,
       r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens, r.estimated_prompt, r.estimated_output,
       r.attempts, r.started_at, r.queue_ms, r.first_byte_ms, r.total_ms, r.session_id
FROM requests AS r
JOIN names AS c ON c.id = r.client_id
JOIN names AS o ON o.id = r.route_id
JOIN names AS m ON m.id = r.model_id
JOIN names AS a ON a.id = r.answered_id
LEFT JOIN sessions AS s ON s.id = r.session_id;
