/*
 * unit_breaker.c
 *	  The circuit breaker, with made-up time: numbers, borders and arguments.
 */
#include "postgres.h"

#include <math.h>

#include "unit_breaker.h"
#include "unit_breaker_play.h"

static void
go_half_open(void)
{
	calls("FFF");
	wait_it_out();
	STATE(HALF_OPEN, "after its time");
}

static void
go_ramping(void)
{
	go_half_open();
	succeed(enter());
	STATE(RAMPING, "after a trial");
}

/* ---- What opens ---- */

/*
 * Ends of calls (small letters: slow ones), and after which one it opens;
 * 0 = never.
 */
static void
test_thresholds(void)
{
	static const struct
	{
		const char *ends;
		int			opens_at;
		const char *why;
	}			cases[] =
	{
		{"FF", 0, "two in a row"},
		{"FFFF", 3, "three in a row"},
		{"FFSFFF", 5, "four of five"},
		{"FFSF", 0, "three of four: too few calls"},
		{"FFSSS", 0, "two of five"},
		{"FFSFSS", 5, "a success that makes it three of five"},
		{"FSSFSF", 6, "just half"},
		{"FSSFSSF", 0, "less than half"},
		{"SSSSSSSSSFFF", 12, "three in a row, but few of many"},
		{"ssss", 0, "too few to be slow"},
		{"ssssS", 5, "four of five were slow"},
		{"sssSSss", 0, "five of seven were slow"},
		{"fsSss", 5, "slow failures are slow, too"},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		int			opened_at = 0;

		renew();
		config.slow_call = USEC_SEC;
		config.slow_rate = (float) 0.8;
		for (int n = 0; cases[i].ends[n] && opened_at == 0; n++)
			if (calls((char[]) {cases[i].ends[n], '\0'}).changed)
				opened_at = n + 1;
		CHECK(opened_at == cases[i].opens_at, "%s: opened at %d, not %d",
			  cases[i].why, opened_at, cases[i].opens_at);
		CHECK(view().state == (opened_at ? BREAKER_OPEN : BREAKER_CLOSED),
			  "%s", cases[i].why);
	}

	renew();
	calls("ssssssss");
	STATE(CLOSED, "nothing is slow unless slow_call is set");
	renew();
	config.failure_rate = config.slow_rate = 0;
	config.slow_call = USEC_SEC;
	calls("SSSSSSSS");
	STATE(CLOSED, "a rate of 0 needs a failure");
	calls("F");
	STATE(OPEN, "a rate of 0 needs no more");
}

/* Failures that are out of the window are forgotten; those in a row are not. */
static void
test_forgetting(void)
{
	renew();
	calls("FFS");
	now += 30 * USEC_SEC;
	calls("FSF");
	STATE(CLOSED, "two of three");
	calls("SF");
	STATE(OPEN, "three of five");

	renew();
	calls("FF");
	now += 86400 * USEC_SEC;
	calls("F");
	STATE(OPEN, "three in a row over a day");
}

/* Attempts that are silent weigh until they end. */
static void
test_silence(void)
{
	BreakerTicket silent[3];
	BreakerTicket other;

	renew();
	for (int i = 0; i < 3; i++)
		silent[i] = enter();
	other = enter();
	for (int i = 0; i < 2; i++)
		CHECK(!breaker_silent(&breaker, &config, &silent[i], now).changed &&
			  silent[i].silent, "one or two");
	breaker_silent(&breaker, &config, &silent[1], now);
	CHECK(breaker.silent == 2, "counted twice");
	breaker_leave(&breaker, &silent[0]);
	CHECK(breaker.silent == 1 && !silent[0].entered, "left");
	calls("S");
	CHECK(breaker.silent == 1, "others' success does not end it");
	breaker_success(&breaker, &config, &silent[1], false, now);
	CHECK(breaker.silent == 0 && !silent[1].entered, "succeeded");
	breaker_silent(&breaker, &config, &silent[2], now);
	breaker_failure(&breaker, &config, &silent[2], false, 0, now);
	CHECK(breaker.silent == 0 && breaker.consecutive == 1, "failed: once");

	/* two in a row and one silent */
	calls("F");
	CHECK(breaker_silent(&breaker, &config, &other, now).changed, "opens");
	CHECK(view().silent && view().trips == 1, "by silence");
	CHECK(breaker.silent == 0, "a new generation has none");
	breaker_leave(&breaker, &other);
	CHECK(breaker.silent == 0, "of an old generation");

	/* as calls and failures of the rate: with two silent ones three of five */
	renew();
	config.consecutive = 100;
	silent[0] = enter();
	silent[1] = enter();
	breaker_silent(&breaker, &config, &silent[0], now);
	breaker_silent(&breaker, &config, &silent[1], now);
	calls("SS");
	STATE(CLOSED, "four");
	CHECK(calls("F").changed && view().silent, "three of five");
	CHECK(succeed(silent[1]).to == BREAKER_CLOSED, "it was a mistake");
	CHECK(!fail(silent[0]).changed && view().trips == 0, "too old");

	/* the second opening in a row is no mistake */
	renew();
	config.consecutive = 1;
	calls("F");
	now = view().until;
	fail(enter());
	now = view().until;
	succeed(enter());
	silent[0] = enter();
	CHECK(breaker_silent(&breaker, &config, &silent[0], now).changed &&
		  view().trips > 1, "silent in the ramp");
	CHECK(succeed(silent[0]).to == BREAKER_RAMPING, "it was alive");

	/* a silent trial */
	renew();
	go_half_open();
	silent[0] = enter();
	CHECK(breaker_silent(&breaker, &config, &silent[0], now).changed &&
		  view().state == BREAKER_OPEN && view().silent && view().trips == 2,
		  "the trial fails");
	CHECK(silent[0].entered && silent[0].silent && !silent[0].permit,
		  "its permit is gone");
	CHECK(succeed(silent[0]).to == BREAKER_RAMPING, "late, but alive");

	/* what was silent two openings ago says nothing of now */
	renew();
	silent[0] = enter();
	breaker_silent(&breaker, &config, &silent[0], now);
	calls("FF");
	wait_it_out();
	silent[1] = enter();
	breaker_silent(&breaker, &config, &silent[1], now);
	CHECK(!succeed(silent[0]).changed, "too old");
	STATE(OPEN, "still");
}

/* ---- How long it is open ---- */

/* Opens a breaker that has had so many trips before; returns for how long. */
static Usec
open_for(int trips, Usec retry_after)
{
	BreakerView stored = {.state = BREAKER_HALF_OPEN, .trips = trips};
	BreakerTicket ticket;

	breaker_init(&breaker);
	if (trips == 0)
		calls("FF");
	else
		breaker_restore(&breaker, &stored, now);
	ticket = enter();
	breaker_failure(&breaker, &config, &ticket, false, retry_after, now);
	STATE(OPEN, "opened");
	CHECK(view().trips == Min(trips + 1, 31), "trips %d", view().trips);
	return view().until - now;
}

/* Doubles up to the maximum, with all of the jitter and no more. */
static void
test_open_time(void)
{
	renew();
	for (int trips = 0; trips <= 31; trips++)
	{
		double		plain = Min(5e6 * ((int64) 1 << trips), 300e6);
		Usec		shortest = PG_INT64_MAX;
		Usec		longest = 0;

		for (int i = 0; i < 200; i++)
		{
			Usec		length = open_for(trips, 0);

			shortest = Min(shortest, length);
			longest = Max(longest, length);
		}
		CHECK(shortest >= 0.9 * plain && shortest < 0.92 * plain,
			  "shortest after %d: " INT64_FORMAT, trips, shortest);
		CHECK(longest <= 1.1 * plain + USEC_MSEC && longest > 1.08 * plain,
			  "longest after %d: " INT64_FORMAT, trips, longest);
	}

	CHECK(open_for(0, USEC_SEC) < 6 * USEC_SEC, "a short Retry-After");
	CHECK(open_for(0, 60 * USEC_SEC) == 60 * USEC_SEC, "Retry-After");
	CHECK(open_for(9, 900 * USEC_SEC) == 900 * USEC_SEC,
		  "Retry-After over the maximum");
	CHECK(open_for(9, PG_INT64_MAX) > 365 * 86400 * USEC_SEC,
		  "Retry-After for ever");
}

/* The borders of time, in milliseconds that are rounded up. */
static void
test_until(void)
{
	renew();
	now += 1;
	breaker_force_open(&breaker, now + 10 * USEC_MSEC, now);
	CHECK(view().until == 1000 * USEC_SEC + 11 * USEC_MSEC, "rounded up");
	now = view().until - 1;
	STATE(OPEN, "just before its end");
	now++;
	STATE(HALF_OPEN, "at its end");
	CHECK(view().until == 0 && !view().forced && view().permits == 0, "unused");
	now = 1;
	STATE(OPEN, "long before");

	breaker_force_open(&breaker, USEC_NEVER, now);
	now = 1000 * 86400 * USEC_SEC;
	CHECK(view().state == BREAKER_OPEN && view().forced, "for ever");
	CHECK(view().until > 17 * 365 * 86400 * USEC_SEC, "or 17 years");
	breaker_force_open(&breaker, 0, now);
	STATE(HALF_OPEN, "for no time");
}

/* What trips are counted, and when they are forgotten. */
static void
test_trips(void)
{
	BreakerTicket nobody = {0};

	renew();
	breaker_force_open(&breaker, now + USEC_SEC, now);
	CHECK(view().trips == 0, "by hand is no trip");
	wait_it_out();
	calls("F");
	CHECK(view().trips == 1 && view().until - now < 6 * USEC_SEC, "the first");
	wait_it_out();
	calls("F");
	CHECK(view().trips == 2 && view().until - now > 8 * USEC_SEC, "the second");
	wait_it_out();
	calls("S");
	CHECK(view().trips == 2, "of a ramp");
	calls("FFF");
	CHECK(view().trips == 3 && view().until - now > 17 * USEC_SEC, "the third");
	breaker_trip(&breaker, &nobody, 60 * USEC_SEC, now);
	CHECK(view().trips == 3 && view().sticky &&
		  view().until == now + 60 * USEC_SEC, "another reason, same opening");
	breaker_trip(&breaker, &nobody, 61 * USEC_SEC, now);
	CHECK(view().until == now + 60 * USEC_SEC, "hardly longer");
	breaker_trip(&breaker, &nobody, 61 * USEC_SEC + USEC_MSEC, now);
	CHECK(view().until == now + 61 * USEC_SEC + USEC_MSEC, "longer");
	wait_it_out();
	CHECK(!view().sticky, "not any more");
	calls("S");
	wait_it_out();
	CHECK(view().state == BREAKER_CLOSED && view().trips == 0 &&
		  view().until == 0, "over");
	CHECK(calls("S").changed, "told by the next result");
	CHECK(!calls("S").changed, "told once");
	calls("FFF");
	CHECK(view().trips == 1 && view().until - now < 6 * USEC_SEC, "from new");

	/* without a ramp a single success closes */
	renew();
	config.ramp = 0;
	go_half_open();
	CHECK(calls("S").to == BREAKER_CLOSED && view().trips == 0, "no ramp");
	calls("FF");
	STATE(CLOSED, "what was before is forgotten");
}

/* ---- Trials ---- */

static void
test_permits(void)
{
	BreakerTicket trials[4];

	renew();
	go_half_open();
	for (int i = 0; i < 3; i++)
	{
		now += USEC_SEC;
		CHECK(try_enter(&trials[i]) && trials[i].permit, "trial %d", i);
		CHECK(view().permits == i + 1 && view().until == now + LEASE,
			  "%d: leased until " INT64_FORMAT, i, view().until);
	}
	CHECK(!try_enter(&trials[3]) && !trials[3].entered, "a fourth");
	breaker_leave(&breaker, &trials[1]);
	CHECK(!trials[1].entered && view().permits == 2, "given back");
	breaker_leave(&breaker, &trials[1]);
	CHECK(view().permits == 2, "given back once");
	CHECK(try_enter(&trials[1]) && view().permits == 3, "given out again");

	/* the clock of another process is behind: the lease does not shrink */
	breaker_leave(&breaker, &trials[1]);
	now -= 10 * USEC_SEC;
	CHECK(try_enter(&trials[1]) && view().until == now + 10 * USEC_SEC + LEASE,
		  "behind");
	now += 10 * USEC_SEC;

	/* nobody comes back */
	now = view().until - 1;
	CHECK(!try_enter(&trials[3]) && view().permits == 3, "not yet lost");
	now++;
	CHECK(view().permits == 0 && view().until == 0, "seen as lost");
	CHECK(try_enter(&trials[3]) && view().permits == 1, "lost, given out");
	CHECK(!succeed(trials[0]).changed && !fail(trials[1]).changed, "too late");
	breaker_leave(&breaker, &trials[2]);
	CHECK(view().permits == 1, "not its permit any more");
	CHECK(succeed(trials[3]).to == BREAKER_RAMPING && view().permits == 0,
		  "of the new round");

	/* as long as there is one left, nothing is lost */
	renew();
	go_half_open();
	trials[0] = enter();
	now += 2 * LEASE;
	CHECK(view().permits == 1, "late, not lost");
	trials[1] = enter();
	CHECK(view().permits == 2, "one more");
	CHECK(succeed(trials[0]).to == BREAKER_RAMPING, "late, and it counts");

	/* all back: nobody has a lease */
	renew();
	go_half_open();
	trials[0] = enter();
	breaker_leave(&breaker, &trials[0]);
	CHECK(view().permits == 0 && view().until == 0, "all back");

	/* fewer are allowed than are out */
	renew();
	go_half_open();
	trials[0] = enter();
	trials[1] = enter();
	config.half_open_calls = 1;
	CHECK(!try_enter(&trials[3]), "fewer");
	config.half_open_calls = 100;
	for (int i = 2; i < 100; i++)
		enter();
	CHECK(!try_enter(&trials[3]) && view().permits == 100, "a hundred");
}

/* The other trials of a round count in the ramp that the first one began. */
static void
test_other_trials(void)
{
	BreakerTicket trials[3];

	renew();
	go_half_open();
	for (int i = 0; i < 3; i++)
		trials[i] = enter();
	succeed(trials[0]);
	now += 20 * USEC_SEC;
	succeed(trials[1]);
	CHECK(view().share > 0.6 && breaker.window.total.calls == 1, "a success");
	fail(trials[2]);
	CHECK(view().share < 0.11 && breaker.window.total.failures == 1,
		  "a failure");

	renew();
	go_half_open();
	for (int i = 0; i < 3; i++)
		trials[i] = enter();
	fail(trials[0]);
	CHECK(!succeed(trials[1]).changed && !fail(trials[2]).changed &&
		  view().trips == 2, "the first one has decided");
}

/* ---- The ramp ---- */

static void
test_ramp(void)
{
	Usec		began;

	renew();
	go_ramping();
	began = now;
	for (int i = 0; i < 300; i++)
	{
		double		want = 0.1 + 0.9 * i / 300;

		now = began + i * 100 * USEC_MSEC;
		CHECK(fabs(view().share - want) < 1e-4, "share at %d: %f, not %f", i,
			  view().share, want);
		STATE(RAMPING, "under way");
	}
	now = view().until - 1;
	STATE(RAMPING, "just before the end");
	now++;
	CHECK(view().state == BREAKER_CLOSED && view().share == 1, "at its end");
	now = began - 10 * USEC_SEC;
	CHECK(fabs(view().share - 0.1) < 1e-9, "a clock that is behind");

	/* a failure begins it again, a second one too; three in a row open it */
	now = began + 29 * USEC_SEC;
	CHECK(!calls("F").changed && fabs(view().share - 0.1) < 1e-4, "once");
	now += 15 * USEC_SEC;
	CHECK(fabs(view().share - 0.55) < 1e-4, "half");
	calls("F");
	CHECK(fabs(view().share - 0.1) < 1e-4, "twice");
	now += 29 * USEC_SEC;
	STATE(RAMPING, "the whole ramp again");
	calls("F");
	STATE(OPEN, "three");

	/* the settings may change meanwhile */
	renew();
	go_ramping();
	config.ramp = 60 * USEC_SEC;
	CHECK(fabs(view().share - 0.55) < 1e-4, "a longer one");
	config.ramp = 10 * USEC_SEC;
	CHECK(fabs(view().share - 0.1) < 1e-9, "a shorter one");
	config.ramp = 0;
	CHECK(view().share == 1, "none");
}

/* Who draws by the share is admitted that often. */
static void
test_shares_drawn(void)
{
	static const int draws = 20000;
	pg_prng_state dice;
	Usec		began;

	renew();
	pg_prng_seed(&dice, 42);
	go_ramping();
	began = now;
	for (int second = 0; second < 30; second += 3)
	{
		double		share = 0.1 + 0.9 * second / 30;
		double		off;
		int			admitted = 0;

		now = began + second * USEC_SEC;
		for (int i = 0; i < draws; i++)
			admitted += pg_prng_double(&dice) < view().share;
		off = admitted - draws * share;
		CHECK(off * off < 16 * draws * share * (1 - share),
			  "at %d s: %d of %d", second, admitted, draws);
	}
}

/* ---- By hand, taken back, stored ---- */

static void
test_forgive(void)
{
	renew();
	calls("FFSFF");
	STATE(OPEN, "four of five");
	CHECK(breaker_forgive(&breaker, now - 2 * USEC_SEC, now).changed, "told");
	CHECK(view().state == BREAKER_CLOSED && view().trips == 0, "closed");
	calls("FF");
	STATE(CLOSED, "and forgotten");
	CHECK(!breaker_forgive(&breaker, now - 2 * USEC_SEC, now).changed,
		  "nothing to close");
	calls("FF");
	STATE(CLOSED, "but to forget");
	calls("F");
	STATE(OPEN, "not for ever");
}

static void
test_reset(void)
{
	BreakerTicket ticket;
	BreakerTicket silent;

	renew();
	CHECK(pg_atomic_read_u64(&breaker.word) == 0, "new");
	calls("FF");
	ticket = enter();
	silent = enter();
	CHECK(!breaker_reset(&breaker, now).changed, "it was closed");
	CHECK(breaker.consecutive == 0 && breaker.window.total.calls == 0,
		  "forgotten");
	fail(ticket);
	CHECK(breaker.consecutive == 0, "what was under way, too");
	breaker_silent(&breaker, &config, &silent, now);
	CHECK(breaker.silent == 0 && !silent.silent, "and silence");

	breaker_force_open(&breaker, now + 600 * USEC_SEC, now);
	breaker_reset(&breaker, now);
	CHECK(view().state == BREAKER_CLOSED && !view().forced, "closed");
	breaker_force_open(&breaker, now + 600 * USEC_SEC, now);
	breaker_force_open(&breaker, now + 10 * USEC_SEC, now);
	CHECK(view().until == now + 10 * USEC_SEC, "a second thought");
}

static void
test_restore(void)
{
	BreakerView stored = {.state = BREAKER_OPEN, .sticky = true, .trips = 4};
	BreakerTicket ticket;

	renew();
	ticket = enter();
	stored.until = now + 60 * USEC_SEC;
	CHECK(breaker_restore(&breaker, &stored, now), "new");
	CHECK(view().state == BREAKER_OPEN && view().sticky && !view().forced &&
		  !view().silent && view().trips == 4 && view().until == stored.until,
		  "as stored");
	CHECK(!breaker_forgive(&breaker, 1, now).changed, "opened at another time");
	CHECK(!fail(ticket).changed && breaker.window.width == 0, "from before");
	CHECK(!breaker_restore(&breaker, &stored, now), "a second time");

	renew();
	stored = (BreakerView) {.state = BREAKER_OPEN, .forced = true,
		.until = now + 60 * USEC_SEC};
	breaker_restore(&breaker, &stored, now);
	CHECK(view().forced && !succeed(probe()).changed, "forced");

	renew();
	stored.until = now;
	breaker_restore(&breaker, &stored, now);
	CHECK(view().state == BREAKER_HALF_OPEN && !view().forced && enter().permit,
		  "its time has passed");

	renew();
	stored = (BreakerView) {.state = BREAKER_RAMPING, .trips = 2,
		.until = now + 15 * USEC_SEC};
	ticket = enter();
	breaker_restore(&breaker, &stored, now);
	CHECK(fabs(view().share - 0.55) < 1e-4 && view().trips == 2, "a ramp");
	fail(ticket);
	CHECK(view().share > 0.5, "from before");

	renew();
	stored = (BreakerView) {.state = BREAKER_HALF_OPEN, .permits = 3,
		.until = now + 15 * USEC_SEC};
	breaker_restore(&breaker, &stored, now);
	CHECK(view().permits == 0 && view().until == 0 && enter().permit,
		  "nobody who has a permit is left");

	renew();
	stored = (BreakerView) {.state = BREAKER_CLOSED};
	CHECK(breaker_restore(&breaker, &stored, now) &&
		  pg_atomic_read_u64(&breaker.word) == 0, "nothing");
	stored = (BreakerView) {.state = BREAKER_RAMPING, .trips = 2, .until = now};
	CHECK(breaker_restore(&breaker, &stored, now) &&
		  pg_atomic_read_u64(&breaker.word) == 0, "over");

	/* live state stays */
	stored.until = now + 15 * USEC_SEC;
	calls("S");
	CHECK(!breaker_restore(&breaker, &stored, now), "used");
	renew();
	ticket = enter();
	breaker_silent(&breaker, &config, &ticket, now);
	CHECK(!breaker_restore(&breaker, &stored, now), "in use");
	renew();
	breaker_reset(&breaker, now);
	CHECK(!breaker_restore(&breaker, &stored, now), "reset");
	STATE(CLOSED, "live");
}

/* An empty ticket says nothing, of a new breaker neither. */
static void
test_no_ticket(void)
{
	BreakerTicket nobody = {0};

	renew();
	succeed(nobody);
	fail(nobody);
	breaker_silent(&breaker, &config, &nobody, now);
	breaker_leave(&breaker, &nobody);
	CHECK(breaker.window.width == 0 && breaker.silent == 0 &&
		  pg_atomic_read_u64(&breaker.word) == 0, "something was recorded");
}

static void
test_names(void)
{
	static const char *const names[] = {
		"closed", "open", "half_open", "ramping"
	};

	for (size_t i = 0; i < lengthof(names); i++)
		CHECK_TEXT(breaker_state_name((BreakerState) i), names[i], "name");
}

void
test_breaker(void)
{
	test_window();
	test_breaker_diagram();
	test_thresholds();
	test_forgetting();
	test_silence();
	test_open_time();
	test_until();
	test_trips();
	test_permits();
	test_other_trials();
	test_ramp();
	test_shares_drawn();
	test_forgive();
	test_reset();
	test_restore();
	test_no_ticket();
	test_names();
	test_breaker_random();
	test_breaker_threads();
}
