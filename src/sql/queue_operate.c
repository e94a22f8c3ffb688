/*
 * queue_operate.c
 *	  llm_pause() and llm_resume(): stops the queue of this database, and lets
 *	  it go on.
 *
 * Kept over restarts: a column of llm_queue_state. An event is stored in the
 * same transaction.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "queue/wake.h"
#include "settings.h"
#include "owner.h"

PG_FUNCTION_INFO_V1(llm_pause);
PG_FUNCTION_INFO_V1(llm_resume);

/* A second llm_pause() changes nothing, and is no event. */
static const OwnerStatement pause_statement = {
	"WITH changed AS (UPDATE @.llm_queue_state"
	"  SET paused = 'llm_pause() by ' || $1"
	"  WHERE paused IS NULL RETURNING 1)"
	" INSERT INTO @.llm_event(kind, message)"
	" SELECT 'queue_paused', 'The queue was paused by ' || $1 || '.'"
	"  FROM changed",
	1, {TEXTOID}
};

/*
 * A copy is this database's own from then on. Its worker has to take back the
 * tasks that ran elsewhere, as at its start, in a new incarnation.
 */
static const OwnerStatement resume_statement = {
	"WITH changed AS (UPDATE @.llm_queue_state"
	"  SET paused = NULL, system_identifier = $2, database = $3,"
	"  incarnation = CASE WHEN (system_identifier, database) = ($2, $3)"
	"   THEN incarnation ELSE incarnation + '1' END"
	"  WHERE paused IS NOT NULL OR (system_identifier, database) <> ($2, $3)"
	"  RETURNING 1)"
	" INSERT INTO @.llm_event(kind, message)"
	" SELECT 'queue_resumed', 'The queue was resumed by ' || $1 || '.'"
	"  FROM changed",
	3, {TEXTOID, INT8OID, OIDOID}
};

static void change_state(const OwnerRun *run, void *arg);

/* llm_pause(): no task is called any more. */
Datum
llm_pause(PG_FUNCTION_ARGS)
{
	require_preload();
	owner_run(fcinfo, &pause_statement, 1, change_state, NULL);
	PG_RETURN_VOID();
}

/* llm_resume(): tasks are called again. */
Datum
llm_resume(PG_FUNCTION_ARGS)
{
	require_preload();
	owner_run(fcinfo, &resume_statement, 1, change_state, NULL);
	PG_RETURN_VOID();
}

static void
change_state(const OwnerRun *run, void *arg pg_attribute_unused())
{
	Datum		values[] = {
		CStringGetTextDatum(GetUserNameFromId(run->user, false)),
		Int64GetDatum((int64) GetSystemIdentifier()),
		ObjectIdGetDatum(MyDatabaseId)
	};

	if (owner_execute(run, 0, values) == 0)
		return;
	wake_at_commit(SLOT_WORKER, SIGNAL_TASKS);
	wake_at_commit(SLOT_SETTLER, SIGNAL_ANSWERED | SIGNAL_TIDY);
}
