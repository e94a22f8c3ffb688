/*
 * complete.c
 *	  llm_complete(), llm_respond(), llm_chat() and llm_last().
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "driver.h"
#include "engine/loop.h"
#include "queue/journal.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_complete);
PG_FUNCTION_INFO_V1(llm_respond);
PG_FUNCTION_INFO_V1(llm_chat);
PG_FUNCTION_INFO_V1(llm_last);

/* The session's last ended call, for llm_last(), or NULL. */
static EndedCall *last_result;

/* Arguments that are NULL keep the value of an untyped parameter. */
#define ARG_TEXT(n)		(PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n))
#define ARG_JSONB(n)	(PG_ARGISNULL(n) ? NULL : PG_GETARG_JSONB_P(n))
#define ARG_INTERVAL(n)	(PG_ARGISNULL(n) ? NULL : PG_GETARG_INTERVAL_P(n))

/* Merges the call's params over the route's; a later key replaces. */
static const JsonNode *
merge_params(const JsonNode *route, const JsonNode *call)
{
	JsonNode   *merged;
	JsonNode  **tail;

	if (route == NULL || call == NULL)
		return route ? route : call;
	merged = palloc(sizeof(JsonNode));
	*merged = *route;
	tail = &merged->child;
	for (const JsonNode *p = route->child; p; p = p->next)
	{
		*tail = memcpy(palloc(sizeof(JsonNode)), p, sizeof(JsonNode));
		tail = &(*tail)->next;
	}
	*tail = call->child;
	merged->nchildren += call->nchildren;
	return merged;
}

/* Answers for a builtin model, within the statement's own transaction. */
void
local_work(Call *call, LocalAnswer *answer)
{
	const Route *route = call->candidate->route;

	local_answer(route->builtin, call->config, call->spec.local_prompt,
				 call->spec.feature,
				 merge_params(route->params, call->spec.chat.params), answer);
}

/* Keeps an ended call for llm_last() in place of the one before. */
static void
keep_last(EndedCall *result)
{
	MemoryContextSetParent(result->call->context, TopMemoryContext);
	if (last_result)
		call_free(last_result->call);
	last_result = result;
}

/* Puts the end of a call into words, in the call's own context. */
EndedCall *
call_conclude(Call *call, const Report *refused, Oid role)
{
	MemoryContext old = MemoryContextSwitchTo(call->context);
	EndedCall  *result = palloc0(sizeof(EndedCall));

	result->call = call;
	result->role = role;
	if (refused->sqlstate != 0)
	{
		result->report = *refused;
		result->report.message = pstrdup(refused->message);
	}
	else if (call->error != CALL_ANSWERED)
		report_make(call, &result->report);
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Takes in a reload of the configuration files, which PostgreSQL itself leaves
 * until the statement has ended: llm_failover.enabled = off is meant for the
 * statement that makes a million calls. In parallel mode nothing may be set.
 */
static void
follow_reload(void)
{
	if (!ConfigReloadPending || IsInParallelMode())
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

/* Notes what a call has used, and that it has failed over. */
static void
note_end(const Call *call)
{
	const char *role = GetUserNameFromId(GetUserId(), true);

	journal_usage(call, call->spec.tier->name, role);
	if (llm_log_failovers)
		report_failover(call, role);
}

/*
 * Makes a call and returns how it ended. Raises its error unless on_error
 * says null, which never covers LL006.
 */
static EndedCall *
run(const CallArgs *args)
{
	bool		null_on_error;
	Report		refused;
	Call	   *call;
	EndedCall  *result;

	follow_reload();
	call = request_prepare(args, &null_on_error, &refused);
	if (refused.sqlstate == 0)
		calls_run(&call, 1, local_work);
	result = call_conclude(call, &refused, GetUserId());
	keep_last(result);
	if (refused.sqlstate == 0)
		note_end(call);
	if (result->report.sqlstate != 0 &&
		(!null_on_error || result->report.sqlstate == SQLSTATE_LL(6)))
		report_raise(&result->report);
	return result;
}

/* Reads the arguments that follow max_tokens in each function. */
static void
read_common_args(FunctionCallInfo fcinfo, int first, CallArgs *args)
{
	args->function = fcinfo->flinfo->fn_oid;
	args->has_max_tokens = !PG_ARGISNULL(first);
	if (args->has_max_tokens)
		args->max_tokens = PG_GETARG_INT32(first);
	args->has_temperature = !PG_ARGISNULL(first + 1);
	if (args->has_temperature)
		args->temperature = PG_GETARG_FLOAT8(first + 1);
	args->feature = ARG_TEXT(first + 2);
	args->residency = ARG_TEXT(first + 3);
	args->timeout = ARG_INTERVAL(first + 4);
	args->params = ARG_JSONB(first + 5);
	args->has_allow_degraded = !PG_ARGISNULL(first + 6);
	if (args->has_allow_degraded)
		args->allow_degraded = PG_GETARG_BOOL(first + 6);
	args->on_error = ARG_TEXT(first + 7);
}

/* Reads prompt, tier, system and the rest. */
static void
read_prompt_args(FunctionCallInfo fcinfo, CallArgs *args)
{
	memset(args, 0, sizeof(*args));
	args->prompt = PG_GETARG_TEXT_PP(0);
	args->tier = ARG_TEXT(1);
	args->system = ARG_TEXT(2);
	read_common_args(fcinfo, 3, args);
}

/*
 * llm_complete(prompt, tier, system, max_tokens, temperature, feature,
 * residency, timeout, params, allow_degraded, on_error) → text
 */
Datum
llm_complete(PG_FUNCTION_ARGS)
{
	CallArgs	args;
	const EndedCall *result;

	require_preload();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	read_prompt_args(fcinfo, &args);
	result = run(&args);
	if (result->report.sqlstate != 0)
		PG_RETURN_NULL();
	report_degraded(result->call);
	if (result->call->answer.text == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result->call->answer.text,
											  (int) result->call->answer.text_len));
}

/* llm_respond(the same) → llm_response */
Datum
llm_respond(PG_FUNCTION_ARGS)
{
	CallArgs	args;

	require_preload();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	read_prompt_args(fcinfo, &args);
	PG_RETURN_DATUM(response_datum(fcinfo, run(&args)));
}

/*
 * llm_chat(messages, tier, max_tokens, temperature, feature, residency,
 * timeout, params, allow_degraded, on_error) → llm_response
 */
Datum
llm_chat(PG_FUNCTION_ARGS)
{
	CallArgs	args = {0};

	require_preload();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	args.messages = PG_GETARG_JSONB_P(0);
	args.tier = ARG_TEXT(1);
	read_common_args(fcinfo, 2, &args);
	PG_RETURN_DATUM(response_datum(fcinfo, run(&args)));
}

/*
 * llm_last() → llm_response: this session's last answer or error, or NULL. A
 * pool hands sessions from role to role, so it is for those only who may act
 * as the role that asked.
 */
Datum
llm_last(PG_FUNCTION_ARGS)
{
	require_preload();
	if (last_result == NULL ||
		!has_privs_of_role(GetUserId(), last_result->role))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(response_datum(fcinfo, last_result));
}
