/*
 * health_patience.c
 *	  How long an attempt may be silent before that says something.
 */
#include "postgres.h"

#include "health/health.h"

/* How long an attempt may be silent before it is suspect. */
#define PATIENCE_FACTOR		3
#define PATIENCE_MIN		(250 * USEC_MSEC)
#define PATIENCE_MIN_TRIAL	(50 * USEC_MSEC)
#define PATIENCE_DOUBLINGS	10

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
