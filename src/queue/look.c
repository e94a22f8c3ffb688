/*
 * look.c
 *	  Looks at the table: which tiers have tasks, when the next of them is due,
 *	  and which have waited for too long.
 *
 * A look costs a few index probes for each tier that has tasks, however many
 * there are.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog/breaker_store.h"
#include "queue/task.h"
#include "queue/work.h"

/* So many tasks are expired in one transaction. */
#define EXPIRE_BATCH 1000

/* So many tiers are looked at, besides those of llm_tier. */
#define WALK "100"

/* A walk from tier to tier: PostgreSQL 15 has no skip scan. */
static WorkPlan tiers_plan = WORK_PLAN_BARE(
	"WITH RECURSIVE walk(tier) AS ("
	" (SELECT tier FROM @extschema@.llm_task WHERE finished_at IS NULL"
	"   ORDER BY tier, greatest(created_at, not_before) LIMIT 1)"
	" UNION ALL"
	" SELECT (SELECT n.tier FROM @extschema@.llm_task n"
	"   WHERE n.finished_at IS NULL AND n.tier > t.tier"
	"   ORDER BY n.tier, greatest(n.created_at, n.not_before) LIMIT 1)"
	"  FROM walk t WHERE t.tier IS NOT NULL),"
	" tiers(tier) AS ("
	" (SELECT tier FROM walk LIMIT " WALK ")"
	" UNION"
	" SELECT l.name FROM @extschema@.llm_tier l WHERE EXISTS ("
	"  SELECT 1 FROM @extschema@.llm_task e"
	"   WHERE e.tier = l.name AND e.finished_at IS NULL))"
	"SELECT t.tier,"
	" EXISTS (SELECT 1 FROM @extschema@.llm_task d"
	"   WHERE d.tier = t.tier AND d.finished_at IS NULL"
	"   AND d.not_before <= pg_catalog.now() AND d.state = 'queued'),"
	" (SELECT d.not_before FROM @extschema@.llm_task d"
	"   WHERE d.tier = t.tier AND d.finished_at IS NULL"
	"   AND d.not_before > pg_catalog.now() AND d.state = 'queued'"
	"   ORDER BY d.tier, d.not_before LIMIT 1),"
	" (SELECT greatest(d.created_at, d.not_before)"
	"   FROM @extschema@.llm_task d"
	"   WHERE d.tier = t.tier AND d.finished_at IS NULL"
	"   AND d.state = 'queued'"
	"   ORDER BY d.tier, greatest(d.created_at, d.not_before) LIMIT 1) "
	"FROM tiers t WHERE t.tier IS NOT NULL");

static void take_row(HeapTuple row, TupleDesc desc);
static void take_expiry(HeapTuple row, TupleDesc desc);
static Usec usec_or_never(HeapTuple row, TupleDesc desc, int column);
static void finish_look(void);
static void expire_by_time(void);
static void expire_by_tier(const Lane *lane);
static void note_expired(void);

/*
 * Looks for lanes, inside of a transaction. Tasks may ask for any number of
 * tiers that do not exist. They can but fail, and are not to keep others
 * waiting: when there are too many, the last ones wait until the first are gone.
 */
void
queue_look(void)
{
	static WorkPlan expiry_plan = WORK_PLAN_BARE(
		"SELECT expires_at FROM @extschema@.llm_task"
		" WHERE finished_at IS NULL AND expires_at IS NOT NULL"
		" AND state = 'queued' ORDER BY expires_at LIMIT 1");
	dlist_iter	iter;
	uint64		n;

	dlist_foreach(iter, &queue.lanes)
		dlist_container(Lane, node, iter.cur)->listed = false;
	n = work_execute(&tiers_plan, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
		take_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	finish_look();

	queue.next_expiry = USEC_NEVER;
	if (work_execute(&expiry_plan, NULL, NULL) > 0)
		take_expiry(SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
}

/* Takes in what there is of a tier's tasks. */
static void
take_row(HeapTuple row, TupleDesc desc)
{
	Lane	   *lane = lane_of_tier(SPI_getvalue(row, desc, 1));
	const Tier *tier = config_tier(queue.config, lane->tier);
	Usec		waiting;
	bool		null;

	lane->listed = true;
	lane->has_due = DatumGetBool(SPI_getbinval(row, desc, 2, &null));
	lane->next_due = usec_or_never(row, desc, 3);
	waiting = usec_or_never(row, desc, 4);
	lane->expires_at = waiting != USEC_NEVER && tier && tier->queue_timeout > 0 ?
		waiting + tier->queue_timeout : USEC_NEVER;
	lane_rewind(lane);
}

static void
take_expiry(HeapTuple row, TupleDesc desc)
{
	queue.next_expiry = usec_or_never(row, desc, 1);
}

/* Returns a time of day as monotonic time; NULL is never. */
static Usec
usec_or_never(HeapTuple row, TupleDesc desc, int column)
{
	bool		null;
	Datum		at = SPI_getbinval(row, desc, column, &null);

	if (null || TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(at)))
		return USEC_NEVER;
	return usec_of_wall(DatumGetTimestampTz(at));
}

/* Forgets lanes without tasks. */
static void
finish_look(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &queue.lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane->listed)
			continue;
		if (lane->ntasks == 0)
			lane_forget(lane);
		else
		{
			lane->dry = true;
			lane->has_due = false;
			lane->next_due = lane->expires_at = USEC_NEVER;
		}
	}
}

/* --- expiry --- */

/* What a task becomes whose time in the queue is over. */
#define EXPIRE_SET \
	" UPDATE @extschema@.llm_task t SET" \
	" state = CASE WHEN t.on_finish IS NULL THEN 'expired' ELSE 'answered' END," \
	" final_state = CASE WHEN t.on_finish IS NULL THEN NULL ELSE 'expired' END," \
	" finished_at = CASE WHEN t.on_finish IS NULL THEN pg_catalog.now() END," \
	" claimed_key = t.dedupe_key, dedupe_key = NULL," \
	" error_code = 'LL002', error = late.why" \
	" FROM late WHERE t.id = late.id RETURNING t.on_finish IS NOT NULL"

/* Ends the wait of those for whom it is over, inside of a transaction. */
void
queue_expire(Usec now)
{
	dlist_iter	iter;

	queue.expired_at = now;
	if (queue.next_expiry <= now)
		expire_by_time();
	dlist_foreach(iter, &queue.lanes)
	{
		const Lane *lane = dlist_container(Lane, node, iter.cur);

		if (lane->expires_at <= now)
			expire_by_tier(lane);
	}
}

/* Expires tasks whose expires_at has passed. */
static void
expire_by_time(void)
{
	static const Oid types[] = {INT4OID};
	static WorkPlan plan = WORK_PLAN(
		"WITH late AS MATERIALIZED ("
		" SELECT id, 'expires_at has passed' AS why FROM @extschema@.llm_task"
		"  WHERE finished_at IS NULL AND expires_at <= pg_catalog.now()"
		"  AND state = 'queued' ORDER BY expires_at LIMIT $1"
		"  FOR UPDATE SKIP LOCKED)" EXPIRE_SET,
		types);
	Datum		values[] = {Int32GetDatum(EXPIRE_BATCH)};

	if (work_execute(&plan, values, NULL) > 0)
		note_expired();
}

/*
 * Expires tasks that have waited for longer than their tier allows. One that
 * may be answered by another tier is claimed then instead: see claim.c.
 */
static void
expire_by_tier(const Lane *lane)
{
	static const Oid types[] = {TEXTOID, TIMESTAMPTZOID, INT4OID};
	static WorkPlan plan = WORK_PLAN(
		"WITH late AS MATERIALIZED ("
		" SELECT id, 'queue_timeout of the tier has passed' AS why"
		"  FROM @extschema@.llm_task"
		"  WHERE tier = $1 AND finished_at IS NULL AND state = 'queued'"
		"  AND greatest(created_at, not_before) <= $2 AND NOT allow_degraded"
		"  ORDER BY tier, greatest(created_at, not_before) LIMIT $3"
		"  FOR UPDATE SKIP LOCKED)" EXPIRE_SET,
		types);
	const Tier *tier = config_tier(queue.config, lane->tier);
	Datum		values[3];

	if (tier == NULL || tier->queue_timeout == 0)
		return;
	values[0] = CStringGetTextDatum(lane->tier);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp() -
									tier->queue_timeout);
	values[2] = Int32GetDatum(EXPIRE_BATCH);
	if (work_execute(&plan, values, NULL) > 0)
		note_expired();
}

/* Notes who is to be told. */
static void
note_expired(void)
{
	bool		null;

	for (uint64 i = 0; i < SPI_processed; i++)
		note_result(DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
											   SPI_tuptable->tupdesc, 1,
											   &null)));
}
