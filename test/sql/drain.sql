-- What was drained comes back by the ramp; what was only going to be does not.
CREATE EXTENSION llm_failover;
SET client_min_messages = warning;
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('a', 'openai', 'http://127.0.0.1:1/v1'), ('b', 'openai', 'http://127.0.0.1:1/v1');
INSERT INTO llm_region(provider, name) VALUES ('a', 'eu'), ('a', 'us');
INSERT INTO llm_route(provider, model) VALUES ('a', 'm'), ('b', 'm');
CREATE VIEW verdicts AS
  SELECT provider, region, CASE WHEN share < 0.04 THEN 'few' WHEN share < 0.4 THEN 'some' ELSE 'most' END AS share, verdict,
    regexp_replace(reason, '\d+ %', 'n %') AS reason
  FROM llm_explain() WHERE provider <> 'builtin' ORDER BY 1, 2;
TABLE verdicts;

UPDATE llm_region SET enabled = false WHERE name = 'eu';
TABLE verdicts;
UPDATE llm_region SET enabled = true WHERE name = 'eu';
TABLE verdicts;
SELECT region, state, until > now() AS until, reason FROM llm_status WHERE provider = 'a' ORDER BY 1;
SELECT llm_breaker_reset();
TABLE verdicts;

-- so it is with a provider and a model
UPDATE llm_provider SET enabled = false WHERE name = 'b';
TABLE verdicts;
UPDATE llm_provider SET enabled = true WHERE name = 'b';
TABLE verdicts;
SELECT llm_breaker_reset('b');
INSERT INTO llm_model(provider, name, enabled) VALUES ('b', 'm', false);
TABLE verdicts;
UPDATE llm_model SET enabled = true;
TABLE verdicts;
SELECT llm_breaker_reset('b');

-- nobody else has seen this, and it never was
BEGIN;
UPDATE llm_region SET enabled = false WHERE name = 'eu';
TABLE verdicts;
ROLLBACK;
TABLE verdicts;

-- without a ramp it is back at once
UPDATE llm_provider SET breaker_ramp = '0';
UPDATE llm_region SET enabled = false WHERE name = 'eu';
TABLE verdicts;
UPDATE llm_region SET enabled = true WHERE name = 'eu';
TABLE verdicts;
DROP EXTENSION llm_failover CASCADE;
