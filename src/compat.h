/*
 * compat.h
 *	  Differences between PostgreSQL 15 and 18, in one place.
 *
 * Each wrapper names the first version that makes it deletable.
 */
#ifndef LLM_COMPAT_H
#define LLM_COMPAT_H

#include "postgres.h"

#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "common/jsonapi.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "llm_failover needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

/*
 * Since 18 it is spelled pg_noreturn and stands before the declaration.
 * Deletable with 17.
 */
#if PG_VERSION_NUM >= 180000
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/*
 * Makes a lexer that leaves escapes as they are. Since 17 it may live in the
 * caller's memory. Deletable with 16.
 */
static inline JsonLexContext *
make_json_lexer_compat(const char *json, size_t len, int encoding)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, encoding, false);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), (int) len,
										encoding, false);
#endif
}

/*
 * Makes a wait event set that lives until it is freed. Since 17 it is tied to
 * a resource owner, before to a memory context. Deletable with 16.
 */
static inline WaitEventSet *
create_wait_event_set_compat(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * Names what a backend waits for, in pg_stat_activity. Since 17 it can have a
 * name of its own. Deletable with 16.
 */
static inline uint32
new_wait_event_compat(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * Returns the number of this process's PGPROC. Since 17 it is a variable.
 * Deletable with 16.
 */
static inline uint32
my_proc_number_compat(void)
{
#if PG_VERSION_NUM >= 170000
	return (uint32) MyProcNumber;
#else
	return (uint32) MyProc->pgprocno;
#endif
}

/*
 * Says whether a role owns a database. Since 16 one function does for all
 * objects. Deletable with 15.
 */
static inline bool
owns_database_compat(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

/*
 * Says whether a role may execute a function. Since 16 one function does for
 * all objects. Deletable with 15.
 */
static inline bool
may_execute_compat(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role,
						   ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/*
 * Says whether a role may become another by SET ROLE. Since 16 there are
 * memberships that do not allow it. Deletable with 15.
 */
static inline bool
can_set_role_compat(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/*
 * Takes a name such as schema."function" apart. Since 16 errors can be had
 * softly. Deletable with 15.
 */
static inline List *
qualified_name_compat(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return stringToQualifiedNameList(name, NULL);
#else
	return stringToQualifiedNameList(name);
#endif
}

#endif							/* LLM_COMPAT_H */
