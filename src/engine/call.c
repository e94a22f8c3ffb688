/*
 * call.c
 *	  The call's states and who may follow whom.
 *
 *	from		on						to
 *	NEW			call_start				ROUTING
 *	ROUTING		a provider's candidate	SENDING
 *	ROUTING		a builtin candidate		LOCAL
 *	ROUTING		somebody, but later		PAUSED
 *	ROUTING		nobody is left			ENDED
 *	SENDING		an answer, a refusal	ENDED
 *	SENDING		any other outcome		ROUTING, or SENDING while another runs
 *	SENDING		silence					SENDING, to a second one as well
 *	SENDING		a trial's silence,
 *				nobody beside it		ROUTING
 *	LOCAL		an answer				ENDED
 *	LOCAL		declined				ROUTING
 *	PAUSED		wake					SENDING or ROUTING
 *
 * Every change goes through call_set_state(). ROUTING is left again before a
 * function of this file returns.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/memutils.h"

#include "call_impl.h"
#include "settings.h"
#include "util/encoding.h"

static void call_reset_callback(void *arg);

/* Sets the state: the only place that does. */
void
call_set_state(Call *call, CallState state)
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
	call->wake = USEC_NEVER;
	call->cost_known = true;
	config_pin(config);
	callback->func = call_reset_callback;
	callback->arg = call;
	MemoryContextRegisterResetCallback(context, callback);
	call->scratch = AllocSetContextCreate(context, "llm_failover route",
										  ALLOCSET_SMALL_SIZES);
	for (int i = 0; i < MAX_TRIES; i++)
		call->tries[i].call = call;
	return call;
}

/*
 * Gives back what is not memory. The contexts below the call's own are gone by
 * now: PostgreSQL deletes children first.
 */
static void
call_reset_callback(void *arg)
{
	Call	   *call = arg;

	for (int i = 0; i < MAX_TRIES; i++)
		try_abort(&call->tries[i]);
	config_unpin(call->config);
}

/*
 * Aborts what a call waits for and returns what it has reserved. Nothing but
 * call_free() may follow.
 */
void
call_abandon(Call *call)
{
	for (int i = 0; i < MAX_TRIES; i++)
		try_release(&call->tries[i]);
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
	for (int i = 0; i < MAX_TRIES; i++)
		if (try_is_running(&call->tries[i]))
			try_cancel(&call->tries[i], false, now);
	call->ended = now;
	call_set_state(call, CALL_ENDED);
	call_book(call);
	MemoryContextReset(call->scratch);
	memset(&call->router, 0, sizeof(call->router));
}

/* Ends a call without an answer. */
void
call_fail(Call *call, CallError error, Usec now)
{
	call->error = error;
	end_call(call, now);
}

/* Remembers the first configuration that cannot work. Always false. */
bool
call_misconfigured(Call *call, const char *problem, const char *hint)
{
	if (call->problem == NULL)
	{
		call->problem = MemoryContextStrdup(call->context, problem);
		if (hint)
			call->problem_hint = MemoryContextStrdup(call->context, hint);
	}
	return false;
}

/* Appends an element to the trace. */
Attempt *
call_add_attempt(Call *call, const Tier *tier, const Candidate *candidate,
				 Outcome outcome)
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
		.tier = tier,
		.candidate = candidate,
		.outcome = outcome,
		.reasoning_tokens = -1,
		.cost_known = true,
	};
	return attempt;
}

/* Adds the cost of an attempt to its call's. */
void
call_add_cost(Call *call, const Attempt *attempt)
{
	if (!attempt->cost_known ||
		pg_add_s64_overflow(call->cost, attempt->cost, &call->cost))
		call->cost_known = false;
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
		.estimate = estimate_request(spec->chat.prompt_len,
									 spec->chat.max_tokens),
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
		call_fail(call, CALL_NO_RESIDENCY, now);
		return;
	}
	old = MemoryContextSwitchTo(call->scratch);
	router_start(&call->router, call->config, spec->tier, &needs);
	if (spec->only == NULL)
		call_route_on(call, now);
	else if (needs.providers_off ||
			 call_begin_attempt(call, spec->only, now) != TRY_STARTED)
		call_fail(call, call_error(call, now), now);
	MemoryContextSwitchTo(old);
}

/* Goes on with a call whose time `wake` has come. */
void
call_wake(Call *call, Usec now)
{
	MemoryContext old = MemoryContextSwitchTo(call->scratch);

	if (call->state == CALL_PAUSED)
		call_end_pause(call, now);
	else
		mind_silence(call, now);
	MemoryContextSwitchTo(old);
}

/* Takes the answer of a model. */
static void
take_answer(Try *try, Attempt *attempt, const Reply *reply)
{
	Call	   *call = try->call;
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
	answer->candidate = try->candidate;
	answer->tier = try->tier;
	answer->source = "model";
	answer->degraded = answer->tier != call->spec.tier;
	answer->input_tokens = reply->input_tokens;
	answer->output_tokens = reply->output_tokens;
	answer->cached_tokens = reply->cached_tokens;
	MemoryContextSwitchTo(old);
}

/*
 * Gives up the attempt that lost against the one which answered. In the trace
 * it stands before the answer, which is last.
 */
static void
cancel_loser(Try *winner, Usec now)
{
	Call	   *call = winner->call;
	Try		   *loser = call_other_try(winner);
	Attempt		answer;

	if (loser == NULL)
		return;
	try_cancel(loser, true, now);
	answer = call->trace[call->ntrace - 2];
	call->trace[call->ntrace - 2] = call->trace[call->ntrace - 1];
	call->trace[call->ntrace - 2].next = "candidate";
	call->trace[call->ntrace - 1] = answer;
}

/* Goes on after a failure, unless the request itself was at fault. */
static void
go_on(Call *call, const Candidate *failed, Outcome outcome, Usec now)
{
	bool		over = !may_go_on(call, failed, outcome) || call->spec.only;
	Attempt    *attempt = &call->trace[call->ntrace - 1];
	bool		another = false;

	for (int i = 0; i < MAX_TRIES; i++)
		another |= try_is_running(&call->tries[i]);
	if (over)
		call_fail(call, call_error(call, now), now);
	else if (another)
	{
		attempt->next = "candidate";
		set_silence_timers(call, now);
	}
	else
		call_route_on(call, now);
}

/* Returns a count of tokens that a provider tells; 0 when it does not. */
static int64
told(int64 tokens)
{
	return Min(Max(tokens, 0), PG_INT32_MAX);
}

/* Takes what an attempt has used, for itself and for its call. */
static void
take_usage(Try *try, Attempt *attempt, const Reply *reply)
{
	attempt->input_tokens = told(reply->input_tokens);
	attempt->output_tokens = told(reply->output_tokens);
	attempt->cached_tokens = told(reply->cached_tokens);
	attempt->cost_known = cost_add_reply(&attempt->cost,
										 try->candidate->route->model, reply);
	call_add_cost(try->call, attempt);
}

/* Takes the end of the transfer of one of a call's attempts. */
void
call_transfer_ended(Try *try, Usec now)
{
	Call	   *call = try->call;
	const Candidate *candidate = try->candidate;
	Attempt    *attempt = call_add_attempt(call, try->tier, candidate,
										   OUTCOME_OK);
	MemoryContext old = MemoryContextSwitchTo(try->context);
	Reply		reply;
	Outcome		outcome;

	Assert(call->state == CALL_SENDING);
	outcome = try_read(try, attempt, &reply);
	take_usage(try, attempt, &reply);
	try_book(try, attempt, &reply, now);
	if (outcome == OUTCOME_OK)
	{
		take_answer(try, attempt, &reply);
		cancel_loser(try, now);
	}
	else
		follow_failure(try, outcome, &reply, now);
	MemoryContextSwitchTo(call->scratch);
	try_release(try);
	if (outcome == OUTCOME_OK)
		end_call(call, now);
	else
		go_on(call, candidate, outcome, now);
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
	attempt = call_add_attempt(call, call->router.tier, call->candidate,
							   local->text ? OUTCOME_OK : OUTCOME_DECLINED);
	if (local->text)
		answer_locally(call, local, now);
	else
	{
		attempt->error = MemoryContextStrdup(call->context, local->reason);
		call_route_on(call, now);
	}
	MemoryContextSwitchTo(old);
}
