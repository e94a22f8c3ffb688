/*
 * window.h
 *	  What happened in the last so many seconds: a ring of buckets with running
 *	  totals. Arithmetic only; the owner locks.
 */
#ifndef LLM_WINDOW_H
#define LLM_WINDOW_H

#include "postgres.h"

#include "util/clock.h"

/* A window of 30 s has buckets of 1 s; others have as many. */
#define WINDOW_BUCKETS 30

typedef struct WindowCounts
{
	uint32		calls;
	uint32		failures;
	uint32		slow;
} WindowCounts;

typedef struct Window
{
	Usec		width;			/* of a bucket; 0 = empty, never used */
	int64		head;			/* number of the newest bucket: time / width */
	WindowCounts total;			/* of all buckets that are still inside */
	WindowCounts buckets[WINDOW_BUCKETS];
} Window;

extern void window_clear(Window *window);

/*
 * Adds counts at `now` to a window of `length`; another length than before
 * begins with an empty one. A clock that went back adds to the newest bucket.
 */
extern void window_add(Window *window, Usec length, WindowCounts counts,
					   Usec now);

/* Returns what lies within the last `length` before `now`. */
extern WindowCounts window_sum(const Window *window, Usec length, Usec now);

#endif							/* LLM_WINDOW_H */
