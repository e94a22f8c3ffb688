-- The rows that belong to the extension: an INSERT of one is an UPDATE, and
-- there is no way to be rid of them. In a database of its own, so that it does
-- not matter what others left.
\set origin :DBNAME
CREATE DATABASE llm_seeds_test;
\c llm_seeds_test
\set SHOW_CONTEXT never
CREATE EXTENSION llm_failover;
TABLE llm_tier ORDER BY name;
TABLE llm_route ORDER BY position;
SELECT count(*) FROM llm_rule;

-- INSERT of a seed's key changes all its columns, defaults included
\set QUIET off
INSERT INTO llm_tier(name, timeout, max_attempts, queue_timeout) VALUES ('offline', '5 s', 2, '1 h');
INSERT INTO llm_tier(name, fallback) VALUES ('default', 'offline') RETURNING name;
INSERT INTO llm_route(tier, provider, model, params) VALUES ('offline', 'builtin', 'extract', '{"sentences": 2}');
INSERT INTO llm_route(tier, provider, model, position) VALUES ('offline', 'builtin', 'rule', 1), ('offline', 'builtin', 'echo', 9), ('default', 'builtin', 'rule', 5);
\set QUIET on
SELECT name, fallback, timeout, max_attempts, queue_timeout FROM llm_tier ORDER BY 1;
SELECT tier, provider, model, position, params FROM llm_route ORDER BY 1, 4;
-- a script may run twice, and say so in each way
\set QUIET off
INSERT INTO llm_tier(name, max_attempts) VALUES ('offline', 3) ON CONFLICT (name) DO UPDATE SET max_attempts = excluded.max_attempts;
INSERT INTO llm_tier(name, max_attempts) VALUES ('offline', 4) ON CONFLICT DO NOTHING;
INSERT INTO llm_tier(name, max_attempts) VALUES ('offline', 5), ('offline', 6), ('other', 7);
MERGE INTO llm_tier t USING (VALUES ('offline', 8), ('other', 9)) v(name, n) ON t.name = v.name WHEN MATCHED THEN UPDATE SET max_attempts = v.n WHEN NOT MATCHED THEN INSERT (name) VALUES (v.name);
\set QUIET on
SELECT name, max_attempts, queue_timeout FROM llm_tier ORDER BY 1;
-- the order of rows does not matter here either
INSERT INTO llm_tier(name, fallback) VALUES ('default', 'main'), ('main', 'backup'), ('backup', 'offline');
INSERT INTO llm_tier(name, fallback) VALUES ('default', 'nowhere'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, fallback) VALUES ('offline', 'default'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, max_attempts) VALUES ('offline', 0); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(tier, provider, model, params) VALUES ('offline', 'builtin', 'rule', '{"sentences": 2}'); \echo :LAST_ERROR_SQLSTATE
SELECT name, fallback FROM llm_tier ORDER BY 1;
-- COPY, as a dump does it
BEGIN;
SET LOCAL check_function_bodies = off;
COPY llm_tier FROM stdin;
default	later	f	cost	00:00:11	00:00:10	00:00:01	\N	1	next	00:00:02	0.25	40 days
later	offline	t	weighted	00:02:00	00:01:00	00:00:03	00:00:30	6	raise	\N	0	\N
offline	\N	t	weighted	00:00:22	00:01:00	00:00:03	\N	2	raise	\N	0	\N
\.
COPY llm_route FROM stdin;
offline	builtin	extract	\N	7	0.5	f	{"sentences": 4}
offline	builtin	rule	\N	8	1	t	\N
later	builtin	extract	\N	1	1	t	\N
\.
SELECT name, fallback, enabled, strategy, timeout, on_content_filter, hedge_after, warm_share, queue_timeout FROM llm_tier WHERE name IN ('default', 'later', 'offline') ORDER BY 1;
SELECT tier, model, position, weight, enabled, params FROM llm_route WHERE tier <> 'default' ORDER BY 1, 3;
ROLLBACK;
-- not a seed: another tier, another region, another model
INSERT INTO llm_route(tier, provider, model) VALUES ('main', 'builtin', 'extract');
INSERT INTO llm_route(tier, provider, model) VALUES ('main', 'builtin', 'extract'); \echo :LAST_ERROR_SQLSTATE

-- They may be changed and disabled, not deleted, renamed or truncated
UPDATE llm_tier SET enabled = false, fallback = NULL, timeout = '7 s' WHERE name = 'default';
UPDATE llm_route SET enabled = false, position = 4, weight = 0 WHERE tier = 'offline' AND model = 'extract';
DELETE FROM llm_tier WHERE name = 'offline'; \echo :LAST_ERROR_SQLSTATE
DELETE FROM llm_tier WHERE name = 'default'; \echo :LAST_ERROR_SQLSTATE
DELETE FROM llm_tier;
UPDATE llm_tier SET name = 'mine' WHERE name = 'default'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_tier SET name = 'default' WHERE name = 'main'; \echo :LAST_ERROR_SQLSTATE
DELETE FROM llm_route; \echo :LAST_ERROR_SQLSTATE
DELETE FROM llm_route WHERE model = 'extract';
UPDATE llm_route SET tier = 'main' WHERE tier = 'offline' AND model = 'rule'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_route SET model = 'echo' WHERE tier = 'offline' AND model = 'rule';
TRUNCATE llm_route; \echo :LAST_ERROR_SQLSTATE
TRUNCATE llm_tier; \echo :LAST_ERROR_SQLSTATE
-- also in a restore
SET check_function_bodies = off;
DELETE FROM llm_tier WHERE name = 'offline'; \echo :LAST_ERROR_SQLSTATE
RESET check_function_bodies;
-- what the hints say works
UPDATE llm_tier SET enabled = false WHERE name = 'offline';
UPDATE llm_route SET enabled = false WHERE tier = 'offline' AND provider = 'builtin' AND model = 'rule';
UPDATE llm_route SET enabled = false WHERE tier = 'offline' AND model = 'echo';
DELETE FROM llm_tier WHERE name NOT IN ('default', 'offline');
DELETE FROM llm_route WHERE tier <> 'offline';
TABLE llm_tier ORDER BY name;
TABLE llm_route ORDER BY position;

-- A seed that is lost all the same comes back by INSERT
SET session_replication_role = replica;
DELETE FROM llm_route WHERE model = 'rule';
RESET session_replication_role;
\set QUIET off
INSERT INTO llm_route(tier, provider, model, position) VALUES ('offline', 'builtin', 'rule', 2);
INSERT INTO llm_route(tier, provider, model, position) VALUES ('offline', 'builtin', 'rule', 2);
\set QUIET on

DROP EXTENSION llm_failover;
\c :origin
DROP DATABASE llm_seeds_test;
