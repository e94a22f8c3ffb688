/*
 * queue_view.c
 *	  Why the queue does not go on, in words: llm_queue.blocked_by.
 *
 * The rest of the view is SQL.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog/config.h"
#include "engine/router.h"
#include "health/slot.h"
#include "queue/standing.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_queue_blocked_by);

static const char *why_blocked(const QueueOrigin *origin, const char *tier,
							   Oid function);
static const char *why_queue_blocked(const QueueOrigin *origin);

/*
 * llm_queue_blocked_by(tier, and what llm_queue_state says of the queue) → why
 * tasks of the tier are not called, or NULL.
 */
Datum
llm_queue_blocked_by(PG_FUNCTION_ARGS)
{
	QueueOrigin origin;
	const char *why;

	require_preload();
	origin = queue_origin_of_args(fcinfo, 1);
	why = why_blocked(&origin, text_to_cstring(PG_GETARG_TEXT_PP(0)),
					  fcinfo->flinfo->fn_oid);
	if (why == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(why));
}

/* Says why a tier's tasks are not called: all tasks first, then its own. */
static const char *
why_blocked(const QueueOrigin *origin, const char *tier_name, Oid function)
{
	const char *why = why_queue_blocked(origin);
	const Config *config;
	const Tier *tier;

	if (why)
		return why;
	config = config_get(function);
	tier = config_tier(config, tier_name);
	if (tier == NULL)
		return psprintf("tier \"%s\" does not exist", tier_name);
	return tier_blocked_by(config, tier, clock_now());
}

/* Says why no task at all is called, or returns NULL. */
static const char *
why_queue_blocked(const QueueOrigin *origin)
{
	const char *standing = queue_why_standing(origin);
	DatabaseSlot *slot;

	if (standing)
		return psprintf("paused: %s; llm_resume() starts it", standing);
	if (RecoveryInProgress())
		return "this server is a standby";
	slot = slot_find(MyDatabaseId);
	if (slot == NULL || slot_pid(slot, SLOT_WORKER) == 0)
		return "the worker of this database does not run";
	if (llm_worker_concurrency == 0)
		return "llm_failover.worker_concurrency is 0";
	return NULL;
}
