
-- llm_routing: the effective configuration

CREATE FUNCTION llm_routing_rows(
	OUT tier text, OUT provider text, OUT region text, OUT model text,
	OUT dialect text, OUT base_url text, OUT credential text,
	OUT residency text[], OUT route_position int, OUT region_position int,
	OUT share real, OUT enabled boolean, OUT problem text)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;
COMMENT ON FUNCTION llm_routing_rows() IS
	'the rows of the view llm_routing';

CREATE VIEW llm_routing AS
	SELECT tier, provider, region, model, dialect, base_url, credential,
		residency, route_position, region_position, share, enabled, problem
	FROM llm_routing_rows();
COMMENT ON VIEW llm_routing IS
	'the effective configuration: one row a candidate of a tier, inheritance and implicit regions applied';
COMMENT ON COLUMN llm_routing.tier IS
	'tier that the candidate serves';
COMMENT ON COLUMN llm_routing.provider IS
	'provider, or builtin';
COMMENT ON COLUMN llm_routing.region IS
	'region; default when the provider has no row in llm_region; NULL for builtin';
COMMENT ON COLUMN llm_routing.model IS
	'model that is asked for';
COMMENT ON COLUMN llm_routing.dialect IS
	'how the provider is spoken to; NULL for builtin';
COMMENT ON COLUMN llm_routing.base_url IS
	'where requests go: the region''s, else the provider''s, else the dialect''s; {region} is replaced';
COMMENT ON COLUMN llm_routing.credential IS
	'none, a reference (env:NAME, file:/path) or llm_secret.NAME; never a value';
COMMENT ON COLUMN llm_routing.residency IS
	'residency labels that the region bears; NULL for builtin';
COMMENT ON COLUMN llm_routing.route_position IS
	'position of the route; lower is tried first';
COMMENT ON COLUMN llm_routing.region_position IS
	'position of the region among those of equal route_position; lower is tried first';
COMMENT ON COLUMN llm_routing.share IS
	'share of the calls that reach its group (equal positions), 0 to 1, without regard to health';
COMMENT ON COLUMN llm_routing.enabled IS
	'takes new work: it has no problem, and tier, provider, region, model and route are enabled';
COMMENT ON COLUMN llm_routing.problem IS
	'why it cannot work, such as a secret that does not exist; NULL when nothing is wrong';

-- llm_health: one row, for a load balancer's eye

CREATE FUNCTION llm_health_rows(
	extension_version text,
	system_identifier bigint, database oid, paused text,
	OUT ok boolean, OUT reason text, OUT enabled boolean, OUT standby boolean,
	OUT version text, OUT library_version text, OUT targets int,
	OUT targets_open int, OUT cells_unshared bigint,
	OUT worker_running boolean, OUT queue_paused text,
	OUT journal_dropped bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION llm_health_rows IS
	'the row of the view llm_health';

CREATE VIEW llm_health AS
	SELECT h.ok, h.reason, h.enabled, h.standby, h.version, h.library_version,
		h.targets, h.targets_open, h.cells_unshared, h.worker_running,
		h.queue_paused, h.journal_dropped
	FROM pg_catalog.pg_extension e, llm_queue_state s,
		llm_health_rows(e.extversion, s.system_identifier, s.database,
			coalesce(s.paused, '')) h
	WHERE e.extname = 'llm_failover';
COMMENT ON VIEW llm_health IS
	'one row: whether this server can answer';
COMMENT ON COLUMN llm_health.ok IS
	'whether all is well';
COMMENT ON COLUMN llm_health.reason IS
	'why not, in words; NULL when all is well';
COMMENT ON COLUMN llm_health.enabled IS
	'the setting llm_failover.enabled';
COMMENT ON COLUMN llm_health.standby IS
	'whether the server is a standby';
COMMENT ON COLUMN llm_health.version IS
	'version of the extension in this database';
COMMENT ON COLUMN llm_health.library_version IS
	'version of the loaded library';
COMMENT ON COLUMN llm_health.targets IS
	'number of different (provider, region, model) that take work';
COMMENT ON COLUMN llm_health.targets_open IS
	'of these, number of those whose calls a breaker keeps away';
COMMENT ON COLUMN llm_health.cells_unshared IS
	'how often since the server started there was no place in shared memory for the health of something, so that each backend has its own; then increase llm_failover.max_cells';
COMMENT ON COLUMN llm_health.worker_running IS
	'whether the worker of this database is there, which calls tasks and probes and stores usage and events; not on a standby';
COMMENT ON COLUMN llm_health.queue_paused IS
	'why the queue stands: by llm_pause(), or because it is a copy; NULL when it runs';
COMMENT ON COLUMN llm_health.journal_dropped IS
	'usage and events lost since the server started, as the journal was full; then increase llm_failover.journal_size';

-- llm_status: how each target is
CREATE FUNCTION llm_status_rows(
	OUT provider text, OUT region text, OUT model text, OUT state text,
	OUT until timestamptz, OUT reason text, OUT in_flight int,
	OUT calls bigint, OUT failures bigint, OUT error_rate real,
	OUT p50 interval, OUT p95 interval, OUT p99 interval,
	OUT total_p50 interval, OUT total_p95 interval, OUT total_p99 interval,
	OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

COMMENT ON FUNCTION llm_status_rows() IS
	'the rows of the view llm_status';

CREATE VIEW llm_status AS
	SELECT provider, region, model, state, until, reason, in_flight, calls,
		failures, error_rate, p50, p95, p99, total_p50, total_p95, total_p99,
		stats_reset
	FROM llm_status_rows();

COMMENT ON VIEW llm_status IS
	'how each target is that a route leads to or that was called since stats_reset, as this server knows it';
COMMENT ON COLUMN llm_status.provider IS
	'provider of the target';
COMMENT ON COLUMN llm_status.region IS
	'region of the target';
COMMENT ON COLUMN llm_status.model IS
	'model of the target';
COMMENT ON COLUMN llm_status.state IS
	'the worst of its provider''s, its region''s and its own: closed (all is well), ramping, half_open, throttled, open, disabled (takes no new work)';
COMMENT ON COLUMN llm_status.until IS
	'when an open breaker lets trials through, a throttle or a ramp ends; NULL when that is not known';
COMMENT ON COLUMN llm_status.reason IS
	'why it is not closed, in words that name the scope; NULL when it is';
COMMENT ON COLUMN llm_status.in_flight IS
	'attempts under way';
COMMENT ON COLUMN llm_status.calls IS
	'attempts since stats_reset';
COMMENT ON COLUMN llm_status.failures IS
	'attempts since stats_reset that failed';
COMMENT ON COLUMN llm_status.error_rate IS
	'share of failures over breaker_window, 0 to 1: its provider''s, its region''s or its own, whichever is highest; begins anew when a breaker opens; NULL without an attempt';
COMMENT ON COLUMN llm_status.p50 IS
	'duration that half of the attempts of the last minute did not exceed, failed ones aside; NULL without any';
COMMENT ON COLUMN llm_status.p95 IS
	'duration that 95 % of the attempts of the last minute did not exceed';
COMMENT ON COLUMN llm_status.p99 IS
	'duration that 99 % of the attempts of the last minute did not exceed';
COMMENT ON COLUMN llm_status.total_p50 IS
	'as p50, since stats_reset';
COMMENT ON COLUMN llm_status.total_p95 IS
	'as p95, since stats_reset';
COMMENT ON COLUMN llm_status.total_p99 IS
	'as p99, since stats_reset';
COMMENT ON COLUMN llm_status.stats_reset IS
	'since when calls, failures and total_... are counted';

-- llm_stat_tier: what became of calls
CREATE FUNCTION llm_stat_tier_rows(
	OUT tier text, OUT calls bigint, OUT failed bigint, OUT degraded bigint,
	OUT attempts bigint, OUT failovers bigint, OUT retries bigint,
	OUT hedges bigint, OUT p50 interval, OUT p95 interval, OUT p99 interval,
	OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION llm_stat_tier_rows() IS
	'the rows of the view llm_stat_tier';

CREATE VIEW llm_stat_tier AS
	SELECT tier, calls, failed, degraded, attempts, failovers, retries, hedges,
		p50, p95, p99, stats_reset
	FROM llm_stat_tier_rows();

COMMENT ON VIEW llm_stat_tier IS
	'what became of the calls of each tier that there is or that was called since stats_reset, as this server knows it';
COMMENT ON COLUMN llm_stat_tier.tier IS
	'tier that was asked for';
COMMENT ON COLUMN llm_stat_tier.calls IS
	'calls since stats_reset, each where it ended';
COMMENT ON COLUMN llm_stat_tier.failed IS
	'of these, calls that ended in an error';
COMMENT ON COLUMN llm_stat_tier.degraded IS
	'of these, calls that another tier answered';
COMMENT ON COLUMN llm_stat_tier.attempts IS
	'attempts that were made at providers';
COMMENT ON COLUMN llm_stat_tier.failovers IS
	'attempts that failed and were followed by one at another candidate or tier';
COMMENT ON COLUMN llm_stat_tier.retries IS
	'attempts that failed and were followed by one at the same target';
COMMENT ON COLUMN llm_stat_tier.hedges IS
	'attempts made beside one that was silent';
COMMENT ON COLUMN llm_stat_tier.p50 IS
	'duration that half of the calls since stats_reset did not exceed; NULL without any';
COMMENT ON COLUMN llm_stat_tier.p95 IS
	'duration that 95 % of the calls since stats_reset did not exceed';
COMMENT ON COLUMN llm_stat_tier.p99 IS
	'duration that 99 % of the calls since stats_reset did not exceed';
COMMENT ON COLUMN llm_stat_tier.stats_reset IS
	'since when all of these are counted';
