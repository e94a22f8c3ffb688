/*
 * as_role.h
 *	  Runs a user's function in the settler, so that neither the superuser whose
 *	  process it is nor another user is at its mercy.
 */
#ifndef LLM_AS_ROLE_H
#define LLM_AS_ROLE_H

#include "postgres.h"

/*
 * Calls a function (its name is qualified and quoted) with one argument of a
 * composite type as a role, and does with it all that it leaves for the end of
 * the transaction; what it returns is thrown away. For the main transaction, in
 * work_run().
 */
extern void as_role_call(const NameData *role, const char *function,
						 Datum argument, Oid type);

/*
 * Forgets what the session keeps of such a call beyond its transaction, ended
 * well or not. Outside of a transaction.
 */
extern void as_role_forget(void);

#endif							/* LLM_AS_ROLE_H */
