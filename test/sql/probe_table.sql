-- llm_probe: what the table holds and refuses, and what follows its rows. In a
-- database of its own, where the worker sends nothing.
\set origin :DBNAME
CREATE DATABASE llm_probe_test;
ALTER DATABASE llm_probe_test SET llm_failover.enabled = off;
\c llm_probe_test
\set VERBOSITY default
\set SHOW_CONTEXT never
SET intervalstyle = 'postgres';
CREATE EXTENSION llm_failover;
INSERT INTO llm_provider(name, dialect) VALUES ('openai', 'openai'), ('anthropic', 'anthropic');
INSERT INTO llm_region(provider, name, position) VALUES ('openai', 'us', 1), ('openai', 'eu', 2);

-- A row needs a provider and a model, neither a route nor a row in llm_model
INSERT INTO llm_probe(provider, model) VALUES ('openai', 'gpt-5');
INSERT INTO llm_probe(provider, region, model, every, prompt, expect, enabled) VALUES
  ('openai', 'eu', 'gpt-5', '1 microsecond', 'Say "OK".', '(?i)^\W*ok\W*$', false), ('anthropic', 'default', 'claude', '1 day', 'x', '', true);
SELECT * FROM llm_probe ORDER BY provider, model, region;
INSERT INTO llm_probe(provider, model) VALUES ('openai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, region, model) VALUES ('openai', 'eu', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
WITH p AS (INSERT INTO llm_provider(name, dialect) VALUES ('gemini', 'gemini') RETURNING name)
INSERT INTO llm_probe(provider, model) SELECT name, 'flash' FROM p;

-- What is refused
INSERT INTO llm_probe(provider, model) VALUES ('opnai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model) VALUES ('mistral', 'x');
INSERT INTO llm_probe(provider, model) VALUES ('builtin', 'rule'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model) VALUES ('open ai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, region, model) VALUES ('openai', 'uk', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, region, model) VALUES ('openai', 'default', 'gpt-5');
INSERT INTO llm_probe(provider, region, model) VALUES ('anthropic', 'us', 'claude'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, region, model) VALUES ('openai', 'e u', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model) VALUES ('openai', 'gpt 5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model) VALUES ('openai', '');
INSERT INTO llm_probe(provider) VALUES ('openai'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(model) VALUES ('gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, every) VALUES ('openai', 'x', '0'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, every) VALUES ('openai', 'x', '-1 s');
INSERT INTO llm_probe(provider, model, every) VALUES ('openai', 'x', '24:00:00.000001');
INSERT INTO llm_probe(provider, model, every) VALUES ('openai', 'x', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, prompt) VALUES ('openai', 'x', ''); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, prompt) VALUES ('openai', 'x', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, expect) VALUES ('openai', 'x', '(OK'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_probe(provider, model, enabled) VALUES ('openai', 'x', NULL); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_probe SET expect = 'a{2,1}' WHERE region = 'eu'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_probe SET region = 'uk' WHERE region = 'eu'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_probe SET provider = 'nobody' WHERE region = 'eu'; \echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM llm_probe;

-- llm_status has a row for each target, whether a route leads to it or not
INSERT INTO llm_probe(provider, region, model) VALUES ('anthropic', 'default', 'other');
INSERT INTO llm_route(provider, model, region) VALUES ('openai', 'gpt-5', 'us'), ('anthropic', 'routed', NULL);
CREATE VIEW states AS SELECT provider, region, model, state, reason FROM llm_status ORDER BY 1, 2, 3;
TABLE states;
SELECT targets FROM llm_health;
-- with the switches of provider, region and model; a probe that is off has none
BEGIN;
UPDATE llm_region SET enabled = false WHERE name = 'eu';
INSERT INTO llm_model(provider, name, enabled) VALUES ('anthropic', 'other', false);
UPDATE llm_provider SET enabled = false WHERE name = 'gemini';
UPDATE llm_probe SET enabled = false WHERE model = 'claude';
TABLE states;
ROLLBACK;
-- a route that is off is off, and one that is on is on
BEGIN;
UPDATE llm_route SET enabled = false WHERE region = 'us';
SELECT state, reason FROM states WHERE region = 'us';
UPDATE llm_route SET enabled = true WHERE region = 'us';
UPDATE llm_probe SET enabled = false;
TABLE states;
ROLLBACK;
-- llm_check() asks those that calls may go to, as before
SELECT provider, region, model, ok, error FROM llm_check() ORDER BY 1, 2, 3;
SELECT * FROM llm_check('anthropic', 'default', 'other');
SELECT * FROM llm_check('anthropic', 'default', 'othe'); \echo :LAST_ERROR_SQLSTATE
-- what only a probe names can be opened by hand
SELECT llm_breaker_open('anthropic', 'default', 'other');
SELECT state, reason ~ '^target breaker opened by' AS "by hand" FROM states WHERE model = 'other';
SELECT llm_breaker_reset();

-- What happens to a provider or a region happens to its probes
UPDATE llm_provider SET name = 'openai2' WHERE name = 'openai';
UPDATE llm_region SET name = 'europe' WHERE name = 'eu';
SELECT provider, region, model FROM llm_probe ORDER BY 1, 3, 2;
BEGIN;
UPDATE llm_region SET provider = 'gemini' WHERE name = 'europe';
SELECT provider, region, model FROM llm_probe ORDER BY 1, 3, 2;
ROLLBACK;
DELETE FROM llm_region WHERE name = 'europe';
SELECT provider, region, model FROM llm_probe ORDER BY 1, 3, 2;
DELETE FROM llm_provider WHERE name = 'openai2';
SELECT provider, region, model FROM llm_probe ORDER BY 1, 3, 2;
BEGIN;
INSERT INTO llm_region(provider, name) VALUES ('gemini', 'r');
INSERT INTO llm_probe(provider, region, model) VALUES ('gemini', 'r', 'm');
TRUNCATE llm_region;
SELECT provider, region, model FROM llm_probe ORDER BY 1, 3, 2;
ROLLBACK;
TRUNCATE llm_provider;
SELECT count(*) FROM llm_probe;
TRUNCATE llm_probe;

-- A restore may load it before what it names, and a call finds what is missing
SET check_function_bodies = off;
INSERT INTO llm_probe(provider, region, model) VALUES ('later', 'r', 'm'), ('later', NULL, 'm');
INSERT INTO llm_probe(provider, region, model, every) VALUES ('later', 'r', 'n', '0'); \echo :LAST_ERROR_SQLSTATE
RESET check_function_bodies;
TABLE states;
INSERT INTO llm_provider(name, dialect) VALUES ('later', 'openai');
TABLE states;
UPDATE llm_probe SET enabled = false WHERE region = 'r';
UPDATE llm_probe SET model = 'm2', region = 's' WHERE region = 'r'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name) VALUES ('later', 'r');
UPDATE llm_probe SET enabled = true;
TABLE states;

-- A change is seen at once, a rollback undoes it, and in a replica it is seen too
BEGIN;
INSERT INTO llm_probe(provider, model) VALUES ('later', 'new');
SELECT count(*) FROM states WHERE model = 'new';
SAVEPOINT s;
DELETE FROM llm_probe WHERE model = 'new';
SELECT count(*) FROM states WHERE model = 'new';
ROLLBACK TO s;
SELECT count(*) FROM states WHERE model = 'new';
ROLLBACK;
SELECT count(*) FROM states WHERE model = 'new';
SET session_replication_role = replica;
INSERT INTO llm_probe(provider, model) VALUES ('later', 'new');
SELECT count(*) FROM states WHERE model = 'new';
TRUNCATE llm_probe;
SELECT count(*) FROM states;
RESET session_replication_role;

-- The second wall: what the trigger refuses the constraints refuse as well
ALTER TABLE llm_probe DISABLE TRIGGER llm_check;
\set VERBOSITY terse
INSERT INTO llm_probe(provider, model) VALUES ('builtin', 'rule');
INSERT INTO llm_probe(provider, model) VALUES ('open ai', 'x');
INSERT INTO llm_probe(provider, model) VALUES ('later', 'x y');
INSERT INTO llm_probe(provider, region, model) VALUES ('later', '-r', 'x');
INSERT INTO llm_probe(provider, model, every) VALUES ('later', 'x', '0');
INSERT INTO llm_probe(provider, model, every) VALUES ('later', 'x', '25 hours');
INSERT INTO llm_probe(provider, model, prompt) VALUES ('later', 'x', '');

\c :origin
DROP DATABASE llm_probe_test;
