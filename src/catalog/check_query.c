/*
 * check_query.c
 *	  SQL that triggers run on the configuration tables.
 *
 * As foreign keys do it: checks and cascades read and write as the owner of
 * the tables, whatever the user may do; they see what is committed and what
 * this transaction has done, under REPEATABLE READ too; and triggers of what
 * they change fire with those of the user's statement, when that is done.
 * search_path is pg_catalog meanwhile, so that a user's operators do not run
 * as the owner.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "check.h"

#define MAX_TEXTS 4

static char *with_schema(Relation rel, const char *sql);

/*
 * Begins queries. With `transition_tables` the statements may name those of
 * the trigger.
 */
void
query_begin(TriggerQuery *query, Relation rel, QueryUser user,
			TriggerData *transition_tables)
{
	query->rel = rel;
	query->fire_triggers = false;
	GetUserIdAndSecContext(&query->user, &query->security);
	query->guc_level = NewGUCNestLevel();

	SPI_connect();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	if (transition_tables)
		SPI_register_trigger_data(transition_tables);
	if (user == AS_OWNER)
		SetUserIdAndSecContext(rel->rd_rel->relowner,
							   query->security |
							   SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_NOFORCE_RLS);
}

/* Ends queries; after an error the end of the (sub)transaction does it. */
void
query_end(TriggerQuery *query)
{
	SetUserIdAndSecContext(query->user, query->security);
	SPI_finish();
	AtEOXact_GUC(true, query->guc_level);
}

/* Runs a statement; returns how many rows it found or changed. */
uint64
query_run(TriggerQuery *query, const char *sql, int nargs, const Oid *types,
		  const Datum *values, const char *nulls)
{
	SPIPlanPtr	plan = SPI_prepare(with_schema(query->rel, sql), nargs,
								   unconstify(Oid *, types));
	Snapshot	snapshot = InvalidSnapshot;
	Snapshot	crosscheck = InvalidSnapshot;
	int			result;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	if (IsolationUsesXactSnapshot())
	{
		CommandCounterIncrement();	/* be sure all my own work is visible */
		snapshot = GetLatestSnapshot();
		crosscheck = GetTransactionSnapshot();
	}
	result = SPI_execute_snapshot(plan, unconstify(Datum *, values), nulls,
								  snapshot, crosscheck,
								  /* read_only= */ false,
								  query->fire_triggers,
								  /* tcount= */ 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* The same with parameters of type text, NULL ones being SQL's NULL. */
uint64
query_run_text(TriggerQuery *query, const char *sql, int nargs,
			   char *const *texts)
{
	Oid			types[MAX_TEXTS];
	Datum		values[MAX_TEXTS];
	char		nulls[MAX_TEXTS];

	Assert(nargs <= MAX_TEXTS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		nulls[i] = texts[i] ? ' ' : 'n';
		values[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	}
	return query_run(query, sql, nargs, types, values, nulls);
}

/* Writes the schema of our tables where a statement has "@". */
static char *
with_schema(Relation rel, const char *sql)
{
	const char *schema =
		quote_identifier(get_namespace_name(RelationGetNamespace(rel)));
	StringInfoData filled;

	initStringInfo(&filled);
	for (; *sql; sql++)
	{
		if (*sql == '@')
			appendStringInfoString(&filled, schema);
		else
			appendStringInfoChar(&filled, *sql);
	}
	return filled.data;
}

/* A value of the last result as text, or NULL; gone at query_end(). */
char *
query_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						column + 1);
}

/* A boolean of the last result; NULL is false. */
bool
query_is_true(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column + 1,
									  &isnull);

	return !isnull && DatumGetBool(value);
}
