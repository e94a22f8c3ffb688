/*
 * journal_store.c
 *	  The worker empties the journal into the tables.
 *
 * A batch is copied, stored in one transaction, and released when that has
 * committed: whatever goes wrong before, the entries are still there. What goes
 * wrong is usually somebody's lock, or a full disk, and is tried again later.
 * Where an entry itself is at fault the batch is halved until that entry is
 * alone, and dropped.
 *
 * As long as calls come in, it stores once a second.
 */
#include "postgres.h"

#include "queue/journal.h"
#include "queue/journal_impl.h"
#include "queue/work.h"

/* How often what comes in is stored. */
#define STORE_EVERY (1 * USEC_SEC)

/* How much of it in one transaction: some thousand entries. */
#define BATCH_BYTES (256 * 1024)

/* The first pause after a failure; it doubles up to the longest. */
#define FIRST_PAUSE (250 * USEC_MSEC)
#define LONGEST_PAUSE_BUSY (2 * USEC_SEC)
#define LONGEST_PAUSE (60 * USEC_SEC)

/* What one transaction stores. */
typedef struct Batch
{
	const Journal *journal;
	uint64		from;
	uint64		to;				/* at most up to here */
	int			max;			/* and so many entries */
	int			n;				/* entries that it has */
	uint64		end;			/* behind the last of them */
} Batch;

/* Where the worker's process is with its journal. */
static struct
{
	uint64		asked;			/* store up to here at once */
	Usec		last;			/* when something was stored */
	Usec		retry_at;		/* after a failure, or 0 */
	Usec		pause;			/* the last pause after a failure */
	int			max;			/* entries a batch */
	bool		was_there;		/* the extension has been seen */
} store = {
	.max = PG_INT32_MAX
};

static Usec store_due(const Ring *ring, Usec now);
static void store_batch(Journal *journal, const Ring *ring, Usec now);
static void write_batch(void *arg);
static void take_entries(Batch *batch, const char *copy, size_t len,
						 List **entries);
static void take_end(Journal *journal, const Batch *batch, WorkEnd how,
					 Usec now);
static bool is_entrys_fault(int sqlstate);
static void narrow(Journal *journal, const Batch *batch);
static void release(Journal *journal, uint64 end, bool dropped);
static void pause_storing(Usec longest, Usec now);

Usec
journal_store(DatabaseSlot *slot, bool flush, Usec now)
{
	Journal    *journal = journal_of_slot(slot);
	Ring		ring;
	Usec		due;

	LWLockAcquire(journal->lock, LW_EXCLUSIVE);
	journal_make_own(journal, slot->database);
	ring = journal->ring;
	LWLockRelease(journal->lock);

	if (flush)
	{
		store.asked = ring.end;
		store.retry_at = 0;
	}
	due = store_due(&ring, now);
	if (due > now)
		return due;
	if (ring.start >= store.asked)
		store.asked = ring.end;
	store_batch(journal, &ring, now);

	LWLockAcquire(journal->lock, LW_SHARED);
	ring = journal->ring;
	LWLockRelease(journal->lock);
	return store_due(&ring, now);
}

/* Returns when it is time to store what is in a ring. */
static Usec
store_due(const Ring *ring, Usec now)
{
	Usec		due = store.last + STORE_EVERY;

	if (ring_used(ring) == 0)
		return USEC_NEVER;
	if (ring->start < store.asked || ring_used(ring) >= ring->size / 2)
		due = now;
	return Max(due, store.retry_at);
}

/* Stores the next batch of what was in the ring. */
static void
store_batch(Journal *journal, const Ring *ring, Usec now)
{
	Batch		batch = {
		.journal = journal,
		.from = ring->start,
		.to = ring->end,
		.max = store.max,
	};

	take_end(journal, &batch,
			 work_run("storing usage and events", write_batch,
					  &batch), now);
}

/* Writes a batch, within its transaction. */
static void
write_batch(void *arg)
{
	Batch	   *batch = arg;
	char	   *copy = palloc(BATCH_BYTES);
	size_t		len = ring_copy(&batch->journal->ring, batch->from, batch->to,
								copy, BATCH_BYTES);
	List	   *entries[JOURNAL_KINDS] = {NIL};

	take_entries(batch, copy, len, entries);
	usage_store(entries[JOURNAL_USAGE]);
	event_store(entries[JOURNAL_EVENT]);
}

/* Sorts the entries of a batch by their kinds, each in order. */
static void
take_entries(Batch *batch, const char *copy, size_t len, List **entries)
{
	size_t		offset = 0;
	RingEntry	entry;

	batch->n = 0;
	while (batch->n < batch->max && ring_next(copy, len, &offset, &entry))
	{
		EntryReader *reader = palloc(sizeof(EntryReader));

		Assert(entry.kind < JOURNAL_KINDS);
		*reader = (EntryReader) {entry.bytes, entry.len};
		entries[entry.kind] = lappend(entries[entry.kind], reader);
		batch->n++;
		batch->end = batch->from + offset;
	}
}

/* Draws the consequences of how a batch has ended. */
static void
take_end(Journal *journal, const Batch *batch, WorkEnd how, Usec now)
{
	if (how == WORK_DONE)
	{
		release(journal, batch->end, false);
		store.was_there = true;
		store.last = now;
		store.retry_at = store.pause = 0;
		store.max = store.max > PG_INT32_MAX / 2 ? PG_INT32_MAX : store.max * 2;
	}
	else if (how == WORK_FAILED && is_entrys_fault(work_sqlstate()))
		narrow(journal, batch);
	else if (how == WORK_GONE && store.was_there)
		release(journal, batch->to, false); /* it was dropped, and its tables */
	else
		pause_storing(how == WORK_FAILED ? LONGEST_PAUSE : LONGEST_PAUSE_BUSY,
					  now);
	pg_atomic_write_u32(&journal->trouble, how);
	ConditionVariableBroadcast(&journal->tried);
}

/* Says whether an error may come from what an entry says. */
static bool
is_entrys_fault(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		category == ERRCODE_CARDINALITY_VIOLATION;
}

/* Tries half of a batch, or goes on without the entry that it is. */
static void
narrow(Journal *journal, const Batch *batch)
{
	if (batch->n > 1)
	{
		store.max = batch->n / 2;
		return;
	}
	ereport(LOG,
			(errmsg("llm_failover: an entry of the journal is dropped, as it cannot be stored")));
	release(journal, batch->end, true);
}

/* Removes what is stored, and what is dropped for good. */
static void
release(Journal *journal, uint64 end, bool dropped)
{
	LWLockAcquire(journal->lock, LW_EXCLUSIVE);
	ring_release(&journal->ring, end);
	if (dropped)
		journal->ring.dropped++;
	LWLockRelease(journal->lock);
}

/* Lets some time pass before the next try. */
static void
pause_storing(Usec longest, Usec now)
{
	store.pause = Min(Max(store.pause * 2, FIRST_PAUSE), longest);
	store.retry_at = now + store.pause;
}
