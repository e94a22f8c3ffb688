/*
 * unit_schedule.c
 *	  When targets are probed and what is told of them, with made-up time.
 */
#include "postgres.h"

#include "queue/schedule.h"

#include "unit.h"

#define MINUTE	(60 * USEC_SEC)
#define HOUR	(60 * MINUTE)
#define DAY		(24 * HOUR)

/* Any time will do to begin with. */
#define BEGIN	(1000 * DAY)

/* A schedule of so many probes, all of the same pause. */
static Schedule
schedule_of(int n, Usec every)
{
	Schedule	schedule = {0};
	ScheduleItem *items = palloc((n + 1) * sizeof(ScheduleItem));

	for (int i = 0; i < n; i++)
	{
		char	   *key = palloc(16);

		snprintf(key, 16, "%04d", i);
		items[i] = (ScheduleItem) {key, every, key};
	}
	schedule_update(&schedule, items, n, BEGIN);
	return schedule;
}

/* Puts some probes of one pause into a schedule, by one letter each. */
static void
update(Schedule *schedule, const char *letters, Usec every, Usec now)
{
	ScheduleItem items[8];
	int			n = 0;

	for (const char *c = letters; *c; c++)
	{
		char	   *key = palloc(2);

		key[0] = *c;
		key[1] = '\0';
		items[n++] = (ScheduleItem) {key, every, c};
	}
	schedule_update(schedule, items, n, now);
}

/* The keys of a schedule, in its order. */
static const char *
keys_of(const Schedule *schedule)
{
	char	   *keys = palloc0(schedule->n + 1);

	for (int i = 0; i < schedule->n; i++)
		keys[i] = schedule->probes[i]->key[0];
	return keys;
}

/* New probes are spread, and the first answers are seen soon. */
static void
test_first_times(void)
{
	static const struct
	{
		Usec		every;
		Usec		within;
	}			cases[] =
	{
		{1, 1},
		{2 * USEC_SEC, 2 * USEC_SEC},
		{10 * USEC_SEC, 10 * USEC_SEC},
		{MINUTE, 10 * USEC_SEC},
		{DAY, 10 * USEC_SEC}
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		Schedule	schedule = schedule_of(1000, cases[i].every);
		Usec		first = USEC_NEVER;
		Usec		last = 0;

		for (int n = 0; n < schedule.n; n++)
		{
			first = Min(first, schedule.probes[n]->due);
			last = Max(last, schedule.probes[n]->due);
		}
		CHECK(first >= BEGIN && last <= BEGIN + cases[i].within,
			  "every " INT64_FORMAT ": " INT64_FORMAT " to " INT64_FORMAT,
			  cases[i].every, first - BEGIN, last - BEGIN);
		CHECK(cases[i].every == 1 ||
			  (first < BEGIN + cases[i].within / 20 &&
			   last > BEGIN + cases[i].within - cases[i].within / 20),
			  "every " INT64_FORMAT ": spread over it", cases[i].every);
	}
}

/* A pause is `every` on the average, and never far from it. */
static void
test_jitter(void)
{
	Schedule	schedule = schedule_of(1, MINUTE);
	ScheduledProbe *probe = schedule.probes[0];
	Usec		now = BEGIN;
	Usec		shortest = USEC_NEVER;
	Usec		longest = 0;

	for (int i = 0; i < 10000; i++)
	{
		Usec		pause;

		schedule_begin(probe, now);
		schedule_end(probe, PROBE_GOOD, now);
		pause = probe->due - now;
		shortest = Min(shortest, pause);
		longest = Max(longest, pause);
		now = probe->due;
	}
	CHECK(shortest >= 54 * USEC_SEC && shortest < 55 * USEC_SEC,
		  "shortest " INT64_FORMAT, shortest);
	CHECK(longest <= 66 * USEC_SEC && longest > 65 * USEC_SEC,
		  "longest " INT64_FORMAT, longest);
	CHECK(now - BEGIN > 9900 * MINUTE && now - BEGIN < 10100 * MINUTE,
		  "10000 times every minute: " INT64_FORMAT " minutes",
		  (now - BEGIN) / MINUTE);
}

/* The first that is due comes first, and none while it runs. */
static void
test_order(void)
{
	Schedule	schedule = {0};
	ScheduledProbe *first;
	ScheduledProbe *second;

	CHECK(schedule_first(&schedule) == NULL, "empty");
	update(&schedule, "ab", MINUTE, BEGIN);
	first = schedule_first(&schedule);
	second = schedule.probes[first == schedule.probes[0]];
	CHECK(first->due <= second->due, "the first one");
	schedule_begin(first, first->due);
	CHECK(schedule_first(&schedule) == second, "it runs");
	schedule_begin(second, second->due);
	CHECK(schedule_first(&schedule) == NULL, "both run");
	schedule_end(second, PROBE_GOOD, BEGIN + HOUR);
	CHECK(schedule_first(&schedule) == second, "it has ended");
	CHECK(second->due < BEGIN + HOUR, "and is due while the other one runs");
	schedule_end(first, PROBE_GOOD, BEGIN + HOUR);
	CHECK(schedule_first(&schedule) ==
		  (first->due < second->due ? first : second), "both have ended");
}

/* What is kept keeps its time, what is new gets one, what is gone goes. */
static void
test_update(void)
{
	Schedule	schedule = {0};
	ScheduledProbe *b;
	ScheduledProbe *d;
	Usec		due;

	update(&schedule, "dba", MINUTE, BEGIN);
	CHECK_TEXT(keys_of(&schedule), "abd", "sorted");
	b = schedule.probes[1];
	d = schedule.probes[2];
	due = b->due;
	update(&schedule, "ecb", MINUTE, BEGIN + HOUR);
	CHECK_TEXT(keys_of(&schedule), "bce", "one kept, two new, two gone");
	CHECK(schedule.probes[0] == b && b->due == due, "kept as it was");
	CHECK(*(const char *) b->target == 'b', "but for its target");
	CHECK(schedule.probes[1]->due >= BEGIN + HOUR, "a new one begins now");

	/* one that runs is not there any more until its call ends */
	schedule_begin(b, BEGIN + HOUR);
	update(&schedule, "ad", MINUTE, BEGIN + HOUR);
	CHECK_TEXT(keys_of(&schedule), "ad", "gone");
	CHECK(b->dropped && b->target == NULL, "it runs, and is on its own");
	CHECK(!schedule_end(b, PROBE_BAD, BEGIN + HOUR), "and is not told of");
	d = schedule.probes[1];
	CHECK(!d->failing, "one that comes back is new");
	update(&schedule, "", MINUTE, BEGIN + HOUR);
	CHECK(schedule.n == 0 && schedule_first(&schedule) == NULL, "all gone");
}

/* A shorter pause holds at once, a longer one from the next time on. */
static void
test_other_pause(void)
{
	Schedule	schedule = {0};
	ScheduledProbe *a;
	Usec		due;

	update(&schedule, "a", DAY, BEGIN);
	a = schedule.probes[0];
	schedule_begin(a, BEGIN);
	schedule_end(a, PROBE_GOOD, BEGIN);
	CHECK(a->due > BEGIN + 21 * HOUR, "a day");
	update(&schedule, "a", USEC_SEC, BEGIN);
	CHECK(schedule.probes[0] == a && a->due <= BEGIN + USEC_SEC, "a second");
	due = a->due;
	update(&schedule, "a", DAY, BEGIN);
	CHECK(a->due == due, "a day again: not before it is due");
	schedule_begin(a, due);
	CHECK(a->due > due + 21 * HOUR, "but then");
}

/* The first failure is told, and then one an hour. */
static void
test_telling(void)
{
	Schedule	schedule = schedule_of(1, MINUTE);
	ScheduledProbe *probe = schedule.probes[0];
	int			told = 0;

	CHECK(!schedule_end(probe, PROBE_GOOD, BEGIN), "good");
	CHECK(schedule_end(probe, PROBE_BAD, BEGIN), "the first failure");
	for (int i = 1; i < 5 * 60; i++)
		told += schedule_end(probe, PROBE_BAD, BEGIN + i * MINUTE);
	CHECK(told == 4, "5 hours: %d more", told);
	CHECK(!schedule_end(probe, PROBE_UNKNOWN, BEGIN + 5 * HOUR - 1),
		  "nothing was found out");
	CHECK(!schedule_end(probe, PROBE_BAD, BEGIN + 5 * HOUR - 1),
		  "it fails as before");
	CHECK(!schedule_end(probe, PROBE_GOOD, BEGIN + 5 * HOUR - 1), "it is well");
	CHECK(schedule_end(probe, PROBE_BAD, BEGIN + 5 * HOUR - 1),
		  "after that a failure is the first one");

	schedule = schedule_of(1, MINUTE);
	CHECK(schedule_end(schedule.probes[0], PROBE_BAD, BEGIN),
		  "so is that of one that never was well");
}

void
test_schedule(void)
{
	test_first_times();
	test_jitter();
	test_order();
	test_update();
	test_other_pause();
	test_telling();
}
