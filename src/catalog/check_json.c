/*
 * check_json.c
 *	  Rules of the columns headers and params.
 *
 * Nothing of a value in headers is ever shown, not even a name that is none:
 * a key may have been pasted there.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "catalog/builtin.h"
#include "check.h"
#include "dialect/dialect.h"

/* What the transport writes itself, or would be misled by. */
static const char *const our_headers[] = {
	"host", "transfer-encoding", "connection", NULL
};
#define OUR_HEADER_PREFIX "content-"

/* What carries a credential, and so must not stand in a dump. */
static const char *const credential_headers[] = {
	"authorization", "proxy-authorization", "x-api-key", "api-key",
	"x-goog-api-key", "cookie", NULL
};

static void check_object(const CheckedRow *row, const ColumnRule *rule,
						 Jsonb *jsonb);
static bool next_member(JsonbIterator **it, char **key, JsonbValue *value);
static void check_header(const CheckedRow *row, const ColumnRule *rule,
						 const char *name, const JsonbValue *json);
static void check_header_name(const CheckedRow *row, const ColumnRule *rule,
							  const char *name);
static bool is_token(const char *text);
static bool is_one_of(const char *name, const char *const *names);
static bool is_reference(const char *value);
static char *string_of(const JsonbValue *value);

/* Wants an object of header names and strings that may be sent. */
void
check_headers(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	JsonbIterator *it;
	JsonbValue	json;
	char	   *name = NULL;

	check_object(row, rule, jsonb);
	it = JsonbIteratorInit(&jsonb->root);
	while (next_member(&it, &name, &json))
		check_header(row, rule, name, &json);
}

/* Wants a JSON object. */
static void
check_object(const CheckedRow *row, const ColumnRule *rule, Jsonb *jsonb)
{
	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be a JSON object",
						RelationGetRelationName(row->rel), rule->column)));
}

/* Steps to the next member of the root object; false at its end. */
static bool
next_member(JsonbIterator **it, char **key, JsonbValue *value)
{
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(it, value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			*key = string_of(value);
		else if (token == WJB_VALUE)
			return true;
	}
	return false;
}

static char *
string_of(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Checks one header; credentials must be references. */
static void
check_header(const CheckedRow *row, const ColumnRule *rule, const char *name,
			 const JsonbValue *json)
{
	char	   *value;

	check_header_name(row, rule, name);
	value = json->type == jbvString ? string_of(json) : NULL;
	if (value == NULL || has_control(value))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must hold strings without control characters",
						RelationGetRelationName(row->rel), rule->column),
				 errhint("Each is a literal, env:NAME, file:/path or secret:NAME.")));
	if (is_reference(value) && !is_well_formed_reference(value))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must set \"%s\" to a literal, env:NAME, file:/path or secret:NAME",
						RelationGetRelationName(row->rel), rule->column,
						shown(name))));
	if (is_one_of(name, credential_headers) && !is_reference(value))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not set \"%s\" to a literal",
						RelationGetRelationName(row->rel), rule->column, name),
				 errhint("Use env:NAME, file:/path or secret:NAME.")));
}

/* Wants a token of RFC 9110 that names none of our own headers. */
static void
check_header_name(const CheckedRow *row, const ColumnRule *rule,
				  const char *name)
{
	if (!is_token(name))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must have names of HTTP headers as its keys",
						RelationGetRelationName(row->rel), rule->column),
				 errhint("Such a name has no spaces, colons and control characters.")));
	if (is_one_of(name, our_headers) ||
		pg_strncasecmp(name, OUR_HEADER_PREFIX, strlen(OUR_HEADER_PREFIX)) == 0)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not set \"%s\"",
						RelationGetRelationName(row->rel), rule->column, name)));
}

static bool
is_token(const char *text)
{
	static const char others[] = "!#$%&'*+-.^_`|~";

	for (const char *c = text; *c; c++)
		if (!isascii((unsigned char) *c) ||
			(!isalnum((unsigned char) *c) && strchr(others, *c) == NULL))
			return false;
	return text[0] != '\0';
}

/* Says whether a header is in a list; letter case does not matter. */
static bool
is_one_of(const char *name, const char *const *names)
{
	for (; *names; names++)
		if (pg_strcasecmp(*names, name) == 0)
			return true;
	return false;
}

/* Says whether a header's value is meant as a reference. */
static bool
is_reference(const char *value)
{
	return is_server_reference(value) ||
		strncmp(value, "secret:", strlen("secret:")) == 0;
}

/* Says whether any header is of the server's files or environment. */
bool
headers_have_reference(Datum headers)
{
	Jsonb	   *jsonb = DatumGetJsonbP(headers);
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbValue	value;
	char	   *name = NULL;

	while (next_member(&it, &name, &value))
		if (value.type == jbvString && is_server_reference(string_of(&value)))
			return true;
	return false;
}

/* Wants an object without keys that are the call's own. */
void
check_params(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	JsonbIterator *it;
	JsonbValue	param;
	char	   *key = NULL;

	check_object(row, rule, jsonb);
	it = JsonbIteratorInit(&jsonb->root);
	while (next_member(&it, &key, &param))
		if (param_is_forbidden(key))
			ereport(ERROR,
					(refusal(row, rule->column),
					 errmsg("%s.%s must not set \"%s\"",
							RelationGetRelationName(row->rel), rule->column,
							shown(key))));
}

/* Says whether a value is a whole number from 1 to `max`. */
static bool
is_count(const JsonbValue *value, int max)
{
	double		number;

	if (value->type != jbvNumeric)
		return false;
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8,
												NumericGetDatum(value->val.numeric)));
	return number >= 1 && number <= max && number == (int) number;
}

/* Wants a value that an option can have. */
static void
check_option(const CheckedRow *row, const ColumnRule *rule,
			 const BuiltinOption *option, const JsonbValue *value)
{
	const char *table = RelationGetRelationName(row->rel);

	if (value->type == jbvNull)
		return;
	if (option->max > 0 && !is_count(value, option->max))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must have a whole number from 1 to %d as \"%s\"",
						table, rule->column, option->max, option->name)));
	if (option->max == 0 && value->type != jbvString)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must have a text as \"%s\"",
						table, rule->column, option->name)));
}

/* Wants options that the compiled-in model has, when the route is to one. */
void
check_builtin_params(const CheckedRow *row, const ColumnRule *rule,
					 Datum value)
{
	JsonbIterator *it = JsonbIteratorInit(&DatumGetJsonbP(value)->root);
	JsonbValue	param;
	char	   *key = NULL;
	char	   *model = column_text(row->rel, row->tuple, "model");

	if (model == NULL || !is_of_builtin(row))
		return;
	while (next_member(&it, &key, &param))
	{
		const BuiltinOption *option = builtin_option(builtin_find(model), key);

		if (option == NULL)
			ereport(ERROR,
					(refusal(row, rule->column),
					 errmsg("%s.%s must not set \"%s\": model \"%s\" of provider \"%s\" has no such option",
							RelationGetRelationName(row->rel), rule->column,
							shown(key), model, BUILTIN_PROVIDER)));
		check_option(row, rule, option, &param);
	}
}
