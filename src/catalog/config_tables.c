/*
 * config_tables.c
 *	  Reads the configuration tables, row by row, as they are stored.
 *
 * The only place with the names of the tables and columns. Rows are read by
 * systable scans under one catalog snapshot for all tables: never through SPI,
 * whose snapshot is old under REPEATABLE READ or in the middle of a statement,
 * and which needs the caller's privileges.
 *
 * Columns are found by name each time. What is NULL, or is a column that the
 * table does not have (the library may be newer than the SQL), reads as in the
 * table's blank row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "config_internal.h"

#define MAX_COLUMNS 32			/* of a table that we read */

typedef struct ConfigColumn
{
	const char *name;
	Oid			type;
	ConfigReader read;
	size_t		field;			/* offset of the member to fill */
	size_t		aside;			/* and of a second one; 0 = none */
} ConfigColumn;

typedef struct ConfigTable
{
	const char *name;
	size_t		row_size;
	const void *blank;
	size_t		rows;			/* offset in Config: the array */
	size_t		nrows;			/* offset in Config: its count */
	int			ncolumns;
	const ConfigColumn *columns;
} ConfigTable;

/* Its breaker is filled in before tables are read. */
static Provider blank_provider = {.name = "", .dialect_name = ""};

static const ConfigColumn provider_columns[] = {
	{"name", TEXTOID, read_text, offsetof(Provider, name), 0},
	{"dialect", TEXTOID, read_text, offsetof(Provider, dialect_name), 0},
	{"base_url", TEXTOID, read_text, offsetof(Provider, base_url), 0},
	{"secret", TEXTOID, read_text, offsetof(Provider, secret), 0},
	{"headers", JSONBOID, read_headers, offsetof(Provider, headers),
	offsetof(Provider, nheaders)},
	{"enabled", BOOLOID, read_boolean, offsetof(Provider, enabled), 0},
	{"breaker_window", INTERVALOID, read_duration,
	offsetof(Provider, breaker.window), 0},
	{"breaker_min_calls", INT4OID, read_integer,
	offsetof(Provider, breaker.min_calls), 0},
	{"breaker_failure_rate", FLOAT4OID, read_share,
	offsetof(Provider, breaker.failure_rate), 0},
	{"breaker_consecutive", INT4OID, read_integer,
	offsetof(Provider, breaker.consecutive), 0},
	{"breaker_slow_call", INTERVALOID, read_duration,
	offsetof(Provider, breaker.slow_call), 0},
	{"breaker_slow_rate", FLOAT4OID, read_share,
	offsetof(Provider, breaker.slow_rate), 0},
	{"breaker_open_time", INTERVALOID, read_duration,
	offsetof(Provider, breaker.open_time), 0},
	{"breaker_open_time_max", INTERVALOID, read_duration,
	offsetof(Provider, breaker.open_time_max), 0},
	{"breaker_half_open_calls", INT4OID, read_integer,
	offsetof(Provider, breaker.half_open_calls), 0},
	{"breaker_ramp", INTERVALOID, read_duration,
	offsetof(Provider, breaker.ramp), 0},
};

static const Region blank_region = {
	.name = "",
	.provider_name = "",
	.position = 1
};

static const ConfigColumn region_columns[] = {
	{"provider", TEXTOID, read_text, offsetof(Region, provider_name), 0},
	{"name", TEXTOID, read_text, offsetof(Region, name), 0},
	{"base_url", TEXTOID, read_text, offsetof(Region, base_url), 0},
	{"secret", TEXTOID, read_text, offsetof(Region, secret), 0},
	{"params", JSONBOID, read_params, offsetof(Region, params),
	offsetof(Region, problem)},
	{"residency", TEXTARRAYOID, read_labels, offsetof(Region, labels),
	offsetof(Region, nlabels)},
	{"position", INT4OID, read_integer, offsetof(Region, position), 0},
	{"weight", FLOAT4OID, read_weight, offsetof(Region, weight), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Region, enabled), 0},
	{"max_inflight", INT4OID, read_limit, offsetof(Region, max_inflight), 0},
};

static const Model blank_model = {
	.name = "",
	.provider_name = "",
	.input_price = PRICE_UNKNOWN,
	.output_price = PRICE_UNKNOWN,
	.cached_input_price = PRICE_UNKNOWN,
	.known = true
};

static const ConfigColumn model_columns[] = {
	{"provider", TEXTOID, read_text, offsetof(Model, provider_name), 0},
	{"name", TEXTOID, read_text, offsetof(Model, name), 0},
	{"context_window", INT4OID, read_integer,
	offsetof(Model, context_window), 0},
	{"max_output_tokens", INT4OID, read_integer,
	offsetof(Model, max_output_tokens), 0},
	{"input_price", NUMERICOID, read_price, offsetof(Model, input_price), 0},
	{"output_price", NUMERICOID, read_price, offsetof(Model, output_price), 0},
	{"cached_input_price", NUMERICOID, read_price,
	offsetof(Model, cached_input_price), 0},
	{"capabilities", TEXTARRAYOID, read_capabilities,
	offsetof(Model, capabilities), offsetof(Model, has_capabilities)},
	{"rpm", INT4OID, read_limit, offsetof(Model, rpm), 0},
	{"tpm", INT4OID, read_limit, offsetof(Model, tpm), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Model, enabled), 0},
};

static const Tier blank_tier = {
	.name = "",
	.strategy = "weighted",
	.on_content_filter = "raise"
};

static const ConfigColumn tier_columns[] = {
	{"name", TEXTOID, read_text, offsetof(Tier, name), 0},
	{"fallback", TEXTOID, read_text, offsetof(Tier, fallback_name), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Tier, enabled), 0},
	{"strategy", TEXTOID, read_text, offsetof(Tier, strategy), 0},
	{"timeout", INTERVALOID, read_duration, offsetof(Tier, timeout), 0},
	{"attempt_timeout", INTERVALOID, read_duration,
	offsetof(Tier, attempt_timeout), 0},
	{"connect_timeout", INTERVALOID, read_duration,
	offsetof(Tier, connect_timeout), 0},
	{"first_byte_timeout", INTERVALOID, read_duration,
	offsetof(Tier, first_byte_timeout), 0},
	{"max_attempts", INT4OID, read_integer, offsetof(Tier, max_attempts), 0},
	{"on_content_filter", TEXTOID, read_text,
	offsetof(Tier, on_content_filter), 0},
	{"hedge_after", INTERVALOID, read_duration,
	offsetof(Tier, hedge_after), 0},
	{"warm_share", FLOAT4OID, read_share, offsetof(Tier, warm_share), 0},
	{"queue_timeout", INTERVALOID, read_duration,
	offsetof(Tier, queue_timeout), 0},
};

static const Route blank_route = {
	.tier_name = "",
	.provider_name = "",
	.model_name = "",
	.position = 1
};

static const ConfigColumn route_columns[] = {
	{"tier", TEXTOID, read_text, offsetof(Route, tier_name), 0},
	{"provider", TEXTOID, read_text, offsetof(Route, provider_name), 0},
	{"model", TEXTOID, read_text, offsetof(Route, model_name), 0},
	{"region", TEXTOID, read_text, offsetof(Route, region_name), 0},
	{"position", INT4OID, read_integer, offsetof(Route, position), 0},
	{"weight", FLOAT4OID, read_weight, offsetof(Route, weight), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Route, enabled), 0},
	{"params", JSONBOID, read_params, offsetof(Route, params),
	offsetof(Route, problem)},
};

static const Rule blank_rule = {
	.name = "",
	.pattern = "",
	.answer = "",
	.position = 1
};

static const ConfigColumn rule_columns[] = {
	{"name", TEXTOID, read_text, offsetof(Rule, name), 0},
	{"feature", TEXTOID, read_text, offsetof(Rule, feature), 0},
	{"pattern", TEXTOID, read_text, offsetof(Rule, pattern), 0},
	{"answer", TEXTOID, read_text, offsetof(Rule, answer), 0},
	{"position", INT4OID, read_integer, offsetof(Rule, position), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Rule, enabled), 0},
};

static const Probe blank_probe = {
	.provider_name = "",
	.model_name = "",
	.prompt = ""
};

static const ConfigColumn probe_columns[] = {
	{"provider", TEXTOID, read_text, offsetof(Probe, provider_name), 0},
	{"region", TEXTOID, read_text, offsetof(Probe, region_name), 0},
	{"model", TEXTOID, read_text, offsetof(Probe, model_name), 0},
	{"every", INTERVALOID, read_duration, offsetof(Probe, every), 0},
	{"prompt", TEXTOID, read_text, offsetof(Probe, prompt), 0},
	{"expect", TEXTOID, read_text, offsetof(Probe, expect), 0},
	{"enabled", BOOLOID, read_boolean, offsetof(Probe, enabled), 0},
};

static const StoredSecret blank_secret = {.name = ""};

static const ConfigColumn secret_columns[] = {
	{"name", TEXTOID, read_text, offsetof(StoredSecret, name), 0},
	{"value", TEXTOID, read_secret, offsetof(StoredSecret, value), 0},
};

#define TABLE(table, type, blank_row, column_array, array, count) \
	{table, sizeof(type), &(blank_row), offsetof(Config, array), \
	 offsetof(Config, count), lengthof(column_array), column_array}

/* Secrets come last: an error while reading another table finds none here. */
static const ConfigTable tables[CONFIG_NTABLES] = {
	TABLE("llm_provider", Provider, blank_provider, provider_columns,
		  providers, nproviders),
	TABLE("llm_region", Region, blank_region, region_columns,
		  regions, nregions),
	TABLE("llm_model", Model, blank_model, model_columns, models, nmodels),
	TABLE("llm_tier", Tier, blank_tier, tier_columns, tiers, ntiers),
	TABLE("llm_route", Route, blank_route, route_columns, routes, nroutes),
	TABLE("llm_rule", Rule, blank_rule, rule_columns, rules, nrules),
	TABLE("llm_probe", Probe, blank_probe, probe_columns, probes, nprobes),
	TABLE("llm_secret", StoredSecret, blank_secret, secret_columns,
		  secrets, nsecrets),
};

static void read_table(Config *config, const ConfigTable *table, Relation rel,
					   Snapshot snapshot);
static void resolve_columns(const ConfigTable *table, TupleDesc desc,
							AttrNumber *attnums);
static char *add_row(Config *config, const ConfigTable *table, int *room);
static void read_row(const ConfigTable *table, const AttrNumber *attnums,
					 HeapTuple tuple, TupleDesc desc, char *row);

/*
 * Finds the tables' OIDs. Those of an extension that is being dropped are not
 * there any more.
 */
void
config_tables_find(Oid schema, Oid relids[CONFIG_NTABLES])
{
	for (int i = 0; i < CONFIG_NTABLES; i++)
	{
		relids[i] = get_relname_relid(tables[i].name, schema);
		if (!OidIsValid(relids[i]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table %s of extension llm_failover does not exist",
							tables[i].name)));
	}
}

/*
 * Reads all tables as of one moment. The snapshot is taken when all locks are
 * held: a TRUNCATE, which is not MVCC-safe, comes before or after the whole.
 * Our tables have no syscache, so GetCatalogSnapshot() returns a fresh one.
 */
void
config_tables_read(Config *config, const Oid relids[CONFIG_NTABLES])
{
	Relation	rels[CONFIG_NTABLES];
	Snapshot	snapshot;

	blank_provider.breaker = breaker_defaults;
	for (int i = 0; i < CONFIG_NTABLES; i++)
		rels[i] = table_open(relids[i], AccessShareLock);
	snapshot = RegisterSnapshot(GetCatalogSnapshot(relids[0]));

	for (int i = 0; i < CONFIG_NTABLES; i++)
		read_table(config, &tables[i], rels[i], snapshot);

	UnregisterSnapshot(snapshot);
	for (int i = 0; i < CONFIG_NTABLES; i++)
		table_close(rels[i], AccessShareLock);
}

/* Reads one table into its array in the snapshot. */
static void
read_table(Config *config, const ConfigTable *table, Relation rel,
		   Snapshot snapshot)
{
	AttrNumber	attnums[MAX_COLUMNS];
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan;
	HeapTuple	tuple;
	int			room = 0;

	resolve_columns(table, desc, attnums);
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		read_row(table, attnums, tuple, desc, add_row(config, table, &room));
	systable_endscan(scan);
}

/*
 * Finds the columns' numbers, InvalidAttrNumber for one that is not there. A
 * column of another type would be read as garbage, so that is an error.
 */
static void
resolve_columns(const ConfigTable *table, TupleDesc desc, AttrNumber *attnums)
{
	Assert(table->ncolumns <= MAX_COLUMNS);

	for (int i = 0; i < table->ncolumns; i++)
	{
		const ConfigColumn *column = &table->columns[i];

		attnums[i] = InvalidAttrNumber;
		for (int a = 0; a < desc->natts; a++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, a);

			if (att->attisdropped ||
				strcmp(NameStr(att->attname), column->name) != 0)
				continue;
			if (att->atttypid != column->type)
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("%s.%s has an unexpected type",
								table->name, column->name)));
			attnums[i] = att->attnum;
		}
	}
}

/*
 * Appends a blank row to the table's array in the snapshot and returns it.
 * Array and count are right after every row, so that the wiping of secrets
 * finds them in the middle of a load too.
 */
static char *
add_row(Config *config, const ConfigTable *table, int *room)
{
	char	  **rows = (char **) ((char *) config + table->rows);
	int		   *nrows = (int *) ((char *) config + table->nrows);
	char	   *row;

	if (*nrows >= *room)
	{
		*room = Max(16, *room * 2);
		*rows = *rows ? repalloc(*rows, *room * table->row_size) :
			palloc(*room * table->row_size);
	}
	row = *rows + *nrows * table->row_size;
	memcpy(row, table->blank, table->row_size);
	(*nrows)++;
	return row;
}

/* Fills a row's members from a tuple. */
static void
read_row(const ConfigTable *table, const AttrNumber *attnums, HeapTuple tuple,
		 TupleDesc desc, char *row)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		const ConfigColumn *column = &table->columns[i];
		bool		isnull;
		Datum		value;

		if (attnums[i] == InvalidAttrNumber)
			continue;
		value = heap_getattr(tuple, attnums[i], desc, &isnull);
		if (!isnull)
			column->read(value, row + column->field,
						 column->aside ? row + column->aside : NULL);
	}
}
