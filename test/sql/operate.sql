-- llm_breaker_open() and llm_breaker_reset(): breakers by hand. In a database
-- of its own, so that it does not matter what others left.
CREATE DATABASE llm_operate_test;
\c llm_operate_test
\set SHOW_CONTEXT never
CREATE EXTENSION llm_failover;
SET client_min_messages = warning;
CREATE ROLE regress_llm_operator;
SELECT llm_grant_admin('regress_llm_operator');
GRANT USAGE ON SCHEMA public TO regress_llm_operator;
INSERT INTO llm_provider(name, dialect, base_url) VALUES
  ('openai', 'openai', 'http://127.0.0.1:1/v1'),
  ('gemini', 'openai', 'http://127.0.0.1:1/v1'),
  ('spare', 'openai', 'http://127.0.0.1:1/v1');
INSERT INTO llm_region(provider, name) VALUES ('openai', 'us'), ('openai', 'eu'), ('spare', 'home');
INSERT INTO llm_model(provider, name) VALUES ('spare', 'known');
INSERT INTO llm_route(provider, model) VALUES ('openai', 'gpt-5'), ('openai', 'gpt-5-mini'), ('gemini', 'flash');
-- whoever runs this test is ROLE
CREATE VIEW states AS SELECT provider, region, model, state,
    regexp_replace(reason, 'by (?!regress_)\S+', 'by ROLE') AS reason FROM llm_status;
GRANT SELECT ON states TO regress_llm_operator;

-- What there is not
SELECT llm_breaker_open('opnai');
\echo :LAST_ERROR_SQLSTATE
SELECT llm_breaker_open('builtin');
SELECT llm_breaker_open('openai', 'uk');
SELECT llm_breaker_open('openai', model => 'gpt-5-mimi');
SELECT llm_breaker_open('openai', 'us', 'flash');
SELECT llm_breaker_open('openai', '');
SELECT llm_breaker_reset('gemni');
SELECT llm_breaker_reset('gemini', 'us');
SELECT llm_breaker_reset('gemini', NULL, 'gpt-5');
SELECT llm_breaker_reset(region => 'mars');
SELECT llm_breaker_reset(model => 'o9');
SELECT llm_breaker_open(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT llm_breaker_open('openai', duration => '0');
\echo :LAST_ERROR_SQLSTATE
SELECT llm_breaker_open('openai', duration => '-1 min');
SELECT llm_breaker_open('openai', duration => '1000 years');
SELECT llm_breaker_open('openai', duration => '30 days 1 us');
SELECT DISTINCT state FROM states;

-- Each scope: itself, and so all that is in it; who did it is told
SET ROLE regress_llm_operator;
SELECT llm_breaker_open('openai');
TABLE states;
SELECT llm_breaker_reset();
SELECT llm_breaker_open('openai', 'us');
TABLE states;
SELECT llm_breaker_reset();
SELECT llm_breaker_open('openai', 'us', 'gpt-5');
TABLE states;
SELECT llm_breaker_reset();
SELECT llm_breaker_open('openai', NULL, 'gpt-5');
TABLE states;
-- the worst of the scopes is shown; of equals the widest
SELECT llm_breaker_open('openai', 'us');
SELECT * FROM states WHERE provider = 'openai';
RESET ROLE;

-- Nobody who is out is asked
SELECT llm_breaker_open('openai'), llm_breaker_open('gemini');
SELECT error_code, attempts FROM llm_respond('Hi', on_error => 'null');
SELECT provider, verdict FROM llm_explain('Hi') WHERE provider <> 'builtin';
SELECT ok, targets, targets_open FROM llm_health;

-- Reset: a scope and all below it
SELECT llm_breaker_reset('openai', 'us', 'gpt-5');
SELECT * FROM states WHERE provider = 'openai';
SELECT llm_breaker_open('openai', 'us'), llm_breaker_open('openai', 'eu'), llm_breaker_open('openai', 'us', 'gpt-5'), llm_breaker_open('openai', 'eu', 'gpt-5-mini');
SELECT llm_breaker_reset('openai', 'us');
SELECT * FROM states WHERE provider = 'openai';
SELECT llm_breaker_reset('openai');
TABLE states;
-- names alone: any provider's region of that name, all targets of a model
SELECT llm_breaker_open('openai', 'us', 'gpt-5'), llm_breaker_open('openai', 'eu', 'gpt-5'), llm_breaker_open('openai', 'eu', 'gpt-5-mini');
SELECT llm_breaker_reset(region => 'us');
SELECT * FROM states WHERE state <> 'closed';
SELECT llm_breaker_reset(model => 'gpt-5');
SELECT * FROM states WHERE state <> 'closed';
SELECT llm_breaker_reset();
SELECT * FROM states WHERE state <> 'closed';

-- For how long: ten minutes, unless said otherwise; NULL says nothing
CREATE VIEW duration AS
  SELECT until BETWEEN now() + interval '9 min' AND now() + interval '10 min 1 s' AS "ten minutes",
    until BETWEEN now() + interval '29 days' AND now() + interval '30 days 1 s' AS "thirty days"
  FROM llm_status WHERE provider = 'gemini';
SELECT llm_breaker_open('gemini');
TABLE duration;
SELECT llm_breaker_open('gemini', duration => '30 days');
TABLE duration;
-- again, and shorter: the last word counts
SELECT llm_breaker_open('gemini', duration => NULL);
TABLE duration;
-- when the time has passed it is half open
SELECT llm_breaker_open('gemini', duration => '1 ms');
DO $$
BEGIN
  FOR i IN 1..600 LOOP
    EXIT WHEN (SELECT state = 'half_open' FROM llm_status WHERE provider = 'gemini');
    PERFORM pg_sleep(0.05);
  END LOOP;
END $$;
SELECT state, until, regexp_replace(reason, 'by \S+', 'by ROLE') AS reason FROM llm_status WHERE provider = 'gemini';
SELECT targets_open FROM llm_health;
SELECT llm_breaker_reset('gemini');

-- No transaction is needed, and none takes it back
BEGIN READ ONLY;
SELECT llm_breaker_open('gemini', 'default', 'flash');
ROLLBACK;
SELECT * FROM states WHERE state <> 'closed' AND reason LIKE 'target breaker opened by %';
SELECT provider, region, model, state FROM states WHERE state <> 'closed';
BEGIN READ ONLY;
SELECT llm_breaker_reset('gemini', 'default', 'flash'), llm_stat_reset();
ROLLBACK;
SELECT count(*) FROM states WHERE state <> 'closed';

-- What is switched off or not routed yet can be opened too; the switch is
-- what shows
UPDATE llm_region SET enabled = false WHERE name = 'eu';
SELECT llm_breaker_open('openai', 'eu');
SELECT DISTINCT state, reason FROM states WHERE region = 'eu';
UPDATE llm_region SET enabled = true WHERE name = 'eu';
SELECT DISTINCT state FROM states WHERE region = 'eu';
SELECT llm_breaker_open('spare', model => 'known');
INSERT INTO llm_route(provider, model) VALUES ('spare', 'known');
SELECT provider, region, model, state FROM states WHERE provider = 'spare';
SELECT llm_breaker_reset('spare');
SELECT provider, region, model, state FROM states WHERE provider = 'spare';
SELECT llm_breaker_reset();

-- Failures are forgotten: two and two of three that would open
INSERT INTO llm_provider(name, dialect, base_url, breaker_consecutive, breaker_open_time, breaker_open_time_max)
  VALUES ('down', 'openai', 'http://127.0.0.1:1/v1', 3, '1 day', '1 day');
INSERT INTO llm_tier(name, max_attempts) VALUES ('down', 1);
INSERT INTO llm_route(tier, provider, model) VALUES ('down', 'down', 'm');
CREATE FUNCTION fail(times int) RETURNS void LANGUAGE sql AS
  $$ SELECT count(llm_complete('Hi' || i, 'down', on_error => 'null')) FROM generate_series(1, times) i $$;
SELECT fail(2);
SELECT state, error_rate FROM llm_status WHERE provider = 'down';
SELECT llm_breaker_reset('down', 'default');
SELECT state, error_rate, calls FROM llm_status WHERE provider = 'down';
SELECT fail(2);
SELECT state FROM llm_status WHERE provider = 'down';
SELECT fail(1);
SELECT state, calls FROM llm_status WHERE provider = 'down';
-- what opened by itself is closed by hand
SELECT llm_breaker_reset('down');
SELECT state, reason FROM llm_status WHERE provider = 'down';

-- the extension anew is nobody's heir
SELECT llm_breaker_open('down');
DROP EXTENSION llm_failover CASCADE;
CREATE EXTENSION llm_failover;
SET client_min_messages = warning;
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('down', 'openai', 'http://127.0.0.1:1/v1');
INSERT INTO llm_route(provider, model) VALUES ('down', 'm');
SELECT state, calls FROM llm_status WHERE provider = 'down';

\c postgres
DROP DATABASE llm_operate_test;
DROP ROLE regress_llm_operator;
