-- The builtin model "rule": answers that are rows of llm_rule.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null NULL
CREATE EXTENSION llm_failover;

-- no rule
SELECT llm_complete('Hello', 'offline');

-- the first by position, then by name, that is enabled
INSERT INTO llm_rule(name, pattern, answer, position) VALUES
  ('b', 'hello', 'second by name', 1),
  ('a', 'hello', 'first by name', 1),
  ('z', 'hello', 'first by position', 0);
SELECT answer, source, degraded, provider, model, cost FROM llm_respond('hello', 'offline');
UPDATE llm_rule SET enabled = false WHERE name = 'z';
SELECT llm_complete('hello', 'offline');
UPDATE llm_rule SET position = 2 WHERE name = 'a';
SELECT llm_complete('hello', 'offline');

-- on the whole prompt; of a chat, on the last user message
SELECT llm_complete(E'well,\nhello there', 'offline');
SELECT answer, message FROM llm_chat('[{"role": "user", "content": "nothing"},
  {"role": "assistant", "content": "hm"}, {"role": "user", "content": "hello"}]', 'offline');
SELECT answer FROM llm_chat('[{"role": "user", "content": "hello"},
  {"role": "assistant", "content": "hello"}, {"role": "user", "content": "nothing"}]',
  'offline', on_error => 'null');

-- a rule of a feature answers that feature's calls, by parameter or setting
DELETE FROM llm_rule;
INSERT INTO llm_rule(name, feature, pattern, answer, position) VALUES
  ('label', 'label', '.', 'a label', 1),
  ('any', NULL, '.', 'anything', 2);
SELECT llm_complete('x', 'offline') AS none,
  llm_complete('x', 'offline', feature => 'label') AS label,
  llm_complete('x', 'offline', feature => 'labels') AS other;
SET llm_failover.feature = 'label';
SELECT llm_complete('x', 'offline');
RESET llm_failover.feature;

-- captures; one that took no part is empty, other backslashes are themselves
DELETE FROM llm_rule;
INSERT INTO llm_rule(name, pattern, answer) VALUES
  ('order', '(?i)order #?(\d+)(x)?', '[\1|\2|\9|\&|\\1|\n|\]');
SELECT llm_complete('Where is Order #4711?', 'offline');
UPDATE llm_rule SET pattern = '(.)(.)(.)(.)(.)(.)(.)(.)(.)', answer = '\9\8\7\6\5\4\3\2\1';
SELECT llm_complete('数据库äöü🐘é!', 'offline');
UPDATE llm_rule SET pattern = '^', answer = '<\&>';
SELECT llm_complete('empty match', 'offline');

-- the trigger keeps out what is no pattern
INSERT INTO llm_rule(name, pattern, answer) VALUES ('broken', '(', 'x');
\echo :LAST_ERROR_SQLSTATE
-- one that got past it neither answers nor is in the way of the others
DELETE FROM llm_rule;
ALTER TABLE llm_rule DISABLE TRIGGER USER;
INSERT INTO llm_rule(name, pattern, answer, position) VALUES
  ('broken', 'x(', 'broken', 0), ('class', '[[:nope:]]', 'broken', 0);
SELECT format('ALTER TABLE llm_rule ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger
  WHERE tgrelid = 'llm_rule'::regclass AND NOT tgisinternal \gexec
INSERT INTO llm_rule(name, pattern, answer) VALUES ('good', 'x\(', 'good');
SELECT llm_complete('x(', 'offline');
SELECT answer, error FROM llm_respond('x', 'offline', on_error => 'null');

-- more rules than compiled patterns are kept
INSERT INTO llm_rule(name, pattern, answer)
  SELECT 'n' || n, '^' || n || '$', 'rule ' || n FROM generate_series(1, 200) n;
SELECT count(*) FROM generate_series(1, 200) n
  WHERE llm_complete(n::text, 'offline') = 'rule ' || n;
DELETE FROM llm_rule;

-- a pattern that backtracks for ever ends with the statement, not the server
INSERT INTO llm_rule(name, pattern, answer) VALUES ('slow', '(a.*)(b.*)(a.*)\1\2\3$', 'x');
SET statement_timeout = '100ms';
SELECT llm_complete(repeat('ab', 100000), 'offline');
RESET statement_timeout;
SELECT llm_complete('abaaba', 'offline');

-- a rule of the tier asked for is a full answer
BEGIN;
UPDATE llm_rule SET pattern = '^Summarise', answer = 'A canned summary.';
INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'rule', 0);
SELECT answer, source, degraded FROM llm_respond('Summarise this');
ROLLBACK;

-- echo
INSERT INTO llm_tier(name) VALUES ('test');
INSERT INTO llm_route(tier, provider, model) VALUES ('test', 'builtin', 'echo');
SELECT answer, source, degraded FROM llm_respond('Grüße, 世界', 'test');
DROP EXTENSION llm_failover;

-- in another encoding
CREATE DATABASE llm_rule_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
\c llm_rule_latin1
SET client_encoding = 'UTF8';
CREATE EXTENSION llm_failover;
INSERT INTO llm_rule(name, pattern, answer) VALUES ('é', 'é(.)(.)', 'à\2\1');
SELECT llm_complete('caféäß', 'offline');
\c contrib_regression
DROP DATABASE llm_rule_latin1;
