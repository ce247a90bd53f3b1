-- Whose a session is: client is '' for nobody, as in all that earlier releases wrote and write. Of others the key reads
-- "client/id", and name is the id.
--
-- The view is locked first, as its readers do. It has what was told of an answer, too.
ALTER VIEW IF EXISTS request_log SET (security_barrier = false);

--bun:split

ALTER TABLE sessions
  ADD COLUMN IF NOT EXISTS client text DEFAULT '',
  ADD COLUMN IF NOT EXISTS name text;

--bun:split

CREATE INDEX IF NOT EXISTS sessions_name ON sessions ((coalesce(name, key)));

--bun:split

CREATE INDEX IF NOT EXISTS sessions_client ON sessions (client, id) WHERE client <> '';

--bun:split

CREATE INDEX IF NOT EXISTS sessions_client_last ON sessions (client, last_at, id) WHERE client <> '';

--bun:split

CREATE OR REPLACE VIEW request_log AS
SELECT r.id, coalesce(s.name, s.key) AS session, s.parent, c.name AS client, o.name AS route, m.name AS model, a.name AS answered_model,
       r.metered, r.stream, r.status, r.outcome,
       r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.reasoning_tokens, r.estimated_prompt, r.estimated_output,
       r.attempts, r.started_at, r.queue_ms, r.first_byte_ms, r.total_ms, r.session_id,
       t.cache_write_tokens, t.told_total, t.told_cost, t.told_currency, s.client AS owner
FROM requests AS r
JOIN names AS c ON c.id = r.client_id
JOIN names AS o ON o.id = r.route_id
JOIN names AS m ON m.id = r.model_id
JOIN names AS a ON a.id = r.answered_id
LEFT JOIN sessions AS s ON s.id = r.session_id
LEFT JOIN request_told AS t ON t.id = r.id;
