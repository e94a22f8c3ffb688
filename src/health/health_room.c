/*
 * health_room.c
 *	  For how many more attempts a target has room: for who has many to make,
 *	  and would rather keep them than have them refused.
 *
 * An estimate, not a promise: others take from the same room.
 */
#include "postgres.h"

#include <math.h>

#include "health/health.h"

#define MINUTE (60 * USEC_SEC)

/* Notes one of the things that leave room for so many. */
static void
bound(HealthRoom *room, int calls, const Cell *cell, Usec until)
{
	if (calls < room->calls ||
		(calls == room->calls && room->until > 0 && until > room->until))
		*room = (HealthRoom) {Max(calls, 0), cell, until};
}

/* Returns how many of a limit's slots are free. */
static int
free_slots(const Cell *region, int max_inflight, double leave)
{
	Cell	   *cell = unconstify(Cell *, region);

	return (int) health_inflight_cap(max_inflight, leave) -
		(int) pg_atomic_read_u32(&cell->in_flight);
}

/* One more flows back in its part of a minute. */
static void
bound_by_limiter(HealthRoom *room, const Cell *cell, const Limiter *limiter,
				 int64 units, int64 per_minute, double leave, Usec now)
{
	Usec		each = MINUTE * Min(units, per_minute) / per_minute;

	bound(room, limiter_room(limiter, units, per_minute, leave, now), cell,
		  now + each + 1);
}

/*
 * While a scope ramps, as many may be under way as it has got share of the
 * width by now: so it is filled as gently as it is asked. One at least, or it
 * would be left alone.
 */
static void
bound_by_ramp(HealthRoom *room, const HealthTarget *target, int width,
			  Usec now, const HealthCheck *check)
{
	Cell	   *cell = cell_of(target->cells[check->scope]);
	Usec		ramp = target->breaker->ramp;
	int			most = Max((int) rint(check->share * width), 1);

	if (cell)
		bound(room, most - (int) pg_atomic_read_u32(&cell->in_flight), cell,
			  now + Max(ramp / Max(width, 1), 1));
}

void
health_room(const HealthTarget *target, int64 tokens, double leave, int width,
			Usec now, const HealthCheck *check, HealthRoom *room)
{
	const Cell *region = cell_of(target->cells[CELL_REGION]);
	const Cell *cell = cell_of(target->cells[CELL_TARGET]);

	*room = (HealthRoom) {.calls = PG_INT32_MAX};
	if (region && target->max_inflight > 0)
		bound(room, free_slots(region, target->max_inflight, leave), region, 0);
	if (cell && target->rpm > 0)
		bound_by_limiter(room, cell, &cell->requests, 1, target->rpm, leave,
						 now);
	if (cell && target->tpm > 0 && tokens > 0)
		bound_by_limiter(room, cell, &cell->tokens, tokens, target->tpm, leave,
						 now);
	if (check->verdict == HEALTH_RAMPING)
		bound_by_ramp(room, target, width, now, check);
	else if (check->verdict == HEALTH_TRIAL)
		bound(room, check->permits, cell_of(target->cells[check->scope]), 0);
}
