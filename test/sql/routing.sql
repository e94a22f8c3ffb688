-- llm_routing: the effective configuration, and who sees which of it when.
-- In a database of its own, so that it does not matter what others left.
CREATE DATABASE llm_routing_test;
\c llm_routing_test
SET client_min_messages = warning;
CREATE EXTENSION llm_failover;

\set columns 'provider, region, model, route_position AS r, region_position AS p, share'

-- What an empty configuration comes to
SELECT * FROM llm_routing;

-- Inheritance: a region's, else the provider's, else the dialect's
INSERT INTO llm_secret VALUES ('shared', 'sk-shared-1'), ('own', 'sk-own-1');
INSERT INTO llm_provider(name, dialect, base_url, secret) VALUES
	('plain', 'openai', NULL, NULL),
	('keyed', 'anthropic', NULL, 'shared'),
	('hosted', 'openai', 'https://{region}.example.com/{region}/v1//', 'shared'),
	('cloud', 'azure', NULL, 'shared');
INSERT INTO llm_region(provider, name, base_url, secret, residency) VALUES
	('hosted', 'us', NULL, NULL, '{us}'),
	('hosted', 'eu', 'https://eu.example.net/', 'own', '{de,eu}'),
	('cloud', 'north', 'https://north.example.com/openai', NULL, '{}'),
	('cloud', 'south', NULL, NULL, '{}');
INSERT INTO llm_route(provider, model) VALUES
	('plain', 'm'), ('keyed', 'm'), ('hosted', 'm'), ('cloud', 'm');
SELECT provider, region, dialect, base_url, credential, residency, enabled, problem
	FROM llm_routing WHERE tier = 'default';

-- No key is anywhere in it
SELECT count(*) FROM llm_routing r WHERE r::text LIKE '%sk-%';
DELETE FROM llm_provider;
DELETE FROM llm_route WHERE tier <> 'offline';

-- Shares: two regions do not double a provider's traffic
INSERT INTO llm_provider(name, dialect) VALUES ('a', 'openai'), ('b', 'openai');
INSERT INTO llm_region(provider, name) VALUES ('a', 'eu'), ('a', 'us');
INSERT INTO llm_route(provider, model, position) VALUES ('a', 'm', 1), ('b', 'm', 1), ('b', 'backup', 2);
SELECT :columns FROM llm_routing WHERE tier = 'default';

-- A canary: 0.1 of 2.1
INSERT INTO llm_route(provider, model, weight) VALUES ('b', 'canary', 0.1);
SELECT model, round(sum(share)::numeric, 4) AS share FROM llm_routing
	WHERE tier = 'default' AND route_position = 1 GROUP BY model ORDER BY model;
DELETE FROM llm_route WHERE model = 'canary';

-- Weights of regions; 0 has no share
UPDATE llm_region SET weight = 3 WHERE name = 'eu';
SELECT :columns FROM llm_routing WHERE tier = 'default' AND route_position = 1;
UPDATE llm_region SET weight = 0 WHERE name = 'eu';
SELECT :columns FROM llm_routing WHERE tier = 'default' AND route_position = 1;

-- A route whose regions all have weight 0 takes nothing from the others
UPDATE llm_region SET weight = 0;
SELECT :columns FROM llm_routing WHERE tier = 'default' AND route_position = 1;
UPDATE llm_region SET weight = 1;

-- A drained region's share goes to the others of its route
UPDATE llm_region SET enabled = false WHERE name = 'eu';
SELECT :columns, enabled FROM llm_routing WHERE tier = 'default' AND route_position = 1;

-- Draining the last one does not bring the implicit one back
UPDATE llm_region SET enabled = false;
SELECT :columns, enabled FROM llm_routing WHERE tier = 'default' AND route_position = 1;
UPDATE llm_region SET enabled = true;

-- A standby region comes after all of position 1, before route position 2
UPDATE llm_region SET position = 2 WHERE name = 'us';
SELECT :columns FROM llm_routing WHERE tier = 'default';
UPDATE llm_region SET position = 1;

-- A route to one region only; the implicit region has a name, too
INSERT INTO llm_route(provider, model, region) VALUES ('a', 'pinned', 'us'), ('b', 'pinned', 'default');
SELECT :columns FROM llm_routing WHERE model = 'pinned';
DELETE FROM llm_route WHERE model = 'pinned';

-- Each switch
CREATE VIEW switches AS SELECT provider, region, model, enabled
	FROM llm_routing WHERE tier = 'default';
BEGIN;
UPDATE llm_route SET enabled = false WHERE model = 'backup';
SELECT * FROM switches;
ROLLBACK;
BEGIN;
UPDATE llm_provider SET enabled = false WHERE name = 'b';
SELECT * FROM switches;
ROLLBACK;
BEGIN;
INSERT INTO llm_model(provider, name, enabled) VALUES ('a', 'm', false);
SELECT * FROM switches;
ROLLBACK;
BEGIN;
UPDATE llm_tier SET enabled = false WHERE name = 'default';
SELECT * FROM switches;
ROLLBACK;
SELECT * FROM switches;

-- The own transaction sees its changes at once; a rollback undoes them
BEGIN;
UPDATE llm_region SET enabled = false WHERE name = 'eu';
SELECT * FROM switches WHERE region = 'eu';
SAVEPOINT s;
UPDATE llm_region SET enabled = true WHERE name = 'eu';
SELECT * FROM switches WHERE region = 'eu';
ROLLBACK TO s;
SELECT * FROM switches WHERE region = 'eu';
DO $$
DECLARE seen boolean;
BEGIN
	BEGIN
		DELETE FROM llm_region WHERE name = 'eu';
		SELECT count(*) = 0 INTO seen FROM switches WHERE region = 'eu';
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		RAISE WARNING 'gone: %, and back: %', seen,
			(SELECT count(*) = 1 FROM switches WHERE region = 'eu');
	END;
END $$;
ROLLBACK;
SELECT * FROM switches WHERE region = 'eu';

-- So does a statement that fails
BEGIN;
DO $$
BEGIN
	UPDATE llm_region SET enabled = false;
	IF NOT EXISTS (SELECT FROM switches WHERE provider = 'a' AND enabled) THEN
		RAISE EXCEPTION 'all drained';
	END IF;
END $$;
ROLLBACK;
SELECT * FROM switches WHERE provider = 'a';

-- Inside a single statement, between the commands of a function
CREATE FUNCTION drain_and_count() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	UPDATE llm_region SET enabled = false WHERE name = 'eu';
	RETURN (SELECT count(*) FROM switches WHERE enabled);
END $$;
SELECT count(*) AS before FROM switches WHERE enabled;
BEGIN;
SELECT drain_and_count();
ROLLBACK;
DROP FUNCTION drain_and_count();

-- TRUNCATE
BEGIN;
TRUNCATE llm_region;
SELECT * FROM switches WHERE provider = 'a';
ROLLBACK;
SELECT * FROM switches WHERE provider = 'a';

-- READ ONLY and the other isolation levels
BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT * FROM switches WHERE provider = 'a';
COMMIT;
DROP VIEW switches;

-- What cannot work says so. A restore lets in what leads nowhere.
SET check_function_bodies = off;
INSERT INTO llm_route(provider, model, region) VALUES
	('nobody', 'm', NULL), ('a', 'm', 'mars');
RESET check_function_bodies;
UPDATE llm_provider SET secret = 'missing' WHERE name = 'b';
SELECT provider, region, model, base_url, credential, share, enabled, problem FROM llm_routing WHERE tier = 'default';
DELETE FROM llm_route WHERE provider = 'nobody' OR region = 'mars';

-- Credentials: tried, and never shown
UPDATE llm_provider SET secret = 'env:LLM_FAILOVER_NOT_SET' WHERE name = 'b';
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';
UPDATE llm_provider SET secret = 'file:/nonexistent/key' WHERE name = 'b';
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';
UPDATE llm_provider SET secret = 'file:/dev/null' WHERE name = 'b';
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';
UPDATE llm_provider SET secret = 'file:/etc' WHERE name = 'b';
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';
UPDATE llm_provider SET secret = NULL, headers = '{"x-team": "secret:team", "x-note": "a literal"}' WHERE name = 'b';
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';
INSERT INTO llm_secret VALUES ('team', 'sk-team-1');
SELECT DISTINCT credential, problem FROM llm_routing WHERE provider = 'b';

-- Many rows, wide ones, and toasted ones
INSERT INTO llm_provider(name, dialect)
	SELECT 'p' || i, 'openai' FROM generate_series(1, 100) i;
INSERT INTO llm_route(provider, model, params)
	SELECT 'p' || i, 'm', jsonb_build_object('user', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n))
	FROM generate_series(1, 100) i;
SELECT count(*), count(problem), round(sum(share)::numeric, 3) AS share FROM llm_routing WHERE provider LIKE 'p%' AND tier = 'default';
DELETE FROM llm_provider WHERE name LIKE 'p%';
DELETE FROM llm_route WHERE provider LIKE 'p%';

-- An error in the middle of reading is over when its cause is, and neither it
-- nor a hundred changes leave memory behind
CREATE VIEW copies AS SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'llm_failover configuration';
BEGIN;
ALTER TABLE llm_secret ALTER COLUMN value TYPE varchar;
SAVEPOINT s;
SELECT count(*) FROM llm_routing;
ROLLBACK TO s;
SELECT count(*) FROM llm_routing;
ROLLBACK TO s;
DO $$
BEGIN
	FOR i IN 1..100 LOOP
		BEGIN
			PERFORM FROM llm_routing;
		EXCEPTION WHEN datatype_mismatch THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM copies;
ROLLBACK;
DO $$
BEGIN
	FOR i IN 1..100 LOOP
		UPDATE llm_provider SET enabled = NOT enabled WHERE name = 'a';
		PERFORM FROM llm_routing;
	END LOOP;
END $$;
SELECT provider, model, enabled FROM llm_routing WHERE provider = 'a';
SELECT * FROM copies;
DROP VIEW copies;

-- A role that may read the view may read nothing else
CREATE ROLE llm_routing_reader;
GRANT USAGE ON SCHEMA public TO llm_routing_reader;
GRANT SELECT ON llm_routing TO llm_routing_reader;
GRANT EXECUTE ON FUNCTION llm_routing_rows() TO llm_routing_reader;
-- a rollback leaves the cache to be read again, by this role
BEGIN;
UPDATE llm_provider SET enabled = enabled;
ROLLBACK;
SET ROLE llm_routing_reader;
SELECT provider, region FROM llm_routing WHERE tier = 'default' AND enabled;
SELECT name FROM llm_provider;
RESET ROLE;

-- The schema may be renamed, and the extension come back under another name
-- and with other OIDs, in the same session
DROP EXTENSION llm_failover;
CREATE SCHEMA first;
CREATE EXTENSION llm_failover SCHEMA first;
INSERT INTO first.llm_rule(name, pattern, answer) VALUES ('r', 'x', 'y');
INSERT INTO first.llm_provider(name, dialect) VALUES ('one', 'openai');
INSERT INTO first.llm_route(provider, model) VALUES ('one', 'm');
SELECT provider, model FROM first.llm_routing;
ALTER SCHEMA first RENAME TO second;
SELECT provider, model FROM second.llm_routing;
UPDATE second.llm_route SET enabled = false WHERE provider = 'one';
SELECT provider, model, enabled FROM second.llm_routing;
DROP EXTENSION llm_failover;
CREATE EXTENSION llm_failover SCHEMA public;
SELECT provider, model FROM llm_routing;

-- Columns are found by name: one that is added or dropped does no harm
ALTER TABLE llm_provider ADD COLUMN note text DEFAULT 'none';
INSERT INTO llm_provider(name, dialect) VALUES ('one', 'openai');
INSERT INTO llm_route(provider, model) VALUES ('one', 'm');
ALTER TABLE llm_provider DROP COLUMN note;
SELECT provider, region, model, problem FROM llm_routing WHERE tier = 'default';

-- No key goes to a host whose name nobody wrote
UPDATE llm_provider SET base_url = 'https://{region}.example.com/v1' WHERE name = 'one';
SELECT provider, region, enabled, problem FROM llm_routing WHERE tier = 'default';
INSERT INTO llm_region(provider, name) VALUES ('one', 'eu');
SELECT provider, region, base_url, enabled, problem FROM llm_routing WHERE tier = 'default';

-- Another encoding: what has no UTF-8 form is one route's problem
CREATE DATABASE llm_routing_ascii TEMPLATE template0 ENCODING 'SQL_ASCII';
\c llm_routing_ascii
SET client_min_messages = warning;
CREATE EXTENSION llm_failover;
INSERT INTO llm_provider(name, dialect) VALUES ('a', 'openai');
INSERT INTO llm_route(provider, model, params) VALUES
	('a', 'bad-params', E'{"user": "caf\xe9"}'),
	('a', E'bad-name-\xe9', NULL),
	('a', 'good', '{"user": "anyone"}');
SELECT convert_to(model, 'SQL_ASCII') AS model, enabled, problem FROM llm_routing WHERE tier = 'default';

\c postgres
DROP DATABASE llm_routing_ascii;
DROP DATABASE llm_routing_test;
DROP ROLE llm_routing_reader;
