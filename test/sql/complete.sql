-- Calls, as users type them: no provider answers here, so that every line is
-- the same everywhere. What needs a provider is tested against the simulator.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE EXTENSION llm_failover;

-- first contact, no key
SELECT llm_complete('Summarise: PostgreSQL is old. It is careful. It keeps data safe for years.');
SELECT llm_complete('Why is the sky blue?');
\echo :LAST_ERROR_SQLSTATE
SELECT source, degraded FROM llm_respond('One. Two is longer. Three ends it.');
SELECT llm_complete(NULL) IS NULL;
SELECT llm_respond(NULL) IS NULL, llm_chat(NULL) IS NULL;

-- options of a builtin model may come with the call
SELECT array_length(string_to_array(answer, '. '), 1) AS sentences
  FROM llm_respond('One is here. Two is longer. Three is there. Four ends it. Five is more. Six it is.',
                   params => '{"sentences": 1}');

-- one notice a statement, however many rows
SELECT count(llm_complete('One is no. ' || g || ' here. Two is longer. Three ends it.'))
  FROM generate_series(1, 3) g;
-- and none where the result says it
SELECT (llm_respond('One. Two is longer. Three ends it.')).degraded;

-- rules, and testing an application without network
BEGIN;
INSERT INTO llm_rule(name, pattern, answer) VALUES
  ('canned summary', '^Summarise', 'A canned summary.'),
  ('canned label', 'invoice', '{"label":"billing"}');
INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'rule', 0), ('builtin', 'echo', 0);
SELECT answer IN ('A canned summary.', 'Summarise this') AS ok, degraded FROM llm_respond('Summarise this');
UPDATE llm_route SET enabled = false WHERE tier = 'default' AND model = 'echo';
SELECT answer, source, degraded, tier, provider, region, model, attempts, cost
  FROM llm_respond('Summarise this');
SELECT answer, message, finish_reason, trace - 'ms' AS trace
  FROM llm_respond('my invoice') r;
SELECT answer FROM llm_chat('[{"role":"system","content":"Summarise"},{"role":"user","content":"the invoice"}]');
ROLLBACK;

-- wrong arguments
SELECT llm_complete('x', on_error => 'return');
\echo :LAST_ERROR_SQLSTATE
SELECT llm_complete('x', timeout => '0');
SELECT llm_complete('x', timeout => '-1 s');
SELECT llm_complete('x', max_tokens => 0);
SELECT llm_complete('x', temperature => 3);
SELECT llm_complete('x', temperature => 'NaN');
SELECT llm_complete('x', params => '[1]');
SELECT llm_complete('x', params => '{"model": "y"}');
SELECT llm_complete('x', params => '{"stream": true}');
-- also with on_error => 'null'
SELECT llm_complete('x', params => '{"api_key": "y"}', on_error => 'null');

-- wrong data is LL003
SELECT llm_complete('');
\echo :LAST_ERROR_SQLSTATE
SELECT llm_complete(E' \n\t');
SELECT llm_chat('{}');
SELECT llm_chat('[]');
SELECT llm_chat('[1]');
SELECT llm_chat('[{"role": "user"}]');
SELECT llm_chat('[{"role": "nobody", "content": "x"}]');
SELECT answer, error, error_code, attempts, trace FROM llm_respond('', on_error => 'null');

-- unknown names are LL006, which on_error does not cover
SELECT llm_complete('x', 'defualt');
\echo :LAST_ERROR_SQLSTATE
SELECT llm_complete('x', 'no such thing at all', on_error => 'null');

-- a provider that is not there; its breakers stay closed, for each call to find out
INSERT INTO llm_provider(name, dialect, base_url, breaker_consecutive, breaker_min_calls)
  VALUES ('nobody', 'openai', 'http://127.0.0.1:1/v1', 1000, 1000);
INSERT INTO llm_model(provider, name) VALUES ('nobody', 'm');
INSERT INTO llm_route(provider, model) VALUES ('nobody', 'm');
SELECT answer, degraded, source, attempts, cost FROM llm_respond('One. Two is longer. Three ends it.');
SELECT a ->> 'tier' AS tier, a ->> 'provider' AS provider, a ->> 'region' AS region,
       a ->> 'model' AS model, a ->> 'outcome' AS outcome, a ->> 'next' AS next
  FROM llm_last() r, jsonb_array_elements(r.trace) a;
SELECT llm_complete('One. Two is longer. Three ends it.');
SELECT answer, error, error_code, attempts FROM llm_respond('Hi', on_error => 'null', allow_degraded => false);
SELECT answer, error, error_code FROM llm_last();
SET llm_failover.on_error = 'null';
SELECT llm_complete('Hi') IS NULL;
RESET llm_failover.on_error;
SET llm_failover.allow_degraded = off;
SELECT llm_complete('One. Two is longer. Three ends it.', on_error => 'null') IS NULL;
RESET llm_failover.allow_degraded;

-- what a dialect has no words for is the request's fault, found before sending
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('claude', 'anthropic', 'http://127.0.0.1:1');
INSERT INTO llm_model(provider, name) VALUES ('claude', 'm');
INSERT INTO llm_tier(name) VALUES ('claude');
INSERT INTO llm_route(tier, provider, model) VALUES ('claude', 'claude', 'm');
SELECT llm_chat('[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]', 'claude');
\echo :LAST_ERROR_SQLSTATE
SELECT error, attempts FROM llm_chat('[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]', 'claude', on_error => 'null');
DELETE FROM llm_provider WHERE name = 'claude';
DELETE FROM llm_tier WHERE name = 'claude';

-- catching errors
DO $$ DECLARE d text; BEGIN
  PERFORM llm_complete('FAIL please', timeout => '5 s');
EXCEPTION
  WHEN SQLSTATE 'LL004' THEN RAISE NOTICE 'over budget or switched off';
  WHEN SQLSTATE 'LL000' THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
    RAISE NOTICE 'any LL error: % %, %', SQLSTATE, SQLERRM,
      regexp_replace(d, 'after \d+ ms', 'after n ms', 'g');
END $$;

-- the kill switch: no packet leaves
SET llm_failover.enabled = off;
SELECT answer IS NOT NULL AS answered, degraded, attempts FROM llm_respond('One. Two is longer. Three ends it.');
SELECT llm_complete('Hi');
\echo :LAST_ERROR_SQLSTATE
SELECT error_code FROM llm_respond('Hi', on_error => 'null');
SELECT ok, reason, enabled, targets FROM llm_health;
RESET llm_failover.enabled;
-- the worker is there soon
DO $$ BEGIN FOR i IN 1..6000 LOOP EXIT WHEN (SELECT worker_running FROM llm_health); PERFORM pg_sleep(0.02); END LOOP; END $$;
SELECT ok, reason, enabled, targets, version = library_version AS same FROM llm_health;

-- residency
UPDATE llm_tier SET fallback = 'offline' WHERE name = 'default';
SELECT llm_complete('One. Two is longer. Three ends it.', residency => 'eu');
\echo :LAST_ERROR_SQLSTATE
SET llm_failover.residency = 'eu';
SELECT error, error_code FROM llm_respond('x', residency => 'de', on_error => 'null', allow_degraded => false);
SELECT error FROM llm_respond('x', residency => ' de, eu,,de', on_error => 'null', allow_degraded => false);
SELECT step, provider, region, verdict, reason FROM llm_explain('x', residency => 'de');
RESET llm_failover.residency;

-- secrets that are not there put out the candidate, and are the error when
-- nothing else is left
UPDATE llm_provider SET secret = 'nosuchsecret' WHERE name = 'nobody';
SELECT source, degraded, attempts FROM llm_respond('One. Two is longer. Three ends it.');
SELECT step, tier, provider, share, verdict, reason FROM llm_explain('x');
SELECT ok, reason, targets FROM llm_health;
SELECT llm_complete('One. Two is longer. Three ends it.');
SELECT llm_complete('Hi', on_error => 'null');
\echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET secret = 'env:LLM_FAILOVER_NO_SUCH_VARIABLE' WHERE name = 'nobody';
SELECT llm_complete('Hi');
UPDATE llm_provider SET secret = 'file:/nonexistent/key' WHERE name = 'nobody';
SELECT llm_complete('Hi');
UPDATE llm_provider SET secret = NULL;

-- llm_explain makes no call
SELECT step, tier, provider, region, model, share, verdict, reason, cost FROM llm_explain('x');
SELECT step, tier, provider FROM llm_explain(allow_degraded => false);
SELECT * FROM llm_explain('x', max_tokens => 0);
\echo :LAST_ERROR_SQLSTATE
-- in a group, what has no share comes last
BEGIN;
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('zero', 'openai', 'http://127.0.0.1:1/v1');
INSERT INTO llm_region(provider, name, weight) VALUES ('zero', 'a', 0), ('zero', 'b', 1);
INSERT INTO llm_route(provider, model, position, weight) VALUES ('zero', 'm', 7, 0), ('zero', 'n', 7, 1);
SELECT step, provider, region, model FROM llm_explain() WHERE provider = 'zero';
-- an answer is taken to be no longer than it can be
INSERT INTO llm_model(provider, name, max_output_tokens, input_price, output_price) VALUES ('zero', 'n', 10, 1, 2);
SELECT region, a.cost, b.cost FROM llm_explain() a JOIN llm_explain(max_tokens => 5) b USING (provider, region, model) WHERE provider = 'zero' AND model = 'n';
ROLLBACK;
UPDATE llm_provider SET enabled = false;
SELECT step, tier, provider, verdict, reason FROM llm_explain('x');
SELECT * FROM llm_check();
UPDATE llm_provider SET enabled = true;
SELECT * FROM llm_explain('x', 'nosuch');
SELECT * FROM llm_explain('x', 'DEFAULT');

-- llm_check says what to do
SELECT provider, region, model, ok, regexp_replace(error, '\d+ ms', 'n ms') AS error, hint FROM llm_check();
SELECT * FROM llm_check('nobdy');
SELECT * FROM llm_check('nobody', 'us');
SELECT * FROM llm_check(region => 'nowhere');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM llm_check('nobody', 'default', 'other');

-- llm_last() is for those who may act as the role that asked
CREATE ROLE regress_llm_asker;
CREATE ROLE regress_llm_other;
GRANT USAGE ON SCHEMA public TO regress_llm_asker, regress_llm_other;
SELECT llm_grant_usage('regress_llm_asker');
SELECT llm_grant_usage('regress_llm_other');
SET ROLE regress_llm_asker;
SELECT source FROM llm_respond('One. Two is longer. Three ends it.', 'offline');
SELECT source FROM llm_last();
SET ROLE regress_llm_other;
SELECT source FROM llm_last();
RESET ROLE;
SELECT source FROM llm_last();
SELECT llm_revoke('regress_llm_asker'), llm_revoke('regress_llm_other');
REVOKE USAGE ON SCHEMA public FROM regress_llm_asker, regress_llm_other;
DROP ROLE regress_llm_asker, regress_llm_other;

-- the planner asks a model last
EXPLAIN (COSTS OFF) SELECT 1 FROM generate_series(1, 3) g
  WHERE llm_complete('x' || g) = 'x' AND g > 2;

DROP EXTENSION llm_failover;
