/*
 * hedge.c
 *	  What is done while an attempt is silent.
 *
 * Silence beyond all that is usual for a target weighs as a failure, for all
 * backends to see, until the attempt ends. When that opens the target's
 * breaker, or the attempt was a trial of one that was open, the call does not
 * wait for the timeout: it asks a second candidate beside the first, and the
 * first good answer wins. That is failing over, and free.
 *
 * A hedge (llm_tier.hedge_after) asks a second candidate of one that is merely
 * slow; it draws on the retry budget (J. Dean, L. A. Barroso, The Tail at
 * Scale, 2013).
 */
#include "postgres.h"

#include "call_impl.h"

/* So often a silent attempt looks whether others have opened its breaker. */
#define LOOK_EVERY (250 * USEC_MSEC)

/* Returns when the silence of a try is suspect, or USEC_NEVER. */
static Usec
suspect_at(const Try *try, Usec now)
{
	Usec		patience;

	if (try->call->spec.only || !try->reservation.held)
		return USEC_NEVER;
	patience = health_patience(&try->reservation, try->tier->connect_timeout);
	return patience > 0 ? now + patience : USEC_NEVER;
}

/* Sets call->wake to the first of the times that are watched. */
static void
set_wake(Call *call)
{
	call->wake = call->hedge_at;
	for (int i = 0; i < MAX_TRIES; i++)
		if (try_is_running(&call->tries[i]))
			call->wake = Min(call->wake, call->tries[i].look_at);
}

/* Begins to watch the tries of a call, one of which has just been started. */
void
set_silence_timers(Call *call, Usec now)
{
	const Tier *tier = call->router.tier;

	for (int i = 0; i < MAX_TRIES; i++)
	{
		Try		   *try = &call->tries[i];

		if (!try_is_running(try) || try->look_at != 0)
			continue;
		try->suspect_at = suspect_at(try, now);
		try->look_at = call->spec.only ? USEC_NEVER :
			Min(try->suspect_at, now + LOOK_EVERY);
	}
	if (call->state != CALL_SENDING)
		call->hedge_at = tier->hedge_after > 0 && !call->spec.only ?
			now + tier->hedge_after : USEC_NEVER;
	set_wake(call);
}

/*
 * Says whether a target's breaker has opened; while it is tried it is not. One
 * that was opened by hand lets running work end.
 */
static bool
breaker_is_open(const Try *try, Usec now)
{
	HealthCheck check;

	health_check(&try->candidate->target->health, 0, 0, now, &check);
	return check.verdict == HEALTH_OUT && check.why == WHY_BREAKER &&
		check.until > 0 && !check.forced;
}

/*
 * Looks at a silent try: lets it weigh as a failure when its time has come.
 * True when it is not worth waiting for alone.
 */
static bool
is_lost(Try *try, Usec now)
{
	bool		suspect = try->suspect_at <= now;

	if (suspect)
	{
		try->suspect_at = USEC_NEVER;
		health_silent(&try->reservation, now);
	}
	try->look_at = Min(try->suspect_at, now + LOOK_EVERY);
	return (suspect && try->reservation.trial) || breaker_is_open(try, now);
}

/* Looks at the tries whose time it is. Returns one that is lost, or NULL. */
static Try *
find_lost(Call *call, Usec now)
{
	Try		   *lost = NULL;

	for (int i = 0; i < MAX_TRIES; i++)
	{
		Try		   *try = &call->tries[i];

		if (try_is_running(try) && try->look_at <= now && is_lost(try, now))
			lost = try;
	}
	return lost;
}

/*
 * Returns the candidate to ask beside one that is silent: another of the same
 * tier, at a provider, in good health; or NULL.
 */
static const Candidate *
pick_second(Router *router, Usec now)
{
	bool		no_trials = router->no_trials;
	const Candidate *second;

	router->no_trials = true;
	second = router_pick(router, now);
	router->no_trials = no_trials;
	if (second == NULL || second->target)
		return second;
	router_bar(router, second, NULL);
	return NULL;
}

/*
 * Asks a second candidate beside a silent try; false when there is none. What
 * is not for free draws on the budget of the provider that is silent: a backup
 * has no requests of its own to hedge by.
 */
static bool
ask_second(Try *silent, bool for_free, Usec now)
{
	Call	   *call = silent->call;
	Try		   *try = call_free_try(call);
	const Candidate *second;
	TryStart	start;
	bool		paid = for_free;

	if (try == NULL || call_providers_off(call, now) ||
		call->router.attempts >= call->router.tier->max_attempts)
		return false;
	while ((second = pick_second(&call->router, now)) != NULL)
	{
		paid = paid || health_take_retry(&silent->candidate->target->health,
										 now);
		if (!paid)
		{
			router_bar(&call->router, second, NULL);
			return false;
		}
		start = try_start(try, second, now);
		if (start == TRY_IMPOSSIBLE)
			continue;
		if (start == TRY_REFUSED)
		{
			/* somebody was faster: it has not been asked */
			router_bar(&call->router, second, NULL);
			return false;
		}
		try->hedge = true;
		try->look_at = 0;
		call->nattempts++;
		call->nhedges++;
		call->router.attempts++;
		set_silence_timers(call, now);
		return true;
	}
	return false;
}

/*
 * Gives up a trial that was silent for too long, where nobody is there to be
 * asked beside it but the fallback, and goes on down the chain.
 */
static void
give_up(Try *try, Usec now)
{
	Call	   *call = try->call;
	Usec		silent = now - try->transfer->started;

	try_cancel(try, false, now);
	call->trace[call->ntrace - 1].outcome = OUTCOME_TIMEOUT;
	call->trace[call->ntrace - 1].error =
		MemoryContextStrdup(call->context,
							psprintf("a trial, silent for " INT64_FORMAT " ms",
									 silent / USEC_MSEC));
	call_route_on(call, now);
}

/* Returns an attempt that is under way. */
static Try *
running_try(Call *call)
{
	int			i = 0;

	while (!try_is_running(&call->tries[i]))
		i++;
	return &call->tries[i];
}

/* Looks after a call whose attempts have been silent until call->wake. */
void
mind_silence(Call *call, Usec now)
{
	Try		   *lost = find_lost(call, now);
	bool		hedge = call->hedge_at <= now;

	if (hedge)
		call->hedge_at = USEC_NEVER;
	set_wake(call);
	if (lost == NULL && !hedge)
		return;
	if (ask_second(lost ? lost : running_try(call), lost != NULL, now))
		return;
	if (lost && lost->reservation.trial && call_other_try(lost) == NULL &&
		call->spec.allow_degraded && call->router.tier->fallback)
		give_up(lost, now);
}
