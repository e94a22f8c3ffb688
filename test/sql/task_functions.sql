-- llm_cancel(), llm_requeue(), llm_pause() and llm_resume(). In a database of
-- its own, whose queue is paused, so that no task is called; states are set as
-- the worker does it.
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

CREATE TABLE ended (n bigint GENERATED ALWAYS AS IDENTITY, prompt text, state text, answer text, error text, finished boolean);
GRANT INSERT, SELECT ON ended TO regress_llm_app;
CREATE FUNCTION finished(t llm_task) RETURNS void LANGUAGE sql AS
  'INSERT INTO public.ended(prompt, state, answer, error, finished) VALUES (t.prompt, t.state, t.answer, t.error, t.finished_at IS NOT NULL)';
-- waits for what the settler does
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
-- sets the state of tasks
CREATE FUNCTION make(what text, becomes text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
  UPDATE llm.llm_task SET state = becomes, lease = CASE WHEN becomes = 'running' THEN 1 END, started_at = now(),
    claimed_key = coalesce(dedupe_key, claimed_key), dedupe_key = NULL, tries = CASE WHEN becomes = 'failed' THEN 3 ELSE 1 END,
    finished_at = CASE WHEN becomes NOT IN ('running', 'answered') THEN now() END,
    final_state = CASE WHEN becomes = 'answered' THEN 'done' END,
    error = CASE WHEN becomes IN ('failed', 'expired') THEN 'no luck' END, error_code = CASE WHEN becomes IN ('failed', 'expired') THEN 'LL001' END
  WHERE prompt = what RETURNING id $$;
CREATE FUNCTION id_of(what text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT id FROM llm.llm_task WHERE prompt = what';
CREATE VIEW tasks AS SELECT prompt, state, final_state, tries, lease, dedupe_key, claimed_key, error, error_code, started_at IS NOT NULL AS started, finished_at IS NOT NULL AS finished
  FROM llm_task ORDER BY id;
GRANT SELECT ON tasks TO regress_llm_app;

-- llm_cancel: what is queued or running
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('queued', 'k'), ('running', 'l'), ('done', NULL), ('failed', NULL), ('expired', NULL), ('cancelled', NULL), ('answered', NULL);
RESET ROLE;
SELECT count(make(s, s)) FROM unnest('{running,done,failed,expired,cancelled}'::text[]) s;
SET ROLE regress_llm_app;
SELECT prompt, llm_cancel(id) FROM llm_task WHERE prompt NOT IN ('queued', 'answered') ORDER BY id;
BEGIN;
SELECT llm_cancel(id_of('queued'));
SELECT llm_cancel(id_of('queued'));  -- twice is once
ROLLBACK;
SELECT llm_cancel(id_of('queued'));
SELECT llm_cancel(0), llm_cancel(NULL);
RESET ROLE;
TABLE tasks;

-- llm_requeue: what has failed, expired or was cancelled
SET ROLE regress_llm_app;
SELECT prompt, llm_requeue(id) FROM llm_task ORDER BY id;
SELECT prompt, llm_requeue(id) FROM llm_task ORDER BY id;
SELECT llm_requeue(0), llm_requeue(NULL);
RESET ROLE;
TABLE tasks;
-- all of it is as it was before the first call, and it waits from now on
SELECT count(*) FROM llm_task WHERE state = 'queued' AND (answer IS NOT NULL OR response IS NOT NULL OR not_before IS NULL OR not_before NOT BETWEEN created_at AND clock_timestamp()) AND prompt <> 'answered';
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt, not_before, expires_at) VALUES ('late', '2020-01-01', '2020-01-02'), ('early', '2100-01-01', '2100-01-02');
SELECT llm_cancel(id), llm_requeue(id) FROM llm_task WHERE prompt IN ('late', 'early');
SELECT prompt, not_before = '2100-01-01' AS later, expires_at = '2100-01-02' AS expires FROM llm_task WHERE prompt IN ('late', 'early') ORDER BY id;
-- whole sets
SELECT count(*) FILTER (WHERE llm_cancel(id)) FROM llm_task;
SELECT count(*) FILTER (WHERE llm_requeue(id)) FROM llm_task;
DELETE FROM llm_task;

-- A key is one task's: the first of two gets it again
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('first', 'k');
SELECT llm_cancel(id_of('first'));
INSERT INTO llm_task(prompt, dedupe_key) VALUES ('second', 'k');
SELECT llm_requeue(id_of('first'));
SELECT llm_cancel(id_of('second')), llm_requeue(id_of('first')), llm_requeue(id_of('second'));
TABLE tasks;
-- whoever catches another error is still who he was
RESET ROLE;
ALTER TABLE llm_task ADD CONSTRAINT refuse CHECK (prompt <> 'second' OR state <> 'queued');
SET ROLE regress_llm_app;
DO $$ BEGIN PERFORM llm_requeue(id_of('second')); EXCEPTION WHEN check_violation THEN RAISE NOTICE '% as %', SQLERRM, current_user; END $$;
SHOW search_path;
RESET ROLE;
ALTER TABLE llm_task DROP CONSTRAINT refuse;
SET ROLE regress_llm_app;
-- it has done nothing else
BEGIN;
SELECT llm_requeue(id_of('second'));
INSERT INTO llm_task(prompt) VALUES ('third');
SELECT llm_cancel(id_of('first')), llm_requeue(id_of('second'));
COMMIT;
TABLE tasks;
DELETE FROM llm_task;

-- on_finish runs for every final state, and again by itself
INSERT INTO llm_task(prompt, on_finish) VALUES ('to be cancelled', 'finished'), ('to fail', 'finished');
BEGIN;
SELECT llm_cancel(id_of('to be cancelled'));
SELECT prompt, state, final_state, finished FROM tasks;
COMMIT;
CALL wait_until($$(SELECT state = 'cancelled' FROM llm_task WHERE prompt = 'to be cancelled')$$);
TABLE ended;
SELECT prompt, state, final_state, error, error_code, finished FROM tasks;
-- one whose answer is there, and whose on_finish has raised
RESET ROLE;
SELECT make('to fail', 'failed') = id_of('to fail') AS failed;
UPDATE llm_task SET answer = 'paid for', response = '{"answer": "paid for", "error_code": null}', error = 'on_finish: division by zero', error_code = '22012' WHERE prompt = 'to fail';
SET ROLE regress_llm_app;
BEGIN;
SELECT llm_requeue(id_of('to fail'));
SELECT prompt, state, final_state, tries, error, error_code, finished FROM tasks WHERE prompt = 'to fail';
SELECT llm_requeue(id_of('to fail')), llm_cancel(id_of('to fail'));
COMMIT;
CALL wait_until($$(SELECT state = 'done' FROM llm_task WHERE prompt = 'to fail')$$);
SELECT prompt, state, answer, error FROM ended ORDER BY n;
RESET ROLE;
-- but one that has failed by itself is called again
SELECT make('to fail', 'failed') = id_of('to fail') AS failed;
UPDATE llm_task SET answer = NULL, response = '{"answer": null, "error_code": "LL001"}' WHERE prompt = 'to fail';
SET ROLE regress_llm_app;
SELECT llm_requeue(id_of('to fail'));
SELECT prompt, state, tries, error, error_code FROM tasks WHERE prompt = 'to fail';
DELETE FROM llm_task;

-- Whose tasks: one's own, those of roles one is in, and an admin's all
INSERT INTO llm_task(prompt) VALUES ('one'), ('two'), ('three');
SET ROLE regress_llm_other;
SELECT llm_cancel(id_of('one')), llm_requeue(id_of('one'));
SET ROLE regress_llm_team;
SELECT llm_cancel(id_of('one')), llm_requeue(id_of('one')), llm_cancel(id_of('one'));
SET ROLE regress_llm_boss;
SELECT llm_cancel(id_of('two')), llm_requeue(id_of('two')), llm_cancel(id_of('two'));
RESET ROLE;
SELECT llm_cancel(id_of('three')) AS superuser;
SELECT prompt, state, regexp_replace(error, 'by (?!regress_).*', 'by ROLE') AS error, error_code FROM tasks;

-- Neither gives a user more than that. No operator of his runs as the owner,
SET ROLE regress_llm_app;
INSERT INTO llm_task(prompt) VALUES ('four');
CREATE FUNCTION steal(a bigint, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run by %', current_user; END $$;
CREATE OPERATOR = (FUNCTION = steal, LEFTARG = bigint, RIGHTARG = bigint);
SET search_path = public, llm, pg_catalog;
SELECT llm_cancel(public.id_of('four')), llm_requeue(public.id_of('four'));
RESET search_path;
SET search_path = public, llm;
DROP FUNCTION steal CASCADE;
-- and after an error triggers look again
BEGIN;
SELECT id_of('four') AS four \gset
SET TRANSACTION READ ONLY;
SAVEPOINT s;
SELECT llm_cancel(:four); \echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT llm_requeue(:four); \echo :LAST_ERROR_SQLSTATE
ROLLBACK;
RESET ROLE;
SELECT make('four', 'running') = id_of('four') AS running;
SET ROLE regress_llm_app;
UPDATE llm_task SET prompt = 'x' WHERE prompt = 'four';
DELETE FROM llm_task;
RESET ROLE;

-- llm_pause and llm_resume
SELECT queue_paused IS NOT NULL AS paused FROM llm_health;
SET ROLE regress_llm_app;
SELECT llm_pause();
SELECT llm_resume();
SET ROLE regress_llm_boss;
SELECT llm_resume();
SELECT llm_resume();
SELECT queue_paused FROM llm_health;
SELECT llm_pause();
SELECT llm_pause();
RESET ROLE;
SELECT queue_paused FROM llm_health;
BEGIN;
SELECT llm_resume();
SELECT queue_paused FROM llm_health;
ROLLBACK;
SELECT queue_paused FROM llm_health;
-- what was done is an event, each thing once
SELECT kind, provider, tier, role, regexp_replace(message, 'by (?!regress_).*', 'by ROLE.') AS message, detail FROM llm_event WHERE kind LIKE 'queue%' ORDER BY id;
-- a copy is adopted
UPDATE llm_queue_state SET database = 1, paused = NULL;
SELECT queue_paused FROM llm_health;
SELECT llm_resume();
SELECT queue_paused FROM llm_health;
SELECT singleton, system_identifier = (SELECT system_identifier FROM pg_control_system()) AS here, database = (SELECT oid FROM pg_database WHERE datname = current_database()) AS in_it, paused FROM llm_queue_state;

\c :origin
DROP DATABASE llm_task_test;
DROP ROLE regress_llm_app, regress_llm_other, regress_llm_boss, regress_llm_team;
