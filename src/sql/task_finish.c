/*
 * task_finish.c
 *	  Finds the function that runs when a task ends.
 *
 * It is found when the task is inserted and kept with its schema, as a view
 * keeps its tables, so that no other function of that name is run later.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog/check.h"
#include "compat.h"
#include "task_row.h"

static Oid	find_function(Relation tasks, const char *name);

char *
finish_function(Relation tasks, const char *name)
{
	Oid			function = find_function(tasks, name);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(%s) does not exist", shown(name),
						RelationGetRelationName(tasks)),
				 errhint("llm_task.on_finish names a function with one argument of type llm_task.")));
	if (!may_execute_compat(function, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, name);
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  get_func_name(function));
}

/* Finds a function of a task; a procedure or an aggregate is none. */
static Oid
find_function(Relation tasks, const char *name)
{
	Oid			type = RelationGetForm(tasks)->reltype;
	Oid			function = LookupFuncName(qualified_name_compat(name), 1,
										  &type, true);

	return OidIsValid(function) &&
		get_func_prokind(function) == PROKIND_FUNCTION ? function : InvalidOid;
}
