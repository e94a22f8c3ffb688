/*
 * check_refer.c
 *	  What a row names and a foreign key cannot hold: a route's provider, which
 *	  may be compiled in, its region, which may be implicit, and a tier's
 *	  fallback. And what is worth a NOTICE.
 *
 * All of it when the statement is done, so that rows may come in any order.
 * While check_function_bodies is off, as in a restore, none of it: there one
 * statement is one table.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "catalog/builtin.h"
#include "catalog/config.h"
#include "check.h"

/* A row of llm_tier, as far as chains are concerned. */
typedef struct ChainLink
{
	char	   *name;
	char	   *fallback;		/* or NULL */
	bool		touched;		/* by this statement */
} ChainLink;

typedef struct Chain
{
	Relation	rel;
	bool		deleting;
	int			nlinks;
	ChainLink  *links;
} Chain;

static void check_provider_exists(TriggerQuery *query, const CheckedRow *row,
								  char *provider);
static void check_region_exists(TriggerQuery *query, const CheckedRow *row,
								char *provider, char *region);
static char *list_of_result(uint64 n);
static const char *hint_for_provider(TriggerQuery *query, char *provider);
static bool changes_chains(const TriggerData *trigger);
static void read_chain(Chain *chain, TriggerQuery *query);
static void check_chain_from(const Chain *chain, const ChainLink *start);
static const ChainLink *find_link(const Chain *chain, const char *name);
static void refuse_missing_fallback(const Chain *chain,
									const ChainLink *link);
static void notice_unknown_models(TriggerQuery *query);
static void notice_tiers_without_route(TriggerQuery *query);

PG_FUNCTION_INFO_V1(llm_config_refer);
PG_FUNCTION_INFO_V1(llm_config_chain);
PG_FUNCTION_INFO_V1(llm_config_notice);

/*
 * AFTER INSERT OR UPDATE, by row, on llm_route: wants provider and region to
 * exist, and keeps them from being deleted meanwhile.
 */
Datum
llm_config_refer(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CheckedRow	row;
	TriggerQuery query;
	char	   *provider;
	char	   *region;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		elog(ERROR, "llm_config_refer: wrong kind of trigger");

	row.rel = trigger->tg_relation;
	row.old = NULL;
	row.tuple = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		row.old = trigger->tg_trigtuple;
		row.tuple = trigger->tg_newtuple;
	}
	provider = row_text(&row, row.tuple, "provider");
	region = row_text(&row, row.tuple, "region");
	if (!check_function_bodies || strcmp(provider, BUILTIN_PROVIDER) == 0 ||
		!(row_changed(&row, "provider") || row_changed(&row, "region")))
		return PointerGetDatum(NULL);

	query_begin(&query, row.rel, AS_OWNER, NULL);
	check_provider_exists(&query, &row, provider);
	if (region)
		check_region_exists(&query, &row, provider, region);
	query_end(&query);
	return PointerGetDatum(NULL);
}

static void
check_provider_exists(TriggerQuery *query, const CheckedRow *row,
					  char *provider)
{
	if (query_run_text(query,
					   "SELECT FROM @.llm_provider WHERE name = $1"
					   " FOR KEY SHARE", 1, &provider) > 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errtablecol(row->rel, column_number(row->rel, "provider")),
			 errmsg("provider \"%s\" does not exist", provider),
			 errhint("%s", hint_for_provider(query, provider))));
}

/* Names the provider that was meant, if there is one like it. */
static const char *
hint_for_provider(TriggerQuery *query, char *provider)
{
	int			n = (int) query_run(query,
									"SELECT name FROM @.llm_provider"
									" ORDER BY name", 0, NULL, NULL, NULL);
	const char **names = palloc((n + 1) * sizeof(char *));
	const char *closest;

	for (int i = 0; i < n; i++)
		names[i] = query_text(i, 0);
	names[n] = BUILTIN_PROVIDER;
	closest = closest_name(provider, names, n + 1);
	if (closest == NULL)
		return "Insert it into llm_provider first, or in the same statement.";
	return psprintf("Did you mean \"%s\"?", closest);
}

/* A provider without any row in llm_region has the implicit one. */
static void
check_region_exists(TriggerQuery *query, const CheckedRow *row,
					char *provider, char *region)
{
	char	   *key[] = {provider, region};
	uint64		n;

	if (query_run_text(query,
					   "SELECT FROM @.llm_region"
					   " WHERE provider = $1 AND name = $2 FOR KEY SHARE",
					   2, key) > 0)
		return;
	n = query_run_text(query,
					   "SELECT name FROM @.llm_region WHERE provider = $1"
					   " ORDER BY position, ctid", 1, key);
	if (n == 0 && strcmp(region, IMPLICIT_REGION) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errtablecol(row->rel, column_number(row->rel, "region")),
			 errmsg("provider \"%s\" has no region \"%s\"", provider, region),
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
 * AFTER INSERT, UPDATE or DELETE, by statement, on llm_tier, the transition
 * table being "changed": wants each fallback to exist and each chain to end.
 */
Datum
llm_config_chain(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TriggerQuery query;
	Chain		chain;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		elog(ERROR, "llm_config_chain: wrong kind of trigger");
	if (!check_function_bodies || !changes_chains(trigger))
		return PointerGetDatum(NULL);

	query_begin(&query, trigger->tg_relation, AS_OWNER, trigger);
	chain.rel = trigger->tg_relation;
	chain.deleting = TRIGGER_FIRED_BY_DELETE(trigger->tg_event);
	read_chain(&chain, &query);
	for (int i = 0; i < chain.nlinks; i++)
		if (chain.links[i].touched)
			check_chain_from(&chain, &chain.links[i]);
	query_end(&query);
	return PointerGetDatum(NULL);
}

/*
 * Says whether a statement may change a chain. One that does not must work on
 * a tier whose chain a restore left broken.
 */
static bool
changes_chains(const TriggerData *trigger)
{
	static const char *const columns[] = {"name", "fallback"};

	if (!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return true;
	for (size_t i = 0; i < lengthof(columns); i++)
		if (bms_is_member(column_number(trigger->tg_relation, columns[i]) -
						  FirstLowInvalidHeapAttributeNumber,
						  trigger->tg_updatedcols))
			return true;
	return false;
}

/*
 * Reads all tiers. Touched are those that the statement wrote, or those that
 * fall back to one that it deleted.
 */
static void
read_chain(Chain *chain, TriggerQuery *query)
{
	const char *sql = chain->deleting ?
		"SELECT t.name, t.fallback,"
		" EXISTS (SELECT FROM changed c WHERE c.name = t.fallback)"
		" FROM @.llm_tier t ORDER BY t.name" :
		"SELECT t.name, t.fallback,"
		" EXISTS (SELECT FROM changed c WHERE c.name = t.name)"
		" FROM @.llm_tier t ORDER BY t.name";

	chain->nlinks = (int) query_run(query, sql, 0, NULL, NULL, NULL);
	chain->links = palloc((chain->nlinks + 1) * sizeof(ChainLink));
	for (int i = 0; i < chain->nlinks; i++)
	{
		chain->links[i].name = query_text(i, 0);
		chain->links[i].fallback = query_text(i, 1);
		chain->links[i].touched = query_is_true(i, 2);
	}
}

/*
 * Refuses a tier whose fallback is missing, or whose chain comes back to it. A
 * chain that is broken or goes in circles further on is not its fault; hence
 * no more steps than there are tiers.
 */
static void
check_chain_from(const Chain *chain, const ChainLink *start)
{
	const ChainLink *link = start;
	StringInfoData path;

	initStringInfo(&path);
	appendStringInfoString(&path, start->name);
	for (int steps = 0; steps < chain->nlinks && link->fallback; steps++)
	{
		link = find_link(chain, link->fallback);
		if (link == NULL && steps == 0)
			refuse_missing_fallback(chain, start);
		if (link == NULL)
			return;
		appendStringInfo(&path, " -> %s", link->name);
		if (link == start)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errtablecol(chain->rel,
								 column_number(chain->rel, "fallback")),
					 errmsg("tier \"%s\" falls back to itself: %s",
							start->name, path.data)));
	}
}

static const ChainLink *
find_link(const Chain *chain, const char *name)
{
	for (int i = 0; i < chain->nlinks; i++)
		if (strcmp(chain->links[i].name, name) == 0)
			return &chain->links[i];
	return NULL;
}

static void
refuse_missing_fallback(const Chain *chain, const ChainLink *link)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errtablecol(chain->rel, column_number(chain->rel, "fallback")),
			 errmsg("tier \"%s\" falls back to \"%s\", which does not exist",
					link->name, link->fallback),
			 chain->deleting ?
			 errhint("Give tier \"%s\" another fallback first.", link->name) :
			 errhint("Insert that tier first, or in the same statement.")));
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
