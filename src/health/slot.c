/*
 * slot.c
 *	  What shared memory keeps once for a database: see slot.h.
 *
 * The lock protects which database has which slot. Nobody allocates, throws or
 * waits under it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "health/slot.h"

typedef struct Slots
{
	LWLock	   *lock;
	pg_atomic_uint32 launcher_pid;	/* 0 = it is not there */
	pg_atomic_uint32 launcher_procno;
	pg_atomic_uint32 swept;		/* database, or InvalidOid */
	pg_atomic_uint64 full_said_at;	/* Usec, or 0 */
	DatabaseSlot slots[FLEXIBLE_ARRAY_MEMBER];
} Slots;

static Slots *slots;

static void leave_slot(int code, Datum arg);
static bool want(Presence *presence);
static void forgive(Presence *presence);
static void leave_launcher(int code, Datum arg);

/* --- the memory --- */

Size
slots_size(void)
{
	return add_size(offsetof(Slots, slots),
					mul_size(llm_max_databases, sizeof(DatabaseSlot)));
}

/* Makes a slot its database's, with nothing known of it yet. */
static void
init_slot(DatabaseSlot *slot, Oid database)
{
	for (int i = 0; i < SLOT_PROCESSES; i++)
	{
		pg_atomic_init_u32(&slot->processes[i].wanted, WANTED_NOT);
		pg_atomic_init_u32(&slot->processes[i].pid, 0);
		pg_atomic_init_u32(&slot->processes[i].procno, 0);
		pg_atomic_init_u32(&slot->processes[i].signals, 0);
	}
	pg_atomic_init_u32(&slot->kept_free_by, 0);
	pg_atomic_init_u64(&slot->settling, 0);
	pg_atomic_init_u32(&slot->table, InvalidOid);
	pg_atomic_init_u32(&slot->restored, 0);
	pg_atomic_init_u64(&slot->changes, 0);
	pg_atomic_init_u64(&slot->stored, 0);
	slot->database = database;
}

/* Makes the slots, or finds them; under AddinShmemInitLock. */
void
slots_startup(LWLock *lock)
{
	bool		found;

	slots = ShmemInitStruct("llm_failover databases", slots_size(), &found);
	if (found)
		return;
	slots->lock = lock;
	pg_atomic_init_u32(&slots->launcher_pid, 0);
	pg_atomic_init_u32(&slots->launcher_procno, 0);
	pg_atomic_init_u32(&slots->swept, InvalidOid);
	pg_atomic_init_u64(&slots->full_said_at, 0);
	for (int i = 0; i < llm_max_databases; i++)
		init_slot(&slots->slots[i], InvalidOid);
}

/* --- whose they are --- */

/* Finds the slot of a database, or of InvalidOid a free one. */
static DatabaseSlot *
search(Oid database)
{
	for (int i = 0; i < llm_max_databases; i++)
		if (slots->slots[i].database == database)
			return &slots->slots[i];
	return NULL;
}

DatabaseSlot *
slot_make(Oid database)
{
	DatabaseSlot *slot;

	if (slots == NULL)
		return NULL;
	LWLockAcquire(slots->lock, LW_EXCLUSIVE);
	slot = search(database);
	if (slot == NULL && (slot = search(InvalidOid)) != NULL)
		init_slot(slot, database);
	LWLockRelease(slots->lock);
	return slot;
}

DatabaseSlot *
slot_find(Oid database)
{
	DatabaseSlot *slot;

	if (slots == NULL || !OidIsValid(database))
		return NULL;
	LWLockAcquire(slots->lock, LW_SHARED);
	slot = search(database);
	LWLockRelease(slots->lock);
	return slot;
}

/* Nobody is connected to the database, so none of its processes is there. */
void
slot_forget(Oid database)
{
	DatabaseSlot *slot;

	LWLockAcquire(slots->lock, LW_EXCLUSIVE);
	slot = search(database);
	if (slot)
		slot->database = InvalidOid;
	LWLockRelease(slots->lock);
}

DatabaseSlot *
slot_number(int n)
{
	return slots && n < llm_max_databases ? &slots->slots[n] : NULL;
}

int
slot_index(const DatabaseSlot *slot)
{
	return (int) (slot - slots->slots);
}

/* --- processes --- */

/*
 * Who keeps the database free says so first and looks for us after; we do it
 * the other way round, so that one of the two sees the other.
 */
bool
slot_attach(DatabaseSlot *slot, SlotProcess process)
{
	Presence   *presence = &slot->processes[process];
	uint32		nobody = 0;

	if (!pg_atomic_compare_exchange_u32(&presence->pid, &nobody,
										(uint32) MyProcPid))
		return false;
	pg_atomic_write_u32(&presence->procno, my_proc_number_compat());
	pg_atomic_exchange_u32(&presence->wanted, WANTED_STILL);
	if (slot_is_kept_free(slot))
	{
		pg_atomic_write_u32(&presence->pid, 0);
		forgive(presence);
		return false;
	}
	before_shmem_exit(leave_slot, PointerGetDatum(presence));
	launcher_wake();
	return true;
}

/*
 * Takes this process out again. Who signals sets the bits first and looks for
 * us after; so what came too late for us is seen here, or has gone to the
 * launcher.
 */
static void
leave_slot(int code pg_attribute_unused(), Datum arg)
{
	Presence   *presence = (Presence *) DatumGetPointer(arg);
	uint32		me = (uint32) MyProcPid;

	(void) pg_atomic_compare_exchange_u32(&presence->pid, &me, 0);
	if (pg_atomic_read_u32(&presence->signals) != 0)
		(void) want(presence);
	launcher_wake();
}

/* Has the launcher start a process; true when it did not know yet. */
static bool
want(Presence *presence)
{
	uint32		wanted = WANTED_NOT;

	return pg_atomic_compare_exchange_u32(&presence->wanted, &wanted,
										  WANTED_NEW);
}

/* One that is not attached dismisses itself, not another that is. */
void
slot_dismiss(Oid database, SlotProcess process)
{
	DatabaseSlot *slot = slot_find(database);
	int			pid;

	if (slot == NULL)
		return;
	pid = slot_pid(slot, process);
	if (pid == 0 || pid == MyProcPid)
		pg_atomic_exchange_u32(&slot->processes[process].wanted, WANTED_NOT);
}

int
slot_pid(const DatabaseSlot *slot, SlotProcess process)
{
	return (int) pg_atomic_read_u32(unconstify(pg_atomic_uint32 *,
											   &slot->processes[process].pid));
}

/* Sets the latch of a process, or of one that has come in its place. */
static void
set_latch(pg_atomic_uint32 *procno)
{
	SetLatch(&GetPGProcByNumber(pg_atomic_read_u32(procno))->procLatch);
}

void
slot_signal(DatabaseSlot *slot, SlotProcess process, uint32 signals)
{
	Presence   *presence = &slot->processes[process];

	pg_atomic_fetch_or_u32(&presence->signals, signals);
	if (pg_atomic_read_u32(&presence->pid) != 0)
		set_latch(&presence->procno);
	else if (want(presence))
		launcher_wake();
}

uint32
slot_take_signals(DatabaseSlot *slot, SlotProcess process)
{
	pg_atomic_uint32 *signals = &slot->processes[process].signals;

	if (pg_atomic_read_u32(signals) == 0)
		return 0;
	return pg_atomic_exchange_u32(signals, 0);
}

/* --- databases that somebody wants without connections --- */

/*
 * Of several the last one decides: whoever came before holds the database's
 * lock by now, which keeps everybody out, or waits for it behind one who does.
 */
void
slot_keep_free(DatabaseSlot *slot)
{
	pg_atomic_exchange_u32(&slot->kept_free_by, (uint32) MyProcPid);
	for (int i = 0; i < SLOT_PROCESSES; i++)
		forgive(&slot->processes[i]);
}

/* Lets the end of a process be no failure: the next one does not wait. */
static void
forgive(Presence *presence)
{
	uint32		wanted = WANTED_STILL;

	(void) pg_atomic_compare_exchange_u32(&presence->wanted, &wanted,
										  WANTED_NEW);
}

bool
slot_is_kept_free(DatabaseSlot *slot)
{
	return pg_atomic_read_u32(&slot->kept_free_by) != 0;
}

void
slots_give_back(void)
{
	for (int i = 0; i < llm_max_databases; i++)
	{
		uint32		me = (uint32) MyProcPid;

		(void) pg_atomic_compare_exchange_u32(&slots->slots[i].kept_free_by,
											  &me, 0);
	}
	launcher_wake();
}

/* --- the launcher --- */

void
slots_set_swept(Oid database)
{
	pg_atomic_exchange_u32(&slots->swept, database);
}

Oid
slots_swept(void)
{
	return pg_atomic_read_u32(&slots->swept);
}

pg_atomic_uint64 *
slots_full_said_at(void)
{
	return &slots->full_said_at;
}

void
launcher_attach(void)
{
	pg_atomic_write_u32(&slots->launcher_procno, my_proc_number_compat());
	pg_atomic_write_u32(&slots->launcher_pid, (uint32) MyProcPid);
	before_shmem_exit(leave_launcher, (Datum) 0);
}

static void
leave_launcher(int code pg_attribute_unused(),
			   Datum arg pg_attribute_unused())
{
	pg_atomic_write_u32(&slots->launcher_pid, 0);
}

void
launcher_wake(void)
{
	if (pg_atomic_read_u32(&slots->launcher_pid) != 0)
		set_latch(&slots->launcher_procno);
}
