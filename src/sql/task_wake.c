/*
 * task_wake.c
 *	  Tells the worker that there are other tasks than before: the AFTER
 *	  triggers of llm_task.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

#include "queue/wake.h"
#include "queue/work.h"

PG_FUNCTION_INFO_V1(llm_task_wake);

/*
 * AFTER INSERT, UPDATE or TRUNCATE, by statement, and AFTER DELETE of running
 * tasks, by row. What the extension does itself it knows of.
 */
Datum
llm_task_wake(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		revoked;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		elog(ERROR, "llm_task_wake: wrong kind of trigger");
	revoked = TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event);
	if (!work_is_own)
		wake_at_commit(SLOT_WORKER, revoked ? SIGNAL_REVOKED : SIGNAL_TASKS);
	return PointerGetDatum(NULL);
}
