-- llm_task: what may be inserted and changed, by whom, and who sees it. In a
-- database of its own, whose queue is paused, so that tasks stay as they are.
\set origin :DBNAME
CREATE DATABASE llm_task_test;
\c llm_task_test
\set SHOW_CONTEXT never
CREATE SCHEMA llm;
CREATE EXTENSION llm_failover SCHEMA llm;
SELECT llm.llm_pause();
GRANT ALL ON SCHEMA public TO PUBLIC;
CREATE ROLE regress_llm_app;
CREATE ROLE regress_llm_other;
CREATE ROLE regress_llm_boss;
CREATE ROLE regress_llm_team IN ROLE regress_llm_app;
SELECT llm.llm_grant_usage('regress_llm_app');
SELECT llm.llm_grant_usage('regress_llm_other');
SELECT llm.llm_grant_usage('regress_llm_team');
SELECT llm.llm_grant_admin('regress_llm_boss');
SET search_path = public, llm;

-- Every column and index says what it is for; no index names what a claim
-- changes, but the one of dedupe_key
SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS "default"
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'llm_task'::regclass AND attnum > 0 ORDER BY attnum;
SELECT c.relname, attname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
 WHERE c.relname IN ('llm_task', 'llm_queue_state', 'llm_queue') AND col_description(attrelid, attnum) IS NULL;
SELECT indexdef FROM pg_indexes WHERE tablename = 'llm_task' ORDER BY indexname;

-- A task is a prompt
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt) VALUES ('Hello') RETURNING *, created_at = now() AS now \gset task_
\echo :task_id :task_prompt :task_tier :task_allow_degraded :task_priority :task_max_tries :task_role :task_state :task_tries :task_now
SET llm_failover.tier = 'bulk';
SET llm_failover.feature = 'label';
INSERT INTO llm_task(messages) VALUES ('[{"role": "user", "content": "Hi"}]') RETURNING tier, feature, residency;
INSERT INTO llm_task(prompt, tier, feature) VALUES ('x', 'slow', NULL) RETURNING tier, feature;
SET llm_failover.tier = '';
INSERT INTO llm_task(prompt) VALUES ('x') RETURNING tier;
RESET llm_failover.tier;
RESET llm_failover.feature;
INSERT INTO llm_task(prompt) VALUES ('') RETURNING prompt;  -- what comes from data is for the call
INSERT INTO llm_task(messages, tier) VALUES ('"no messages"', 'no such tier') RETURNING messages, tier;
INSERT INTO llm_task(prompt, system, max_tokens, temperature, params, priority, not_before, expires_at, metadata, max_tries, allow_degraded)
  VALUES ('x', 's', 10, 0.5, '{"top_p": 0.5}', -32768, '2100-01-01', '2100-01-02', '[1]', 100, true)
  RETURNING max_tokens, temperature, params, priority, not_before > now() AS later, expires_at > not_before AS then, metadata, max_tries, allow_degraded;

-- What is refused
\set VERBOSITY default
INSERT INTO llm_task(prompt) VALUES (NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(tier) VALUES ('default'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, messages) VALUES ('x', '[]'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, params) VALUES ('x', '{"model": "gpt-5"}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, params) VALUES ('x', '[]');
INSERT INTO llm_task(prompt, max_tokens) VALUES ('x', 0);
INSERT INTO llm_task(prompt, temperature) VALUES ('x', 2.1);
INSERT INTO llm_task(prompt, temperature) VALUES ('x', 'NaN');
INSERT INTO llm_task(prompt, max_tries) VALUES ('x', 0);
INSERT INTO llm_task(prompt, max_tries) VALUES ('x', 101);
INSERT INTO llm_task(prompt, tier) VALUES ('x', '');
INSERT INTO llm_task(prompt, tier) VALUES ('x', repeat('x', 64));
INSERT INTO llm_task(prompt, tier) VALUES ('x', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, feature) VALUES ('x', E'two\nlines');
INSERT INTO llm_task(prompt, not_before) VALUES ('x', 'infinity');
INSERT INTO llm_task(prompt, expires_at) VALUES ('x', '-infinity');
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('x', repeat('x', 1001)); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, priority) VALUES ('x', 40000); \echo :LAST_ERROR_SQLSTATE
-- what is the extension's to write
INSERT INTO llm_task(id, prompt) VALUES (1, 'x'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, role) VALUES ('x', 'regress_llm_other'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, state) VALUES ('x', 'done');
INSERT INTO llm_task(prompt, answer) VALUES ('x', 'y');
UPDATE llm_task SET role = 'regress_llm_other'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_task SET state = 'done';
UPDATE llm_task SET dedupe_key = 'x';
UPDATE llm_task SET created_at = now();
TRUNCATE llm_task;
TABLE llm_queue_state; \echo :LAST_ERROR_SQLSTATE
SET ROLE regress_llm_boss;
INSERT INTO llm_task(prompt, role) VALUES ('x', 'regress_llm_app'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_task SET state = 'done'; \echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- The CHECKs are the second wall
ALTER TABLE llm_task DISABLE TRIGGER llm_check;
\set VERBOSITY terse
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO llm_task(prompt) VALUES (NULL);
INSERT INTO llm_task(prompt, messages) VALUES ('x', '[]');
INSERT INTO llm_task(prompt, tier) VALUES ('x', '');
INSERT INTO llm_task(prompt, max_tokens) VALUES ('x', 0);
INSERT INTO llm_task(prompt, temperature) VALUES ('x', 'NaN');
INSERT INTO llm_task(prompt, params) VALUES ('x', '[]');
INSERT INTO llm_task(prompt, feature) VALUES ('x', '');
INSERT INTO llm_task(prompt, not_before) VALUES ('x', 'infinity');
INSERT INTO llm_task(prompt, expires_at) VALUES ('x', 'infinity');
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('x', repeat('x', 1001));
INSERT INTO llm_task(prompt, max_tries) VALUES ('x', 0);
INSERT INTO llm_task(prompt, state) VALUES ('x', 'lost');
INSERT INTO llm_task(prompt, state) VALUES ('x', 'done');
INSERT INTO llm_task(prompt, finished_at) VALUES ('x', now());
INSERT INTO llm_task(prompt, state) VALUES ('x', 'answered');
INSERT INTO llm_task(prompt, final_state) VALUES ('x', 'done');
INSERT INTO llm_task(prompt, state, final_state) VALUES ('x', 'answered', 'queued');
INSERT INTO llm_task(prompt, state, dedupe_key) VALUES ('x', 'running', 'k');
ROLLBACK;
\set ON_ERROR_ROLLBACK off
\set VERBOSITY default
ALTER TABLE llm_task ENABLE TRIGGER llm_check;

-- Whose tasks one sees
SELECT role, count(*) FROM llm_task GROUP BY 1;
SET ROLE regress_llm_other;
SELECT count(*) FROM llm_task;
UPDATE llm_task SET prompt = 'stolen';
DELETE FROM llm_task;
INSERT INTO llm_task(prompt) VALUES ('of another');
SET ROLE regress_llm_team;
SELECT role, count(*) FROM llm_task GROUP BY 1;
INSERT INTO llm_task(prompt) VALUES ('of the team') RETURNING role;
UPDATE llm_task SET metadata = '1' WHERE role = 'regress_llm_app';  -- of a role he may become
SET ROLE regress_llm_app;
SELECT role, count(*) FROM llm_task GROUP BY 1;
SET ROLE regress_llm_boss;
SELECT role, count(*) FROM llm_task GROUP BY 1 ORDER BY 1;
UPDATE llm_task SET prompt = 'changed by the boss';
DELETE FROM llm_task WHERE prompt IN ('of another', 'of the team');
RESET ROLE;
-- that of a role that is gone is an admin's
CREATE ROLE "regress llm ""gone""";
SELECT llm_grant_usage('regress llm "gone"');
SET ROLE "regress llm ""gone""";
INSERT INTO llm_task(prompt) VALUES ('of nobody') RETURNING role;
RESET ROLE;
SELECT llm_revoke('regress llm "gone"');
DROP ROLE "regress llm ""gone""";
SET ROLE regress_llm_app;
SELECT count(*) FROM llm_task WHERE prompt = 'of nobody';
SET ROLE regress_llm_boss;
DELETE FROM llm_task WHERE prompt = 'of nobody' RETURNING role;
RESET ROLE;
-- who is one: who may stop the queue
REVOKE EXECUTE ON FUNCTION llm_pause FROM regress_llm_boss;
SET ROLE regress_llm_boss;
SELECT count(*) FROM llm_task;
RESET ROLE;
SELECT llm_grant_admin('regress_llm_boss');

-- dedupe_key: one queued task a role and key
DELETE FROM llm_task;
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('one', 'k'), ('two', 'l');
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('three', 'k'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('three', 'k') ON CONFLICT DO NOTHING RETURNING prompt;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('three', 'k') ON CONFLICT (role, dedupe_key) DO NOTHING;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('three', 'k'), ('four', 'm') ON CONFLICT (role, dedupe_key) DO UPDATE SET prompt = excluded.prompt RETURNING prompt, dedupe_key;
INSERT INTO llm_task(prompt, dedupe_key) VALUES (NULL, 'k') ON CONFLICT (role, dedupe_key) DO UPDATE SET prompt = excluded.prompt;
SET ROLE regress_llm_other;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('of another', 'k');
RESET ROLE;
SELECT role, prompt, dedupe_key FROM llm_task ORDER BY id;

-- on_finish: found now, run later
DELETE FROM llm_task;
CREATE FUNCTION public.finished(t llm.llm_task) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION public.finished(t text) RETURNS void LANGUAGE sql AS '';
CREATE SCHEMA "Odd ""one""";
CREATE FUNCTION "Odd ""one"""."Finished!"(t llm.llm_task) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.secret(t llm.llm_task) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION public.secret FROM PUBLIC;
CREATE PROCEDURE public.procedure(t llm.llm_task) LANGUAGE sql AS '';
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'finished'), ('x', 'public.finished'), ('x', ' PUBLIC . "finished" ') RETURNING on_finish;
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'ticket_finished'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'nowhere.finished'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'procedure'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'length'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'finished(t)'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', ''); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', 'secret'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_task(prompt, on_finish) VALUES ('x', '"Odd ""one"""."Finished!"'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_task SET on_finish = 'secret'; \echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT USAGE ON SCHEMA "Odd ""one""" TO regress_llm_app;
SET search_path = "Odd ""one""", llm;
SET ROLE regress_llm_app;
UPDATE llm_task SET on_finish = '"Finished!"' WHERE id = (SELECT min(id) FROM llm_task) RETURNING on_finish;
WITH u AS (UPDATE llm_task SET prompt = 'y' RETURNING id, on_finish) SELECT on_finish FROM u ORDER BY id;  -- what is there is not looked up again
UPDATE llm_task SET on_finish = NULL WHERE on_finish = 'public.finished';
RESET ROLE;
SET search_path = public, llm;
SELECT prompt, on_finish FROM llm_task ORDER BY id;
-- of a function with a search_path of its own
CREATE FUNCTION enqueue() RETURNS text LANGUAGE sql SET search_path = pg_catalog, "Odd ""one"""
  AS $$ INSERT INTO llm.llm_task(prompt, on_finish) VALUES ('x', '"Finished!"') RETURNING on_finish $$;
SELECT enqueue();
-- not in a restore
SET check_function_bodies = off;
INSERT INTO llm_task(prompt, on_finish) VALUES ('restored', 'public.not_yet') RETURNING on_finish;
RESET check_function_bodies;
UPDATE llm_task SET prompt = 'x' WHERE prompt = 'restored' RETURNING on_finish;
UPDATE llm_task SET on_finish = 'not_yet' WHERE on_finish = 'public.not_yet';

-- residency: the labels of the setting are always added
DELETE FROM llm_task;
SET llm_failover.residency = 'eu, de';
INSERT INTO llm_task(prompt) VALUES ('x') RETURNING residency;
INSERT INTO llm_task(prompt, residency) VALUES ('x', NULL), ('x', 'us'), ('x', 'de'), ('x', 'eu,de,us'), ('x', '') RETURNING residency;
UPDATE llm_task SET residency = 'fr' WHERE id = (SELECT min(id) FROM llm_task) RETURNING residency;
UPDATE llm_task SET residency = NULL WHERE id = (SELECT min(id) FROM llm_task) RETURNING residency;
UPDATE llm_task SET prompt = 'y' WHERE id = (SELECT min(id) FROM llm_task) RETURNING residency;
RESET llm_failover.residency;
INSERT INTO llm_task(prompt, residency) VALUES ('x', NULL), ('x', ' us ') RETURNING residency;
-- also where a task was queued without them
SET llm_failover.residency = 'eu';
UPDATE llm_task SET prompt = 'y', residency = NULL WHERE residency IS NULL RETURNING residency;
UPDATE llm_task SET prompt = 'y' WHERE residency = ' us ' RETURNING residency;
RESET llm_failover.residency;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('x', 'k') RETURNING residency;
SET llm_failover.residency = 'eu';
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('y', 'k') ON CONFLICT (role, dedupe_key) DO UPDATE SET prompt = excluded.prompt RETURNING prompt, residency;
RESET llm_failover.residency;
SET ROLE regress_llm_app;
SET llm_failover.residency = 'mars'; \echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- What was claimed is not changed any more, but for metadata
DELETE FROM llm_task;
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt, on_finish) SELECT s, 'finished' FROM unnest('{queued,running,answered,done,failed,expired,cancelled}'::text[]) s;
RESET ROLE;
-- as the worker does
UPDATE llm_task SET state = prompt, started_at = now(), lease = 1,
  final_state = CASE WHEN prompt = 'answered' THEN 'done' END,
  finished_at = CASE WHEN prompt NOT IN ('queued', 'running', 'answered') THEN now() END WHERE prompt <> 'queued';
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text; h text; n bigint; BEGIN
  EXECUTE sql;
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
  RETURN concat_ws(' ', SQLSTATE, regexp_replace(SQLERRM, '\d+', 'N'), d, regexp_replace(h, '\d+', 'N'));
END $$;
SET ROLE regress_llm_app;
SELECT state, try(format('UPDATE llm.llm_task SET system = ''s'' WHERE id = %s', id)) FROM llm_task ORDER BY id;
SELECT c AS column, try(format('UPDATE llm.llm_task SET %s WHERE state = ''running''', c)) FROM unnest(ARRAY['prompt = ''y''', 'messages = ''[]''', 'system = ''y''',
  'tier = ''y''', 'max_tokens = 1', 'temperature = 1', 'params = ''{}''', 'feature = ''y''', 'residency = ''y''', 'allow_degraded = true', 'priority = 1',
  'not_before = now()', 'expires_at = now()', 'on_finish = NULL', 'max_tries = 4', 'metadata = ''1''']) c;
UPDATE llm_task SET prompt = prompt, priority = priority WHERE state = 'done' RETURNING state;  -- no change
WITH u AS (UPDATE llm_task SET metadata = '2' RETURNING id, state, metadata) SELECT state, metadata FROM u ORDER BY id;
RESET ROLE;
SELECT try('UPDATE llm.llm_task SET prompt = ''y'' WHERE state = ''running''');  -- not by a superuser either
UPDATE llm_task SET answer = 'by hand' WHERE state = 'done';
SET ROLE regress_llm_app;
DELETE FROM llm_task WHERE state IN ('running', 'done') RETURNING state;
RESET ROLE;

-- COPY is for the table's owner and BYPASSRLS
SET ROLE regress_llm_app;
COPY llm_task(prompt) FROM stdin;
x
\.
INSERT INTO llm_task(prompt, priority) SELECT 'many', g FROM generate_series(1, 3) g RETURNING priority;
RESET ROLE;
COPY llm_task(prompt) FROM stdin;
of a superuser
\.
DELETE FROM llm_task WHERE prompt = 'of a superuser' RETURNING role = current_user AS mine;

-- A restore makes the queue a copy: by who may fill every column, and no other
BEGIN;
UPDATE llm_queue_state SET database = (SELECT oid FROM pg_database WHERE datname = current_database());
SET LOCAL check_function_bodies = off;
SET LOCAL ROLE regress_llm_app;
INSERT INTO llm_task(prompt) VALUES ('no restore');
RESET ROLE;
SELECT queue_paused = 'restored from a dump' AS copy FROM llm_health;
INSERT INTO llm_task(prompt) VALUES ('restored');
SELECT queue_paused = 'restored from a dump' AS copy FROM llm_health;
ROLLBACK;

DROP EXTENSION llm_failover;  -- whose task is the argument of functions
DROP EXTENSION llm_failover CASCADE;
\c :origin
DROP DATABASE llm_task_test;
DROP ROLE regress_llm_app, regress_llm_other, regress_llm_boss, regress_llm_team;
