-- Who may do what. In a database of its own, so that it does not matter what
-- others left.
\set origin :DBNAME
CREATE DATABASE llm_privileges_test;
\c llm_privileges_test
\set SHOW_CONTEXT never
CREATE ROLE regress_llm_nobody;
CREATE ROLE regress_llm_usage;
CREATE ROLE regress_llm_admin;
CREATE ROLE regress_llm_files IN ROLE pg_read_server_files;
CREATE ROLE regress_llm_monitor IN ROLE pg_monitor;
CREATE ROLE "regress llm ""odd""";
CREATE SCHEMA llm;
CREATE EXTENSION llm_failover SCHEMA llm;

-- PUBLIC has nothing
SELECT coalesce(p.oid::regprocedure::text, c.oid::regclass::text) AS object, a.privilege_type
  FROM pg_depend d
  LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid,
  aclexplode(coalesce(p.proacl, c.relacl, acldefault(CASE WHEN p.oid IS NULL THEN 'r' ELSE 'f' END::"char", coalesce(p.proowner, c.relowner)))) a
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND a.grantee = 0
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'llm_failover')
   AND coalesce(p.oid, c.oid) IS NOT NULL;
SELECT has_schema_privilege('regress_llm_nobody', 'llm', 'USAGE'), has_type_privilege('regress_llm_nobody', 'llm.llm_response', 'USAGE');
SET ROLE regress_llm_nobody;
SELECT llm.llm_complete('hello'); \echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT USAGE ON SCHEMA llm TO regress_llm_nobody;
SET search_path = llm;
SET ROLE regress_llm_nobody;
SELECT llm_complete('hello'); \echo :LAST_ERROR_SQLSTATE
SELECT * FROM llm_respond('hello');
SELECT * FROM llm_chat('[]');
SELECT * FROM llm_explain();
SELECT * FROM llm_check();
SELECT * FROM llm_last();
SELECT * FROM llm_health;
SELECT * FROM llm_status;
SELECT * FROM llm_stat_tier;
SELECT * FROM llm_routing;
SELECT llm_breaker_open('openai');
SELECT llm_breaker_reset();
SELECT llm_stat_reset();
SELECT llm_cancel(1);
SELECT llm_requeue(1);
SELECT llm_pause();
SELECT llm_resume();
SELECT llm_flush();
SELECT * FROM llm_queue;
TABLE llm_task;
INSERT INTO llm_task(prompt) VALUES ('x');
TABLE llm_usage;
TABLE llm_event;
TABLE llm_queue_state;
TABLE llm_tier;
INSERT INTO llm_tier(name) VALUES ('x');
SELECT llm_grant_usage('regress_llm_nobody'); \echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- Who may grant: a superuser and the owner; whoever else was let in is told so
GRANT EXECUTE ON FUNCTION llm_grant_usage, llm_grant_admin, llm_revoke TO regress_llm_nobody;
SET ROLE regress_llm_nobody;
SELECT llm_grant_usage('regress_llm_nobody'); \echo :LAST_ERROR_SQLSTATE
SELECT llm_grant_admin('regress_llm_nobody');
SELECT llm_revoke('regress_llm_usage');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION llm_grant_usage, llm_grant_admin, llm_revoke FROM regress_llm_nobody;
SELECT llm_grant_usage('regress_llm_gone'); \echo :LAST_ERROR_SQLSTATE
SELECT llm_grant_usage('public'); \echo :LAST_ERROR_SQLSTATE
SELECT llm_grant_usage(NULL); \echo :LAST_ERROR_SQLSTATE
SELECT llm_revoke(current_user); \echo :LAST_ERROR_SQLSTATE

SELECT llm_grant_usage('regress_llm_usage');
SELECT llm_grant_admin('regress_llm_admin');
SELECT llm_grant_usage('regress_llm_usage');  -- twice is once
SELECT llm_grant_admin('regress llm "odd"');

-- What each of them has
CREATE VIEW privileges AS
SELECT r.rolname AS role, x.kind, x.object, string_agg(x.privilege, ', ' ORDER BY x.privilege) AS privileges
  FROM pg_roles r, LATERAL (
    SELECT 1 AS n, 'schema' AS kind, 'llm' AS object, p AS privilege FROM unnest('{USAGE,CREATE}'::text[]) p WHERE has_schema_privilege(r.oid, 'llm', p)
    UNION ALL
    SELECT 2, 'function', f.proname, 'EXECUTE' FROM pg_proc f WHERE f.pronamespace = 'llm'::regnamespace AND has_function_privilege(r.oid, f.oid, 'EXECUTE')
    UNION ALL
    SELECT 3, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.relname, p FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
     WHERE c.relnamespace = 'llm'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname LIKE 'llm%' AND has_table_privilege(r.oid, c.oid, p)
    UNION ALL
    SELECT 4, 'column', c.relname || '.' || a.attname, 'SELECT' FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
     WHERE c.relname = 'llm_secret' AND has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')) x
 WHERE r.rolname LIKE 'regress_llm%' GROUP BY 1, 2, 3 ORDER BY 1, min(x.n), 3;
TABLE privileges;
-- of a task its user says what it asks for
SELECT p AS privilege, string_agg(a.attname, ' ' ORDER BY a.attnum) AS columns FROM unnest('{INSERT,UPDATE,REFERENCES}'::text[]) p, pg_attribute a
 WHERE a.attrelid = 'llm_task'::regclass AND a.attnum > 0 AND has_column_privilege('regress_llm_usage', a.attrelid, a.attnum, p) GROUP BY 1;
-- an admin no more than that
SELECT a.attname, p FROM pg_attribute a, unnest('{INSERT,UPDATE}'::text[]) p WHERE a.attrelid = 'llm_task'::regclass AND a.attnum > 0
   AND has_column_privilege('regress_llm_usage', a.attrelid, a.attnum, p) <> has_column_privilege('regress_llm_admin', a.attrelid, a.attnum, p);
-- grants are the owner's
SELECT DISTINCT a.grantor::regrole = c.relowner::regrole AS "by the owner" FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.relname LIKE 'llm_%' AND c.relkind IN ('r', 'v');

-- Whose usage and events one sees: one's own and nobody's; monitoring and admins all
INSERT INTO llm_usage(hour, role) VALUES (date_trunc('hour', now()), NULL), (date_trunc('hour', now()), 'regress_llm_usage'), (date_trunc('hour', now()), 'regress_llm_admin');
INSERT INTO llm_event(kind, role, message) VALUES ('failover', NULL, 'nobody''s'), ('failover', 'regress_llm_usage', 'a user''s'), ('failover', 'regress_llm_admin', 'an admin''s');
SET ROLE regress_llm_usage;
SELECT role FROM llm_usage UNION ALL SELECT role FROM llm_event ORDER BY 1;
DELETE FROM llm_event;
UPDATE llm_usage SET calls = 1;
SET ROLE regress_llm_monitor;
SELECT role FROM llm_usage UNION ALL SELECT role FROM llm_event ORDER BY 1;
DELETE FROM llm_usage;
SET ROLE regress_llm_admin;
SELECT role FROM llm_usage UNION ALL SELECT role FROM llm_event ORDER BY 1;
INSERT INTO llm_event(kind, message) VALUES ('forged', 'x');
UPDATE llm_usage SET calls = 1;
DELETE FROM llm_usage;
DELETE FROM llm_event WHERE kind = 'failover';
RESET ROLE;
SELECT count(*) FROM llm_usage;
SELECT count(*) FROM llm_event WHERE kind = 'failover';

-- An ordinary user of it
SET ROLE regress_llm_usage;
SELECT llm_complete(NULL) IS NULL AS complete, llm_last() IS NULL AS last;
SELECT count(*) FROM llm_explain('x');
SELECT count(*) FROM llm_health;
SELECT count(*) FROM llm_status;
SELECT count(*) FROM llm_stat_tier;
SELECT count(*) FROM llm_routing;
SELECT * FROM llm_check();
SELECT llm_breaker_open('openai');
SELECT llm_breaker_reset();
SELECT llm_stat_reset();
SELECT llm_pause();
SELECT llm_resume();
SELECT count(*) FROM llm_queue;
SELECT llm_cancel(0), llm_requeue(0);
SELECT count(*) FROM llm_probe;
SELECT count(*) FROM llm_tier;
INSERT INTO llm_secret VALUES ('a', 'b');
RESET ROLE;

-- Monitoring
SET ROLE regress_llm_monitor;
SELECT count(*) FROM llm_health;
SELECT count(*) FROM llm_status;
SELECT count(*) FROM llm_stat_tier;
SELECT count(*) FROM llm_routing;
SELECT count(*) FROM llm_queue;
SELECT llm_breaker_reset();
SELECT llm_stat_reset();
SELECT llm_pause();
TABLE llm_task;
SELECT llm_complete('hello');
TABLE llm_provider;
RESET ROLE;

-- An admin configures
SET ROLE regress_llm_admin;
INSERT INTO llm_secret VALUES ('openai', 'sk-live-123');
SELECT name FROM llm_secret;
SELECT value FROM llm_secret; \echo :LAST_ERROR_SQLSTATE
SELECT name FROM llm_secret WHERE value LIKE 'sk%';
UPDATE llm_secret SET value = 'sk-live-456' WHERE name = 'openai' RETURNING value;
UPDATE llm_secret SET value = 'sk-live-456' WHERE name = 'openai' RETURNING name;
-- rotate by UPDATE: excluded.value counts as reading value
INSERT INTO llm_secret VALUES ('openai', 'sk-live-789') ON CONFLICT (name) DO UPDATE SET value = excluded.value;
COPY llm_secret TO stdout;
INSERT INTO llm_provider(name, dialect, secret) VALUES ('openai', 'openai', 'openai'), ('plain', 'openai', NULL);
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'eu', '{eu}');
INSERT INTO llm_model(provider, name) VALUES ('openai', 'gpt-5'), ('plain', 'm');
INSERT INTO llm_tier(name, fallback) VALUES ('a', 'b'), ('b', 'offline'), ('default', 'a');
INSERT INTO llm_route(tier, provider, model, region) VALUES ('a', 'openai', 'gpt-5', 'eu'), ('b', 'openai', 'gpt-5', NULL);
INSERT INTO llm_rule(name, pattern, answer) VALUES ('r', 'a', 'b');
INSERT INTO llm_probe(provider, model, enabled) VALUES ('plain', 'm', false);
UPDATE llm_provider SET name = 'vendor' WHERE name = 'openai';
UPDATE llm_region SET name = 'europe';
UPDATE llm_tier SET name = 'c' WHERE name = 'b';
SELECT tier, provider, model, region FROM llm_route WHERE tier <> 'offline' ORDER BY 1;
SELECT name, fallback FROM llm_tier ORDER BY 1;
SELECT tier, provider, region, credential FROM llm_routing WHERE tier = 'a';
SELECT count(*) FROM llm_status;
SELECT llm_breaker_open('plain'), llm_breaker_reset('plain'), llm_stat_reset();
SELECT llm_pause(), llm_resume();
TRUNCATE llm_rule;
ALTER TABLE llm_tier DISABLE TRIGGER ALL;

-- but writes no references to the server's files and environment,
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'file:/etc/pgllm/openai'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'env:OPENAI_API_KEY'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": "env:OPENAI_API_KEY"}'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET secret = 'env:OPENAI_API_KEY' WHERE name = 'plain'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET headers = '{"authorization": "file:/etc/passwd"}' WHERE name = 'plain';
INSERT INTO llm_region(provider, name, secret) VALUES ('plain', 'x', 'file:/etc/passwd'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET secret = 'env:HOME'; \echo :LAST_ERROR_SQLSTATE
SET check_function_bodies = off;
UPDATE llm_region SET secret = 'env:HOME'; \echo :LAST_ERROR_SQLSTATE
RESET check_function_bodies;
RESET ROLE;

-- nor leads those elsewhere that a member of pg_read_server_files wrote
SELECT llm_grant_admin('regress_llm_files');
SET ROLE regress_llm_files;
INSERT INTO llm_provider(name, dialect, base_url, secret, headers) VALUES
  ('bysecret', 'openai', 'https://good.example.com/v1', 'file:/etc/pgllm/key', NULL),
  ('byheader', 'openai', NULL, NULL, '{"authorization": "env:TOKEN"}'),
  ('byregion', 'openai', NULL, NULL, NULL),
  ('bytemplate', 'azure', 'https://{region}.example.com', 'file:/etc/pgllm/key', NULL);
INSERT INTO llm_region(provider, name, base_url, secret) VALUES ('byregion', 'r', NULL, 'env:KEY'), ('byheader', 'r', NULL, NULL), ('bytemplate', 'a', NULL, NULL), ('bytemplate', 'b', 'https://{region}.example.net', NULL);
UPDATE llm_provider SET base_url = 'https://better.example.com/v1' WHERE name = 'bysecret';
RESET ROLE;
SET ROLE regress_llm_admin;
UPDATE llm_provider SET base_url = 'https://evil.com/' WHERE name = 'bysecret'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET dialect = 'anthropic' WHERE name = 'bysecret'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET headers = '{"x": "y"}' WHERE name = 'bysecret'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET base_url = 'https://evil.com/' WHERE name = 'byheader'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET base_url = 'https://evil.com/' WHERE name = 'byregion'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET dialect = 'gemini' WHERE name = 'byregion'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, base_url) VALUES ('bysecret', 'evil', 'https://evil.com/'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, base_url, secret) VALUES ('byheader', 'evil', 'https://evil.com/', 'mine'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET base_url = 'https://evil.com/' WHERE provider = 'byregion'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET base_url = 'https://evil.com/' WHERE provider = 'byheader'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name) VALUES ('bytemplate', 'evil'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET name = 'evil' WHERE provider = 'bytemplate' AND name = 'a'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET name = 'evil' WHERE provider = 'bytemplate' AND name = 'b'; \echo :LAST_ERROR_SQLSTATE
-- not in two steps either
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('evil', 'openai', 'https://evil.com/');
UPDATE llm_region SET provider = 'evil' WHERE provider = 'byregion'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, base_url, secret) VALUES ('bysecret', 'evil', 'https://evil.com/', 'mine');
UPDATE llm_region SET secret = NULL WHERE name = 'evil'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, base_url) VALUES ('evil', 'moving', 'https://evil.com/');
UPDATE llm_region SET provider = 'bysecret' WHERE name = 'moving'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('bysecret', 'openai', 'https://evil.com/') ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url; \echo :LAST_ERROR_SQLSTATE
SET check_function_bodies = off;
UPDATE llm_provider SET base_url = 'https://evil.com/' WHERE name = 'byregion'; \echo :LAST_ERROR_SQLSTATE
RESET check_function_bodies;
-- nor by a region that comes before its provider
WITH p AS (INSERT INTO llm_provider(name, dialect) VALUES ('new', 'openai') RETURNING name)
INSERT INTO llm_region(provider, name, base_url) SELECT name, 'r', 'https://new.example.com/' FROM p;
INSERT INTO llm_region(provider, name, base_url) VALUES ('tobe', 'evil', 'https://evil.com/'); \echo :LAST_ERROR_SQLSTATE
-- all else he may
UPDATE llm_provider SET enabled = false WHERE name IN ('bysecret', 'byheader', 'byregion');
UPDATE llm_provider SET name = 'by_region' WHERE name = 'byregion';
UPDATE llm_region SET position = 2, residency = '{eu}', params = '{"a": 1}' WHERE provider IN ('by_region', 'byheader');
UPDATE llm_region SET name = 'r2' WHERE provider = 'by_region';
INSERT INTO llm_region(provider, name) VALUES ('bysecret', 'home'), ('bytemplate', 'default');
UPDATE llm_provider SET secret = NULL, base_url = 'https://other.example.com/' WHERE name = 'bysecret';
UPDATE llm_region SET base_url = 'https://other.example.com/', secret = 'openai' WHERE provider = 'by_region';
DELETE FROM llm_provider WHERE name LIKE 'by%';
RESET ROLE;

-- llm_revoke takes all back, but what a role has in a schema of its own
SELECT llm_revoke('regress_llm_usage');
SELECT llm_revoke('regress_llm_admin');
SELECT llm_revoke('regress_llm_files');
SELECT llm_revoke('regress llm "odd"');
TABLE privileges;
ALTER SCHEMA llm OWNER TO regress_llm_usage;
SELECT llm_grant_usage('regress_llm_usage');
SELECT llm_revoke('regress_llm_usage');
SELECT has_schema_privilege('regress_llm_usage', 'llm', 'USAGE');
ALTER SCHEMA llm OWNER TO CURRENT_USER;

-- so that the roles can go
REVOKE USAGE ON SCHEMA llm FROM regress_llm_nobody;
\c :origin
DROP DATABASE llm_privileges_test;
DROP ROLE regress_llm_nobody, regress_llm_usage, regress_llm_admin, regress_llm_files, regress_llm_monitor, "regress llm ""odd""";
