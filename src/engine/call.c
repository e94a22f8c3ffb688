/*
 * call.c
 *	  The call's states and who may follow whom.
 *
 *	from		on						to
 *	NEW			call_start				ROUTING
 *	ROUTING		a provider's candidate	SENDING
 *	ROUTING		a builtin candidate		LOCAL
 *	ROUTING		only a later retry		PAUSED
 *	ROUTING		nobody is left			ENDED
 *	SENDING		an answer, a refusal	ENDED
 *	SENDING		any other outcome		ROUTING
 *	LOCAL		an answer				ENDED
 *	LOCAL		declined				ROUTING
 *	PAUSED		wake					SENDING or ROUTING
 *
 * Every change goes through set_state(). ROUTING is left again before a
 * function of this file returns.
 */
#include "postgres.h"

#include "common/int.h"
#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "call.h"
#include "settings.h"
#include "util/encoding.h"

/*
 * Retries of a target wait U(0, min(cap, base × 2^n)): "full jitter", M.
 * Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
 */
#define BACKOFF_BASE	(250 * USEC_MSEC)
#define BACKOFF_CAP		(8 * USEC_SEC)

/* A provider that says "too many requests" is left alone at least so long. */
#define THROTTLE_FLOOR	(1 * USEC_SEC)

/* With less time left than this no provider is asked any more. */
#define ATTEMPT_MIN_TIME	(2 * USEC_MSEC)

static void call_reset_callback(void *arg);

/* Sets the state: the only place that does. */
static void
set_state(Call *call, CallState state)
{
	Assert(call->state != CALL_ENDED);
	call->state = state;
}

/*
 * Makes a call in a memory context of its own below `parent`. Whatever ends
 * that context releases the transfer and the configuration.
 */
Call *
call_create(const CallSpec *spec, Config *config, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "llm_failover call",
												  ALLOCSET_SMALL_SIZES);
	Call	   *call = MemoryContextAllocZero(context, sizeof(Call));
	MemoryContextCallback *callback =
		MemoryContextAllocZero(context, sizeof(MemoryContextCallback));

	call->context = context;
	call->spec = *spec;
	call->config = config;
	call->refusal = -1;
	call->cost_known = true;
	config_pin(config);
	callback->func = call_reset_callback;
	callback->arg = call;
	MemoryContextRegisterResetCallback(context, callback);
	call->scratch = AllocSetContextCreate(context, "llm_failover route",
										  ALLOCSET_SMALL_SIZES);
	call->attempt = AllocSetContextCreate(context, "llm_failover attempt",
										  ALLOCSET_DEFAULT_SIZES);
	return call;
}

/* Gives back what is not memory. */
static void
call_reset_callback(void *arg)
{
	Call	   *call = arg;

	call_abandon(call);
	config_unpin(call->config);
}

/* Aborts what a call waits for. Nothing but call_free() may follow. */
void
call_abandon(Call *call)
{
	transport_release(call->transfer);
	call->transfer = NULL;
}

/* Frees a call, in whatever state it is. */
void
call_free(Call *call)
{
	MemoryContextDelete(call->context);
}

/* Ends a call. What only attempts needed is gone, the result stays. */
static void
end_call(Call *call, Usec now)
{
	call->ended = now;
	set_state(call, CALL_ENDED);
	attempt_forget(call);
	MemoryContextReset(call->scratch);
	memset(&call->router, 0, sizeof(call->router));
}

/* Ends a call without an answer. */
static void
fail_call(Call *call, CallError error, Usec now)
{
	call->error = error;
	end_call(call, now);
}

/* Appends an element to the trace. */
static Attempt *
add_attempt(Call *call, Outcome outcome)
{
	Attempt    *attempt;

	if (call->ntrace == call->max_trace)
	{
		int			room = Max(4, call->max_trace * 2);
		Attempt    *trace = MemoryContextAlloc(call->context,
											   room * sizeof(Attempt));

		if (call->ntrace > 0)
			memcpy(trace, call->trace, call->ntrace * sizeof(Attempt));
		call->trace = trace;
		call->max_trace = room;
	}
	attempt = &call->trace[call->ntrace++];
	*attempt = (Attempt) {
		.tier = call->router.tier,
		.candidate = call->candidate,
		.outcome = outcome,
		.reasoning_tokens = -1,
	};
	return attempt;
}

/* Writes into the last element of the trace what is done after it. */
static void
mark_next(Call *call, const Candidate *candidate)
{
	Attempt    *last;

	if (call->ntrace == 0)
		return;
	last = &call->trace[call->ntrace - 1];
	if (last->tier != call->router.tier)
		last->next = "tier";
	else if (last->candidate == candidate)
		last->next = "retry";
	else
		last->next = "candidate";
}

/*
 * Begins an attempt. False when this candidate cannot be asked, which is
 * remembered and puts only the candidate out: see attempt_start().
 */
static bool
begin_attempt(Call *call, const Candidate *candidate, Usec now)
{
	call->candidate = candidate;
	if (candidate->route->builtin != BUILTIN_NONE)
	{
		mark_next(call, candidate);
		set_state(call, CALL_LOCAL);
		return true;
	}
	if (!attempt_start(call, candidate, now))
		return false;
	mark_next(call, candidate);
	call->nattempts++;
	call->router.attempts++;
	set_state(call, CALL_SENDING);
	return true;
}

/* Pauses a call until a time at which its candidate is asked again. */
static void
pause_call(Call *call, const Candidate *candidate, Usec until)
{
	call->candidate = candidate;
	call->wake = until;
	set_state(call, CALL_PAUSED);
}

/*
 * Looks in the current tier for somebody to ask, now or later. False when the
 * tier is used up.
 */
static bool
route_in_tier(Call *call, Usec now)
{
	Router	   *router = &call->router;
	const Candidate *candidate;

	if (router->attempts >= router->tier->max_attempts)
		router->needs.providers_off = "max_attempts of the tier is reached";
	while ((candidate = router_pick(router)) != NULL)
		if (begin_attempt(call, candidate, now))
			return true;
	if (router->needs.providers_off)
		return false;
	while ((candidate = router_pick_retry(router)) != NULL)
	{
		Usec		at = router_retry_at(router, candidate);

		if (at >= call->deadline)
			continue;
		if (at > now)
			pause_call(call, candidate, at);
		else if (!begin_attempt(call, candidate, now))
			continue;
		return true;
	}
	return false;
}

/* Says whether the deadline leaves no time for another attempt. */
static bool
time_is_up(const Call *call, Usec now)
{
	return now + ATTEMPT_MIN_TIME >= call->deadline;
}

/* What keeps providers out from here on, apart from attempts in a tier. */
static const char *
why_providers_off(const Call *call, Usec now)
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
 * Waits for the one that said when it may be asked again, once the whole chain
 * is used up. False when nobody did, or the deadline comes first. The chain is
 * not walked a second time.
 */
static bool
wait_for_throttled(Call *call, Usec now)
{
	const Candidate *candidate = call->throttled;
	const Tier *tier = call->throttled_tier;

	if (candidate == NULL || call->throttled_until >= call->deadline ||
		why_providers_off(call, now) ||
		attempts_in_tier(call, tier) >= tier->max_attempts)
		return false;
	call->throttled = NULL;
	call->router.tier = tier;
	call->router.used_up = true;
	call->router.needs.providers_off = NULL;
	call->router.states = palloc0(call->router.tier->ncandidates *
								  sizeof(CandidateState));
	for (int i = 0; i < call->router.tier->ncandidates; i++)
		call->router.states[i].tried = true;
	pause_call(call, candidate, Max(call->throttled_until, now));
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
static CallError
error_of_call(const Call *call, Usec now)
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

/* Goes on until somebody is asked or nobody is left. */
static void
route(Call *call, Usec now)
{
	Assert(call->state == CALL_ROUTING);
	for (;;)
	{
		call->router.needs.providers_off = why_providers_off(call, now);
		if (route_in_tier(call, now))
			return;
		note_problems(call, call->router.tier);
		if (!call->spec.allow_degraded || !router_next_tier(&call->router))
			break;
	}
	if (wait_for_throttled(call, now))
		return;
	fail_call(call, error_of_call(call, now), now);
}

/* Begins the walk, or ends at once where no walk is allowed. */
void
call_start(Call *call, Usec now)
{
	const CallSpec *spec = &call->spec;
	RouteNeeds	needs = {
		.nlabels = spec->nlabels,
		.labels = spec->labels,
		.residency = spec->residency,
		.capabilities = spec->chat.needs,
		.min_tokens = spec->chat.prompt_len / PROMPT_MAX_BYTES_PER_TOKEN,
		.providers_off = llm_enabled ? NULL : "llm_failover is switched off",
	};
	MemoryContext old;

	Assert(call->state == CALL_NEW);
	call->started = now;
	call->deadline = Min(now + spec->timeout, spec->deadline);
	if (!router_satisfies_residency(call->config, spec->tier,
									spec->allow_degraded,
									spec->nlabels, spec->labels))
	{
		fail_call(call, CALL_NO_RESIDENCY, now);
		return;
	}
	old = MemoryContextSwitchTo(call->scratch);
	router_start(&call->router, spec->tier, &needs);
	set_state(call, CALL_ROUTING);
	if (spec->only == NULL)
		route(call, now);
	else if (needs.providers_off || !begin_attempt(call, spec->only, now))
		fail_call(call, error_of_call(call, now), now);
	MemoryContextSwitchTo(old);
}

/* Asks again after a pause, unless the time is up or we were switched off. */
void
call_resume(Call *call, Usec now)
{
	MemoryContext old = MemoryContextSwitchTo(call->scratch);

	Assert(call->state == CALL_PAUSED);
	if (why_providers_off(call, now) ||
		!begin_attempt(call, call->candidate, now))
	{
		set_state(call, CALL_ROUTING);
		route(call, now);
	}
	MemoryContextSwitchTo(old);
}

/* Adds the price of some tokens. False when the sum is beyond all reason. */
bool
call_add_price(Picodollars *cost, int64 tokens, Picodollars price)
{
	int64		added;

	return !pg_mul_s64_overflow(tokens, price, &added) &&
		!pg_add_s64_overflow(*cost, added, cost);
}

/*
 * Adds what an attempt has cost, where the provider told its tokens: numbers
 * that may be anything.
 */
static void
add_cost(Call *call, const Reply *reply)
{
	const Model *model = call->candidate->route->model;
	int64		cached = Max(reply->cached_tokens, 0);
	int64		input = Max(reply->input_tokens - cached, 0);
	int64		output = Max(reply->output_tokens, 0);
	bool		is_priced = model->input_price != PRICE_UNKNOWN &&
		model->output_price != PRICE_UNKNOWN;

	if (reply->input_tokens < 0 && reply->output_tokens < 0)
	{
		/* an answer that does not tell its tokens has an unknown cost */
		if (reply->kind == REPLY_ANSWER &&
			(model->input_price != 0 || model->output_price != 0))
			call->cost_known = false;
		return;
	}
	if (!is_priced ||
		!call_add_price(&call->cost, input, model->input_price) ||
		!call_add_price(&call->cost, output, model->output_price) ||
		!call_add_price(&call->cost, cached, model->cached_input_price))
		call->cost_known = false;
}

/* Ends a call with the answer of a model. */
static void
answer_call(Call *call, Attempt *attempt, const Reply *reply, Usec now)
{
	Answer	   *answer = &call->answer;
	MemoryContext old = MemoryContextSwitchTo(call->context);
	const char *text;

	if (reply->text)
	{
		text = utf8_to_text(reply->text, reply->text_len, &answer->text_len,
							&attempt->replaced);
		answer->text = text == reply->text ?
			pnstrdup(text, answer->text_len) : text;
	}
	answer->message = pstrdup(reply->message);
	answer->finish = reply->finish;
	answer->candidate = call->candidate;
	answer->tier = call->router.tier;
	answer->source = "model";
	answer->degraded = answer->tier != call->spec.tier;
	answer->input_tokens = reply->input_tokens;
	answer->output_tokens = reply->output_tokens;
	answer->cached_tokens = reply->cached_tokens;
	MemoryContextSwitchTo(old);
	end_call(call, now);
}

/* Returns the longest wait before the nth retry of a target. */
static Usec
backoff(int n)
{
	Usec		cap = Min(BACKOFF_CAP, BACKOFF_BASE << Min(n, 10));

	return (Usec) (pg_prng_double(&pg_global_prng_state) * cap);
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

/* Remembers who may be asked again first when nothing else can answer. */
static void
note_throttled(Call *call, int64 hint_ms, Usec now)
{
	Usec		wait = THROTTLE_FLOOR;
	int			n = times_asked(call, call->candidate);

	if (hint_ms > 0)
		wait = Max(wait, hint_ms * USEC_MSEC);
	else
		wait += backoff(n);
	if (call->throttled && call->throttled_until <= now + wait)
		return;
	call->throttled = call->candidate;
	call->throttled_tier = call->router.tier;
	call->throttled_until = now + wait;
}

/* Allows the retry that an outcome's row grants: one for each target. */
static void
allow_retry(Call *call, Outcome outcome, int64 hint_ms, Usec now)
{
	Usec		wait = 0;

	switch (outcome_rules[outcome].retry)
	{
		case RETRY_NEVER:
			return;
		case RETRY_AFTER_HINT:
			note_throttled(call, hint_ms, now);
			return;
		case RETRY_AFTER_JITTER:
			wait = Max(backoff(0), hint_ms * USEC_MSEC);
			break;
		case RETRY_AT_ONCE:
			break;
	}
	if (times_asked(call, call->candidate) < 2)
		router_allow_retry(&call->router, call->candidate, now + wait);
}

/* Says whether an outcome lets the call go on to somebody else. */
static bool
may_go_on(Call *call, Outcome outcome)
{
	switch (outcome_rules[outcome].next)
	{
		case NEXT_YES:
			return true;
		case NEXT_NO:
			/* cut short by the call's own deadline: builtin models are left */
			return outcome == OUTCOME_CANCELLED;
		case NEXT_LARGER_WINDOW:
			call->refusal = call->ntrace - 1;
			call->router.needs.larger_than = call->candidate->route->model;
			return true;
		case NEXT_IF_TIER_SAYS:
			call->refusal = call->ntrace - 1;
			return call->router.tier->content_filter_next;
	}
	return false;
}

/* Puts aside whom a failure speaks of, for the rest of the call. */
static void
put_aside(Call *call, OutcomeScope scope)
{
	FailedScope failed = {scope, call->candidate};

	router_failed(&call->router, &failed);
	if (call->throttled && router_covers(&failed, call->throttled))
		call->throttled = NULL;
}

/* Takes the end of the running transfer. */
void
call_transfer_ended(Call *call, Usec now)
{
	MemoryContext old = MemoryContextSwitchTo(call->attempt);
	Transfer   *transfer = call->transfer;
	TransferEnd end = transfer->end;
	Attempt    *attempt = add_attempt(call, OUTCOME_OK);
	Reply		reply;
	Outcome		outcome;

	Assert(call->state == CALL_SENDING);
	outcome = attempt_read(call, attempt, &reply);
	add_cost(call, &reply);
	if (outcome == OUTCOME_OK)
		answer_call(call, attempt, &reply, now);
	call->transfer = NULL;
	transport_release(transfer);
	MemoryContextSwitchTo(call->scratch);
	if (outcome != OUTCOME_OK)
	{
		attempt_forget(call);
		put_aside(call, outcome_scope(outcome, end));
		allow_retry(call, outcome, reply.retry_after_ms, now);
		if (call->spec.only || !may_go_on(call, outcome))
		{
			if (outcome_rules[outcome].next == NEXT_NO)
				call->refusal = call->ntrace - 1;
			fail_call(call, error_of_call(call, now), now);
		}
		else
		{
			set_state(call, CALL_ROUTING);
			route(call, now);
		}
	}
	MemoryContextSwitchTo(old);
}

/* Ends a call with the answer of a builtin model. */
static void
answer_locally(Call *call, const LocalAnswer *local, Usec now)
{
	Answer	   *answer = &call->answer;

	answer->text = MemoryContextStrdup(call->context, local->text);
	answer->text_len = strlen(answer->text);
	answer->finish = FINISH_STOP;
	answer->candidate = call->candidate;
	answer->tier = call->router.tier;
	answer->source = local->source;
	answer->degraded = answer->tier != call->spec.tier;
	answer->input_tokens = answer->output_tokens = -1;
	answer->cached_tokens = -1;
	end_call(call, now);
}

/* Takes what a builtin model said. */
void
call_local_done(Call *call, const LocalAnswer *local, Usec now)
{
	MemoryContext old = MemoryContextSwitchTo(call->scratch);
	Attempt    *attempt;

	Assert(call->state == CALL_LOCAL);
	attempt = add_attempt(call, local->text ? OUTCOME_OK : OUTCOME_DECLINED);
	if (local->text)
		answer_locally(call, local, now);
	else
	{
		attempt->error = MemoryContextStrdup(call->context, local->reason);
		set_state(call, CALL_ROUTING);
		route(call, now);
	}
	MemoryContextSwitchTo(old);
}
