/*
 * clock.h
 *	  The only place that reads a clock. Everything else takes `now`.
 */
#ifndef LLM_CLOCK_H
#define LLM_CLOCK_H

#include "postgres.h"

#include <time.h>

/* A point in monotonic time, or a length of it, in microseconds. */
typedef int64 Usec;

#define USEC_MSEC	((Usec) 1000)
#define USEC_SEC	((Usec) 1000000)
#define USEC_NEVER	PG_INT64_MAX	/* a point in time that does not come */

extern Usec clock_now(void);
extern time_t clock_wall(void);

#endif							/* LLM_CLOCK_H */
