
-- The queue: a task is a row of llm_task, which becomes its result. The life of
-- a task is in src/queue/README.md. Triggers (src/sql/task_check.c) look at a
-- row first and say what to do about it; the CHECKs are the second wall, and
-- keep what the indexes rely on.

CREATE TABLE llm_task (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	prompt text,
	messages jsonb,
	system text,
	tier text NOT NULL
		DEFAULT coalesce(nullif(pg_catalog.current_setting('llm_failover.tier', true), ''), 'default')
		CHECK (tier !~ '[\x01-\x1f\x7f]' AND octet_length(tier) BETWEEN 1 AND 63),
	max_tokens int CHECK (max_tokens > 0),
	temperature float8 CHECK (temperature BETWEEN '0' AND '2'),
	params jsonb CHECK (jsonb_typeof(params) = 'object'),
	feature text
		DEFAULT nullif(pg_catalog.current_setting('llm_failover.feature', true), '')
		CHECK (feature !~ '[\x01-\x1f\x7f]' AND octet_length(feature) BETWEEN 1 AND 63),
	residency text
		DEFAULT nullif(pg_catalog.current_setting('llm_failover.residency', true), ''),
	allow_degraded boolean NOT NULL DEFAULT false,
	priority smallint NOT NULL DEFAULT 0,
	not_before timestamptz CHECK (pg_catalog.isfinite(not_before)),
	expires_at timestamptz CHECK (pg_catalog.isfinite(expires_at)),
	dedupe_key text CHECK (octet_length(dedupe_key) <= 1000),
	metadata jsonb,
	on_finish text,
	max_tries smallint NOT NULL DEFAULT 3 CHECK (max_tries BETWEEN '1' AND '100'),
	role name NOT NULL DEFAULT current_user,
	state text NOT NULL DEFAULT 'queued'
		CHECK (state IN ('queued', 'running', 'answered', 'done', 'failed', 'expired', 'cancelled')),
	tries smallint NOT NULL DEFAULT 0,
	lease bigint,
	claimed_key text,
	answer text,
	response jsonb,
	error text,
	error_code text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	started_at timestamptz,
	finished_at timestamptz,
	final_state text
		CHECK (final_state IN ('done', 'failed', 'expired', 'cancelled')),
	CHECK (num_nonnulls(prompt, messages) = 1),
	CHECK (dedupe_key IS NULL OR state = 'queued'),
	CHECK ((final_state IS NULL) = (state <> 'answered')),
	CHECK ((finished_at IS NULL) = (state IN ('queued', 'running', 'answered')))
) WITH (
	-- Room for a claim beside its task; a vacuum a fraction of the queue long.
	fillfactor = 50,
	autovacuum_vacuum_threshold = 1000,
	autovacuum_vacuum_scale_factor = 0.05,
	autovacuum_vacuum_insert_threshold = 10000,
	autovacuum_vacuum_insert_scale_factor = 0.05,
	autovacuum_analyze_threshold = 1000,
	autovacuum_analyze_scale_factor = 0.05,
	autovacuum_vacuum_cost_delay = 0,
	toast.autovacuum_vacuum_threshold = 1000,
	toast.autovacuum_vacuum_scale_factor = 0.05,
	toast.autovacuum_vacuum_cost_delay = 0
);

-- No index names a column that a claim changes, but dedupe_key, so that the
-- claim of a task without a key is a HOT update. Those of waiting tasks are as
-- small as the queue is long, whatever retention keeps.
CREATE UNIQUE INDEX llm_task_dedupe ON llm_task (role, dedupe_key);
CREATE INDEX llm_task_ready ON llm_task (tier, (- priority::int), id)
	WHERE finished_at IS NULL AND not_before IS NULL;
CREATE INDEX llm_task_scheduled ON llm_task (tier, not_before)
	WHERE finished_at IS NULL AND not_before IS NOT NULL;
CREATE INDEX llm_task_waiting ON llm_task (tier, (greatest(created_at, not_before)))
	WHERE finished_at IS NULL;
CREATE INDEX llm_task_degradable
	ON llm_task (tier, (greatest(created_at, not_before)))
	WHERE finished_at IS NULL AND allow_degraded;
CREATE INDEX llm_task_expiring ON llm_task (expires_at)
	WHERE finished_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX llm_task_answered ON llm_task (id)
	WHERE finished_at IS NULL AND on_finish IS NOT NULL AND
		(response IS NOT NULL OR error_code IS NOT NULL);
CREATE INDEX llm_task_finished ON llm_task (finished_at)
	WHERE finished_at IS NOT NULL;
CREATE INDEX llm_task_failed ON llm_task (tier)
	WHERE finished_at IS NOT NULL AND error_code IS NOT NULL;

-- Where the queue was filled, and whether it runs. One row.
CREATE TABLE llm_queue_state (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	incarnation bigint NOT NULL DEFAULT 0,
	system_identifier bigint NOT NULL,
	database oid NOT NULL,
	paused text
);
INSERT INTO llm_queue_state(system_identifier, database)
	SELECT c.system_identifier, d.oid
	FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
	WHERE d.datname = pg_catalog.current_database();

SELECT pg_catalog.pg_extension_config_dump('llm_queue_state', '');
SELECT pg_catalog.pg_extension_config_dump('llm_task', '');
SELECT pg_catalog.pg_extension_config_dump('llm_task_id_seq', '');

COMMENT ON TABLE llm_task IS
'the queue: INSERT a row to have it called in the background; the row becomes the result';
COMMENT ON COLUMN llm_task.id IS
'number of the task';
COMMENT ON COLUMN llm_task.prompt IS
'the prompt; either this or messages';
COMMENT ON COLUMN llm_task.messages IS
'an OpenAI-style array of messages';
COMMENT ON COLUMN llm_task.system IS
'system prompt; NULL = none';
COMMENT ON COLUMN llm_task.tier IS
'the tier that is asked for; default: the setting llm_failover.tier';
COMMENT ON COLUMN llm_task.max_tokens IS
'tokens of the answer at most; NULL = the model''s own limit';
COMMENT ON COLUMN llm_task.temperature IS
'0 to 2; NULL = the model''s own';
COMMENT ON COLUMN llm_task.params IS
'more request parameters as a JSON object in the dialect''s own words; NULL = none';
COMMENT ON COLUMN llm_task.feature IS
'what the task is for; default: the setting llm_failover.feature';
COMMENT ON COLUMN llm_task.residency IS
'labels, comma-separated, that a region must bear to be asked; those of the setting llm_failover.residency are always added';
COMMENT ON COLUMN llm_task.allow_degraded IS
'false: waits for its own tier. true: goes down the chain of fallbacks once queue_timeout of its tier has passed, at once if that is NULL';
COMMENT ON COLUMN llm_task.priority IS
'higher is called first; then by id';
COMMENT ON COLUMN llm_task.not_before IS
'is not called before; NULL = at once';
COMMENT ON COLUMN llm_task.expires_at IS
'expires if it has no answer by then; NULL = never';
COMMENT ON COLUMN llm_task.dedupe_key IS
'unique among the queued tasks of a role; moves to claimed_key when the task is no longer queued';
COMMENT ON COLUMN llm_task.metadata IS
'the user''s own, never looked at';
COMMENT ON COLUMN llm_task.on_finish IS
'function with one argument of type llm_task that is run, as the task''s role, in the transaction that finishes the task; NULL = none';
COMMENT ON COLUMN llm_task.max_tries IS
'calls that may fail by themselves, 1 to 100; an outage uses up none';
COMMENT ON COLUMN llm_task.role IS
'role that inserted the task';
COMMENT ON COLUMN llm_task.state IS
'queued, running, answered (on_finish is still to run), done, failed, expired or cancelled';
COMMENT ON COLUMN llm_task.tries IS
'calls that have failed by themselves';
COMMENT ON COLUMN llm_task.lease IS
'incarnation of the worker that runs it';
COMMENT ON COLUMN llm_task.claimed_key IS
'the dedupe_key, once the task is no longer queued';
COMMENT ON COLUMN llm_task.answer IS
'the answer; NULL before, and when only tools are called';
COMMENT ON COLUMN llm_task.response IS
'the answer and how it came about: llm_response as JSON';
COMMENT ON COLUMN llm_task.error IS
'what went wrong with the last call, or with on_finish';
COMMENT ON COLUMN llm_task.error_code IS
'SQLSTATE of error';
COMMENT ON COLUMN llm_task.created_at IS
'when it was inserted';
COMMENT ON COLUMN llm_task.started_at IS
'when its last call was started';
COMMENT ON COLUMN llm_task.finished_at IS
'when it came to its final state; removed llm_failover.task_retention later';
COMMENT ON COLUMN llm_task.final_state IS
'internal: while answered, the state that follows';

COMMENT ON TABLE llm_queue_state IS
'internal: where the queue was filled, and whether it runs; one row';
COMMENT ON COLUMN llm_queue_state.singleton IS
'true';
COMMENT ON COLUMN llm_queue_state.incarnation IS
'how often a worker has begun to work off the queue';
COMMENT ON COLUMN llm_queue_state.system_identifier IS
'the cluster in which the queue was filled';
COMMENT ON COLUMN llm_queue_state.database IS
'the database in which the queue was filled; 0 = by a restore';
COMMENT ON COLUMN llm_queue_state.paused IS
'why it was stopped by hand; NULL = it was not';

-- A row that comes and goes.

CREATE FUNCTION llm_task_check() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_task_check() IS
'refuses a task that cannot work or is no longer queued, adds the residency of the settings, and finds on_finish';

CREATE FUNCTION llm_task_wake() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_task_wake() IS
'tells the worker, at commit, that there are other tasks than before';

CREATE FUNCTION llm_queue_restored() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_queue_restored() IS
'turns an incoming row into an UPDATE, so that a restored queue is known as a copy';

CREATE TRIGGER llm_check BEFORE INSERT OR UPDATE ON llm_task
	FOR EACH ROW EXECUTE FUNCTION llm_task_check();
CREATE TRIGGER llm_restored BEFORE INSERT ON llm_queue_state
	FOR EACH ROW EXECUTE FUNCTION llm_queue_restored();

CREATE TRIGGER llm_wake AFTER INSERT OR UPDATE OR TRUNCATE ON llm_task
	FOR EACH STATEMENT EXECUTE FUNCTION llm_task_wake();
CREATE TRIGGER llm_wake_revoked AFTER DELETE ON llm_task
	FOR EACH ROW WHEN (OLD.state = 'running') EXECUTE FUNCTION llm_task_wake();
ALTER TABLE llm_task ENABLE ALWAYS TRIGGER llm_wake;
ALTER TABLE llm_task ENABLE ALWAYS TRIGGER llm_wake_revoked;
ALTER TABLE llm_queue_state ENABLE ALWAYS TRIGGER llm_restored;

-- By hand.

CREATE FUNCTION llm_cancel(id bigint) RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_cancel IS
'cancels a task that is queued or running, also in the middle of its call; false if there is none such';

CREATE FUNCTION llm_requeue(id bigint) RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_requeue IS
'queues a task again that has failed, expired or been cancelled, or has only on_finish run again if that was all that failed; false if there is none such, or if a queued task has its dedupe_key';

CREATE FUNCTION llm_pause() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_pause IS
'stops the queue of this database: no task is called any more; running calls end';

CREATE FUNCTION llm_resume() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_resume IS
'lets the queue of this database go on, also when it is a copy of another';

-- Whose tasks one sees: one's own; an admin, who may pause the queue, all.
-- The sub-select is evaluated once a query.

ALTER TABLE llm_task ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON llm_task
	USING (role = current_user OR
		   coalesce(pg_catalog.pg_has_role(pg_catalog.to_regrole(pg_catalog.quote_ident(role)), 'member'), false));
CREATE POLICY own_insert ON llm_task AS RESTRICTIVE FOR INSERT
	WITH CHECK (role = current_user);
CREATE POLICY admin_select ON llm_task FOR SELECT
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));
CREATE POLICY admin_delete ON llm_task FOR DELETE
	USING ((SELECT pg_catalog.has_function_privilege('@extschema@.llm_pause()'::pg_catalog.regprocedure, 'EXECUTE')));

-- llm_queue: how far the queue is

CREATE FUNCTION llm_queue_blocked_by(
	tier text, system_identifier bigint, database oid, paused text)
RETURNS text
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_queue_blocked_by IS
'the column blocked_by of the view llm_queue';

CREATE VIEW llm_queue AS
	SELECT t.tier, t.queued, t.running, t.answered, t.failed, t.expired,
		pg_catalog.statement_timestamp() - t.oldest AS oldest, t.per_second,
		CASE WHEN t.queued > 0 THEN llm_queue_blocked_by(t.tier,
			s.system_identifier, s.database, coalesce(s.paused, '')) END AS blocked_by
	FROM (
		SELECT p.tier,
			coalesce(pg_catalog.sum(p.queued), '0')::bigint AS queued,
			coalesce(pg_catalog.sum(p.running), '0')::bigint AS running,
			coalesce(pg_catalog.sum(p.answered), '0')::bigint AS answered,
			coalesce(pg_catalog.sum(p.failed), '0')::bigint AS failed,
			coalesce(pg_catalog.sum(p.expired), '0')::bigint AS expired,
			pg_catalog.min(p.oldest) AS oldest,
			coalesce(pg_catalog.sum(p.ended) / '60', '0')::real AS per_second
		FROM (
			SELECT w.tier,
				pg_catalog.count(*) FILTER (WHERE w.state = 'queued') AS queued,
				pg_catalog.count(*) FILTER (WHERE w.state = 'running') AS running,
				pg_catalog.count(*) FILTER (WHERE w.state = 'answered') AS answered,
				NULL::bigint AS failed, NULL::bigint AS expired,
				pg_catalog.min(greatest(w.created_at, w.not_before)) FILTER (WHERE w.state = 'queued' AND
					greatest(w.created_at, w.not_before) <= pg_catalog.statement_timestamp()) AS oldest,
				NULL::bigint AS ended
			FROM llm_task w WHERE w.finished_at IS NULL GROUP BY w.tier
			UNION ALL
			SELECT f.tier, NULL, NULL, NULL,
				pg_catalog.count(*) FILTER (WHERE f.state = 'failed'),
				pg_catalog.count(*) FILTER (WHERE f.state = 'expired'),
				NULL, NULL
			FROM llm_task f WHERE f.finished_at IS NOT NULL AND f.error_code IS NOT NULL GROUP BY f.tier
			UNION ALL
			SELECT e.tier, NULL, NULL, NULL, NULL, NULL, NULL, pg_catalog.count(*)
			FROM llm_task e WHERE e.finished_at > pg_catalog.statement_timestamp() - '1 min'::interval AND
				e.state IN ('done', 'failed') GROUP BY e.tier
		) p GROUP BY p.tier
	) t, llm_queue_state s;
COMMENT ON VIEW llm_queue IS
	'how far the queue is: one row a tier with tasks';
COMMENT ON COLUMN llm_queue.tier IS
	'the tier that tasks ask for';
COMMENT ON COLUMN llm_queue.queued IS
	'tasks that wait to be called, those of not_before included';
COMMENT ON COLUMN llm_queue.running IS
	'tasks that are called now';
COMMENT ON COLUMN llm_queue.answered IS
	'tasks whose on_finish is still to run';
COMMENT ON COLUMN llm_queue.failed IS
	'tasks that have failed and are still kept';
COMMENT ON COLUMN llm_queue.expired IS
	'tasks that have expired and are still kept';
COMMENT ON COLUMN llm_queue.oldest IS
	'how long the oldest queued task waits that is due; NULL without any';
COMMENT ON COLUMN llm_queue.per_second IS
	'tasks done or failed a second, over the last minute';
COMMENT ON COLUMN llm_queue.blocked_by IS
	'why queued tasks are not called, in words; NULL when they are, or there is none';
