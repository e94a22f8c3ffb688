
-- What happens when a configuration row changes. The functions are few and
-- work on whatever table they stand on; what they know of each is an array in
-- src/catalog. Triggers of one event fire in the order of their names.

CREATE FUNCTION llm_config_check() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_check() IS
'refuses a configuration row that cannot work, and says what to write instead';

CREATE FUNCTION llm_config_seed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_seed() IS
'keeps the rows that belong to the extension, and turns an INSERT of one into an UPDATE';

CREATE FUNCTION llm_config_refer() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_refer() IS
'refuses a row that names a provider, region or tier that does not exist';

CREATE FUNCTION llm_config_chain() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_chain() IS
'refuses a fallback to a tier that does not exist, and a chain of fallbacks that ends in itself';

CREATE FUNCTION llm_config_notice() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_notice() IS
'tells of a route to an unknown model, and of a tier that has lost its last route';

CREATE FUNCTION llm_config_cascade() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_cascade() IS
'carries a deleted or renamed key to the rows that name it';

CREATE FUNCTION llm_config_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_config_changed() IS
'tells all sessions, at commit, to read the configuration again';

-- The row itself.
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_secret
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_provider
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_region
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_model
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_tier
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_route
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_rule
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();
CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_probe
	FOR EACH ROW EXECUTE FUNCTION llm_config_check();

-- Seeds, after the check.
CREATE TRIGGER llm_seed BEFORE INSERT OR UPDATE OR DELETE ON llm_tier
	FOR EACH ROW EXECUTE FUNCTION llm_config_seed();
CREATE TRIGGER llm_seed BEFORE INSERT OR UPDATE OR DELETE ON llm_route
	FOR EACH ROW EXECUTE FUNCTION llm_config_seed();
CREATE TRIGGER llm_seed_truncate BEFORE TRUNCATE ON llm_tier
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_seed();
CREATE TRIGGER llm_seed_truncate BEFORE TRUNCATE ON llm_route
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_seed();

-- Other rows: looked at when the statement is done, so that their order and
-- place in it do not matter.
CREATE TRIGGER llm_cascade AFTER UPDATE OR DELETE ON llm_provider
	FOR EACH ROW EXECUTE FUNCTION llm_config_cascade();
CREATE TRIGGER llm_cascade AFTER UPDATE OR DELETE ON llm_region
	FOR EACH ROW EXECUTE FUNCTION llm_config_cascade();
CREATE TRIGGER llm_cascade AFTER UPDATE OR DELETE ON llm_tier
	FOR EACH ROW EXECUTE FUNCTION llm_config_cascade();
CREATE TRIGGER llm_cascade_truncate AFTER TRUNCATE ON llm_provider
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_cascade();
CREATE TRIGGER llm_cascade_truncate AFTER TRUNCATE ON llm_region
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_cascade();

CREATE TRIGGER llm_refer AFTER INSERT OR UPDATE ON llm_region
	FOR EACH ROW EXECUTE FUNCTION llm_config_refer();
CREATE TRIGGER llm_refer AFTER INSERT OR UPDATE ON llm_model
	FOR EACH ROW EXECUTE FUNCTION llm_config_refer();
CREATE TRIGGER llm_refer AFTER INSERT OR UPDATE ON llm_route
	FOR EACH ROW EXECUTE FUNCTION llm_config_refer();
CREATE TRIGGER llm_refer AFTER INSERT OR UPDATE ON llm_probe
	FOR EACH ROW EXECUTE FUNCTION llm_config_refer();

CREATE TRIGGER llm_chain_insert AFTER INSERT ON llm_tier
	REFERENCING NEW TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_chain();
CREATE TRIGGER llm_chain_update AFTER UPDATE ON llm_tier
	REFERENCING NEW TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_chain();
CREATE TRIGGER llm_chain_delete AFTER DELETE ON llm_tier
	REFERENCING OLD TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_chain();

CREATE TRIGGER llm_notice_insert AFTER INSERT ON llm_route
	REFERENCING NEW TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_notice();
CREATE TRIGGER llm_notice_update AFTER UPDATE ON llm_route
	REFERENCING OLD TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_notice();
CREATE TRIGGER llm_notice_delete AFTER DELETE ON llm_route
	REFERENCING OLD TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_notice();

-- Every session's copy of the configuration. By row, because a replicated
-- change fires no statement trigger, and ALWAYS, because it fires no other.
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_secret
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_secret
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_secret ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_secret ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_provider
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_provider
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_provider ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_provider ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_region
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_region
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_region ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_region ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_model
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_model
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_model ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_model ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_tier
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_tier
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_tier ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_tier ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_route
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_route
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_route ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_route ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_rule
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_rule
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_rule ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_rule ENABLE ALWAYS TRIGGER llm_truncated;
CREATE TRIGGER llm_changed AFTER INSERT OR UPDATE OR DELETE ON llm_probe
	FOR EACH ROW EXECUTE FUNCTION llm_config_changed();
CREATE TRIGGER llm_truncated AFTER TRUNCATE ON llm_probe
	FOR EACH STATEMENT EXECUTE FUNCTION llm_config_changed();
ALTER TABLE llm_probe ENABLE ALWAYS TRIGGER llm_changed;
ALTER TABLE llm_probe ENABLE ALWAYS TRIGGER llm_truncated;
