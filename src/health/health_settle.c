/*
 * health_settle.c
 *	  How the end of an attempt is booked.
 *
 * An attempt has entered three breakers, and its end says something of each of
 * them, or nothing: see bookings[]. Where an answer came from somebody lives,
 * whatever the answer was: so a target's failure is a sign of life of its
 * region and its provider. Where the network failed nothing is known of
 * anybody but the region.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "health/health.h"

HealthListener health_listener = NULL;

/* What an end says of one scope. */
typedef enum Booking
{
	BOOK_NOTHING,
	BOOK_ALIVE,					/* a success, but no measure of time */
	BOOK_SUCCESS,
	BOOK_FAILURE,
	BOOK_TRIP
} Booking;

/*
 * What each kind of end says of provider, region and target. FAILURE and TRIP
 * are those of a target: where they blame a wider scope, they say nothing of
 * the other two.
 */
static const Booking bookings[][HEALTH_SCOPES] = {
	[RESULT_SUCCESS] = {BOOK_ALIVE, BOOK_ALIVE, BOOK_SUCCESS},
	[RESULT_FAILURE] = {BOOK_ALIVE, BOOK_ALIVE, BOOK_FAILURE},
	[RESULT_TRIP] = {BOOK_ALIVE, BOOK_ALIVE, BOOK_TRIP},
	[RESULT_THROTTLED] = {BOOK_ALIVE, BOOK_ALIVE, BOOK_NOTHING},
	[RESULT_ANSWERED] = {BOOK_ALIVE, BOOK_ALIVE, BOOK_NOTHING},
	[RESULT_NOTHING] = {BOOK_NOTHING, BOOK_NOTHING, BOOK_NOTHING},
};

/*
 * Words for a breaker that opens without a reason given. A success may open
 * one, too: when it is slow, or makes up the calls that it takes to judge.
 */
static const char *const opening_words[] = {
	[BOOK_ALIVE] = "too many failures or slow answers",
	[BOOK_SUCCESS] = "too many failures or slow answers",
	[BOOK_FAILURE] = "too many failures",
	[BOOK_TRIP] = "refused",
};

/*
 * How long a target is left alone that gives no hint: doubles with each time in
 * a row, up to the longest, and is drawn between the shortest and that (AWS's
 * full jitter, above a floor).
 */
#define THROTTLE_MIN	(1 * USEC_SEC)
#define THROTTLE_MAX	(60 * USEC_SEC)
#define THROTTLE_DOUBLINGS 6	/* from the one to beyond the other */

/* Keeps why a scope is not closed, and tells the listener. */
void
health_changed(Cell *cell, const BreakerChange *change, const char *reason)
{
	if (!change->changed && !change->prolonged)
		return;
	if (change->to == BREAKER_OPEN)
		cell_set_reason(cell, reason ? reason : "");
	else if (change->to == BREAKER_CLOSED)
	{
		cell_set_reason(cell, "");
		pg_atomic_write_u64(&cell->fingerprint, 0);
	}
	if (change->changed && health_listener)
		health_listener(cell, change, reason);
}

/*
 * Looks up what an end says of a scope. A target under trial that refused the
 * request as such has answered, and that is what the trial asked.
 */
static Booking
booking_at(const Reservation *reservation, const HealthResult *result,
		   CellScope scope)
{
	const BreakerTicket *ticket = &reservation->tickets[scope];

	if (result->our_network)
		return BOOK_NOTHING;
	if ((result->kind == RESULT_FAILURE || result->kind == RESULT_TRIP) &&
		result->scope != CELL_TARGET)
		return scope == result->scope ?
			bookings[result->kind][CELL_TARGET] : BOOK_NOTHING;
	if (result->kind == RESULT_ANSWERED && (ticket->permit || ticket->probe))
		return BOOK_ALIVE;
	return bookings[result->kind][scope];
}

static bool
is_slow(const Reservation *reservation, Usec now)
{
	Usec		limit = reservation->breaker->slow_call;

	return limit > 0 && now - reservation->started > limit;
}

/* Opens at once, and keeps what was blamed for it. */
static BreakerChange
trip(Cell *cell, BreakerTicket *ticket, const HealthResult *result, Usec now)
{
	BreakerChange change = breaker_trip(&cell->breaker, ticket,
										result->open_for, now);

	if (change.changed || change.prolonged)
		pg_atomic_write_u64(&cell->fingerprint, result->fingerprint);
	return change;
}

/* Ends an attempt's ticket at one scope. */
static BreakerChange
book(Reservation *reservation, Cell *cell, CellScope scope, Booking booking,
	 const HealthResult *result, Usec now)
{
	const BreakerConfig *config = reservation->breaker;
	BreakerTicket *ticket = &reservation->tickets[scope];
	Breaker    *breaker = &cell->breaker;

	switch (booking)
	{
		case BOOK_ALIVE:
			return breaker_success(breaker, config, ticket, false, now);
		case BOOK_SUCCESS:
			return breaker_success(breaker, config, ticket,
								   is_slow(reservation, now), now);
		case BOOK_FAILURE:
			return breaker_failure(breaker, config, ticket,
								   is_slow(reservation, now),
								   result->retry_after, now);
		case BOOK_TRIP:
			return trip(cell, ticket, result, now);
		case BOOK_NOTHING:
			break;
	}
	breaker_leave(breaker, ticket);
	return (BreakerChange) {0};
}

/*
 * Returns how long to leave a target alone that has said "later". Attempts that
 * were under way together are told so together: that is once in a row, and the
 * others add the shortest wait only.
 */
static Usec
throttle_wait(Cell *cell, const HealthResult *result, Usec now)
{
	uint32		times = 0;
	Usec		most;

	if (pg_atomic_read_u64(&cell->throttled_until) <= (uint64) now)
		times = pg_atomic_fetch_add_u32(&cell->throttles, 1) + 1;
	if (result->retry_after > 0)
		return Max(result->retry_after, THROTTLE_MIN);
	most = Min(THROTTLE_MIN << Min(times, THROTTLE_DOUBLINGS), THROTTLE_MAX);
	return THROTTLE_MIN +
		pg_prng_uint64_range(&pg_global_prng_state, 0, most - THROTTLE_MIN);
}

/*
 * Leaves a target alone for as long as its owner wants: said in so many words,
 * or told by limits that the next request of this size would exceed.
 */
static void
obey(Cell *cell, const Reservation *reservation, const HealthResult *result,
	 Usec now)
{
	Usec		wait = limit_notice_wait(&result->requests_left, 1);
	Usec		of_tokens = limit_notice_wait(&result->tokens_left,
											  reservation->tokens);
	Usec		said = 0;

	if (result->kind == RESULT_THROTTLED)
		said = throttle_wait(cell, result, now);
	else if (result->kind != RESULT_SUCCESS)
		said = result->retry_after;
	wait = Max(wait, of_tokens);
	wait = Max(wait, said);
	if (wait > 0)
		cell_throttle(cell, now + wait);
}

static void
record_duration(Cell *cell, const Reservation *reservation,
				const HealthResult *result, Usec now)
{
	Usec		duration = now - reservation->started;

	if (result->kind == RESULT_SUCCESS)
		latency_record(&cell->latency, duration, now);
	else if (result->kind == RESULT_FAILURE && !result->our_network)
		latency_note_failure(&cell->latency, duration, now);
}

/*
 * Puts right the tokens taken by estimate. Without a word of what was used, an
 * answer has cost the estimate, and so has an attempt that was cancelled: its
 * owner has probably counted it. A failure has cost nothing.
 */
static void
settle_tokens(Cell *cell, const Reservation *reservation,
			  const HealthResult *result, Usec now)
{
	int64		taken = Min(reservation->tokens, reservation->tpm);
	int64		used = result->tokens;

	if (used < 0)
		used = result->kind == RESULT_SUCCESS ||
			result->kind == RESULT_NOTHING ? taken : 0;
	if (reservation->tpm > 0 && used != taken)
		limiter_give_back(&cell->tokens, taken - used, reservation->tpm, now);
}

/* Books what only a target's cell keeps. */
static void
settle_target(Cell *cell, const Reservation *reservation,
			  const HealthResult *result, Usec now)
{
	obey(cell, reservation, result, now);
	if (result->kind == RESULT_SUCCESS)
		pg_atomic_write_u32(&cell->throttles, 0);
	record_duration(cell, reservation, result, now);
	settle_tokens(cell, reservation, result, now);
}

/* Counts an attempt; a failure only where it was not ours. */
static void
count_attempt(Cell *cell, const HealthResult *result)
{
	cell_count(cell, COUNT_CALLS);
	if (result->failed && !result->our_network)
		cell_count(cell, COUNT_FAILURES);
}

/* Books an end at one scope; *reason is why it has opened its breaker. */
static BreakerChange
settle_scope(Reservation *reservation, Cell *cell, CellScope scope,
			 const HealthResult *result, Usec now, const char **reason)
{
	Booking		booking = booking_at(reservation, result, scope);
	bool		blamed = booking == BOOK_FAILURE || booking == BOOK_TRIP;
	BreakerChange change;

	count_attempt(cell, result);
	change = book(reservation, cell, scope, booking, result, now);
	if (change.to != BREAKER_OPEN)
		*reason = NULL;
	else
		*reason = blamed && result->reason ? result->reason :
			opening_words[booking];
	return change;
}

/*
 * What is put aside is put aside before a permit is free for the next attempt.
 * The listener is called before the in-flight slots are returned, which keep
 * the cells that it is shown.
 */
void
health_settle(Reservation *reservation, const HealthResult *result, Usec now)
{
	BreakerChange changes[HEALTH_SCOPES] = {{0}};
	const char *reasons[HEALTH_SCOPES] = {0};
	Cell	   *cells[HEALTH_SCOPES];

	if (!reservation->held)
		return;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		cells[scope] = reservation->cells[scope].cell;
	if (cells[CELL_TARGET])
		settle_target(cells[CELL_TARGET], reservation, result, now);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		if (cells[scope])
			changes[scope] = settle_scope(reservation, cells[scope], scope,
										  result, now, &reasons[scope]);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		if (cells[scope])
			health_changed(cells[scope], &changes[scope], reasons[scope]);
	health_release(reservation);
}

/*
 * A trial that is silent fails at every scope that it tries. One that has ended
 * has empty tickets, with which nothing happens.
 */
void
health_silent(Reservation *reservation, Usec now)
{
	BreakerChange changes[HEALTH_SCOPES] = {{0}};
	char		reason[CELL_REASON_LEN];

	snprintf(reason, sizeof(reason), "silent for " INT64_FORMAT " ms",
			 (now - reservation->started) / USEC_MSEC);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = reservation->cells[scope].cell;
		BreakerTicket *ticket = &reservation->tickets[scope];

		if (cell && (scope == CELL_TARGET || ticket->permit))
			changes[scope] = breaker_silent(&cell->breaker,
											reservation->breaker, ticket, now);
	}
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		if (changes[scope].changed)
			health_changed(reservation->cells[scope].cell, &changes[scope],
						   reason);
}

void
health_trip(CellRef ref, const HealthResult *result, Usec now)
{
	BreakerTicket none = {0};
	Cell	   *cell = cell_hold(ref);
	BreakerChange change;

	if (cell == NULL)
		return;
	change = trip(cell, &none, result, now);
	health_changed(cell, &change,
				   result->reason ? result->reason : opening_words[BOOK_TRIP]);
	cell_drop(cell);
}

void
health_reset(CellRef ref, const char *reason, Usec now)
{
	Cell	   *cell = cell_hold(ref);
	BreakerChange change;

	if (cell == NULL)
		return;
	change = breaker_reset(&cell->breaker, now);
	cell_set_reason(cell, "");
	pg_atomic_write_u64(&cell->fingerprint, 0);
	health_changed(cell, &change, reason);
	cell_drop(cell);
}

void
health_forgive(CellRef ref, Usec within, Usec now)
{
	Cell	   *cell = cell_hold(ref);
	BreakerChange change;

	if (cell == NULL)
		return;
	change = breaker_forgive(&cell->breaker, now - within, now);
	health_changed(cell, &change, NULL);
	cell_drop(cell);
}

/* Notes that a target is in use; true when it was not, when last looked at. */
static bool
begins_use(Cell *cell, bool in_use)
{
	bool		was_drained =
		pg_atomic_exchange_u32(&cell->drained, !in_use) != 0;

	return was_drained && in_use;
}

void
health_note_use(const HealthTarget *target, bool in_use, Usec now)
{
	Cell	   *cell = cell_hold(target->cells[CELL_TARGET]);
	BreakerChange change;

	if (cell == NULL)
		return;
	if (begins_use(cell, in_use))
	{
		change = breaker_begin_ramp(&cell->breaker, target->breaker, now);
		health_changed(cell, &change, "enabled again");
	}
	cell_drop(cell);
}
