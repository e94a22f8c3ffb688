/*
 * limiter.c
 *	  So many units a minute: see limiter.h.
 *
 * At full_at the limiter is full again. It is empty when that is a minute
 * ahead, and a minute's worth in debt when it is two minutes ahead. A word that
 * is well beyond is from a clock that went back since, and is forgotten.
 *
 * The price of units, in nanoseconds, is rounded down, so that a minute's worth
 * taken one by one fits into a minute. At 100,000 a minute the error is less
 * than one in 600,000; it would be seen only by who takes many millions a
 * minute one by one.
 */
#include "postgres.h"

#include <math.h>

#include "health/limiter.h"

#define NS_USEC		INT64CONST(1000)
#define NS_MINUTE	INT64CONST(60000000000)
#define NS_DEBT_MAX	(2 * NS_MINUTE)	/* ahead */
#define NS_FORGET	(3 * NS_MINUTE)	/* ahead; with room for a late `now` */

/* No longer wait is believed, whoever asks for it. */
#define NOTICE_WAIT_MAX	(24 * 3600 * USEC_SEC)

void
limiter_init(Limiter *limiter)
{
	pg_atomic_init_u64(&limiter->full_at, 0);
}

/*
 * Returns how long units take to come back, at most a minute. In two parts,
 * because their product with a minute of nanoseconds may not fit.
 */
static int64
price(int64 units, int64 per_minute)
{
	int64		whole;
	int64		rest;

	per_minute = Min(per_minute, PG_INT32_MAX);
	units = Min(units, per_minute);
	whole = NS_MINUTE / per_minute;
	rest = NS_MINUTE % per_minute;
	return units * whole + units * rest / per_minute;
}

/* Returns when the limiter is full, never before `now`; in nanoseconds. */
static int64
full_at(uint64 word, int64 now)
{
	int64		at = (int64) word;

	return at < now || at > now + NS_FORGET ? now : at;
}

/*
 * Returns how far ahead the limiter may be full after units of a price were
 * taken by who leaves a share to others.
 */
static int64
reach(int64 cost, double leave)
{
	return Max(cost, (int64) ((1 - leave) * NS_MINUTE));
}

Usec
limiter_when(const Limiter *limiter, int64 units, int64 per_minute,
			 double leave, Usec now)
{
	Limiter    *own = unconstify(Limiter *, limiter);
	int64		cost;
	int64		had_at;

	if (per_minute <= 0 || units <= 0)
		return now;
	if (leave >= 1)
		return USEC_NEVER;
	cost = price(units, per_minute);
	had_at = full_at(pg_atomic_read_u64(&own->full_at), now * NS_USEC) +
		cost - reach(cost, leave);
	return Max(now, (had_at + NS_USEC - 1) / NS_USEC);
}

bool
limiter_take(Limiter *limiter, int64 units, int64 per_minute, double leave,
			 Usec now)
{
	int64		at = now * NS_USEC;
	uint64		old = pg_atomic_read_u64(&limiter->full_at);
	int64		cost;
	int64		new;

	if (per_minute <= 0 || units <= 0)
		return true;
	if (leave >= 1)
		return false;
	cost = price(units, per_minute);
	do
	{
		new = full_at(old, at) + cost;
		if (new > at + reach(cost, leave))
			return false;
	} while (!pg_atomic_compare_exchange_u64(&limiter->full_at, &old, new));
	return true;
}

int
limiter_room(const Limiter *limiter, int64 units, int64 per_minute,
			 double leave, Usec now)
{
	Limiter    *own = unconstify(Limiter *, limiter);
	int64		at = now * NS_USEC;
	int64		cost;
	int64		left;

	if (per_minute <= 0 || units <= 0)
		return PG_INT32_MAX;
	if (leave >= 1)
		return 0;
	cost = price(units, per_minute);
	left = at + reach(cost, leave) -
		full_at(pg_atomic_read_u64(&own->full_at), at);
	return (int) Min(Max(left, 0) / cost, PG_INT32_MAX);
}

void
limiter_give_back(Limiter *limiter, int64 units, int64 per_minute, Usec now)
{
	int64		at = now * NS_USEC;
	uint64		old = pg_atomic_read_u64(&limiter->full_at);
	int64		new;

	if (per_minute <= 0 || units == 0)
		return;
	do
	{
		new = full_at(old, at);
		if (units > 0)
			new -= price(units, per_minute);
		else
			new = Min(new + price(-Max(units, -PG_INT32_MAX), per_minute),
					  at + NS_DEBT_MAX);
	} while (!pg_atomic_compare_exchange_u64(&limiter->full_at, &old, new));
}

/*
 * What is missing comes back evenly: all that is gone within `reset`, so a part
 * of it in the same part of that. More units than the limit are as many.
 */
Usec
limit_notice_wait(const LimitNotice *notice, int64 units)
{
	int64		limit = notice->limit;
	int64		remaining = notice->remaining;
	double		reset = (double) Min(notice->reset, NOTICE_WAIT_MAX);

	if (remaining < 0 || reset <= 0 || units <= remaining)
		return 0;
	if (limit <= 0)				/* not told, or nothing is allowed */
		return remaining == 0 ? (Usec) reset : 0;
	units = Min(units, limit);
	if (units <= remaining)
		return 0;
	return (Usec) ceil((double) (units - remaining) * reset /
					   (double) (limit - remaining));
}
