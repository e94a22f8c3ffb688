/*
 * schedule.h
 *	  When which target is to be probed, and which failures are to be told.
 *
 * It knows no table, no network and no clock of its own: time is a parameter.
 */
#ifndef LLM_SCHEDULE_H
#define LLM_SCHEDULE_H

#include "postgres.h"

#include "util/clock.h"

/* A target that is to be probed, by the configuration. */
typedef struct ScheduleItem
{
	const char *key;			/* unique */
	Usec		every;
	const void *target;			/* the caller's */
} ScheduleItem;

/* The same, with what is known of it from before. */
typedef struct ScheduledProbe
{
	char	   *key;
	Usec		every;
	const void *target;			/* as of the last update */
	Usec		due;
	bool		running;
	bool		dropped;		/* not to be probed any more, but running */
	bool		failing;		/* it has failed when it was asked last */
	Usec		told_at;		/* when that was told last */
} ScheduledProbe;

/* All zero: empty. */
typedef struct Schedule
{
	int			n;
	ScheduledProbe **probes;	/* by key */
} Schedule;

/* What a probe has found out. */
typedef enum ProbeFinding
{
	PROBE_GOOD,
	PROBE_BAD,
	PROBE_UNKNOWN				/* nothing is said of its target */
} ProbeFinding;

/*
 * Puts a new configuration in the place of the old one; sorts the items. What
 * has not been there before is due within `every` or ten seconds, whichever is
 * shorter, at random. Allocates in the current context.
 */
extern void schedule_update(Schedule *schedule, ScheduleItem *items, int n,
							Usec now);

/* Returns the one that is due first of those that do not run, or NULL. */
extern ScheduledProbe *schedule_first(const Schedule *schedule);

/* Notes that a probe is under way. It is due again about `every` later. */
extern void schedule_begin(ScheduledProbe *probe, Usec now);

/*
 * Notes how a probe has ended, which may free it. Says whether a failure is to
 * be told: the first one, and once an hour after that.
 */
extern bool schedule_end(ScheduledProbe *probe, ProbeFinding finding,
						 Usec now);

#endif							/* LLM_SCHEDULE_H */
