/*
 * health.c
 *	  May a target be asked, and what an attempt at it reserves.
 *
 * A check only reads, and can be outdated before its caller acts on it. What
 * counts is the reservation: each of its parts is taken by one atomic change,
 * so that no limit is ever exceeded, and what was taken is given back when a
 * later part refuses.
 *
 * The in-flight counts are taken first and returned last: they keep the cells
 * from being given to others (see shared.c), so that a reservation follows its
 * references without asking cell_of() again. A scope whose cell is gone before
 * that admits, and keeps nothing.
 */
#include "postgres.h"

#include "health/health.h"

/* All of this process's. */
static dlist_head reservations = DLIST_STATIC_INIT(reservations);

static void
refuse(HealthCheck *check, HealthWhy why, CellScope scope, Usec until)
{
	*check = (HealthCheck) {
		.verdict = HEALTH_OUT, .why = why, .scope = scope, .until = until,
		.share = 1
	};
}

/*
 * Says what the breaker of one scope makes of its target. When a running trial
 * will end is not known, only when its lease does.
 */
static HealthCheck
check_of_view(const BreakerView *view, const BreakerConfig *config,
			  CellScope scope)
{
	HealthCheck check = {.why = WHY_BREAKER, .scope = scope, .share = 1};

	switch (view->state)
	{
		case BREAKER_CLOSED:
			check.verdict = HEALTH_READY;
			check.why = WHY_NONE;
			break;
		case BREAKER_RAMPING:
			check.verdict = HEALTH_RAMPING;
			check.share = view->share;
			break;
		case BREAKER_HALF_OPEN:
			check.permits = config->half_open_calls - view->permits;
			check.verdict = check.permits > 0 ? HEALTH_TRIAL : HEALTH_OUT;
			break;
		case BREAKER_OPEN:
			check.verdict = HEALTH_OUT;
			check.until = view->until;
			check.sticky = view->sticky;
			check.forced = view->forced;
			break;
	}
	return check;
}

/* Between equals the earlier one stays, which is that of the wider scope. */
static bool
is_worse(const HealthCheck *check, const HealthCheck *than)
{
	if (check->verdict != than->verdict)
		return check->verdict > than->verdict;
	if (check->verdict == HEALTH_OUT)
		return check->until > than->until;
	if (check->verdict == HEALTH_TRIAL)
		return check->permits < than->permits;
	return check->share < than->share;
}

/* Looks at the three breakers; the worst of them decides. */
static void
check_breakers(const HealthTarget *target, Usec now, HealthCheck *check)
{
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = cell_of(target->cells[scope]);
		BreakerView view;
		HealthCheck found;

		if (cell == NULL || breaker_is_closed(&cell->breaker))
			continue;
		view = breaker_view(&cell->breaker, target->breaker, now);
		found = check_of_view(&view, target->breaker, scope);
		if (is_worse(&found, check))
			*check = found;
	}
}

/* Returns false, and says so, while a target's owner wants no requests. */
static bool
check_throttle(Cell *cell, Usec now, HealthCheck *check)
{
	Usec		until = pg_atomic_read_u64(&cell->throttled_until);

	if (until <= now)
		return true;
	refuse(check, WHY_THROTTLED, CELL_TARGET, until);
	return false;
}

/* Refuses for a limit of so many a minute. */
static void
refuse_units(HealthCheck *check, HealthWhy why, const Limiter *limiter,
			 int64 units, int64 per_minute, double leave, Usec now)
{
	refuse(check, why, CELL_TARGET,
		   limiter_when(limiter, units, per_minute, leave, now));
	check->reserved = leave > 0 &&
		limiter_when(limiter, units, per_minute, 0, now) <= now;
}

static bool
check_limiter(const Limiter *limiter, int64 units, int64 per_minute,
			  double leave, HealthWhy why, Usec now, HealthCheck *check)
{
	if (limiter_when(limiter, units, per_minute, leave, now) <= now)
		return true;
	refuse_units(check, why, limiter, units, per_minute, leave, now);
	return false;
}

uint32
health_inflight_cap(int max_inflight, double leave)
{
	if (leave >= 1)
		return 0;
	/* what is whole stays so: 0.7 of 10 are 7 */
	return Max((uint32) (max_inflight * (1 - leave) + 1e-6), 1);
}

/* Looks at a region's attempts under way, `busy` without this one. */
static bool
check_inflight(int max_inflight, uint32 busy, double leave,
			   HealthCheck *check)
{
	if (max_inflight <= 0 || busy < health_inflight_cap(max_inflight, leave))
		return true;
	refuse(check, WHY_MAX_INFLIGHT, CELL_REGION, leave >= 1 ? USEC_NEVER : 0);
	check->reserved = busy < (uint32) max_inflight;
	return false;
}

/* Looks at the limits that are set; the first one that is reached decides. */
static void
check_limits(const HealthTarget *target, int64 tokens, double leave,
			 Usec now, HealthCheck *check)
{
	Cell	   *region = cell_of(target->cells[CELL_REGION]);
	Cell	   *cell = cell_of(target->cells[CELL_TARGET]);

	if (cell && !check_throttle(cell, now, check))
		return;
	if (region &&
		!check_inflight(target->max_inflight,
						pg_atomic_read_u32(&region->in_flight), leave, check))
		return;
	if (cell && target->rpm > 0 &&
		!check_limiter(&cell->requests, 1, target->rpm, leave, WHY_RPM, now,
					   check))
		return;
	if (cell && target->tpm > 0)
		check_limiter(&cell->tokens, tokens, target->tpm, leave, WHY_TPM, now,
					  check);
}

void
health_check(const HealthTarget *target, int64 tokens, double leave,
			 Usec now, HealthCheck *check)
{
	*check = (HealthCheck) {.verdict = HEALTH_READY, .share = 1};
	check_breakers(target, now, check);
	if (check->verdict != HEALTH_OUT)
		check_limits(target, tokens, leave, now, check);
}

/*
 * Counts an attempt in a cell, as cell_hold() does; gives back how many there
 * were before it, too.
 */
static Cell *
occupy(CellRef ref, uint32 *before)
{
	*before = 0;
	if (ref.cell == NULL)
		return NULL;
	*before = pg_atomic_fetch_add_u32(&ref.cell->in_flight, 1);
	if (likely(cell_of(ref) != NULL))
		return ref.cell;
	cell_drop(ref.cell);
	return NULL;
}

/*
 * Begins a reservation, chained so that whatever happens next it is returned.
 * Gives back how many attempts were under way at the region before this one.
 */
static uint32
begin(Reservation *reservation, const HealthTarget *target, int64 tokens,
	  Usec now)
{
	uint32		before[HEALTH_SCOPES];

	memset(reservation, 0, sizeof(*reservation));
	reservation->breaker = target->breaker;
	reservation->rpm = target->rpm;
	reservation->tpm = target->tpm;
	reservation->tokens = tokens;
	reservation->started = now;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		CellRef		ref = target->cells[scope];

		ref.cell = occupy(ref, &before[scope]);
		reservation->cells[scope] = ref;
	}
	dlist_push_tail(&reservations, &reservation->node);
	reservation->held = true;
	return before[CELL_REGION];
}

/*
 * Enters the three breakers, widest first; *changes are those that it makes.
 * Where one refuses the worst of them says why; whatever they are like by now,
 * out is out.
 */
static bool
enter_breakers(Reservation *reservation, const HealthTarget *target,
			   bool probe, Usec lease, Usec now, BreakerChange *changes,
			   HealthCheck *check)
{
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;
		BreakerTicket *ticket = &reservation->tickets[scope];

		if (cell == NULL)
			continue;
		if (!breaker_enter(&cell->breaker, target->breaker, probe, lease, now,
						   ticket, &changes[scope]))
		{
			refuse(check, WHY_BREAKER, scope, 0);
			check_breakers(target, now, check);
			return false;
		}
		reservation->trial |= ticket->permit;
	}
	return true;
}

/*
 * Takes a request and its tokens. Between the look that found a limit free and
 * the taking somebody may have been faster.
 */
static bool
take_units(Cell *cell, const Reservation *reservation, double leave, Usec now,
		   HealthCheck *check)
{
	int			rpm = reservation->rpm;
	int			tpm = reservation->tpm;
	int64		tokens = reservation->tokens;

	if (rpm > 0 && !limiter_take(&cell->requests, 1, rpm, leave, now))
	{
		refuse_units(check, WHY_RPM, &cell->requests, 1, rpm, leave, now);
		return false;
	}
	if (tpm > 0 && !limiter_take(&cell->tokens, tokens, tpm, leave, now))
	{
		refuse_units(check, WHY_TPM, &cell->tokens, tokens, tpm, leave, now);
		if (rpm > 0)
			limiter_give_back(&cell->requests, 1, rpm, now);
		return false;
	}
	return true;
}

/* The same for a probe: it is counted, into debt if need be. */
static void
charge_units(Cell *cell, const Reservation *reservation, Usec now)
{
	if (reservation->rpm > 0)
		limiter_give_back(&cell->requests, -1, reservation->rpm, now);
	if (reservation->tpm > 0)
		limiter_give_back(&cell->tokens,
						  -Min(reservation->tokens, reservation->tpm),
						  reservation->tpm, now);
}

/* Takes what has limits, in the order in which health_check() names them. */
static bool
take_limits(const Reservation *reservation, int max_inflight, uint32 before,
			double leave, Usec now, HealthCheck *check)
{
	Cell	   *cell = reservation->cells[CELL_TARGET].cell;

	if (cell && !check_throttle(cell, now, check))
		return false;
	if (!check_inflight(max_inflight, before, leave, check))
		return false;
	return cell == NULL || take_units(cell, reservation, leave, now, check);
}

static void
note_request(const Reservation *reservation, Usec now)
{
	Cell	   *provider = reservation->cells[CELL_PROVIDER].cell;

	if (provider)
		budget_count_request(&provider->budget, now);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;

		if (cell)
			pg_atomic_write_u64(&cell->last_used, now);
	}
}

/* Takes all that an attempt needs; false when something is refused. */
static bool
take(Reservation *reservation, const HealthTarget *target, double leave,
	 bool probe, Usec lease, uint32 before, Usec now, BreakerChange *changes,
	 HealthCheck *check)
{
	Cell	   *cell = reservation->cells[CELL_TARGET].cell;

	if (!enter_breakers(reservation, target, probe, lease, now, changes, check))
		return false;
	if (!probe)
		return take_limits(reservation, target->max_inflight, before, leave,
						   now, check);
	if (cell)
		charge_units(cell, reservation, now);
	return true;
}

/*
 * A breaker that a trial has made half-open stays so when a limit refuses the
 * trial. The listener is called while the cells that it is shown are held.
 */
bool
health_reserve(const HealthTarget *target, int64 tokens, double leave,
			   bool probe, Usec lease, Usec now, Reservation *reservation,
			   HealthCheck *check)
{
	BreakerChange changes[HEALTH_SCOPES] = {{0}};
	uint32		before = begin(reservation, target, tokens, now);
	bool		taken;

	*check = (HealthCheck) {.verdict = HEALTH_READY, .share = 1};
	taken = take(reservation, target, leave, probe, lease, before, now,
				 changes, check);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		if (changes[scope].changed)
			health_changed(reservation->cells[scope].cell, &changes[scope],
						   NULL);
	if (taken)
		note_request(reservation, now);
	else
		health_release(reservation);
	return taken;
}

/*
 * The request may have been sent, and its owner may have counted it: a request
 * and its tokens are not returned.
 */
void
health_release(Reservation *reservation)
{
	if (!reservation->held)
		return;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;

		if (cell == NULL)
			continue;
		breaker_leave(&cell->breaker, &reservation->tickets[scope]);
		pg_atomic_fetch_sub_u32(&cell->in_flight, 1);
	}
	dlist_delete(&reservation->node);
	reservation->held = false;
}

void
health_release_all(void)
{
	while (!dlist_is_empty(&reservations))
		health_release(dlist_head_element(Reservation, node, &reservations));
}

bool
health_take_retry(const HealthTarget *target, Usec now)
{
	Cell	   *cell = cell_of(target->cells[CELL_PROVIDER]);

	return cell == NULL || budget_take_retry(&cell->budget, now);
}
