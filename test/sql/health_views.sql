-- llm_status, llm_stat_tier and llm_health: what this server knows of targets
-- and tiers. In a database of its own, so that it does not matter what others
-- left.
CREATE DATABASE llm_health_views_test;
\c llm_health_views_test
\set SHOW_CONTEXT never
CREATE EXTENSION llm_failover;
SET client_min_messages = warning;

-- Their columns, each of which says what it is
SELECT c.relname AS view, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relname IN ('llm_health', 'llm_status', 'llm_stat_tier') ORDER BY c.relname, a.attnum;
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relname IN ('llm_health', 'llm_status', 'llm_stat_tier') AND col_description(c.oid, a.attnum) IS NULL;
SELECT relname FROM pg_class WHERE relname IN ('llm_health', 'llm_status', 'llm_stat_tier') AND obj_description(oid, 'pg_class') IS NULL;

-- The worker of the database is there soon
DO $$ BEGIN FOR i IN 1..6000 LOOP EXIT WHEN (SELECT worker_running FROM llm_health); PERFORM pg_sleep(0.02); END LOOP; END $$;
SELECT worker_running, queue_paused, journal_dropped FROM llm_health;

-- Nothing configured
SELECT * FROM llm_status;
SELECT tier, calls, failed, degraded, attempts, failovers, retries, hedges, p50, p95, p99, stats_reset <= now() AS since FROM llm_stat_tier;
SELECT ok, reason, targets, targets_open, cells_unshared IS NOT NULL AS told FROM llm_health;

-- A queue that is paused is well, and one that is a copy is not
SELECT llm_pause();
SELECT ok, reason, regexp_replace(queue_paused, 'by .*', 'by ROLE') AS queue_paused FROM llm_health;
UPDATE llm_queue_state SET database = 1;
SELECT ok, reason, queue_paused FROM llm_health;
UPDATE llm_queue_state SET system_identifier = 1;
SELECT ok, reason, queue_paused FROM llm_health;
UPDATE llm_queue_state SET system_identifier = (SELECT system_identifier FROM pg_control_system()), database = 0;
SELECT ok, reason, queue_paused FROM llm_health;
SELECT llm_resume();
SELECT ok, reason, queue_paused FROM llm_health;

-- A row a target, sorted, before anybody has called it
INSERT INTO llm_provider(name, dialect, base_url, breaker_consecutive, breaker_open_time, breaker_open_time_max) VALUES
  ('b', 'openai', 'http://127.0.0.1:1/v1', 1, '1 day', '1 day'),
  ('a', 'openai', 'http://127.0.0.1:1/v1', 1, '1 day', '1 day');
INSERT INTO llm_region(provider, name, position) VALUES ('a', 'us', 1), ('a', 'eu', 2);
INSERT INTO llm_tier(name, fallback) VALUES ('one', 'two'), ('two', NULL);
INSERT INTO llm_route(tier, provider, model) VALUES
  ('two', 'b', 'm'), ('one', 'a', 'n'), ('one', 'a', 'm'), ('two', 'a', 'm');
CREATE VIEW states AS SELECT provider, region, model, state, until IS NOT NULL AS until, reason FROM llm_status;
SELECT provider, region, model, state, until, reason, in_flight, calls, failures, error_rate, p50, p95, p99, total_p50, total_p95, total_p99, stats_reset <= clock_timestamp() AS since FROM llm_status;
SELECT ok, reason, targets, targets_open FROM llm_health;

-- Each switch; that of one of two routes to a target is none
BEGIN;
UPDATE llm_provider SET enabled = false WHERE name = 'b';
TABLE states;
ROLLBACK;
BEGIN;
UPDATE llm_region SET enabled = false WHERE name = 'us';
TABLE states;
SELECT ok, reason, targets FROM llm_health;
ROLLBACK;
BEGIN;
INSERT INTO llm_model(provider, name, enabled) VALUES ('a', 'm', false);
TABLE states;
ROLLBACK;
BEGIN;
UPDATE llm_route SET enabled = false WHERE tier = 'one';
TABLE states;
ROLLBACK;
BEGIN;
UPDATE llm_tier SET enabled = false WHERE name = 'two';
TABLE states;
ROLLBACK;
-- what is rolled back was never routed
BEGIN;
INSERT INTO llm_route(tier, provider, model) VALUES ('two', 'b', 'other');
SELECT count(*) FROM llm_status WHERE model = 'other';
ROLLBACK;
SELECT count(*) FROM llm_status WHERE model = 'other';

-- One failure opens the region, with all that is in it, and no other
INSERT INTO llm_tier(name, fallback) VALUES ('us', NULL);
INSERT INTO llm_route(tier, provider, model, region) VALUES ('us', 'a', 'm', 'us');
SELECT error_code FROM llm_respond('Hi', 'us', on_error => 'null');
SELECT provider, region, model, state, until > now() + interval '12 hours' AS until,
    reason ~ '^region breaker open: \S' AS "has reason" FROM llm_status;
SELECT provider, region, model, in_flight, calls > 0 AS called, calls = failures AS "all failed",
    p50, total_p50 FROM llm_status;
-- a failure is none of the calls that say how long one takes; who is out is
-- not asked
SELECT sum(calls) AS before FROM llm_status \gset
SELECT error_code, attempts FROM llm_respond('Hi', 'us', on_error => 'null');
SELECT sum(calls) = :before AS "not asked" FROM llm_status;

-- llm_health names the tier and why
SELECT ok, regexp_replace(reason, '(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d.*\)', 'hh:mm:ss ...)') AS reason, targets, targets_open FROM llm_health;
BEGIN;
UPDATE llm_tier SET enabled = false WHERE name = 'us';
SELECT ok, reason, targets, targets_open FROM llm_health;
ROLLBACK;
BEGIN;
UPDATE llm_provider SET secret = 'nosuchsecret' WHERE name = 'b';
UPDATE llm_region SET enabled = false WHERE name = 'eu';
DELETE FROM llm_tier WHERE name = 'us';
SELECT ok, regexp_replace(reason, '(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d[^)]*\)', 'hh:mm:ss ...)', 'g') AS reason, targets, targets_open FROM llm_health;
-- no more of them are named than one reads
INSERT INTO llm_route(tier, provider, model) SELECT 'one', 'a', 'm' || i FROM generate_series(1, 9) i;
SELECT regexp_replace(reason, '.* and', '... and') AS reason FROM llm_health;
ROLLBACK;

-- Tiers: by the one asked for
INSERT INTO llm_tier(name) VALUES ('local'), ('nobody');
INSERT INTO llm_route(tier, provider, model) VALUES ('local', 'builtin', 'echo');
UPDATE llm_tier SET fallback = 'local' WHERE name = 'two';
SELECT llm_stat_reset();
SELECT answer, degraded FROM llm_respond('Hi', 'local');
SELECT answer, degraded FROM llm_respond('Ho', 'local');
SELECT answer, degraded FROM llm_respond('Hi', 'us', on_error => 'null');
SELECT llm_breaker_open('a');
SELECT llm_breaker_open('b');
SELECT answer, degraded FROM llm_respond('Hi', 'one');
SELECT tier, calls, failed, degraded, attempts, failovers, retries, hedges, p50 IS NOT NULL AS p50, p50 <= p95 AND p95 <= p99 AS sorted FROM llm_stat_tier;
-- with attempts; a refused one is asked once more, if the retry budget has it
SELECT llm_breaker_reset();
SELECT attempts > 0 AS asked, degraded FROM llm_respond('Hi', 'one') \gset
SELECT :'asked' AS asked, :'degraded' AS degraded;
SELECT tier, calls, degraded, attempts > 0 AS attempts, failovers > 0 AS failovers, hedges FROM llm_stat_tier WHERE tier = 'one';

-- llm_check asks past breakers; that is no call of a tier
SELECT llm_stat_reset();
SELECT provider, region, ok FROM llm_check('b');
SELECT provider, calls, failures FROM llm_status WHERE provider = 'b';
SELECT sum(calls) FROM llm_stat_tier;

-- What has no route any more keeps its row as long as its counts
DELETE FROM llm_route WHERE provider = 'b';
SELECT * FROM states WHERE provider = 'b';
DELETE FROM llm_provider WHERE name = 'b';
SELECT calls, failures, error_rate FROM llm_status WHERE provider = 'b';
SELECT llm_complete('Hi', 'nobody', on_error => 'null');
DELETE FROM llm_tier WHERE name = 'nobody';
SELECT tier, calls, failed FROM llm_stat_tier WHERE tier = 'nobody';

-- Counting begins anew
SELECT max(stats_reset) AS last_reset FROM llm_stat_tier \gset
SELECT llm_stat_reset();
SELECT count(*) FROM llm_status WHERE provider = 'b' OR calls > 0 OR failures > 0 OR total_p50 IS NOT NULL;
SELECT count(*) FROM llm_stat_tier WHERE tier = 'nobody' OR calls > 0 OR attempts > 0 OR p50 IS NOT NULL;
SELECT bool_and(stats_reset > :'last_reset') AS anew FROM (SELECT stats_reset FROM llm_status UNION ALL SELECT stats_reset FROM llm_stat_tier) s;

-- Another database knows nothing of all this
SELECT llm_complete('Hi', 'local');
CREATE DATABASE llm_health_views_other;
\c llm_health_views_other
SET client_min_messages = warning;
CREATE EXTENSION llm_failover;
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('a', 'openai', 'http://127.0.0.1:1/v1');
INSERT INTO llm_region(provider, name) VALUES ('a', 'us');
INSERT INTO llm_tier(name) VALUES ('local');
INSERT INTO llm_route(tier, provider, model) VALUES ('local', 'a', 'm');
SELECT provider, region, model, state, calls FROM llm_status;
SELECT tier, calls FROM llm_stat_tier;
SELECT llm_breaker_open('a'), llm_stat_reset();
\c llm_health_views_test
SELECT provider, region, model FROM llm_status WHERE reason LIKE '%opened by%';
SELECT tier, calls FROM llm_stat_tier WHERE calls > 0;
\c postgres
DROP DATABASE llm_health_views_other;
DROP DATABASE llm_health_views_test;
