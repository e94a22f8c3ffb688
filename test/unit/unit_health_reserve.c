/*
 * unit_health_reserve.c
 *	  Who leaves a share of each limit to others, and for how many there is
 *	  room; trials, of which the listener is told; probes, which pass whatever
 *	  there is, and whose failure costs nobody a call.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "unit_health.h"

#define MINUTE (60 * USEC_SEC)

/* Reserves for good until it is refused; returns how often it was not. */
static int
reserve_all(const HealthTarget *target, int64 tokens, double leave, Usec now,
			HealthCheck *refusal)
{
	HealthCheck check;
	int			n = 0;

	for (;; n++)
	{
		Reservation *held = palloc(sizeof(Reservation));

		health_check(target, tokens, leave, now, &check);
		if (!health_reserve(target, tokens, leave, false, LEASE, now, held,
							refusal))
			break;
		CHECK(check.verdict != HEALTH_OUT, "the check let %d in", n);
	}
	CHECK(check.verdict == HEALTH_OUT && check.why == refusal->why &&
		  check.until == refusal->until &&
		  check.reserved == refusal->reserved,
		  "check and reservation say the same: %d %d", check.why,
		  refusal->why);
	return n;
}

/* ---- max_inflight ---- */

static void
test_left_inflight(void)
{
	static const struct
	{
		int			max_inflight;
		double		leave;
		int			theirs;		/* of tasks */
	}			cases[] =
	{
		{1, 0, 1}, {1, 0.2, 1}, {1, 0.99, 1}, {1, 1, 0},
		{2, 0.2, 1}, {3, 0.2, 2}, {5, 0.2, 4}, {10, 0.2, 8},
		{10, 0.3, 7}, {10, 0.7, 3}, {10, 0.9, 1}, {10, 0.95, 1},
		{10, 0, 10}, {10, 1, 0}, {100, 0.5, 50}, {1000, 0.001, 999},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		HealthTarget target = new_target();
		HealthCheck check;
		int			n;

		target.max_inflight = cases[i].max_inflight;
		n = reserve_all(&target, 0, cases[i].leave, T0, &check);
		CHECK(n == cases[i].theirs, "%d of %d, leaving %g", n,
			  target.max_inflight, cases[i].leave);
		CHECK(check.why == WHY_MAX_INFLIGHT && check.scope == CELL_REGION &&
			  check.until == (cases[i].leave >= 1 ? USEC_NEVER : 0),
			  "nobody knows when");
		CHECK(check.reserved == (n < target.max_inflight), "whose it is");
		n += reserve_all(&target, 0, 0, T0, &check);
		CHECK(n == target.max_inflight && !check.reserved,
			  "callers get the rest: %d of %d", n, target.max_inflight);
		health_release_all();
		check_idle(&target, T0, "after tasks and callers");
	}
}

/* Callers count, too: tasks get what they leave. */
static void
test_inflight_of_callers(void)
{
	HealthTarget target = new_target();
	HealthCheck check;
	Reservation held[7];

	target.max_inflight = 10;
	for (int i = 0; i < 7; i++)
		CHECK(reserve(&target, 0, T0, &held[i]), "a caller");
	CHECK(reserve_all(&target, 0, 0.2, T0, &check) == 1, "the eighth");
	health_release_all();
	target.max_inflight = 1;
	CHECK(reserve(&target, 0, T0, &held[0]), "a caller");
	CHECK(reserve_all(&target, 0, 0.2, T0, &check) == 0 && !check.reserved,
		  "a limit of one that somebody else uses");
	health_release_all();
}

/* ---- rpm and tpm ---- */

static void
test_left_requests(void)
{
	HealthTarget target = new_target();
	HealthCheck check;
	Usec		each = MINUTE / 100;

	target.rpm = 100;
	CHECK(reserve_all(&target, 0, 0.2, T0, &check) == 80, "of 100");
	CHECK(check.why == WHY_RPM && check.reserved && check.until == T0 + each,
		  "until " INT64_FORMAT, check.until - T0);
	CHECK(reserve_all(&target, 0, 0.2, T0 + each - 1, &check) == 0, "early");
	CHECK(reserve_all(&target, 0, 0.2, T0 + each, &check) == 1, "in time");
	CHECK(reserve_all(&target, 0, 0, T0 + each, &check) == 20 &&
		  !check.reserved, "callers find a fifth of it at any time");

	/* what flows back is theirs until that fifth is there again */
	CHECK(reserve_all(&target, 0, 0.2, T0 + 21 * each, &check) == 0 &&
		  check.reserved && check.until == T0 + 22 * each, "callers first");
	CHECK(reserve_all(&target, 0, 0.2, T0 + 22 * each, &check) == 1,
		  "then tasks");
	health_release_all();
}

static void
test_left_one(void)
{
	HealthTarget target = new_target();
	HealthCheck check;

	target.rpm = 1;
	CHECK(reserve_all(&target, 0, 0.2, T0, &check) == 1,
		  "one, though four fifths of it are none");
	CHECK(!check.reserved && check.until == T0 + MINUTE, "a minute later");
	CHECK(reserve_all(&target, 0, 1, T0 + MINUTE, &check) == 0 &&
		  check.until == USEC_NEVER && check.reserved, "all is left");
	health_release_all();
}

static void
test_left_tokens(void)
{
	HealthTarget target = new_target();
	HealthCheck check;

	target.tpm = 1000;
	CHECK(reserve_all(&target, 100, 0.2, T0, &check) == 8, "of ten");
	CHECK(check.why == WHY_TPM && check.reserved &&
		  check.until == T0 + MINUTE / 10, "as much later");
	CHECK(reserve_all(&target, 200, 0, T0, &check) == 1, "a caller's");

	/* larger than what is not left: when nobody has taken anything */
	CHECK(reserve_all(&target, 900, 0.2, T0 + MINUTE - 1, &check) == 0 &&
		  check.until == T0 + MINUTE, "not yet");
	CHECK(reserve_all(&target, 900, 0.2, T0 + MINUTE, &check) == 1, "full");
	CHECK(reserve_all(&target, 1, 1, T0 + 9 * MINUTE, &check) == 0 &&
		  check.until == USEC_NEVER, "all is left");
	health_release_all();
}

/* What has no limit has nothing to leave; a probe leaves nothing. */
static void
test_leave_nothing(void)
{
	HealthTarget target = new_target();
	Reservation held;
	HealthCheck check;

	CHECK(health_reserve(&target, 1000, 1, false, LEASE, T0, &held, &check),
		  "no limits");
	health_release(&held);
	target.max_inflight = target.rpm = target.tpm = 1;
	CHECK(health_reserve(&target, 1000, 1, true, LEASE, T0, &held, &check),
		  "a probe");
	health_release(&held);
	check_idle(&target, T0, "after both");
}

void
test_health_leave(void)
{
	test_left_inflight();
	test_inflight_of_callers();
	test_left_requests();
	test_left_one();
	test_left_tokens();
	test_leave_nothing();
}

/* ---- room ---- */

#define WIDTH 100

static HealthRoom
room_of(const HealthTarget *target, int64 tokens, double leave, Usec now)
{
	HealthCheck check;
	HealthRoom	room;

	health_check(target, tokens, leave, now, &check);
	CHECK(check.verdict != HEALTH_OUT, "is let in");
	health_room(target, tokens, leave, WIDTH, now, &check, &room);
	return room;
}

/* Alone, as many get through as there is room for; then one more, in time. */
static void
test_room_of_limits(void)
{
	static const double shares[] = {0, 0.2, 0.5, 0.9};

	pg_prng_seed(&pg_global_prng_state, 3);
	for (int i = 0; i < 400; i++)
	{
		HealthTarget target = new_target();
		double		leave = shares[i % lengthof(shares)];
		int64		tokens = pg_prng_uint64_range(&pg_global_prng_state, 1, 90);
		HealthCheck check;
		HealthRoom	room;
		int			n;

		target.max_inflight = i % 3 == 0 ? 1 + i % 11 : 0;
		target.rpm = i % 3 == 1 || i % 7 == 0 ? 1 + i % 31 : 0;
		target.tpm = i % 3 == 2 ? 100 + i : 0;
		room = room_of(&target, tokens, leave, T0);
		n = reserve_all(&target, tokens, leave, T0, &check);
		CHECK(n == room.calls, "%d: room for %d, not %d", i, room.calls, n);
		CHECK(room.cell == target.cells[check.scope].cell, "%d: whose", i);
		CHECK((room.until == 0) == (check.why == WHY_MAX_INFLIGHT),
			  "%d: when", i);
		health_release_all();
		if (room.until > 0)
			CHECK(reserve_all(&target, tokens, leave, room.until, &check) >= 1,
				  "%d: one more, in time", i);
		health_release_all();
		unit_forget();
	}
}

static void
test_room_of_breakers(void)
{
	HealthTarget target = new_target();
	Reservation held[3];
	HealthRoom	room = room_of(&target, 1000, 0.2, T0);

	CHECK(room.calls == PG_INT32_MAX && room.cell == NULL && room.until == 0,
		  "no end is known");
	bring(&target, CELL_REGION, BREAKER_HALF_OPEN, T0);
	CHECK(room_of(&target, 0, 0, T0).calls == TRIALS, "all permits");
	CHECK(reserve(&target, 0, T0, &held[0]), "a trial");
	room = room_of(&target, 0, 0, T0);
	CHECK(room.calls == TRIALS - 1 && room.until == 0 &&
		  room.cell == target.cells[CELL_REGION].cell, "one is out");
	health_release(&held[0]);

	target = new_target();
	bring(&target, CELL_PROVIDER, BREAKER_RAMPING, T0);
	room = room_of(&target, 0, 0, T0);
	CHECK(room.calls == 10 && room.until == T0 + RAMP / WIDTH &&
		  room.cell == target.cells[CELL_PROVIDER].cell,
		  "a tenth of the width: %d", room.calls);
	for (int i = 0; i < 3; i++)
		CHECK(reserve(&target, 0, T0, &held[i]), "one");
	CHECK(room_of(&target, 0, 0, T0).calls == 7, "less what is under way");
	CHECK(room_of(&target, 0, 0, T0 + RAMP / 2).calls == 52, "and grows");
	target.max_inflight = 5;
	CHECK(room_of(&target, 0, 0.2, T0 + RAMP / 2).calls == 1,
		  "but not beyond a limit");
	health_release_all();
}

void
test_health_room(void)
{
	test_room_of_limits();
	test_room_of_breakers();
}

/* ---- what the listener is told ---- */

static char told[512];

static void
listen_words(const Cell *cell pg_attribute_unused(),
			 const BreakerChange *change, const char *reason)
{
	size_t		len = strlen(told);

	snprintf(told + len, sizeof(told) - len, "%s%s>%s%s%s", len ? " " : "",
			 breaker_state_name(change->from), breaker_state_name(change->to),
			 reason ? ": " : "", reason ? reason : "");
}

static void
expect_told(const char *want, const char *what)
{
	CHECK_TEXT(told, want, what);
	told[0] = '\0';
}

/* Ends an attempt of its own, from its reservation on. */
static void
ask(const HealthTarget *target, bool probe, HealthKind kind, Usec now)
{
	HealthResult result = result_of(kind, CELL_TARGET);
	Reservation held;
	HealthCheck check;

	result.reason = "503";
	CHECK(health_reserve(target, 0, 0, probe, LEASE, now, &held, &check),
		  "is admitted");
	health_settle(&held, &result, now);
}

void
test_health_trials_told(void)
{
	HealthTarget target = new_target();
	Reservation held;
	Reservation more;
	HealthCheck check;
	Usec		now = T0;

	told[0] = '\0';
	health_listener = listen_words;
	for (int i = 0; i < config.consecutive; i++)
		ask(&target, false, RESULT_FAILURE, now);
	expect_told("closed>open: 503", "opens");
	now = view_of(&target, CELL_TARGET, now).until;
	health_check(&target, 0, 0, now, &check);
	expect_told("", "a look changes nothing");
	CHECK(reserve(&target, 0, now, &held), "a trial");
	expect_told("open>half_open", "the first trial");
	CHECK(reserve(&target, 0, now, &more), "another");
	expect_told("", "the second one");
	health_release(&more);
	health_release(&held);
	CHECK(reserve(&target, 0, now, &held), "again");
	expect_told("", "it has been half-open");
	health_release(&held);
	ask(&target, false, RESULT_SUCCESS, now);
	expect_told("half_open>ramping", "a success");
	now = view_of(&target, CELL_TARGET, now).until;
	ask(&target, false, RESULT_SUCCESS, now);
	expect_told("ramping>closed", "at the end of the ramp");

	/* all three at once, and a limit refuses the trial itself */
	target = new_target();
	target.rpm = 1;
	CHECK(reserve(&target, 0, T0, &held), "the only request");
	health_release(&held);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		bring(&target, scope, BREAKER_HALF_OPEN, T0);
	CHECK(!reserve(&target, 0, T0, &held), "refused");
	expect_told("open>half_open open>half_open open>half_open", "all scopes");
	check_idle(&target, T0, "after a refusal");
	health_listener = NULL;
}

/* ---- probes ---- */

/* A probe that fails keeps an open breaker open, so that no call tries it. */
static void
test_probe_of_open(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	char		reason[CELL_REASON_LEN];
	Usec		now = T0;
	BreakerView before;
	BreakerView after;

	for (int i = 0; i < config.consecutive; i++)
		ask(&target, false, RESULT_FAILURE, now);
	cell_set_reason(cell, "the first reason");
	told[0] = '\0';
	for (int i = 0; i < 40; i++)
	{
		before = view_of(&target, CELL_TARGET, now);
		now += 4 * USEC_SEC;
		ask(&target, true, RESULT_FAILURE, now);
		after = view_of(&target, CELL_TARGET, now);
		CHECK(after.state == BREAKER_OPEN && after.until >= before.until &&
			  after.until - now > 4 * USEC_SEC, "probe %d: open", i);
		CHECK(after.until - now <= 1.1 * config.open_time_max + USEC_MSEC,
			  "probe %d: not for ever", i);
	}
	CHECK(after.trips < 10, "as often as it takes to the longest: %d",
		  after.trips);
	expect_told("", "no change to tell of");
	cell_get_reason(cell, reason);
	CHECK_TEXT(reason, "503", "but the last reason is kept");
	CHECK((int) pg_atomic_read_u64(&cell->counts[COUNT_FAILURES]) ==
		  40 + config.consecutive, "and all are counted");
	ask(&target, true, RESULT_SUCCESS, now);
	expect_told("open>ramping", "a probe that succeeds");
}

/* Half-open, before the probe or while it was under way: as a trial. */
static void
test_probe_of_half_open(bool meanwhile)
{
	HealthTarget target = new_target();
	HealthResult failure = result_of(RESULT_FAILURE, CELL_TARGET);
	Reservation held;
	HealthCheck check;
	Usec		until;

	for (int i = 0; i < config.consecutive; i++)
		ask(&target, false, RESULT_FAILURE, T0);
	until = view_of(&target, CELL_TARGET, T0).until;
	told[0] = '\0';
	CHECK(health_reserve(&target, 0, 0, true, LEASE,
						 meanwhile ? until - 1 : until, &held, &check) &&
		  !held.trial, "takes no permit");
	health_settle(&held, &failure, until);
	expect_told("open>open: too many failures", "opens again");
	CHECK(view_of(&target, CELL_TARGET, until).trips == 2, "another in a row");
	until = view_of(&target, CELL_TARGET, until).until;
	CHECK(reserve(&target, 0, until, &held), "a trial");
	ask(&target, true, RESULT_FAILURE, until);
	expect_told("open>half_open half_open>open: 503", "beside a trial");
	health_release(&held);
	check_idle(&target, until, "after a probe beside a trial");
}

/* Closed: as a call. */
static void
test_probe_of_closed(void)
{
	HealthTarget target = new_target();

	told[0] = '\0';
	ask(&target, true, RESULT_SUCCESS, T0);
	CHECK(window_sum(&breaker_of(&target, CELL_TARGET)->window, config.window,
					 T0).calls == 1, "is counted");
	for (int i = 0; i < config.consecutive; i++)
		ask(&target, true, RESULT_FAILURE, T0);
	expect_told("closed>open: 503", "opens");
}

/* By hand: it stays as it is. By a trip: a trip goes on, a success ends it. */
static void
test_probe_of_tripped(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_PROVIDER].cell;
	HealthResult refused = result_of(RESULT_TRIP, CELL_PROVIDER);
	Reservation held;
	HealthCheck check;
	Usec		later = T0 + TRIP_TIME / 2;

	breaker_force_open(&cell->breaker, T0 + MINUTE, T0);
	told[0] = '\0';
	ask(&target, true, RESULT_SUCCESS, T0);
	ask(&target, true, RESULT_FAILURE, T0);
	ask(&target, true, RESULT_TRIP, T0);
	CHECK(view_of(&target, CELL_PROVIDER, T0).until == T0 + MINUTE &&
		  view_of(&target, CELL_PROVIDER, T0).forced, "by hand");

	target = new_target();
	cell = target.cells[CELL_PROVIDER].cell;
	refused.fingerprint = 1;
	health_trip(target.cells[CELL_PROVIDER], &refused, T0);
	told[0] = '\0';
	ask(&target, true, RESULT_FAILURE, T0 + 1);
	CHECK(view_of(&target, CELL_PROVIDER, T0 + 1).state == BREAKER_RAMPING,
		  "a failing target has a living provider");
	health_trip(target.cells[CELL_PROVIDER], &refused, T0 + 1);
	told[0] = '\0';
	refused.fingerprint = 2;
	refused.reason = "401";
	CHECK(health_reserve(&target, 0, 0, true, LEASE, later, &held, &check),
		  "a probe");
	health_settle(&held, &refused, later);
	expect_told("", "the same again is no change");
	CHECK(view_of(&target, CELL_PROVIDER, later).until == later + TRIP_TIME &&
		  view_of(&target, CELL_PROVIDER, later).sticky, "goes on");
	CHECK(pg_atomic_read_u64(&cell->fingerprint) == 2, "of another key now");
	ask(&target, true, RESULT_SUCCESS, later);
	expect_told("open>ramping", "ends");

	/* a failure that is none of the key's */
	bring(&target, CELL_TARGET, BREAKER_OPEN, later);
	told[0] = '\0';
	ask(&target, true, RESULT_FAILURE, later + 1);
	CHECK(view_of(&target, CELL_TARGET, later + 1).sticky, "stays a trip");
	expect_told("", "is not a change");
}

/* Who said "later" is asked all the same, and stays throttled. */
static void
test_probe_of_throttled(void)
{
	HealthTarget target = new_target();
	Cell	   *cell = target.cells[CELL_TARGET].cell;
	HealthCheck check;

	cell_throttle(cell, T0 + MINUTE);
	ask(&target, true, RESULT_SUCCESS, T0);
	health_check(&target, 0, 0, T0, &check);
	CHECK(check.why == WHY_THROTTLED && check.until == T0 + MINUTE,
		  "stays so for calls");
	bring(&target, CELL_REGION, BREAKER_OPEN, T0);
	ask(&target, true, RESULT_THROTTLED, T0);
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_RAMPING,
		  "a region that says later lives");
}

void
test_health_probes(void)
{
	health_listener = listen_words;
	test_probe_of_open();
	test_probe_of_half_open(false);
	test_probe_of_half_open(true);
	test_probe_of_closed();
	test_probe_of_tripped();
	test_probe_of_throttled();
	health_listener = NULL;
}
