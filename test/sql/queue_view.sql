-- llm_queue: how far the queue is, and in words why it does not go on. In a
-- database of its own.
\set origin :DBNAME
CREATE DATABASE llm_task_test;
\c llm_task_test
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION llm_failover;
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
SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_attribute a WHERE a.attrelid = 'llm_queue'::regclass AND a.attnum > 0 ORDER BY a.attnum;
TABLE llm_queue;
CALL wait_until('(SELECT worker_running FROM llm_health)');

-- Why tasks wait, in words
INSERT INTO llm_tier(name, enabled) VALUES ('disabled', false), ('empty', true), ('down', true), ('fine', true);
INSERT INTO llm_provider(name, dialect, base_url, enabled) VALUES ('up', 'openai', 'http://127.0.0.1:1/v1', true), ('drained', 'openai', 'http://127.0.0.1:1/v1', false);
INSERT INTO llm_route(tier, provider, model) VALUES ('down', 'up', 'm'), ('down', 'drained', 'm'), ('disabled', 'builtin', 'echo'), ('fine', 'builtin', 'echo');
SELECT llm_breaker_open('up', duration => '1 hour');
INSERT INTO llm_task(prompt, tier) VALUES ('x', 'disabled'), ('x', 'empty'), ('x', 'down');
CREATE VIEW words AS SELECT tier, queued, regexp_replace(regexp_replace(blocked_by, '\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d', 'TIME'), 'by (?!regress_)[^,;)]*', 'by ROLE') AS blocked_by FROM llm_queue ORDER BY 1;
TABLE words;
-- the rest goes on
INSERT INTO llm_task(prompt, tier) SELECT 'echo', 'fine' FROM generate_series(1, 60);
CALL wait_until($$NOT EXISTS (SELECT FROM llm_task WHERE tier = 'fine' AND state <> 'done')$$);
SELECT tier, queued, running, answered, failed, expired, oldest, per_second > 0 AS per_second, blocked_by FROM llm_queue WHERE tier = 'fine';
-- a tier that is not there fails its tasks
INSERT INTO llm_task(prompt, tier) VALUES ('x', 'flagshp');
CALL wait_until($$EXISTS (SELECT FROM llm_task WHERE tier = 'flagshp' AND state = 'failed')$$);
SELECT state, error_code, error FROM llm_task WHERE tier = 'flagshp';
-- all of them
SELECT llm_pause();
INSERT INTO llm_task(prompt, tier) VALUES ('x', 'flagshp'), ('x', 'fine');
TABLE words;
UPDATE llm_queue_state SET paused = 'two "reasons"', system_identifier = 1;
TABLE words;
DELETE FROM llm_task WHERE tier IN ('fine', 'flagshp');
SELECT llm_resume();
TABLE words;

-- What it counts
SELECT llm_pause();
DELETE FROM llm_task;
CREATE FUNCTION f(t llm_task) RETURNS void LANGUAGE sql AS '';
INSERT INTO llm_task(prompt, tier, on_finish) SELECT s, 'disabled', CASE WHEN s = 'answered' THEN 'f' END FROM unnest('{queued,queued,queued,running,running,answered,done,done,failed,failed,failed,expired,expired,cancelled,old}'::text[]) s;
UPDATE llm_task SET not_before = now() + '1 day' WHERE id = (SELECT min(id) FROM llm_task);
UPDATE llm_task SET created_at = now() - interval '1 hour' WHERE prompt = 'running' OR id = (SELECT min(id) FROM llm_task);
UPDATE llm_task SET created_at = now() - interval '10 min' WHERE id = (SELECT min(id) + 1 FROM llm_task);
BEGIN;
UPDATE llm_task SET state = CASE prompt WHEN 'old' THEN 'done' ELSE prompt END, lease = CASE WHEN prompt = 'running' THEN 1 END,
  final_state = CASE WHEN prompt = 'answered' THEN 'done' END,
  error_code = CASE WHEN prompt IN ('failed', 'expired', 'cancelled') THEN 'LL001' END,
  finished_at = CASE WHEN prompt = 'old' THEN now() - interval '2 min' WHEN prompt NOT IN ('running', 'answered') THEN now() END
WHERE prompt <> 'queued';
SELECT tier, queued, running, answered, failed, expired, date_trunc('minute', oldest) AS oldest, round(per_second::numeric, 3) AS per_second FROM llm_queue;
ROLLBACK;
-- whose they are does not matter: it is of counts
CREATE ROLE regress_llm_app;
SELECT llm_grant_usage('regress_llm_app');
SET ROLE regress_llm_app;
SELECT (SELECT count(*) FROM llm_task) AS visible, queued FROM llm_queue;
SELECT llm_queue_blocked_by(NULL, 1, 1, 'x') IS NULL AS nothing;
RESET ROLE;
SELECT llm_revoke('regress_llm_app');

-- It reads no more than it must: unfinished and failed tasks, and those of the
-- last minute
DELETE FROM llm_task;
INSERT INTO llm_task(prompt) SELECT 'x' FROM generate_series(1, 20);
INSERT INTO llm_task(prompt, state, finished_at) OVERRIDING SYSTEM VALUE SELECT 'x', 'done', now() - interval '1 hour' FROM generate_series(1, 20000);
ANALYZE llm_task;
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text; BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF line ~ '(using|Bitmap Index Scan on|Seq Scan on) llm_task' THEN RETURN NEXT regexp_replace(line, '^.*(using|Bitmap Index Scan on|Seq Scan on) (\S+).*$', '\2'); END IF;
  END LOOP;
END $$;
SELECT DISTINCT plan_of('TABLE llm_queue') ORDER BY 1;

\c :origin
DROP DATABASE llm_task_test;
DROP ROLE regress_llm_app;
