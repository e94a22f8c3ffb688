/*
 * stop.c
 *	  Statements that the background processes must hear of: see stop.h.
 *
 * DROP DATABASE, ALTER DATABASE RENAME and SET TABLESPACE, and CREATE DATABASE
 * from a template refuse to work while somebody is connected to the database.
 * So its processes are ended before, once it is clear that the user may do what
 * he asks for, and kept away until the transaction is over, however it ends.
 * From the moment the statement has its lock on the database, nobody can
 * connect anyway; what is kept free is the time before, and the log of
 * processes that come in vain.
 *
 * That the extension comes or goes is heard of by the hook on objects: DROP
 * EXTENSION is not the only statement that drops one. The worker is told when
 * the transaction commits.
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "health/shared.h"
#include "queue/wake.h"
#include "stop.h"

#define EXTENSION "llm_failover"

/* What CREATE DATABASE copies when it names nothing. */
#define USUAL_TEMPLATE "template1"

/* Processes end at once; after so long the statement says what is in its way. */
#define STOP_TIMEOUT (5 * USEC_SEC)
#define STOP_POLL (5 * USEC_MSEC)

static ProcessUtility_hook_type prev_utility_hook;
static object_access_hook_type prev_access_hook;

/* Of this transaction. */
static bool keeping;			/* some database is kept free */
static Oid	dropped;			/* database, or InvalidOid */

static void hear_of_utility(PlannedStmt *plan, const char *query,
							bool read_only, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *env,
							DestReceiver *dest, QueryCompletion *completion);
static Oid	database_to_free(Node *statement, bool in_block);
static Oid	if_owned(const char *name);
static Oid	template_of(const CreatedbStmt *statement);
static bool sets_tablespace(const AlterDatabaseStmt *statement);
static bool may_create_databases(void);
static bool is_template(Oid database);
static void free_database(Oid database);
static DatabaseSlot *slot_after_sweep(Oid database, Usec until);
static void terminate(DatabaseSlot *slot, Oid database, Usec until);
static bool is_connected(int pid, Oid database);
static void pause_a_moment(void);
static void keep_in_mind(void);
static void end_of_transaction(XactEvent event, void *arg);
static void tell_of_prepared(void);
static void hear_of_object(ObjectAccessType access, Oid class, Oid object,
						   int part, void *arg);
static void have_them_look(void);
static bool is_our_extension(Oid extension);

void
stop_install(void)
{
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = hear_of_utility;
	prev_access_hook = object_access_hook;
	object_access_hook = hear_of_object;
}

/* A ProcessUtility_hook. The statement may be gone when it has been run. */
static void
hear_of_utility(PlannedStmt *plan, const char *query, bool read_only,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest,
				QueryCompletion *completion)
{
	Node	   *statement = plan->utilityStmt;
	bool		drops = IsA(statement, DropdbStmt);
	bool		commits_prepared = IsA(statement, TransactionStmt) &&
		castNode(TransactionStmt, statement)->kind ==
		TRANS_STMT_COMMIT_PREPARED;
	Oid			database =
		database_to_free(statement,
						 context != PROCESS_UTILITY_TOPLEVEL);

	if (OidIsValid(database))
		free_database(database);
	(prev_utility_hook ? prev_utility_hook : standard_ProcessUtility)
		(plan, query, read_only, context, params, env, dest, completion);
	if (drops)
		dropped = database;
	if (commits_prepared)
		tell_of_prepared();
}

/* --- what a statement wants --- */

/*
 * Returns the database to which nobody may be connected, if the user may do
 * what the statement says; InvalidOid for all that will be refused, and for all
 * other statements.
 */
static Oid
database_to_free(Node *statement, bool nested)
{
	switch (nodeTag(statement))
	{
		case T_RenameStmt:		/* works in a transaction block */
			if (castNode(RenameStmt, statement)->renameType !=
				OBJECT_DATABASE || !may_create_databases())
				return InvalidOid;
			return if_owned(castNode(RenameStmt, statement)->subname);
		case T_DropdbStmt:
			if (IsInTransactionBlock(!nested))
				return InvalidOid;
			return if_owned(castNode(DropdbStmt, statement)->dbname);
		case T_AlterDatabaseStmt:
			if (!sets_tablespace(castNode(AlterDatabaseStmt, statement)) ||
				IsInTransactionBlock(!nested))
				return InvalidOid;
			return if_owned(castNode(AlterDatabaseStmt, statement)->dbname);
		case T_CreatedbStmt:
			if (IsInTransactionBlock(!nested) || !may_create_databases())
				return InvalidOid;
			return template_of(castNode(CreatedbStmt, statement));
		default:
			return InvalidOid;
	}
}

/* Returns a database if it is the user's, and not the one he is in. */
static Oid
if_owned(const char *name)
{
	Oid			database = get_database_oid(name, true);

	if (!OidIsValid(database) || database == MyDatabaseId ||
		!owns_database_compat(database, GetUserId()))
		return InvalidOid;
	return database;
}

/* Returns what CREATE DATABASE is to copy, if the user may copy that. */
static Oid
template_of(const CreatedbStmt *statement)
{
	const char *name = USUAL_TEMPLATE;
	ListCell   *cell;
	Oid			database;

	foreach(cell, statement->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			name = defGetString(option);
	}
	database = get_database_oid(name, true);
	if (!OidIsValid(database) ||
		!(is_template(database) ||
		  owns_database_compat(database, GetUserId())))
		return InvalidOid;
	return database;
}

static bool
sets_tablespace(const AlterDatabaseStmt *statement)
{
	ListCell   *cell;

	foreach(cell, statement->options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
			return true;
	return false;
}

static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		may;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return may;
}

static bool
is_template(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID,
										ObjectIdGetDatum(database));
	bool		is;

	if (!HeapTupleIsValid(tuple))
		return false;
	is = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return is;
}

/* --- a database without connections --- */

/* Ends the processes of a database, and keeps others away. */
static void
free_database(Oid database)
{
	Usec		until = clock_now() + STOP_TIMEOUT;
	DatabaseSlot *slot;

	keep_in_mind();
	slot = slot_after_sweep(database, until);
	if (slot == NULL)
		return;
	keeping = true;
	slot_keep_free(slot);
	terminate(slot, database, until);
}

/*
 * Returns the slot of a database, or NULL. At the start of the server a worker
 * may just be there to find out whether it needs one.
 */
static DatabaseSlot *
slot_after_sweep(Oid database, Usec until)
{
	DatabaseSlot *slot;

	while ((slot = slot_find(database)) == NULL &&
		   slots_swept() == database && clock_now() < until)
		pause_a_moment();
	return slot;
}

/* Tells the processes to end, and waits until they are disconnected. */
static void
terminate(DatabaseSlot *slot, Oid database, Usec until)
{
	int			pids[SLOT_PROCESSES];

	for (int i = 0; i < SLOT_PROCESSES; i++)
	{
		pids[i] = slot_pid(slot, (SlotProcess) i);
		if (pids[i] != 0 && kill(pids[i], SIGTERM) != 0)
			ereport(DEBUG1,
					(errmsg_internal("could not signal process %d: %m",
									 pids[i])));
	}
	for (int i = 0; i < SLOT_PROCESSES; i++)
		while (pids[i] != 0 && is_connected(pids[i], database) &&
			   clock_now() < until)
			pause_a_moment();
}

static bool
is_connected(int pid, Oid database)
{
	const PGPROC *proc = BackendPidGetProc(pid);

	return proc && proc->databaseId == database;
}

/* Lets a moment pass, in which the user may change his mind. */
static void
pause_a_moment(void)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = new_wait_event_compat("LlmFailoverStop");
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 STOP_POLL / USEC_MSEC, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* --- the end of the transaction --- */

/* Has us told of the transaction's end; once a process. */
static void
keep_in_mind(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(end_of_transaction, NULL);
	registered = true;
}

/* Forgets a database that is gone, and lets processes into the others. */
static void
end_of_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (OidIsValid(dropped) && event == XACT_EVENT_COMMIT)
		shared_forget_database(dropped);
	dropped = InvalidOid;
	if (keeping)
		slots_give_back();
	keeping = false;
}

/*
 * Tells this database's worker of a prepared transaction that has committed:
 * nobody knows what it has done. The slot is made where it has created the
 * extension, and where it has dropped it the worker is to find out.
 */
static void
tell_of_prepared(void)
{
	bool		exists = OidIsValid(get_extension_oid(EXTENSION, true));
	DatabaseSlot *slot = exists ? slot_make(MyDatabaseId) :
		slot_find(MyDatabaseId);

	if (slot && (exists || slot_pid(slot, SLOT_WORKER) != 0))
		slot_signal(slot, SLOT_WORKER,
					SIGNAL_TASKS | SIGNAL_REVOKED | SIGNAL_LOOK);
}

/* --- the extension --- */

/* An object_access_hook. */
static void
hear_of_object(ObjectAccessType access, Oid class, Oid object, int part,
			   void *arg)
{
	if (prev_access_hook)
		prev_access_hook(access, class, object, part, arg);
	if (class == ExtensionRelationId &&
		(access == OAT_POST_CREATE || access == OAT_DROP) &&
		is_our_extension(object))
		have_them_look();
}

/* Has the worker, and the settler if it is there, look for the extension. */
static void
have_them_look(void)
{
	const DatabaseSlot *slot = slot_find(MyDatabaseId);

	wake_at_commit(SLOT_WORKER, SIGNAL_LOOK);
	if (slot && slot_pid(slot, SLOT_SETTLER) != 0)
		wake_at_commit(SLOT_SETTLER, SIGNAL_LOOK);
}

/* Looks by itself, as no other look sees what has just been created. */
static bool
is_our_extension(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		ours;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf,
							  1, &key);
	tuple = systable_getnext(scan);
	ours = HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname),
			   EXTENSION) == 0;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return ours;
}
