/*
 * schedule.c
 *	  When which target is to be probed, and which failures are to be told.
 *
 * No two probes keep step: the first time is drawn at random, and every pause
 * is a little longer or shorter than it should be.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "queue/schedule.h"

/* A new probe is seen to work soon, however seldom it is due. */
#define FIRST_WITHIN	(10 * USEC_SEC)

#define JITTER			0.1		/* of a pause, up and down */

/* A target that goes on failing is told of so often. */
#define TELL_EVERY		(3600 * USEC_SEC)

static ScheduledProbe *keep_or_add(Schedule *old, int *nth,
								   const ScheduleItem *item, Usec now);
static Usec first_due(Usec every, Usec now);
static void drop(ScheduledProbe *probe);
static void forget(ScheduledProbe *probe);
static int	compare_items(const void *a, const void *b);

/* Both lists are sorted: one walk finds what is kept, what is new and gone. */
void
schedule_update(Schedule *schedule, ScheduleItem *items, int n, Usec now)
{
	Schedule	old = *schedule;
	int			nth = 0;

	schedule->n = n;
	schedule->probes = palloc((n + 1) * sizeof(ScheduledProbe *));
	qsort(items, n, sizeof(ScheduleItem), compare_items);
	for (int i = 0; i < n; i++)
		schedule->probes[i] = keep_or_add(&old, &nth, &items[i], now);
	while (nth < old.n)
		drop(old.probes[nth++]);
	if (old.probes)
		pfree(old.probes);
}

/*
 * Finds an item in the old list, from its nth element on, or makes a new one.
 * What the old list has before it is dropped.
 */
static ScheduledProbe *
keep_or_add(Schedule *old, int *nth, const ScheduleItem *item, Usec now)
{
	ScheduledProbe *probe;

	while (*nth < old->n && strcmp(old->probes[*nth]->key, item->key) < 0)
		drop(old->probes[(*nth)++]);
	if (*nth < old->n && strcmp(old->probes[*nth]->key, item->key) == 0)
	{
		probe = old->probes[(*nth)++];
		if (item->every < probe->every)
			probe->due = Min(probe->due, first_due(item->every, now));
	}
	else
	{
		probe = palloc0(sizeof(ScheduledProbe));
		probe->key = pstrdup(item->key);
		probe->due = first_due(item->every, now);
	}
	probe->every = item->every;
	probe->target = item->target;
	return probe;
}

static Usec
first_due(Usec every, Usec now)
{
	return now + (Usec) (pg_prng_double(&pg_global_prng_state) *
						 Min(every, FIRST_WITHIN));
}

/* Takes a probe out of the schedule; its call may still be under way. */
static void
drop(ScheduledProbe *probe)
{
	probe->target = NULL;
	probe->dropped = true;
	if (!probe->running)
		forget(probe);
}

static void
forget(ScheduledProbe *probe)
{
	pfree(probe->key);
	pfree(probe);
}

ScheduledProbe *
schedule_first(const Schedule *schedule)
{
	ScheduledProbe *first = NULL;

	for (int i = 0; i < schedule->n; i++)
	{
		ScheduledProbe *probe = schedule->probes[i];

		if (!probe->running && (first == NULL || probe->due < first->due))
			first = probe;
	}
	return first;
}

void
schedule_begin(ScheduledProbe *probe, Usec now)
{
	double		factor = 1 - JITTER +
		2 * JITTER * pg_prng_double(&pg_global_prng_state);

	probe->running = true;
	probe->due = now + (Usec) (probe->every * factor);
}

bool
schedule_end(ScheduledProbe *probe, ProbeFinding finding, Usec now)
{
	bool		tell = false;

	probe->running = false;
	if (probe->dropped)
	{
		forget(probe);
		return false;
	}
	if (finding == PROBE_BAD)
		tell = !probe->failing || now - probe->told_at >= TELL_EVERY;
	if (finding != PROBE_UNKNOWN)
		probe->failing = finding == PROBE_BAD;
	if (tell)
		probe->told_at = now;
	return tell;
}

static int
compare_items(const void *a, const void *b)
{
	return strcmp(((const ScheduleItem *) a)->key,
				  ((const ScheduleItem *) b)->key);
}
