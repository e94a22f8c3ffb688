/*
 * check_refer.c
 *	  What a row names must exist: provider, region and tier. And what is worth
 *	  a NOTICE.
 *
 * This is done here and not by foreign keys, for three reasons. A provider may
 * be compiled in and a region implicit. pg_restore with many jobs loads the
 * tables of an extension at the same time, in no order that foreign keys would
 * bear. And the messages can say what was meant.
 *
 * As foreign keys do, it waits until the statement is done, so that rows may
 * come in any order, and locks what is referred to, so that whoever deletes or
 * renames it waits for us and then finds our row (cascade.c). While
 * check_function_bodies is off, as in a restore, nothing is checked: there one
 * statement is one table.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "catalog/builtin.h"
#include "catalog/config.h"
#include "check.h"

/*
 * A column that names a row of another table. `exists` finds and locks it,
 * `names` lists those there are.
 */
typedef struct Reference
{
	const char *table;
	const char *column;
	const char *noun;
	const char *exists;
	const char *names;
	const char *hint;			/* when no name is like it */
} Reference;

#define INSERT_FIRST(table) \
	"Insert it into " table " first, or in the same statement."

/*
 * A region locks out changes of its provider's base_url meanwhile, because a
 * region with a reference may stand in their way: see check_access.c.
 */
static const Reference references[] = {
	{"llm_region", "provider", "provider",
		"SELECT FROM @.llm_provider WHERE name = $1 FOR SHARE",
	"SELECT name FROM @.llm_provider ORDER BY 1", INSERT_FIRST("llm_provider")},
	{"llm_model", "provider", "provider",
		"SELECT FROM @.llm_provider WHERE name = $1 FOR KEY SHARE",
	"SELECT name FROM @.llm_provider ORDER BY 1", INSERT_FIRST("llm_provider")},
	{"llm_probe", "provider", "provider",
		"SELECT FROM @.llm_provider WHERE name = $1 FOR KEY SHARE",
	"SELECT name FROM @.llm_provider ORDER BY 1", INSERT_FIRST("llm_provider")},
	{"llm_route", "tier", "tier",
		"SELECT FROM @.llm_tier WHERE name = $1 FOR KEY SHARE",
	"SELECT name FROM @.llm_tier ORDER BY 1", INSERT_FIRST("llm_tier")},
	{"llm_route", "provider", "provider",
		"SELECT FROM @.llm_provider WHERE name = $1 FOR KEY SHARE",
		"SELECT name FROM @.llm_provider UNION ALL SELECT '" BUILTIN_PROVIDER "'"
	" ORDER BY 1", INSERT_FIRST("llm_provider")},
};

static void check_references(TriggerQuery *query, const CheckedRow *row);
static bool names_region(const CheckedRow *row);
static void check_exists(TriggerQuery *query, const CheckedRow *row,
						 const Reference *reference);
static const char *closest_of_result(uint64 n, const char *name);
static void check_region_exists(TriggerQuery *query, const CheckedRow *row);
static char *list_of_result(uint64 n);
static void notice_unknown_models(TriggerQuery *query);
static void notice_tiers_without_route(TriggerQuery *query);

PG_FUNCTION_INFO_V1(llm_config_refer);
PG_FUNCTION_INFO_V1(llm_config_notice);

/* AFTER INSERT OR UPDATE, by row: wants what the row names to exist. */
Datum
llm_config_refer(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CheckedRow	row;
	TriggerQuery query;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		elog(ERROR, "llm_config_refer: wrong kind of trigger");
	if (!check_function_bodies)
		return PointerGetDatum(NULL);

	row = triggered_row(trigger);
	query_begin(&query, row.rel, AS_OWNER, NULL);
	check_references(&query, &row);
	query_end(&query);
	return PointerGetDatum(NULL);
}

/* Checks what the statement has changed; a restore may have left the rest. */
static void
check_references(TriggerQuery *query, const CheckedRow *row)
{
	const char *table = RelationGetRelationName(row->rel);

	for (size_t i = 0; i < lengthof(references); i++)
		if (strcmp(references[i].table, table) == 0 &&
			row_changed(row, references[i].column))
			check_exists(query, row, &references[i]);
	if (names_region(row) && !is_of_builtin(row) &&
		(row_changed(row, "provider") || row_changed(row, "region")))
		check_region_exists(query, row);
}

/* Says whether a row is of a table whose column region names one. */
static bool
names_region(const CheckedRow *row)
{
	const char *table = RelationGetRelationName(row->rel);

	return strcmp(table, "llm_route") == 0 || strcmp(table, "llm_probe") == 0;
}

/* Refuses a name that there is not, and says which one may be meant. */
static void
check_exists(TriggerQuery *query, const CheckedRow *row,
			 const Reference *reference)
{
	char	   *name = column_text(row->rel, row->tuple, reference->column);
	const char *closest;

	if (strcmp(name, BUILTIN_PROVIDER) == 0 &&
		strcmp(reference->column, "provider") == 0)
		return;
	if (query_run_text(query, reference->exists, 1, &name) > 0)
		return;
	closest = closest_of_result(query_run_text(query, reference->names,
											   0, NULL), name);
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errtablecol(row->rel, column_number(row->rel, reference->column)),
			 errmsg("%s \"%s\" does not exist", reference->noun, name),
			 closest ? errhint("Did you mean \"%s\"?", closest) :
			 errhint("%s", reference->hint)));
}

/* Finds the name that is most like another among those of the last result. */
static const char *
closest_of_result(uint64 n, const char *name)
{
	const char **names = palloc((n + 1) * sizeof(char *));

	for (uint64 i = 0; i < n; i++)
		names[i] = query_text(i, 0);
	return closest_name(name, names, (int) n);
}

/* A provider without any row in llm_region has the implicit one. */
static void
check_region_exists(TriggerQuery *query, const CheckedRow *row)
{
	char	   *key[] = {
		column_text(row->rel, row->tuple, "provider"),
		column_text(row->rel, row->tuple, "region")
	};
	uint64		n;

	if (key[1] == NULL ||
		query_run_text(query,
					   "SELECT FROM @.llm_region"
					   " WHERE provider = $1 AND name = $2 FOR KEY SHARE",
					   2, key) > 0)
		return;
	n = query_run_text(query,
					   "SELECT name FROM @.llm_region WHERE provider = $1"
					   " ORDER BY position, ctid", 1, key);
	if (n == 0 && strcmp(key[1], IMPLICIT_REGION) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errtablecol(row->rel, column_number(row->rel, "region")),
			 errmsg("provider \"%s\" has no region \"%s\"", key[0], key[1]),
			 errhint("Its regions: %s.",
					 n == 0 ? IMPLICIT_REGION : list_of_result(n))));
}

/* Lists the first column of the last result, separated by commas. */
static char *
list_of_result(uint64 n)
{
	StringInfoData list;

	initStringInfo(&list);
	for (uint64 i = 0; i < n; i++)
		appendStringInfo(&list, "%s%s", i == 0 ? "" : ", ", query_text(i, 0));
	return list.data;
}

/*
 * AFTER INSERT, UPDATE or DELETE, by statement, on llm_route, the transition
 * table being "changed": tells what is allowed and may still be a mistake.
 */
Datum
llm_config_notice(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TriggerQuery query;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		elog(ERROR, "llm_config_notice: wrong kind of trigger");
	if (!check_function_bodies)
		return PointerGetDatum(NULL);

	query_begin(&query, trigger->tg_relation, AS_OWNER, trigger);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		notice_unknown_models(&query);
	else
		notice_tiers_without_route(&query);
	query_end(&query);
	return PointerGetDatum(NULL);
}

/* Tells of new routes whose model has no row. */
static void
notice_unknown_models(TriggerQuery *query)
{
	uint64		n = query_run(query,
							  "SELECT DISTINCT c.provider, c.model"
							  " FROM changed c WHERE c.provider <> 'builtin'"
							  " AND NOT EXISTS (SELECT FROM @.llm_model m"
							  " WHERE m.provider = c.provider"
							  " AND m.name = c.model) ORDER BY 1, 2",
							  0, NULL, NULL, NULL);

	for (uint64 i = 0; i < n; i++)
		ereport(NOTICE,
				(errmsg("no row in llm_model for %s/%s: price and context window are unknown",
						query_text(i, 0), query_text(i, 1))));
}

/* Tells of tiers that had an enabled route before and have none now. */
static void
notice_tiers_without_route(TriggerQuery *query)
{
	uint64		n = query_run(query,
							  "SELECT t.name FROM @.llm_tier t"
							  " WHERE EXISTS (SELECT FROM changed c"
							  " WHERE c.tier = t.name AND c.enabled)"
							  " AND NOT EXISTS (SELECT FROM @.llm_route r"
							  " WHERE r.tier = t.name AND r.enabled)"
							  " ORDER BY 1", 0, NULL, NULL, NULL);

	for (uint64 i = 0; i < n; i++)
		ereport(NOTICE,
				(errmsg("tier \"%s\" has no enabled route left",
						query_text(i, 0))));
}
