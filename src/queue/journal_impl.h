/*
 * journal_impl.h
 *	  Between the files that the journal is made of; for them only.
 *
 * journal.c has the memory, appending and llm_flush(), journal_store.c empties a ring
 * into the tables, usage.c and event.c know what the entries of a kind say.
 */
#ifndef LLM_JOURNAL_IMPL_H
#define LLM_JOURNAL_IMPL_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "health/slot.h"
#include "queue/entry.h"
#include "queue/ring.h"

/* What an entry is. */
typedef enum JournalKind
{
	JOURNAL_USAGE,
	JOURNAL_EVENT
} JournalKind;

#define JOURNAL_KINDS 2

/*
 * The journal of a slot. The lock protects all but the atomic and what the ring
 * holds: only the worker of the database releases that, so it reads without.
 */
typedef struct Journal
{
	LWLock	   *lock;
	Oid			database;		/* whose entries these are */
	pg_atomic_uint32 trouble;	/* how storing ended last: a WorkEnd */
	ConditionVariable tried;	/* storing was tried, well or not */
	Ring		ring;
} Journal;

/* Returns the journal of a slot. */
extern Journal *journal_of_slot(const DatabaseSlot *slot);

/* Makes a journal its database's, if another had it before; under its lock. */
extern void journal_make_own(Journal *journal, Oid database);

/* Appends an entry to the journal of a database, and wakes its worker. */
extern void journal_append(Oid database, JournalKind kind,
						   const EntryWriter *entry);

/* Store entries, a list of EntryReader, in a transaction of the worker's. */
extern void usage_store(List *entries);
extern void event_store(List *entries);

#endif							/* LLM_JOURNAL_IMPL_H */
