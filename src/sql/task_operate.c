/*
 * task_operate.c
 *	  llm_cancel() and llm_requeue(): what a user may do to a task beside
 *	  changing and deleting it.
 *
 * Both take the task's row lock first, so that the worker does not change it
 * meanwhile, and see it as it is then. A task that the user may not see is
 * none; who may are its role, members of that, and admins: those who may pause
 * the queue.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "compat.h"
#include "queue/wake.h"
#include "settings.h"
#include "owner.h"

PG_FUNCTION_INFO_V1(llm_cancel);
PG_FUNCTION_INFO_V1(llm_requeue);

typedef enum TaskStatementNumber
{
	LOCK_TASK,
	CANCEL_TASK,
	QUEUE_TASK,
	ANSWER_TASK
} TaskStatementNumber;

/* A task that fails for its on_finish alone has a response without an error. */
static const OwnerStatement statements[] = {
	[LOCK_TASK] = {
		"SELECT state, on_finish IS NOT NULL, claimed_key IS NOT NULL,"
		" response IS NOT NULL AND response ->> 'error_code' IS NULL"
		" FROM @.llm_task WHERE id = $1 AND (role = $2 OR $3 OR"
		" coalesce(pg_has_role($2, to_regrole(quote_ident(role)), 'member'),"
		"  false)) FOR UPDATE",
	3, {INT8OID, NAMEOID, BOOLOID}},
	[CANCEL_TASK] = {
		"UPDATE @.llm_task SET"
		" state = CASE WHEN on_finish IS NULL"
		"  THEN 'cancelled' ELSE 'answered' END,"
		" final_state = CASE WHEN on_finish IS NOT NULL THEN 'cancelled' END,"
		" finished_at = CASE WHEN on_finish IS NULL"
		"  THEN clock_timestamp() END,"
		" claimed_key = coalesce(claimed_key, dedupe_key), dedupe_key = NULL,"
		" lease = NULL, error = 'cancelled by ' || $2, error_code = '57014'"
		" WHERE id = $1",
	2, {INT8OID, NAMEOID}},
	[QUEUE_TASK] = {
		"UPDATE @.llm_task SET state = 'queued', final_state = NULL,"
		" tries = '0', lease = NULL, dedupe_key = claimed_key,"
		" claimed_key = NULL, answer = NULL, response = NULL, error = NULL,"
		" error_code = NULL, started_at = NULL, finished_at = NULL,"
		" not_before = greatest(not_before, clock_timestamp()),"
		" expires_at = CASE WHEN expires_at > clock_timestamp()"
		"  THEN expires_at END"
		" WHERE id = $1",
	1, {INT8OID}},
	[ANSWER_TASK] = {
		"UPDATE @.llm_task SET state = 'answered', final_state = 'done',"
		" error = NULL, error_code = NULL, finished_at = NULL WHERE id = $1",
	1, {INT8OID}},
};

/* A task that is to be cancelled or queued again. */
typedef struct OperatedTask
{
	Datum		id;
	const char *state;			/* NULL: there is none */
	bool		has_callback;
	bool		has_key;
	bool		has_answer;
	bool		done;			/* what was asked for */
} OperatedTask;

static bool operate(FunctionCallInfo fcinfo,
					void (*work) (const OwnerRun *run, void *arg));
static void cancel(const OwnerRun *run, void *arg);
static void requeue(const OwnerRun *run, void *arg);
static bool lock_task(const OwnerRun *run, OperatedTask *task);
static bool is_admin(const OwnerRun *run);
static bool flag(int column);
static bool queue_with_key(const OwnerRun *run, const Datum *values);
static Datum user_name(const OwnerRun *run);

/* llm_cancel(id): cancels a task that is queued or running. */
Datum
llm_cancel(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(operate(fcinfo, cancel));
}

/* llm_requeue(id): queues a task again that has failed, expired, and so on. */
Datum
llm_requeue(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(operate(fcinfo, requeue));
}

/* Runs one of the two; says whether there was anything to do. */
static bool
operate(FunctionCallInfo fcinfo, void (*work) (const OwnerRun *run, void *arg))
{
	OperatedTask task = {.id = PG_GETARG_DATUM(0)};

	require_preload();
	owner_run(fcinfo, statements, lengthof(statements), work, &task);
	return task.done;
}

/* Cancels; a call that is under way is aborted when this commits. */
static void
cancel(const OwnerRun *run, void *arg)
{
	OperatedTask *task = arg;
	Datum		values[] = {task->id, user_name(run)};
	bool		running;

	if (!lock_task(run, task))
		return;
	running = strcmp(task->state, "running") == 0;
	if (!running && strcmp(task->state, "queued") != 0)
		return;
	(void) owner_execute(run, CANCEL_TASK, values);
	if (running)
		wake_at_commit(SLOT_WORKER, SIGNAL_REVOKED);
	if (task->has_callback)
		wake_at_commit(SLOT_SETTLER, SIGNAL_ANSWERED);
	task->done = true;
}

/* Queues again, or for on_finish alone. */
static void
requeue(const OwnerRun *run, void *arg)
{
	OperatedTask *task = arg;
	bool		failed;

	if (!lock_task(run, task))
		return;
	failed = strcmp(task->state, "failed") == 0;
	if (!failed && strcmp(task->state, "expired") != 0 &&
		strcmp(task->state, "cancelled") != 0)
		return;
	if (failed && task->has_answer && task->has_callback)
	{
		(void) owner_execute(run, ANSWER_TASK, &task->id);
		wake_at_commit(SLOT_SETTLER, SIGNAL_ANSWERED);
		task->done = true;
		return;
	}
	task->done = task->has_key ? queue_with_key(run, &task->id) :
		owner_execute(run, QUEUE_TASK, &task->id) > 0;
	if (task->done)
		wake_at_commit(SLOT_WORKER, SIGNAL_TASKS);
}

/* Locks a task and reads it; false when there is none for this user. */
static bool
lock_task(const OwnerRun *run, OperatedTask *task)
{
	Datum		values[] = {
		task->id, user_name(run), BoolGetDatum(is_admin(run))
	};

	if (owner_execute(run, LOCK_TASK, values) == 0)
		return false;
	task->state = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	task->has_callback = flag(2);
	task->has_key = flag(3);
	task->has_answer = flag(4);
	return true;
}

/* Says whether the user may act on all tasks. */
static bool
is_admin(const OwnerRun *run)
{
	List	   *name = list_make2(makeString(get_namespace_name(run->schema)),
								  makeString("llm_pause"));

	return may_execute_compat(LookupFuncName(name, 0, NULL, false), run->user);
}

/* A boolean of the row that the last statement has returned. */
static bool
flag(int column)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * Queues a task that gets its dedupe_key again. False when a queued task has
 * that by now, which only the index can say for sure. Whatever the error, the
 * subtransaction is over before it goes on: who catches it would else undo this
 * one for his own, and be the extension's owner from then on.
 */
static bool
queue_with_key(const OwnerRun *run, const Datum *values)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		(void) owner_execute(run, QUEUE_TASK, values);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
			ReThrowError(error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/* The name of who asks. */
static Datum
user_name(const OwnerRun *run)
{
	Name		name = palloc0(sizeof(NameData));

	namestrcpy(name, GetUserNameFromId(run->user, false));
	return NameGetDatum(name);
}
