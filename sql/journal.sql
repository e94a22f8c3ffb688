
-- What the journal is stored in: usage by the hour, and events. The background
-- worker writes both (src/queue/journal_store.c); llm_usage is dumped.

CREATE TABLE llm_usage (
	hour timestamptz NOT NULL,
	provider text,
	region text,
	model text,
	tier text,
	feature text,
	role name,
	calls bigint NOT NULL DEFAULT 0,
	failed bigint NOT NULL DEFAULT 0,
	degraded bigint NOT NULL DEFAULT 0,
	attempts bigint NOT NULL DEFAULT 0,
	errors bigint NOT NULL DEFAULT 0,
	input_tokens bigint NOT NULL DEFAULT 0,
	output_tokens bigint NOT NULL DEFAULT 0,
	cached_tokens bigint NOT NULL DEFAULT 0,
	cost numeric,
	UNIQUE NULLS NOT DISTINCT (hour, provider, region, model, tier, feature, role)
) WITH (fillfactor = 80);  -- the rows of this hour are updated again and again
SELECT pg_catalog.pg_extension_config_dump('llm_usage', '');

COMMENT ON TABLE llm_usage IS
'what calls have used, by the hour; written by the background worker within a second or two';
COMMENT ON COLUMN llm_usage.hour IS
'begin of the hour in which the call has ended, a full hour of UTC';
COMMENT ON COLUMN llm_usage.provider IS
'who answered or was asked; builtin = a builtin model answered; NULL = calls that nobody answered';
COMMENT ON COLUMN llm_usage.region IS
'its region; NULL also for builtin models';
COMMENT ON COLUMN llm_usage.model IS
'its model';
COMMENT ON COLUMN llm_usage.tier IS
'the tier asked for; NULL = a probe, or llm_check()';
COMMENT ON COLUMN llm_usage.feature IS
'the feature of the call; NULL = none';
COMMENT ON COLUMN llm_usage.role IS
'the role that asked; NULL = none did';
COMMENT ON COLUMN llm_usage.calls IS
'calls that ended here: each call is counted once';
COMMENT ON COLUMN llm_usage.failed IS
'of these: ended in an error';
COMMENT ON COLUMN llm_usage.degraded IS
'of these: were answered by another tier than the one asked for';
COMMENT ON COLUMN llm_usage.attempts IS
'attempts at this target, also of calls that ended elsewhere; none at builtin models';
COMMENT ON COLUMN llm_usage.errors IS
'of the attempts: failed; one that was given up has not';
COMMENT ON COLUMN llm_usage.input_tokens IS
'tokens sent, cached ones included, as far as the provider has told';
COMMENT ON COLUMN llm_usage.output_tokens IS
'tokens received, reasoning included, as far as the provider has told';
COMMENT ON COLUMN llm_usage.cached_tokens IS
'of the tokens sent: read from the provider''s cache';
COMMENT ON COLUMN llm_usage.cost IS
'USD of the attempts, with the estimated input of those that were given up; NULL = not known, as one of them has no price';

-- In the order in which things happened.
CREATE TABLE llm_event (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	kind text NOT NULL,
	provider text,
	region text,
	model text,
	tier text,
	feature text,
	role name,
	message text NOT NULL,
	detail jsonb
);
CREATE INDEX llm_event_at ON llm_event (at);

COMMENT ON TABLE llm_event IS
'what has happened, in order; written by the background worker within a second or two, which notifies the channel llm_event of breakers; not dumped';
COMMENT ON COLUMN llm_event.id IS
'counts up in the order in which the events happened';
COMMENT ON COLUMN llm_event.at IS
'when it happened';
COMMENT ON COLUMN llm_event.kind IS
'breaker_open, breaker_half_open, breaker_closed, failover (with llm_failover.log_failovers), queue_paused, queue_resumed, probe_failed';
COMMENT ON COLUMN llm_event.provider IS
'the provider that it is about; NULL = none';
COMMENT ON COLUMN llm_event.region IS
'its region; NULL = none, or all of the provider''s';
COMMENT ON COLUMN llm_event.model IS
'its model; NULL = none, or all at that provider or region';
COMMENT ON COLUMN llm_event.tier IS
'the tier asked for; NULL = it is about no tier';
COMMENT ON COLUMN llm_event.feature IS
'the feature of the call; NULL = none';
COMMENT ON COLUMN llm_event.role IS
'the role whose call it was; NULL = nobody''s, and everybody may see it';
COMMENT ON COLUMN llm_event.message IS
'what happened, a sentence';
COMMENT ON COLUMN llm_event.detail IS
'the numbers and the cause';

-- A role sees what is its own or its groups', and what is nobody's; monitoring
-- and who may stop the queue see all.
ALTER TABLE llm_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON llm_usage FOR SELECT
	USING (role IS NULL OR role = current_user OR
		   coalesce(pg_catalog.pg_has_role(pg_catalog.to_regrole(pg_catalog.quote_ident(role)), 'member'), false));
CREATE POLICY monitor ON llm_usage FOR SELECT TO pg_monitor
	USING (true);
CREATE POLICY admin_select ON llm_usage FOR SELECT
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));
CREATE POLICY admin_delete ON llm_usage FOR DELETE
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));

ALTER TABLE llm_event ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON llm_event FOR SELECT
	USING (role IS NULL OR role = current_user OR
		   coalesce(pg_catalog.pg_has_role(pg_catalog.to_regrole(pg_catalog.quote_ident(role)), 'member'), false));
CREATE POLICY monitor ON llm_event FOR SELECT TO pg_monitor
	USING (true);
CREATE POLICY admin_select ON llm_event FOR SELECT
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));
CREATE POLICY admin_delete ON llm_event FOR DELETE
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));

CREATE FUNCTION llm_flush() RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_flush() IS
'returns when all that this session''s calls have left to be stored is stored: usage and events';
