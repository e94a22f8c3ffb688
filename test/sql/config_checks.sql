-- What the configuration tables refuse, in which words and with which
-- SQLSTATE. In a database of its own, so that it does not matter what others
-- left.
\set origin :DBNAME
CREATE DATABASE llm_checks_test;
\c llm_checks_test
\set VERBOSITY default
\set SHOW_CONTEXT errors
SET intervalstyle = 'postgres';
CREATE EXTENSION llm_failover;
INSERT INTO llm_provider(name, dialect) VALUES ('openai', 'openai'), ('anthropic', 'anthropic');
INSERT INTO llm_region(provider, name) VALUES ('openai', 'us'), ('openai', 'eu');

-- llm_secret: its value, and what could be its value, is never printed
INSERT INTO llm_secret VALUES ('openai', ''); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_secret VALUES ('openai', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_secret VALUES ('openai', E'sk-live-123\n'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_secret VALUES ('openai', E'sk-live-123\x7f');
INSERT INTO llm_secret VALUES ('openai', 'env:OPENAI_API_KEY');
INSERT INTO llm_secret VALUES ('openai', 'file:/etc/pgllm/openai');
INSERT INTO llm_secret VALUES ('sk-live-123', 'openai'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_secret VALUES (NULL, 'sk-live-123'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_secret VALUES ('', 'sk-live-123');
INSERT INTO llm_secret VALUES ('1st', 'sk-live-123');
INSERT INTO llm_secret VALUES (repeat('a', 64), 'sk-live-123');
INSERT INTO llm_secret VALUES ('openai', 'sk-live-123'), (repeat('a', 63), 'sk-live-123');
UPDATE llm_secret SET value = '' WHERE name = 'openai';
INSERT INTO llm_secret VALUES ('openai', 'sk-live-456'); \echo :LAST_ERROR_SQLSTATE
-- nor by COPY, which shows the line of an error elsewhere
COPY llm_secret FROM stdin;
Bad-Name	sk-live-123
\.
COPY llm_secret FROM stdin;
openai	sk-live-456
\.
\echo :LAST_ERROR_SQLSTATE
COPY llm_provider(name, dialect, headers) FROM stdin;
team	openai	{"x-team": 5, "authorization": "Bearer sk-live-123"}
\.
COPY llm_region(provider, name, secret) FROM stdin;
openai	asia	sk-live-123
\.
-- elsewhere it still does
COPY llm_rule(name, pattern, answer) FROM stdin;
broken	(	answer
\.

-- secret of llm_provider and llm_region
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'sk-live-123'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', '');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'secret:openai');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'env:');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'env:1A');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'env:A B');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'file:etc/key');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'file:/');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', E'file:/etc/a\nkey');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'FILE:/etc/key');
UPDATE llm_region SET secret = 'sk-live-123' WHERE name = 'us'; \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_provider(name, dialect, secret) VALUES ('a', 'openai', 'env:_Key1'), ('b', 'openai', 'file:/a b/ü.key'), ('c', 'openai', '_key1'), ('d', 'openai', 'not_there_yet');
ROLLBACK;

-- provider: name and dialect
INSERT INTO llm_provider(name, dialect) VALUES ('builtin', 'openai'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_provider SET name = 'builtin' WHERE name = 'openai';
INSERT INTO llm_region(provider, name, params) VALUES ('builtin', 'eu', '{"a": 1}');
INSERT INTO llm_model(provider, name) VALUES ('builtin', 'extract');
INSERT INTO llm_provider(name, dialect) VALUES ('openai2', 'opnai'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect) VALUES ('openai2', 'OpenAI');
INSERT INTO llm_provider(name, dialect) VALUES ('', 'openai'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect) VALUES ('open ai', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES ('-openai', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES ('öpenai', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES (repeat('a', 64), 'openai');
INSERT INTO llm_provider(name, dialect) VALUES (repeat('ä', 64), 'openai');
INSERT INTO llm_provider(name) VALUES ('openai2'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(dialect, secret) VALUES ('openai', 'env:KEY'); \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_provider(name, dialect) VALUES (repeat('a', 63), 'openai'), ('1.A_b-c', 'azure'), ('g', 'gemini');
ROLLBACK;

-- base_url: what it may not contain is not printed
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'ftp://example.com'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'api.openai.com/v1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', '');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https:/api.openai.com');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https:///api.openai.com');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://ex ample.com');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://exämple.com');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com:99999');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com\@evil.com');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://[::1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://user:sk-live-123@example.com/v1');
UPDATE llm_region SET base_url = 'https://user:sk-live-123@example.com/v1' WHERE name = 'us'; \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://@example.com/v1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com/v1?key=sk-live-123');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com/v1?');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com/v1#top');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', E'https://example.com/\r\nx-api-key: 1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://{regoin}.example.com/v1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://{region.example.com/v1');
-- plain http
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('vllm', 'openai', 'http://gpu01.bank.internal:8000/v1'); \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET base_url = 'HTTP://10.0.0.1/v1' WHERE name = 'us';
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://127.0.0.1.evil.com/');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://localhost.evil.com/');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://128.0.0.1/');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://[::2]/');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://{region}/v1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://127.0.0.{region}/v1');
BEGIN;
INSERT INTO llm_provider(name, dialect, base_url) VALUES
  ('a', 'openai', 'http://127.0.0.1:8080/v1'), ('b', 'openai', 'http://127.8.9.1'), ('c', 'openai', 'http://LOCALHOST/x'), ('d', 'openai', 'http://[::1]:1/'),
  ('e', 'openai', 'https://{region}.example.com/{region}/v1/'), ('f', 'openai', 'HTTPS://example.com:8443/a%20b/~c'), ('g', 'openai', 'http://127.0.0.1/{region}');
INSERT INTO llm_region(provider, name, base_url) VALUES ('a', '127.0.0.1', 'http://{region}:8080/v1');
UPDATE llm_region SET name = 'far' WHERE name = '127.0.0.1';
ROLLBACK;
SET llm_failover.allow_insecure_http = on;
BEGIN;
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('vllm', 'openai', 'http://gpu01.bank.internal:8000/v1');
ROLLBACK;
RESET llm_failover.allow_insecure_http;

-- headers: neither a value nor what is no name is printed
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '["sk-live-123"]'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '"sk-live-123"');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', 'null');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"authorization: Bearer sk-live-123": ""}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"": "a"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x\r\ny": "a"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"Host": "a"}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"content-length": "1"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"Content-Type": "text/plain"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"transfer-encoding": "chunked"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"connection": "close"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": "sk-live-123\r\nhost: evil"}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": 5}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": ["sk-live-123"]}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": null}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": "env:A B"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": "file:key"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-team": "secret:No"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"authorization": "Bearer sk-live-123"}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"Proxy-Authorization": "sk-live-123"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-api-key": "sk-live-123"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"Api-Key": "sk-live-123"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"x-goog-api-key": "sk-live-123"}');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"cookie": "sk-live-123"}');
BEGIN;
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '{"openai-organization": "org-1", "x-empty": "", "authorization": "secret:openai", "x-api-key": "file:/etc/key", "cookie": "env:KEY", "x_y": "environment"}');
ROLLBACK;

-- breakers
INSERT INTO llm_provider(name, dialect, breaker_window) VALUES ('x', 'openai', '999 ms'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_window) VALUES ('x', 'openai', '10:00.001');
INSERT INTO llm_provider(name, dialect, breaker_window) VALUES ('x', 'openai', '-1 month');
INSERT INTO llm_provider(name, dialect, breaker_min_calls) VALUES ('x', 'openai', 0); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_failure_rate) VALUES ('x', 'openai', 50); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_failure_rate) VALUES ('x', 'openai', -0.1);
INSERT INTO llm_provider(name, dialect, breaker_failure_rate) VALUES ('x', 'openai', 'NaN');
INSERT INTO llm_provider(name, dialect, breaker_consecutive) VALUES ('x', 'openai', -1);
INSERT INTO llm_provider(name, dialect, breaker_slow_call) VALUES ('x', 'openai', '0'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_slow_rate) VALUES ('x', 'openai', 'Infinity');
INSERT INTO llm_provider(name, dialect, breaker_open_time) VALUES ('x', 'openai', '0');
INSERT INTO llm_provider(name, dialect, breaker_open_time) VALUES ('x', 'openai', '10 min'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_open_time_max) VALUES ('x', 'openai', '4 s');
INSERT INTO llm_provider(name, dialect, breaker_open_time_max) VALUES ('x', 'openai', '25 hours');
INSERT INTO llm_provider(name, dialect, breaker_half_open_calls) VALUES ('x', 'openai', 0);
INSERT INTO llm_provider(name, dialect, breaker_half_open_calls) VALUES ('x', 'openai', 101);
INSERT INTO llm_provider(name, dialect, breaker_ramp) VALUES ('x', 'openai', '-1 s'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_ramp) VALUES ('x', 'openai', '24:00:01');
INSERT INTO llm_provider(name, dialect, breaker_ramp) VALUES ('x', 'openai', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_provider(name, dialect, breaker_open_time_max) VALUES ('x', 'openai', NULL); \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_provider(name, dialect, breaker_window, breaker_min_calls, breaker_failure_rate, breaker_consecutive, breaker_slow_call,
	breaker_slow_rate, breaker_open_time, breaker_open_time_max, breaker_half_open_calls, breaker_ramp) VALUES
  ('least', 'openai', '1 s', 1, 0, 1, '1 microsecond', 0, '1 microsecond', '1 microsecond', 1, '0'),
  ('most', 'openai', '10 min', 2147483647, 1, 2147483647, '1 day', 1, '1 day', '24:00:00', 100, '1 day');
UPDATE llm_provider SET breaker_open_time = '10 min', breaker_open_time_max = '10 min' WHERE name = 'openai';
ROLLBACK;

-- params
UPDATE llm_region SET params = '{"model": "gpt-5"}' WHERE name = 'us'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_region SET params = '[]' WHERE name = 'us';
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '{"model": "gpt-5"}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '{"n": 2}');
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '{"stream": true}');
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '{"temperature": 1, "messages": []}');
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '{"api_key": "sk-live-123"}');
INSERT INTO llm_route(provider, model, params) VALUES ('openai', 'gpt-5', '"x"');
INSERT INTO llm_route(provider, model, params) VALUES ('builtin', 'extract', '[1]');
INSERT INTO llm_route(provider, model, params) VALUES ('builtin', 'extract', '{"n": 1}');

-- region
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', '{""}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', '{eu,"d,e"}');
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', '{"d e"}');
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', E'{"d\te"}');
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', '{NULL}');
INSERT INTO llm_region(provider, name, residency) VALUES ('openai', 'x', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name) VALUES ('openai', 'u s'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name) VALUES ('opnai', 'us'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, weight) VALUES ('openai', 'x', -1); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_region(provider, name, weight) VALUES ('openai', 'x', 'NaN');
INSERT INTO llm_region(provider, name, weight) VALUES ('openai', 'x', 'Infinity');
INSERT INTO llm_region(provider, name, weight) VALUES ('openai', 'x', 1000001);
INSERT INTO llm_region(provider, name, max_inflight) VALUES ('openai', 'x', 0); \echo :LAST_ERROR_SQLSTATE

-- model
INSERT INTO llm_model(provider, name) VALUES ('openai', ''); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_model(provider, name) VALUES ('openai', 'gpt 5');
INSERT INTO llm_model(provider, name) VALUES ('openai', E'gpt\x7f5');
INSERT INTO llm_model(provider, name) VALUES ('openai', repeat('x', 129));
INSERT INTO llm_model(provider, name, context_window) VALUES ('openai', 'x', 0); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_model(provider, name, max_output_tokens) VALUES ('openai', 'x', -5);
INSERT INTO llm_model(provider, name, input_price) VALUES ('openai', 'x', -0.01); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_model(provider, name, output_price) VALUES ('openai', 'x', 'NaN');
INSERT INTO llm_model(provider, name, cached_input_price) VALUES ('openai', 'x', 'Infinity');
INSERT INTO llm_model(provider, name, capabilities) VALUES ('openai', 'x', '{tools,vision}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_model(provider, name, capabilities) VALUES ('openai', 'x', '{NULL}');
INSERT INTO llm_model(provider, name, rpm) VALUES ('openai', 'x', 0); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_model(provider, name, tpm) VALUES ('openai', 'x', -1);
BEGIN;
INSERT INTO llm_model VALUES ('openai', 'accounts/x:1@2', 1, 1, 0, 0.000001, 0, '{}', 1, 1, false),
  ('openai', repeat('x', 128), NULL, NULL, NULL, NULL, NULL, '{json_schema,tools,images,temperature,system,embeddings}', NULL, NULL, true);
ROLLBACK;

-- tier
INSERT INTO llm_tier(name) VALUES ('a tier'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, strategy) VALUES ('a', 'fastest'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, on_content_filter) VALUES ('a', 'ignore');
INSERT INTO llm_tier(name, timeout) VALUES ('a', '0'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, timeout) VALUES ('a', '-5 s');
INSERT INTO llm_tier(name, attempt_timeout) VALUES ('a', '25 hours');
INSERT INTO llm_tier(name, connect_timeout) VALUES ('a', '1 mon');
INSERT INTO llm_tier(name, first_byte_timeout) VALUES ('a', '0');
INSERT INTO llm_tier(name, timeout) VALUES ('a', NULL); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, max_attempts) VALUES ('a', 0);
INSERT INTO llm_tier(name, max_attempts) VALUES ('a', 101);
INSERT INTO llm_tier(name, hedge_after) VALUES ('a', '0'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, hedge_after) VALUES ('a', '2 days');
INSERT INTO llm_tier(name, warm_share) VALUES ('a', 0.51); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, warm_share) VALUES ('a', 'NaN');
INSERT INTO llm_tier(name, warm_share) VALUES ('a', NULL);
INSERT INTO llm_tier(name, queue_timeout) VALUES ('a', '0'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, queue_timeout) VALUES ('a', '-1 month');
INSERT INTO llm_tier(name, fallback) VALUES ('a', 'a'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_tier(name, fallback) VALUES ('a', 'b c');
INSERT INTO llm_tier(name, fallback) VALUES ('flagship', 'economy'); \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_tier(name, fallback) VALUES ('flagship', 'economy'), ('economy', 'offline');
INSERT INTO llm_tier(name, timeout, attempt_timeout, connect_timeout, max_attempts) VALUES ('a', '1 day', '24:00:00', '1 microsecond', 100);
INSERT INTO llm_tier(name, strategy, hedge_after, warm_share) VALUES ('latency', 'latency', '1 day', 0.5), ('least_busy', 'least_busy', NULL, 0), ('cost', 'cost', '1 ms', 0.02);
UPDATE llm_tier SET queue_timeout = '1 microsecond' WHERE name = 'latency';
UPDATE llm_tier SET queue_timeout = '178000000 years' WHERE name = 'cost';
COMMIT;
UPDATE llm_tier SET fallback = 'flagship' WHERE name = 'economy'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_tier SET fallback = 'nowhere' WHERE name = 'economy'; \echo :LAST_ERROR_SQLSTATE
UPDATE llm_tier SET fallback = 'default' WHERE name = 'offline';
INSERT INTO llm_tier(name, fallback) VALUES ('b', 'c'), ('c', 'd'), ('d', 'b');
DELETE FROM llm_tier WHERE name = 'economy'; \echo :LAST_ERROR_SQLSTATE
DELETE FROM llm_tier WHERE name IN ('economy', 'flagship', 'a', 'latency', 'least_busy', 'cost');

-- route
INSERT INTO llm_route(provider, model) VALUES ('opnai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model) VALUES ('mistral', 'x');
INSERT INTO llm_route(provider, model) VALUES ('bultin', 'rule');
INSERT INTO llm_route(provider, model) VALUES ('open ai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, region) VALUES ('openai', 'gpt-5', 'uk'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, region) VALUES ('anthropic', 'claude-opus-4-6', 'us'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, region) VALUES ('openai', 'gpt-5', 'default');
INSERT INTO llm_route(provider, model, region) VALUES ('builtin', 'extract', 'eu'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model) VALUES ('builtin', 'chat'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model) VALUES ('builtin', 'cache');
INSERT INTO llm_route(provider, model, params) VALUES ('builtin', 'extract', '{"sentence": 3}'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, params) VALUES ('builtin', 'rule', '{"sentences": 3}');
INSERT INTO llm_route(tier, provider, model) VALUES ('flagship', 'openai', 'gpt-5'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(tier, provider, model) VALUES ('defualt', 'openai', 'gpt-5');
INSERT INTO llm_model(provider, name) VALUES ('antropic', 'x'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, weight) VALUES ('openai', 'gpt-5', -1); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_route(provider, model, weight) VALUES ('openai', 'gpt-5', 'NaN');
INSERT INTO llm_route(provider, model, weight) VALUES ('openai', 'gpt-5', 2000000);
INSERT INTO llm_route(provider, model) VALUES ('openai', 'gpt 5');
INSERT INTO llm_route(provider) VALUES ('openai'); \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_model(provider, name) VALUES ('openai', 'gpt-5'), ('anthropic', 'claude-opus-4-6');
INSERT INTO llm_route(provider, model, region, weight) VALUES ('openai', 'gpt-5', 'eu', 0), ('openai', 'gpt-5', NULL, 1000000), ('anthropic', 'claude-opus-4-6', 'default', 0.1);
INSERT INTO llm_route(provider, model, params) VALUES ('builtin', 'extract', '{"sentences": 3, "config": "simple"}');
UPDATE llm_route SET region = 'uk' WHERE region = 'eu'; \echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
INSERT INTO llm_route(provider, model) VALUES ('builtin', 'echo');
INSERT INTO llm_route(provider, model) VALUES ('builtin', 'echo'); \echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- rule
INSERT INTO llm_rule(name, pattern, answer) VALUES ('r', '(', 'x'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_rule(name, pattern, answer) VALUES ('r', 'a{2,1}', 'x');
INSERT INTO llm_rule(name, pattern, answer) VALUES ('', 'a', 'x'); \echo :LAST_ERROR_SQLSTATE
INSERT INTO llm_rule(name, pattern, answer) VALUES (E'a\tb', 'a', 'x');
INSERT INTO llm_rule(name, feature, pattern, answer) VALUES ('r', repeat('f', 64), 'a', 'x');
INSERT INTO llm_rule(name, pattern) VALUES ('r', 'a'); \echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO llm_rule(name, pattern, answer) VALUES ('opening hours, (all)', '(?i)\mopen(ing)?\M', '\1');
ROLLBACK;

-- A long value is cut in the message
INSERT INTO llm_tier(name) VALUES (repeat('ü', 100000));

-- The second wall: what the triggers refuse the constraints refuse as well.
ALTER TABLE llm_provider DISABLE TRIGGER llm_check;
ALTER TABLE llm_region DISABLE TRIGGER llm_check;
ALTER TABLE llm_model DISABLE TRIGGER llm_check;
ALTER TABLE llm_tier DISABLE TRIGGER llm_check;
ALTER TABLE llm_route DISABLE TRIGGER llm_check;
ALTER TABLE llm_rule DISABLE TRIGGER llm_check;
\set VERBOSITY terse
INSERT INTO llm_provider(name, dialect) VALUES ('builtin', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES ('open ai', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES ('x', 'opnai');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://user:pw@example.com/v1');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'https://example.com/v1?x');
INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'ftp://example.com');
INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'sk-live-123');
INSERT INTO llm_provider(name, dialect, headers) VALUES ('x', 'openai', '[]');
UPDATE llm_provider SET breaker_window = '0.9 s' WHERE name = 'openai';
UPDATE llm_provider SET breaker_min_calls = 0 WHERE name = 'openai';
UPDATE llm_provider SET breaker_failure_rate = 'NaN' WHERE name = 'openai';
UPDATE llm_provider SET breaker_consecutive = 0 WHERE name = 'openai';
UPDATE llm_provider SET breaker_slow_call = '0' WHERE name = 'openai';
UPDATE llm_provider SET breaker_slow_rate = 1.1 WHERE name = 'openai';
UPDATE llm_provider SET breaker_open_time = '0' WHERE name = 'openai';
UPDATE llm_provider SET breaker_open_time = '6 min' WHERE name = 'openai';
UPDATE llm_provider SET breaker_open_time_max = '2 days' WHERE name = 'openai';
UPDATE llm_provider SET breaker_half_open_calls = 101 WHERE name = 'openai';
UPDATE llm_provider SET breaker_ramp = '-1 s' WHERE name = 'openai';
UPDATE llm_region SET max_inflight = 0 WHERE name = 'us';
UPDATE llm_region SET residency = '{"a b"}' WHERE name = 'us';
UPDATE llm_region SET residency = '{"a,b"}' WHERE name = 'us';
UPDATE llm_region SET residency = '{""}' WHERE name = 'us';
UPDATE llm_region SET residency = '{NULL}' WHERE name = 'us';
UPDATE llm_region SET weight = 'NaN' WHERE name = 'us';
UPDATE llm_region SET params = '[]' WHERE name = 'us';
INSERT INTO llm_model(provider, name) VALUES ('openai', 'gpt 5');
INSERT INTO llm_model(provider, name, input_price) VALUES ('openai', 'x', 'NaN');
INSERT INTO llm_model(provider, name, output_price) VALUES ('openai', 'x', -1);
INSERT INTO llm_model(provider, name, capabilities) VALUES ('openai', 'x', '{vision}');
INSERT INTO llm_model(provider, name, rpm) VALUES ('openai', 'x', 0);
INSERT INTO llm_model(provider, name, tpm) VALUES ('openai', 'x', 0);
INSERT INTO llm_tier(name, timeout) VALUES ('x', '0');
INSERT INTO llm_tier(name, connect_timeout) VALUES ('x', '2 days');
INSERT INTO llm_tier(name, fallback) VALUES ('x', 'x');
INSERT INTO llm_tier(name, strategy) VALUES ('x', 'fastest');
INSERT INTO llm_tier(name, hedge_after) VALUES ('x', '0');
INSERT INTO llm_tier(name, warm_share) VALUES ('x', 0.6);
INSERT INTO llm_tier(name, queue_timeout) VALUES ('x', '0');
INSERT INTO llm_tier(name, max_attempts) VALUES ('x', 101);
INSERT INTO llm_tier(name, on_content_filter) VALUES ('x', 'ignore');
INSERT INTO llm_route(provider, model, region) VALUES ('builtin', 'rule', 'eu');
INSERT INTO llm_route(provider, model, weight) VALUES ('builtin', 'rule', -1);
INSERT INTO llm_route(provider, model) VALUES ('builtin', '');
INSERT INTO llm_rule(name, pattern, answer) VALUES ('', 'a', 'x');

-- A library that is newer than the SQL: what has no column has no rule either
\set VERBOSITY default
ALTER TABLE llm_provider ENABLE TRIGGER llm_check;
ALTER TABLE llm_tier ENABLE TRIGGER llm_check;
ALTER TABLE llm_provider DROP breaker_window, DROP breaker_min_calls, DROP breaker_failure_rate, DROP breaker_consecutive, DROP breaker_slow_call,
	DROP breaker_slow_rate, DROP breaker_open_time, DROP breaker_open_time_max, DROP breaker_half_open_calls, DROP breaker_ramp;
ALTER TABLE llm_tier DROP hedge_after, DROP warm_share, DROP queue_timeout;
INSERT INTO llm_provider(name, dialect) VALUES ('old', 'openai');
INSERT INTO llm_provider(name, dialect) VALUES ('older', 'opnai');
INSERT INTO llm_tier(name, max_attempts) VALUES ('old', 101);

\c :origin
DROP DATABASE llm_checks_test;
