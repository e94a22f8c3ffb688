/*
 * work.h
 *	  Work of a background process in its database: sessions, transactions and
 *	  statements of the worker and the settler.
 *
 * Each piece of work is one short transaction. It locks the extension, so that
 * DROP EXTENSION waits for its end, or finds that the extension is not there.
 * An error is logged, undoes the transaction, and is otherwise the caller's to
 * deal with: the process goes on.
 */
#ifndef LLM_WORK_H
#define LLM_WORK_H

#include "postgres.h"

#include "executor/spi.h"

#include "health/slot.h"

/* How a piece of work ended. */
typedef enum WorkEnd
{
	WORK_DONE,
	WORK_FAILED,				/* an error, which is in the log */
	WORK_BUSY,					/* somebody holds a lock: try again soon */
	WORK_GONE					/* the extension is not in this database */
} WorkEnd;

/*
 * True where the extension itself writes llm_task: in its processes while no
 * user's code runs there. The table's triggers then let everything pass.
 */
extern bool work_is_own;

/* Connects a background process to its database, as superuser. */
extern void work_connect(Oid database);

/*
 * Runs `work` in a transaction of its own, connected to SPI and with a
 * snapshot; `activity` is what pg_stat_activity shows. Errors for want of a
 * lock are not logged. The memory context of `work` is the transaction's.
 */
extern WorkEnd work_run(const char *activity, void (*work) (void *arg),
						void *arg);

/* SQLSTATE of the last WORK_FAILED or WORK_BUSY. */
extern int	work_sqlstate(void);

/*
 * The extension's OID, inside of work_run(): another one when it was dropped and
 * created again.
 */
extern Oid	work_extension(void);

/* The extension's schema, quoted; inside of work_run(). */
extern const char *work_schema(void);

/* The OID of one of the extension's functions, for config_get(). */
extern Oid	work_function(void);

/* A statement that is prepared once; "@extschema@" is replaced. */
typedef struct WorkPlan
{
	const char *sql;
	int			nargs;
	const Oid  *types;
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
	uint64		as_of;			/* of which schema it is */
} WorkPlan;

/* To initialize one: with parameters of the types in an array, or without. */
#define WORK_PLAN(sql, types) {(sql), lengthof(types), (types), NULL, 0}
#define WORK_PLAN_BARE(sql) {(sql), 0, NULL, NULL, 0}

/*
 * Executes a statement; `nulls` as SPI has it ("n" and " "), or NULL. Returns
 * how many rows it has touched; they are in SPI_tuptable.
 */
extern uint64 work_execute(WorkPlan *plan, Datum *values, const char *nulls);

/* Says whether the process has been told to end (SIGTERM). */
extern bool work_should_end(void);

/* Reads the configuration files again if there was a SIGHUP; true if so. */
extern bool work_reload(void);

#endif							/* LLM_WORK_H */
