/*
 * check.c
 *	  What each column of the configuration tables may hold.
 *
 * A BEFORE ROW trigger that runs before the CHECK constraints, to say column,
 * remedy and value where they would only name themselves. The rules are one
 * array; those of a table apply in its order. Whatever looks at other rows is
 * not here, so that the order of rows in a statement does not matter; the one
 * exception is the right to write references, see check_access.c.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#include "check.h"

#define MAX_WEIGHT		1000000
#define MAX_ATTEMPTS	100
#define MAX_HALF_OPEN_CALLS 100
#define MAX_WARM_SHARE	0.5
#define SHOWN_MAX		80		/* bytes of a value in a message */

static const char *const strategies[] = {
	"weighted", "latency", "least_busy", "cost", NULL
};
static const char *const filter_reactions[] = {"raise", "next", NULL};

/* Tables where somebody may write a key, if only into the wrong column. */
static const char *const key_tables[] = {
	"llm_secret", "llm_provider", "llm_region"
};

#define RULE(table_, column_, check_, ...) \
	{.table = table_, .column = column_, .check = check_, __VA_ARGS__}

static const ColumnRule column_rules[] = {
	RULE("llm_secret", "name", check_secret_name, .sees_null = true),
	RULE("llm_secret", "value", check_key, .sees_null = true),

	RULE("llm_provider", "name", check_name),
	RULE("llm_provider", "name", check_not_builtin),
	RULE("llm_provider", "dialect", check_dialect),
	RULE("llm_provider", "base_url", check_base_url),
	RULE("llm_provider", "secret", check_reference),
	RULE("llm_provider", "headers", check_headers),
	RULE("llm_provider", "secret", check_provider_access, .sees_null = true),
	RULE("llm_provider", "breaker_window", check_window),
	RULE("llm_provider", "breaker_min_calls", check_number, .min = 1, .max = INFINITY),
	RULE("llm_provider", "breaker_failure_rate", check_number, .min = 0, .max = 1),
	RULE("llm_provider", "breaker_consecutive", check_number, .min = 1, .max = INFINITY),
	RULE("llm_provider", "breaker_slow_call", check_duration),
	RULE("llm_provider", "breaker_slow_rate", check_number, .min = 0, .max = 1),
	RULE("llm_provider", "breaker_open_time", check_duration),
	RULE("llm_provider", "breaker_open_time_max", check_duration),
	RULE("llm_provider", "breaker_open_time", check_open_time),
	RULE("llm_provider", "breaker_half_open_calls", check_number, .min = 1, .max = MAX_HALF_OPEN_CALLS),
	RULE("llm_provider", "breaker_ramp", check_ramp),

	RULE("llm_region", "provider", check_not_builtin),
	RULE("llm_region", "name", check_name),
	RULE("llm_region", "base_url", check_base_url),
	RULE("llm_region", "secret", check_reference),
	RULE("llm_region", "params", check_params),
	RULE("llm_region", "residency", check_labels),
	RULE("llm_region", "weight", check_number, .min = 0, .max = MAX_WEIGHT),
	RULE("llm_region", "secret", check_region_access, .sees_null = true),
	RULE("llm_region", "max_inflight", check_number, .min = 1, .max = INFINITY),

	RULE("llm_model", "provider", check_not_builtin),
	RULE("llm_model", "name", check_model_name),
	RULE("llm_model", "context_window", check_number, .min = 1, .max = INFINITY),
	RULE("llm_model", "max_output_tokens", check_number, .min = 1, .max = INFINITY),
	RULE("llm_model", "input_price", check_number, .min = 0, .max = INFINITY),
	RULE("llm_model", "output_price", check_number, .min = 0, .max = INFINITY),
	RULE("llm_model", "cached_input_price", check_number, .min = 0, .max = INFINITY),
	RULE("llm_model", "capabilities", check_capabilities),
	RULE("llm_model", "rpm", check_number, .min = 1, .max = INFINITY),
	RULE("llm_model", "tpm", check_number, .min = 1, .max = INFINITY),

	RULE("llm_tier", "name", check_name),
	RULE("llm_tier", "fallback", check_name),
	RULE("llm_tier", "fallback", check_fallback),
	RULE("llm_tier", "strategy", check_word, .words = strategies),
	RULE("llm_tier", "timeout", check_duration),
	RULE("llm_tier", "attempt_timeout", check_duration),
	RULE("llm_tier", "connect_timeout", check_duration),
	RULE("llm_tier", "first_byte_timeout", check_duration),
	RULE("llm_tier", "max_attempts", check_number, .min = 1, .max = MAX_ATTEMPTS),
	RULE("llm_tier", "on_content_filter", check_word, .words = filter_reactions),
	RULE("llm_tier", "hedge_after", check_duration),
	RULE("llm_tier", "warm_share", check_number, .min = 0, .max = MAX_WARM_SHARE),
	RULE("llm_tier", "queue_timeout", check_wait),

	RULE("llm_route", "provider", check_name),
	RULE("llm_route", "region", check_name),
	RULE("llm_route", "region", check_builtin_region),
	RULE("llm_route", "model", check_model_name),
	RULE("llm_route", "model", check_builtin_model),
	RULE("llm_route", "weight", check_number, .min = 0, .max = MAX_WEIGHT),
	RULE("llm_route", "params", check_params),
	RULE("llm_route", "params", check_builtin_params),

	RULE("llm_rule", "name", check_label),
	RULE("llm_rule", "feature", check_label),
	RULE("llm_rule", "pattern", check_pattern),

	RULE("llm_probe", "provider", check_not_builtin),
	RULE("llm_probe", "provider", check_name),
	RULE("llm_probe", "region", check_name),
	RULE("llm_probe", "model", check_model_name),
	RULE("llm_probe", "every", check_duration),
	RULE("llm_probe", "prompt", check_not_empty),
	RULE("llm_probe", "expect", check_pattern),
};

static void check_columns(const CheckedRow *row);
static void check_not_null(const CheckedRow *row);
static int	find_column(Relation rel, const char *column);
static void hide_copied_line(Relation rel);

PG_FUNCTION_INFO_V1(llm_config_check);

/* BEFORE INSERT OR UPDATE, by row: refuses a row that cannot work. */
Datum
llm_config_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CheckedRow	row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		elog(ERROR, "llm_config_check: wrong kind of trigger");

	row = triggered_row(trigger);
	hide_copied_line(row.rel);
	check_columns(&row);
	check_not_null(&row);
	return PointerGetDatum(row.tuple);
}

/*
 * Applies the rules of the row's table. What has no column there belongs to a
 * later version of the SQL than the database has.
 */
static void
check_columns(const CheckedRow *row)
{
	TupleDesc	desc = RelationGetDescr(row->rel);

	for (size_t i = 0; i < lengthof(column_rules); i++)
	{
		const ColumnRule *rule = &column_rules[i];
		int			number;
		Datum		value;
		bool		isnull;

		if (strcmp(rule->table, RelationGetRelationName(row->rel)) != 0)
			continue;
		number = find_column(row->rel, rule->column);
		if (number == 0)
			continue;
		value = heap_getattr(row->tuple, number, desc, &isnull);
		if (!isnull || rule->sees_null)
			rule->check(row, rule, isnull ? (Datum) 0 : value);
	}
}

/*
 * Refuses NULLs where there must be none. PostgreSQL would do so as well, but
 * it prints the whole row.
 */
static void
check_not_null(const CheckedRow *row)
{
	TupleDesc	desc = RelationGetDescr(row->rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attnotnull && !column->attisdropped &&
			heap_attisnull(row->tuple, i + 1, desc))
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errtablecol(row->rel, i + 1),
					 errmsg("%s.%s must not be NULL",
							RelationGetRelationName(row->rel),
							NameStr(column->attname))));
	}
}

/*
 * Keeps a COPY into a table with keys from printing its line as the context of
 * an error, ours or a unique violation behind us.
 */
static void
hide_copied_line(Relation rel)
{
	const char *table = RelationGetRelationName(rel);
	bool		has_keys = false;

	for (size_t i = 0; i < lengthof(key_tables); i++)
		has_keys |= strcmp(key_tables[i], table) == 0;
	if (!has_keys)
		return;
	for (ErrorContextCallback *c = error_context_stack; c; c = c->previous)
	{
		CopyFromState copy = c->arg;

		if (c->callback == CopyFromErrorCallback && copy->rel == rel)
			copy->line_buf_valid = false;
	}
}

/* Returns the row that a trigger fired for. */
CheckedRow
triggered_row(const TriggerData *trigger)
{
	CheckedRow	row = {.rel = trigger->tg_relation};

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		row.tuple = trigger->tg_trigtuple;
	else
		row.old = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		row.tuple = trigger->tg_newtuple;
	return row;
}

/* Finds a column by name; 0 if there is none. */
static int
find_column(Relation rel, const char *column)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), column) == 0)
			return i + 1;
	return 0;
}

/* Finds a column by name; there is no table of ours without it. */
int
column_number(Relation rel, const char *column)
{
	int			number = find_column(rel, column);

	if (number == 0)
		elog(ERROR, "table \"%s\" has no column \"%s\"",
			 RelationGetRelationName(rel), column);
	return number;
}

/* Returns a text column of a row, palloc'd, or NULL. */
char *
column_text(Relation rel, HeapTuple tuple, const char *column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column_number(rel, column),
									 RelationGetDescr(rel), &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* Says whether this statement gives the column another value; INSERT does. */
bool
row_changed(const CheckedRow *row, const char *column)
{
	TupleDesc	desc = RelationGetDescr(row->rel);
	int			number = column_number(row->rel, column);
	Form_pg_attribute type = TupleDescAttr(desc, number - 1);
	bool		was_null;
	bool		is_null;
	Datum		was;
	Datum		is;

	if (row->old == NULL)
		return true;
	was = heap_getattr(row->old, number, desc, &was_null);
	is = heap_getattr(row->tuple, number, desc, &is_null);
	if (was_null || is_null)
		return was_null != is_null;
	return !datum_image_eq(was, is, type->attbyval, type->attlen);
}

/* Part of an ereport: SQLSTATE, table and column of a refused value. */
int
refusal(const CheckedRow *row, const char *column)
{
	errcode(ERRCODE_CHECK_VIOLATION);
	return errtablecol(row->rel, column_number(row->rel, column));
}

/*
 * Makes a value fit to stand in a message: not too long, and without control
 * characters, which could forge lines of a log.
 */
char *
shown(const char *value)
{
	int			len = (int) strnlen(value, SHOWN_MAX + MAX_MULTIBYTE_CHAR_LEN);
	int			cut = pg_mbcliplen(value, len, SHOWN_MAX);
	char	   *text = pnstrdup(value, cut);

	for (char *c = text; *c; c++)
		if ((unsigned char) *c < ' ' || *c == '\x7f')
			*c = '?';
	return cut == len ? text : psprintf("%s...", text);
}
