/*
 * claim.c
 *	  Claims tasks: takes them from the table for this incarnation.
 *
 * Rows are chosen behind a fence (a materialized CTE, whose LIMIT no plan can
 * exceed) and skipped where somebody has them locked. A lane with a backlog
 * goes on behind the last task that it has claimed: rows that are claimed, or
 * done and not yet vacuumed, are not read again and again. It begins at the
 * top again when something may have come before: after a look. How often that
 * may be depends on what it cost the last time, so that a transaction of days,
 * which keeps dead rows from being vacuumed, does not make the queue crawl.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "queue/task.h"
#include "queue/work.h"

/* A claim from the top may take one part in so many of the time. */
#define TOP_SHARE 10

/* Scheduled tasks are ordered by priority among so many that are due first. */
#define DUE_WINDOW "1000"

typedef enum ClaimParameter
{
	CLAIM_TIER,
	CLAIM_AFTER_URGENCY,
	CLAIM_AFTER_ID,
	CLAIM_LIMIT,
	CLAIM_DEFERRED,				/* IDs that are not claimed */
	CLAIM_OPEN,					/* the tier's own models are admitted */
	CLAIM_LATE,					/* who waits since then is late, */
	CLAIM_DEGRADE,				/* and who may be answered by another tier */
	CLAIM_INCARNATION,
	CLAIM_SYSTEM_IDENTIFIER,	/* where the queue must have been filled */
	CLAIM_DATABASE,
	CLAIM_SHUT					/* residencies that are not claimed */
} ClaimParameter;

#define CLAIM_PARAMETERS (CLAIM_SHUT + 1)

static const Oid claim_types[CLAIM_PARAMETERS] = {
	TEXTOID, INT4OID, INT8OID, INT4OID, INT8ARRAYOID, BOOLOID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, INT8OID, INT8OID, OIDOID, TEXTARRAYOID
};

/*
 * Whom a claim may take of the rows that its index yields. A task waits for its
 * own tier to be open until it is late; then it expires, or is answered by
 * another tier if it may be. That the queue does not stand is asked with the
 * tasks, under one snapshot: a restore brings both, perhaps just now.
 */
#define CLAIMABLE \
	" (SELECT s.paused IS NULL AND s.system_identifier = $10" \
	"   AND s.database = $11 FROM @extschema@.llm_queue_state s" \
	"   WHERE s.singleton) AND" \
	" state = 'queued'" \
	" AND (expires_at IS NULL OR expires_at > pg_catalog.now())" \
	" AND id <> ALL ($5)" \
	" AND (residency IS NULL OR residency <> ALL ($12))" \
	" AND CASE WHEN allow_degraded" \
	"  THEN $6 OR greatest(created_at, not_before) <= $8" \
	"  ELSE $6 AND greatest(created_at, not_before) > $7 END"

/* What a claim does with them. */
#define CLAIM_ROWS \
	" UPDATE @extschema@.llm_task t SET state = 'running', lease = $9," \
	" started_at = pg_catalog.clock_timestamp()," \
	" claimed_key = t.dedupe_key, dedupe_key = NULL" \
	" FROM claimed WHERE t.id = claimed.id" \
	" RETURNING t.id, t.prompt, t.messages, t.system, t.tier, t.max_tokens," \
	" t.temperature, t.params, t.feature, t.residency," \
	" t.allow_degraded AND greatest(t.created_at, t.not_before) <= $8," \
	" t.expires_at, t.role, t.tries, t.max_tries, t.on_finish IS NOT NULL," \
	" t.claimed_key IS NOT NULL, - t.priority::int4"

static WorkPlan ready_plan = WORK_PLAN(
	"WITH claimed AS MATERIALIZED ("
	" SELECT id FROM @extschema@.llm_task"
	"  WHERE tier = $1 AND finished_at IS NULL AND not_before IS NULL"
	"  AND (- priority::int4, id) > ($2, $3) AND" CLAIMABLE
	"  ORDER BY tier, - priority::int4, id LIMIT $4"
	"  FOR UPDATE SKIP LOCKED)" CLAIM_ROWS,
	claim_types);

/* The same where tasks with a not_before are due as well. */
static WorkPlan due_plan = WORK_PLAN(
	"WITH due AS MATERIALIZED ("
	" (SELECT id, - priority::int4 AS urgency FROM @extschema@.llm_task"
	"  WHERE tier = $1 AND finished_at IS NULL AND not_before IS NULL"
	"  AND (- priority::int4, id) > ($2, $3) AND" CLAIMABLE
	"  ORDER BY tier, - priority::int4, id LIMIT $4)"
	" UNION ALL"
	" (SELECT id, - priority::int4 FROM @extschema@.llm_task"
	"  WHERE tier = $1 AND finished_at IS NULL"
	"  AND not_before <= pg_catalog.now() AND" CLAIMABLE
	"  ORDER BY tier, not_before LIMIT " DUE_WINDOW ")),"
	" claimed AS MATERIALIZED ("
	" SELECT id FROM @extschema@.llm_task"
	"  WHERE id = ANY (ARRAY(SELECT id FROM due ORDER BY urgency, id LIMIT $4))"
	"  AND tier = $1 AND (not_before IS NULL OR not_before <= pg_catalog.now())"
	"  AND state = 'queued' FOR UPDATE SKIP LOCKED)" CLAIM_ROWS,
	claim_types);

/*
 * The same of a tier that is shut: tasks that may be answered by another one,
 * which have an index of their own, since nobody knows how many others wait.
 */
static WorkPlan shut_plan = WORK_PLAN(
	"WITH claimed AS MATERIALIZED ("
	" SELECT id FROM @extschema@.llm_task"
	"  WHERE tier = $1 AND finished_at IS NULL AND allow_degraded"
	"  AND greatest(created_at, not_before) <= least($8, pg_catalog.now()) AND"
	CLAIMABLE
	"  ORDER BY tier, greatest(created_at, not_before) LIMIT $4"
	"  FOR UPDATE SKIP LOCKED)" CLAIM_ROWS,
	claim_types);

static bool at_top(const Lane *lane);
static Datum deferred_ids(const Lane *lane, Usec now);
static Datum shut_residencies(const Lane *lane, Usec now);
static void go_on_behind(Lane *lane);

/*
 * Says whether a lane may have tasks to claim now, as far as is known without
 * a look at the table.
 */
bool
lane_may_claim(const Lane *lane, Usec now)
{
	if (queue.stands || lane->dry || lane->claimed >= lane->cap ||
		lane->open_at > now)
		return false;
	return !at_top(lane) || lane->top_at <= now;
}

/* Says whether the next claim begins with the first task. */
static bool
at_top(const Lane *lane)
{
	return lane->after_urgency == LANE_TOP_URGENCY;
}

/*
 * Claims up to `limit` tasks of a lane, inside of a transaction, and appends
 * them to the ready ones. Returns how many.
 */
int
lane_claim(Lane *lane, int limit, Usec now)
{
	const Tier *tier = config_tier(queue.config, lane->tier);
	bool		open = tier == NULL || lane->outlook.state != OUTLOOK_OUT;
	bool		limited = tier && tier->queue_timeout > 0;
	TimestampTz late = limited ?
		GetCurrentTimestamp() - tier->queue_timeout : DT_NOBEGIN;
	bool		top = at_top(lane);
	Datum		values[CLAIM_PARAMETERS] = {
		CStringGetTextDatum(lane->tier),
		Int32GetDatum(lane->after_urgency),
		Int64GetDatum(lane->after_id),
		Int32GetDatum(limit),
		deferred_ids(lane, now),
		BoolGetDatum(open),
		TimestampTzGetDatum(late),
		TimestampTzGetDatum(limited ? late : DT_NOEND),
		Int64GetDatum(queue.incarnation),
		Int64GetDatum((int64) GetSystemIdentifier()),
		ObjectIdGetDatum(MyDatabaseId),
		shut_residencies(lane, now),
	};
	WorkPlan   *plan = !open ? &shut_plan :
		lane->has_due ? &due_plan : &ready_plan;
	uint64		n = work_execute(plan, values, NULL);

	for (uint64 i = 0; i < n; i++)
	{
		Task	   *task = task_of_row(lane, SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc);

		dlist_push_tail(&queue.ready, &task->node);
		queue.nready++;
	}
	if (top)
	{
		lane->top_cost = clock_now() - now;
		lane->top_at = now + TOP_SHARE * lane->top_cost;
	}
	if (n > 0)
	{
		/* it is the others' turn next */
		dlist_delete(&lane->node);
		dlist_push_tail(&queue.lanes, &lane->node);
	}
	if (n < (uint64) limit && open)
		lane->dry = true;
	else if (plan == &ready_plan)
		go_on_behind(lane);
	return (int) n;
}

/* Returns the IDs of tasks that are not to be claimed yet, as an array. */
static Datum
deferred_ids(const Lane *lane, Usec now)
{
	Datum	   *ids = palloc(Max(lane->ndeferred, 1) * sizeof(Datum));
	int			n = 0;

	for (int i = 0; i < lane->ndeferred; i++)
		if (lane->deferred[i].until > now)
			ids[n++] = Int64GetDatum(lane->deferred[i].id);
	return PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/* Returns the residencies that are shut, as an array. */
static Datum
shut_residencies(const Lane *lane, Usec now)
{
	Datum		texts[MAX_SHUT];
	int			n = 0;

	for (int i = 0; i < MAX_SHUT; i++)
		if (lane->shut[i].until > now)
			texts[n++] = CStringGetTextDatum(lane->shut[i].residency);
	return PointerGetDatum(construct_array(texts, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* Has the next claim begin behind the last row of this one. */
static void
go_on_behind(Lane *lane)
{
	HeapTuple	last = SPI_tuptable->vals[SPI_processed - 1];
	bool		null;

	lane->after_id = DatumGetInt64(SPI_getbinval(last, SPI_tuptable->tupdesc,
												 1, &null));
	lane->after_urgency =
		DatumGetInt32(SPI_getbinval(last, SPI_tuptable->tupdesc, 18, &null));
}
