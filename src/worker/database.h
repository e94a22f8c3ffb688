/*
 * database.h
 *	  Which databases there are for the launcher, which is in none of them.
 */
#ifndef LLM_DATABASE_H
#define LLM_DATABASE_H

#include "postgres.h"

/*
 * Lists the databases that our processes may be connected to; returns how many.
 * Runs a transaction. The list is allocated in TopMemoryContext.
 */
extern int	databases_open(Oid **databases);

/* Says whether a database is one of them. */
extern bool database_is_open(Oid database);

#endif							/* LLM_DATABASE_H */
