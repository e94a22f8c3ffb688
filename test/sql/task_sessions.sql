-- What users do with llm_task, as README shows it, with the real worker and a
-- model that echoes. In a database of its own.
\set origin :DBNAME
CREATE DATABASE llm_task_test;
\c llm_task_test
\set SHOW_CONTEXT never
CREATE EXTENSION llm_failover;
CREATE ROLE regress_llm_app;
SELECT llm_grant_usage('regress_llm_app');
GRANT ALL ON SCHEMA public TO regress_llm_app;
INSERT INTO llm_tier(name, fallback) VALUES ('flagship', 'economy'), ('economy', 'offline');
INSERT INTO llm_route(tier, provider, model) VALUES ('flagship', 'builtin', 'echo'), ('economy', 'builtin', 'echo');
SET ROLE regress_llm_app;
CREATE TABLE customer(id bigint PRIMARY KEY, name text, residency text);
CREATE TABLE ticket(id bigint PRIMARY KEY, customer_id bigint, body text, summary text, summary_state text, label text);
INSERT INTO customer VALUES (1, 'Anna', 'eu'), (2, 'Bob', 'us');
INSERT INTO ticket(id, customer_id, body) SELECT g, 1 + g % 2, 'My invoice ' || g || ' is wrong.' FROM generate_series(1, 50) g;
CREATE PROCEDURE wait_until(condition text) LANGUAGE plpgsql AS $$
DECLARE holds boolean; BEGIN
  FOR i IN 1..6000 LOOP
    EXECUTE 'SELECT ' || condition INTO holds;
    EXIT WHEN holds;
    COMMIT;
    PERFORM pg_sleep(0.02);
  END LOOP;
  IF NOT coalesce(holds, false) THEN RAISE EXCEPTION 'never: %', condition; END IF;
END $$;

-- Label rows, durably: a second run adds nothing while the first is queued
BEGIN;
INSERT INTO llm_task(prompt, system, tier, feature, dedupe_key, metadata)
  SELECT body, 'Label this support ticket.', 'economy', 'label', 'label:' || id, jsonb_build_object('id', id) FROM ticket WHERE label IS NULL
  ON CONFLICT DO NOTHING;
INSERT INTO llm_task(prompt, system, tier, feature, dedupe_key, metadata)
  SELECT body, 'Label this support ticket.', 'economy', 'label', 'label:' || id, jsonb_build_object('id', id) FROM ticket WHERE label IS NULL
  ON CONFLICT DO NOTHING;
SELECT state, count(*) FROM llm_task GROUP BY state;
COMMIT;
CALL wait_until($$(SELECT count(*) = 50 FROM llm_task WHERE state = 'done')$$);
SELECT state, count(*), sum((response ->> 'cost')::numeric) AS usd, min(response ->> 'source') AS source, bool_or((response ->> 'degraded')::boolean) AS degraded FROM llm_task WHERE feature = 'label' GROUP BY state;
SELECT queued, running, per_second > 0 AS per_second, blocked_by, make_interval(secs => queued / nullif(per_second, 0)) AS left FROM llm_queue WHERE tier = 'economy';
UPDATE ticket SET label = t.answer FROM llm_task t WHERE t.feature = 'label' AND t.state = 'done' AND ticket.id = (t.metadata ->> 'id')::bigint;
SELECT count(*) FROM ticket WHERE label = body;

-- A trigger enqueues, the answer fills a column
CREATE FUNCTION ticket_finished(t llm_task) RETURNS void LANGUAGE sql AS $$
  UPDATE public.ticket SET summary = coalesce(t.answer, summary), summary_state = t.state WHERE id = (t.metadata ->> 'id')::bigint $$;
CREATE FUNCTION ticket_enqueue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO llm_task(prompt, system, tier, feature, dedupe_key, metadata, on_finish)
  VALUES (NEW.body, 'Summarise in one sentence.', 'economy', 'summary', 'ticket:' || NEW.id, jsonb_build_object('id', NEW.id), 'ticket_finished')
  ON CONFLICT (role, dedupe_key) DO UPDATE SET prompt = excluded.prompt;
  RETURN NULL; END $$;
CREATE TRIGGER summarise AFTER INSERT OR UPDATE OF body ON ticket FOR EACH ROW EXECUTE FUNCTION ticket_enqueue();
BEGIN;
UPDATE ticket SET body = body || ' Thanks.' WHERE id = 1;
UPDATE ticket SET body = body || ' Really.' WHERE id = 1;
SELECT prompt, metadata, on_finish FROM llm_task WHERE dedupe_key = 'ticket:1';
COMMIT;
CALL wait_until($$(SELECT summary_state IS NOT NULL FROM ticket WHERE id = 1)$$);
SELECT summary, summary_state FROM ticket WHERE id = 1;
SELECT state, dedupe_key, claimed_key, answer, tries, error FROM llm_task WHERE feature = 'summary';

-- Cancel, requeue
RESET ROLE;
UPDATE llm_tier SET enabled = false WHERE name = 'economy';
SET ROLE regress_llm_app;
UPDATE ticket SET body = body || ' Hello?' WHERE id IN (2, 3);
SELECT tier, queued, blocked_by FROM llm_queue;
SELECT count(llm_cancel(id)) FROM llm_task WHERE feature = 'summary' AND state IN ('queued', 'running');
CALL wait_until($$(SELECT count(*) = 2 FROM ticket WHERE summary_state = 'cancelled')$$);
SELECT id, summary, summary_state FROM ticket WHERE id IN (2, 3) ORDER BY id;
RESET ROLE;
UPDATE llm_tier SET enabled = true WHERE name = 'economy';
SET ROLE regress_llm_app;
SELECT count(llm_requeue(id)) FROM llm_task WHERE state = 'cancelled' AND error_code = '57014' AND finished_at > now() - interval '2 hours';
CALL wait_until($$(SELECT count(*) = 3 FROM ticket WHERE summary_state = 'done')$$);
SELECT id, summary, summary_state FROM ticket WHERE id IN (2, 3) ORDER BY id;

-- Residency, erasure
RESET ROLE;
SET llm_failover.residency = 'eu';
INSERT INTO llm_task(prompt, tier, residency, metadata) SELECT t.body, 'flagship', c.residency, jsonb_build_object('id', t.id) FROM ticket t JOIN customer c ON c.id = t.customer_id WHERE t.id IN (17, 18) ORDER BY t.id;
INSERT INTO llm_task(prompt) VALUES ('takes the floor') RETURNING residency;
SELECT metadata, residency FROM llm_task WHERE tier = 'flagship' ORDER BY id;
CALL wait_until($$(SELECT bool_and(finished_at IS NOT NULL) FROM llm_task WHERE tier = 'flagship')$$);
DELETE FROM llm_task WHERE metadata ->> 'id' = '17' AND finished_at IS NOT NULL;
SELECT count(*) FROM llm_task WHERE metadata ->> 'id' = '17';

-- Each way in wakes the worker: COPY, a CTE, a savepoint, a prepared transaction
DELETE FROM llm_task;
COPY llm_task(prompt, tier) FROM stdin WITH (DELIMITER ',');
by COPY,economy
\.
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'by COPY')$$);
WITH new AS (INSERT INTO llm_task(prompt, tier) VALUES ('by a CTE', 'economy') RETURNING 1) SELECT count(*) FROM new;
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'by a CTE')$$);
BEGIN;
SAVEPOINT s;
INSERT INTO llm_task(prompt, tier) VALUES ('in a savepoint', 'economy');
RELEASE s;
SAVEPOINT s;
INSERT INTO llm_task(prompt, tier) VALUES ('never', 'economy');
ROLLBACK TO s;
COMMIT;
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'in a savepoint')$$);
BEGIN;
INSERT INTO llm_task(prompt, tier) VALUES ('prepared', 'economy');
PREPARE TRANSACTION 'llm_task';
COMMIT PREPARED 'llm_task';
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'prepared')$$);
BEGIN;
INSERT INTO llm_task(prompt, tier) VALUES ('never', 'economy');
ROLLBACK;
UPDATE llm_tier SET enabled = false WHERE name = 'flagship';
INSERT INTO llm_task(prompt, tier) VALUES ('by UPDATE', 'flagship');
UPDATE llm_task SET tier = 'economy' WHERE tier = 'flagship';
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'by UPDATE')$$);
SELECT prompt, state FROM llm_task ORDER BY id;

\c :origin
DROP DATABASE llm_task_test;
DROP ROLE regress_llm_app;
