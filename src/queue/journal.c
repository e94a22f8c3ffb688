/*
 * journal.c
 *	  The journals in shared memory, appending, and waiting until what was
 *	  appended is stored: see journal.h.
 *
 * There is a journal for each slot. Its memory is not touched before the first
 * entry, so one that is larger than needed is never paid for. A slot may get
 * another database when its own was dropped; who appends finds that out.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "queue/journal.h"
#include "queue/journal_impl.h"
#include "queue/work.h"
#include "settings.h"

#define TRANCHE "llm_failover journal"

/* llm_flush() gives up when nothing was stored for so long. */
#define FLUSH_PATIENCE (10 * USEC_SEC)

/* So often it looks after the worker. */
#define FLUSH_LOOK 500			/* ms */

typedef struct Journals
{
	pg_atomic_uint64 homeless;	/* entries dropped for want of a slot */
	Journal		journals[FLEXIBLE_ARRAY_MEMBER];	/* by slot */
} Journals;

static Journals *shared;

static DatabaseSlot *my_slot;	/* this database's, once it has one */
static uint64 my_end;			/* behind the last entry of this session */

static DatabaseSlot *slot_of(Oid database);
static uint64 append_to(DatabaseSlot *slot, Oid database, JournalKind kind,
						const EntryWriter *entry, bool *wake);
static bool is_stored(Journal *journal, uint64 *start);
static void check_hope(const DatabaseSlot *slot, Journal *journal,
					   Usec waited);
static void give_up(const char *why, const char *hint) pg_attribute_noreturn();

/* --- the memory --- */

static Size
headers_size(void)
{
	return add_size(offsetof(Journals, journals),
					mul_size(llm_max_databases, sizeof(Journal)));
}

/* Returns the size of a ring's memory. */
static Size
ring_size(void)
{
	return mul_size(llm_journal_size, 1024);
}

void
journal_request(void)
{
	Size		data = mul_size(llm_max_databases, ring_size());

	RequestAddinShmemSpace(add_size(CACHELINEALIGN(headers_size()),
									CACHELINEALIGN(data)));
	RequestNamedLWLockTranche(TRANCHE, llm_max_databases);
}

/* Makes an empty journal that is nobody's. */
static void
init_journal(Journal *journal, LWLock *lock, char *data)
{
	journal->lock = lock;
	journal->database = InvalidOid;
	pg_atomic_init_u32(&journal->trouble, WORK_DONE);
	ConditionVariableInit(&journal->tried);
	ring_init(&journal->ring, data, ring_size());
}

/* Makes what was asked for, or finds it where the postmaster has made it. */
void
journal_startup(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche(TRANCHE);
	char	   *data;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	data = ShmemInitStruct("llm_failover journal data",
						   mul_size(llm_max_databases, ring_size()), &found);
	shared = ShmemInitStruct("llm_failover journals", headers_size(), &found);
	if (!found)
	{
		pg_atomic_init_u64(&shared->homeless, 0);
		for (int i = 0; i < llm_max_databases; i++)
			init_journal(&shared->journals[i], &locks[i].lock,
						 data + i * ring_size());
	}
	LWLockRelease(AddinShmemInitLock);
}

Journal *
journal_of_slot(const DatabaseSlot *slot)
{
	return &shared->journals[slot_index(slot)];
}

void
journal_make_own(Journal *journal, Oid database)
{
	if (journal->database == database)
		return;
	journal->database = database;
	pg_atomic_write_u32(&journal->trouble, WORK_DONE);
	ring_init(&journal->ring, journal->ring.data, journal->ring.size);
}

/* --- appending --- */

/* Returns the slot of a database; NULL when all are taken. */
static DatabaseSlot *
slot_of(Oid database)
{
	if (database != MyDatabaseId)
		return slot_find(database);
	if (my_slot == NULL)
		my_slot = slot_find(database);
	if (my_slot == NULL)
		my_slot = slot_make(database);
	return my_slot;
}

void
journal_append(Oid database, JournalKind kind, const EntryWriter *entry)
{
	DatabaseSlot *slot;
	bool		wake = false;
	uint64		end;

	if (shared == NULL)
		return;
	slot = slot_of(database);
	if (slot == NULL)
	{
		pg_atomic_fetch_add_u64(&shared->homeless, 1);
		return;
	}
	end = append_to(slot, database, kind, entry, &wake);
	if (wake)
		slot_signal(slot, SLOT_WORKER, SIGNAL_JOURNAL);
	if (database == MyDatabaseId && end > 0)
		my_end = end;
}

/*
 * Appends an entry and returns the position behind it, or 0 when it was
 * dropped. The worker is to be woken when there is something to store at all,
 * and when half of the room is used up; what comes in between it stores in
 * passing.
 */
static uint64
append_to(DatabaseSlot *slot, Oid database, JournalKind kind,
		  const EntryWriter *entry, bool *wake)
{
	Journal    *journal = journal_of_slot(slot);
	Ring	   *ring = &journal->ring;
	uint64		end = 0;
	uint64		before;

	LWLockAcquire(journal->lock, LW_EXCLUSIVE);
	if (slot->database == database)
	{
		journal_make_own(journal, database);
		before = ring_used(ring);
		if (ring_append(ring, kind, entry->bytes, (uint32) entry->len))
			end = ring->end;
		*wake = end > 0 &&
			(before == 0 || (before < ring->size / 2 &&
							 ring_used(ring) >= ring->size / 2));
	}
	LWLockRelease(journal->lock);
	return end;
}

int64
journal_dropped(void)
{
	DatabaseSlot *slot = slot_find(MyDatabaseId);
	Journal    *journal;
	int64		dropped = 0;

	if (shared == NULL)
		return 0;
	if (slot == NULL)
		return (int64) pg_atomic_read_u64(&shared->homeless);
	journal = journal_of_slot(slot);
	LWLockAcquire(journal->lock, LW_SHARED);
	if (journal->database == MyDatabaseId)
		dropped = (int64) journal->ring.dropped;
	LWLockRelease(journal->lock);
	return dropped;
}

/* --- waiting until it is stored --- */

void
journal_flush(void)
{
	static uint32 wait_event = 0;
	DatabaseSlot *slot = my_slot;
	Journal    *journal;
	uint64		start;
	uint64		reached = 0;
	Usec		since = clock_now();

	if (slot == NULL)
		return;					/* nothing was appended */
	journal = journal_of_slot(slot);
	if (wait_event == 0)
		wait_event = new_wait_event_compat("LlmJournalFlush");
	ConditionVariablePrepareToSleep(&journal->tried);
	for (bool told = false; !is_stored(journal, &start); told = true)
	{
		if (start > reached)
			since = clock_now();
		reached = start;
		check_hope(slot, journal, clock_now() - since);
		if (!told || slot_pid(slot, SLOT_WORKER) == 0)
			slot_signal(slot, SLOT_WORKER, SIGNAL_FLUSH);
		ConditionVariableTimedSleep(&journal->tried, FLUSH_LOOK, wait_event);
	}
	ConditionVariableCancelSleep();
}

/* Says whether all of this session's is stored, and up to where all is. */
static bool
is_stored(Journal *journal, uint64 *start)
{
	LWLockAcquire(journal->lock, LW_SHARED);
	*start = journal->ring.start;
	LWLockRelease(journal->lock);
	return *start >= my_end;
}

/* Why nothing is stored, by how the worker's last try has ended. */
static const char *const troubles[][2] = {
	[WORK_FAILED] = {
		"llm_usage or llm_event cannot be written",
		"The server's log says why."
	},
	[WORK_BUSY] = {
		"somebody holds a lock",
		"See pg_locks for llm_usage, llm_event and the extension. It will be stored once the lock is released."
	},
	[WORK_GONE] = {
		"the background worker does not see the extension",
		"A transaction that creates it must commit first."
	},
};

/*
 * Raises when there is no hope, or none any more after waiting for so long
 * without progress. A worker that has met no trouble may take its time.
 */
static void
check_hope(const DatabaseSlot *slot, Journal *journal, Usec waited)
{
	uint32		trouble = pg_atomic_read_u32(&journal->trouble);

	if (RecoveryInProgress())
		give_up("this server is a standby",
				"It will be stored after a promotion.");
	if (waited < FLUSH_PATIENCE)
		return;
	if (slot_pid(slot, SLOT_WORKER) == 0)
		give_up("this database has no background worker",
				"A transaction that creates the extension must commit first. You might need to increase \"max_worker_processes\".");
	if (trouble != WORK_DONE)
		give_up(troubles[trouble][0], troubles[trouble][1]);
}

static void
give_up(const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the journal cannot be stored: %s", why),
			 errhint("%s", hint)));
}
