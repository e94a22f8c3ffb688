/*
 * result.c
 *	  Stores results, and puts back into the queue what was not answered.
 *
 * A result is written only where its row is still running under this
 * incarnation, so it is applied once, whatever was killed when. Rows are locked
 * first, without waiting: one that a user's transaction holds is left for
 * later, and one that is no longer ours (cancelled, deleted) is dropped.
 *
 * Many results share a transaction. When that fails, for one row's sake, each
 * is stored in a transaction of its own: the others do not wait. Tasks that want
 * their key back are kept apart from the rest: a queued task with the same key
 * that is not committed yet would keep all waiting.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "queue/task.h"
#include "queue/work.h"

/* A row that somebody has locked is looked at again after that. */
#define LOCKED_WAIT (250 * USEC_MSEC)

/* And one that could not be stored for another reason. */
#define FAILED_WAIT (1 * USEC_SEC)

/* Listeners are told no more often than this. */
#define NOTIFY_INTERVAL (100 * USEC_MSEC)

/* Of tasks that want a key back, so many may fail one after the other, */
#define MOST_WAITS 10

/* and of others. */
#define MOST_FAILURES 2

/* Results that are being stored. */
typedef struct Batch
{
	int			n;
	bool		keyed;			/* all of them, or none, want a key back */
	Task	   *tasks[STORE_BATCH];
	bool		stored[STORE_BATCH];	/* or dropped */
	Usec		now;
} Batch;

static void store_all(bool keyed, Usec now);
static void collect(Batch *batch, Usec now);
static bool wants_key(const Task *task);
static void store_each(const Batch *all);
static bool is_results_fault(int sqlstate);
static bool store_batch(Batch *batch);
static void store_in_transaction(void *arg);
static void finish(Batch *batch, Usec wait);
static Datum ids_of(const Batch *batch);
static void lock_rows(const Batch *batch, bool *locked);
static void drop_lost(Batch *batch, const bool *locked);
static void mark(const Batch *batch, bool *marks);
static void store_rows(Batch *batch, const bool *locked);
static void give_back(Task *task, Usec now);

/* Stores the results that are there and can be stored now. */
void
queue_store(Usec now)
{
	store_all(false, now);
	store_all(true, now);
	tell_of_results(now);
}

/* Stores those that want a key back, or those that do not. */
static void
store_all(bool keyed, Usec now)
{
	static Batch batch;

	batch.keyed = keyed;
	for (;;)
	{
		collect(&batch, now);
		if (batch.n == 0)
			break;
		if (store_batch(&batch))
			finish(&batch, LOCKED_WAIT);
		else
			store_each(&batch);
	}
}

/*
 * Stores each result of a batch by itself. When some of them fail it is not for
 * one row's sake, the table is locked, say: then the rest waits, but not for as
 * long as these, which are behind the others the next time.
 */
static void
store_each(const Batch *all)
{
	int			most = all->keyed ? MOST_WAITS : MOST_FAILURES;
	int			failures = 0;

	for (int i = 0; i < all->n; i++)
	{
		Batch		one = {.n = 1, .keyed = all->keyed, .now = all->now};
		bool		tried = failures < most;

		one.tasks[0] = all->tasks[i];
		if (tried && !store_batch(&one))
		{
			failures++;
			if (is_results_fault(work_sqlstate()))
				task_give_up(one.tasks[0], work_sqlstate());
			dlist_delete(&one.tasks[0]->node);
			dlist_push_tail(&queue.ended, &one.tasks[0]->node);
		}
		finish(&one, tried ? FAILED_WAIT : LOCKED_WAIT);
	}
}

/*
 * Says whether an error in storing one result comes from what it says: too much
 * for a jsonb, say, or for a CHECK that somebody has added. To try again would be
 * in vain, for ever.
 */
static bool
is_results_fault(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return sqlstate == ERRCODE_CHECK_VIOLATION ||
		sqlstate == ERRCODE_NOT_NULL_VIOLATION ||
		category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/* Collects results that are due, and notes when the next one of all is. */
static void
collect(Batch *batch, Usec now)
{
	dlist_iter	iter;

	batch->n = 0;
	batch->now = now;
	queue.store_next = USEC_NEVER;
	dlist_foreach(iter, &queue.ended)
	{
		Task	   *task = dlist_container(Task, node, iter.cur);

		if (task->store_at <= now && task->end == END_IN_DOUBT)
			task_judge(task, now);
		if (task->store_at > now)
			queue.store_next = Min(queue.store_next, task->store_at);
		else if (wants_key(task) == batch->keyed && batch->n < STORE_BATCH)
			batch->tasks[batch->n++] = task;
	}
}

/* Says whether somebody else's transaction may have to be waited for. */
static bool
wants_key(const Task *task)
{
	return task->has_key &&
		(task->end == END_RETRY || task->end == END_RELEASE);
}

/* Stores some results in one transaction; false when that has failed. */
static bool
store_batch(Batch *batch)
{
	memset(batch->stored, false, sizeof(batch->stored));
	if (work_run("storing results of tasks", store_in_transaction, batch) ==
		WORK_DONE)
		return true;
	memset(batch->stored, false, sizeof(batch->stored));
	return false;
}

static void
store_in_transaction(void *arg)
{
	Batch	   *batch = arg;
	bool		locked[STORE_BATCH] = {false};

	if (batch->keyed)
		requeue_be_impatient();
	lock_rows(batch, locked);
	drop_lost(batch, locked);

	store_rows(batch, locked);
}

/* Forgets what is stored, and leaves the rest for later. */
static void
finish(Batch *batch, Usec wait)
{
	for (int i = 0; i < batch->n; i++)
	{
		Task	   *task = batch->tasks[i];

		if (!batch->stored[i])
		{
			task->store_at = batch->now + wait;
			queue.store_next = Min(queue.store_next, task->store_at);
			continue;
		}
		dlist_delete(&task->node);
		queue.nended--;
		if (task->end == END_RETRY || task->end == END_RELEASE)
			give_back(task, batch->now);
		task_free(task);
	}
}

/* Lets a task that is back in the queue be claimed again, in a while. */
static void
give_back(Task *task, Usec now)
{
	Lane	   *lane = task->lane;
	Usec		wait = task_backoff(task);

	if (wait > 0)
		lane_defer(lane, task->id, now + wait, task->outage);
	if (task->end == END_RELEASE && task->outage && task->args.residency)
		lane_shut(lane, task, now + wait);
	lane_rewind(lane);
}

/* --- rows --- */

/* Returns the IDs of a batch as an array. */
static Datum
ids_of(const Batch *batch)
{
	Datum		ids[STORE_BATCH];

	for (int i = 0; i < batch->n; i++)
		ids[i] = Int64GetDatum(batch->tasks[i]->id);
	return PointerGetDatum(construct_array(ids, batch->n, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/* Locks the rows that are still ours and that nobody else has locked. */
static void
lock_rows(const Batch *batch, bool *locked)
{
	static const Oid types[] = {INT8ARRAYOID, INT8OID};
	static WorkPlan plan = WORK_PLAN(
		"SELECT id FROM @extschema@.llm_task"
		" WHERE id = ANY ($1) AND state = 'running' AND lease = $2"
		" FOR NO KEY UPDATE SKIP LOCKED",
		types);
	Datum		values[] = {
		ids_of(batch), Int64GetDatum(queue.incarnation)
	};

	(void) work_execute(&plan, values, NULL);
	mark(batch, locked);
}

/* Takes for stored what is no longer ours, as opposed to locked. */
static void
drop_lost(Batch *batch, const bool *locked)
{
	static const Oid types[] = {INT8ARRAYOID, INT8OID};
	static WorkPlan plan = WORK_PLAN(
		"SELECT id FROM @extschema@.llm_task"
		" WHERE id = ANY ($1) AND state = 'running' AND lease = $2",
		types);
	Datum		values[] = {
		ids_of(batch), Int64GetDatum(queue.incarnation)
	};
	bool		ours[STORE_BATCH] = {false};

	if (SPI_processed == (uint64) batch->n)
		return;
	(void) work_execute(&plan, values, NULL);
	mark(batch, ours);
	for (int i = 0; i < batch->n; i++)
		if (!ours[i] && !locked[i])
		{
			batch->tasks[i]->end = END_DONE;	/* for nobody */
			batch->stored[i] = true;
		}
}

/* Marks the tasks whose IDs the last statement has returned. */
static void
mark(const Batch *batch, bool *marks)
{
	int			next = 0;
	bool		null;

	for (uint64 row = 0; row < SPI_processed; row++)
	{
		int64		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row],
													 SPI_tuptable->tupdesc,
													 1, &null));

		/* rows come nearly in the batch's order */
		for (int tried = 0; tried < batch->n; tried++)
		{
			int			i = (next + tried) % batch->n;

			if (batch->tasks[i]->id == id)
			{
				marks[i] = true;
				next = i + 1;
				break;
			}
		}
	}
}

/* Writes what has become of the tasks whose rows are locked. */
static void
store_rows(Batch *batch, const bool *locked)
{
	Results    *results = results_begin();

	/* newest first: of two with the same key the newer one keeps it */
	for (int i = batch->n - 1; i >= 0; i--)
	{
		const Task *task = batch->tasks[i];

		if (!locked[i])
			continue;
		if (task->end == END_RETRY)
			requeue_row(task->id, task->tries + 1, task->error,
						task->error_code);
		else if (task->end == END_RELEASE)
			requeue_row(task->id, task->tries, task->error, task->error_code);
		else
			results_add(results, task);
		batch->stored[i] = true;
	}
	results_write(results);
}

/* --- who is told --- */

void
note_result(bool has_callback)
{
	if (has_callback)
		queue.answered = true;
	else
		queue.settled = true;
}

static void
notify(void *arg)
{
	(void) arg;
	(void) set_config_option("synchronous_commit", "off", PGC_SUSET,
							 PGC_S_OVERRIDE, GUC_ACTION_LOCAL, true, 0,
							 false);
	Async_Notify("llm_task", "");
}

/*
 * Has the settler run the on_finish of what was answered, and tells listeners,
 * but not all the time. In a transaction of its own: a listener that sleeps may
 * let the queue of notifications run full, which must not keep results from
 * being stored.
 */
void
tell_of_results(Usec now)
{
	if (queue.answered)
		slot_signal(queue.slot, SLOT_SETTLER, SIGNAL_ANSWERED);
	queue.answered = false;
	if (!queue.settled || now < queue.notify_at)
		return;
	queue.notify_at = clock_now() + NOTIFY_INTERVAL;
	queue.settled = work_run("telling listeners", notify, NULL) != WORK_DONE;
}
