/*
 * clock.c
 *	  The only place that reads a clock.
 */
#include "postgres.h"

#include "clock.h"

/* Returns monotonic time in microseconds; only differences mean anything. */
Usec
clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (Usec) ts.tv_sec * USEC_SEC + ts.tv_nsec / 1000;
}

/* Returns the time of day, for what a provider says in dates. */
time_t
clock_wall(void)
{
	return time(NULL);
}
