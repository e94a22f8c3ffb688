/*
 * lane.c
 *	  What the worker knows of a tier's tasks.
 *
 * Each tier has a lane of its own, so that tasks of one that nobody can answer
 * keep no others waiting. A lane's `cap` is how many of its tasks may be under
 * way: as many as the queue allows, until a limit of ours (rpm, tpm,
 * max_inflight) refuses one; then as many as are under way, and one more with
 * each success. So what a limit lets through is found without asking it, and
 * the rest waits in the table instead of holding places.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "queue/task.h"
#include "settings.h"

/* Finds a tier's lane, or makes it. */
Lane *
lane_of_tier(const char *tier)
{
	dlist_iter	iter;
	Lane	   *lane;

	dlist_foreach(iter, &queue.lanes)
	{
		lane = dlist_container(Lane, node, iter.cur);
		if (strcmp(lane->tier, tier) == 0)
			return lane;
	}
	lane = MemoryContextAllocZero(queue.context, sizeof(Lane));
	lane->tier = MemoryContextStrdup(queue.context, tier);
	lane->cap = PG_INT32_MAX;
	lane->next_due = lane->expires_at = lane->deferred_next = USEC_NEVER;
	lane_rewind(lane);
	dlist_push_tail(&queue.lanes, &lane->node);
	return lane;
}

/* Frees the lane of a tier that has no tasks any more. */
void
lane_forget(Lane *lane)
{
	Assert(lane->ntasks == 0);
	dlist_delete(&lane->node);
	for (int i = 0; i < MAX_SHUT; i++)
		if (lane->shut[i].residency)
			pfree(lane->shut[i].residency);
	pfree(lane->tier);
	pfree(lane);
}

/* Has the next claim begin with the first task. */
void
lane_rewind(Lane *lane)
{
	lane->after_urgency = LANE_TOP_URGENCY;
	lane->after_id = LANE_TOP_ID;
	lane->dry = false;
}

/*
 * Keeps a task from being claimed until a time; `outage` if it failed in one.
 * With too many of them the oldest is forgotten and claimed when its turn
 * comes: a retry too early, and nothing else.
 */
void
lane_defer(Lane *lane, int64 id, Usec until, Usec outage)
{
	Deferred   *place;

	if (lane->ndeferred < MAX_DEFERRED)
		place = &lane->deferred[lane->ndeferred++];
	else
		place = &lane->deferred[lane->oldest_deferred++ % MAX_DEFERRED];
	*place = (Deferred) {id, until, outage};
	lane->deferred_next = Min(lane->deferred_next, until);
}

/*
 * Takes a task out of the deferred ones: it is claimed. Returns when it failed
 * in an outage, or 0.
 */
Usec
lane_undefer(Lane *lane, int64 id)
{
	for (int i = 0; i < lane->ndeferred; i++)
		if (lane->deferred[i].id == id)
		{
			Usec		outage = lane->deferred[i].outage;

			lane->deferred[i] = lane->deferred[--lane->ndeferred];
			return outage;
		}
	return 0;
}

/*
 * Leaves tasks of one's residency in the table until a time: without that they
 * would keep others of their tier waiting behind them. With too many residencies
 * the one that is open again first is forgotten.
 */
void
lane_shut(Lane *lane, const Task *task, Usec until)
{
	ShutResidency *place = &lane->shut[0];
	MemoryContext old = MemoryContextSwitchTo(task->context);
	const char *residency = text_to_cstring(task->args.residency);

	MemoryContextSwitchTo(old);
	lane->deferred_next = Min(lane->deferred_next, until);

	for (int i = 0; i < MAX_SHUT; i++)
	{
		ShutResidency *shut = &lane->shut[i];

		if (shut->residency && strcmp(shut->residency, residency) == 0)
		{
			shut->until = Max(shut->until, until);
			return;
		}
		if (shut->until < place->until)
			place = shut;
	}
	if (place->residency)
		pfree(place->residency);
	*place = (ShutResidency) {
		MemoryContextStrdup(queue.context, residency), until
	};
}

/* Has a claim begin at the top if the time of what is left out has come. */
void
lane_mind_deferred(Lane *lane, Usec now)
{
	if (lane->deferred_next > now)
		return;
	lane_rewind(lane);
	lane->deferred_next = USEC_NEVER;
	for (int i = 0; i < lane->ndeferred; i++)
		if (lane->deferred[i].until > now)
			lane->deferred_next = Min(lane->deferred_next,
									  lane->deferred[i].until);
	for (int i = 0; i < MAX_SHUT; i++)
		if (lane->shut[i].until > now)
			lane->deferred_next = Min(lane->deferred_next,
									  lane->shut[i].until);
}

/* A limit of ours has refused a task, until a time. */
void
lane_refused(Lane *lane, Usec until)
{
	lane->cap = Max(1, lane->claimed);
	lane->open_at = Max(lane->open_at, until);
	lane_rewind(lane);
}

void
lane_succeeded(Lane *lane, Usec now)
{
	lane->last_success = now;
	if (lane->cap < PG_INT32_MAX)
		lane->cap++;
	if (lane->cap > llm_worker_concurrency)
		lane->cap = PG_INT32_MAX;
}
