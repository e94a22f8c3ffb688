/*
 * follow.c
 *	  What may follow a failure in the same call: a retry, another candidate, a
 *	  wait, or nothing.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "call_impl.h"

/*
 * Retries of a target wait U(0, min(cap, base × 2^n)): "full jitter", M.
 * Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015. With
 * one retry a call, n is 0.
 */
#define BACKOFF_BASE	(250 * USEC_MSEC)

/* A provider that says "too many requests" is left alone at least so long. */
#define THROTTLE_FLOOR	(1 * USEC_SEC)

/* Returns how long to wait before a retry of a target. */
static Usec
backoff(void)
{
	return (Usec) (pg_prng_double(&pg_global_prng_state) * BACKOFF_BASE);
}

/* Counts how often a candidate has been asked in this call. */
static int
times_asked(const Call *call, const Candidate *candidate)
{
	int			n = 0;

	for (int i = 0; i < call->ntrace; i++)
		if (call->trace[i].candidate == candidate)
			n++;
	return n;
}

/* Remembers who may be asked first of all when nothing else can answer. */
void
note_later(Call *call, const Candidate *candidate, const Tier *tier, Usec at)
{
	if (call->later.candidate && call->later.at <= at)
		return;
	call->later = (Later) {candidate, tier, at};
}

/*
 * Remembers when a candidate that asked for patience may be asked again: what
 * all backends know of it by now, and what it said itself.
 */
static void
note_throttled(Try *try, int64 hint_ms, Usec now)
{
	const Candidate *candidate = try->candidate;
	Cell	   *cell = cell_of(candidate->target->health.cells[CELL_TARGET]);
	Usec		at = now + Max(THROTTLE_FLOOR, hint_ms * USEC_MSEC);

	if (cell)
		at = Max(at, (Usec) pg_atomic_read_u64(&cell->throttled_until));
	note_later(try->call, candidate, try->tier, at);
}

/* Allows the retry that an outcome's row grants: one for each target. */
static void
allow_retry(Try *try, Outcome outcome, int64 hint_ms, Usec now)
{
	Call	   *call = try->call;
	Usec		wait = 0;

	switch (outcome_rules[outcome].retry)
	{
		case RETRY_NEVER:
			return;
		case RETRY_AFTER_HINT:
			note_throttled(try, hint_ms, now);
			return;
		case RETRY_AFTER_JITTER:
			if (hint_ms > 0)
			{
				note_throttled(try, hint_ms, now);
				return;
			}
			wait = backoff();
			break;
		case RETRY_AT_ONCE:
			break;
	}
	if (times_asked(call, try->candidate) < 2 &&
		try->tier == call->router.tier)
		router_allow_retry(&call->router, try->candidate, now + wait);
}

/* Says whether an outcome lets the call go on to somebody else. */
bool
may_go_on(Call *call, const Candidate *candidate, Outcome outcome)
{
	switch (outcome_rules[outcome].next)
	{
		case NEXT_YES:
			return true;
		case NEXT_NO:
			/* cut short by the call's own deadline: builtin models are left */
			if (outcome == OUTCOME_CANCELLED)
				return true;
			call->refusal = call->ntrace - 1;
			return false;
		case NEXT_LARGER_WINDOW:
			call->refusal = call->ntrace - 1;
			call->router.needs.larger_than = candidate->route->model;
			return true;
		case NEXT_IF_TIER_SAYS:
			call->refusal = call->ntrace - 1;
			return call->router.tier->content_filter_next;
	}
	return false;
}

/*
 * Puts aside whom a failure speaks of, for the rest of the call, and allows
 * what retry there is. The reply is read only.
 */
void
follow_failure(Try *try, Outcome outcome, const Reply *reply, Usec now)
{
	Call	   *call = try->call;
	FailedScope failed = {
		blamed_scope(try->candidate, outcome, try->transfer->end),
		try->candidate
	};

	router_failed(&call->router, &failed);
	if (call->later.candidate && router_covers(&failed, call->later.candidate))
		call->later.candidate = NULL;
	allow_retry(try, outcome, reply->retry_after_ms, now);
}
