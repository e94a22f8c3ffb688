/*
 * when.h
 *	  Points in monotonic time as people read them.
 */
#ifndef LLM_WHEN_H
#define LLM_WHEN_H

#include "postgres.h"

#include "pgtime.h"

#include "util/clock.h"

#define WHEN_LEN 24

/*
 * Writes a point in monotonic time as a time of day in a zone, with the date
 * when that is not today's. Returns the buffer.
 */
extern char *write_when(char buffer[WHEN_LEN], Usec at, Usec now,
						pg_tz *zone);

#endif							/* LLM_WHEN_H */
