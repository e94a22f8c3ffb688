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

/* How long an attempt may be silent before it is suspect. */
#define PATIENCE_FACTOR		3
#define PATIENCE_MIN		(250 * USEC_MSEC)
#define PATIENCE_MIN_TRIAL	(50 * USEC_MSEC)
#define PATIENCE_DOUBLINGS	10

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
			check.verdict = view->permits < config->half_open_calls ?
				HEALTH_TRIAL : HEALTH_OUT;
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

static bool
check_limiter(const Limiter *limiter, int64 units, int64 per_minute,
			  HealthWhy why, Usec now, HealthCheck *check)
{
	Usec		when = limiter_when(limiter, units, per_minute, now);

	if (when <= now)
		return true;
	refuse(check, why, CELL_TARGET, when);
	return false;
}

/* Looks at the limits that are set; the first one that is reached decides. */
static void
check_limits(const HealthTarget *target, int64 tokens, Usec now,
			 HealthCheck *check)
{
	Cell	   *region = cell_of(target->cells[CELL_REGION]);
	Cell	   *cell = cell_of(target->cells[CELL_TARGET]);

	if (cell && !check_throttle(cell, now, check))
		return;
	if (region && target->max_inflight > 0 &&
		pg_atomic_read_u32(&region->in_flight) >= (uint32) target->max_inflight)
	{
		refuse(check, WHY_MAX_INFLIGHT, CELL_REGION, 0);
		return;
	}
	if (cell && target->rpm > 0 &&
		!check_limiter(&cell->requests, 1, target->rpm, WHY_RPM, now, check))
		return;
	if (cell && target->tpm > 0)
		check_limiter(&cell->tokens, tokens, target->tpm, WHY_TPM, now, check);
}

void
health_check(const HealthTarget *target, int64 tokens, Usec now,
			 HealthCheck *check)
{
	*check = (HealthCheck) {.verdict = HEALTH_READY, .share = 1};
	check_breakers(target, now, check);
	if (check->verdict != HEALTH_OUT)
		check_limits(target, tokens, now, check);
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
 * Enters the three breakers, widest first. Where one refuses the worst of them
 * says why; whatever they are like by now, out is out.
 */
static bool
enter_breakers(Reservation *reservation, const HealthTarget *target,
			   bool probe, Usec lease, Usec now, HealthCheck *check)
{
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;
		BreakerTicket *ticket = &reservation->tickets[scope];

		if (cell == NULL)
			continue;
		if (!breaker_enter(&cell->breaker, target->breaker, probe, lease, now,
						   ticket))
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
take_units(Cell *cell, const Reservation *reservation, Usec now,
		   HealthCheck *check)
{
	int			rpm = reservation->rpm;
	int			tpm = reservation->tpm;

	if (rpm > 0 && !limiter_take(&cell->requests, 1, rpm, now))
	{
		refuse(check, WHY_RPM, CELL_TARGET,
			   limiter_when(&cell->requests, 1, rpm, now));
		return false;
	}
	if (tpm > 0 && !limiter_take(&cell->tokens, reservation->tokens, tpm, now))
	{
		refuse(check, WHY_TPM, CELL_TARGET,
			   limiter_when(&cell->tokens, reservation->tokens, tpm, now));
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
			Usec now, HealthCheck *check)
{
	Cell	   *cell = reservation->cells[CELL_TARGET].cell;

	if (cell && !check_throttle(cell, now, check))
		return false;
	if (max_inflight > 0 && before >= (uint32) max_inflight)
	{
		refuse(check, WHY_MAX_INFLIGHT, CELL_REGION, 0);
		return false;
	}
	return cell == NULL || take_units(cell, reservation, now, check);
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

bool
health_reserve(const HealthTarget *target, int64 tokens, bool probe,
			   Usec lease, Usec now, Reservation *reservation,
			   HealthCheck *check)
{
	uint32		before = begin(reservation, target, tokens, now);
	Cell	   *cell = reservation->cells[CELL_TARGET].cell;

	*check = (HealthCheck) {.verdict = HEALTH_READY, .share = 1};
	if (!enter_breakers(reservation, target, probe, lease, now, check) ||
		(!probe && !take_limits(reservation, target->max_inflight, before, now,
								check)))
	{
		health_release(reservation);
		return false;
	}
	if (probe && cell)
		charge_units(cell, reservation, now);
	note_request(reservation, now);
	return true;
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

/* Counts the trials in a row that have failed before this one. */
static int
failed_trials(const Reservation *reservation)
{
	int			most = 0;

	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;
		BreakerView view;

		if (cell == NULL || !reservation->tickets[scope].permit)
			continue;
		view = breaker_view(&cell->breaker, reservation->breaker,
							reservation->started);
		most = Max(most, view.trips - 1);
	}
	return Min(most, PATIENCE_DOUBLINGS);
}

/* Returns the usual longest duration at a reservation's target, or 0. */
static Usec
usual_longest(const Reservation *reservation)
{
	Cell	   *cell = reservation->cells[CELL_TARGET].cell;

	return cell ? latency_p99(&cell->latency) : 0;
}

/* Returns how long any attempt may be silent; 0 = nothing is known. */
static Usec
patience(const Reservation *reservation)
{
	Usec		p99 = usual_longest(reservation);

	return p99 > 0 ? Max(PATIENCE_FACTOR * p99, PATIENCE_MIN) : 0;
}

/*
 * A target may have become slower than it ever was: each trial may take twice
 * as long as the one before, so that one of them ends.
 */
Usec
health_patience(const Reservation *reservation, Usec unknown)
{
	Usec		p99 = usual_longest(reservation);

	if (!reservation->trial)
		return patience(reservation);
	return Max(p99 > 0 ? p99 : unknown, PATIENCE_MIN_TRIAL) <<
		failed_trials(reservation);
}

bool
health_is_overdue(const Reservation *reservation, Usec now)
{
	Usec		longest = patience(reservation);

	return longest > 0 && now - reservation->started >= longest;
}

bool
health_take_retry(const HealthTarget *target, Usec now)
{
	Cell	   *cell = cell_of(target->cells[CELL_PROVIDER]);

	return cell == NULL || budget_take_retry(&cell->budget, now);
}
