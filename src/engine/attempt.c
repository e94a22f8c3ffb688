/*
 * attempt.c
 *	  One try at one target: the request that goes out, and what the end of
 *	  its transfer means.
 *
 * A key passes through here on its way into the header list; whatever a
 * provider says is scrubbed of it before anybody else sees it.
 */
#include "postgres.h"

#include "catalog/secret.h"
#include "utils/memutils.h"

#include "call_impl.h"
#include "util/encoding.h"

/* The longest text of a provider that is passed on, in bytes. */
#define MAX_PROVIDER_TEXT 500

/* So much longer than its timeout an attempt may hold a trial's permit. */
#define LEASE_GRACE (5 * USEC_SEC)

/* Remembers why a dialect could not say what is asked. Always false. */
static bool
unsayable(Call *call, const char *why)
{
	if (call->unsayable == NULL)
		call->unsayable = MemoryContextStrdup(call->context, why);
	return false;
}

/* Leaves nothing of a key in memory that is about to be freed. */
static void
wipe_key(void *key)
{
	explicit_bzero(key, strlen(key));
}

/*
 * Resolves a reference to a key, as UTF-8, and remembers it for scrubbing.
 * NULL when it cannot be resolved, which is remembered.
 */
static const char *
resolve(Try *try, const char *reference)
{
	Call	   *call = try->call;
	const char *problem;
	const char *hint = NULL;
	const char *word;
	MemoryContextCallback *wipe;
	const char *key = secret_resolve(call->config, reference, &problem, &hint);

	if (key == NULL)
	{
		call_misconfigured(call, problem, hint);
		return NULL;
	}
	key = pstrdup(key);
	wipe = palloc(sizeof(*wipe));
	wipe->func = wipe_key;
	wipe->arg = unconstify(char *, key);
	MemoryContextRegisterResetCallback(try->context, wipe);
	try->secrets = lappend(try->secrets, unconstify(char *, key));
	/* of "Bearer KEY" in a header a provider may repeat the second word only */
	word = strrchr(key, ' ');
	if (word)
		try->secrets = lappend(try->secrets, unconstify(char *, word + 1));
	return key;
}

/* Resolves the provider's additional headers. */
static bool
resolve_headers(Try *try, const Provider *provider, Endpoint *endpoint)
{
	ExtraHeader *headers;

	if (provider->nheaders == 0)
		return true;
	headers = palloc(provider->nheaders * sizeof(ExtraHeader));
	for (int i = 0; i < provider->nheaders; i++)
	{
		const ConfigHeader *from = &provider->headers[i];

		headers[i].name = from->name;
		headers[i].value = secret_is_reference(from->value) ?
			resolve(try, from->value) : from->value;
		if (headers[i].value == NULL)
			return false;
	}
	endpoint->headers = headers;
	endpoint->nheaders = provider->nheaders;
	return true;
}

/* Puts together whom to ask, with inheritance done and keys resolved. */
static bool
resolve_endpoint(Try *try, Endpoint *endpoint)
{
	const Route *route = try->candidate->route;
	const Region *region = try->candidate->region;

	*endpoint = (Endpoint) {
		.base_url = region->base_url,
		.model = route->model_utf8,
		.capabilities = route->model->capabilities,
		.max_output_tokens = route->model->max_output_tokens,
		.region_params = region->params,
		.route_params = route->params,
	};
	if (region->secret)
	{
		endpoint->secret = resolve(try, region->secret);
		if (endpoint->secret == NULL)
			return false;
	}
	return resolve_headers(try, route->provider, endpoint);
}

/* The shorter of what the tier allows and what the deadline leaves. */
static TransferLimits
limits_of(Try *try, Usec now)
{
	const Tier *tier = try->tier;
	Usec		left = try->call->deadline - now;

	try->cut_by_deadline = left < tier->attempt_timeout;
	return (TransferLimits) {
		.connect_timeout = tier->connect_timeout,
		.first_byte_timeout = tier->first_byte_timeout,
		.timeout = Min(tier->attempt_timeout, left),
	};
}

/* Says whether an attempt is under way. */
bool
try_is_running(const Try *try)
{
	return try->transfer != NULL;
}

/* Returns the attempt that runs beside this one, or NULL. */
Try *
call_other_try(Try *try)
{
	for (int i = 0; i < MAX_TRIES; i++)
		if (&try->call->tries[i] != try && try_is_running(&try->call->tries[i]))
			return &try->call->tries[i];
	return NULL;
}

/* Returns a try that nobody uses, or NULL. */
Try *
call_free_try(Call *call)
{
	for (int i = 0; i < MAX_TRIES; i++)
		if (!try_is_running(&call->tries[i]))
			return &call->tries[i];
	return NULL;
}

/* Gives back what of an attempt is not memory, which may be gone already. */
void
try_abort(Try *try)
{
	transport_release(try->transfer);
	try->transfer = NULL;
	health_release(&try->reservation);
}

/*
 * Gives back all that an attempt holds: its transfer, which ends, its
 * reservation, and its memory, which wipes the keys in it. A response may take
 * ten times its size to read, so no two attempts' are kept. Harmless twice.
 */
void
try_release(Try *try)
{
	try_abort(try);
	try->candidate = NULL;
	try->secrets = NIL;
	if (try->context)
		MemoryContextReset(try->context);
}

/* Wipes the headers of a request that the transport has a copy of. */
static void
forget_headers(HttpRequest *request)
{
	for (int i = 0; i < request->nheaders; i++)
		explicit_bzero(request->headers[i], strlen(request->headers[i]));
}

/* Sends a request; the current context is the try's. */
static bool
send_request(Try *try, const TransferLimits *limits)
{
	Call	   *call = try->call;
	const Provider *provider = try->candidate->route->provider;
	Endpoint	endpoint;
	HttpRequest request;
	const char *problem;

	if (try->candidate->problem)
		return call_misconfigured(call, try->candidate->problem, NULL);
	if (!resolve_endpoint(try, &endpoint))
		return false;
	http_request_init(&request);
	problem = provider->dialect->address(&call->spec.chat, &endpoint, &request);
	if (problem)
		return call_misconfigured(call, problem, NULL);
	problem = provider->dialect->compose(&call->spec.chat, &endpoint,
										 &request.body);
	if (problem)
		return unsayable(call, problem);
	try->transfer = transport_start(&request, limits, try);
	forget_headers(&request);
	pfree(request.body.data);
	pfree(request.url.data);
	return true;
}

/*
 * Reserves an attempt. What refuses it is remembered where it is a limit that
 * will let somebody through later.
 */
static bool
reserve(Try *try, const TransferLimits *limits, Usec now)
{
	Call	   *call = try->call;
	const Candidate *candidate = try->candidate;
	HealthCheck check;
	int64		tokens = estimate_tokens(&call->router.needs.estimate,
										 candidate->route->model);

	if (health_reserve(&candidate->target->health, tokens,
					   call->router.needs.leave, call->spec.only != NULL,
					   limits->timeout + LEASE_GRACE, now, &try->reservation,
					   &check))
		return true;
	if (check.why != WHY_BREAKER && check.why != WHY_NONE)
		note_later(call, candidate, try->tier,
				   router_limit_ends(&check, now));
	return false;
}

/*
 * Starts an attempt at a candidate of the current tier. It is impossible when
 * it cannot work as it is configured (call->problem), or when the candidate's
 * dialect has no words for the request (call->unsayable).
 */
TryStart
try_start(Try *try, const Candidate *candidate, Usec now)
{
	Call	   *call = try->call;
	TransferLimits limits;
	MemoryContext old;
	bool		sent;

	Assert(!try_is_running(try));
	if (try->context == NULL)
		try->context = AllocSetContextCreate(call->context,
											 "llm_failover attempt",
											 ALLOCSET_DEFAULT_SIZES);
	try->candidate = candidate;
	try->tier = call->router.tier;
	try->hedge = false;
	limits = limits_of(try, now);
	if (candidate->target && !reserve(try, &limits, now))
		return TRY_REFUSED;
	old = MemoryContextSwitchTo(try->context);
	sent = send_request(try, &limits);
	MemoryContextSwitchTo(old);
	if (sent)
		return TRY_STARTED;
	try_release(try);
	return TRY_IMPOSSIBLE;
}

/* Takes the call's keys out of a text. */
static const char *
scrub(const Try *try, const char *text, size_t *len)
{
	ListCell   *lc;

	foreach(lc, try->secrets)
		text = secret_scrub(text, len, lfirst(lc));
	return text;
}

/* A provider's words: scrubbed, cut, and in the database's encoding. */
static const char *
provider_text(Try *try, Attempt *attempt, const char *text)
{
	size_t		len;

	if (text == NULL)
		return NULL;
	len = strlen(text);
	text = scrub(try, text, &len);
	len = utf8_clip(text, len, MAX_PROVIDER_TEXT);
	text = utf8_to_text(pnstrdup(text, len), len, &len, &attempt->replaced);
	return MemoryContextStrdup(try->call->context, text);
}

/*
 * Parses a response and classifies it. One that is no answer is parsed without
 * the call's keys: a dialect quotes what it cannot read, and a key of which it
 * left half would not be known for one any more.
 */
static Outcome
parse_response(Try *try, Reply *reply)
{
	const Dialect *dialect = try->candidate->route->provider->dialect;
	const HttpResponse *response = &try->transfer->response;
	HttpResponse clean = *response;
	Outcome		outcome;

	dialect->parse(response, clock_wall(), reply);
	outcome = outcome_of_reply(response->status, reply);
	if (outcome == OUTCOME_OK)
		return outcome;
	clean.body = scrub(try, response->body, &clean.body_len);
	clean.headers = scrub(try, response->headers, &clean.headers_len);
	if (clean.body != response->body || clean.headers != response->headers)
		dialect->parse(&clean, clock_wall(), reply);
	return outcome;
}

/* Lets the driver say whether an answer is one, before that is booked. */
static Outcome
judge_answer(Try *try, Attempt *attempt, const Reply *reply)
{
	Call	   *call = try->call;
	const char *wrong = call->spec.judge ? call->spec.judge(call, reply) : NULL;

	if (wrong == NULL)
		return OUTCOME_OK;
	attempt->error = MemoryContextStrdup(call->context, wrong);
	return OUTCOME_INVALID_OUTPUT;
}

/* Reads what a whole response says. */
static Outcome
read_response(Try *try, Attempt *attempt, Reply *reply)
{
	const Route *route = try->candidate->route;
	Outcome		outcome = parse_response(try, reply);

	attempt->status = try->transfer->response.status;
	attempt->request_id = provider_text(try, attempt, reply->request_id);
	attempt->reasoning_tokens = reply->reasoning_tokens;
	if (reply->answered_as && strcmp(reply->answered_as, route->model_utf8) != 0)
		attempt->answered_as = provider_text(try, attempt, reply->answered_as);
	if (outcome == OUTCOME_OK)
		return judge_answer(try, attempt, reply);
	attempt->error = provider_text(try, attempt, reply->error_text);
	return outcome;
}

/*
 * Reads the end of a try's transfer into the call's trace and a reply, which is
 * empty where there was no whole response. The reply's memory is the
 * transfer's and the current context's.
 */
Outcome
try_read(Try *try, Attempt *attempt, Reply *reply)
{
	const Transfer *transfer = try->transfer;
	Outcome		outcome;

	*reply = (Reply) {
		.kind = REPLY_ERROR,
		.input_tokens = -1,
		.output_tokens = -1,
		.cached_tokens = -1,
		.reasoning_tokens = -1,
		.requests_left = {-1, -1, 0},
		.tokens_left = {-1, -1, 0},
	};
	attempt->hedge = try->hedge;
	attempt->ms = (transfer->finished - transfer->started) / USEC_MSEC;
	attempt->reconnected = transfer->connects > 1;
	if (transfer->end == TRANSFER_OK)
		outcome = read_response(try, attempt, reply);
	else
	{
		/* what the call's own deadline cut short is nobody's fault */
		outcome = transfer->end == TRANSFER_TIMEOUT && try->cut_by_deadline ?
			OUTCOME_CANCELLED : outcome_of_transfer(transfer);
		attempt->error = provider_text(try, attempt, transfer->why);
	}
	attempt->outcome = outcome;
	return outcome;
}
