/*
 * check_chain.c
 *	  A tier's fallback must exist, and a chain of fallbacks must end.
 *
 * Checked when the statement is done, so that tiers may come in any order, and
 * not at all while check_function_bodies is off, as in a restore. No lock is
 * taken: two transactions may break a chain between them, and so each call
 * keeps count of the tiers it has been to.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "check.h"

/* A row of llm_tier, as far as chains are concerned. */
typedef struct ChainLink
{
	char	   *name;
	char	   *fallback;		/* or NULL */
	bool		touched;		/* by this statement */
	struct ChainLink *next;		/* the fallback; NULL: none of that name */
} ChainLink;

typedef struct Chain
{
	Relation	rel;
	bool		deleting;
	int			nlinks;
	ChainLink  *links;
} Chain;

static bool changes_chains(const TriggerData *trigger);
static void read_chain(Chain *chain, TriggerQuery *query);
static void check_chain_from(const Chain *chain, const ChainLink *start);
static ChainLink *find_link(const Chain *chain, const char *name);
static int	compare_name(const void *name, const void *link);
static void refuse_cycle(const Chain *chain, const ChainLink *start);
static void refuse_missing_fallback(const Chain *chain,
									const ChainLink *link);

PG_FUNCTION_INFO_V1(llm_config_chain);

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
		" FROM @.llm_tier t ORDER BY t.name COLLATE \"C\"" :
		"SELECT t.name, t.fallback,"
		" EXISTS (SELECT FROM changed c WHERE c.name = t.name)"
		" FROM @.llm_tier t ORDER BY t.name COLLATE \"C\"";

	chain->nlinks = (int) query_run(query, sql, 0, NULL, NULL, NULL);
	chain->links = palloc((chain->nlinks + 1) * sizeof(ChainLink));
	for (int i = 0; i < chain->nlinks; i++)
	{
		chain->links[i].name = query_text(i, 0);
		chain->links[i].fallback = query_text(i, 1);
		chain->links[i].touched = query_is_true(i, 2);
	}
	for (int i = 0; i < chain->nlinks; i++)
		chain->links[i].next = find_link(chain, chain->links[i].fallback);
}

static ChainLink *
find_link(const Chain *chain, const char *name)
{
	return name == NULL ? NULL :
		bsearch(name, chain->links, chain->nlinks, sizeof(ChainLink),
				compare_name);
}

static int
compare_name(const void *name, const void *link)
{
	return strcmp(name, ((const ChainLink *) link)->name);
}

/*
 * Refuses a tier whose fallback is missing, or whose chain comes back to it. A
 * chain that is broken or goes in circles further on is not its fault; hence
 * no more steps than there are tiers.
 */
static void
check_chain_from(const Chain *chain, const ChainLink *start)
{
	const ChainLink *link = start->next;

	if (start->fallback && link == NULL)
		refuse_missing_fallback(chain, start);
	for (int steps = 0; steps < chain->nlinks && link; steps++)
	{
		CHECK_FOR_INTERRUPTS();
		if (link == start)
			refuse_cycle(chain, start);
		link = link->next;
	}
}

static void
refuse_cycle(const Chain *chain, const ChainLink *start)
{
	const ChainLink *link = start;
	StringInfoData path;

	initStringInfo(&path);
	appendStringInfoString(&path, start->name);
	do
	{
		link = link->next;
		appendStringInfo(&path, " -> %s", link->name);
	} while (link != start);
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errtablecol(chain->rel, column_number(chain->rel, "fallback")),
			 errmsg("tier \"%s\" falls back to itself: %s",
					start->name, path.data)));
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
