/*
 * work.c
 *	  Work of a background process in its database: see work.h.
 *
 * The process ends when it is told to, but never in the middle of a piece of
 * work: SIGTERM sets a flag, and pieces are short. That no lock is waited for
 * long is lock_timeout's to see to, for unique keys too.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "queue/work.h"

#define EXTENSION "llm_failover"

/* Where the statements of a prepared plan have the schema. */
#define SCHEMA_MARK "@extschema@"

bool		work_is_own = false;

static Oid	extension;			/* as of this piece of work */
static Oid	schema;
static char schema_name[2 * NAMEDATALEN + 3];	/* quoted */
static uint64 schema_version;	/* another for every schema */
static int	last_sqlstate;

static void cancel_work(SIGNAL_ARGS);
static void fix_settings(void);
static void begin(const char *activity);
static void end(void);
static void give_up(MemoryContext context);
static bool find_extension(bool *busy);
static bool lock_extension(Oid found, bool *busy);
static Oid	look_up_extension(Oid *its_schema);
static void note_schema(Oid found, Oid its_schema);
static SPIPlanPtr prepare(const char *sql, int nargs, const Oid *types);

/* --- the process --- */

void
work_connect(Oid database)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGINT, cancel_work);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	fix_settings();
	work_is_own = true;
}

/*
 * Handles SIGINT: a timeout, or pg_cancel_backend(). It undoes a piece of work;
 * where there is none it must not end the process.
 */
static void
cancel_work(SIGNAL_ARGS)
{
	if (IsTransactionState())
		StatementCancelHandler(postgres_signal_arg);
}

/*
 * Undoes what the settings of the server or the database could do to us: we are
 * who we are, names mean what they say, transactions may write and see the
 * newest rows, and wait neither for others' locks nor for a standby.
 */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"synchronous_commit", "local"},
		{"lock_timeout", "100ms"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"},	/* since 17 */
		{"session_replication_role", "origin"},
		{"row_security", "on"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], /* missing_ok= */ true, false))
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
							PGC_S_OVERRIDE);
}

bool
work_should_end(void)
{
	return ShutdownRequestPending;
}

bool
work_reload(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/* --- a piece of work --- */

WorkEnd
work_run(const char *activity, void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	volatile WorkEnd how = WORK_DONE;

	PG_TRY();
	{
		bool		busy = false;

		begin(activity);
		if (find_extension(&busy))
			work(arg);
		else
			how = busy ? WORK_BUSY : WORK_GONE;
		end();
	}
	PG_CATCH();
	{
		give_up(context);
		how = last_sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ?
			WORK_BUSY : WORK_FAILED;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return how;
}

int
work_sqlstate(void)
{
	return last_sqlstate;
}

/* Opens a transaction, with a snapshot and SPI. */
static void
begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

/* Commits it. */
static void
end(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	QueryCancelPending = false;	/* it came too late */
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Undoes a transaction and logs why, unless somebody else's lock is all. What
 * would end the process is not caught here: FATAL does not come this way.
 */
static void
give_up(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	last_sqlstate = error->sqlerrcode;
	if (last_sqlstate != ERRCODE_LOCK_NOT_AVAILABLE)
		EmitErrorReport();
	FlushErrorState();
	FreeErrorData(error);
	AbortCurrentTransaction();
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
}

/* --- the extension --- */

/*
 * Finds the extension and locks it until the end of the transaction, without
 * waiting for one who is about to drop it. False when it is not there, or busy.
 * Usually it is the one that it was the last time, so that is locked first, and
 * one look at the catalog is enough.
 */
static bool
find_extension(bool *busy)
{
	Oid			its_schema;
	Oid			found;

	if (OidIsValid(extension) && !lock_extension(extension, busy))
		return false;
	found = look_up_extension(&its_schema);
	if (OidIsValid(found) && found != extension)
	{
		if (!lock_extension(found, busy))
			return false;
		if (look_up_extension(&its_schema) != found)
			return false;
	}
	if (!OidIsValid(found))
		return false;
	note_schema(found, its_schema);
	return true;
}

/* Locks it, or says that it is busy. */
static bool
lock_extension(Oid found, bool *busy)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, found, 0);
	*busy = LockAcquire(&tag, AccessShareLock, false, true) ==
		LOCKACQUIRE_NOT_AVAIL;
	if (*busy)
		return false;
	AcceptInvalidationMessages();
	return true;
}

/* Returns the OID of the extension and its schema's, or InvalidOid. */
static Oid
look_up_extension(Oid *its_schema)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			found = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		found = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		*its_schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Notes in which schema it is; statements prepared for another are outdated. */
static void
note_schema(Oid found, Oid its_schema)
{
	char	   *name = get_namespace_name(its_schema);
	const char *quoted = quote_identifier(name);

	if (found == extension && strcmp(schema_name, quoted) == 0)
		return;
	extension = found;
	schema = its_schema;
	strlcpy(schema_name, quoted, sizeof(schema_name));
	schema_version++;
}

Oid
work_extension(void)
{
	return extension;
}

const char *
work_schema(void)
{
	return schema_name;
}

Oid
work_function(void)
{
	static Oid	function;
	static uint64 as_of;

	if (as_of != schema_version)
	{
		List	   *name = list_make2(makeString(get_namespace_name(schema)),
									  makeString("llm_last"));

		function = LookupFuncName(name, 0, NULL, false);
		as_of = schema_version;
	}
	return function;
}

/* --- statements --- */

uint64
work_execute(WorkPlan *plan, Datum *values, const char *nulls)
{
	int			result;

	if (plan->as_of != schema_version && plan->plan)
	{
		SPI_freeplan(plan->plan);
		plan->plan = NULL;
	}
	if (plan->plan == NULL)
	{
		plan->plan = prepare(plan->sql, plan->nargs, plan->types);
		plan->as_of = schema_version;
	}
	result = SPI_execute_plan(plan->plan, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", plan->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* Prepares a statement for the schema of now, and keeps it. */
static SPIPlanPtr
prepare(const char *sql, int nargs, const Oid *types)
{
	StringInfoData text;
	const char *mark;
	SPIPlanPtr	plan;

	initStringInfo(&text);
	while ((mark = strstr(sql, SCHEMA_MARK)) != NULL)
	{
		appendBinaryStringInfo(&text, sql, (int) (mark - sql));
		appendStringInfoString(&text, schema_name);
		sql = mark + strlen(SCHEMA_MARK);
	}
	appendStringInfoString(&text, sql);
	plan = SPI_prepare(text.data, nargs, unconstify(Oid *, types));
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", text.data,
			 SPI_result_code_string(SPI_result));
	return plan;
}
