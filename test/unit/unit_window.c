/*
 * unit_window.c
 *	  The sliding window, with made-up time.
 */
#include "postgres.h"

#include "health/window.h"

#include "unit.h"
#include "unit_breaker.h"

static const WindowCounts one_call = {.calls = 1};

/* What is inside at the edges: of each length, to the microsecond. */
static void
test_window_edges(void)
{
	static const Usec lengths[] = {
		1 * USEC_SEC, 30 * USEC_SEC, 7 * USEC_SEC + 1, 60 * USEC_SEC,
		600 * USEC_SEC
	};

	for (size_t i = 0; i < lengthof(lengths); i++)
	{
		Usec		length = lengths[i];
		Usec		width = length / WINDOW_BUCKETS;
		Usec		border = 1000 * width;	/* a bucket begins here */
		Window		window = {0};

		window_add(&window, length, one_call, border - 1);
		window_add(&window, length, one_call, border);
		CHECK(window_sum(&window, length, border).calls == 2, "now");
		CHECK(window_sum(&window, length, border + 29 * width - 1).calls == 2,
			  "just before the first falls out of " INT64_FORMAT, length);
		CHECK(window_sum(&window, length, border + 29 * width).calls == 1,
			  "just when the first falls out of " INT64_FORMAT, length);
		CHECK(window_sum(&window, length, border + 30 * width - 1).calls == 1,
			  "just before the second falls out of " INT64_FORMAT, length);
		CHECK(window_sum(&window, length, border + 30 * width).calls == 0,
			  "just when the second falls out of " INT64_FORMAT, length);
	}
}

/* The totals are those of the buckets, however far the head moves. */
static void
test_window_moves(void)
{
	static const WindowCounts counts = {.calls = 3, .failures = 2, .slow = 1};
	Usec		length = 30 * USEC_SEC;
	Window		window = {0};
	WindowCounts sum;

	for (int second = 0; second < 100; second++)
		window_add(&window, length, counts, (1000 + second) * USEC_SEC);
	sum = window_sum(&window, length, 1099 * USEC_SEC);
	CHECK(sum.calls == 90 && sum.failures == 60 && sum.slow == 30,
		  "full: %u %u %u", sum.calls, sum.failures, sum.slow);
	CHECK(window_sum(&window, length, 1109 * USEC_SEC).calls == 60,
		  "ten seconds later");

	window_add(&window, length, counts, 1109 * USEC_SEC);
	CHECK(window_sum(&window, length, 1109 * USEC_SEC).calls == 63,
		  "a gap of ten");
	window_add(&window, length, counts, 1139 * USEC_SEC);
	CHECK(window_sum(&window, length, 1139 * USEC_SEC).calls == 3,
		  "a gap of a whole window");
	window_add(&window, length, counts, PG_INT64_MAX);
	CHECK(window_sum(&window, length, PG_INT64_MAX).calls == 3,
		  "far ahead");
}

/* A clock that goes back adds to the newest, and takes nothing out. */
static void
test_window_clock(void)
{
	Usec		length = 30 * USEC_SEC;
	Window		window = {0};

	window_add(&window, length, one_call, 100 * USEC_SEC);
	window_add(&window, length, one_call, 50 * USEC_SEC);
	window_add(&window, length, one_call, 0);
	window_add(&window, length, one_call, -USEC_SEC);
	CHECK(window_sum(&window, length, 40 * USEC_SEC).calls == 4, "back");
	CHECK(window_sum(&window, length, 129 * USEC_SEC).calls == 4, "newest");
	CHECK(window_sum(&window, length, 130 * USEC_SEC).calls == 0, "and out");
}

static void
test_window_length(void)
{
	Window		window = {0};

	CHECK(window_sum(&window, USEC_SEC, USEC_SEC).calls == 0, "never used");
	window_add(&window, 30 * USEC_SEC, one_call, 100 * USEC_SEC);
	CHECK(window_sum(&window, 60 * USEC_SEC, 100 * USEC_SEC).calls == 0,
		  "another length knows nothing");
	CHECK(window_sum(&window, 30 * USEC_SEC, 100 * USEC_SEC).calls == 1,
		  "looking changes nothing");
	window_add(&window, 60 * USEC_SEC, one_call, 100 * USEC_SEC);
	CHECK(window_sum(&window, 60 * USEC_SEC, 100 * USEC_SEC).calls == 1,
		  "another length begins empty");
	CHECK(window_sum(&window, 30 * USEC_SEC, 100 * USEC_SEC).calls == 0,
		  "and the old one is gone");
	window_add(&window, 1, one_call, 100 * USEC_SEC);
	CHECK(window_sum(&window, 1, 100 * USEC_SEC).calls == 1, "of no length");
	window_clear(&window);
	CHECK(window_sum(&window, 1, 100 * USEC_SEC).calls == 0, "cleared");
}

void
test_window(void)
{
	test_window_edges();
	test_window_moves();
	test_window_clock();
	test_window_length();
}
