-- The configuration tables as such: what they are made of, and how their rows
-- hang together. In a database of its own, so that it does not matter what
-- others left.
\set origin :DBNAME
CREATE DATABASE llm_tables_test;
\c llm_tables_test
\set SHOW_CONTEXT never
-- any schema will do
CREATE SCHEMA "My Schema";
CREATE EXTENSION llm_failover SCHEMA "My Schema";
SET search_path = "My Schema";

-- Every column, its default and its comment
SELECT c.relname AS "table", a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS "not null", pg_get_expr(d.adbin, d.adrelid) AS "default"
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = '"My Schema"'::regnamespace AND c.relkind = 'r' ORDER BY c.oid, a.attnum;
SELECT c.relname AS "table", obj_description(c.oid, 'pg_class') AS comment
  FROM pg_class c WHERE c.relnamespace = '"My Schema"'::regnamespace AND c.relkind = 'r' ORDER BY c.oid;
SELECT a.attrelid::regclass, a.attname AS "column without comment"
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = '"My Schema"'::regnamespace AND c.relkind IN ('r', 'v', 'c')
   AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL;
SELECT p.oid::regprocedure AS "function without comment" FROM pg_proc p
 WHERE p.pronamespace = '"My Schema"'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
-- What pg_dump takes along: all but the keys, and all rows
SELECT t.oid::regclass, t.condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) t(oid, condition)
 WHERE e.extname = 'llm_failover' ORDER BY t.oid;
-- No key is in the statistics
INSERT INTO llm_secret SELECT 'k' || g, 'sk-live-123' FROM generate_series(1, 20) g;
ANALYZE llm_secret;
SELECT attname FROM pg_stats WHERE tablename = 'llm_secret';
DELETE FROM llm_secret;

-- Set-up as in the documentation; the order of rows does not matter, nor that of a WITH
SET llm_failover.allow_insecure_http = on;
INSERT INTO llm_provider(name, dialect, base_url, secret) VALUES
  ('openai', 'openai', NULL, NULL), ('anthropic', 'anthropic', NULL, 'file:/etc/pgllm/anthropic'), ('vllm', 'openai', 'http://gpu01.bank.internal:8000/v1', NULL);
INSERT INTO llm_region(provider, name, base_url, secret, params, residency) VALUES
  ('openai', 'us', 'https://us.api.openai.com/v1', 'file:/etc/pgllm/openai_us', NULL, '{us}'),
  ('openai', 'eu', 'https://eu.api.openai.com/v1', 'file:/etc/pgllm/openai_eu', NULL, '{eu}'),
  ('anthropic', 'us', NULL, NULL, '{"inference_geo":"us"}', '{us}'), ('anthropic', 'global', NULL, NULL, NULL, '{}'),
  ('vllm', 'dc1', NULL, NULL, NULL, '{eu}');
INSERT INTO llm_tier(name, fallback) VALUES ('flagship', 'economy'), ('economy', 'offline');
INSERT INTO llm_route(tier, provider, model, position) VALUES
  ('flagship', 'openai', 'gpt-5', 1), ('flagship', 'anthropic', 'claude-opus-4-6', 1), ('flagship', 'vllm', 'qwen3-32b', 2),
  ('economy', 'openai', 'gpt-5-mini', 1), ('economy', 'anthropic', 'claude-haiku-4-5', 1), ('economy', 'vllm', 'qwen3-32b', 2);
INSERT INTO llm_model(provider, name, context_window, input_price, output_price) VALUES ('openai', 'gpt-5.1', 400000, 1.25, 10);
INSERT INTO llm_route(tier, provider, model) VALUES ('flagship', 'openai', 'gpt-5.1');
WITH p AS (INSERT INTO llm_provider(name, dialect) VALUES ('gemini', 'gemini') RETURNING name),
     m AS (INSERT INTO llm_model(provider, name) SELECT name, 'gemini-2.5-flash' FROM p)
INSERT INTO llm_route(tier, provider, model, region) VALUES ('economy', 'gemini', 'gemini-2.5-flash', 'default');
-- the same with the provider last
WITH r AS (INSERT INTO llm_route(tier, provider, model) VALUES ('economy', 'mistral', 'small') RETURNING provider)
INSERT INTO llm_provider(name, dialect, base_url) SELECT provider, 'openai', 'https://api.mistral.ai/v1' FROM r;
-- a model of many new routes is named once
INSERT INTO llm_route(tier, provider, model, region) VALUES ('economy', 'openai', 'gpt-4o', 'eu'), ('flagship', 'openai', 'gpt-4o', 'eu'), ('flagship', 'openai', 'gpt-4o', 'us');

-- What refers to what under REPEATABLE READ: the latest committed, and our own
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM llm_provider;
INSERT INTO llm_provider(name, dialect) VALUES ('own', 'openai');
INSERT INTO llm_route(provider, model) VALUES ('own', 'x');
INSERT INTO llm_region(provider, name) VALUES ('own', 'r');
INSERT INTO llm_route(provider, model, region) VALUES ('own', 'x', 'r');
UPDATE llm_provider SET name = 'mine' WHERE name = 'own';
SELECT provider, model, region FROM llm_route WHERE tier = 'default';
DELETE FROM llm_provider WHERE name = 'mine';
SELECT provider, model, region FROM llm_route WHERE tier = 'default';
ROLLBACK;

-- Renaming is carried along
UPDATE llm_provider SET name = 'anthropic2' WHERE name = 'anthropic';
UPDATE llm_region SET name = 'europe' WHERE provider = 'openai' AND name = 'eu';
UPDATE llm_tier SET name = 'thrifty' WHERE name = 'economy';
UPDATE llm_tier SET name = 'x' || name WHERE name IN ('thrifty', 'flagship');
SELECT provider, name, residency FROM llm_region ORDER BY 1, 2;
UPDATE llm_provider SET name = 'google' WHERE name = 'gemini';
SELECT provider, name FROM llm_model ORDER BY 1, 2;
SELECT tier, provider, model, region FROM llm_route ORDER BY 1, 2, 3, 4;
SELECT name, fallback FROM llm_tier ORDER BY 1;
-- a region that moves takes its routes with it
BEGIN;
INSERT INTO llm_route(tier, provider, model, region) VALUES ('xthrifty', 'vllm', 'm', 'dc1');
UPDATE llm_region SET provider = 'openai' WHERE name = 'dc1';
SELECT tier, provider, model, region FROM llm_route WHERE region = 'dc1';
ROLLBACK;

-- Deleting: regions, models and routes go along, and whoever is left without is told
DELETE FROM llm_region WHERE name = 'europe';
SELECT tier, provider, model, region FROM llm_route WHERE provider = 'openai' ORDER BY 1, 2, 3, 4;
DELETE FROM llm_provider WHERE name IN ('openai', 'anthropic2', 'mistral', 'google');
SELECT provider, name FROM llm_region UNION ALL SELECT provider, name FROM llm_model;
UPDATE llm_route SET enabled = false WHERE tier = 'xflagship';
UPDATE llm_route SET enabled = false WHERE tier = 'xflagship';
DELETE FROM llm_route WHERE tier <> 'offline';
BEGIN;
UPDATE llm_route SET enabled = false WHERE tier = 'offline' AND model = 'rule';
UPDATE llm_route SET enabled = false;
ROLLBACK;
-- a tier that goes itself is not missed
INSERT INTO llm_route(tier, provider, model) VALUES ('xflagship', 'builtin', 'echo');
DELETE FROM llm_tier WHERE name = 'xflagship';
SELECT tier FROM llm_route WHERE tier <> 'offline';
-- TRUNCATE as well
INSERT INTO llm_route(provider, model, region) VALUES ('vllm', 'm', 'dc1'), ('vllm', 'm', NULL), ('builtin', 'echo', NULL);
TRUNCATE llm_region;
SELECT provider, model, region FROM llm_route WHERE tier = 'default';
INSERT INTO llm_region(provider, name) VALUES ('vllm', 'dc2');
INSERT INTO llm_model(provider, name) VALUES ('vllm', 'm');
TRUNCATE llm_provider;
SELECT provider, name FROM llm_region UNION ALL SELECT provider, name FROM llm_model;
SELECT provider, model, region FROM llm_route WHERE tier = 'default';
TRUNCATE llm_secret, llm_rule;

-- A restore may load rows in any order; what is wrong in a row itself it may not
SET check_function_bodies = off;
INSERT INTO llm_route(provider, model) VALUES ('later', 'x');
INSERT INTO llm_route(tier, provider, model, region) VALUES ('later', 'later', 'x', 'r');
INSERT INTO llm_region(provider, name) VALUES ('later', 'r');
INSERT INTO llm_model(provider, name) VALUES ('later', 'x');
INSERT INTO llm_tier(name, fallback) VALUES ('a', 'b');
INSERT INTO llm_tier(name, fallback) VALUES ('b', 'a');
INSERT INTO llm_tier(name, fallback) VALUES ('c', 'gone');
UPDATE llm_route SET enabled = false WHERE provider = 'later';
INSERT INTO llm_route(provider, model, weight) VALUES ('later', 'y', -1);
DELETE FROM llm_tier WHERE name = 'offline';
RESET check_function_bodies;
-- what is broken elsewhere does not stop a change; what is changed must be whole
UPDATE llm_tier SET enabled = false WHERE name IN ('a', 'c');
UPDATE llm_route SET enabled = true WHERE region = 'r';
UPDATE llm_region SET enabled = false;
UPDATE llm_model SET enabled = false;
UPDATE llm_route SET model = 'y', region = 's' WHERE region = 'r';
UPDATE llm_region SET provider = 'gone';
UPDATE llm_model SET provider = 'gone';
INSERT INTO llm_provider(name, dialect) VALUES ('later', 'openai');
UPDATE llm_route SET region = 's' WHERE region = 'r';
UPDATE llm_route SET tier = 'latter' WHERE region = 'r';
DELETE FROM llm_provider;
SELECT tier FROM llm_route WHERE provider <> 'builtin' UNION ALL SELECT name FROM llm_region UNION ALL SELECT name FROM llm_model;
INSERT INTO llm_tier(name, fallback) VALUES ('d', 'c'), ('e', 'a');
UPDATE llm_tier SET fallback = 'b' WHERE name = 'a';
UPDATE llm_tier SET fallback = 'gone' WHERE name = 'c';
UPDATE llm_tier SET fallback = NULL WHERE name IN ('a', 'c');

-- Foreign search paths and operators do not get in between
CREATE SCHEMA evil;
CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
CREATE TABLE evil.llm_provider (name text);
SET search_path = evil, pg_catalog;
INSERT INTO "My Schema".llm_provider(name, dialect) VALUES ('p', 'openai');
INSERT INTO "My Schema".llm_route(provider, model) VALUES ('p', 'm');
INSERT INTO "My Schema".llm_tier(name, max_attempts) VALUES ('offline', 7);
DELETE FROM "My Schema".llm_provider;
RESET search_path;
SELECT provider, model FROM "My Schema".llm_route WHERE provider = 'p';
SELECT name, max_attempts FROM "My Schema".llm_tier WHERE name = 'offline';
-- and another name of the schema is no matter
ALTER SCHEMA "My Schema" RENAME TO llm;
INSERT INTO llm.llm_route(provider, model) VALUES ('opnai', 'm');
INSERT INTO llm.llm_tier(name, fallback) VALUES ('default', NULL);
SELECT name, fallback FROM llm.llm_tier WHERE name = 'default';

\c :origin
DROP DATABASE llm_tables_test;
