/*
 * slot.h
 *	  What shared memory keeps once for a database: what of its breakers is
 *	  stored, and which of our background processes work for it.
 *
 * A database has a slot from its first use on until it is dropped. Everything
 * in it is atomic; the lock of slot.c protects only whose it is.
 *
 * A background process is told what to do by signals, bits that stay set until
 * it takes them, and its latch. Who signals a process that is not there has
 * the launcher start it.
 */
#ifndef LLM_SLOT_H
#define LLM_SLOT_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "util/clock.h"

/* GUC, PGC_POSTMASTER; defined in settings.c. */
extern int	llm_max_databases;

/* The background processes of a database. */
typedef enum SlotProcess
{
	SLOT_WORKER,				/* calls, probes, the journal */
	SLOT_SETTLER				/* on_finish, and what may take its time */
} SlotProcess;

#define SLOT_PROCESSES 2

/* Signals to both. */
#define SIGNAL_LOOK		0x20	/* the extension may be gone or be there */

/* Signals to the worker. */
#define SIGNAL_TASKS	0x01	/* tasks were inserted, changed or requeued */
#define SIGNAL_REVOKED	0x02	/* running tasks were cancelled or deleted */
#define SIGNAL_JOURNAL	0x04	/* the journal is no longer empty */
#define SIGNAL_FLUSH	0x08	/* somebody waits for what is in the journal */
#define SIGNAL_BREAKERS	0x10	/* a breaker has changed and is to be stored */

/* Signals to the settler. */
#define SIGNAL_ANSWERED 0x100	/* there are tasks whose on_finish is to run */
#define SIGNAL_TIDY		0x200	/* look for rows that are old enough to go */

/* What the launcher is to do about one of them. */
typedef enum Wanted
{
	WANTED_NOT,					/* nothing: there is no work for it */
	WANTED_NEW,					/* start it at once when it is not there */
	WANTED_STILL				/* start it again, in a while, if it ends */
} Wanted;

/* One of them. */
typedef struct Presence
{
	pg_atomic_uint32 wanted;	/* Wanted */
	pg_atomic_uint32 pid;		/* 0 = it is not there */
	pg_atomic_uint32 procno;	/* its latch; good or stale, never bad */
	pg_atomic_uint32 signals;
} Presence;

typedef struct DatabaseSlot
{
	Oid			database;		/* InvalidOid = free; under the lock */
	Presence	processes[SLOT_PROCESSES];
	pg_atomic_uint32 kept_free_by;	/* pid of who wants nobody connected, or 0 */
	pg_atomic_uint64 settling;	/* task whose on_finish runs, or 0 */

	/* breakers: catalog/breaker_store.c */
	pg_atomic_uint32 table;		/* OID of its llm_breaker, once known */
	pg_atomic_uint32 restored;	/* 0 = stored breakers are still to be read */
	pg_atomic_uint64 changes;	/* transitions of its breakers so far */
	pg_atomic_uint64 stored;	/* of these: written to llm_breaker */
} DatabaseSlot;

/* From the shmem hooks. */
extern Size slots_size(void);
extern void slots_startup(LWLock *lock);

/* Returns a database's slot, made if need be; NULL when all are taken. */
extern DatabaseSlot *slot_make(Oid database);

/* Returns a database's slot if it has one, or NULL. */
extern DatabaseSlot *slot_find(Oid database);

/* Lets the slot of a database that is gone be used by another. */
extern void slot_forget(Oid database);

/* Returns slot number `n`, whoever's, or NULL when there are no more. */
extern DatabaseSlot *slot_number(int n);

/* Returns the number of a slot: 0 to llm_max_databases - 1. */
extern int	slot_index(const DatabaseSlot *slot);

/* --- processes --- */

/*
 * Makes this process one of a database's, until it exits; false when there is
 * one already, or is to be none for now. However it ends, it is started again,
 * unless it was dismissed.
 */
extern bool slot_attach(DatabaseSlot *slot, SlotProcess process);

/*
 * Lets a process end for good: it is started again by the next signal. To be
 * called by a process before it looks whether there is anything to do for it,
 * the last time: then no signal is lost. What it is attached to by then starts
 * it again if it has left signals behind.
 */
extern void slot_dismiss(Oid database, SlotProcess process);

/* Returns the process ID, or 0 when it is not there. */
extern int	slot_pid(const DatabaseSlot *slot, SlotProcess process);

/*
 * Sets signals and wakes the process, or has the launcher start it. Neither
 * throws nor waits: fit for the moment after a commit.
 */
extern void slot_signal(DatabaseSlot *slot, SlotProcess process,
						uint32 signals);

/* Returns the signals that were set, and clears them. */
extern uint32 slot_take_signals(DatabaseSlot *slot, SlotProcess process);

/* --- databases that somebody wants without connections --- */

/*
 * Keeps processes away from a database until slots_give_back(). Those that are
 * attached go on; when they end they are started again then.
 */
extern void slot_keep_free(DatabaseSlot *slot);
extern bool slot_is_kept_free(DatabaseSlot *slot);

/* Lets processes into all databases again that this one has kept free. */
extern void slots_give_back(void);

/* --- the launcher --- */

/*
 * The database in which the launcher has just started a worker to see whether
 * it has the extension, and thus a slot; InvalidOid = none.
 */
extern void slots_set_swept(Oid database);
extern Oid	slots_swept(void);

/* When it was last said that no background worker is free. */
extern pg_atomic_uint64 *slots_full_said_at(void);

/* Makes this process the launcher, until it exits. */
extern void launcher_attach(void);

/* Has the launcher look at the slots again. */
extern void launcher_wake(void);

#endif							/* LLM_SLOT_H */
