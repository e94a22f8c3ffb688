/*
 * unit_health.c
 *	  The three scopes of a target together: what may be asked, what an attempt
 *	  holds, and how each kind of end is booked at each scope in each state.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "unit_health.h"

static const char *const kind_names[] = {"success", "failure", "trip",
"throttled", "answered", "nothing"};

static uint64
count_of(const HealthTarget *target, CellScope scope, CellCount count)
{
	return pg_atomic_read_u64(&target->cells[scope].cell->counts[count]);
}

/* One attempt from its reservation to its end. */
static void
attempt(const HealthTarget *target, HealthKind kind, Usec started, Usec ended)
{
	HealthResult result = result_of(kind, CELL_TARGET);
	Reservation held;

	CHECK(reserve(target, 0, started, &held), "an attempt is admitted");
	health_settle(&held, &result, ended);
}

/* ---- every end, at every scope, in every state ---- */

/*
 * What an end says of provider, region and target, by whom it blames: + it is
 * alive, - it failed, ! it is to be opened, . nothing.
 */
static const char *const says[][HEALTH_SCOPES] = {
	[RESULT_SUCCESS] = {"+++", "+++", "+++"},
	[RESULT_FAILURE] = {"-..", ".-.", "++-"},
	[RESULT_TRIP] = {"!..", ".!.", "++!"},
	[RESULT_THROTTLED] = {"++.", "++.", "++."},
	[RESULT_ANSWERED] = {"++.", "++.", "++."},
	[RESULT_NOTHING] = {"...", "...", "..."},
};

static char
said(HealthKind kind, CellScope blamed, CellScope scope, BreakerState state)
{
	if (kind == RESULT_ANSWERED && state == BREAKER_HALF_OPEN)
		return '+';
	return says[kind][blamed][scope];
}

static BreakerState
state_after(BreakerState state, char word)
{
	if (word == '!')
		return BREAKER_OPEN;
	if (state == BREAKER_HALF_OPEN && word != '.')
		return word == '+' ? BREAKER_RAMPING : BREAKER_OPEN;
	return state;
}

static void
check_window(const HealthTarget *target, CellScope scope, char word, Usec now,
			 const char *name)
{
	WindowCounts sum = window_sum(&breaker_of(target, scope)->window,
								  config.window, now);

	CHECK(sum.calls == (word == '+' || word == '-'), "%s: %u calls at the %s",
		  name, sum.calls, scope_names[scope]);
	CHECK(sum.failures == (word == '-'), "%s: %u failures at the %s", name,
		  sum.failures, scope_names[scope]);
	CHECK(sum.slow == 0, "%s: slow at the %s", name, scope_names[scope]);
}

/* An attempt ends while one of the scopes is in a state. */
static void
one_end(HealthKind kind, CellScope blamed, CellScope where, BreakerState state)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(kind, blamed);
	Reservation held;
	char		name[128];
	Usec		ended = T0 + TOOK;

	snprintf(name, sizeof(name), "%s of the %s, %s %s", kind_names[kind],
			 scope_names[blamed], scope_names[where],
			 breaker_state_name(state));
	if (state != BREAKER_OPEN)
		bring(&target, where, state, T0);
	CHECK(reserve(&target, 0, T0, &held), "%s: is admitted", name);
	CHECK(held.trial == (state == BREAKER_HALF_OPEN), "%s: a trial", name);
	if (state == BREAKER_OPEN)
		bring(&target, where, state, T0);	/* while it was under way */
	health_settle(&held, &result, ended);

	check_idle(&target, ended, name);
	CHECK(!held.held, "%s: is held no more", name);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		BreakerState before = scope == (int) where ? state : BREAKER_CLOSED;
		char		word = said(kind, blamed, scope, before);
		BreakerState after = view_of(&target, scope, ended).state;

		CHECK(after == state_after(before, word), "%s: the %s is %s", name,
			  scope_names[scope], breaker_state_name(after));
		if (before == BREAKER_CLOSED && word != '!')
			check_window(&target, scope, word, ended, name);
		CHECK(count_of(&target, scope, COUNT_CALLS) == 1, "%s: calls of %s",
			  name, scope_names[scope]);
		CHECK(count_of(&target, scope, COUNT_FAILURES) == result.failed,
			  "%s: failures of %s", name, scope_names[scope]);
	}
	unit_forget();
}

static void
test_ends(void)
{
	for (int kind = RESULT_SUCCESS; kind <= RESULT_NOTHING; kind++)
		for (int blamed = 0; blamed < HEALTH_SCOPES; blamed++)
			for (int where = 0; where < HEALTH_SCOPES; where++)
				for (int state = BREAKER_CLOSED; state <= BREAKER_RAMPING;
					 state++)
					one_end(kind, blamed, where, state);
}

/* Our own network's failure is nobody's. */
static void
test_our_network(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_FAILURE, CELL_REGION);
	Reservation held;

	latency_record(&target.cells[CELL_TARGET].cell->latency, 1, T0);
	bring(&target, CELL_REGION, BREAKER_HALF_OPEN, T0);
	result.our_network = true;
	CHECK(reserve(&target, 0, T0, &held), "a trial");
	health_settle(&held, &result, T0 + TOOK);
	check_idle(&target, T0 + TOOK, "our network");
	CHECK(view_of(&target, CELL_REGION, T0 + TOOK).state == BREAKER_HALF_OPEN,
		  "the region may be tried again");
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		CHECK(count_of(&target, scope, COUNT_CALLS) == 1, "an attempt");
		CHECK(count_of(&target, scope, COUNT_FAILURES) == 0, "nobody's");
		CHECK(window_sum(&breaker_of(&target, scope)->window, config.window,
						 T0 + TOOK).calls == 0, "no breaker counts it");
	}
	CHECK(latency_ewma(&target.cells[CELL_TARGET].cell->latency,
					   T0 + TOOK) <= 1, "no duration of it");
}

/*
 * Slow answers open their target's breaker, not those of its neighbours; a sign
 * of life is never slow.
 */
static void
test_slow(void)
{
	HealthTarget slow = new_target();
	HealthTarget failing = new_target();
	HealthTarget quick = new_target();
	char		reason[CELL_REASON_LEN];
	Usec		now = T0;

	for (int i = 0; i < config.min_calls; i++, now += 3 * SLOW)
	{
		attempt(&quick, RESULT_SUCCESS, now, now + SLOW);
		attempt(&slow, RESULT_SUCCESS, now, now + SLOW + 1);
		attempt(&failing, RESULT_ANSWERED, now, now + 2 * SLOW);
	}
	now -= SLOW;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		CHECK(view_of(&quick, scope, now).state == BREAKER_CLOSED,
			  "no longer than slow_call is not slow");
		CHECK(view_of(&slow, scope, now).state ==
			  (scope == CELL_TARGET ? BREAKER_OPEN : BREAKER_CLOSED),
			  "slow: the %s", scope_names[scope]);
		CHECK(view_of(&failing, scope, now).state == BREAKER_CLOSED,
			  "a slow refusal");
	}
	cell_get_reason(slow.cells[CELL_TARGET].cell, reason);
	CHECK_TEXT(reason, "too many failures or slow answers", "why");
}

/* A failure may be slow as well. */
static void
test_slow_failure(void)
{
	static const struct
	{
		HealthKind	kind;
		Usec		took;
	}			cases[] =
	{
		{RESULT_SUCCESS, 2 * SLOW},
		{RESULT_SUCCESS, 2 * SLOW},
		{RESULT_FAILURE, 2 * SLOW},
		{RESULT_SUCCESS, TOOK},
		{RESULT_FAILURE, 2 * SLOW},
	};
	HealthTarget target = new_target();

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		CHECK(view_of(&target, CELL_TARGET, T0).state == BREAKER_CLOSED,
			  "closed after %d", (int) i);
		attempt(&target, cases[i].kind, T0, T0 + cases[i].took);
	}
	CHECK(view_of(&target, CELL_TARGET, T0).state == BREAKER_OPEN,
		  "four of five were slow");
}

/* ---- throttling ---- */

static Usec
throttled(const HealthTarget *target, Usec now)
{
	Cell	   *cell = target->cells[CELL_TARGET].cell;

	return (Usec) pg_atomic_read_u64(&cell->throttled_until) - now;
}

/* Ends an attempt of its own at `now`, and returns how long is to be waited. */
static Usec
wait_after(HealthResult result, Usec now)
{
	HealthTarget target = new_target();
	Reservation held;
	Usec		wait;

	CHECK(reserve(&target, 50, now - TOOK, &held), "is admitted");
	health_settle(&held, &result, now);
	wait = throttled(&target, now);
	unit_forget();
	return Max(wait, 0);
}

static void
test_hints(void)
{
	HealthResult result = result_of(RESULT_THROTTLED, CELL_TARGET);
	LimitNotice used_up = {100, 0, 7 * USEC_SEC};
	LimitNotice half = {100, 49, 7 * USEC_SEC};

	result.retry_after = 9 * USEC_SEC;
	CHECK(wait_after(result, T0) == 9 * USEC_SEC, "a hint is obeyed");
	result.retry_after = 10 * USEC_MSEC;
	CHECK(wait_after(result, T0) == USEC_SEC, "a second at least");

	for (int kind = RESULT_FAILURE; kind <= RESULT_ANSWERED; kind++)
	{
		result = result_of(kind, CELL_TARGET);
		result.retry_after = 4 * USEC_SEC;
		CHECK(wait_after(result, T0) == 4 * USEC_SEC, "retry after %s",
			  kind_names[kind]);
		result.retry_after = 0;
		if (kind != RESULT_THROTTLED)
			CHECK(wait_after(result, T0) == 0, "no hint with %s",
				  kind_names[kind]);
	}

	result = result_of(RESULT_THROTTLED, CELL_TARGET);
	result.requests_left = (LimitNotice) {1, 0, 7 * USEC_SEC};
	result.retry_after = 4 * USEC_SEC;
	CHECK(wait_after(result, T0) == 7 * USEC_SEC, "a limit takes longer");
	result = result_of(RESULT_SUCCESS, CELL_TARGET);
	result.retry_after = 4 * USEC_SEC;
	CHECK(wait_after(result, T0) == 0, "who answered waits for nothing");
	result = result_of(RESULT_SUCCESS, CELL_TARGET);
	result.requests_left = used_up;
	CHECK(wait_after(result, T0) == limit_notice_wait(&used_up, 1) &&
		  limit_notice_wait(&used_up, 1) > 0, "no request is left");
	result.requests_left = half;
	CHECK(wait_after(result, T0) == 0, "one request is enough");
	result.tokens_left = half;
	CHECK(wait_after(result, T0) == limit_notice_wait(&half, 50) &&
		  limit_notice_wait(&half, 50) > 0, "49 tokens, the estimate is 50");
	result.requests_left = (LimitNotice) {2, 0, 7 * USEC_SEC};
	CHECK(wait_after(result, T0) == limit_notice_wait(&result.requests_left, 1),
		  "requests are missing for longer than tokens");
	result.requests_left = used_up;
	CHECK(wait_after(result, T0) == limit_notice_wait(&half, 50),
		  "tokens are missing for longer than requests");
}

/* A breaker that opens stays so for as long as its owner said. */
static void
test_floor(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_FAILURE, CELL_TARGET);
	Reservation held[3];

	result.retry_after = 40 * OPEN_TIME;
	for (int i = 0; i < config.consecutive; i++)
		CHECK(reserve(&target, 0, T0, &held[i]), "is admitted");
	for (int i = 0; i < config.consecutive; i++)
		health_settle(&held[i], &result, T0);
	CHECK(view_of(&target, CELL_TARGET, T0).until >= T0 + 40 * OPEN_TIME,
		  "open until then");
}

/* Without a hint the wait grows, and a success begins anew. */
static void
test_backoff(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	Usec		now = T0;
	Usec		least[8];
	Usec		most[8];

	for (int i = 0; i < 8; i++)
		least[i] = PG_INT64_MAX, most[i] = 0;
	for (int round = 0; round < 200; round++)
	{
		for (int i = 0; i < 8; i++)
		{
			Usec		wait;

			attempt(&target, RESULT_THROTTLED, now, now + TOOK);
			now += TOOK;
			wait = throttled(&target, now);
			least[i] = Min(least[i], wait);
			most[i] = Max(most[i], wait);
			now += wait;
		}
		attempt(&target, RESULT_SUCCESS, now, now + TOOK);
		CHECK(pg_atomic_read_u32(&cell->throttles) == 0, "begins anew");
		now += TOOK;
	}
	for (int i = 0; i < 8; i++)
	{
		Usec		limit = Min((Usec) 2 << i, 60) * USEC_SEC;
		Usec		span = limit - USEC_SEC;

		CHECK(least[i] >= USEC_SEC && most[i] <= limit,
			  "%d in a row: " INT64_FORMAT " to " INT64_FORMAT, i + 1, least[i],
			  most[i]);
		CHECK(least[i] < USEC_SEC + span / 4 && most[i] > limit - span / 4,
			  "%d in a row is spread: " INT64_FORMAT " to " INT64_FORMAT, i + 1,
			  least[i], most[i]);
	}
}

/* Attempts that are under way together are throttled together: once. */
static void
test_wave(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_THROTTLED, CELL_TARGET);
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	Reservation held[10];
	Usec		wait;

	for (int i = 0; i < 10; i++)
		CHECK(reserve(&target, 0, T0, &held[i]), "is admitted");
	health_settle(&held[0], &result, T0);
	wait = throttled(&target, T0);
	for (int i = 1; i < 9; i++)
		health_settle(&held[i], &result, T0 + i);
	CHECK(pg_atomic_read_u32(&cell->throttles) == 1, "once");
	CHECK(throttled(&target, T0) == Max(wait, USEC_SEC + 8),
		  "no longer for it than a second from the last");
	result.retry_after = 30 * USEC_SEC;
	health_settle(&held[9], &result, T0);
	CHECK(throttled(&target, T0) == 30 * USEC_SEC, "but for a hint");
	check_idle(&target, T0, "after the wave");
}

/* ---- what a check says ---- */

static HealthCheck
check_now(const HealthTarget *target, int64 tokens, Usec now)
{
	HealthCheck check;

	memset(&check, 0x5A, sizeof(check));
	health_check(target, tokens, 0, now, &check);
	return check;
}

static void
expect(HealthCheck got, HealthVerdict verdict, HealthWhy why, CellScope scope,
	   Usec until, const char *what)
{
	CHECK(got.verdict == verdict, "%s: verdict %d", what, got.verdict);
	CHECK(got.why == why, "%s: why %d", what, got.why);
	CHECK(got.scope == scope, "%s: scope %d", what, got.scope);
	CHECK(got.until == until, "%s: until " INT64_FORMAT, what, got.until);
	CHECK(got.verdict == HEALTH_RAMPING || got.share == 1, "%s: share %g",
		  what, got.share);
}

/* Everything keeps it out; reasons are taken away one by one. */
static void
test_order(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	Cell	   *region = target.cells[CELL_REGION].cell;
	Usec		when;

	target.rpm = 60;
	target.tpm = 600;
	target.max_inflight = 2;
	expect(check_now(&target, 600, T0), HEALTH_READY, WHY_NONE, CELL_PROVIDER,
		   0, "within all limits");
	limiter_give_back(&cell->tokens, -600, 600, T0);
	limiter_give_back(&cell->requests, -60, 60, T0);
	pg_atomic_write_u32(&region->in_flight, 2);
	cell_throttle(cell, T0 + 7);
	bring(&target, CELL_REGION, BREAKER_OPEN, T0);

	expect(check_now(&target, 1, T0), HEALTH_OUT, WHY_BREAKER, CELL_REGION,
		   view_of(&target, CELL_REGION, T0).until, "the breaker first");
	breaker_reset(&region->breaker, T0);
	expect(check_now(&target, 1, T0), HEALTH_OUT, WHY_THROTTLED, CELL_TARGET,
		   T0 + 7, "throttled");
	pg_atomic_write_u64(&cell->throttled_until, T0);
	expect(check_now(&target, 1, T0), HEALTH_OUT, WHY_MAX_INFLIGHT,
		   CELL_REGION, 0, "full");
	pg_atomic_write_u32(&region->in_flight, 1);
	when = limiter_when(&cell->requests, 1, 60, 0, T0);
	expect(check_now(&target, 1, T0), HEALTH_OUT, WHY_RPM, CELL_TARGET, when,
		   "requests");
	CHECK(when > T0, "a request later");
	limiter_give_back(&cell->requests, 1, 60, T0);
	when = limiter_when(&cell->tokens, 10, 600, 0, T0);
	expect(check_now(&target, 10, T0), HEALTH_OUT, WHY_TPM, CELL_TARGET, when,
		   "tokens");
	CHECK(when > T0, "tokens later");
	limiter_give_back(&cell->tokens, 10, 600, T0);
	expect(check_now(&target, 10, T0), HEALTH_READY, WHY_NONE, CELL_PROVIDER,
		   0, "nothing is left");
	target.max_inflight = target.rpm = target.tpm = 0;
	limiter_give_back(&cell->tokens, -600, 600, T0);
	pg_atomic_write_u32(&region->in_flight, 1000);
	expect(check_now(&target, 1000000, T0), HEALTH_READY, WHY_NONE,
		   CELL_PROVIDER, 0, "no limits");
}

/* Of several scopes the worst decides. */
static void
test_worst(void)
{
	HealthTarget target = new_target();
	BreakerTicket none = {0};
	HealthCheck check;
	Usec		later = T0 + RAMP / 2;

	bring(&target, CELL_PROVIDER, BREAKER_RAMPING, T0);
	bring(&target, CELL_TARGET, BREAKER_RAMPING, later);
	check = check_now(&target, 0, later);
	expect(check, HEALTH_RAMPING, WHY_BREAKER, CELL_TARGET, 0, "two ramps");
	CHECK(check.share == view_of(&target, CELL_TARGET, later).share &&
		  check.share < view_of(&target, CELL_PROVIDER, later).share,
		  "the smaller share, %g", check.share);

	bring(&target, CELL_REGION, BREAKER_HALF_OPEN, later);
	check = check_now(&target, 0, later);
	expect(check, HEALTH_TRIAL, WHY_BREAKER, CELL_REGION, 0, "a trial");
	CHECK(!check.sticky, "a trial is not out");

	bring(&target, CELL_PROVIDER, BREAKER_OPEN, later);
	check = check_now(&target, 0, later);
	expect(check, HEALTH_OUT, WHY_BREAKER, CELL_PROVIDER,
		   view_of(&target, CELL_PROVIDER, later).until, "open");
	CHECK(check.sticky, "by a trip");

	breaker_trip(breaker_of(&target, CELL_TARGET), &none, 3 * TRIP_TIME,
				 later);
	expect(check_now(&target, 0, later), HEALTH_OUT, WHY_BREAKER, CELL_TARGET,
		   view_of(&target, CELL_TARGET, later).until, "the longest");

	target = new_target();
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		breaker_force_open(breaker_of(&target, scope), T0 + USEC_SEC, T0);
	check = check_now(&target, 0, T0);
	expect(check, HEALTH_OUT, WHY_BREAKER, CELL_PROVIDER, T0 + USEC_SEC,
		   "of equals the widest");
	CHECK(!check.sticky, "by hand, not by a trip");
}

/* All permits are out: when one comes back nobody knows. */
static void
test_trials(void)
{
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		HealthTarget target = new_target();
		Reservation held[TRIALS];
		Reservation more;
		HealthCheck check;

		bring(&target, scope, BREAKER_HALF_OPEN, T0);
		for (int i = 0; i < TRIALS; i++)
		{
			expect(check_now(&target, 0, T0), HEALTH_TRIAL, WHY_BREAKER, scope,
				   0, "a permit is left");
			CHECK(reserve(&target, 0, T0, &held[i]) && held[i].trial,
				  "a trial");
		}
		expect(check_now(&target, 0, T0), HEALTH_OUT, WHY_BREAKER, scope, 0,
			   "no permit is left");
		CHECK(!health_reserve(&target, 0, 0, false, LEASE, T0, &more, &check),
			  "refused");
		expect(check, HEALTH_OUT, WHY_BREAKER, scope, 0, "and says so");
		CHECK(view_of(&target, scope, T0).permits == TRIALS, "all are out");
		health_release(&held[0]);
		CHECK(reserve(&target, 0, T0, &more), "one is back");
		health_release(&more);
		health_release(&held[1]);
		check_idle(&target, T0, "after the trials");
	}
}

/* ---- refusals give back all that was taken before ---- */

typedef struct Refusal
{
	const char *name;
	HealthWhy	why;
	CellScope	scope;
} Refusal;

static void
check_refused(const HealthTarget *target, const Refusal *want, Usec until,
			  Usec now)
{
	Cell	   *provider = target->cells[CELL_PROVIDER].cell;
	Cell	   *cell = target->cells[CELL_TARGET].cell;
	Usec		rpm = limiter_when(&cell->requests, 60, 60, 0, now);
	Usec		tpm = limiter_when(&cell->tokens, 600, 600, 0, now);
	uint32		busy = in_flight(target, CELL_REGION);
	Reservation held;
	HealthCheck check;

	memset(&check, 0x5A, sizeof(check));
	CHECK(!health_reserve(target, 500, 0, false, LEASE, now, &held, &check),
		  "%s: is refused", want->name);
	expect(check, HEALTH_OUT, want->why, want->scope, until, want->name);
	CHECK(!held.held, "%s: holds nothing", want->name);
	health_release(&held);
	CHECK(in_flight(target, CELL_REGION) == busy, "%s: region", want->name);
	CHECK(in_flight(target, CELL_PROVIDER) == 0, "%s: provider", want->name);
	CHECK(in_flight(target, CELL_TARGET) == 0, "%s: target", want->name);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		CHECK(view_of(target, scope, now).permits == 0, "%s: a permit of %s",
			  want->name, scope_names[scope]);
	CHECK(limiter_when(&cell->requests, 60, 60, 0, now) == rpm, "%s: requests",
		  want->name);
	CHECK(limiter_when(&cell->tokens, 600, 600, 0, now) == tpm, "%s: tokens",
		  want->name);
	CHECK(pg_atomic_read_u64(&cell->last_used) == 0, "%s: used", want->name);
	CHECK(window_sum(&provider->budget.window, BUDGET_WINDOW, now).calls == 0,
		  "%s: counted as a request", want->name);
}

static void
test_refusals(void)
{
	for (int scope = 0; scope <= CELL_TARGET; scope++)
	{
		HealthTarget target = new_target();

		for (int wider = 0; wider < scope; wider++)
			bring(&target, wider, BREAKER_HALF_OPEN, T0);
		bring(&target, scope, BREAKER_OPEN, T0);
		check_refused(&target, &(Refusal) {"open", WHY_BREAKER, scope},
					  view_of(&target, scope, T0).until, T0);
	}
	for (int why = WHY_THROTTLED; why <= WHY_TPM; why++)
	{
		HealthTarget target = new_target();
		Cell	   *cell = target.cells[CELL_TARGET].cell;
		Refusal		want = {"limit", why,
			why == WHY_MAX_INFLIGHT ? CELL_REGION : CELL_TARGET};
		Usec		until = 0;

		target.rpm = 60;
		target.tpm = 600;
		target.max_inflight = 3;
		pg_atomic_write_u64(&cell->last_used, 0);
		for (int scope = 0; scope < HEALTH_SCOPES; scope++)
			bring(&target, scope, BREAKER_HALF_OPEN, T0);
		if (why == WHY_THROTTLED)
			cell_throttle(cell, until = T0 + 5);
		if (why == WHY_MAX_INFLIGHT)
			pg_atomic_write_u32(&target.cells[CELL_REGION].cell->in_flight, 3);
		if (why == WHY_RPM)
		{
			limiter_give_back(&cell->requests, -60, 60, T0);
			until = limiter_when(&cell->requests, 1, 60, 0, T0);
		}
		if (why == WHY_TPM)
		{
			limiter_give_back(&cell->tokens, -101, 600, T0);
			until = limiter_when(&cell->tokens, 500, 600, 0, T0);
		}
		check_refused(&target, &want, until, T0);
	}
	health_release_all();
}

/* A probe passes whatever there is, and is charged for it. */
static void
test_probe(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	HealthResult result = result_of(RESULT_SUCCESS, CELL_TARGET);
	Reservation held;
	HealthCheck check;

	target.rpm = 60;
	target.tpm = 600;
	target.max_inflight = 1;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		bring(&target, scope, BREAKER_OPEN, T0);
	cell_throttle(cell, T0 + USEC_SEC);
	pg_atomic_write_u32(&target.cells[CELL_REGION].cell->in_flight, 1);
	limiter_give_back(&cell->requests, -60, 60, T0);
	limiter_give_back(&cell->tokens, -600, 600, T0);
	CHECK(health_reserve(&target, 10, 0, true, LEASE, T0, &held, &check),
		  "nothing refuses it");
	expect(check, HEALTH_READY, WHY_NONE, CELL_PROVIDER, 0, "a probe");
	CHECK(limiter_when(&cell->requests, 1, 60, 0, T0) == T0 + 2 * USEC_SEC,
		  "it owes a request");
	CHECK(limiter_when(&cell->tokens, 10, 600, 0, T0) == T0 + 2 * USEC_SEC,
		  "and its tokens");
	CHECK(in_flight(&target, CELL_REGION) == 2, "it is under way");
	health_settle(&held, &result, T0 + TOOK);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		CHECK(view_of(&target, scope, T0 + TOOK).state == BREAKER_RAMPING,
			  "its success lets the %s back", scope_names[scope]);
	pg_atomic_fetch_sub_u32(&target.cells[CELL_REGION].cell->in_flight, 1);
	check_idle(&target, T0 + TOOK, "after the probe");

	target = new_target();
	bring(&target, CELL_TARGET, BREAKER_OPEN, T0);
	result = result_of(RESULT_ANSWERED, CELL_TARGET);
	health_reserve(&target, 10, 0, true, LEASE, T0, &held, &check);
	health_settle(&held, &result, T0 + TOOK);
	CHECK(view_of(&target, CELL_TARGET, T0 + TOOK).state == BREAKER_RAMPING,
		  "a probe's request was refused by a server that lives");
}

/* ---- units ---- */

/* How many of 600 tokens a minute can be had now. */
static int
tokens_left(const HealthTarget *target, Usec now)
{
	const Limiter *limiter = &target->cells[CELL_TARGET].cell->tokens;
	int			left = 600;

	while (left > 0 && limiter_when(limiter, left, 600, 0, now) > now)
		left--;
	return left;
}

static void
test_units(void)
{
	static const struct
	{
		HealthKind	kind;
		int64		used;
		int			left;		/* of 600, with an estimate of 300 */
	}			cases[] =
	{
		{RESULT_SUCCESS, 300, 300},
		{RESULT_SUCCESS, 100, 500},
		{RESULT_SUCCESS, 0, 600},
		{RESULT_SUCCESS, 550, 50},
		{RESULT_SUCCESS, 600, 0},
		{RESULT_SUCCESS, PG_INT64_MAX, 0},
		{RESULT_SUCCESS, -1, 300},
		{RESULT_FAILURE, -1, 600},
		{RESULT_FAILURE, 100, 500},
		{RESULT_TRIP, -1, 600},
		{RESULT_THROTTLED, -1, 600},
		{RESULT_ANSWERED, -1, 600},
		{RESULT_NOTHING, -1, 300},
		{RESULT_NOTHING, 100, 500},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		HealthTarget target = new_target();
		HealthResult result = result_of(cases[i].kind, CELL_TARGET);
		Cell	   *cell = target.cells[CELL_TARGET].cell;
		Reservation held;

		target.tpm = 600;
		target.rpm = 60;
		result.tokens = cases[i].used;
		CHECK(reserve(&target, 300, T0, &held), "is admitted");
		CHECK(tokens_left(&target, T0) == 300, "takes its estimate");
		health_settle(&held, &result, T0);
		CHECK(tokens_left(&target, T0) == cases[i].left,
			  "%s that used " INT64_FORMAT " leaves %d",
			  kind_names[cases[i].kind], cases[i].used,
			  tokens_left(&target, T0));
		CHECK(limiter_when(&cell->requests, 59, 60, 0, T0) <= T0 &&
			  limiter_when(&cell->requests, 60, 60, 0, T0) > T0,
			  "a request that was made stays made");
		unit_forget();
	}
}

/* An estimate beyond a minute's worth takes and gives back a minute's worth. */
static void
test_huge_estimate(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_SUCCESS, CELL_TARGET);
	Reservation held;

	target.tpm = 600;
	result.tokens = 500;
	CHECK(reserve(&target, 100000, T0, &held), "is admitted");
	CHECK(tokens_left(&target, T0) == 0, "a minute's worth is taken");
	health_settle(&held, &result, T0);
	CHECK(tokens_left(&target, T0) == 100, "and 100 given back");
}

/* ---- release ---- */

static void
test_release(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_FAILURE, CELL_TARGET);
	Reservation held[3];

	target.tpm = 600;
	bring(&target, CELL_PROVIDER, BREAKER_HALF_OPEN, T0);
	CHECK(reserve(&target, 100, T0, &held[0]), "one");
	CHECK(reserve(&target, 100, T0, &held[1]), "two");
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		CHECK(in_flight(&target, scope) == 2, "two under way at the %s",
			  scope_names[scope]);
	health_release(&held[0]);
	health_release(&held[0]);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		CHECK(in_flight(&target, scope) == 1, "released once");
	CHECK(view_of(&target, CELL_PROVIDER, T0).permits == 1, "one permit");
	CHECK(reserve(&target, 100, T0, &held[2]), "three");
	health_release_all();
	check_idle(&target, T0, "all released");
	health_release_all();
	health_release(&held[1]);
	health_settle(&held[2], &result, T0);
	health_silent(&held[2], T0);
	check_idle(&target, T0, "released again");
	CHECK(count_of(&target, CELL_TARGET, COUNT_CALLS) == 0, "nothing is said");
	CHECK(view_of(&target, CELL_PROVIDER, T0).state == BREAKER_HALF_OPEN,
		  "the next may try");
	CHECK(tokens_left(&target, T0) == 300, "tokens that may have been used");
}

/* A cell that is somebody else's by now is left alone; one in use never is. */
static void
test_outdated(void)
{
	HealthTarget target = new_target();
	HealthTarget nothing = {.breaker = &config, .max_inflight = 1, .rpm = 1,
	.tpm = 1};
	HealthResult result = result_of(RESULT_TRIP, CELL_TARGET);
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	Reservation held;
	Reservation more;

	CHECK(reserve(&nothing, 10, T0, &held) && reserve(&nothing, 10, T0, &more),
		  "nothing known, nothing refused");
	expect(check_now(&nothing, 10, T0), HEALTH_READY, WHY_NONE, CELL_PROVIDER,
		   0, "nothing known");
	CHECK(health_patience(&held, 0) == 0, "no patience known");
	CHECK(health_take_retry(&nothing, T0), "no budget");
	health_silent(&held, T0);
	health_settle(&held, &result, T0);
	health_trip(nothing.cells[0], &result, T0);
	health_reset(nothing.cells[0], "", T0);
	health_forgive(nothing.cells[0], USEC_SEC, T0);
	health_release(&more);

	/* somebody tries to take it away, and finds it in use */
	CHECK(reserve(&target, 0, T0, &held), "before");
	pg_atomic_fetch_add_u32(&cell->generation, 1);
	health_settle(&held, &result, T0);
	check_idle(&target, T0, "given back nevertheless");
	CHECK(count_of(&target, CELL_TARGET, COUNT_CALLS) == 1, "and counted");
	breaker_init(&cell->breaker);

	/* it is somebody else's */
	cell_throttle(cell, T0 + USEC_SEC);
	bring(&target, CELL_TARGET, BREAKER_OPEN, T0);
	target.tpm = target.rpm = 1;
	expect(check_now(&target, 10, T0), HEALTH_READY, WHY_NONE, CELL_PROVIDER,
		   0, "not this target's cell");
	CHECK(reserve(&target, 10, T0, &held), "is admitted");
	CHECK(in_flight(&target, CELL_TARGET) == 0, "not counted there");
	health_settle(&held, &result, T0);
	check_idle(&target, T0, "not given back there");
	CHECK(count_of(&target, CELL_TARGET, COUNT_CALLS) == 1, "nor counted");
	CHECK(count_of(&target, CELL_REGION, COUNT_CALLS) == 2, "but elsewhere");
}

/* ---- what is noted besides ---- */

static void
test_notes(void)
{
	HealthTarget target = new_target();
	Cell	   *provider = target.cells[CELL_PROVIDER].cell;
	Cell	   *cell = target.cells[CELL_TARGET].cell;

	attempt(&target, RESULT_SUCCESS, T0, T0 + TOOK);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		CHECK(pg_atomic_read_u64(&target.cells[scope].cell->last_used) == T0,
			  "the %s was used", scope_names[scope]);
	CHECK(window_sum(&provider->budget.window, BUDGET_WINDOW, T0).calls == 1,
		  "a request of the provider");
	CHECK(pg_atomic_read_u32(&cell->latency.samples) == 1, "its duration");
	CHECK(latency_ewma(&cell->latency, T0 + TOOK) == TOOK, "is kept");
	attempt(&target, RESULT_FAILURE, T0, T0 + 2 * TOOK);
	CHECK(latency_ewma(&cell->latency, T0 + 2 * TOOK) == 2 * TOOK,
		  "looks slower for a failure");
	attempt(&target, RESULT_ANSWERED, T0, T0 + 9 * TOOK);
	CHECK(latency_ewma(&cell->latency, T0 + 2 * TOOK) <= 2 * TOOK,
		  "a refusal's duration says nothing");
	CHECK(pg_atomic_read_u32(&cell->latency.samples) == 1, "only successes");
	while (health_take_retry(&target, T0))
		;
	CHECK(!budget_take_retry(&provider->budget, T0), "of the provider");
}

static void
test_patience(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	Reservation held;
	Reservation trial;
	Usec		p99;

	CHECK(reserve(&target, 0, T0, &held), "an attempt");
	CHECK(health_patience(&held, 0) == 0, "nothing is usual yet");
	for (int i = 0; i < 2 * LATENCY_MIN_SAMPLES; i++)
		latency_record(&cell->latency, 10 * USEC_MSEC, T0);
	CHECK(health_patience(&held, 0) == 250 * USEC_MSEC, "a floor");
	health_release(&held);
	bring(&target, CELL_REGION, BREAKER_HALF_OPEN, T0);
	CHECK(reserve(&target, 0, T0, &trial) && trial.trial, "a trial");
	CHECK(health_patience(&trial, 0) == 50 * USEC_MSEC, "a trial's floor");
	for (int i = 0; i < 1000; i++)
		latency_record(&cell->latency, 4 * USEC_SEC, T0 + i);
	p99 = latency_p99(&cell->latency);
	CHECK(p99 >= 38 * USEC_SEC / 10, "p99 is " INT64_FORMAT, p99);
	CHECK(health_patience(&trial, 0) == p99, "a trial: as long as usual");
	health_release(&trial);
	breaker_reset(breaker_of(&target, CELL_REGION), T0);
	CHECK(reserve(&target, 0, T0, &held), "an attempt");
	CHECK(health_patience(&held, 0) == 3 * p99, "three times as long");
	health_release(&held);
}

/* ---- silence, reasons and the listener ---- */

static int	nheard;
static const Cell *heard_cell[32];
static BreakerChange heard[32];
static char heard_reason[32][CELL_REASON_LEN];

static void
listen(const Cell *cell, const BreakerChange *change, const char *reason)
{
	char		kept[CELL_REASON_LEN];

	if (nheard >= (int) lengthof(heard))
		return;
	cell_get_reason(unconstify(Cell *, cell), kept);
	if (change->to == BREAKER_OPEN)
		CHECK_TEXT(kept, reason, "the reason is kept by then");
	CHECK(pg_atomic_read_u64(&unconstify(Cell *, cell)->breaker.word) != 0,
		  "the change is made");
	heard_cell[nheard] = cell;
	heard[nheard] = *change;
	strlcpy(heard_reason[nheard], reason ? reason : "", CELL_REASON_LEN);
	nheard++;
}

static void
expect_heard(int i, CellRef ref, BreakerState from, BreakerState to,
			 const char *reason)
{
	CHECK(nheard > i, "change %d is told", i);
	if (nheard <= i)
		return;
	CHECK(heard_cell[i] == ref.cell, "change %d: of whom", i);
	CHECK(heard[i].from == from && heard[i].to == to, "change %d: %s to %s",
		  i, breaker_state_name(heard[i].from),
		  breaker_state_name(heard[i].to));
	CHECK_TEXT(heard_reason[i], reason, "why");
}

static void
check_reason(CellRef ref, const char *want, const char *when)
{
	char		reason[CELL_REASON_LEN];

	cell_get_reason(ref.cell, reason);
	CHECK_TEXT(reason, want, when);
}

/* Silent attempts open; an answer after all lets back. */
static void
test_silence(void)
{
	HealthTarget target = new_target();
	HealthResult result = result_of(RESULT_SUCCESS, CELL_TARGET);
	CellRef		ref = target.cells[CELL_TARGET];
	Reservation held[3];

	nheard = 0;
	health_listener = listen;
	for (int i = 0; i < config.consecutive; i++)
	{
		CHECK(reserve(&target, 0, T0, &held[i]), "is admitted");
		CHECK(view_of(&target, CELL_TARGET, T0).state == BREAKER_CLOSED,
			  "%d silent", i);
		health_silent(&held[i], T0 + 400 * USEC_MSEC);
		health_silent(&held[i], T0 + 400 * USEC_MSEC);
	}
	CHECK(nheard == 1, "%d changes", nheard);
	expect_heard(0, ref, BREAKER_CLOSED, BREAKER_OPEN, "silent for 400 ms");
	check_reason(ref, "silent for 400 ms", "why it is open");
	CHECK(view_of(&target, CELL_TARGET, T0 + TOOK).silent, "by silence");
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_CLOSED,
		  "of the target alone");
	health_settle(&held[0], &result, T0 + USEC_SEC);
	expect_heard(1, ref, BREAKER_OPEN, BREAKER_CLOSED, "");
	check_reason(ref, "", "it was a mistake");
	health_release(&held[1]);
	health_release(&held[2]);
	check_idle(&target, T0 + USEC_SEC, "after the silence");

	/* a trial fails wherever it is one */
	target = new_target();
	nheard = 0;
	bring(&target, CELL_PROVIDER, BREAKER_HALF_OPEN, T0);
	bring(&target, CELL_REGION, BREAKER_RAMPING, T0);
	CHECK(reserve(&target, 0, T0, &held[0]), "a trial");
	health_silent(&held[0], T0 + 70 * USEC_MSEC);
	CHECK(nheard == 2, "%d changes", nheard);
	expect_heard(0, target.cells[CELL_PROVIDER], BREAKER_OPEN,
				 BREAKER_HALF_OPEN, "");
	expect_heard(1, target.cells[CELL_PROVIDER], BREAKER_HALF_OPEN,
				 BREAKER_OPEN, "silent for 70 ms");
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_RAMPING,
		  "nothing is said of the region");
	health_release(&held[0]);
	check_idle(&target, T0 + TOOK, "after the trial");
	health_listener = NULL;
}

static void
test_reasons(void)
{
	HealthTarget target = new_target();
	CellRef		ref = target.cells[CELL_TARGET];
	HealthResult result = result_of(RESULT_TRIP, CELL_TARGET);
	Reservation held;
	Usec		now = T0;

	nheard = 0;
	health_listener = listen;
	result.reason = "503 overloaded";
	result.fingerprint = 77;
	CHECK(reserve(&target, 0, now, &held), "an attempt");
	health_settle(&held, &result, now);
	expect_heard(0, ref, BREAKER_CLOSED, BREAKER_OPEN, "503 overloaded");
	CHECK(heard[0].until == view_of(&target, CELL_TARGET, now).until,
		  "until when");
	check_reason(ref, "503 overloaded", "tripped");
	check_reason(target.cells[CELL_REGION], "", "its region is fine");
	CHECK(pg_atomic_read_u64(&ref.cell->fingerprint) == 77, "whom it blamed");

	now = view_of(&target, CELL_TARGET, now).until;
	attempt(&target, RESULT_SUCCESS, now, now);
	CHECK(view_of(&target, CELL_TARGET, now).state == BREAKER_RAMPING, "ramp");
	check_reason(ref, "503 overloaded", "while it ramps");

	for (int i = 0; i < config.consecutive; i++)
		attempt(&target, RESULT_FAILURE, now, now);
	CHECK(view_of(&target, CELL_TARGET, now).state == BREAKER_OPEN, "open");
	check_reason(ref, "too many failures", "in our words");
	nheard = 0;
	health_reset(ref, "its key has changed", now);
	CHECK(nheard == 1, "%d changes", nheard);
	expect_heard(0, ref, BREAKER_OPEN, BREAKER_CLOSED, "its key has changed");
	check_reason(ref, "", "closed");
	CHECK(pg_atomic_read_u64(&ref.cell->fingerprint) == 0, "blames nobody");

	nheard = 0;
	health_trip(ref, &(HealthResult) {.open_for = TRIP_TIME, .fingerprint = 5},
				now);
	expect_heard(0, ref, BREAKER_CLOSED, BREAKER_OPEN, "refused");
	CHECK(pg_atomic_read_u64(&ref.cell->fingerprint) == 5, "blames again");
	health_trip(ref, &(HealthResult) {.open_for = 1, .fingerprint = 6,
	.reason = "shorter"}, now);
	CHECK(nheard == 1, "a shorter one changes nothing");
	CHECK(pg_atomic_read_u64(&ref.cell->fingerprint) == 5, "nor whom");
	check_reason(ref, "refused", "nor why");
	health_listener = NULL;
}

/* A sign of life opens a region when it is the call that completes a count. */
static void
test_others_reason(void)
{
	static const CellScope blamed[] = {CELL_REGION, CELL_REGION, CELL_TARGET,
	CELL_REGION, CELL_TARGET};
	HealthTarget target = new_target();
	Reservation held;

	for (size_t i = 0; i < lengthof(blamed); i++)
	{
		HealthResult result = result_of(RESULT_FAILURE, blamed[i]);

		result.reason = "503 overloaded";
		CHECK(reserve(&target, 0, T0, &held), "an attempt");
		health_settle(&held, &result, T0);
	}
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_OPEN, "open");
	check_reason(target.cells[CELL_REGION],
				 "too many failures or slow answers", "not its target's words");
}

/* What our network has opened is taken back. */
static void
test_forgive(void)
{
	HealthTarget target = new_target();
	CellRef		ref = target.cells[CELL_REGION];
	HealthResult result = result_of(RESULT_FAILURE, CELL_REGION);
	Reservation held;

	result.reason = "no connection";
	for (int i = 0; i < config.consecutive; i++)
	{
		CHECK(reserve(&target, 0, T0, &held), "an attempt");
		health_settle(&held, &result, T0);
	}
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_OPEN, "open");
	check_reason(ref, "no connection", "why");
	nheard = 0;
	health_listener = listen;
	health_forgive(ref, USEC_SEC, T0 + 2 * USEC_SEC);
	CHECK(nheard == 0, "too long ago");
	health_forgive(ref, 2 * USEC_SEC, T0 + USEC_SEC);
	expect_heard(0, ref, BREAKER_OPEN, BREAKER_CLOSED, "");
	check_reason(ref, "", "forgiven");
	health_listener = NULL;
}

void
test_health(void)
{
	pg_prng_seed(&pg_global_prng_state, 7);
	test_ends();
	test_our_network();
	test_slow();
	test_slow_failure();
	test_hints();
	test_floor();
	test_backoff();
	test_wave();
	test_order();
	test_worst();
	test_trials();
	test_refusals();
	test_probe();
	test_units();
	test_huge_estimate();
	test_release();
	test_outdated();
	test_notes();
	test_patience();
	test_silence();
	test_reasons();
	test_others_reason();
	test_forgive();
	test_health_leave();
	test_health_room();
	test_health_trials_told();
	test_health_probes();
	test_health_processes();
	test_health_random();
}
