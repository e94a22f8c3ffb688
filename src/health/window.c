/*
 * window.c
 *	  A sliding window as a ring of buckets, with what falls out subtracted from
 *	  running totals (as resilience4j's SlidingTimeWindowMetrics).
 *
 * A bucket's number is its time divided by the width, so that a bucket needs no
 * time of its own: the ring holds the numbers from head - 29 to head. The
 * newest is still filling; what counts is therefore never older than the
 * window's length, and everything younger than 29/30 of it counts.
 */
#include "postgres.h"

#include "health/window.h"

/* Returns the width of the buckets of a window, rounded down. */
static Usec
bucket_width(Usec length)
{
	return Max(length / WINDOW_BUCKETS, 1);
}

static int64
bucket_number(Usec width, Usec now)
{
	return now / width;
}

static void
counts_add(WindowCounts *sum, WindowCounts counts)
{
	sum->calls += counts.calls;
	sum->failures += counts.failures;
	sum->slow += counts.slow;
}

static void
counts_subtract(WindowCounts *sum, WindowCounts counts)
{
	sum->calls -= counts.calls;
	sum->failures -= counts.failures;
	sum->slow -= counts.slow;
}

void
window_clear(Window *window)
{
	memset(window, 0, sizeof(*window));
}

/* Moves the head to a newer bucket; what falls out leaves the totals. */
static void
window_advance(Window *window, int64 number)
{
	int64		steps = Min(number - window->head, WINDOW_BUCKETS);

	for (int64 i = 1; i <= steps; i++)
	{
		WindowCounts *oldest =
			&window->buckets[(window->head + i) % WINDOW_BUCKETS];

		counts_subtract(&window->total, *oldest);
		memset(oldest, 0, sizeof(*oldest));
	}
	window->head = Max(window->head, number);
}

void
window_add(Window *window, Usec length, WindowCounts counts, Usec now)
{
	Usec		width = bucket_width(length);

	if (window->width != width)
	{
		window_clear(window);
		window->width = width;
	}
	window_advance(window, bucket_number(width, now));
	counts_add(&window->buckets[window->head % WINDOW_BUCKETS], counts);
	counts_add(&window->total, counts);
}

WindowCounts
window_sum(const Window *window, Usec length, Usec now)
{
	WindowCounts sum = {0};
	int64		steps;

	if (window->width != bucket_width(length))
		return sum;
	sum = window->total;
	steps = Min(bucket_number(window->width, now) - window->head,
				WINDOW_BUCKETS);
	for (int64 i = 1; i <= steps; i++)
		counts_subtract(&sum,
						window->buckets[(window->head + i) % WINDOW_BUCKETS]);
	return sum;
}
