/*
 * keeper.h
 *	  What the launcher knows of each background process, and does about it.
 */
#ifndef LLM_KEEPER_H
#define LLM_KEEPER_H

#include "postgres.h"

#include "postmaster/bgworker.h"

#include "health/slot.h"

/* Makes a keeper for each process that there can be. */
extern void keepers_init(void);

/*
 * Looks after all processes: starts those that are wanted. Returns when
 * something is due by itself, or USEC_NEVER.
 */
extern Usec keepers_tend(Usec now);

/* --- processes --- */

/*
 * Has the postmaster start a process, and tell us when it has started and when
 * it has ended. Returns NULL, and says so, when no background worker is free.
 */
extern BackgroundWorkerHandle *process_start(Oid database,
											 SlotProcess process, Usec now);

/* Says whether a process is running, or is about to. */
extern bool process_is_alive(BackgroundWorkerHandle *handle);

/* Frees a handle, if there is one, and makes it NULL. */
extern void process_forget(BackgroundWorkerHandle **handle);

#endif							/* LLM_KEEPER_H */
