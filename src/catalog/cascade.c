/*
 * cascade.c
 *	  What a changed configuration row entails: every session reads the
 *	  configuration again, and rows that name it follow.
 *
 * check_refer.c says why these are no foreign keys.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "check.h"

#define MAX_KEY 2

/*
 * The statements by which rows of one other table follow a changed key. Their
 * parameters are the old key and, of an update, the new one.
 */
typedef struct Cascade
{
	const char *table;
	int			nkeys;
	const char *keys[MAX_KEY];
	const char *on_update;
	const char *on_delete;
	const char *on_truncate;
} Cascade;

static const Cascade cascades[] = {
	{"llm_provider", 1, {"name"},
		"UPDATE @.llm_region SET provider = $2 WHERE provider = $1",
		"DELETE FROM @.llm_region WHERE provider = $1",
	"DELETE FROM @.llm_region"},
	{"llm_provider", 1, {"name"},
		"UPDATE @.llm_model SET provider = $2 WHERE provider = $1",
		"DELETE FROM @.llm_model WHERE provider = $1",
	"DELETE FROM @.llm_model"},
	{"llm_provider", 1, {"name"},
		"UPDATE @.llm_route SET provider = $2 WHERE provider = $1",
		"DELETE FROM @.llm_route WHERE provider = $1",
	"DELETE FROM @.llm_route WHERE provider <> 'builtin'"},
	{"llm_provider", 1, {"name"},
		"UPDATE @.llm_probe SET provider = $2 WHERE provider = $1",
		"DELETE FROM @.llm_probe WHERE provider = $1",
	"DELETE FROM @.llm_probe"},
	{"llm_region", 2, {"provider", "name"},
		"UPDATE @.llm_route SET provider = $3, region = $4"
		" WHERE provider = $1 AND region = $2",
		"DELETE FROM @.llm_route WHERE provider = $1 AND region = $2",
	"DELETE FROM @.llm_route WHERE region IS NOT NULL"},
	{"llm_region", 2, {"provider", "name"},
		"UPDATE @.llm_probe SET provider = $3, region = $4"
		" WHERE provider = $1 AND region = $2",
		"DELETE FROM @.llm_probe WHERE provider = $1 AND region = $2",
	"DELETE FROM @.llm_probe WHERE region IS NOT NULL"},
	{"llm_tier", 1, {"name"},
		"UPDATE @.llm_route SET tier = $2 WHERE tier = $1",
		"DELETE FROM @.llm_route WHERE tier = $1",
	NULL},						/* there is no TRUNCATE of seeds */
	{"llm_tier", 1, {"name"},
		"UPDATE @.llm_tier SET fallback = $2 WHERE fallback = $1",
	NULL, NULL},				/* check_chain.c refuses */
};

static void follow(const Cascade *cascade, const TriggerData *trigger);
static int	read_keys(const Cascade *cascade, const CheckedRow *row,
					  char **keys);
static bool key_changed(const Cascade *cascade, const CheckedRow *row);
static void run_cascade(const TriggerData *trigger, const char *sql,
						int nkeys, char **keys);

PG_FUNCTION_INFO_V1(llm_config_changed);
PG_FUNCTION_INFO_V1(llm_config_cascade);

/* AFTER any change, by row, and AFTER TRUNCATE, on each table. */
Datum
llm_config_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "llm_config_changed: not called as a trigger");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* AFTER UPDATE or DELETE, by row, and AFTER TRUNCATE. */
Datum
llm_config_cascade(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		elog(ERROR, "llm_config_cascade: wrong kind of trigger");

	for (size_t i = 0; i < lengthof(cascades); i++)
		if (strcmp(cascades[i].table,
				   RelationGetRelationName(trigger->tg_relation)) == 0)
			follow(&cascades[i], trigger);
	return PointerGetDatum(NULL);
}

/* Lets the rows of one table follow. */
static void
follow(const Cascade *cascade, const TriggerData *trigger)
{
	char	   *keys[MAX_KEY * 2];
	CheckedRow	row = triggered_row(trigger);

	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		run_cascade(trigger, cascade->on_truncate, 0, NULL);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		run_cascade(trigger, cascade->on_delete,
					read_keys(cascade, &row, keys), keys);
	else if (key_changed(cascade, &row))
		run_cascade(trigger, cascade->on_update,
					read_keys(cascade, &row, keys), keys);
}

static bool
key_changed(const Cascade *cascade, const CheckedRow *row)
{
	for (int i = 0; i < cascade->nkeys; i++)
		if (row_changed(row, cascade->keys[i]))
			return true;
	return false;
}

/* Reads the old key and the new one, if there is one; returns how many. */
static int
read_keys(const Cascade *cascade, const CheckedRow *row, char **keys)
{
	int			n = 0;

	for (int i = 0; i < cascade->nkeys; i++)
		keys[n++] = column_text(row->rel, row->old, cascade->keys[i]);
	for (int i = 0; i < cascade->nkeys && row->tuple; i++)
		keys[n++] = column_text(row->rel, row->tuple, cascade->keys[i]);
	return n;
}

/*
 * Runs a cascade as the owner: who may delete a row need not own its routes.
 * Its own triggers cannot wait for the end of a TRUNCATE, which knows of no
 * tables but those that it empties.
 */
static void
run_cascade(const TriggerData *trigger, const char *sql, int nkeys,
			char **keys)
{
	TriggerQuery query;

	if (sql == NULL)
		return;
	query_begin(&query, trigger->tg_relation, AS_OWNER, NULL);
	query.fire_triggers = TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event);
	query_run_text(&query, sql, nkeys, keys);
	query_end(&query);
}
