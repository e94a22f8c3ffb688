/*
 * callback.c
 *	  Runs the on_finish function of an answered task: see callback.h.
 *
 * The function and the task's final state are one transaction. What the
 * function raises undoes that, and is stored by another one.
 *
 * It has llm_failover.on_finish_timeout before it is cancelled, deferred
 * triggers included. One that goes on regardless is ended with its process some
 * seconds later: its task is left behind in slot->settling, for the next
 * settler to bury. When the process is told to end, the function is not to
 * blame.
 *
 * While it runs this process is no better than a user's: the triggers of
 * llm_task look at its writes. See as_role.c for all else.
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "as_role.h"
#include "callback.h"
#include "queue/work.h"
#include "settings.h"

/* From being cancelled until the process is ended (ms). */
#define GRACE 5000

/* Of an error's message, so much is stored (bytes). */
#define MESSAGE_SIZE 2000

/* A function that is run. */
typedef struct Callback
{
	int64		task;
	bool		began;			/* its turn has come: the row is ours */
	int			sqlstate;		/* of its error; 0 = none */
	char		message[MESSAGE_SIZE];
} Callback;

/* What its task's row says. */
typedef struct AnsweredTask
{
	Datum		row;			/* as it will be stored */
	Oid			type;			/* of the row */
	Name		role;
	char	   *on_finish;		/* qualified, quoted */
} AnsweredTask;

static DatabaseSlot *slot;
static TimeoutId overtime;

static void end_process(void);
static void end_now(SIGNAL_ARGS);
static void run(void *arg);
static bool lock_task(int64 task, AnsweredTask *answered);
static Datum row_to_be(Datum row, Datum state);
static void run_guarded(Callback *callback, const AnsweredTask *answered);
static void enter(int64 task);
static void leave(void);
static void note_error(Callback *callback, MemoryContext context);
static void say_which(void *arg);
static void finish(int64 task);
static bool fail(Callback *callback);
static void store_failure(void *arg);

void
callback_init(DatabaseSlot *of_database)
{
	slot = of_database;
	overtime = RegisterTimeout(USER_TIMEOUT, end_process);
}

CallbackEnd
callback_run(int64 task)
{
	Callback	callback = {.task = task};
	char		activity[80];
	WorkEnd		end;

	snprintf(activity, sizeof(activity), "on_finish of task " INT64_FORMAT,
			 task);
	end = work_run(activity, run, &callback);
	if (!callback.began)
		return CALLBACK_LATER;
	as_role_forget();
	if (end == WORK_DONE)
		return CALLBACK_DONE;
	if (callback.sqlstate == 0)
	{
		callback.sqlstate = work_sqlstate();
		strlcpy(callback.message, "its transaction could not be committed",
				MESSAGE_SIZE);
	}
	if (!fail(&callback))
		return CALLBACK_LATER;
	return callback.sqlstate == ERRCODE_QUERY_CANCELED ?
		CALLBACK_TIMED_OUT : CALLBACK_FAILED;
}

int64
callback_overdue(void)
{
	return (int64) pg_atomic_exchange_u64(&slot->settling, 0);
}

CallbackEnd
callback_bury(int64 task)
{
	Callback	callback = {
		.task = task,
		.sqlstate = ERRCODE_QUERY_CANCELED,
		.message = "did not end within llm_failover.on_finish_timeout, and its process was ended"
	};

	if (!fail(&callback))
		return CALLBACK_LATER;
	ereport(LOG,
			(errmsg("llm_failover: on_finish of task " INT64_FORMAT " %s",
					task, callback.message)));
	return CALLBACK_TIMED_OUT;
}

/* --- signals while a function runs --- */

/* Handles the second timeout. */
static void
end_process(void)
{
	die(SIGTERM);
}

/* Handles SIGTERM: the function is not to blame, and is run again. */
static void
end_now(SIGNAL_ARGS)
{
	pg_atomic_write_u64(&slot->settling, 0);
	die(postgres_signal_arg);
}

/* --- the transaction --- */

/* Runs the function of a task and finishes the task. */
static void
run(void *arg)
{
	Callback   *callback = arg;
	AnsweredTask answered;

	if (!lock_task(callback->task, &answered))
		return;
	callback->began = true;
	run_guarded(callback, &answered);
	finish(callback->task);
}

/* Locks a task; false when that is somebody else's, or it has changed. */
static bool
lock_task(int64 task, AnsweredTask *answered)
{
	static const Oid types[] = {INT8OID};
	static WorkPlan plan = {
		.sql = "SELECT t, t.role, t.on_finish, t.final_state"
		" FROM @extschema@.llm_task t WHERE t.id = $1 AND t.state = 'answered'"
		" FOR UPDATE SKIP LOCKED",
		.nargs = 1,
		.types = types
	};
	Datum		id = Int64GetDatum(task);
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		null;

	if (work_execute(&plan, &id, NULL) == 0)
		return false;
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	answered->type = SPI_gettypeid(desc, 1);
	answered->role = DatumGetName(SPI_getbinval(tuple, desc, 2, &null));
	answered->on_finish = SPI_getvalue(tuple, desc, 3);
	answered->row = row_to_be(SPI_getbinval(tuple, desc, 1, &null),
							  SPI_getbinval(tuple, desc, 4, &null));
	return true;
}

/* Returns a row as finish() will store it. */
static Datum
row_to_be(Datum row, Datum state)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(header),
		.t_data = header
	};
	TupleDesc	desc =
		lookup_rowtype_tupdesc_copy(HeapTupleHeaderGetTypeId(header),
									HeapTupleHeaderGetTypMod(header));
	int			columns[] = {
		SPI_fnumber(desc, "state"), SPI_fnumber(desc, "finished_at"),
		SPI_fnumber(desc, "final_state")
	};
	Datum		values[] = {
		state, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()), 0
	};
	bool		nulls[] = {false, false, true};

	return heap_copy_tuple_as_datum(heap_modify_tuple_by_cols(&tuple, desc, 3,
															  columns, values,
															  nulls),
									desc);
}

/* Sets the final state of a task, if its function has left it to be set. */
static void
finish(int64 task)
{
	static const Oid types[] = {INT8OID};
	static WorkPlan plan = {
		.sql = "UPDATE @extschema@.llm_task"
		" SET state = final_state, finished_at = now(), final_state = NULL"
		" WHERE id = $1 AND state = 'answered'",
		.nargs = 1,
		.types = types
	};
	Datum		id = Int64GetDatum(task);

	(void) work_execute(&plan, &id, NULL);
}

/* Stores, in a transaction of its own, why a function has failed. */
static bool
fail(Callback *callback)
{
	return work_run("storing the error of on_finish", store_failure,
					callback) == WORK_DONE;
}

static void
store_failure(void *arg)
{
	static const Oid types[] = {INT8OID, TEXTOID, TEXTOID};
	static WorkPlan plan = {
		.sql = "UPDATE @extschema@.llm_task"
		" SET state = 'failed', finished_at = now(), final_state = NULL,"
		" error = $2, error_code = $3"
		" WHERE id = $1 AND state = 'answered'",
		.nargs = 3,
		.types = types
	};
	Callback   *callback = arg;
	Datum		values[] = {
		Int64GetDatum(callback->task),
		CStringGetTextDatum(psprintf("on_finish: %s", callback->message)),
		CStringGetTextDatum(unpack_sql_state(callback->sqlstate))
	};

	(void) work_execute(&plan, values, NULL);
}

/* --- around the function --- */

/* Runs the function, and notes its error before that undoes all. */
static void
run_guarded(Callback *callback, const AnsweredTask *answered)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback which = {
		.previous = error_context_stack,
		.callback = say_which,
		.arg = callback
	};

	error_context_stack = &which;
	enter(callback->task);
	PG_TRY();
	{
		as_role_call(answered->role, answered->on_finish, answered->row,
					 answered->type);
	}
	PG_CATCH();
	{
		leave();
		note_error(callback, context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave();
	error_context_stack = which.previous;
}

/* Puts the process into the state in which it runs a user's code. */
static void
enter(int64 task)
{
	int			limit = Min(llm_on_finish_timeout, INT_MAX - GRACE);
	EnableTimeoutParams timeouts[] = {
		{.id = STATEMENT_TIMEOUT, .type = TMPARAM_AFTER, .delay_ms = limit},
		{.id = overtime, .type = TMPARAM_AFTER, .delay_ms = limit + GRACE}
	};

	work_is_own = false;
	pg_atomic_write_u64(&slot->settling, (uint64) task);
	pqsignal(SIGTERM, end_now);
	if (work_should_end())
		end_now(SIGTERM);		/* it came just before */
	enable_timeouts(timeouts, lengthof(timeouts));
}

/* Takes it out again; a cancel that has come too late is forgotten. */
static void
leave(void)
{
	DisableTimeoutParams timeouts[] = {
		{.id = STATEMENT_TIMEOUT}, {.id = overtime}
	};

	disable_timeouts(timeouts, lengthof(timeouts));
	QueryCancelPending = false;
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pg_atomic_write_u64(&slot->settling, 0);
	work_is_own = true;
}

/* Notes what an error says, no more of it than is stored. */
static void
note_error(Callback *callback, MemoryContext context)
{
	MemoryContext errors = MemoryContextSwitchTo(context);
	ErrorData  *error = CopyErrorData();
	const char *message = error->message ? error->message : "";
	int			len = pg_mbcliplen(message, (int) strlen(message),
								   MESSAGE_SIZE - 1);

	callback->sqlstate = error->sqlerrcode;
	memcpy(callback->message, message, len);
	callback->message[len] = '\0';
	FreeErrorData(error);
	MemoryContextSwitchTo(errors);
}

/* Says in the log where an error comes from. */
static void
say_which(void *arg)
{
	Callback   *callback = arg;

	errcontext("on_finish of task " INT64_FORMAT, callback->task);
}
