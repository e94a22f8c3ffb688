/*
 * shared.h
 *	  The extension's shared memory: the table of cells, and what belongs to
 *	  the server as a whole. What is a database's is in slot.h.
 */
#ifndef LLM_SHARED_H
#define LLM_SHARED_H

#include "postgres.h"

#include "health/cell.h"
#include "health/network.h"
#include "health/slot.h"

/* GUC, PGC_POSTMASTER; defined in settings.c. */
extern int	llm_max_cells;

/* From the shmem hooks. */
extern Size shared_size(void);
extern void shared_request(void);	/* memory and lock; shmem_request_hook */
extern void shared_startup(void);	/* shmem_startup_hook */

extern bool shared_is_ready(void);
extern Network *shared_network(void);

/*
 * Returns this server's salt for hashes of things that must not be known, and
 * another one after each start.
 */
extern uint64 shared_salt(void);

/*
 * True once an hour for the whole server: whoever found something lacking
 * should say so. `said_at` is in shared memory: when it was last said.
 */
extern bool shared_should_say(pg_atomic_uint64 *said_at, Usec now);

/* Lets a slot and the cells of a database that is gone be used by others. */
extern void shared_forget_database(Oid database);

/* Lets the cells of a database begin anew, but for those in use. */
extern void shared_forget_cells(Oid database);

/* Fills `databases` with those that have cells or a slot; returns how many. */
extern int	shared_databases(Oid *databases, int max);

/*
 * Finds or makes the cell of a key. When the table is full, the cell that was
 * unwanted and idle for longest is taken; if there is none, *unshared is set.
 * Neither raises nor waits for long.
 */
extern CellRef cells_find(const CellKey *key, TimestampTz wall, Usec now,
						  bool *unshared);

/*
 * Finds or makes the process's own cell of a key that has none in the table,
 * and counts that. Without memory for it, nothing is kept at all.
 */
extern CellRef cells_find_own(const CellKey *key, TimestampTz wall);

/*
 * Begins and ends the load of a database's configuration: between the two
 * cells_find() marks what is wanted; at the end all other cells of the database
 * are unwanted, and make room for what had none. Of several loads at a time the
 * one that began last decides. To be unwanted makes a cell a candidate for
 * another owner and nothing else: the load may have seen changes that are not
 * committed.
 */
extern void cells_load_begin(void);
extern void cells_load_end(Oid database);

/* Says whether other processes can follow a reference. */
extern bool cell_is_shared(CellRef ref);

/* Counts cells that were given to others: references may be outdated since. */
extern uint64 cells_reclaimed(void);

/* Counts look-ups that found no place, since the server started. */
extern uint64 cells_unshared(void);

/* True once an hour: somebody should warn that the table is full. */
extern bool cells_should_warn(Usec now);

/*
 * Calls `visit` for each cell of a database, the process's own included, under
 * the table's shared lock: it must be short, and must not throw. There are at
 * most cells_most() of them.
 */
typedef void (*CellVisitor) (Cell *cell, void *arg);
extern int	cells_most(void);
extern void cells_visit(Oid database, CellVisitor visit, void *arg);

#endif							/* LLM_SHARED_H */
