/*
 * response.c
 *	  The composite type llm_response: an ended call as a value.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "driver.h"
#include "util/encoding.h"

/* The fields of llm_response, in order. */
typedef enum ResponseField
{
	RESPONSE_ANSWER,
	RESPONSE_MESSAGE,
	RESPONSE_FINISH_REASON,
	RESPONSE_TIER,
	RESPONSE_PROVIDER,
	RESPONSE_REGION,
	RESPONSE_MODEL,
	RESPONSE_SOURCE,
	RESPONSE_DEGRADED,
	RESPONSE_ATTEMPTS,
	RESPONSE_TRACE,
	RESPONSE_INPUT_TOKENS,
	RESPONSE_OUTPUT_TOKENS,
	RESPONSE_CACHED_TOKENS,
	RESPONSE_COST,
	RESPONSE_LATENCY,
	RESPONSE_ERROR,
	RESPONSE_ERROR_CODE
} ResponseField;

#define RESPONSE_FIELDS (RESPONSE_ERROR_CODE + 1)

/* Their types: what ALTER TYPE has made another of is not filled. */
static const Oid response_types[RESPONSE_FIELDS] = {
	[RESPONSE_ANSWER] = TEXTOID,
	[RESPONSE_MESSAGE] = JSONBOID,
	[RESPONSE_FINISH_REASON] = TEXTOID,
	[RESPONSE_TIER] = TEXTOID,
	[RESPONSE_PROVIDER] = TEXTOID,
	[RESPONSE_REGION] = TEXTOID,
	[RESPONSE_MODEL] = TEXTOID,
	[RESPONSE_SOURCE] = TEXTOID,
	[RESPONSE_DEGRADED] = BOOLOID,
	[RESPONSE_ATTEMPTS] = INT4OID,
	[RESPONSE_TRACE] = JSONBOID,
	[RESPONSE_INPUT_TOKENS] = INT4OID,
	[RESPONSE_OUTPUT_TOKENS] = INT4OID,
	[RESPONSE_CACHED_TOKENS] = INT4OID,
	[RESPONSE_COST] = NUMERICOID,
	[RESPONSE_LATENCY] = INTERVALOID,
	[RESPONSE_ERROR] = TEXTOID,
	[RESPONSE_ERROR_CODE] = TEXTOID,
};

typedef struct Row
{
	Datum		values[RESPONSE_FIELDS];
	bool		nulls[RESPONSE_FIELDS];
} Row;

/* Sets a field. */
static void
set(Row *row, ResponseField field, Datum value)
{
	row->values[field] = value;
	row->nulls[field] = false;
}

/* Sets a field of type text; NULL stays NULL. */
static void
set_text(Row *row, ResponseField field, const char *text)
{
	if (text)
		set(row, field, CStringGetTextDatum(text));
}

/* Sets a count of tokens; one that was not told stays NULL. */
static void
set_tokens(Row *row, ResponseField field, int64 tokens)
{
	if (tokens >= 0)
		set(row, field, Int32GetDatum((int32) Min(tokens, PG_INT32_MAX)));
}

/* Returns microseconds as an interval. */
Interval *
usec_to_interval(Usec usec)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = usec;
	return interval;
}

/* Returns USD as numeric, without trailing zeros. */
Datum
picodollars_to_numeric(Picodollars cost)
{
	Numeric		exact = int64_div_fast_to_numeric(cost, 12);

	return DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(exact));
}

/* Returns JSON text, in the database's encoding, as jsonb. */
static Datum
text_to_jsonb(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/* Appends a member to an object; NULL is left out. */
static void
put_member(StringInfo out, const char *key, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(out, "%s\"%s\":", out->data[out->len - 1] == '{' ? "" : ",",
					 key);
	json_put_cstring(out, value);
}

/* Appends a number to an object. */
static void
put_number(StringInfo out, const char *key, int64 value)
{
	appendStringInfo(out, ",\"%s\":%lld", key, (long long) value);
}

/* Appends an attempt as an object. */
static void
put_attempt(StringInfo out, const Attempt *attempt)
{
	const Candidate *candidate = attempt->candidate;

	appendStringInfoChar(out, '{');
	put_member(out, "tier", attempt->tier->name);
	put_member(out, "provider", candidate->route->provider_name);
	put_member(out, "region", candidate->region ? candidate->region->name : NULL);
	put_member(out, "model", candidate->route->model_name);
	put_member(out, "outcome", outcome_rules[attempt->outcome].name);
	if (attempt->status > 0)
		put_number(out, "status", attempt->status);
	put_number(out, "ms", attempt->ms);
	put_member(out, "error", attempt->error);
	put_member(out, "next", attempt->next);
	put_member(out, "request_id", attempt->request_id);
	put_member(out, "answered_as", attempt->answered_as);
	if (attempt->reasoning_tokens >= 0)
		put_number(out, "reasoning_tokens", attempt->reasoning_tokens);
	if (attempt->hedge)
		appendStringInfoString(out, ",\"hedge\":true");
	if (attempt->reconnected)
		appendStringInfoString(out, ",\"reconnected\":true");
	if (attempt->replaced)
		appendStringInfoString(out, ",\"replaced_characters\":true");
	appendStringInfoChar(out, '}');
}

/* Returns the trace as a jsonb array. */
static Datum
trace_datum(const Call *call)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '[');
	for (int i = 0; i < call->ntrace; i++)
	{
		if (i > 0)
			appendStringInfoChar(&out, ',');
		put_attempt(&out, &call->trace[i]);
	}
	appendStringInfoChar(&out, ']');
	return text_to_jsonb(out.data);
}

/* Returns the assistant's message in OpenAI form. */
static Datum
message_datum(const Answer *answer)
{
	StringInfoData out;

	if (answer->message)
	{
		bool		replaced = false;
		size_t		len;

		return text_to_jsonb(utf8_to_text(answer->message,
										  strlen(answer->message), &len,
										  &replaced));
	}
	initStringInfo(&out);
	appendStringInfoString(&out, "{\"role\":\"assistant\",\"content\":");
	json_put_string(&out, answer->text, answer->text_len);
	appendStringInfoChar(&out, '}');
	return text_to_jsonb(out.data);
}

/* Fills the fields of an answer. */
static void
fill_answer(Row *row, const Answer *answer)
{
	const Candidate *candidate = answer->candidate;

	if (answer->text)
		set(row, RESPONSE_ANSWER,
			PointerGetDatum(cstring_to_text_with_len(answer->text,
													 (int) answer->text_len)));
	set(row, RESPONSE_MESSAGE, message_datum(answer));
	set_text(row, RESPONSE_FINISH_REASON, finish_reason_name(answer->finish));
	set_text(row, RESPONSE_TIER, answer->tier->name);
	set_text(row, RESPONSE_PROVIDER, candidate->route->provider_name);
	set_text(row, RESPONSE_REGION,
			 candidate->region ? candidate->region->name : NULL);
	set_text(row, RESPONSE_MODEL, candidate->route->model_name);
	set_text(row, RESPONSE_SOURCE, answer->source);
	set_tokens(row, RESPONSE_INPUT_TOKENS, answer->input_tokens);
	set_tokens(row, RESPONSE_OUTPUT_TOKENS, answer->output_tokens);
	set_tokens(row, RESPONSE_CACHED_TOKENS, answer->cached_tokens);
}

/* Says whether a row type is the llm_response that we know. */
static bool
is_llm_response(TupleDesc desc)
{
	if (desc->natts != RESPONSE_FIELDS)
		return false;
	for (int i = 0; i < RESPONSE_FIELDS; i++)
		if (TupleDescAttr(desc, i)->atttypid != response_types[i])
			return false;
	return true;
}

/* Returns an ended call as a value of the function's result type. */
Datum
response_datum(FunctionCallInfo fcinfo, const EndedCall *result)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		desc = NULL;
	return response_row(desc, result);
}

/* Returns an ended call as a row of a type, which must be llm_response. */
Datum
response_row(TupleDesc desc, const EndedCall *result)
{
	const Call *call = result->call;
	bool		answered = result->report.sqlstate == 0;
	Row			row;

	if (desc == NULL || !is_llm_response(desc))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("type llm_response is of another version than the library"),
				 errhint("ALTER EXTENSION llm_failover UPDATE.")));
	memset(row.nulls, true, sizeof(row.nulls));
	set(&row, RESPONSE_DEGRADED,
		BoolGetDatum(answered && call->answer.degraded));
	set(&row, RESPONSE_ATTEMPTS, Int32GetDatum(call->nattempts));
	set(&row, RESPONSE_TRACE, trace_datum(call));
	if (call->cost_known)
		set(&row, RESPONSE_COST, picodollars_to_numeric(call->cost));
	set(&row, RESPONSE_LATENCY,
		IntervalPGetDatum(usec_to_interval(call->ended - call->started)));
	if (answered)
		fill_answer(&row, &call->answer);
	else
	{
		set_text(&row, RESPONSE_ERROR, result->report.message);
		set_text(&row, RESPONSE_ERROR_CODE,
				 unpack_sql_state(result->report.sqlstate));
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values,
											 row.nulls));
}
