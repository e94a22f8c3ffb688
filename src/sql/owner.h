/*
 * owner.h
 *	  What our functions write on a user's behalf: as the extension's owner,
 *	  where the user himself has no right to.
 *
 * Who may have it done is for the caller to check.
 */
#ifndef LLM_OWNER_H
#define LLM_OWNER_H

#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"

#define OWNER_MAX_ARGS 4

/* A statement; "@." in it stands for the extension's schema. */
typedef struct OwnerStatement
{
	const char *sql;
	int			nargs;
	Oid			types[OWNER_MAX_ARGS];
} OwnerStatement;

/* A run of statements of one function. */
typedef struct OwnerRun
{
	FunctionCallInfo fcinfo;
	const OwnerStatement *statements;
	Oid			schema;
	Oid			user;			/* who asks */
} OwnerRun;

/*
 * Has `work` run statements as the extension's owner. The triggers of llm_task
 * let what it does pass. The statements are prepared once for each query that
 * calls the function.
 */
extern void owner_run(FunctionCallInfo fcinfo, const OwnerStatement *statements,
					  int n, void (*work) (const OwnerRun *run, void *arg),
					  void *arg);

/* Executes a statement by its number; returns how many rows it has touched. */
extern uint64 owner_execute(const OwnerRun *run, int statement,
							const Datum *values);

#endif							/* LLM_OWNER_H */
