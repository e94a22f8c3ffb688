-- The state of breakers, so that it outlives a restart. Written by the worker
-- (src/worker/breakers.c), read once after each start, internal, and not
-- dumped: what one server has learnt is of no use to another.

CREATE TABLE llm_breaker (
	provider text NOT NULL,
	region text,
	model text,
	state text NOT NULL
		CHECK (state IN ('open', 'half_open', 'ramping')),
	forced boolean NOT NULL,
	sticky boolean NOT NULL,
	trips int NOT NULL,
	until timestamptz NOT NULL,
	reason text,
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE NULLS NOT DISTINCT (provider, region, model)
);
REVOKE ALL ON llm_breaker FROM PUBLIC;

COMMENT ON TABLE llm_breaker IS
'internal: breakers that were not closed when one of them last changed, so that a restart does not forget them';
COMMENT ON COLUMN llm_breaker.provider IS
'the provider';
COMMENT ON COLUMN llm_breaker.region IS
'the region; NULL = the breaker of the provider as a whole';
COMMENT ON COLUMN llm_breaker.model IS
'the model; NULL = the breaker of the region or the provider as a whole';
COMMENT ON COLUMN llm_breaker.state IS
'open, half_open or ramping';
COMMENT ON COLUMN llm_breaker.forced IS
'opened by llm_breaker_open()';
COMMENT ON COLUMN llm_breaker.sticky IS
'opened at once for a key, a bill or a model; such a state is not restored, as a restart may have put it right';
COMMENT ON COLUMN llm_breaker.trips IS
'how often in a row it has opened';
COMMENT ON COLUMN llm_breaker.until IS
'when the state ends by itself; not restored after that';
COMMENT ON COLUMN llm_breaker.reason IS
'why it is not closed, in words; NULL = not known';
COMMENT ON COLUMN llm_breaker.changed_at IS
'when this row was written, which it is with each change of any breaker';
