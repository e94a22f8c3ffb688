/*
 * outcome.c
 *	  The outcome table, and how an attempt is put into one of its classes.
 *
 * What the provider says in words and codes is read before the status, because
 * gateways and compatible servers disagree on statuses far more than on codes:
 * a 429 may be an empty account, a 200 may carry an error.
 */
#include "postgres.h"

#include "outcome.h"

/* The classes in the order of the enum; columns as in outcome.h. */
const OutcomeRule outcome_rules[NUM_OUTCOMES] = {
	[OUTCOME_OK] = {"ok", COUNTS_NOT, RETRY_NEVER, NEXT_NO, SCOPE_NONE, NULL, 0},
	[OUTCOME_DECLINED] = {"declined", COUNTS_NOT, RETRY_NEVER, NEXT_YES,
	SCOPE_NONE, NULL, 0},
	[OUTCOME_BILLING] = {"billing", COUNTS_TRIP, RETRY_NEVER, NEXT_YES,
		SCOPE_PROVIDER,
	"Top up the account at the provider, or raise its spending limit.",
	TRIP_ACCOUNT},
	[OUTCOME_AUTH] = {"auth", COUNTS_TRIP, RETRY_NEVER, NEXT_YES,
	SCOPE_PROVIDER, "Replace the secret %s.", TRIP_ACCOUNT},
	[OUTCOME_PERMISSION] = {"permission", COUNTS_TRIP, RETRY_NEVER, NEXT_YES,
		SCOPE_MODEL,
	"Have the model granted to the account, or route to another one.",
	TRIP_MODEL},
	[OUTCOME_MODEL_GONE] = {"model_gone", COUNTS_TRIP, RETRY_NEVER, NEXT_YES,
		SCOPE_MODEL,
	"Look up the model's current name and the base_url at the provider.",
	TRIP_MODEL},
	[OUTCOME_CONTEXT_LENGTH] = {"context_length", COUNTS_NOT, RETRY_NEVER,
	NEXT_LARGER_WINDOW, SCOPE_NONE, NULL, 0},
	[OUTCOME_CONTENT_FILTER] = {"content_filter", COUNTS_NOT, RETRY_NEVER,
	NEXT_IF_TIER_SAYS, SCOPE_NONE, NULL, 0},
	[OUTCOME_BAD_REQUEST] = {"bad_request", COUNTS_NOT, RETRY_NEVER, NEXT_NO,
	SCOPE_NONE, "See params of the route, the region and the call.", 0},
	[OUTCOME_THROTTLED] = {"throttled", COUNTS_THROTTLE, RETRY_AFTER_HINT,
		NEXT_YES, SCOPE_TARGET,
	"Ask again later, or raise the rate limit at the provider.", 0},
	[OUTCOME_OVERLOADED] = {"overloaded", COUNTS_FAILURE, RETRY_AFTER_JITTER,
	NEXT_YES, SCOPE_TARGET, "Ask again later.", 0},
	[OUTCOME_SERVER] = {"server", COUNTS_FAILURE, RETRY_AFTER_JITTER,
	NEXT_YES, SCOPE_TARGET, "Ask again later; see the provider's status page.", 0},
	[OUTCOME_NETWORK] = {"network", COUNTS_FAILURE, RETRY_AT_ONCE, NEXT_YES,
		SCOPE_REGION,
	"Check base_url, llm_failover.proxy, and the network of the server.", 0},
	[OUTCOME_TIMEOUT] = {"timeout", COUNTS_FAILURE, RETRY_NEVER, NEXT_YES,
	SCOPE_TARGET, "Check the network, or raise attempt_timeout of the tier.", 0},
	[OUTCOME_CONFLICT] = {"conflict", COUNTS_NOT, RETRY_AFTER_JITTER,
	NEXT_YES, SCOPE_NONE, "Ask again later.", 0},
	[OUTCOME_INVALID_OUTPUT] = {"invalid_output", COUNTS_FAILURE,
		RETRY_AFTER_JITTER, NEXT_YES, SCOPE_TARGET,
	"Check that base_url leads to a server of this dialect.", 0},
	[OUTCOME_CANCELLED] = {"cancelled", COUNTS_NOT, RETRY_NEVER, NEXT_NO,
	SCOPE_NONE, NULL, 0},
	[OUTCOME_OWN_LIMIT] = {"own_limit", COUNTS_NOT, RETRY_AFTER_HINT,
	NEXT_YES, SCOPE_NONE, NULL, 0},
};

/*
 * Codes that providers use, whatever the status unless one is given. Compared
 * with both code and type, ignoring case.
 */
typedef struct CodeSignal
{
	const char *code;
	int			status;			/* 0 = any */
	Outcome		outcome;
} CodeSignal;

static const CodeSignal code_signals[] = {
	/* 1 billing */
	{"insufficient_quota", 0, OUTCOME_BILLING},
	{"credit_balance_exhausted", 0, OUTCOME_BILLING},
	{"billing_hard_limit_reached", 0, OUTCOME_BILLING},
	{"billing_not_active", 0, OUTCOME_BILLING},
	{"billing_error", 0, OUTCOME_BILLING},
	{"enforced_spend_limit_reached", 0, OUTCOME_BILLING},
	{"spend_limit_reached", 0, OUTCOME_BILLING},
	{"organization_spend_limit_exceeded", 0, OUTCOME_BILLING},
	{"organization_usage_limit_exceeded", 0, OUTCOME_BILLING},
	{"project_spend_limit_exceeded", 0, OUTCOME_BILLING},
	{"exceeded_current_quota_error", 0, OUTCOME_BILLING},
	{"quota_exhausted", 0, OUTCOME_BILLING},
	{"ServiceQuotaExceededException", 0, OUTCOME_BILLING},
	{"1113", 0, OUTCOME_BILLING},	/* z.ai: no balance */
	/* 2 auth */
	{"invalid_api_key", 0, OUTCOME_AUTH},
	{"API_KEY_INVALID", 0, OUTCOME_AUTH},
	{"authentication_error", 0, OUTCOME_AUTH},
	{"UNAUTHENTICATED", 0, OUTCOME_AUTH},
	{"UnrecognizedClientException", 0, OUTCOME_AUTH},
	{"ExpiredTokenException", 0, OUTCOME_AUTH},
	/* 3 permission */
	{"permission_error", 0, OUTCOME_PERMISSION},
	{"PERMISSION_DENIED", 0, OUTCOME_PERMISSION},
	{"unsupported_country_region_territory", 0, OUTCOME_PERMISSION},
	{"AccessDeniedException", 0, OUTCOME_PERMISSION},
	/* 4 model gone */
	{"model_not_found", 0, OUTCOME_MODEL_GONE},
	{"DeploymentNotFound", 0, OUTCOME_MODEL_GONE},
	{"ResourceNotFound", 0, OUTCOME_MODEL_GONE},
	{"not_found_error", 404, OUTCOME_MODEL_GONE},
	{"NOT_FOUND", 404, OUTCOME_MODEL_GONE},
	/* 6 content filter */
	{"content_filter", 0, OUTCOME_CONTENT_FILTER},
	{"ResponsibleAIPolicyViolation", 0, OUTCOME_CONTENT_FILTER},
	{"content_policy_violation", 0, OUTCOME_CONTENT_FILTER},
	/* 8 throttled */
	{"rate_limit_exceeded", 0, OUTCOME_THROTTLED},
	{"rate_limit_error", 0, OUTCOME_THROTTLED},
	{"slow_down", 0, OUTCOME_THROTTLED},
	{"ThrottlingException", 0, OUTCOME_THROTTLED},
	{"RESOURCE_EXHAUSTED", 0, OUTCOME_THROTTLED},
	{"1302", 0, OUTCOME_THROTTLED}, /* z.ai: too many requests */
	/* 9 overloaded */
	{"overloaded_error", 0, OUTCOME_OVERLOADED},
	{"server_is_overloaded", 0, OUTCOME_OVERLOADED},
	{"engine_overloaded", 0, OUTCOME_OVERLOADED},
	{"engine_overloaded_error", 0, OUTCOME_OVERLOADED},
	{"insufficient_system_resource", 0, OUTCOME_OVERLOADED},	/* DeepSeek */
	{"UNAVAILABLE", 0, OUTCOME_OVERLOADED},
	/* 10 server */
	{"api_error", 500, OUTCOME_SERVER},
	/* 12 timeout */
	{"DEADLINE_EXCEEDED", 0, OUTCOME_TIMEOUT},
	{"CANCELLED", 499, OUTCOME_TIMEOUT},	/* Google gave up on itself */
	{"timeout_error", 0, OUTCOME_TIMEOUT},
};

/*
 * Words that providers use where no code tells: a part of the error's text,
 * ignoring case, with a status in a range.
 */
typedef struct TextSignal
{
	const char *text;
	int			from_status;
	int			to_status;
	Outcome		outcome;
} TextSignal;

static const TextSignal text_signals[] = {
	{"reached your specified workspace api usage limits", 400, 400,
	OUTCOME_BILLING},
	{"reached your specified api usage limits", 400, 400, OUTCOME_BILLING},
	{"credit balance is too low", 400, 403, OUTCOME_BILLING},
	{"api key not valid", 400, 400, OUTCOME_AUTH},
	{"user location is not supported", 400, 403, OUTCOME_PERMISSION},
	{"maximum context length", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"context_length_exceeded", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"exceeds the available context size", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"exceed_context_size", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"prompt is too long", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"too many tokens", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"input is too long", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"input tokens exceed the configured limit", 400, 413,
	OUTCOME_CONTEXT_LENGTH},
	{"exceeds the maximum number of tokens", 400, 413, OUTCOME_CONTEXT_LENGTH},
	{"content management policy", 400, 400, OUTCOME_CONTENT_FILTER},
	{"high demand", 429, 429, OUTCOME_THROTTLED},
};

/* What a status means when neither code nor words tell; first match wins. */
typedef struct StatusSignal
{
	int			from;
	int			to;
	Outcome		outcome;
} StatusSignal;

static const StatusSignal status_signals[] = {
	{300, 399, OUTCOME_INVALID_OUTPUT}, /* redirects are not followed */
	{401, 401, OUTCOME_AUTH},
	{402, 402, OUTCOME_BILLING},
	{403, 403, OUTCOME_PERMISSION},
	{404, 404, OUTCOME_MODEL_GONE},
	{407, 407, OUTCOME_NETWORK},	/* the proxy, not the provider */
	{408, 408, OUTCOME_TIMEOUT},
	{409, 409, OUTCOME_CONFLICT},
	{410, 410, OUTCOME_MODEL_GONE},
	{424, 424, OUTCOME_SERVER},
	{429, 429, OUTCOME_THROTTLED},
	{498, 498, OUTCOME_CONTENT_FILTER},
	{499, 499, OUTCOME_SERVER},
	{400, 499, OUTCOME_BAD_REQUEST},
	{503, 503, OUTCOME_OVERLOADED},
	{529, 529, OUTCOME_OVERLOADED},
	{500, 599, OUTCOME_SERVER},
};

/* Classifies a transfer that brought no whole response. */
Outcome
outcome_of_transfer(const Transfer *transfer)
{
	switch (transfer->end)
	{
		case TRANSFER_CONNECT_TIMEOUT:
		case TRANSFER_FIRST_BYTE_TIMEOUT:
		case TRANSFER_TIMEOUT:
			return OUTCOME_TIMEOUT;
		case TRANSFER_BAD_RESPONSE:
		case TRANSFER_TOO_LARGE:
			return OUTCOME_INVALID_OUTPUT;
		case TRANSFER_LOCAL:
			return OUTCOME_OWN_LIMIT;
		case TRANSFER_NO_NAME:
		case TRANSFER_NO_CONNECTION:
		case TRANSFER_NO_TLS:
		case TRANSFER_BROKEN:
			return OUTCOME_NETWORK;
		case TRANSFER_RUNNING:
		case TRANSFER_OK:
			break;
	}
	return OUTCOME_OK;
}

/* Says whether a provider's word, if there is one, is the one of a signal. */
static bool
same_code(const char *said, const char *code)
{
	return said != NULL && pg_strcasecmp(said, code) == 0;
}

/* Looks for a code of the table; false when there is none. */
static bool
find_code(int status, const Reply *reply, Outcome *outcome)
{
	for (size_t i = 0; i < lengthof(code_signals); i++)
	{
		const CodeSignal *s = &code_signals[i];

		if (s->status != 0 && s->status != status)
			continue;
		if (!same_code(reply->error_code, s->code) &&
			!same_code(reply->error_type, s->code))
			continue;
		*outcome = s->outcome;
		return true;
	}
	return false;
}

/* Says whether a text holds a phrase, ignoring the case of ASCII letters. */
static bool
text_contains(const char *text, const char *phrase)
{
	size_t		len = strlen(phrase);

	for (; *text; text++)
		if (pg_strncasecmp(text, phrase, len) == 0)
			return true;
	return false;
}

/* Looks for words of the table in the error's code and text. */
static bool
find_text(int status, const Reply *reply, Outcome *outcome)
{
	for (size_t i = 0; i < lengthof(text_signals); i++)
	{
		const TextSignal *s = &text_signals[i];

		if (status < s->from_status || status > s->to_status)
			continue;
		if (!(reply->error_text && text_contains(reply->error_text, s->text)) &&
			!(reply->error_code && text_contains(reply->error_code, s->text)) &&
			!(reply->error_type && text_contains(reply->error_type, s->text)))
			continue;
		*outcome = s->outcome;
		return true;
	}
	return false;
}

/* Classifies an error by its status alone. */
static Outcome
outcome_of_status(int status)
{
	for (size_t i = 0; i < lengthof(status_signals); i++)
		if (status >= status_signals[i].from && status <= status_signals[i].to)
			return status_signals[i].outcome;
	/* an error body with a status that claims success */
	return OUTCOME_SERVER;
}

/*
 * Returns the status to judge an error by: its code, where that is the status
 * of an error and the response came with a good one (OpenRouter).
 */
static int
error_status(int status, const Reply *reply)
{
	const char *code = reply->error_code;

	if (status < 200 || status > 299 || code == NULL)
		return status;
	if (strlen(code) != 3 || (code[0] != '4' && code[0] != '5') ||
		strspn(code, "0123456789") != 3)
		return status;
	return atoi(code);
}

/*
 * Classifies a whole response. Only a 2xx with a complete answer is OK; a
 * response of any other status is an error even when its body looks like an
 * answer.
 */
Outcome
outcome_of_reply(int status, const Reply *reply)
{
	bool		success = status >= 200 && status <= 299;
	Outcome		outcome;

	switch (reply->kind)
	{
		case REPLY_FILTERED:
			return OUTCOME_CONTENT_FILTER;
		case REPLY_CONTEXT:
			return OUTCOME_CONTEXT_LENGTH;
		case REPLY_ANSWER:
			if (success)
				return OUTCOME_OK;
			break;
		case REPLY_EMPTY:
		case REPLY_CUT:
		case REPLY_GARBAGE:
			if (success)
				return OUTCOME_INVALID_OUTPUT;
			break;
		case REPLY_ERROR:
			break;
	}
	status = error_status(status, reply);
	/* an error that hides its status may be told by its words all the same */
	if (find_text(status <= 299 ? 400 : status, reply, &outcome) ||
		find_code(status, reply, &outcome))
		return outcome;
	return outcome_of_status(status);
}

/*
 * Returns whom an outcome blames. A connection that could not be made in time
 * speaks of the endpoint, an answer that did not come in time of the target.
 */
OutcomeScope
outcome_scope(Outcome outcome, TransferEnd end)
{
	if (outcome == OUTCOME_TIMEOUT && end == TRANSFER_CONNECT_TIMEOUT)
		return SCOPE_REGION;
	return outcome_rules[outcome].scope;
}
