/*
 * journal.h
 *	  What must be kept of calls that may write no table: a ring of bytes in
 *	  shared memory for each database, which its worker empties into llm_usage
 *	  and llm_event.
 *
 * Who appends takes a lock for as long as it takes to copy some hundred bytes,
 * and never waits for the worker: where the ring is full, the entry is dropped
 * and counted. Appending neither throws nor allocates, so that it can be done
 * anywhere, within a libcurl loop and without a transaction too.
 */
#ifndef LLM_JOURNAL_H
#define LLM_JOURNAL_H

#include "postgres.h"

#include "engine/call.h"
#include "health/slot.h"

/* From the shmem hooks. */
extern void journal_request(void);
extern void journal_startup(void);

/* What an event is about; NULL = nothing in particular. */
typedef struct JournalScope
{
	const char *provider;
	const char *region;
	const char *model;
	const char *tier;
	const char *feature;
	const char *role;
} JournalScope;

/*
 * Notes what a call that has ended has used: a row of llm_usage each target.
 * `role` is its name; `tier` NULL for a probe, which asks for none.
 */
extern void journal_usage(const Call *call, const char *tier,
						  const char *role);

/*
 * Notes an event. `message` is a sentence; `detail` is JSON text or NULL. With
 * `notify` it is told on the channel llm_event, too. `database`: whose journal.
 */
extern void journal_event(Oid database, const char *kind,
						  const JournalScope *scope, const char *message,
						  const char *detail, bool notify);

/* Notes a change of a breaker's state as an event; fit for a HealthListener. */
extern void journal_breaker(const Cell *cell, const BreakerChange *change,
							const char *reason);

/* Entries dropped since the server started, of this database. */
extern int64 journal_dropped(void);

/*
 * Waits until all that this session has appended is stored; raises when nobody
 * is there to store it.
 */
extern void journal_flush(void);

/* --- the worker --- */

/*
 * Stores what is in the journal of this database, if `now` it is time for that,
 * in transactions of its own. Returns when to call it next, or USEC_NEVER while
 * the journal is empty (SIGNAL_JOURNAL says when it is not any more). With
 * `flush` it is time.
 */
extern Usec journal_store(DatabaseSlot *slot, bool flush, Usec now);

#endif							/* LLM_JOURNAL_H */
