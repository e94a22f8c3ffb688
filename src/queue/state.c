/*
 * state.c
 *	  The one row of llm_queue_state: which incarnation of the worker it is, and
 *	  whether the queue stands.
 *
 * The row says in which cluster and database the queue was filled. A queue that
 * finds itself elsewhere is a copy, and a copy must not repeat the calls of the
 * original: it stands until llm_resume().
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "queue/standing.h"
#include "queue/task.h"
#include "queue/work.h"

/* Says that the queue stands, once for each reason. */
static void
say_once(const char *why)
{
	static const char *said = NULL;

	if (why && (said == NULL || strcmp(why, said) != 0))
		ereport(LOG,
				(errmsg("llm_failover: the queue of this database stands: %s",
						why),
				 errhint("Call llm_resume() to start it.")));
	if (said)
		pfree(unconstify(char *, said));
	said = why ? MemoryContextStrdup(TopMemoryContext, why) : NULL;
}

/* Takes in what a statement has returned of the row. */
static void
take_state(void)
{
	HeapTuple	row;
	TupleDesc	desc;
	QueueOrigin origin;
	const char *why;
	bool		null;

	if (SPI_processed != 1)
		elog(ERROR, "llm_queue_state has no row");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	queue.incarnation = DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
	origin = (QueueOrigin) {
		.system_identifier =
		(uint64) DatumGetInt64(SPI_getbinval(row, desc, 2, &null)),
		.database = DatumGetObjectId(SPI_getbinval(row, desc, 3, &null)),
		.paused = SPI_getvalue(row, desc, 4),
	};
	why = queue_why_standing(&origin);
	queue.stands = why != NULL;
	queue.copied = queue_is_copy(&origin);
	say_once(why);
}

/*
 * Reads the state. llm_resume() of a copy begins a new incarnation: this process
 * goes on as that. It lets go of what it has under way, and takes back what ran
 * where the copy was made, before it claims.
 */
void
queue_read_state(void)
{
	static WorkPlan plan = WORK_PLAN_BARE(
		"SELECT incarnation, system_identifier, database, paused"
		" FROM @extschema@.llm_queue_state");
	int64		mine = queue.incarnation;

	(void) work_execute(&plan, NULL, NULL);
	take_state();
	if (queue.incarnation != mine)
		queue.take_back_at = queue.drop_at = 0;
}

/* Begins a new incarnation. */
void
queue_new_incarnation(void)
{
	static WorkPlan plan = WORK_PLAN_BARE(
		"UPDATE @extschema@.llm_queue_state"
		" SET incarnation = incarnation + 1"
		" RETURNING incarnation, system_identifier, database, paused");

	(void) work_execute(&plan, NULL, NULL);
	take_state();
}
