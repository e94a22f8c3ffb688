/*
 * check_seed.c
 *	  The rows that belong to the extension: tiers default and offline, and the
 *	  routes of offline.
 *
 * They may be changed and disabled, but not deleted, renamed or truncated. An
 * INSERT of one, by a dump or by a deploy script that runs again, becomes an
 * UPDATE of all its columns.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "check.h"

#define MAX_KEY 3

/*
 * The columns by which a row of a table is known; a compiled-in provider has
 * no region.
 */
typedef struct SeedTable
{
	const char *table;
	int			nkeys;
	const char *keys[MAX_KEY];
	const char *spare_seeds;	/* the statement to write instead of TRUNCATE */
} SeedTable;

typedef struct Seed
{
	const SeedTable *table;
	const char *key[MAX_KEY];
} Seed;

static const SeedTable tier_table = {
	"llm_tier", 1, {"name"},
	"DELETE FROM llm_tier WHERE name NOT IN ('default', 'offline')."
};

static const SeedTable route_table = {
	"llm_route", 3, {"tier", "provider", "model"},
	"DELETE FROM llm_route WHERE tier <> 'offline'."
};

static const Seed seeds[] = {
	{&tier_table, {"default"}},
	{&tier_table, {"offline"}},
	{&route_table, {"offline", "builtin", "rule"}},
	{&route_table, {"offline", "builtin", "extract"}},
};

static const Seed *find_seed(Relation rel, HeapTuple tuple);
static bool has_key(Relation rel, HeapTuple tuple, const Seed *seed);
static HeapTuple insert_as_update(Relation rel, HeapTuple tuple);
static uint64 update_seed(const Seed *seed, Relation rel, HeapTuple tuple);
static char *seed_condition(const Seed *seed);
static void refuse_change(const Seed *seed, const char *what);
static void refuse_truncate(Relation rel);

PG_FUNCTION_INFO_V1(llm_config_seed);

/*
 * BEFORE INSERT, UPDATE or DELETE, by row, and BEFORE TRUNCATE, on llm_tier
 * and llm_route.
 */
Datum
llm_config_seed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	HeapTuple	tuple;
	const Seed *seed;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event))
		elog(ERROR, "llm_config_seed: wrong kind of trigger");
	rel = trigger->tg_relation;
	tuple = trigger->tg_trigtuple;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		refuse_truncate(rel);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		return PointerGetDatum(insert_as_update(rel, tuple));

	seed = find_seed(rel, tuple);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		tuple = trigger->tg_newtuple;
		if (seed && !has_key(rel, tuple, seed))
			refuse_change(seed, "change the key of");
	}
	else if (seed)
		refuse_change(seed, "delete");
	return PointerGetDatum(tuple);
}

/* Finds the seed that has the key of a row, or NULL. */
static const Seed *
find_seed(Relation rel, HeapTuple tuple)
{
	for (size_t i = 0; i < lengthof(seeds); i++)
		if (strcmp(seeds[i].table->table, RelationGetRelationName(rel)) == 0 &&
			has_key(rel, tuple, &seeds[i]))
			return &seeds[i];
	return NULL;
}

static bool
has_key(Relation rel, HeapTuple tuple, const Seed *seed)
{
	for (int i = 0; i < seed->table->nkeys; i++)
	{
		char	   *value = column_text(rel, tuple, seed->table->keys[i]);

		if (value == NULL || strcmp(value, seed->key[i]) != 0)
			return false;
	}
	return true;
}

/* Returns the row to insert; none when it has updated a seed instead. */
static HeapTuple
insert_as_update(Relation rel, HeapTuple tuple)
{
	const Seed *seed = find_seed(rel, tuple);

	return seed && update_seed(seed, rel, tuple) > 0 ? NULL : tuple;
}

/*
 * Gives a seed the columns of a row with its key, with the user's rights.
 * Returns 0 if the seed is not there.
 */
static uint64
update_seed(const Seed *seed, Relation rel, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TriggerQuery query;
	StringInfoData sql;
	Oid		   *types = palloc(desc->natts * sizeof(Oid));
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	char	   *nulls = palloc(desc->natts);
	int			n = 0;
	uint64		nupdated;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE @.%s SET ", seed->table->table);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		isnull;

		if (column->attisdropped || column->attgenerated)
			continue;
		types[n] = column->atttypid;
		values[n] = heap_getattr(tuple, i + 1, desc, &isnull);
		nulls[n] = isnull ? 'n' : ' ';
		n++;
		appendStringInfo(&sql, "%s%s = $%d", n == 1 ? "" : ", ",
						 quote_identifier(NameStr(column->attname)), n);
	}
	appendStringInfo(&sql, " WHERE %s", seed_condition(seed));

	query_begin(&query, rel, AS_USER, NULL);
	nupdated = query_run(&query, sql.data, n, types, values, nulls);
	query_end(&query);
	return nupdated;
}

/* Writes the key as SQL. */
static char *
seed_condition(const Seed *seed)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < seed->table->nkeys; i++)
		appendStringInfo(&sql, "%s%s = '%s'", i == 0 ? "" : " AND ",
						 seed->table->keys[i], seed->key[i]);
	return sql.data;
}

static void
refuse_change(const Seed *seed, const char *what)
{
	bool		is_tier = seed->table == &tier_table;

	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 is_tier ?
			 errmsg("cannot %s tier \"%s\": it belongs to the extension",
					what, seed->key[0]) :
			 errmsg("cannot %s route from \"%s\" to %s/%s: it belongs to the extension",
					what, seed->key[0], seed->key[1], seed->key[2]),
			 errhint("UPDATE %s SET enabled = false WHERE %s.",
					 seed->table->table, seed_condition(seed))));
}

static void
refuse_truncate(Relation rel)
{
	const char *table = RelationGetRelationName(rel);
	bool		is_tier = strcmp(table, tier_table.table) == 0;

	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot truncate %s: it holds rows that belong to the extension",
					table),
			 errhint("%s", is_tier ? tier_table.spare_seeds :
					 route_table.spare_seeds)));
}
