/*
 * book.c
 *	  What the end of an attempt means for the health of its scopes, and of a
 *	  call for the counts of its tier.
 *
 * The outcome table says whether an attempt counts, and against whom. Here it
 * is put into the words of health.h, which knows neither outcomes nor HTTP.
 */
#include "postgres.h"

#include "call_impl.h"
#include "catalog/secret.h"
#include "health/shared.h"

/* Says whether a region has a key of its own. */
static bool
has_own_key(const Region *region)
{
	const char *key = region->secret;
	const char *common = region->provider->secret;

	return key && (common == NULL || strcmp(key, common) != 0);
}

/*
 * Returns whom an outcome at a candidate speaks of. What is said of a key is
 * said of all regions that use it: of one alone where it has its own.
 */
OutcomeScope
blamed_scope(const Candidate *candidate, Outcome outcome, TransferEnd end)
{
	OutcomeScope scope = outcome_scope(outcome, end);

	if (scope == SCOPE_PROVIDER && has_own_key(candidate->region))
		return SCOPE_REGION;
	return scope;
}

/* Returns the cell's scope of a blamed one. */
static CellScope
cell_scope(OutcomeScope scope)
{
	return scope == SCOPE_PROVIDER ? CELL_PROVIDER :
		scope == SCOPE_REGION ? CELL_REGION : CELL_TARGET;
}

/*
 * Says whether it may be the request's own doing that an attempt failed: a few
 * tokens that a model has spent on reasoning, or parameters of the call's that
 * name what the provider does not have. Whoever may call could shut a model for
 * all others by that.
 */
static bool
may_be_own_doing(const Call *call, Outcome outcome, const Reply *reply)
{
	if (outcome == OUTCOME_INVALID_OUTPUT)
		return reply->kind == REPLY_EMPTY && reply->finish == FINISH_LENGTH;
	return outcome_rules[outcome].scope == SCOPE_MODEL &&
		call->spec.chat.params != NULL;
}

/* Returns what an outcome says of health. */
static HealthKind
kind_of(const Call *call, Outcome outcome, const Reply *reply)
{
	if (outcome == OUTCOME_OK)
		return RESULT_SUCCESS;
	if (outcome == OUTCOME_CANCELLED || outcome == OUTCOME_OWN_LIMIT)
		return RESULT_NOTHING;
	if (may_be_own_doing(call, outcome, reply))
		return RESULT_ANSWERED;
	switch (outcome_rules[outcome].count)
	{
		case COUNTS_FAILURE:
			return RESULT_FAILURE;
		case COUNTS_THROTTLE:
			return RESULT_THROTTLED;
		case COUNTS_TRIP:
			return RESULT_TRIP;
		case COUNTS_NOT:
			break;
	}
	return RESULT_ANSWERED;
}

/* Takes back what the breakers of others counted in an outage of ours. */
static void
forgive(const CellRef *cells, int n, Usec now)
{
	for (int i = 0; i < n; i++)
		health_forgive(cells[i], NETWORK_WINDOW, now);
	if (n > 0 && network_should_say(shared_network(), now))
		ereport(LOG_SERVER_ONLY,
				(errmsg("llm_failover: no provider can be reached: the network of this server is taken for the cause"),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * Says whether a transfer failed for our own network: see network.h. Tells it
 * of what was reached, too.
 */
static bool
is_our_network(const Try *try, Usec now)
{
	const Transfer *transfer = try->transfer;
	CellRef		region = try->reservation.cells[CELL_REGION];
	CellRef		mine[NETWORK_MEMORY];
	int			nmine = 0;
	bool		ours;

	if (transfer->reached)
	{
		network_reached(shared_network(), now);
		return false;
	}
	if (transfer->end != TRANSFER_NO_NAME &&
		transfer->end != TRANSFER_NO_CONNECTION &&
		transfer->end != TRANSFER_CONNECT_TIMEOUT)
		return false;
	if (!cell_is_shared(region))
		region.cell = NULL;
	ours = network_failed(shared_network(), try->candidate->region->host,
						  region, now, mine, &nmine);
	forgive(mine, nmine, now);
	return ours;
}

/* Books what is said of a model to its targets in other regions, too. */
static void
trip_model(const Try *try, const HealthResult *result, Usec now)
{
	const Model *model = try->candidate->route->model;

	for (int i = 0; i < model->ntargets; i++)
	{
		const Target *target = model->targets[i];
		HealthResult its = *result;

		if (target == try->candidate->target)
			continue;
		its.fingerprint = secret_fingerprint(try->call->config,
											 target->region, CELL_TARGET);
		health_trip(target->health.cells[CELL_TARGET], &its, now);
	}
}

/* Returns why in a few words, as a view shows them. */
static const char *
reason_of(const Attempt *attempt)
{
	const char *name = outcome_rules[attempt->outcome].name;

	if (attempt->status > 0)
		return psprintf("%d %s", attempt->status, name);
	return attempt->error ? attempt->error : name;
}

/* Returns the tokens that a reply tells, or -1. */
static int64
tokens_of(const Reply *reply)
{
	if (reply->input_tokens < 0 && reply->output_tokens < 0)
		return -1;
	return Min(Max(reply->input_tokens, 0), PG_INT32_MAX) +
		Min(Max(reply->output_tokens, 0), PG_INT32_MAX);
}

/* Books the end of a try; its outcome stands in the trace already. */
void
try_book(Try *try, const Attempt *attempt, const Reply *reply, Usec now)
{
	Outcome		outcome = attempt->outcome;
	HealthKind	kind = kind_of(try->call, outcome, reply);
	OutcomeScope scope = blamed_scope(try->candidate, outcome,
									  try->transfer->end);
	HealthResult result = {
		.kind = kind,
		.scope = cell_scope(scope),
		.failed = kind == RESULT_FAILURE || kind == RESULT_TRIP ||
		kind == RESULT_THROTTLED,
		.our_network = is_our_network(try, now),
		.open_for = outcome_rules[outcome].open_for,
		.retry_after = reply->retry_after_ms * USEC_MSEC,
		.tokens = tokens_of(reply),
		.requests_left = reply->requests_left,
		.tokens_left = reply->tokens_left,
	};

	if (result.failed)
		result.reason = reason_of(attempt);
	if (kind == RESULT_TRIP)
		result.fingerprint = secret_fingerprint(try->call->config,
												try->candidate->region,
												result.scope);
	health_settle(&try->reservation, &result, now);
	if (kind == RESULT_TRIP && scope == SCOPE_MODEL)
		trip_model(try, &result, now);
}

/*
 * Gives up an attempt that is under way. It blames nobody, unless another has
 * answered meanwhile (`outrun`) and this one was silent for so long that it
 * would weigh as a failure: hedges must not hide that a provider hangs. Its input is
 * counted all the same.
 */
void
try_cancel(Try *try, bool outrun, Usec now)
{
	Call	   *call = try->call;
	Attempt    *attempt = call_add_attempt(call, try->tier, try->candidate,
										   OUTCOME_CANCELLED);
	HealthResult result = {
		.kind = RESULT_NOTHING,
		.tokens = -1,
		.requests_left = {-1, -1, 0},
		.tokens_left = {-1, -1, 0},
	};

	attempt->ms = (now - try->transfer->started) / USEC_MSEC;
	attempt->hedge = try->hedge;
	attempt->cost_known = cost_add_abandoned(&attempt->cost,
											 try->candidate->route->model,
											 &call->router.needs.estimate);
	call_add_cost(call, attempt);
	if (outrun && health_is_overdue(&try->reservation, now))
	{
		result.kind = RESULT_FAILURE;
		result.scope = CELL_TARGET;
		result.failed = true;
		result.reason = psprintf("silent for " INT64_FORMAT " ms",
								 attempt->ms);
	}
	health_settle(&try->reservation, &result, now);
	try_release(try);
}

/* Counts the attempts of a call that were followed by another one. */
static void
count_next(const Call *call, Cell *cell)
{
	for (int i = 0; i < call->ntrace; i++)
	{
		const char *next = call->trace[i].next;

		if (next == NULL || call->trace[i].candidate->region == NULL ||
			call->trace[i].outcome == OUTCOME_CANCELLED)
			continue;
		cell_count(cell, strcmp(next, "retry") == 0 ? COUNT_RETRIES :
				   COUNT_FAILOVERS);
	}
}

/* Counts a call that has ended in the tier that was asked for. */
void
call_book(const Call *call)
{
	Cell	   *cell = cell_of(call->spec.tier->cell);

	if (cell == NULL || call->spec.only)
		return;
	cell_count(cell, COUNT_CALLS);
	if (call->error != CALL_ANSWERED)
		cell_count(cell, COUNT_FAILURES);
	else if (call->answer.degraded)
		cell_count(cell, COUNT_DEGRADED);
	pg_atomic_fetch_add_u64(&cell->counts[COUNT_ATTEMPTS], call->nattempts);
	pg_atomic_fetch_add_u64(&cell->counts[COUNT_HEDGES], call->nhedges);
	count_next(call, cell);
	latency_record(&cell->latency, call->ended - call->started, call->ended);
}
