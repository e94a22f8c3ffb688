/*
 * limiter.h
 *	  So many units a minute, over all processes: one atomic word each.
 *
 * The generic cell rate algorithm (ITU-T I.371; nginx's leaky bucket is the
 * same arithmetic turned round): the word is the time at which all that was
 * taken will have been given back. As with the vendors' own limits a full
 * minute's worth may be taken at once, and comes back continuously.
 */
#ifndef LLM_LIMITER_H
#define LLM_LIMITER_H

#include "postgres.h"

#include "port/atomics.h"

#include "util/clock.h"

typedef struct Limiter
{
	pg_atomic_uint64 full_at;	/* nanoseconds of monotonic time */
} Limiter;

extern void limiter_init(Limiter *limiter);

/*
 * Who takes `leave`s a share of a minute's worth to others, 0 to 1: that part
 * is not touched, so that they find it there at any time and come first in what
 * flows back. While nobody else has taken anything, one request is let through
 * however small the rest is; none is with a share of 1.
 *
 * limiter_when() returns when `units` can be had: `now` or earlier when they
 * can at once, USEC_NEVER with a share of 1. A request for more than a minute's
 * worth counts as that much. per_minute 0 = no limit.
 */
extern Usec limiter_when(const Limiter *limiter, int64 units,
						 int64 per_minute, double leave, Usec now);

/* Takes units; false, and nothing taken, when they cannot be had now. */
extern bool limiter_take(Limiter *limiter, int64 units, int64 per_minute,
						 double leave, Usec now);

/* Returns how often `units` could be taken now; PG_INT32_MAX at most. */
extern int	limiter_room(const Limiter *limiter, int64 units,
						 int64 per_minute, double leave, Usec now);

/*
 * Puts right what was taken by estimate: gives units back, or with a negative
 * number takes more, into debt if need be (a minute's worth of it at most).
 */
extern void limiter_give_back(Limiter *limiter, int64 units, int64 per_minute,
							  Usec now);

/*
 * A limit as its owner tells it in response headers: `remaining` of `limit`
 * are left, and all are back after `reset`. -1 = not told.
 */
typedef struct LimitNotice
{
	int64		limit;
	int64		remaining;
	Usec		reset;
} LimitNotice;

/*
 * Returns how long to wait until `units` are there again by the owner's word:
 * 0 when they are, or when it does not tell enough.
 */
extern Usec limit_notice_wait(const LimitNotice *notice, int64 units);

#endif							/* LLM_LIMITER_H */
