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

#include "call.h"
#include "util/encoding.h"

/* The longest text of a provider that is passed on, in bytes. */
#define MAX_PROVIDER_TEXT 500

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

/* Remembers why a dialect could not say what is asked. Always false. */
static bool
unsayable(Call *call, const char *why)
{
	if (call->unsayable == NULL)
		call->unsayable = MemoryContextStrdup(call->context, why);
	return false;
}

/*
 * Resolves a reference to a key, as UTF-8, and remembers it for scrubbing.
 * NULL when it cannot be resolved, which is remembered.
 */
static const char *
resolve(Call *call, const char *reference)
{
	const char *problem;
	const char *hint = NULL;
	const char *word;
	const char *key = secret_resolve(call->config, reference, &problem, &hint);

	if (key == NULL)
	{
		call_misconfigured(call, problem, hint);
		return NULL;
	}
	key = pstrdup(key);
	call->secrets = lappend(call->secrets, unconstify(char *, key));
	/* of "Bearer KEY" in a header a provider may repeat the second word only */
	word = strrchr(key, ' ');
	if (word)
		call->secrets = lappend(call->secrets, unconstify(char *, word + 1));
	return key;
}

/* Resolves the provider's additional headers. */
static bool
resolve_headers(Call *call, const Provider *provider, Endpoint *endpoint)
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
			resolve(call, from->value) : from->value;
		if (headers[i].value == NULL)
			return false;
	}
	endpoint->headers = headers;
	endpoint->nheaders = provider->nheaders;
	return true;
}

/* Puts together whom to ask, with inheritance done and keys resolved. */
static bool
resolve_endpoint(Call *call, const Candidate *candidate, Endpoint *endpoint)
{
	const Route *route = candidate->route;
	const Region *region = candidate->region;

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
		endpoint->secret = resolve(call, region->secret);
		if (endpoint->secret == NULL)
			return false;
	}
	return resolve_headers(call, route->provider, endpoint);
}

/* The shorter of what the tier allows and what the deadline leaves. */
static TransferLimits
limits_of(Call *call, const Tier *tier, Usec now)
{
	Usec		left = call->deadline - now;

	call->cut_by_deadline = left < tier->attempt_timeout;
	return (TransferLimits) {
		.connect_timeout = tier->connect_timeout,
		.first_byte_timeout = tier->first_byte_timeout,
		.timeout = Min(tier->attempt_timeout, left),
	};
}

/*
 * Frees all that an attempt needed, and wipes its copies of keys. A response
 * may take ten times its size to read, so no two attempts' are kept.
 */
void
attempt_forget(Call *call)
{
	ListCell   *lc;

	foreach(lc, call->secrets)
		explicit_bzero(lfirst(lc), strlen(lfirst(lc)));
	call->secrets = NIL;
	MemoryContextReset(call->attempt);
}

/* Wipes the headers of a request that the transport has a copy of. */
static void
forget_headers(HttpRequest *request)
{
	for (int i = 0; i < request->nheaders; i++)
		explicit_bzero(request->headers[i], strlen(request->headers[i]));
}

/* Sends a request; the current context is the attempt's. */
static bool
send_request(Call *call, const Candidate *candidate, Usec now)
{
	const Provider *provider = candidate->route->provider;
	Endpoint	endpoint;
	HttpRequest request;
	TransferLimits limits = limits_of(call, call->router.tier, now);
	const char *problem;

	if (candidate->problem)
		return call_misconfigured(call, candidate->problem, NULL);
	if (!resolve_endpoint(call, candidate, &endpoint))
		return false;
	http_request_init(&request);
	problem = provider->dialect->address(&call->spec.chat, &endpoint, &request);
	if (problem)
		return call_misconfigured(call, problem, NULL);
	problem = provider->dialect->compose(&call->spec.chat, &endpoint,
										 &request.body);
	if (problem)
		return unsayable(call, problem);
	call->transfer = transport_start(&request, &limits, call);
	forget_headers(&request);
	pfree(request.body.data);
	pfree(request.url.data);
	return true;
}

/*
 * Sends the request of a call to a candidate. False when that cannot work as
 * it is configured (call->problem), or when the candidate's dialect has no
 * words for the request (call->unsayable).
 */
bool
attempt_start(Call *call, const Candidate *candidate, Usec now)
{
	MemoryContext old = MemoryContextSwitchTo(call->attempt);
	bool		started;

	attempt_forget(call);
	started = send_request(call, candidate, now);
	MemoryContextSwitchTo(old);
	return started;
}

/* Takes the call's keys out of a text. */
static const char *
scrub(const Call *call, const char *text, size_t *len)
{
	ListCell   *lc;

	foreach(lc, call->secrets)
		text = secret_scrub(text, len, lfirst(lc));
	return text;
}

/* A provider's words: scrubbed, cut, and in the database's encoding. */
static const char *
provider_text(Call *call, Attempt *attempt, const char *text)
{
	size_t		len;

	if (text == NULL)
		return NULL;
	len = strlen(text);
	text = scrub(call, text, &len);
	len = utf8_clip(text, len, MAX_PROVIDER_TEXT);
	text = utf8_to_text(pnstrdup(text, len), len, &len, &attempt->replaced);
	return MemoryContextStrdup(call->context, text);
}

/*
 * Parses a response and classifies it. One that is no answer is parsed without
 * the call's keys: a dialect quotes what it cannot read, and a key of which it
 * left half would not be known for one any more.
 */
static Outcome
parse_response(Call *call, Reply *reply)
{
	const Dialect *dialect = call->candidate->route->provider->dialect;
	const HttpResponse *response = &call->transfer->response;
	HttpResponse clean = *response;
	Outcome		outcome;

	dialect->parse(response, clock_wall(), reply);
	outcome = outcome_of_reply(response->status, reply);
	if (outcome == OUTCOME_OK)
		return outcome;
	clean.body = scrub(call, response->body, &clean.body_len);
	clean.headers = scrub(call, response->headers, &clean.headers_len);
	if (clean.body != response->body || clean.headers != response->headers)
		dialect->parse(&clean, clock_wall(), reply);
	return outcome;
}

/* Reads what a whole response says. */
static Outcome
read_response(Call *call, Attempt *attempt, Reply *reply)
{
	const Route *route = call->candidate->route;
	Outcome		outcome = parse_response(call, reply);

	attempt->status = call->transfer->response.status;
	attempt->request_id = provider_text(call, attempt, reply->request_id);
	attempt->reasoning_tokens = reply->reasoning_tokens;
	if (reply->answered_as && strcmp(reply->answered_as, route->model_utf8) != 0)
		attempt->answered_as = provider_text(call, attempt, reply->answered_as);
	if (outcome != OUTCOME_OK)
		attempt->error = provider_text(call, attempt, reply->error_text);
	return outcome;
}

/*
 * Reads the end of the call's transfer into its trace and a reply, which is
 * empty where there was no whole response. The reply's memory is the
 * transfer's and the current context's.
 */
Outcome
attempt_read(Call *call, Attempt *attempt, Reply *reply)
{
	const Transfer *transfer = call->transfer;
	Outcome		outcome;

	*reply = (Reply) {
		.kind = REPLY_ERROR,
		.input_tokens = -1,
		.output_tokens = -1,
		.cached_tokens = -1,
		.reasoning_tokens = -1,
	};
	attempt->ms = (transfer->finished - transfer->started) / USEC_MSEC;
	attempt->reconnected = transfer->connects > 1;
	if (transfer->end == TRANSFER_OK)
		outcome = read_response(call, attempt, reply);
	else
	{
		/* what the call's own deadline cut short is nobody's fault */
		outcome = transfer->end == TRANSFER_TIMEOUT && call->cut_by_deadline ?
			OUTCOME_CANCELLED : outcome_of_transfer(transfer);
		attempt->error = provider_text(call, attempt, transfer->why);
	}
	attempt->outcome = outcome;
	return outcome;
}
