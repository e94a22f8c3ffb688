/*
 * guard.c
 *	  Runs a step of one call so that its error is that call's alone.
 *
 * A step has a transaction around it, which lasts as long as the step, never
 * while anything is waited for: conversions to the database's encoding and
 * builtin models look into catalogs. What a step allocates is the call's own or
 * the transaction's, so an error leaves nothing behind.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "queue/task.h"

/* A builtin model has so long, e.g. for a regular expression (ms). */
#define LOCAL_WORK_LIMIT 1000

static int	last_sqlstate;
static char last_message[512];

/* Says whether an error is a task's own, whose row will tell it. */
static bool
is_told_elsewhere(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == MAKE_SQLSTATE('L', 'L', '0', '0', '0') ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION;
}

/* Logs an error and undoes its transaction. */
static void
give_up(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	last_sqlstate = error->sqlerrcode;
	strlcpy(last_message, error->message ? error->message : "",
			sizeof(last_message));
	if (!is_told_elsewhere(last_sqlstate))
		EmitErrorReport();
	FlushErrorState();
	FreeErrorData(error);
	AbortCurrentTransaction();
	RESUME_INTERRUPTS();
}

/* A LoopDriver's guard; also for what else of a task may throw. */
bool
queue_guard(CallStep step, CallLoop *loop, void *what)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = true;

	PG_TRY();
	{
		StartTransactionCommand();
		step(loop, what);
		CommitTransactionCommand();
		QueryCancelPending = false; /* it came too late */
	}
	PG_CATCH();
	{
		give_up(context);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return done;
}

/* SQLSTATE of the last error in a step, */
int
guard_sqlstate(void)
{
	return last_sqlstate;
}

/* and what it said. */
const char *
guard_message(void)
{
	return last_message;
}

/* Answers for a builtin model, for no longer than the others can spare. */
void
queue_local_work(Call *call, LocalAnswer *answer)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	enable_timeout_after(STATEMENT_TIMEOUT, LOCAL_WORK_LIMIT);
	local_work(call, answer);
	disable_timeout(STATEMENT_TIMEOUT, false);
	PopActiveSnapshot();
}
