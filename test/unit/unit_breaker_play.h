/*
 * unit_breaker_play.h
 *	  A breaker to play with, at a time that is made up; of each file its own.
 */
#ifndef LLM_UNIT_BREAKER_PLAY_H
#define LLM_UNIT_BREAKER_PLAY_H

#include "postgres.h"

#include "common/pg_prng.h"

#include "health/breaker.h"

#include "unit.h"

#define LEASE (20 * USEC_SEC)

/* renew() makes all of it new. */
static Breaker breaker;
static BreakerConfig config;
static Usec now;

static inline void
renew(void)
{
	config = breaker_defaults;
	now = 1000 * USEC_SEC;
	breaker_init(&breaker);
	pg_prng_seed(&pg_global_prng_state, 1);
}

static inline BreakerView
view(void)
{
	return breaker_view(&breaker, &config, now);
}

static inline bool
try_enter(BreakerTicket *ticket)
{
	BreakerChange change;

	return breaker_enter(&breaker, &config, false, LEASE, now, ticket, &change);
}

static inline BreakerTicket
enter(void)
{
	BreakerTicket ticket;

	CHECK(try_enter(&ticket) && ticket.entered, "not admitted");
	return ticket;
}

static inline BreakerTicket
probe(void)
{
	BreakerTicket ticket;
	BreakerChange change;

	CHECK(breaker_enter(&breaker, &config, true, LEASE, now, &ticket,
						&change) &&
		  ticket.entered && ticket.probe && !ticket.permit, "not admitted");
	CHECK(!change.changed, "a probe changes nothing by itself");
	return ticket;
}

static inline BreakerChange
succeed(BreakerTicket ticket)
{
	return breaker_success(&breaker, &config, &ticket, false, now);
}

static inline BreakerChange
fail(BreakerTicket ticket)
{
	return breaker_failure(&breaker, &config, &ticket, false, 0, now);
}

/* Calls whose ends follow their beginnings at once; returns the last change. */
static inline BreakerChange
calls(const char *ends)
{
	BreakerChange change = {0};

	for (; *ends; ends++)
	{
		BreakerTicket ticket = enter();

		change = *ends == 'F' || *ends == 'f' ?
			breaker_failure(&breaker, &config, &ticket, *ends == 'f', 0, now) :
			breaker_success(&breaker, &config, &ticket, *ends == 's', now);
		CHECK(!ticket.entered, "the ticket is still there");
	}
	return change;
}

static inline void
check_state(BreakerState state, const char *file, int line, const char *what)
{
	BreakerView seen = view();

	unit_check(seen.state == state, file, line, "%s: is %s, not %s", what,
			   breaker_state_name(seen.state), breaker_state_name(state));
}

#define STATE(state, what) \
	check_state(BREAKER_##state, __FILE__, __LINE__, what)

/* Goes to the end of what the breaker is in. */
static inline void
wait_it_out(void)
{
	now = view().until;
}

#endif							/* LLM_UNIT_BREAKER_PLAY_H */
