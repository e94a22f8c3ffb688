/*
 * as_role.c
 *	  Runs a user's function in the settler: see as_role.h.
 *
 * This process is a superuser's, and the function is anybody's. What keeps the
 * one from the other:
 *
 * - The role is switched as for a SECURITY DEFINER function, so that SET ROLE
 *	 and SET SESSION AUTHORIZATION are refused.
 * - All that a transaction does of a user's at its commit (deferred triggers,
 *	 the rest of cursors WITH HOLD) is done before switching back. What is done
 *	 then may cause more of it, so it is repeated until nothing is left. Events
 *	 that have been fired are thrown away, so this must not be done in a
 *	 subtransaction, which might bring them back.
 * - What the function sets is undone with its GUC nest level. What else a
 *	 session keeps is forgotten before another function runs, as by DISCARD ALL.
 *	 LISTEN is refused in background processes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/portal.h"

#include "as_role.h"
#include "compat.h"
#include "queue/work.h"

static Oid	switch_plans(const NameData *name);
static void call_function(const char *name, Datum argument, Oid type);
static Oid	find_function(const char *name, Oid type);
static void set_local(const char *name, const char *value);
static void do_as_commit_does(void);
static void reset_session(void *arg);

/* An error needs no care: the transaction is undone, and the switch with it. */
void
as_role_call(const NameData *role_name, const char *function, Datum argument,
			 Oid type)
{
	Oid			role = switch_plans(role_name);
	int			level = NewGUCNestLevel();
	int			security;
	Oid			user;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(role, security | SECURITY_LOCAL_USERID_CHANGE);
	call_function(function, argument, type);
	do_as_commit_does();
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, security);
}

/*
 * Returns a role. When that is another than the last one, the plans of
 * functions are made anew: what was inlined into them was the last one's to
 * execute.
 */
static Oid
switch_plans(const NameData *name)
{
	static Oid	last = InvalidOid;
	Oid			role = get_role_oid(NameStr(*name), true);

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", NameStr(*name))));
	if (role != last)
		ResetPlanCache();
	last = role;
	return role;
}

/*
 * Calls the function, with the search path of its own schema and ours, and
 * throws away whatever it returns. The executor checks that the role may.
 */
static void
call_function(const char *name, Datum argument, Oid type)
{
	Oid			function = find_function(name, type);
	char	   *schema = get_namespace_name(get_func_namespace(function));
	ParamListInfo params = makeParamList(1);
	SPIExecuteOptions options = {
		.params = params,
		.dest = None_Receiver
	};
	char	   *sql;

	params->params[0].value = argument;
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = type;
	set_local("search_path", psprintf("pg_catalog, %s, %s, pg_temp",
									  quote_identifier(schema),
									  work_schema()));
	set_local("lock_timeout", "0");
	sql = psprintf("SELECT %s($1)",
				   quote_qualified_identifier(schema,
											  get_func_name(function)));
	if (SPI_execute_extended(sql, &options) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
}

/* Finds it as of now; the schema must be one that the role may use. */
static Oid
find_function(const char *name, Oid type)
{
	Oid			function = LookupFuncName(qualified_name_compat(name),
										  1, &type, true);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(%s) does not exist", name,
						get_rel_name(get_typ_typrelid(type)))));
	return function;
}

/* Sets a parameter until the function has ended. */
static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Does what CommitTransaction() does first, so that there nothing of the
 * function's is left to do: fires deferred triggers and closes cursors, which
 * cause one another. Cursors WITH HOLD are not for the next function to see.
 */
static void
do_as_commit_does(void)
{
	do
	{
		CommandCounterIncrement();
		AfterTriggerFireDeferred();
	} while (PreCommit_Portals(false));
	PortalHashTableDeleteAll();
}

/* When that cannot be done the process ends, to be started again without it. */
void
as_role_forget(void)
{
	if (work_run("forgetting what on_finish has left", reset_session,
				 NULL) != WORK_DONE)
		proc_exit(1);
}

static void
reset_session(void *arg pg_attribute_unused())
{
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
	ResetTempTableNamespace();
}
