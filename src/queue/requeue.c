/*
 * requeue.c
 *	  What goes back to the queue, or is not the worker's any more: tasks of
 *	  older incarnations, tasks that were cancelled or deleted, and all when the
 *	  process ends.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "queue/task.h"
#include "queue/work.h"

/*
 * Tasks that could not be taken back are looked for so often at most, and take
 * one part in so many of the time.
 */
#define TAKE_BACK_INTERVAL (5 * USEC_SEC)
#define TAKE_BACK_SHARE 20

#define KEY_WAIT "1ms"

/* Which tasks were revoked could not be found out. */
#define DROP_AGAIN (1 * USEC_SEC)

/* After so many that could not be, the rest waits. */
#define MOST_FAILURES 20

/* Tasks that older incarnations have left running. */
typedef struct LeftBehind
{
	int			n;
	Datum	   *ids;			/* newest first */
	int			first;			/* of those to take back in one transaction */
	int			count;
	int			taken;			/* so far */
} LeftBehind;

/* The tasks that are under way, and which of them are lost. */
typedef struct UnderWay
{
	int			n;
	Datum	   *ids;
	int			nlost;
	int64	   *lost;
} UnderWay;

static void find_left(void *arg);
static void take_back_all(LeftBehind *left);
static bool take_back_some(LeftBehind *left);
static void take_back(void *arg);
static void add_ids(UnderWay *under_way, dlist_head *tasks);
static void find_lost(void *arg);
static void drop(CallLoop *loop, dlist_head *tasks, int *count, int64 id);
static void end_all(CallLoop *loop, dlist_head *tasks, int *count);

/*
 * Puts a running task, whose row is locked, back into the queue. It gets its
 * key again, unless a newer one has that by now: then it is superseded. With
 * tries < 0 and a NULL error, what is there stays.
 */
void
requeue_row(int64 id, int tries, const char *error, const char *error_code)
{
	static const Oid types[] = {INT8OID, INT2OID, TEXTOID, TEXTOID};
	static WorkPlan plan = WORK_PLAN(
		"WITH it AS MATERIALIZED (SELECT t.claimed_key IS NOT NULL AND EXISTS ("
		"  SELECT 1 FROM @extschema@.llm_task q"
		"   WHERE q.role = t.role AND q.dedupe_key = t.claimed_key)"
		"  AS superseded FROM @extschema@.llm_task t WHERE t.id = $1)"
		"UPDATE @extschema@.llm_task t SET"
		" state = CASE WHEN NOT it.superseded THEN 'queued'"
		"  WHEN t.on_finish IS NULL THEN 'cancelled' ELSE 'answered' END,"
		" final_state = CASE WHEN it.superseded AND t.on_finish IS NOT NULL"
		"  THEN 'cancelled' END,"
		" finished_at = CASE WHEN it.superseded AND t.on_finish IS NULL"
		"  THEN pg_catalog.clock_timestamp() END,"
		" dedupe_key = CASE WHEN NOT it.superseded THEN t.claimed_key END,"
		" claimed_key = CASE WHEN it.superseded THEN t.claimed_key END,"
		" lease = NULL, tries = coalesce($2, t.tries),"
		" error = CASE WHEN it.superseded"
		"  THEN 'superseded by a newer task with the same dedupe_key'"
		"  ELSE coalesce($3, t.error) END,"
		" error_code = CASE WHEN it.superseded THEN '57014'"
		"  ELSE coalesce($4, t.error_code) END"
		" FROM it WHERE t.id = $1"
		" RETURNING it.superseded, t.on_finish IS NOT NULL",
		types);
	char		nulls[] = "    ";
	Datum		values[] = {
		Int64GetDatum(id), Int16GetDatum(tries), (Datum) 0, (Datum) 0
	};
	HeapTuple	row;
	bool		null;

	if (tries < 0)
		nulls[1] = 'n';
	if (error)
	{
		values[2] = CStringGetTextDatum(error);
		values[3] = CStringGetTextDatum(error_code);
	}
	else
		nulls[2] = nulls[3] = 'n';
	if (work_execute(&plan, values, nulls) != 1)
		return;
	row = SPI_tuptable->vals[0];
	if (DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &null)))
		note_result(DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2,
											   &null)));
}

/*
 * Has this transaction hardly wait for a user's that has taken a key and is not
 * committed yet: meanwhile no answer is read.
 */
void
requeue_be_impatient(void)
{
	(void) set_config_option("lock_timeout", KEY_WAIT, PGC_SUSET,
							 PGC_S_OVERRIDE, GUC_ACTION_LOCAL, true, 0, false);
}

/* --- older incarnations --- */

/*
 * Takes back what older incarnations left; false when that has failed. Rows
 * that somebody has locked, or whose key an uncommitted task has, are left for
 * later: the others do not wait. To find them again may cost a walk through the
 * queue, so that is not done often.
 */
bool
queue_take_back(void)
{
	Usec		begun = clock_now();
	LeftBehind	left = {0};
	WorkEnd		end = work_run("looking for tasks left behind", find_left,
							   &left);

	if (end == WORK_DONE)
		take_back_all(&left);
	queue.take_back_at = end == WORK_DONE && left.taken == left.n ?
		USEC_NEVER : begun + TAKE_BACK_INTERVAL +
		TAKE_BACK_SHARE * (clock_now() - begun);
	if (left.ids)
		pfree(left.ids);
	queue.look_wanted = true;
	tell_of_results(clock_now());
	return end == WORK_DONE;
}

/* Finds running rows of other incarnations, newest first. */
static void
find_left(void *arg)
{
	static const Oid types[] = {INT8OID};
	static WorkPlan plan = WORK_PLAN(
		"WITH behind AS MATERIALIZED ("
		" SELECT id FROM @extschema@.llm_task"
		"  WHERE finished_at IS NULL AND state = 'running'"
		"  AND lease IS DISTINCT FROM $1)"
		" SELECT id FROM behind ORDER BY id DESC",
		types);
	LeftBehind *left = arg;
	Datum		incarnation = Int64GetDatum(queue.incarnation);
	bool		null;

	left->n = (int) work_execute(&plan, &incarnation, NULL);
	left->ids = MemoryContextAlloc(queue.context,
								   (left->n + 1) * sizeof(Datum));
	for (int i = 0; i < left->n; i++)
		left->ids[i] = SPI_getbinval(SPI_tuptable->vals[i],
									 SPI_tuptable->tupdesc, 1, &null);
}

/* Takes them back, all at once if that can be done, or else one by one. */
static void
take_back_all(LeftBehind *left)
{
	int			failures = 0;

	left->count = left->n;
	if (left->n == 0 || take_back_some(left))
		return;
	left->count = 1;
	for (; left->first < left->n && failures < MOST_FAILURES; left->first++)
		if (!take_back_some(left))
			failures++;
}

static bool
take_back_some(LeftBehind *left)
{
	int			taken = left->taken;

	if (work_run("taking back tasks", take_back, left) == WORK_DONE)
		return true;
	left->taken = taken;
	return false;
}

static void
take_back(void *arg)
{
	static const Oid types[] = {INT8ARRAYOID, INT8OID};
	static WorkPlan plan = WORK_PLAN(
		"SELECT id FROM @extschema@.llm_task"
		" WHERE id = ANY ($1) AND state = 'running'"
		" AND lease IS DISTINCT FROM $2"
		" ORDER BY id DESC FOR NO KEY UPDATE SKIP LOCKED",
		types);
	LeftBehind *left = arg;
	ArrayType  *ids = construct_array(left->ids + left->first, left->count,
									  INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
									  TYPALIGN_DOUBLE);
	Datum		values[] = {
		PointerGetDatum(ids), Int64GetDatum(queue.incarnation)
	};
	SPITupleTable *rows;
	uint64		n;
	bool		null;

	requeue_be_impatient();
	n = work_execute(&plan, values, NULL);
	rows = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
		requeue_row(DatumGetInt64(SPI_getbinval(rows->vals[i], rows->tupdesc,
												1, &null)), -1, NULL, NULL);
	left->taken += (int) n;
}

/* --- cancelled and deleted --- */

/*
 * Aborts the calls of tasks that were cancelled or deleted. Who has done that
 * tells us before his locks are released, so it may take a second time.
 */
void
queue_drop_revoked(CallLoop *loop, Usec now)
{
	int			most = queue.nready + queue.nrunning;
	UnderWay	under_way = {0};

	queue.drop_at = USEC_NEVER;
	if (most == 0)
		return;
	under_way.ids = palloc(most * sizeof(Datum));
	under_way.lost = palloc(most * sizeof(int64));
	add_ids(&under_way, &queue.ready);
	add_ids(&under_way, &queue.running);
	if (work_run("looking for cancelled tasks", find_lost, &under_way) !=
		WORK_DONE)
	{
		under_way.nlost = 0;
		queue.drop_at = now + DROP_AGAIN;
	}
	for (int i = 0; i < under_way.nlost; i++)
	{
		drop(loop, &queue.ready, &queue.nready, under_way.lost[i]);
		drop(loop, &queue.running, &queue.nrunning, under_way.lost[i]);
	}
	pfree(under_way.ids);
	pfree(under_way.lost);
}

static void
add_ids(UnderWay *under_way, dlist_head *tasks)
{
	dlist_iter	iter;

	dlist_foreach(iter, tasks)
		under_way->ids[under_way->n++] =
			Int64GetDatum(dlist_container(Task, node, iter.cur)->id);
}

/* Finds out which tasks are not running under this incarnation any more. */
static void
find_lost(void *arg)
{
	static const Oid types[] = {INT8ARRAYOID, INT8OID};
	static WorkPlan plan = WORK_PLAN(
		"SELECT u.id FROM pg_catalog.unnest($1) u(id) WHERE NOT EXISTS ("
		" SELECT 1 FROM @extschema@.llm_task t"
		"  WHERE t.id = u.id AND t.state = 'running' AND t.lease = $2)",
		types);
	UnderWay   *under_way = arg;
	ArrayType  *ids = construct_array(under_way->ids, under_way->n, INT8OID,
									  sizeof(int64), FLOAT8PASSBYVAL,
									  TYPALIGN_DOUBLE);
	Datum		values[] = {
		PointerGetDatum(ids), Int64GetDatum(queue.incarnation)
	};
	bool		null;

	under_way->nlost = (int) work_execute(&plan, values, NULL);
	for (int i = 0; i < under_way->nlost; i++)
		under_way->lost[i] =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
										SPI_tuptable->tupdesc, 1, &null));
}

/* Drops a task that is under way, if it is one of these. */
static void
drop(CallLoop *loop, dlist_head *tasks, int *count, int64 id)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, tasks)
	{
		Task	   *task = dlist_container(Task, node, iter.cur);

		if (task->id != id)
			continue;
		dlist_delete(&task->node);
		(*count)--;
		task->lane->claimed--;
		if (tasks == &queue.running)
			calls_abandon(loop, task->call);
		else
			task->lane->ready--;
		task_free(task);
		return;
	}
}

/* --- all --- */

/* Aborts everything, and puts it back into the queue. */
void
queue_release_all(CallLoop *loop)
{
	dlist_iter	iter;

	end_all(loop, &queue.ready, &queue.nready);
	end_all(loop, &queue.running, &queue.nrunning);
	dlist_foreach(iter, &queue.ended)
	{
		Task	   *task = dlist_container(Task, node, iter.cur);

		task->store_at = 0;
		if (task->end == END_IN_DOUBT)
			task->end = END_RELEASE;
	}
	queue_store(clock_now());
}

/* Moves what is under way to the ended ones, to be put back into the queue. */
static void
end_all(CallLoop *loop, dlist_head *tasks, int *count)
{
	while (!dlist_is_empty(tasks))
	{
		Task	   *task = dlist_container(Task, node,
										   dlist_pop_head_node(tasks));

		(*count)--;
		task->lane->claimed--;
		if (tasks == &queue.running)
			calls_abandon(loop, task->call);
		else
			task->lane->ready--;
		task->end = END_RELEASE;
		dlist_push_tail(&queue.ended, &task->node);
		queue.nended++;
	}
}

/*
 * Forgets the tasks that are ready and were claimed by a transaction that has
 * failed: they are in the queue as before.
 */
void
queue_forget_claimed(dlist_node *last)
{
	while (!dlist_is_empty(&queue.ready) &&
		   dlist_tail_node(&queue.ready) != last)
	{
		Task	   *task = dlist_container(Task, node,
										   dlist_tail_node(&queue.ready));

		dlist_delete(&task->node);
		queue.nready--;
		task->lane->claimed--;
		task->lane->ready--;
		lane_rewind(task->lane);
		task_free(task);
	}
}
