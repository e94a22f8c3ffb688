/*
 * unit_health.h
 *	  What the parts of the suite `health` share: a target whose cells lie in
 *	  memory of the test's, and looks at it.
 */
#ifndef LLM_UNIT_HEALTH_H
#define LLM_UNIT_HEALTH_H

#include "postgres.h"

#include "health/health.h"

#include "unit.h"

#define T0			((Usec) 1000 * USEC_SEC)
#define LEASE		(60 * USEC_SEC)
#define TRIP_TIME	(20 * USEC_SEC)
#define OPEN_TIME	(5 * USEC_SEC)
#define RAMP		(10 * USEC_SEC)
#define SLOW		(2 * USEC_SEC)
#define TOOK		(100 * USEC_MSEC)
#define TRIALS		2

static const BreakerConfig config = {
	.window = 30 * USEC_SEC,
	.min_calls = 5,
	.failure_rate = 0.5,
	.consecutive = 3,
	.slow_call = SLOW,
	.slow_rate = 0.8,
	.open_time = OPEN_TIME,
	.open_time_max = 300 * USEC_SEC,
	.half_open_calls = TRIALS,
	.ramp = RAMP,
};

static const char *const scope_names[] = {"provider", "region", "target"};

static const LimitNotice no_notice = {-1, -1, -1};

static inline CellRef
new_ref(void)
{
	CellRef		ref = {palloc0(sizeof(Cell)), 0};

	cell_init(ref.cell, 0);
	ref.generation = pg_atomic_read_u32(&ref.cell->generation);
	return ref;
}

static inline HealthTarget
new_target(void)
{
	HealthTarget target = {.breaker = &config};

	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		target.cells[scope] = new_ref();
	return target;
}

static inline Breaker *
breaker_of(const HealthTarget *target, CellScope scope)
{
	return &target->cells[scope].cell->breaker;
}

static inline BreakerView
view_of(const HealthTarget *target, CellScope scope, Usec now)
{
	return breaker_view(breaker_of(target, scope), &config, now);
}

static inline uint32
in_flight(const HealthTarget *target, CellScope scope)
{
	return pg_atomic_read_u32(&target->cells[scope].cell->in_flight);
}

/* Brings a breaker that is closed into a state, as it is at `now`. */
static inline void
bring(const HealthTarget *target, CellScope scope, BreakerState state,
	  Usec now)
{
	Breaker    *breaker = breaker_of(target, scope);
	BreakerTicket ticket = {0};
	BreakerChange change;
	Usec		when = state == BREAKER_OPEN ? now : now - 2 * TRIP_TIME;

	if (state == BREAKER_CLOSED)
		return;
	breaker_trip(breaker, &ticket, TRIP_TIME, when);
	if (state == BREAKER_RAMPING)
	{
		breaker_enter(breaker, &config, false, LEASE, now, &ticket, &change);
		breaker_success(breaker, &config, &ticket, false, now);
	}
	CHECK(view_of(target, scope, now).state == state, "%s is brought to %s",
		  scope_names[scope], breaker_state_name(state));
	CHECK(!breaker_is_closed(breaker), "at a glance");
}

/* Nothing is held of any of the three. */
static inline void
check_idle(const HealthTarget *target, Usec now, const char *when)
{
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		CHECK(in_flight(target, scope) == 0, "%s: %u in flight at the %s",
			  when, in_flight(target, scope), scope_names[scope]);
		CHECK(view_of(target, scope, now).permits == 0,
			  "%s: %d permits at the %s", when,
			  view_of(target, scope, now).permits, scope_names[scope]);
	}
}

static inline bool
reserve(const HealthTarget *target, int64 tokens, Usec now, Reservation *held)
{
	HealthCheck check;

	return health_reserve(target, tokens, 0, false, LEASE, now, held, &check);
}

static inline HealthResult
result_of(HealthKind kind, CellScope scope)
{
	return (HealthResult) {
		.kind = kind, .scope = scope, .tokens = -1, .open_for = TRIP_TIME,
		.failed = kind == RESULT_FAILURE || kind == RESULT_TRIP,
		.requests_left = no_notice, .tokens_left = no_notice
	};
}

/* unit_health_many.c: many processes at one target. */
extern void test_health_processes(void);

/* Anything in any order, at targets that share their scopes. */
extern void test_health_random(void);

/* unit_health_reserve.c: who leaves a share of limits to others; probes. */
extern void test_health_leave(void);
extern void test_health_room(void);
extern void test_health_trials_told(void);
extern void test_health_probes(void);

#endif							/* LLM_UNIT_HEALTH_H */
