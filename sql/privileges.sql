
-- Who may do what: src/sql/grant.c has the lists. PUBLIC gets nothing.

CREATE FUNCTION llm_grant_usage(role name) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_grant_usage(name) IS
'lets a role call language models and see how its calls went';

CREATE FUNCTION llm_grant_admin(role name) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_grant_admin(name) IS
'lets a role call and configure; who may change base_url can read the literal keys of llm_secret';

CREATE FUNCTION llm_revoke(role name) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_revoke(name) IS
'takes back what llm_grant_usage and llm_grant_admin gave';

REVOKE ALL ON FUNCTION
	llm_complete, llm_respond, llm_chat, llm_explain, llm_check, llm_last,
	llm_breaker_open, llm_breaker_reset, llm_stat_reset,
	llm_cancel, llm_requeue, llm_pause, llm_resume, llm_flush,
	llm_grant_usage, llm_grant_admin, llm_revoke,
	llm_routing_rows, llm_health_rows, llm_status_rows, llm_stat_tier_rows,
	llm_queue_blocked_by, llm_task_check, llm_task_wake, llm_queue_restored,
	llm_config_check, llm_config_seed, llm_config_refer, llm_config_chain,
	llm_config_notice, llm_config_cascade, llm_config_changed
FROM PUBLIC;
REVOKE ALL ON TYPE llm_response FROM PUBLIC;

-- Monitoring sees the views, which hold no key, and what the journal keeps.
GRANT USAGE ON SCHEMA @extschema@ TO pg_monitor;
GRANT SELECT ON llm_routing, llm_health, llm_status, llm_stat_tier, llm_queue,
	llm_usage, llm_event TO pg_monitor;
GRANT EXECUTE ON FUNCTION
	llm_routing_rows, llm_health_rows, llm_status_rows, llm_stat_tier_rows,
	llm_queue_blocked_by
TO pg_monitor;
