/*
 * owner.c
 *	  Statements as the extension's owner: see owner.h.
 *
 * search_path is pg_catalog meanwhile, so that a user's operators do not run as
 * the owner.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "queue/work.h"
#include "owner.h"

/* The prepared statements of a function, for as long as a query calls it. */
typedef struct OwnerPlans
{
	MemoryContextCallback callback;
	int			n;
	SPIPlanPtr	plans[FLEXIBLE_ARRAY_MEMBER];
} OwnerPlans;

static Oid	owner_of_function(Oid function, Oid *schema);
static void run_passing(const OwnerRun *run,
						void (*work) (const OwnerRun *run, void *arg),
						void *arg);
static void make_room(FmgrInfo *function, int n);
static void free_plans(void *arg);
static SPIPlanPtr prepare(const OwnerRun *run,
						  const OwnerStatement *statement);

void
owner_run(FunctionCallInfo fcinfo, const OwnerStatement *statements, int n,
		  void (*work) (const OwnerRun *run, void *arg), void *arg)
{
	OwnerRun	run = {.fcinfo = fcinfo, .statements = statements};
	Oid			owner = owner_of_function(fcinfo->flinfo->fn_oid, &run.schema);
	int			security;
	int			guc_level = NewGUCNestLevel();

	make_room(fcinfo->flinfo, n);
	GetUserIdAndSecContext(&run.user, &security);
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	SetUserIdAndSecContext(owner, security | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	run_passing(&run, work, arg);
	SPI_finish();
	SetUserIdAndSecContext(run.user, security);
	AtEOXact_GUC(true, guc_level);
}

/* Returns the owner of one of our functions, and its schema. */
static Oid
owner_of_function(Oid function, Oid *schema)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	*schema = ((Form_pg_proc) GETSTRUCT(tuple))->pronamespace;
	ReleaseSysCache(tuple);
	return owner;
}

/* Runs `work` while the triggers of llm_task let everything pass. */
static void
run_passing(const OwnerRun *run,
			void (*work) (const OwnerRun *run, void *arg), void *arg)
{
	bool		before = work_is_own;

	work_is_own = true;
	PG_TRY();
	{
		work(run, arg);
	}
	PG_FINALLY();
	{
		work_is_own = before;
	}
	PG_END_TRY();
}

/* Makes room for prepared statements where a query's first call has none. */
static void
make_room(FmgrInfo *function, int n)
{
	OwnerPlans *plans;

	if (function->fn_extra)
		return;
	plans = MemoryContextAllocZero(function->fn_mcxt,
								   offsetof(OwnerPlans, plans) +
								   n * sizeof(SPIPlanPtr));
	plans->n = n;
	plans->callback.func = free_plans;
	plans->callback.arg = plans;
	MemoryContextRegisterResetCallback(function->fn_mcxt, &plans->callback);
	function->fn_extra = plans;
}

/* Frees prepared statements when the query has ended. */
static void
free_plans(void *arg)
{
	OwnerPlans *plans = arg;

	for (int i = 0; i < plans->n; i++)
		if (plans->plans[i])
			SPI_freeplan(plans->plans[i]);
}

uint64
owner_execute(const OwnerRun *run, int statement, const Datum *values)
{
	OwnerPlans *plans = run->fcinfo->flinfo->fn_extra;
	SPIPlanPtr *plan = &plans->plans[statement];
	int			result;

	if (*plan == NULL)
		*plan = prepare(run, &run->statements[statement]);
	result = SPI_execute_plan(*plan, unconstify(Datum *, values), NULL,
							  /* read_only= */ false, /* count= */ 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s",
			 run->statements[statement].sql, SPI_result_code_string(result));
	return SPI_processed;
}

/* Prepares a statement for the schema of the function, and keeps it. */
static SPIPlanPtr
prepare(const OwnerRun *run, const OwnerStatement *statement)
{
	const char *schema = quote_identifier(get_namespace_name(run->schema));
	StringInfoData sql;
	SPIPlanPtr	plan;

	initStringInfo(&sql);
	for (const char *c = statement->sql; *c; c++)
	{
		if (*c == '@')
			appendStringInfoString(&sql, schema);
		else
			appendStringInfoChar(&sql, *c);
	}
	plan = SPI_prepare(sql.data, statement->nargs,
					   unconstify(OwnerStatement *, statement)->types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data,
			 SPI_result_code_string(SPI_result));
	return plan;
}
