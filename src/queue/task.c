/*
 * task.c
 *	  A task in the worker: from its row to a call, and what the call's end
 *	  means for it.
 *
 * A task that fails by itself has used up a try. One that fails because nobody
 * can answer has not: it goes back to the queue and waits there. The difference
 * is not in the failure but in what becomes of others: if those whom it has
 * asked are shut off now, it was an outage; if anybody else has been answered
 * since, it was the task. Until one of the two has happened it is in doubt, for
 * a moment. A task that fails in an outage again and again, while others are
 * answered in between, is not believed a second time: it may be what opens the
 * breaker.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "catalog/breaker_store.h"
#include "queue/journal.h"
#include "queue/task.h"
#include "queue/work.h"
#include "settings.h"

/* For so long a failure is in doubt. */
#define DOUBT (2 * USEC_SEC)

/* Waits before the second try, and the longest. */
#define RETRY_BASE (1 * USEC_SEC)
#define RETRY_MAX (5 * 60 * USEC_SEC)

/* A task that failed in an outage lets others go first for so long. */
#define OUTAGE_WAIT (4 * USEC_SEC)

/* What a task asks with may be so large, and that of all that are claimed. */
#define MAX_TASK_SIZE ((Size) 16 * 1024 * 1024)
#define MAX_QUEUE_SIZE ((Size) 64 * 1024 * 1024)

/*
 * A limit that has refused one task keeps its lane for so long at most: then the
 * tier is asked again, of which others may be free.
 */
#define REFUSED_MAX (1 * USEC_SEC)

/* One that is too much at the time waits for so long. */
#define POSTPONE (100 * USEC_MSEC)

/* The columns that a claim returns. */
typedef enum ClaimedColumn
{
	CLAIMED_ID = 1,
	CLAIMED_PROMPT,
	CLAIMED_MESSAGES,
	CLAIMED_SYSTEM,
	CLAIMED_TIER,
	CLAIMED_MAX_TOKENS,
	CLAIMED_TEMPERATURE,
	CLAIMED_PARAMS,
	CLAIMED_FEATURE,
	CLAIMED_RESIDENCY,
	CLAIMED_ALLOW_DEGRADED,
	CLAIMED_EXPIRES_AT,
	CLAIMED_ROLE,
	CLAIMED_TRIES,
	CLAIMED_MAX_TRIES,
	CLAIMED_HAS_CALLBACK,
	CLAIMED_HAS_KEY
} ClaimedColumn;

static void read_args(CallArgs *args, HeapTuple row, TupleDesc desc);
static Size size_of_row(HeapTuple row, TupleDesc desc);
static void *varlena_column(HeapTuple row, TupleDesc desc, int column);
static Datum column(HeapTuple row, TupleDesc desc, int column);
static Usec expiry(HeapTuple row, TupleDesc desc);
static void step_prepare(CallLoop *loop, void *what);
static void take_end(Task *task, TaskEnd end, Usec now);
static void task_ended(Job *job, Call *call);
static void task_failed(Job *job, Call *call);
static void take_error(Task *task, int sqlstate, const char *message);
static bool has_asked_in_vain(const Task *task, Usec now);
static bool outcome_may_be_outage(Outcome outcome);
static bool was_held_up(const Task *task);
static TaskEnd fail(const Task *task);
static Usec jitter(Usec longest);

/* --- from the row --- */

/* Makes a task of a claimed row, in memory of its own. */
Task *
task_of_row(Lane *lane, HeapTuple row, TupleDesc desc)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "llm_failover task",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Task	   *task = palloc0(sizeof(Task));
	Size		size = size_of_row(row, desc);

	task->job = (Job) {task_ended, task_failed};
	task->context = context;
	task->lane = lane;
	task->id = DatumGetInt64(column(row, desc, CLAIMED_ID));
	if (size > MAX_TASK_SIZE)
		task->refused = (Report) {
			.sqlstate = SQLSTATE_LL(3),
			.message = "the prompt is longer than 16 MB",
		};
	else if (queue.size > 0 && queue.size + size > MAX_QUEUE_SIZE)
		task->postponed = true;
	else
	{
		task->size = size;
		read_args(&task->args, row, desc);
	}
	task->role = NameStr(*(Name) datumCopy(column(row, desc, CLAIMED_ROLE),
										   false, NAMEDATALEN));
	task->allow_degraded =
		DatumGetBool(column(row, desc, CLAIMED_ALLOW_DEGRADED));
	task->tries = DatumGetInt16(column(row, desc, CLAIMED_TRIES));
	task->max_tries = DatumGetInt16(column(row, desc, CLAIMED_MAX_TRIES));
	task->has_callback =
		DatumGetBool(column(row, desc, CLAIMED_HAS_CALLBACK));
	task->has_key = DatumGetBool(column(row, desc, CLAIMED_HAS_KEY));
	task->expires_at = expiry(row, desc);
	task->outage = lane_undefer(lane, task->id);
	lane->ntasks++;
	lane->claimed++;
	lane->ready++;
	queue.size += task->size;
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, queue.context);
	return task;
}

/*
 * Returns how large what a row asks with is, unpacked: it may be a thousand
 * times as large as what is stored, and a user's to choose.
 */
static Size
size_of_row(HeapTuple row, TupleDesc desc)
{
	static const int columns[] = {
		CLAIMED_PROMPT, CLAIMED_MESSAGES, CLAIMED_SYSTEM, CLAIMED_PARAMS
	};
	Size		size = 0;

	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		bool		null;
		Datum		value = SPI_getbinval(row, desc, columns[i], &null);

		if (!null)
			size += toast_raw_datum_size(value);
	}
	return size;
}

/* Takes what the row asks for, as if it were arguments of llm_respond(). */
static void
read_args(CallArgs *args, HeapTuple row, TupleDesc desc)
{
	bool		null;
	Datum		value;

	args->function = work_function();
	args->prompt = varlena_column(row, desc, CLAIMED_PROMPT);
	args->messages = varlena_column(row, desc, CLAIMED_MESSAGES);
	args->tier = varlena_column(row, desc, CLAIMED_TIER);
	args->system = varlena_column(row, desc, CLAIMED_SYSTEM);
	args->params = varlena_column(row, desc, CLAIMED_PARAMS);
	args->feature = varlena_column(row, desc, CLAIMED_FEATURE);
	args->residency = varlena_column(row, desc, CLAIMED_RESIDENCY);
	value = SPI_getbinval(row, desc, CLAIMED_MAX_TOKENS, &null);
	args->has_max_tokens = !null;
	args->max_tokens = null ? 0 : DatumGetInt32(value);
	value = SPI_getbinval(row, desc, CLAIMED_TEMPERATURE, &null);
	args->has_temperature = !null;
	args->temperature = null ? 0 : DatumGetFloat8(value);
	args->has_allow_degraded = true;
	args->allow_degraded =
		DatumGetBool(column(row, desc, CLAIMED_ALLOW_DEGRADED));
}

/* Returns a copy of a column of variable length, whole, or NULL. */
static void *
varlena_column(HeapTuple row, TupleDesc desc, int number)
{
	bool		null;
	Datum		value = SPI_getbinval(row, desc, number, &null);

	return null ? NULL : PG_DETOAST_DATUM_COPY(value);
}

/* Returns a column that is never NULL. */
static Datum
column(HeapTuple row, TupleDesc desc, int number)
{
	bool		null;

	return SPI_getbinval(row, desc, number, &null);
}

/* Returns when the task expires, in monotonic time. */
static Usec
expiry(HeapTuple row, TupleDesc desc)
{
	bool		null;
	Datum		at = SPI_getbinval(row, desc, CLAIMED_EXPIRES_AT, &null);

	if (null || TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(at)))
		return USEC_NEVER;
	return usec_of_wall(DatumGetTimestampTz(at));
}

/* --- to a call --- */

/*
 * Starts the call of a ready task, which is running then, or has ended. What is
 * wrong with its row is its own fault.
 */
void
task_start(CallLoop *loop, Task *task)
{
	dlist_delete(&task->node);
	queue.nready--;
	task->lane->ready--;
	dlist_push_tail(&queue.running, &task->node);
	queue.nrunning++;
	if (task->postponed)
	{
		take_end(task, END_RELEASE, clock_now());
		lane_refused(task->lane, clock_now() + POSTPONE);
	}
	else if (task->refused.sqlstate == 0 &&
			 !queue_guard(step_prepare, loop, task))
		task_failed(&task->job, NULL);
	else if (task->refused.sqlstate != 0)
	{
		take_error(task, task->refused.sqlstate, task->refused.message);
		take_end(task, END_FAILED, clock_now());
	}
	else
		calls_start(loop, task->call);
}

/* Makes the call, not started. */
static void
step_prepare(CallLoop *loop, void *what)
{
	Task	   *task = what;
	MemoryContext old = MemoryContextSwitchTo(task->context);
	CallSpec   *spec;
	bool		null;

	(void) loop;
	task->call = request_prepare(&task->args, &null, &task->refused);
	task->call->owner = task;
	spec = &task->call->spec;
	spec->background = true;
	if (task->expires_at != USEC_NEVER)
		spec->timeout = Max(1, Min(spec->timeout,
								   task->expires_at - clock_now()));
	MemoryContextSwitchTo(old);
}

/* --- what its end means --- */

/* Moves a task to the ended ones. */
static void
take_end(Task *task, TaskEnd end, Usec now)
{
	task->end = end;
	task->ended = now;
	dlist_delete(&task->node);
	queue.nrunning--;
	task->lane->claimed--;
	if (task->lane->outlook.state != OUTLOOK_OUT)
		task->lane->open_at = 0;	/* it has left a place to others */
	dlist_push_tail(&queue.ended, &task->node);
	if (queue.nended++ == 0)
		queue.oldest_result = now;
	queue.nfinished++;
	queue.store_next = Min(queue.store_next, now);
	if (end == END_IN_DOUBT)
		task_judge(task, now);
}

/* Takes the end of a task's call. */
static void
task_ended(Job *job, Call *call)
{
	static const Report none = {0};
	Task	   *task = (Task *) job;
	MemoryContext old = MemoryContextSwitchTo(task->context);
	Usec		now = clock_now();
	TaskEnd		end = END_IN_DOUBT;

	task->result = call_conclude(call, &none, InvalidOid);
	take_error(task, task->result->report.sqlstate,
			   task->result->report.message);
	journal_usage(call, call->spec.tier->name, task->role);
	if (llm_log_failovers)
		report_failover(call, task->role);
	switch (call->error)
	{
		case CALL_ANSWERED:
			end = END_DONE;
			lane_succeeded(task->lane, now);
			break;
		case CALL_REFUSED:
		case CALL_UNSAYABLE:
		case CALL_NO_RESIDENCY:
			end = END_FAILED;
			break;
		case CALL_SWITCHED_OFF:
		case CALL_MISCONFIGURED:
			end = END_RELEASE;
			break;
		case CALL_NO_ANSWER:
		case CALL_TIMED_OUT:
			break;
	}
	take_end(task, end, now);
	MemoryContextSwitchTo(old);
}

/* Takes an error that was raised, which is in the log. */
static void
task_failed(Job *job, Call *call)
{
	Task	   *task = (Task *) job;
	int			class = ERRCODE_TO_CATEGORY(guard_sqlstate());
	bool		passes = class == ERRCODE_INSUFFICIENT_RESOURCES ||
		class == ERRCODE_OPERATOR_INTERVENTION ||
		class == ERRCODE_SYSTEM_ERROR;

	(void) call;
	take_error(task, guard_sqlstate(), guard_message());
	take_end(task, passes ? fail(task) : END_FAILED, clock_now());
}

/* Keeps what went wrong; SQLSTATE 0 = nothing. */
static void
take_error(Task *task, int sqlstate, const char *message)
{
	if (sqlstate == 0)
		return;
	task->error = MemoryContextStrdup(task->context, message);
	task->error_code = MemoryContextStrdup(task->context,
										   unpack_sql_state(sqlstate));
}

/* Lets a task fail whose result the table does not take, as the log says why. */
void
task_give_up(Task *task, int sqlstate)
{
	task->end = END_FAILED;
	task->result = NULL;
	take_error(task, sqlstate, "its result could not be stored");
}

/* Decides about a task in doubt, if that can be decided by now. */
void
task_judge(Task *task, Usec now)
{
	Lane	   *lane = task->lane;
	const Later *later = &task->call->later;

	Assert(task->end == END_IN_DOUBT);
	if (task->expires_at <= now)
	{
		task->end = END_EXPIRED;
		take_error(task, SQLSTATE_LL(2), "expires_at has passed");
	}
	else if (was_held_up(task))
	{
		task->end = END_RELEASE;
		if (later->candidate == NULL)
			task->outage = now;
		else if (task->args.residency)
			lane_shut(lane, task, later->at);
		else
			lane_refused(lane, Min(later->at, now + REFUSED_MAX));
	}
	else if (task->outage != 0 && lane->last_success > task->outage)
		task->end = fail(task);
	else if (has_asked_in_vain(task, now))
	{
		task->end = END_RELEASE;
		task->outage = now;
	}
	else if (lane->last_success > task->ended || now >= task->ended + DOUBT ||
			 task->call->nattempts == 0)
		task->end = fail(task);
	else
		task->store_at = now + DOUBT / 20;
}

/* Says whether nobody was asked, only for reasons that pass. */
static bool
was_held_up(const Task *task)
{
	const Call *call = task->call;

	for (int i = 0; i < call->ntrace; i++)
		if (call->trace[i].outcome != OUTCOME_THROTTLED &&
			call->trace[i].outcome != OUTCOME_OWN_LIMIT &&
			call->trace[i].candidate->region != NULL)
			return false;
	return call->later.candidate != NULL || call->nnot_asked > 0;
}

/* Says whether all whom a task has asked are shut off now. */
static bool
has_asked_in_vain(const Task *task, Usec now)
{
	const Call *call = task->call;
	int			asked = 0;

	for (int i = 0; i < call->ntrace; i++)
	{
		const Candidate *candidate = call->trace[i].candidate;
		HealthCheck check;

		if (candidate->target == NULL)
			continue;
		if (!outcome_may_be_outage(call->trace[i].outcome))
			return false;
		router_check(candidate, 0, llm_sync_reserve, now, &check);
		if (check.verdict != HEALTH_OUT)
			return false;
		asked++;
	}
	return asked > 0;
}

/* Says whether an outcome may be nobody's fault but the provider's. */
static bool
outcome_may_be_outage(Outcome outcome)
{
	return outcome != OUTCOME_INVALID_OUTPUT &&
		outcome_rules[outcome].count != COUNTS_NOT;
}

/* Returns what a try that failed by itself leads to. */
static TaskEnd
fail(const Task *task)
{
	return task->tries + 1 >= task->max_tries ? END_FAILED : END_RETRY;
}

/*
 * Returns for how long a task that goes back to the queue is not claimed: after
 * a failure exponential backoff with jitter, as AWS has it.
 */
Usec
task_backoff(const Task *task)
{
	Usec		longest;

	if (task->end == END_RELEASE)
		return task->outage ? OUTAGE_WAIT / 2 + jitter(OUTAGE_WAIT) : 0;
	longest = Min(RETRY_BASE << Min(task->tries, 20), RETRY_MAX);
	return longest / 2 + jitter(longest / 2);
}

static Usec
jitter(Usec longest)
{
	return (Usec) (pg_prng_double(&pg_global_prng_state) * (double) longest);
}

/* Frees a task, with its call. */
void
task_free(Task *task)
{
	task->lane->ntasks--;
	queue.size -= task->size;
	MemoryContextDelete(task->context);
}
