
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
	OUT ok boolean, OUT reason text, OUT enabled boolean, OUT standby boolean,
	OUT version text, OUT library_version text, OUT targets int)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION llm_health_rows IS
	'the row of the view llm_health';

CREATE VIEW llm_health AS
	SELECT h.ok, h.reason, h.enabled, h.standby, h.version, h.library_version,
		h.targets
	FROM pg_catalog.pg_extension e, llm_health_rows(e.extversion) h
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
