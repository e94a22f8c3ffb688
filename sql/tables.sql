
-- The configuration tables.
--
-- The triggers of triggers.sql look at a row first and say what to do about
-- it; the CHECKs are the second wall, for when triggers are off. llm_secret
-- has no CHECK: PostgreSQL prints the row that fails one. What refers to what
-- is theirs as well (src/catalog/check_refer.c): foreign keys would stand in
-- the way of pg_restore -j.
--
-- Constants are quoted, and what takes any type is qualified, so that each
-- operator and function is pg_catalog's whatever the schema holds.

CREATE TABLE llm_secret (
	name text PRIMARY KEY,
	value text NOT NULL
);
-- No key in pg_statistic.
ALTER TABLE llm_secret ALTER COLUMN value SET STATISTICS 0;

CREATE TABLE llm_provider (
	name text PRIMARY KEY
		CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(name) <= 63)
		CHECK (name <> 'builtin'),
	dialect text NOT NULL
		CHECK (dialect IN ('openai', 'azure', 'anthropic', 'gemini')),
	base_url text
		CHECK (base_url ~* '^https?://[^/?#@\x01-\x20\x7f]+(/[^?#\x01-\x20\x7f]*)?$'),
	secret text
		CHECK (secret ~ '^(env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\x01-\x1f\x7f]+|[a-z_][a-z0-9_]{0,62})$'),
	headers jsonb
		CHECK (jsonb_typeof(headers) = 'object'),
	enabled boolean NOT NULL DEFAULT true,
	-- The defaults are those of breaker_defaults in src/health/breaker.c.
	breaker_window interval NOT NULL DEFAULT '30 s'
		CHECK (breaker_window BETWEEN '1 s' AND '10 min'),
	breaker_min_calls int NOT NULL DEFAULT 5
		CHECK (breaker_min_calls > 0),
	breaker_failure_rate real NOT NULL DEFAULT 0.5
		CHECK (breaker_failure_rate BETWEEN '0' AND '1'),
	breaker_consecutive int NOT NULL DEFAULT 3
		CHECK (breaker_consecutive > 0),
	breaker_slow_call interval
		CHECK (breaker_slow_call > '0' AND breaker_slow_call <= '1 day'),
	breaker_slow_rate real NOT NULL DEFAULT 0.8
		CHECK (breaker_slow_rate BETWEEN '0' AND '1'),
	breaker_open_time interval NOT NULL DEFAULT '5 s'
		CHECK (breaker_open_time > '0' AND breaker_open_time <= '1 day'),
	breaker_open_time_max interval NOT NULL DEFAULT '5 min'
		CHECK (breaker_open_time_max > '0' AND breaker_open_time_max <= '1 day'),
	breaker_half_open_calls int NOT NULL DEFAULT 3
		CHECK (breaker_half_open_calls BETWEEN 1 AND 100),
	breaker_ramp interval NOT NULL DEFAULT '30 s'
		CHECK (breaker_ramp BETWEEN '0' AND '1 day'),
	CHECK (breaker_open_time <= breaker_open_time_max)
);

CREATE TABLE llm_region (
	provider text NOT NULL,
	name text NOT NULL
		CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(name) <= 63),
	base_url text
		CHECK (base_url ~* '^https?://[^/?#@\x01-\x20\x7f]+(/[^?#\x01-\x20\x7f]*)?$'),
	secret text
		CHECK (secret ~ '^(env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\x01-\x1f\x7f]+|[a-z_][a-z0-9_]{0,62})$'),
	params jsonb
		CHECK (jsonb_typeof(params) = 'object'),
	residency text[] NOT NULL DEFAULT '{}'
		CHECK (pg_catalog.array_position(residency, NULL) IS NULL AND
			   '' <> ALL (residency) AND
			   pg_catalog.array_to_string(residency, '') !~ '[\x01-\x20\x7f,]'),
	position int NOT NULL DEFAULT 1,
	weight real NOT NULL DEFAULT 1
		CHECK (weight BETWEEN '0' AND '1000000'),
	enabled boolean NOT NULL DEFAULT true,
	max_inflight int CHECK (max_inflight > 0),
	PRIMARY KEY (provider, name)
);

CREATE TABLE llm_model (
	provider text NOT NULL,
	name text NOT NULL
		CHECK (name ~ '^[^\x01-\x20\x7f]+$' AND octet_length(name) <= 128),
	context_window int CHECK (context_window > 0),
	max_output_tokens int CHECK (max_output_tokens > 0),
	input_price numeric
		CHECK (input_price >= '0' AND input_price < 'Infinity'),
	output_price numeric
		CHECK (output_price >= '0' AND output_price < 'Infinity'),
	cached_input_price numeric
		CHECK (cached_input_price >= '0' AND cached_input_price < 'Infinity'),
	capabilities text[]
		CHECK (capabilities OPERATOR(pg_catalog.<@)
			   '{json_schema,tools,images,temperature,system,embeddings}'),
	rpm int CHECK (rpm > 0),
	tpm int CHECK (tpm > 0),
	enabled boolean NOT NULL DEFAULT true,
	PRIMARY KEY (provider, name)
);

CREATE TABLE llm_tier (
	name text PRIMARY KEY
		CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(name) <= 63),
	fallback text
		CHECK (fallback ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(fallback) <= 63)
		CHECK (fallback <> name),
	enabled boolean NOT NULL DEFAULT true,
	strategy text NOT NULL DEFAULT 'weighted'
		CHECK (strategy IN ('weighted', 'latency', 'least_busy', 'cost')),
	timeout interval NOT NULL DEFAULT '2 min'
		CHECK (timeout > '0' AND timeout <= '1 day'),
	attempt_timeout interval NOT NULL DEFAULT '1 min'
		CHECK (attempt_timeout > '0' AND attempt_timeout <= '1 day'),
	connect_timeout interval NOT NULL DEFAULT '3 s'
		CHECK (connect_timeout > '0' AND connect_timeout <= '1 day'),
	first_byte_timeout interval
		CHECK (first_byte_timeout > '0' AND first_byte_timeout <= '1 day'),
	max_attempts int NOT NULL DEFAULT 6
		CHECK (max_attempts BETWEEN 1 AND 100),
	on_content_filter text NOT NULL DEFAULT 'raise'
		CHECK (on_content_filter IN ('raise', 'next')),
	hedge_after interval
		CHECK (hedge_after > '0' AND hedge_after <= '1 day'),
	warm_share real NOT NULL DEFAULT 0
		CHECK (warm_share BETWEEN '0' AND '0.5'),
	queue_timeout interval
		CHECK (queue_timeout > '0' AND pg_catalog.isfinite(queue_timeout))
);

CREATE TABLE llm_route (
	tier text NOT NULL DEFAULT 'default',
	provider text NOT NULL
		CHECK (provider ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(provider) <= 63),
	model text NOT NULL
		CHECK (model ~ '^[^\x01-\x20\x7f]+$' AND octet_length(model) <= 128),
	region text
		CHECK (region ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(region) <= 63),
	position int NOT NULL DEFAULT 1,
	weight real NOT NULL DEFAULT 1
		CHECK (weight BETWEEN '0' AND '1000000'),
	enabled boolean NOT NULL DEFAULT true,
	params jsonb
		CHECK (jsonb_typeof(params) = 'object'),
	CHECK (provider <> 'builtin' OR region IS NULL),
	UNIQUE NULLS NOT DISTINCT (tier, provider, model, region)
);
-- A table without a primary key: a publication FOR ALL TABLES would refuse
-- changes.
ALTER TABLE llm_route REPLICA IDENTITY FULL;

CREATE TABLE llm_rule (
	name text PRIMARY KEY
		CHECK (name !~ '[\x01-\x1f\x7f]' AND octet_length(name) BETWEEN 1 AND 63),
	feature text
		CHECK (feature !~ '[\x01-\x1f\x7f]' AND octet_length(feature) BETWEEN 1 AND 63),
	pattern text NOT NULL,
	answer text NOT NULL,
	position int NOT NULL DEFAULT 1,
	enabled boolean NOT NULL DEFAULT true
);

CREATE TABLE llm_probe (
	provider text NOT NULL
		CHECK (provider ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(provider) <= 63)
		CHECK (provider <> 'builtin'),
	region text
		CHECK (region ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND octet_length(region) <= 63),
	model text NOT NULL
		CHECK (model ~ '^[^\x01-\x20\x7f]+$' AND octet_length(model) <= 128),
	every interval NOT NULL DEFAULT '1 min'
		CHECK (every > '0' AND every <= '1 day'),
	prompt text NOT NULL DEFAULT 'Reply with OK.'
		CHECK (prompt <> ''),
	expect text,
	enabled boolean NOT NULL DEFAULT true,
	UNIQUE NULLS NOT DISTINCT (provider, region, model)
);
ALTER TABLE llm_probe REPLICA IDENTITY FULL;

-- Dumped with all rows, seeds too, but for the keys.
SELECT pg_catalog.pg_extension_config_dump('llm_provider', '');
SELECT pg_catalog.pg_extension_config_dump('llm_region', '');
SELECT pg_catalog.pg_extension_config_dump('llm_model', '');
SELECT pg_catalog.pg_extension_config_dump('llm_tier', '');
SELECT pg_catalog.pg_extension_config_dump('llm_route', '');
SELECT pg_catalog.pg_extension_config_dump('llm_rule', '');
SELECT pg_catalog.pg_extension_config_dump('llm_probe', '');
