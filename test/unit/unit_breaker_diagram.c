/*
 * unit_breaker_diagram.c
 *	  Every event in every state of a breaker: where it leads to, and where it
 *	  must not lead to.
 */
#include "postgres.h"

#include "unit_breaker.h"
#include "unit_breaker_play.h"

typedef enum Start
{
	IN_CLOSED,
	IN_OPEN,
	IN_STICKY,
	IN_FORCED,
	IN_SILENCE,
	IN_HALF_OPEN,
	IN_RAMPING
} Start;

#define NUM_STARTS (IN_RAMPING + 1)

static const char *const start_names[] = {
	"closed", "open", "sticky", "forced", "silence", "half-open", "ramping"
};

/* Tickets that a start leaves behind. */
typedef struct Left
{
	BreakerTicket own;			/* of the generation, where one can enter */
	BreakerTicket old;			/* of the one before */
	BreakerTicket silent;		/* of that, the cause of IN_SILENCE */
	BreakerTicket probe;		/* of this one */
	BreakerTicket old_probe;	/* of the one before */
} Left;

static Left
start_in(Start start)
{
	Left		left;
	BreakerTicket nobody = {0};

	renew();
	left.old = enter();
	left.silent = enter();
	left.old_probe = probe();
	breaker_silent(&breaker, &config, &left.silent, now);
	switch (start)
	{
		case IN_CLOSED:
			breaker_reset(&breaker, now);
			break;
		case IN_OPEN:
			config.consecutive = config.min_calls = 100;
			calls("FFF");
			config = breaker_defaults;
			calls("F");			/* reason enough without the silent one */
			break;
		case IN_STICKY:
			breaker_trip(&breaker, &nobody, 60 * USEC_SEC, now);
			break;
		case IN_FORCED:
			breaker_force_open(&breaker, now + 60 * USEC_SEC, now);
			break;
		case IN_SILENCE:
			calls("FF");
			break;
		case IN_HALF_OPEN:
			calls("FF");
			wait_it_out();
			break;
		case IN_RAMPING:
			calls("FF");
			wait_it_out();
			calls("S");
			break;
	}
	left.probe = probe();
	try_enter(&left.own);
	return left;
}

typedef BreakerChange (*Act) (Left *left);

static BreakerChange
own_success(Left *left)
{
	return succeed(left->own);
}

static BreakerChange
own_failure(Left *left)
{
	return fail(left->own);
}

static BreakerChange
three_failures(Left *left)
{
	BreakerTicket more[2] = {left->own, left->own};

	fail(more[0]);
	fail(more[1]);
	return fail(left->own);
}

static BreakerChange
own_silence(Left *left)
{
	return breaker_silent(&breaker, &config, &left->own, now);
}

static BreakerChange
old_success(Left *left)
{
	return succeed(left->old);
}

static BreakerChange
old_failure(Left *left)
{
	return fail(left->old);
}

static BreakerChange
old_silence(Left *left)
{
	return breaker_silent(&breaker, &config, &left->old, now);
}

static BreakerChange
silent_success(Left *left)
{
	return succeed(left->silent);
}

static BreakerChange
silent_failure(Left *left)
{
	return fail(left->silent);
}

static BreakerChange
probe_success(Left *left)
{
	return succeed(left->probe);
}

static BreakerChange
old_probe_success(Left *left)
{
	return succeed(left->old_probe);
}

static BreakerChange
probe_failure(Left *left)
{
	return fail(left->probe);
}

static BreakerChange
old_probe_failure(Left *left)
{
	return fail(left->old_probe);
}

static BreakerChange
probe_silence(Left *left)
{
	return breaker_silent(&breaker, &config, &left->probe, now);
}

static BreakerChange
leave(Left *left)
{
	breaker_leave(&breaker, &left->own);
	breaker_leave(&breaker, &left->old);
	breaker_leave(&breaker, &left->silent);
	breaker_leave(&breaker, &left->probe);
	return (BreakerChange) {0};
}

static BreakerChange
empty_ticket(Left *left)
{
	memset(left, 0, sizeof(*left));
	own_success(left);
	own_failure(left);
	own_silence(left);
	return fail(left->own);
}

static BreakerChange
trip(Left *left)
{
	memset(left, 0, sizeof(*left));
	return breaker_trip(&breaker, &left->own, 600 * USEC_SEC, now);
}

static BreakerChange
short_trip(Left *left)
{
	memset(left, 0, sizeof(*left));
	return breaker_trip(&breaker, &left->own, USEC_SEC, now);
}

static BreakerChange
own_trip(Left *left)
{
	return breaker_trip(&breaker, &left->own, 600 * USEC_SEC, now);
}

static BreakerChange
old_trip(Left *left)
{
	return breaker_trip(&breaker, &left->old, 600 * USEC_SEC, now);
}

static BreakerChange
force(Left *left pg_attribute_unused())
{
	return breaker_force_open(&breaker, now + 5 * USEC_SEC, now);
}

static BreakerChange
reset(Left *left pg_attribute_unused())
{
	return breaker_reset(&breaker, now);
}

static BreakerChange
forgive(Left *left pg_attribute_unused())
{
	return breaker_forgive(&breaker, 1000 * USEC_SEC, now);
}

static BreakerChange
forgive_later(Left *left pg_attribute_unused())
{
	return breaker_forgive(&breaker, 1000 * USEC_SEC + 1, now);
}

static BreakerChange
time_passes(Left *left pg_attribute_unused())
{
	now += 3600 * USEC_SEC;
	return (BreakerChange) {0};
}

/*
 * Every event in every state. A letter is where it leads to; a capital one if
 * the caller is told of a change; "-" where it cannot be.
 */
void
test_breaker_diagram(void)
{
	static const struct
	{
		const char *name;
		Act			act;
		const char *to;			/* by Start */
	}			rows[] =
	{
		{"own success", own_success, "c----Rr"},
		{"own failure", own_failure, "c----Or"},
		{"three failures", three_failures, "O-----O"},
		{"own silence", own_silence, "c----Or"},
		{"old success", old_success, "coooohr"},
		{"old failure", old_failure, "coooohr"},
		{"old silence", old_silence, "coooohr"},
		{"silent success", silent_success, "coooChr"},
		{"silent failure", silent_failure, "coooohr"},
		{"probe success", probe_success, "cRRoRRr"},
		{"old probe success", old_probe_success, "cRRoRRr"},
		{"probe failure", probe_failure, "cooooOr"},
		{"old probe failure", old_probe_failure, "coooohr"},
		{"probe silence", probe_silence, "coooohr"},
		{"leave", leave, "coooohr"},
		{"empty ticket", empty_ticket, "coooohr"},
		{"trip", trip, "OOooOOO"},
		{"short trip", short_trip, "OooooOO"},
		{"own trip", own_trip, "O----OO"},
		{"old trip", old_trip, "coooohr"},
		{"force", force, "OOOOOOO"},
		{"reset", reset, "cCCCCCC"},
		{"forgive", forgive, "cCooCCC"},
		{"forgive later", forgive_later, "coooohr"},
		{"time", time_passes, "chhhhhc"},
	};
	static const char letters[] = "cohr";

	for (size_t i = 0; i < lengthof(rows); i++)
		for (int start = 0; start < NUM_STARTS; start++)
		{
			char		to = rows[i].to[start];
			Left		left;
			BreakerChange change;
			BreakerState from;

			if (to == '-')
				continue;
			left = start_in(start);
			from = view().state;
			change = rows[i].act(&left);
			CHECK(letters[view().state] == pg_tolower(to),
				  "%s in %s leads to %s", rows[i].name, start_names[start],
				  breaker_state_name(view().state));
			CHECK(change.changed == (to != pg_tolower(to)),
				  "%s in %s: told %d", rows[i].name, start_names[start],
				  change.changed);
			if (change.changed)
				CHECK((change.from == from ||
					   (from == BREAKER_HALF_OPEN &&
						change.from == BREAKER_OPEN)) &&
					  change.to == view().state &&
					  change.until == view().until,
					  "%s in %s: tells of something else", rows[i].name,
					  start_names[start]);
		}
}
