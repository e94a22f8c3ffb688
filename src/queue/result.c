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
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "queue/task.h"
#include "queue/work.h"

/* So many results are stored in one transaction. */
#define STORE_BATCH 256

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

/* The columns of a result. */
typedef enum ResultColumn
{
	COLUMN_ID,
	COLUMN_STATE,
	COLUMN_FINAL_STATE,
	COLUMN_TRIES,
	COLUMN_ANSWER,
	COLUMN_RESPONSE,
	COLUMN_ERROR,
	COLUMN_ERROR_CODE
} ResultColumn;

#define RESULT_COLUMNS (COLUMN_ERROR_CODE + 1)

/* Results of one transaction, column by column. */
typedef struct Results
{
	int			n;
	Datum		values[RESULT_COLUMNS][STORE_BATCH];
	bool		nulls[RESULT_COLUMNS][STORE_BATCH];
} Results;

static void store_all(bool keyed, Usec now);
static void collect(Batch *batch, Usec now);
static bool wants_key(const Task *task);
static void store_each(const Batch *all);
static bool store_batch(Batch *batch);
static void store_in_transaction(void *arg);
static void finish(Batch *batch, Usec wait);
static Datum ids_of(const Batch *batch);
static void lock_rows(const Batch *batch, bool *locked);
static void drop_lost(Batch *batch, const bool *locked);
static void mark(const Batch *batch, bool *marks);
static void store_rows(Batch *batch, const bool *locked);
static void add_result(Results *results, const Task *task);
static void put(Results *results, int row, ResultColumn column, Datum value);
static void put_text(Results *results, int row, ResultColumn column,
					 const char *text);
static void write_results(Results *results);
static Datum answer_of(const Answer *answer);
static Datum response_of(const EndedCall *result);
static TupleDesc response_type(void);
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
			dlist_delete(&one.tasks[0]->node);
			dlist_push_tail(&queue.ended, &one.tasks[0]->node);
		}
		finish(&one, tried ? FAILED_WAIT : LOCKED_WAIT);
	}
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
		lane_shut(lane, text_to_cstring(task->args.residency), now + wait);
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

/*
 * Writes what has become of the tasks whose rows are locked. Results go into
 * one statement: to begin one costs more than ten rows in it, since PostgreSQL
 * reads the table's CHECKs anew each time.
 */
static void
store_rows(Batch *batch, const bool *locked)
{
	Results    *results = palloc0(sizeof(Results));

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
			add_result(results, task);
		batch->stored[i] = true;
	}
	if (results->n > 0)
		write_results(results);
}

/* Adds an end that is final, but for on_finish. */
static void
add_result(Results *results, const Task *task)
{
	const char *state = task->end == END_DONE ? "done" :
		task->end == END_EXPIRED ? "expired" : "failed";
	int			row = results->n++;

	put(results, row, COLUMN_ID, Int64GetDatum(task->id));
	put_text(results, row, COLUMN_STATE,
			 task->has_callback ? "answered" : state);
	put_text(results, row, COLUMN_FINAL_STATE,
			 task->has_callback ? state : NULL);
	put(results, row, COLUMN_TRIES,
		Int16GetDatum(task->tries + (task->end == END_FAILED)));
	results->nulls[COLUMN_ANSWER][row] = true;
	if (task->end == END_DONE && task->call->answer.text)
		put(results, row, COLUMN_ANSWER, answer_of(&task->call->answer));
	results->nulls[COLUMN_RESPONSE][row] = true;
	if (task->result)
		put(results, row, COLUMN_RESPONSE, response_of(task->result));
	put_text(results, row, COLUMN_ERROR, task->error);
	put_text(results, row, COLUMN_ERROR_CODE, task->error_code);
	note_result(task->has_callback);
}

static void
put(Results *results, int row, ResultColumn column, Datum value)
{
	results->values[column][row] = value;
	results->nulls[column][row] = false;
}

/* Puts a text; NULL stays NULL. */
static void
put_text(Results *results, int row, ResultColumn column, const char *text)
{
	if (text)
		put(results, row, column, CStringGetTextDatum(text));
	else
		results->nulls[column][row] = true;
}

/* Writes results into rows that are locked. */
static void
write_results(Results *results)
{
	static const Oid types[RESULT_COLUMNS] = {
		INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT2ARRAYOID, TEXTARRAYOID,
		JSONBARRAYOID, TEXTARRAYOID, TEXTARRAYOID
	};
	static WorkPlan plan = WORK_PLAN(
		"UPDATE @extschema@.llm_task t SET state = r.state,"
		" final_state = r.final_state,"
		" finished_at = CASE WHEN r.final_state IS NULL"
		"  THEN pg_catalog.clock_timestamp() END,"
		" tries = r.tries, answer = r.answer, response = r.response,"
		" error = r.error, error_code = r.error_code"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
		"  AS r(id, state, final_state, tries, answer, response, error,"
		"   error_code)"
		" WHERE t.id = r.id",
		types);
	Datum		values[RESULT_COLUMNS];

	for (int i = 0; i < RESULT_COLUMNS; i++)
	{
		Oid			type = get_element_type(types[i]);
		int			dims[1] = {results->n};
		int			lbs[1] = {1};
		int16		len;
		bool		byval;
		char		align;

		get_typlenbyvalalign(type, &len, &byval, &align);
		values[i] = PointerGetDatum(construct_md_array(results->values[i],
													   results->nulls[i],
													   1, dims, lbs, type,
													   len, byval, align));
	}
	(void) work_execute(&plan, values, NULL);
}

/* Returns an answer's text. */
static Datum
answer_of(const Answer *answer)
{
	return PointerGetDatum(cstring_to_text_with_len(answer->text,
													(int) answer->text_len));
}

/* Returns an ended call as to_jsonb(llm_response). */
static Datum
response_of(const EndedCall *result)
{
	static FmgrInfo to_jsonb = {0};
	TupleDesc	desc = response_type();
	Datum		row = response_row(desc, result);

	if (to_jsonb.fn_oid == InvalidOid)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		Node	   *arg = (Node *) makeNullConst(RECORDOID, -1, InvalidOid);

		fmgr_info(F_TO_JSONB, &to_jsonb);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												 list_make1(arg), InvalidOid,
												 InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &to_jsonb);
		MemoryContextSwitchTo(old);
	}
	ReleaseTupleDesc(desc);
	return FunctionCall1(&to_jsonb, row);
}

/* Looks llm_response up. */
static TupleDesc
response_type(void)
{
	static WorkPlan plan = WORK_PLAN_BARE(
		"SELECT '@extschema@.llm_response'::pg_catalog.regtype::pg_catalog.oid");
	static Oid	type;
	static Oid	as_of;
	bool		null;

	if (as_of != work_function())
	{
		(void) work_execute(&plan, NULL, NULL);
		type = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &null));
		as_of = work_function();
	}
	return lookup_rowtype_tupdesc(type, -1);
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
