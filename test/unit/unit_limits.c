/*
 * unit_limits.c
 *	  Limiters, owners' limits, the retry budget, the network rule, cells.
 */
#include "postgres.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "health/network.h"

#include "unit.h"

#define SEC		USEC_SEC
#define MINUTE	(60 * SEC)
#define DAY		(24 * 3600 * SEC)
#define NOW		(1000 * SEC)

static pg_prng_state prng;

/* Takes one by one until there is nothing left; returns how many there were. */
static int
take_all(Limiter *limiter, int64 per_minute, Usec now)
{
	int			n = 0;

	while (n < 1000000 && limiter_take(limiter, 1, per_minute, 0, now))
		n++;
	return n;
}

/* A full one gives a minute's worth at once, and then one after the other. */
static void
test_burst(void)
{
	static const int rates[] = {
		1, 2, 3, 7, 59, 60, 61, 100, 999, 7919, 100000
	};

	for (size_t i = 0; i < lengthof(rates); i++)
	{
		int			rate = rates[i];
		Usec		each = (MINUTE + rate - 1) / rate;
		Limiter		limiter;
		Usec		when;
		int			n;

		limiter_init(&limiter);
		CHECK(limiter_when(&limiter, rate, rate, 0, NOW) <= NOW, "%d: full",
			  rate);
		n = take_all(&limiter, rate, NOW);
		CHECK(n == rate, "%d at once, not %d", n, rate);
		when = limiter_when(&limiter, 1, rate, 0, NOW);
		/* A price is up to a nanosecond too low. */
		CHECK(when <= NOW + each && when >= NOW + each - 1 - rate / 1000,
			  "%d: the next after %lld", rate, (long long) (when - NOW));
		CHECK(!limiter_take(&limiter, 1, rate, 0, when - 1), "%d: early", rate);
		CHECK(limiter_take(&limiter, 1, rate, 0, when), "%d: in time", rate);
		CHECK(!limiter_take(&limiter, 1, rate, 0, when), "%d: again", rate);
	}
}

static void
test_refill(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 60, 60, 0, NOW), "a minute's worth");
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW) == NOW + SEC, "one a second");
	CHECK(limiter_when(&limiter, 17, 60, 0, NOW) == NOW + 17 * SEC, "17 s");
	CHECK(limiter_when(&limiter, 17, 60, 0, NOW + 18 * SEC) <= NOW + 18 * SEC,
		  "there by now");
	CHECK(take_all(&limiter, 60, NOW + 17 * SEC + SEC / 2) == 17,
		  "17 are back");
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW + 18 * SEC) == NOW + 18 * SEC,
		  "the half was not lost");
	CHECK(take_all(&limiter, 60, NOW + DAY) == 60,
		  "no more than a minute's worth after a day");
	CHECK(limiter_when(&limiter, 1000, 60, 0, NOW + DAY) == NOW + DAY + MINUTE,
		  "more than a minute's worth counts as that");
	CHECK(!limiter_take(&limiter, 1000, 60, 0, NOW + DAY + MINUTE - 1),
		  "early");
	CHECK(limiter_take(&limiter, 1000, 60, 0, NOW + DAY + MINUTE), "in time");
	CHECK(!limiter_take(&limiter, 1, 60, 0, NOW + DAY + MINUTE), "all of it");
}

/* The ends of the range. */
static void
test_large(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	for (int i = 0; i < 10; i++)
		CHECK(limiter_take(&limiter, PG_INT32_MAX, 0, 0, NOW), "no limit");
	CHECK(limiter_when(&limiter, PG_INT32_MAX, 0, 0, NOW) <= NOW, "no limit");
	CHECK(limiter_take(&limiter, 0, 1, 0, NOW) &&
		  limiter_take(&limiter, -5, 1, 0, NOW), "nothing can be had always");
	CHECK(limiter_take(&limiter, 1, 1, 0, NOW), "one a minute");
	CHECK(limiter_when(&limiter, 1, 1, 0, NOW) == NOW + MINUTE, "one a minute");

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, PG_INT32_MAX / 2, PG_INT32_MAX, 0, NOW),
		  "half");
	CHECK(!limiter_take(&limiter, PG_INT32_MAX / 2 + 100, PG_INT32_MAX, 0, NOW),
		  "a bit more than the other half");
	CHECK(limiter_take(&limiter, PG_INT32_MAX / 2 + 1, PG_INT32_MAX, 0, NOW),
		  "the other half");
	CHECK(limiter_when(&limiter, PG_INT32_MAX, PG_INT32_MAX, 0, NOW) ==
		  NOW + MINUTE, "empty");
	CHECK(limiter_when(&limiter, PG_INT32_MAX / 2 + 1, PG_INT32_MAX, 0, NOW) ==
		  NOW + MINUTE / 2 + 1, "half of a minute");

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, PG_INT64_MAX, PG_INT64_MAX, 0, NOW), "all");
	CHECK(!limiter_take(&limiter, PG_INT32_MAX / 2, PG_INT64_MAX, 0, NOW),
		  "gone");
	limiter_give_back(&limiter, PG_INT64_MIN, PG_INT64_MAX, NOW);
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW) == NOW + MINUTE + SEC, "debt");
	limiter_give_back(&limiter, PG_INT64_MAX, PG_INT64_MAX, NOW);
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW) == NOW + SEC, "given back");
}

static void
test_give_back(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 60, 60, 0, NOW), "a minute's worth");
	limiter_give_back(&limiter, 10, 60, NOW);
	CHECK(take_all(&limiter, 60, NOW) == 10, "ten came back");
	limiter_give_back(&limiter, 0, 60, NOW);
	limiter_give_back(&limiter, 10, 0, NOW);
	CHECK(take_all(&limiter, 60, NOW) == 0, "nothing came back");
	limiter_give_back(&limiter, 1000, 60, NOW);
	limiter_give_back(&limiter, 60, 60, NOW);
	CHECK(take_all(&limiter, 60, NOW) == 60, "a minute's worth at most");

	/* Soon after the start of the server, too. */
	limiter_init(&limiter);
	limiter_give_back(&limiter, 60, 60, 1);
	CHECK(take_all(&limiter, 60, 1) == 60, "time begins");
}

static void
test_debt(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 50, 60, 0, NOW), "an estimate");
	limiter_give_back(&limiter, -5, 60, NOW);
	CHECK(take_all(&limiter, 60, NOW) == 5, "it was 55");
	limiter_give_back(&limiter, -30, 60, NOW);
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW) == NOW + 31 * SEC,
		  "30 in debt");
	for (int i = 0; i < 5; i++)
		limiter_give_back(&limiter, -1000, 60, NOW);
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW) == NOW + 61 * SEC,
		  "a minute's worth at most");
	CHECK(!limiter_take(&limiter, 1, 60, 0, NOW - SEC),
		  "who is late by a second cannot evade it");
}

/* Another rate: what is taken stays taken, as a part of a minute. */
static void
test_rate_changes(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 60, 60, 0, NOW), "a minute's worth");
	CHECK(!limiter_take(&limiter, 1, 120, 0, NOW), "empty is empty");
	CHECK(limiter_when(&limiter, 1, 120, 0, NOW) == NOW + SEC / 2,
		  "faster now");
	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 60, 120, 0, NOW), "half of it");
	CHECK(take_all(&limiter, 60, NOW) == 30, "half of it");
}

static void
test_limiter_clock_back(void)
{
	Limiter		limiter;

	limiter_init(&limiter);
	CHECK(limiter_take(&limiter, 60, 60, 0, NOW + DAY), "a minute's worth");
	CHECK(limiter_when(&limiter, 60, 60, 0, NOW) <= NOW, "of another time");
	CHECK(take_all(&limiter, 60, NOW) == 60, "begins anew");
	CHECK(take_all(&limiter, 60, NOW - 1) == 0, "a little back: no more");
	CHECK(limiter_when(&limiter, 1, 60, 0, NOW - 1) == NOW + SEC, "nor lost");
}

#define TAKES 1500

/* What was taken when, less what was given back. */
typedef struct Take
{
	Usec		at;
	double		units;
} Take;

/* Takes some units at `now`, or waits for them; gives some back at times. */
static Take
take_some(Limiter *limiter, int64 rate, Usec now)
{
	int64		units = 1 + (int64) (pg_prng_double(&prng) *
									 pg_prng_double(&prng) * (double) rate / 2);
	Usec		when = limiter_when(limiter, units, rate, 0, now);
	bool		taken;

	if (when > now && pg_prng_bool(&prng))
	{
		CHECK(!limiter_take(limiter, units, rate, 0, when - 1),
			  "%lld: before its time", (long long) rate);
		now = when;
	}
	taken = limiter_take(limiter, units, rate, 0, now);
	CHECK(taken == (when <= now), "%lld: not when it said", (long long) rate);
	if (!taken)
		return (Take) {now, 0};
	if (pg_prng_double(&prng) < 0.2)
	{
		limiter_give_back(limiter, units / 2, rate, now);
		units -= units / 2;
	}
	return (Take) {now, (double) units};
}

/* From take `from` on, for a minute: all that was there, and what came back. */
static void
check_minute(const Take *takes, int from, double rate)
{
	double		sum = 0;

	for (int i = from; i < TAKES; i++)
	{
		double		elapsed = (double) (takes[i].at - takes[from].at) / MINUTE;

		if (elapsed > 1)
			break;
		sum += takes[i].units;
		CHECK(sum <= rate * (1 + elapsed) * (1 + 1e-6),
			  "%g a minute: %g in %g of it", rate, sum, elapsed);
	}
}

static void
test_never_too_much(void)
{
	static const int rates[] = {1, 7, 60, 1000, 77777, 2000000};
	Take		takes[TAKES];

	for (size_t r = 0; r < lengthof(rates); r++)
	{
		Limiter		limiter;
		Usec		now = NOW;

		limiter_init(&limiter);
		for (int i = 0; i < TAKES; i++)
		{
			now += (Usec) (pg_prng_double(&prng) * 3 * SEC);
			takes[i] = take_some(&limiter, rates[r], now);
			now = takes[i].at;
		}
		for (int i = 0; i < TAKES; i++)
			check_minute(takes, i, rates[r]);
	}
}

/* Processes take at the same time: exactly what is there is admitted. */
static void
test_processes(void)
{
	enum
	{
		PROCESSES = 4, EACH = 400000, RATE = 600000
	};
	struct
	{
		Limiter		limiter;
		pg_atomic_uint32 taken;
		pg_atomic_uint32 ready;
	}		   *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	limiter_init(&shared->limiter);
	pg_atomic_init_u32(&shared->taken, 0);
	pg_atomic_init_u32(&shared->ready, 0);
	fflush(stdout);
	for (int i = 0; i < PROCESSES; i++)
		if (fork() == 0)
		{
			pg_atomic_fetch_add_u32(&shared->ready, 1);
			while (pg_atomic_read_u32(&shared->ready) < PROCESSES)
				sched_yield();
			for (int j = 0; j < EACH; j++)
			{
				int			units = 1 + j % 3;

				if (!limiter_take(&shared->limiter, units, RATE, 0, NOW))
					continue;
				if (j % 4 == 0)
					pg_atomic_fetch_add_u32(&shared->taken, units);
				else
					limiter_give_back(&shared->limiter, units, RATE, NOW);
			}
			_exit(0);
		}
	for (int i = 0; i < PROCESSES; i++)
		wait(NULL);
	CHECK(pg_atomic_read_u32(&shared->taken) +
		  take_all(&shared->limiter, RATE, NOW) == RATE, "%u admitted",
		  pg_atomic_read_u32(&shared->taken));
	munmap(shared, sizeof(*shared));
}

static void
test_notice(void)
{
	static const struct
	{
		LimitNotice notice;
		int64		units;
		Usec		wait;
	}			cases[] =
	{
		{{60, 0, MINUTE}, 1, SEC},
		{{60, 0, MINUTE}, 30, 30 * SEC},
		{{60, 30, 30 * SEC}, 31, SEC},
		{{60, 30, 30 * SEC}, 30, 0},
		{{60, 1, 59 * SEC}, 1, 0},
		{{7, 0, MINUTE}, 1, 8571429},	/* rounded up */
		{{60, 10, 50 * SEC}, 1000, 50 * SEC},	/* as many as there can be */
		{{60, 60, MINUTE}, 1000, 0},
		{{60, 90, MINUTE}, 1000, 0},	/* they cannot count */
		{{60, 90, MINUTE}, 10, 0},
		{{-1, 0, 20 * SEC}, 1, 20 * SEC},	/* all are back then */
		{{0, 0, 20 * SEC}, 1, 20 * SEC},
		{{-1, 5, 20 * SEC}, 100, 0},	/* who knows */
		{{60, -1, 20 * SEC}, 1, 0},
		{{60, 0, -1}, 1, 0},
		{{60, 0, 0}, 1, 0},
		{{-1, -1, -1}, 1, 0},
		{{60, 0, 10 * DAY}, 60, DAY},
		{{-1, 0, USEC_NEVER}, 1, DAY},
		{{PG_INT64_MAX, 0, USEC_NEVER}, PG_INT64_MAX, DAY},
		{{PG_INT64_MAX, 0, USEC_NEVER}, 1, 1},
		{{PG_INT64_MIN, PG_INT64_MIN, PG_INT64_MIN}, PG_INT64_MAX, 0},
		{{60, 0, MINUTE}, 0, 0},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		Usec		wait = limit_notice_wait(&cases[i].notice, cases[i].units);

		CHECK(wait == cases[i].wait, "notice %d: %lld", (int) i,
			  (long long) wait);
	}
}

static int
retries(Budget *budget, Usec now)
{
	int			n = 0;

	while (n < 1000 && budget_take_retry(budget, now))
		n++;
	return n;
}

static void
test_budget(void)
{
	Budget		budget;
	Usec		later = NOW + BUDGET_WINDOW - SEC;

	memset(&budget, 0x7f, sizeof(budget));
	budget_init(&budget);
	CHECK(retries(&budget, NOW) == BUDGET_FLOOR, "the floor");
	CHECK(retries(&budget, later) == 0, "and no more within the window");
	for (int i = 0; i < 4; i++)
		budget_count_request(&budget, later);
	CHECK(retries(&budget, later) == 0, "four requests earn nothing");
	budget_count_request(&budget, later);
	CHECK(retries(&budget, later) == 1, "five earn one");
	for (int i = 0; i < 995; i++)
		budget_count_request(&budget, later);
	CHECK(retries(&budget, later) == 199, "a fifth of a thousand");

	/* The first ones expire before the others. */
	CHECK(retries(&budget, NOW + BUDGET_WINDOW + SEC / 2) == BUDGET_FLOOR,
		  "what expired is there again");
	later += BUDGET_WINDOW + SEC / 2;
	CHECK(retries(&budget, later) == 0, "requests expire, too");
	CHECK(retries(&budget, later + BUDGET_WINDOW) == BUDGET_FLOOR,
		  "after a pause the floor");
	CHECK(retries(&budget, NOW + DAY) == BUDGET_FLOOR, "a day later, too");
}

/* A network, and what it last said. */
static Network network;
static Cell *cells;
static CellRef mine[NETWORK_MEMORY];
static int	nmine;

static void
begin_network(void)
{
	memset(&network, 0x7f, sizeof(network));
	network_init(&network);
}

/* Fails at a host, which has the cell of the same number. */
static bool
fails(int host, Usec now)
{
	CellRef		cell = {&cells[host], 1};

	return network_failed(&network, host, cell, now, mine, &nmine);
}

static bool
is_mine(int host)
{
	for (int i = 0; i < nmine; i++)
		if (mine[i].cell == &cells[host] && mine[i].generation == 1)
			return true;
	return false;
}

static void
test_network_ours(void)
{
	begin_network();
	network_reached(&network, NOW - 1);
	CHECK(!network_pause(&network, 1, NOW), "no pause yet");
	CHECK(!fails(1, NOW) && !fails(1, NOW + SEC) && nmine == 0, "one host");
	CHECK(fails(2, NOW + SEC + 1), "two hosts");
	CHECK(nmine == 2 && is_mine(1) && is_mine(2), "both are ours");
	CHECK(network_pause(&network, 1, NOW + SEC + 1) &&
		  network_pause(&network, 2, NOW + SEC + 1), "a pause for both");
	CHECK(!network_pause(&network, 3, NOW + SEC + 1), "and no other");
	CHECK(network_pause(&network, 2, NOW + SEC + NETWORK_PAUSE), "still");
	CHECK(!network_pause(&network, 2, NOW + SEC + 1 + NETWORK_PAUSE), "over");
	CHECK(fails(2, NOW + SEC + 2 + NETWORK_PAUSE) && nmine == 2,
		  "after the pause one is enough to begin another");
	CHECK(!fails(2, NOW + 9 * SEC) && nmine == 0, "long after it is not");

	begin_network();
	CHECK(!fails(1, NOW) && fails(2, NOW + 1), "two hosts again");
	network_reached(&network, NOW + 2);
	CHECK(!network_pause(&network, 1, NOW + 3), "an answer ends the pause");

	begin_network();
	CHECK(!fails(1, 1) && fails(2, 2), "nobody was ever reached");
	begin_network();
	CHECK(!fails(1, NOW) && fails(2, NOW + NETWORK_WINDOW), "just within");
	begin_network();
	CHECK(!fails(1, NOW) && !fails(2, NOW + NETWORK_WINDOW + 1), "too late");
}

static void
test_network_theirs(void)
{
	/* Hours of failures of one host, under any of its names. */
	begin_network();
	for (int i = 0; i < 5000; i++)
		CHECK(!network_failed(&network, 1, (CellRef) {&cells[i % 3], i % 2},
							  NOW + i * SEC / 10, mine, &nmine), "one host");

	/* Somebody answers in between. */
	begin_network();
	CHECK(!fails(1, NOW), "one");
	network_reached(&network, NOW + SEC / 2);
	CHECK(!fails(2, NOW + SEC), "an answer in between");
	CHECK(!fails(1, NOW + SEC + 1), "still within the window");
	CHECK(!network_pause(&network, 1, NOW + SEC), "no pause");
	CHECK(!fails(2, NOW + 2 * SEC), "still");
	CHECK(fails(1, NOW + 3 * SEC), "two seconds without any answer");

	/* At the same moment, too. */
	begin_network();
	network_reached(&network, NOW);
	CHECK(!fails(1, NOW) && !fails(2, NOW + 1), "answered when it failed");
}

/* One that is down for long, and another that has a hiccup. */
static void
test_network_flood(void)
{
	begin_network();
	for (int i = 0; i < 3000; i++)
	{
		fails(1, NOW + i * USEC_MSEC);
		if (i % 100 == 0)
			network_reached(&network, NOW + i * USEC_MSEC);
	}
	CHECK(!fails(2, NOW + 3 * SEC), "the other one answered just before");
	CHECK(!fails(1, NOW + 3 * SEC), "they do");
	for (int i = 0; i < 3000; i++)
		fails(1, NOW + 3 * SEC + i * USEC_MSEC);
	CHECK(!fails(1, NOW + 6 * SEC), "one host, however often");
	CHECK(fails(2, NOW + 6 * SEC) && nmine == 2, "and the second one");
}

/* More hosts than can be remembered. */
static void
test_network_many(void)
{
	begin_network();
	for (int i = 0; i < 3 * NETWORK_MEMORY; i++)
		CHECK(fails(i, NOW + i) == (i > 0), "host %d", i);
	CHECK(nmine == NETWORK_MEMORY, "%d cells", nmine);
	for (int i = 2 * NETWORK_MEMORY; i < 3 * NETWORK_MEMORY; i++)
		CHECK(is_mine(i), "the latest are remembered, not %d", i);

	/* An answer still counts that came after one that is forgotten. */
	begin_network();
	fails(0, NOW);
	network_reached(&network, NOW + 1);
	for (int i = 1; i < 3 * NETWORK_MEMORY; i++)
		CHECK(!fails(i, NOW + SEC + i), "host %d after an answer", i);
	CHECK(fails(1, NOW + 2 * SEC + 2), "no answer any more");
}

/* Hosts whose cells are not shared have no reference, but count. */
static void
test_network_unshared(void)
{
	const CellRef none = {NULL, 0};

	begin_network();
	CHECK(!network_failed(&network, 1, none, NOW, mine, &nmine), "one");
	CHECK(network_failed(&network, 2, none, NOW, mine, &nmine), "two");
	CHECK(nmine == 2 && cell_of(mine[0]) == NULL && cell_of(mine[1]) == NULL,
		  "nothing to forgive");
}

static void
test_network_reached(void)
{
	begin_network();
	network_reached(&network, NOW);
	network_reached(&network, NOW + USEC_MSEC - 1);
	CHECK(pg_atomic_read_u64(&network.reached_at) == NOW, "no store");
	network_reached(&network, NOW + USEC_MSEC);
	CHECK(pg_atomic_read_u64(&network.reached_at) == NOW + USEC_MSEC, "one");
	network_reached(&network, NOW);
	CHECK(pg_atomic_read_u64(&network.reached_at) == NOW + USEC_MSEC,
		  "who is late changes nothing");
}

static void
test_reason(void)
{
	static const struct
	{
		int			ascii;		/* so many, and then these */
		const char *text;
		int			len;
	}			cases[] =
	{
		{0, "", 0},
		{0, "\xC3\xA9", 2},
		{158, "x", 159},
		{158, "xy", 159},
		{157, "\xC3\xA9", 159},
		{157, "\xC3\xA9y", 159},
		{158, "\xC3\xA9", 158},
		{156, "\xE2\x82\xAC\xE2\x82\xAC", 156},	/* a euro would fit */
		{159, "\xE2\x82\xAC", 159},
		{500, "", 159},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		char	   *letters = memset(palloc0(501), 'a', 500);
		char	   *text = psprintf("%.*s%s", cases[i].ascii, letters,
									cases[i].text);
		char		got[CELL_REASON_LEN];

		cell_set_reason(cells, "something long from before");
		cell_set_reason(cells, text);
		cell_get_reason(cells, got);
		CHECK((int) strlen(got) == cases[i].len &&
			  strncmp(got, text, strlen(got)) == 0, "reason %d: %s", (int) i,
			  got);
	}
}

static void
test_cell(void)
{
	Cell	   *cell = &cells[0];
	char		reason[CELL_REASON_LEN];

	memset(cell, 0x7f, sizeof(Cell));
	cell_init(cell, 4711);
	cell_get_reason(cell, reason);
	CHECK_TEXT(reason, "", "a new cell has no reason");
	CHECK(pg_atomic_read_u64(&cell->stats_reset) == 4711, "counts since");
	CHECK(pg_atomic_read_u32(&cell->in_flight) == 0x7f7f7f7f &&
		  pg_atomic_read_u32(&cell->generation) == 0x7f7f7f7f &&
		  cell->key.database == 0x7f7f7f7f, "the table's own are left alone");
	for (int i = 0; i < NUM_CELL_COUNTS; i++)
		CHECK(pg_atomic_read_u64(&cell->counts[i]) == 0, "count %d", i);
	CHECK(pg_atomic_read_u64(&cell->throttled_until) == 0 &&
		  pg_atomic_read_u32(&cell->throttles) == 0 &&
		  pg_atomic_read_u64(&cell->fingerprint) == 0 &&
		  pg_atomic_read_u64(&cell->last_used) == 0 &&
		  pg_atomic_read_u32(&cell->unwanted) == 0 &&
		  pg_atomic_read_u64(&cell->breaker.word) == 0, "pristine");
	CHECK(limiter_when(&cell->requests, 60, 60, 0, NOW) <= NOW &&
		  limiter_when(&cell->tokens, 60, 60, 0, NOW) <= NOW &&
		  retries(&cell->budget, NOW) == BUDGET_FLOOR &&
		  latency_ewma(&cell->latency, NOW) == 0 &&
		  latency_p99(&cell->latency) == 0, "nothing is known");

	cell_count(cell, COUNT_HEDGES);
	CHECK(pg_atomic_read_u64(&cell->counts[COUNT_HEDGES]) == 1, "counted");
	cell_throttle(cell, NOW);
	cell_throttle(cell, NOW - 1);
	CHECK(pg_atomic_read_u64(&cell->throttled_until) == NOW, "never shorter");
	cell_throttle(cell, NOW + 1);
	CHECK(pg_atomic_read_u64(&cell->throttled_until) == NOW + 1, "but longer");
}

void
test_limits(void)
{
	pg_prng_seed(&prng, 42);
	test_burst();
	test_refill();
	test_large();
	test_give_back();
	test_debt();
	test_rate_changes();
	test_limiter_clock_back();
	test_never_too_much();
	test_processes();
	test_notice();
	test_budget();

	cells = palloc0(3 * NETWORK_MEMORY * sizeof(Cell));
	test_network_ours();
	test_network_theirs();
	test_network_flood();
	test_network_many();
	test_network_unshared();
	test_network_reached();
	test_cell();
	test_reason();
}
