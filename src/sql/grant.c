/*
 * grant.c
 *	  llm_grant_usage(), llm_grant_admin() and llm_revoke(): who may do what.
 *
 * The lists below are the whole truth; nothing is granted to PUBLIC. GRANTs
 * are made by the extension's owner, whoever of those who may asks, so that
 * they are his to take back. The library need not be preloaded.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

typedef struct Privilege
{
	const char *privileges;
	const char *kind;			/* of the object, as GRANT spells it */
	const char *object;			/* NULL: the schema itself */
} Privilege;

typedef struct PrivilegeList
{
	const Privilege *privileges;
	size_t		n;
} PrivilegeList;

/* What of a task its user says; dedupe_key only when it comes. */
#define TASK_COLUMNS \
	"prompt, messages, system, tier, max_tokens, temperature, params," \
	" feature, residency, allow_degraded, priority, not_before, expires_at," \
	" metadata, on_finish, max_tries"

/* To call, and to see how it goes. */
static const Privilege usage_privileges[] = {
	{"USAGE", "SCHEMA", NULL},
	{"USAGE", "TYPE", "llm_response"},
	{"EXECUTE", "FUNCTION", "llm_complete"},
	{"EXECUTE", "FUNCTION", "llm_respond"},
	{"EXECUTE", "FUNCTION", "llm_chat"},
	{"EXECUTE", "FUNCTION", "llm_explain"},
	{"EXECUTE", "FUNCTION", "llm_last"},
	{"EXECUTE", "FUNCTION", "llm_cancel"},
	{"EXECUTE", "FUNCTION", "llm_requeue"},
	{"EXECUTE", "FUNCTION", "llm_flush"},
	{"SELECT, DELETE, INSERT (" TASK_COLUMNS ", dedupe_key),"
		" UPDATE (" TASK_COLUMNS ")", "TABLE", "llm_task"},
	{"SELECT", "TABLE", "llm_usage"},
	{"SELECT", "TABLE", "llm_event"},
	{"EXECUTE", "FUNCTION", "llm_queue_blocked_by"},
	{"SELECT", "TABLE", "llm_queue"},
	{"EXECUTE", "FUNCTION", "llm_health_rows"},
	{"SELECT", "TABLE", "llm_health"},
	{"EXECUTE", "FUNCTION", "llm_status_rows"},
	{"SELECT", "TABLE", "llm_status"},
	{"EXECUTE", "FUNCTION", "llm_stat_tier_rows"},
	{"SELECT", "TABLE", "llm_stat_tier"},
};

/*
 * To configure as well. Who may change base_url can read the literal keys of
 * llm_secret, by having them sent to himself. Row security takes those for
 * admins who may execute llm_pause().
 */
static const Privilege admin_privileges[] = {
	{"INSERT, UPDATE, DELETE, SELECT (name)", "TABLE", "llm_secret"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_provider"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_region"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_model"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_tier"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_route"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_rule"},
	{"SELECT, INSERT, UPDATE, DELETE", "TABLE", "llm_probe"},
	{"DELETE", "TABLE", "llm_usage"},
	{"DELETE", "TABLE", "llm_event"},
	{"EXECUTE", "FUNCTION", "llm_check"},
	{"EXECUTE", "FUNCTION", "llm_breaker_open"},
	{"EXECUTE", "FUNCTION", "llm_breaker_reset"},
	{"EXECUTE", "FUNCTION", "llm_stat_reset"},
	{"EXECUTE", "FUNCTION", "llm_pause"},
	{"EXECUTE", "FUNCTION", "llm_resume"},
	{"EXECUTE", "FUNCTION", "llm_routing_rows"},
	{"SELECT", "TABLE", "llm_routing"},
};

static const PrivilegeList usage_list = {
	usage_privileges, lengthof(usage_privileges)
};
static const PrivilegeList admin_list = {
	admin_privileges, lengthof(admin_privileges)
};

/* Whom and what a call of one of the functions is about. */
typedef struct Grant
{
	const char *role;
	Oid			role_oid;
	Oid			owner;
	Oid			schema;
} Grant;

static void begin_grant(FunctionCallInfo fcinfo, Grant *grant);
static void check_may_grant(const Grant *grant);
static void change_privileges(const Grant *grant, bool revoke,
							  const PrivilegeList *const *lists, int nlists);
static void change_privilege(const Grant *grant, bool revoke,
							 const Privilege *privilege);
static Oid	schema_owner(Oid schema);
static char *object_name(const Grant *grant, const Privilege *privilege);

PG_FUNCTION_INFO_V1(llm_grant_usage);
PG_FUNCTION_INFO_V1(llm_grant_admin);
PG_FUNCTION_INFO_V1(llm_revoke);

/* llm_grant_usage(role name): lets a role call. */
Datum
llm_grant_usage(PG_FUNCTION_ARGS)
{
	static const PrivilegeList *const lists[] = {&usage_list};
	Grant		grant;

	begin_grant(fcinfo, &grant);
	change_privileges(&grant, false, lists, lengthof(lists));
	PG_RETURN_VOID();
}

/* llm_grant_admin(role name): lets a role call and configure. */
Datum
llm_grant_admin(PG_FUNCTION_ARGS)
{
	static const PrivilegeList *const lists[] = {&usage_list, &admin_list};
	Grant		grant;

	begin_grant(fcinfo, &grant);
	change_privileges(&grant, false, lists, lengthof(lists));
	PG_RETURN_VOID();
}

/* llm_revoke(role name): takes both back. */
Datum
llm_revoke(PG_FUNCTION_ARGS)
{
	static const PrivilegeList *const lists[] = {&admin_list, &usage_list};
	Grant		grant;

	begin_grant(fcinfo, &grant);
	if (grant.role_oid == grant.owner)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_GRANT_OPERATION),
				 errmsg("role \"%s\" owns the extension", grant.role)));
	change_privileges(&grant, true, lists, lengthof(lists));
	PG_RETURN_VOID();
}

/* Reads the argument and finds schema and owner by the function itself. */
static void
begin_grant(FunctionCallInfo fcinfo, Grant *grant)
{
	HeapTuple	proc;

	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(fcinfo->flinfo->fn_oid));
	if (!HeapTupleIsValid(proc))
		elog(ERROR, "cache lookup failed for function %u",
			 fcinfo->flinfo->fn_oid);
	grant->owner = ((Form_pg_proc) GETSTRUCT(proc))->proowner;
	grant->schema = ((Form_pg_proc) GETSTRUCT(proc))->pronamespace;
	ReleaseSysCache(proc);
	check_may_grant(grant);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be NULL")));
	grant->role = pstrdup(NameStr(*PG_GETARG_NAME(0)));
	grant->role_oid = get_role_oid(grant->role, false);
}

static void
check_may_grant(const Grant *grant)
{
	if (!has_privs_of_role(GetUserId(), grant->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to grant or revoke the use of llm_failover"),
				 errhint("Only superusers and the extension's owner may.")));
}

/* Grants or revokes lists of privileges as the extension's owner. */
static void
change_privileges(const Grant *grant, bool revoke,
				  const PrivilegeList *const *lists, int nlists)
{
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(grant->owner,
						   security | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	for (int i = 0; i < nlists; i++)
		for (size_t j = 0; j < lists[i]->n; j++)
			change_privilege(grant, revoke, &lists[i]->privileges[j]);
	SPI_finish();
	SetUserIdAndSecContext(user, security);
}

static void
change_privilege(const Grant *grant, bool revoke, const Privilege *privilege)
{
	char	   *sql;
	int			result;

	/* What a role may do in a schema of its own is not ours to take. */
	if (revoke && privilege->object == NULL &&
		schema_owner(grant->schema) == grant->role_oid)
		return;
	sql = psprintf("%s %s ON %s %s %s %s", revoke ? "REVOKE" : "GRANT",
				   privilege->privileges, privilege->kind,
				   object_name(grant, privilege), revoke ? "FROM" : "TO",
				   quote_identifier(grant->role));
	result = SPI_execute(sql, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
}

static Oid
schema_owner(Oid schema)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Returns the quoted name of an object, with its schema. */
static char *
object_name(const Grant *grant, const Privilege *privilege)
{
	const char *schema = quote_identifier(get_namespace_name(grant->schema));

	return privilege->object == NULL ? pstrdup(schema) :
		psprintf("%s.%s", schema, privilege->object);
}
