-- Calling models.

CREATE TYPE llm_response AS (
    answer text,
    message jsonb,
    finish_reason text,
    tier text,
    provider text,
    region text,
    model text,
    source text,
    degraded boolean,
    attempts int,
    trace jsonb,
    input_tokens int,
    output_tokens int,
    cached_tokens int,
    cost numeric,
    latency interval,
    error text,
    error_code text);
COMMENT ON TYPE llm_response IS 'an answer of a language model, and how it came about';
COMMENT ON COLUMN llm_response.answer IS 'the text; NULL on error, or when only tools are called';
COMMENT ON COLUMN llm_response.message IS 'the assistant''s message in OpenAI form, to be appended to a history as it is';
COMMENT ON COLUMN llm_response.finish_reason IS 'stop, length, tool_calls or content_filter; NULL on error';
COMMENT ON COLUMN llm_response.tier IS 'the tier that answered; NULL on error';
COMMENT ON COLUMN llm_response.provider IS 'the provider that answered; NULL on error';
COMMENT ON COLUMN llm_response.region IS 'the region that answered; NULL on error and for builtin models';
COMMENT ON COLUMN llm_response.model IS 'the name of the model routed to; NULL on error';
COMMENT ON COLUMN llm_response.source IS 'model, extract or rule; NULL on error';
COMMENT ON COLUMN llm_response.degraded IS 'whether another tier than the one asked for answered';
COMMENT ON COLUMN llm_response.attempts IS 'attempts made at providers';
COMMENT ON COLUMN llm_response.trace IS 'array, one object an attempt: tier, provider, region, model, outcome, status (HTTP), ms (milliseconds), error, next (retry, candidate or tier)';
COMMENT ON COLUMN llm_response.input_tokens IS 'tokens of the answering attempt''s input, cached ones included; NULL when not told';
COMMENT ON COLUMN llm_response.output_tokens IS 'tokens of the answering attempt''s output, reasoning included; NULL when not told';
COMMENT ON COLUMN llm_response.cached_tokens IS 'tokens of the input that the provider had cached; NULL when not told';
COMMENT ON COLUMN llm_response.cost IS 'USD of all attempts of the call; 0 for builtin models; NULL without a price';
COMMENT ON COLUMN llm_response.latency IS 'duration of the whole call';
COMMENT ON COLUMN llm_response.error IS 'what went wrong, with on_error ''null'' and in llm_last()';
COMMENT ON COLUMN llm_response.error_code IS 'SQLSTATE of the error';

CREATE FUNCTION llm_complete(
    prompt text,
    tier text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature float8 DEFAULT NULL,
    feature text DEFAULT NULL,
    residency text DEFAULT NULL,
    timeout interval DEFAULT NULL,
    params jsonb DEFAULT NULL,
    allow_degraded boolean DEFAULT NULL,
    on_error text DEFAULT NULL)
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 100000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_complete IS 'answers a prompt; NULL for a NULL prompt';

CREATE FUNCTION llm_respond(
    prompt text,
    tier text DEFAULT NULL,
    system text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature float8 DEFAULT NULL,
    feature text DEFAULT NULL,
    residency text DEFAULT NULL,
    timeout interval DEFAULT NULL,
    params jsonb DEFAULT NULL,
    allow_degraded boolean DEFAULT NULL,
    on_error text DEFAULT NULL)
RETURNS llm_response
LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 100000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_respond IS 'answers a prompt and tells how: use it in FROM, (llm_respond(x)).* is one call a field';

CREATE FUNCTION llm_chat(
    messages jsonb,
    tier text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    temperature float8 DEFAULT NULL,
    feature text DEFAULT NULL,
    residency text DEFAULT NULL,
    timeout interval DEFAULT NULL,
    params jsonb DEFAULT NULL,
    allow_degraded boolean DEFAULT NULL,
    on_error text DEFAULT NULL)
RETURNS llm_response
LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 100000
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_chat IS 'answers an OpenAI-style array of messages and tells how';

CREATE FUNCTION llm_last()
RETURNS llm_response
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_last IS 'this session''s last answer or error; NULL before the first';

CREATE FUNCTION llm_explain(
    prompt text DEFAULT NULL,
    tier text DEFAULT NULL,
    max_tokens int DEFAULT NULL,
    feature text DEFAULT NULL,
    residency text DEFAULT NULL,
    allow_degraded boolean DEFAULT NULL)
RETURNS TABLE (
    step int,
    tier text,
    provider text,
    region text,
    model text,
    share real,
    verdict text,
    reason text,
    cost numeric)
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_explain IS 'tells whom a call would ask, in order, and why others are out; makes no call';

CREATE FUNCTION llm_check(
    provider text DEFAULT NULL,
    region text DEFAULT NULL,
    model text DEFAULT NULL)
RETURNS TABLE (
    provider text,
    region text,
    model text,
    ok boolean,
    latency interval,
    error text,
    hint text)
LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 100000 ROWS 10
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_check IS 'asks every target that a route reaches, or those named, now and many at once; costs money';

-- By hand: at once and for good, whatever becomes of the transaction
CREATE FUNCTION llm_breaker_open(
    provider text,
    region text DEFAULT NULL,
    model text DEFAULT NULL,
    duration interval DEFAULT '10 min')
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_breaker_open IS 'keeps calls away from a provider, a region or a target for a time of at most 30 days; with a model and no region, from all its targets; a NULL duration is the default';

CREATE FUNCTION llm_breaker_reset(
    provider text DEFAULT NULL,
    region text DEFAULT NULL,
    model text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_breaker_reset IS 'closes the breakers of what is named and all below it, NULL = any, and forgets failures, throttling, openings by hand and what limits have counted';

CREATE FUNCTION llm_stat_reset()
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_stat_reset IS 'begins anew with what llm_status and llm_stat_tier count in this database';
