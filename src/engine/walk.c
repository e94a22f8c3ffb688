/*
 * walk.c
 *	  A call's way along the chain of tiers: whom to ask next, now or later, and
 *	  how it ends when nobody is left.
 */
#include "postgres.h"

#include "call_impl.h"
#include "settings.h"

/* With less time left than this no provider is asked any more. */
#define ATTEMPT_MIN_TIME	(2 * USEC_MSEC)

/* So often somebody may be faster before a call looks further in its tier. */
#define MAX_RACES 8

/*
 * Writes into the last element of the trace what is done after it: "retry" when
 * somebody is asked again, whoever was asked in between.
 */
static void
mark_next(Call *call, const Candidate *candidate)
{
	Attempt    *last;

	if (call->ntrace == 0)
		return;
	last = &call->trace[call->ntrace - 1];
	last->next = last->tier != call->router.tier ? "tier" : "candidate";
	for (int i = 0; i < call->ntrace; i++)
		if (call->trace[i].candidate == candidate)
			last->next = "retry";
}

/*
 * Begins an attempt. One that is refused by a limit may be asked later; one
 * that is impossible puts only the candidate out.
 */
TryStart
call_begin_attempt(Call *call, const Candidate *candidate, Usec now)
{
	Try		   *try = &call->tries[0];
	TryStart	start;

	if (candidate->route->builtin != BUILTIN_NONE)
	{
		mark_next(call, candidate);
		call->candidate = candidate;
		call_set_state(call, CALL_LOCAL);
		return TRY_STARTED;
	}
	start = try_start(try, candidate, now);
	if (start != TRY_STARTED)
		return start;
	mark_next(call, candidate);
	router_mark_tried(&call->router, candidate);
	call->nattempts++;
	call->router.attempts++;
	call->router.no_trials |= try->reservation.trial;
	try->look_at = 0;
	set_silence_timers(call, now);
	call_set_state(call, CALL_SENDING);
	return TRY_STARTED;
}

/* Pauses a call until a time at which its candidate is asked again. */
static void
pause_call(Call *call, const Candidate *candidate, Usec until)
{
	call->candidate = candidate;
	call->wake = until;
	call_set_state(call, CALL_PAUSED);
}

/* Asks somebody of the current tier who has not been asked. */
static bool
ask_in_tier(Call *call, Usec now)
{
	Router	   *router = &call->router;
	const Candidate *candidate;
	int			races = 0;

	while ((candidate = router_pick(router, now)) != NULL)
	{
		TryStart	start = call_begin_attempt(call, candidate, now);

		if (start == TRY_STARTED)
			return true;
		if (start == TRY_REFUSED && ++races <= MAX_RACES)
			router_bar(router, candidate, NULL);
	}
	return false;
}

/*
 * Asks somebody of the current tier once more, now or after a pause, who has
 * failed in a way that allows it, as far as the retry budget goes.
 */
static bool
retry_in_tier(Call *call, Usec now)
{
	Router	   *router = &call->router;
	const Candidate *candidate;

	while ((candidate = router_pick_retry(router)) != NULL)
	{
		Usec		at = router_retry_at(router, candidate);

		if (at >= call->deadline ||
			!health_take_retry(&candidate->target->health, now))
			continue;
		if (at > now)
			pause_call(call, candidate, at);
		else if (call_begin_attempt(call, candidate, now) != TRY_STARTED)
			continue;
		return true;
	}
	return false;
}

/*
 * Says whether a provider's candidate of a later tier may and can take this
 * call now.
 */
static bool
fallback_has_model(const Call *call, Usec now)
{
	const Tier *tier = call->router.tier;
	HealthCheck check;

	for (int seen = call->router.tiers_seen; seen < call->config->ntiers; seen++)
	{
		tier = tier->fallback;
		if (tier == NULL)
			break;
		for (int i = 0; i < tier->ncandidates; i++)
		{
			const Candidate *candidate = &tier->candidates[i];

			if (candidate->target == NULL ||
				router_why_out(&call->router, candidate) != NULL)
				continue;
			health_check(&candidate->target->health, 0,
						 call->router.needs.leave, now, &check);
			if (check.verdict != HEALTH_OUT)
				return true;
		}
	}
	return false;
}

/*
 * Waits for a limit of ours that keeps a candidate of the current tier out,
 * unless a model of a later tier can answer at once. At most until half of the
 * call's time is over: the rest is for its attempt, and for the fallback. A
 * task does not wait here, where it holds a place, but in its queue.
 */
static bool
wait_in_tier(Call *call, Usec now)
{
	Usec		at;
	const Candidate *candidate = router_first_chance(&call->router, true,
													 now, &at);

	if (candidate == NULL || call->spec.background ||
		at >= call->started + (call->deadline - call->started) / 2 ||
		(call->spec.allow_degraded && fallback_has_model(call, now)))
		return false;
	pause_call(call, candidate, at);
	return true;
}

/*
 * Looks in the current tier for somebody to ask, now or later. False when the
 * tier is used up.
 */
static bool
route_in_tier(Call *call, Usec now)
{
	Router	   *router = &call->router;

	if (router->attempts >= router->tier->max_attempts)
		router->needs.providers_off = "max_attempts of the tier is reached";
	if (ask_in_tier(call, now))
		return true;
	if (router->needs.providers_off)
		return false;
	return retry_in_tier(call, now) || wait_in_tier(call, now);
}

/* Says whether the deadline leaves no time for another attempt. */
static bool
time_is_up(const Call *call, Usec now)
{
	return now + ATTEMPT_MIN_TIME >= call->deadline;
}

/*
 * Returns what keeps providers out from here on, apart from attempts in a
 * tier, or NULL.
 */
const char *
call_providers_off(const Call *call, Usec now)
{
	if (!llm_enabled)
		return "llm_failover is switched off";
	if (time_is_up(call, now))
		return "no time is left";
	return NULL;
}

/* Counts the attempts at providers that were made in a tier. */
static int
attempts_in_tier(const Call *call, const Tier *tier)
{
	int			n = 0;

	for (int i = 0; i < call->ntrace; i++)
		if (call->trace[i].tier == tier && call->trace[i].candidate->region)
			n++;
	return n;
}

/*
 * Waits for the one that will be admitted first, once the whole chain is used
 * up. False when only limits and throttling end before the deadline, and there
 * are none. The chain is not walked a second time.
 */
static bool
wait_for_later(Call *call, Usec now)
{
	Later		later = call->later;

	if (later.candidate == NULL || call->spec.background ||
		later.at >= call->deadline ||
		call_providers_off(call, now) ||
		attempts_in_tier(call, later.tier) >= later.tier->max_attempts)
		return false;
	call->later.candidate = NULL;
	router_revisit(&call->router, later.tier);
	call->router.attempts = attempts_in_tier(call, later.tier);
	pause_call(call, later.candidate, Max(later.at, now));
	return true;
}

/* Says whether a chain has a provider's candidate at all. */
static bool
chain_has_provider(const Call *call)
{
	const Tier *tier = call->spec.tier;

	for (int seen = 0; tier && seen < call->config->ntiers; seen++)
	{
		for (int i = 0; i < tier->ncandidates; i++)
			if (tier->candidates[i].region)
				return true;
		tier = call->spec.allow_degraded ? tier->fallback : NULL;
	}
	return false;
}

/* Decides which error tells most when nobody answered. */
CallError
call_error(const Call *call, Usec now)
{
	if (call->refusal >= 0)
		return CALL_REFUSED;
	if (!llm_enabled && chain_has_provider(call))
		return CALL_SWITCHED_OFF;
	if (time_is_up(call, now))
		return CALL_TIMED_OUT;
	if (call->unsayable && call->nattempts == 0)
		return CALL_UNSAYABLE;
	if (call->problem && call->nattempts == 0)
		return CALL_MISCONFIGURED;
	return CALL_NO_ANSWER;
}

/*
 * Remembers what of a used-up tier could not work at all: the tables refuse
 * it, but a restore or a replica may bring it.
 */
static void
note_problems(Call *call, const Tier *tier)
{
	for (int i = 0; i < tier->ncandidates; i++)
		if (tier->candidates[i].problem && tier->candidates[i].route->enabled)
			call_misconfigured(call, tier->candidates[i].problem, NULL);
	if (tier->fallback_name && tier->fallback == NULL)
		call_misconfigured(call,
						   psprintf("tier \"%s\" falls back to \"%s\", which does not exist",
									tier->name, tier->fallback_name), NULL);
}

/* Remembers in words who of a provider's was not asked, for its health. */
static void
note_not_asked(Call *call, Usec now)
{
	const Router *router = &call->router;
	MemoryContext old = MemoryContextSwitchTo(call->context);

	for (int i = 0; i < router->tier->ncandidates; i++)
	{
		const Candidate *candidate = &router->tier->candidates[i];
		const char *why = router_why_unwell(router, candidate, now);

		if (why == NULL || call->nnot_asked == MAX_NOT_ASKED)
			continue;
		call->not_asked[call->nnot_asked++] =
			psprintf("%s/%s/%s: %s", candidate->route->provider_name,
					 candidate->region->name, candidate->route->model_name,
					 why);
	}
	MemoryContextSwitchTo(old);
}

/* Remembers what may explain an end without an answer, or mend it. */
static void
leave_tier(Call *call, Usec now)
{
	const Tier *tier = call->router.tier;
	Usec		at;
	const Candidate *later = router_first_chance(&call->router, false,
												 now, &at);

	note_problems(call, tier);
	if (call->router.used_up)
		return;
	if (later)
		note_later(call, later, tier, at);
	note_not_asked(call, now);
}

/* Goes on until somebody is asked or nobody is left. */
static void
route(Call *call, Usec now)
{
	Assert(call->state == CALL_ROUTING);
	call->router.needs.leave = call->spec.background ? llm_sync_reserve : 0;
	for (;;)
	{
		call->router.needs.providers_off = call_providers_off(call, now);
		if (route_in_tier(call, now))
			return;
		leave_tier(call, now);
		if (!call->spec.allow_degraded || !router_next_tier(&call->router))
			break;
	}
	if (wait_for_later(call, now))
		return;
	call_fail(call, call_error(call, now), now);
}

/* Goes on with somebody else. */
void
call_route_on(Call *call, Usec now)
{
	call_set_state(call, CALL_ROUTING);
	route(call, now);
}

/* Asks after a pause, unless the time is up or we were switched off. */
void
call_end_pause(Call *call, Usec now)
{
	call->wake = USEC_NEVER;
	if (call_providers_off(call, now) ||
		call_begin_attempt(call, call->candidate, now) != TRY_STARTED)
		call_route_on(call, now);
}
