/*
 * check_column.c
 *	  Kinds of column rules: names, numbers, durations, words, labels.
 *
 * Each refuses a value with table, column and what may stand there instead.
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "regex/regex.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "catalog/builtin.h"
#include "check.h"
#include "dialect/dialect.h"

#define NAME_MAX_BYTES	63
#define MODEL_MAX_BYTES	128

static void want_duration(const CheckedRow *row, const ColumnRule *rule,
						  Datum value, int64 least, int64 most,
						  const char *range);
static void refuse_duration(const CheckedRow *row, const ColumnRule *rule,
							Datum value, const char *range);
static double number_of(Datum value, Oid type);
static char *printed(const CheckedRow *row, const char *column, Datum value);
static char *quoted_words(const char *const *words);
static int	text_array(Datum value, Datum **elements, bool **nulls);
static bool is_label(const char *text);

/* Part of every message: "llm_route.weight". */
#define COLUMN(row, rule) \
	RelationGetRelationName((row)->rel), (rule)->column

/* Wants a name of a provider, region or tier. */
void
check_name(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *name = TextDatumGetCString(value);

	if (!is_name(name))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be 1 to %d letters, digits, \".\", \"_\" or \"-\", the first a letter or digit, not \"%s\"",
						COLUMN(row, rule), NAME_MAX_BYTES, shown(name))));
}

/* Says whether a text may name a provider, region or tier. */
bool
is_name(const char *text)
{
	static const char others[] = "._-";

	if (strlen(text) > NAME_MAX_BYTES || text[0] == '\0' ||
		strchr(others, text[0]) != NULL)
		return false;
	for (const char *c = text; *c; c++)
		if (!isascii((unsigned char) *c) ||
			(!isalnum((unsigned char) *c) && strchr(others, *c) == NULL))
			return false;
	return true;
}

/* Wants a model's name as a provider spells it. */
void
check_model_name(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *name = TextDatumGetCString(value);

	if (name[0] == '\0' || strlen(name) > MODEL_MAX_BYTES ||
		strchr(name, ' ') != NULL || has_control(name))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be 1 to %d bytes without spaces and control characters, not \"%s\"",
						COLUMN(row, rule), MODEL_MAX_BYTES, shown(name))));
}

/* Wants a name that only people read. */
void
check_label(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *label = TextDatumGetCString(value);

	if (label[0] == '\0' || strlen(label) > NAME_MAX_BYTES ||
		has_control(label))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be 1 to %d bytes without control characters, not \"%s\"",
						COLUMN(row, rule), NAME_MAX_BYTES, shown(label))));
}

/* Says whether a text has a control character of ASCII. */
bool
has_control(const char *text)
{
	for (const char *c = text; *c; c++)
		if ((unsigned char) *c < ' ' || *c == '\x7f')
			return true;
	return false;
}

/* Wants an int, real or numeric from rule->min to rule->max. */
void
check_number(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	int			attnum = column_number(row->rel, rule->column);
	Oid			type = TupleDescAttr(RelationGetDescr(row->rel),
									 attnum - 1)->atttypid;
	double		number = number_of(value, type);

	if (isfinite(number) && number >= rule->min && number <= rule->max)
		return;
	if (isinf(rule->max))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be a number of at least %.0f, not %s",
						COLUMN(row, rule), rule->min,
						printed(row, rule->column, value))));
	ereport(ERROR,
			(refusal(row, rule->column),
			 errmsg("%s.%s must be a number from %.7g to %.7g, not %s",
					COLUMN(row, rule), rule->min, rule->max,
					printed(row, rule->column, value))));
}

static double
number_of(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		case FLOAT4OID:
			return DatumGetFloat4(value);
		case FLOAT8OID:
			return DatumGetFloat8(value);
		case NUMERICOID:
			return DatumGetFloat8(DirectFunctionCall1(numeric_float8, value));
		default:
			elog(ERROR, "no number: type %u", type);
	}
}

/* Prints a value as SELECT would. */
static char *
printed(const CheckedRow *row, const char *column, Datum value)
{
	int			attnum = column_number(row->rel, column);
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(row->rel),
									attnum - 1)->atttypid,
					  &output, &is_varlena);
	return shown(OidOutputFunctionCall(output, value));
}

/* Wants an interval above 0 and up to a day. */
void
check_duration(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	want_duration(row, rule, value, 1, USECS_PER_DAY,
				  "above 0 and up to 1 day");
}

/* Wants a length of time that has enough in it and is still recent. */
void
check_window(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	want_duration(row, rule, value, USECS_PER_SEC, 10 * USECS_PER_MINUTE,
				  "from 1 second to 10 minutes");
}

/* Wants an interval that may be none, up to a day. */
void
check_ramp(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	want_duration(row, rule, value, 0, USECS_PER_DAY, "from 0 to 1 day");
}

/* Wants an interval from `least` to `most` microseconds: `range`, in words. */
static void
want_duration(const CheckedRow *row, const ColumnRule *rule, Datum value,
			  int64 least, int64 most, const char *range)
{
	Interval	shortest = {.time = least};
	Interval	longest = {.time = most};

	if (DatumGetBool(DirectFunctionCall2(interval_ge, value,
										 IntervalPGetDatum(&shortest))) &&
		DatumGetBool(DirectFunctionCall2(interval_le, value,
										 IntervalPGetDatum(&longest))))
		return;
	refuse_duration(row, rule, value, range);
}

/* Wants an interval above 0, however long. */
void
check_wait(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	Interval	none = {0};

	if (!DatumGetBool(DirectFunctionCall2(interval_gt, value,
										  IntervalPGetDatum(&none))) ||
		!DatumGetBool(DirectFunctionCall1(interval_finite, value)))
		refuse_duration(row, rule, value, "above 0, or NULL for no limit");
}

/* Refuses an interval that is not in `range`, in words. */
static void
refuse_duration(const CheckedRow *row, const ColumnRule *rule, Datum value,
				const char *range)
{
	ereport(ERROR,
			(refusal(row, rule->column),
			 errmsg("%s.%s must be an interval %s, not %s",
					COLUMN(row, rule), range,
					printed(row, rule->column, value))));
}

/* Wants the first open time not to be longer than the longest one. */
void
check_open_time(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	static const char longest[] = "breaker_open_time_max";
	bool		isnull;
	Datum		most = heap_getattr(row->tuple,
									column_number(row->rel, longest),
									RelationGetDescr(row->rel), &isnull);

	if (isnull || DatumGetBool(DirectFunctionCall2(interval_le, value, most)))
		return;
	ereport(ERROR,
			(refusal(row, rule->column),
			 errmsg("%s.%s must be at most %s (%s), not %s",
					COLUMN(row, rule), longest, printed(row, longest, most),
					printed(row, rule->column, value)),
			 errhint("Set both in one statement.")));
}

/* Wants one of rule->words. */
void
check_word(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *word = TextDatumGetCString(value);

	for (const char *const *w = rule->words; *w; w++)
		if (strcmp(*w, word) == 0)
			return;
	ereport(ERROR,
			(refusal(row, rule->column),
			 errmsg("%s.%s must be %s, not \"%s\"", COLUMN(row, rule),
					quoted_words(rule->words), shown(word))));
}

/* Lists words for a message: "raise" or "next". */
static char *
quoted_words(const char *const *words)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; words[i]; i++)
		appendStringInfo(&list, "%s\"%s\"",
						 i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
	return list.data;
}

/* Wants the name of a dialect that is compiled in. */
void
check_dialect(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *dialect = TextDatumGetCString(value);

	if (dialect_find(dialect) == NULL)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s \"%s\" does not exist", COLUMN(row, rule),
						shown(dialect)),
				 errhint("Dialects: %s.", dialect_names())));
}

/* Wants labels that can be written as a comma-separated list. */
void
check_labels(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	Datum	   *labels;
	bool	   *nulls;
	int			n = text_array(value, &labels, &nulls);

	for (int i = 0; i < n; i++)
		if (nulls[i] || !is_label(TextDatumGetCString(labels[i])))
			ereport(ERROR,
					(refusal(row, rule->column),
					 errmsg("%s.%s must hold labels without commas and spaces",
							COLUMN(row, rule))));
}

static bool
is_label(const char *text)
{
	return text[0] != '\0' && strpbrk(text, ", ") == NULL &&
		!has_control(text);
}

/* Wants capabilities that dialects know. */
void
check_capabilities(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	Datum	   *words;
	bool	   *nulls;
	int			n = text_array(value, &words, &nulls);

	for (int i = 0; i < n; i++)
	{
		char	   *word = nulls[i] ? "NULL" : TextDatumGetCString(words[i]);

		if (nulls[i] || capability_bit(word) == 0)
			ereport(ERROR,
					(refusal(row, rule->column),
					 errmsg("%s.%s must hold capabilities, not \"%s\"",
							COLUMN(row, rule), shown(word)),
					 errhint("Capabilities: json_schema, tools, images, temperature, system, embeddings.")));
	}
}

/* Takes text[] of any dimensions apart; returns the number of elements. */
static int
text_array(Datum value, Datum **elements, bool **nulls)
{
	int			n;

	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false,
					  TYPALIGN_INT, elements, nulls, &n);
	return n;
}

/* Wants a regular expression; PostgreSQL's own words if it is none. */
void
check_pattern(const CheckedRow *row pg_attribute_unused(),
			  const ColumnRule *rule pg_attribute_unused(), Datum value)
{
	(void) RE_compile_and_cache(DatumGetTextPP(value), REG_ADVANCED,
								DEFAULT_COLLATION_OID);
}

/* Wants a text that has something in it. */
void
check_not_empty(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	if (TextDatumGetCString(value)[0] == '\0')
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not be empty", COLUMN(row, rule))));
}

/* Wants any provider but the compiled-in one, which has no row. */
void
check_not_builtin(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	if (strcmp(TextDatumGetCString(value), BUILTIN_PROVIDER) == 0)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("provider \"%s\" is compiled in", BUILTIN_PROVIDER),
				 errhint("It needs no row here: name it in llm_route.provider.")));
}

/* Wants no region in a route to the compiled-in provider. */
void
check_builtin_region(const CheckedRow *row, const ColumnRule *rule,
					 Datum value)
{
	if (is_of_builtin(row))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("provider \"%s\" has no region \"%s\"",
						BUILTIN_PROVIDER, shown(TextDatumGetCString(value))),
				 errhint("Leave %s.%s NULL.", COLUMN(row, rule))));
}

/* Wants a model that is compiled in, when the provider is. */
void
check_builtin_model(const CheckedRow *row, const ColumnRule *rule,
					Datum value)
{
	char	   *model = TextDatumGetCString(value);

	if (is_of_builtin(row) && builtin_find(model) == BUILTIN_NONE)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("provider \"%s\" has no model \"%s\"",
						BUILTIN_PROVIDER, shown(model)),
				 errhint("Models: %s.", builtin_names())));
}

/* Says whether a route leads to the compiled-in provider. */
bool
is_of_builtin(const CheckedRow *row)
{
	char	   *provider = column_text(row->rel, row->tuple, "provider");

	return provider && strcmp(provider, BUILTIN_PROVIDER) == 0;
}

/* Wants another tier; whether it exists is check_refer.c's. */
void
check_fallback(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *name = column_text(row->rel, row->tuple, "name");

	if (name && strcmp(TextDatumGetCString(value), name) == 0)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("tier \"%s\" falls back to itself: %s -> %s",
						name, name, name)));
}
