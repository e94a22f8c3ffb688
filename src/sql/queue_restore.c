/*
 * queue_restore.c
 *	  Knows a restored queue as a copy.
 *
 * A dump carries the row of llm_queue_state, which says where the queue was
 * filled. Coming in, it replaces the one that CREATE EXTENSION has made. But
 * pg_restore with many jobs may bring the tasks before it, and they must not be
 * called meanwhile: so the first of them says that the queue is one of a dump,
 * in the same transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "catalog/check.h"
#include "queue/standing.h"
#include "task_row.h"

typedef enum StateParameter
{
	STATE_SYSTEM_IDENTIFIER,
	STATE_DATABASE,
	STATE_PAUSED,
	STATE_ELSEWHERE				/* the incoming row is of another database */
} StateParameter;

#define STATE_PARAMETERS (STATE_ELSEWHERE + 1)

static uint64 update_state(const CheckedRow *row);

PG_FUNCTION_INFO_V1(llm_queue_restored);

/* BEFORE INSERT on llm_queue_state, by row: makes it an UPDATE. */
Datum
llm_queue_restored(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CheckedRow	row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		elog(ERROR, "llm_queue_restored: wrong kind of trigger");
	row = triggered_row(trigger);
	return PointerGetDatum(update_state(&row) > 0 ? NULL : row.tuple);
}

/*
 * Gives the row that there is the columns of an incoming one. The incarnation
 * is that of the worker that is here; and a queue that is a copy does not
 * become the original again by a dump of this very database, which is of the
 * past.
 */
static uint64
update_state(const CheckedRow *row)
{
	static const char *const columns[] = {
		"system_identifier", "database", "paused"
	};
	static const Oid types[STATE_PARAMETERS] = {
		INT8OID, OIDOID, TEXTOID, BOOLOID
	};
	Datum		values[STATE_PARAMETERS];
	char		nulls[] = "    ";
	QueueOrigin origin;
	TriggerQuery query;
	uint64		n;

	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		bool		isnull;

		values[i] = heap_getattr(row->tuple,
								 column_number(row->rel, columns[i]),
								 RelationGetDescr(row->rel), &isnull);
		nulls[i] = isnull ? 'n' : ' ';
	}
	origin.system_identifier =
		(uint64) DatumGetInt64(values[STATE_SYSTEM_IDENTIFIER]);
	origin.database = DatumGetObjectId(values[STATE_DATABASE]);
	values[STATE_ELSEWHERE] = BoolGetDatum(queue_is_copy(&origin));

	query_begin(&query, row->rel, AS_USER, NULL);
	n = query_run(&query,
				  "UPDATE @.llm_queue_state SET"
				  " system_identifier = CASE WHEN $4 THEN $1"
				  "  ELSE system_identifier END,"
				  " database = CASE WHEN $4 THEN $2 ELSE database END,"
				  " paused = $3",
				  STATE_PARAMETERS, types, values, nulls);
	query_end(&query);
	return n;
}

void
queue_note_restore(Relation tasks)
{
	static const Oid types[] = {INT8OID, OIDOID};
	Datum		values[] = {
		Int64GetDatum((int64) GetSystemIdentifier()),
		ObjectIdGetDatum(MyDatabaseId)
	};
	TriggerQuery query;

	/* one that is a copy already is neither changed nor locked */
	query_begin(&query, tasks, AS_OWNER, NULL);
	(void) query_run(&query,
					 "UPDATE @.llm_queue_state SET database = '0'"
					 " WHERE system_identifier = $1 AND database = $2",
					 lengthof(types), types, values, NULL);
	query_end(&query);
}
