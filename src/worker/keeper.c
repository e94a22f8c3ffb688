/*
 * keeper.c
 *	  What the launcher knows of each background process, and does about it.
 *
 * The life of a process, as its keeper has it:
 *
 *			  wanted, or it has come by itself
 *	 ABSENT ----------------------------------> PRESENT
 *	   ^ | ^                                    |  |  ^
 *	   | | |   it ended, dismissed or stopped   |  |  | due, or it has come
 *	   | | +------------------------------------+  |  |
 *	   | |                                         |  |
 *	   | |  no background worker is free           |  |
 *	   | +-------------------------------+         |  |
 *	   |                                 v         v  |
 *	   +-------------------------------- RESTING -----+
 *		 no longer wanted                      it failed
 *
 * - ABSENT: it is not there. It is started as soon as it is wanted, unless
 *	 somebody keeps the database free of connections (stop.c).
 * - PRESENT: the postmaster has been asked to start it, or it is there. What a
 *	 launcher before this one has started is there without our doing.
 * - RESTING: it is wanted but could not be had, or has ended though nobody
 *	 meant it to: it has crashed, or was terminated. The first rest is a second,
 *	 the next ones are twice as long as the one before, up to a minute; who has
 *	 run for a minute begins anew. When all of max_worker_processes are at work
 *	 that is said, and tried again every ten seconds.
 *
 * A process that finds nothing to do for it dismisses itself and ends: the
 * worker of a database without the extension, the settler of an idle queue.
 * The next signal has it started again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "database.h"
#include "health/shared.h"
#include "keeper.h"

#define LIBRARY "llm_failover"

#define SHORTEST_REST (1 * USEC_SEC)
#define LONGEST_REST (60 * USEC_SEC)

/* Who has run for so long was well. */
#define PROVEN_AFTER (60 * USEC_SEC)

/* When no background worker was free. */
#define RETRY_AFTER (10 * USEC_SEC)

typedef enum KeeperState
{
	KEEPER_ABSENT,
	KEEPER_PRESENT,
	KEEPER_RESTING
} KeeperState;

/* What the launcher knows of a process of a slot. */
typedef struct Keeper
{
	KeeperState state;
	Oid			database;		/* of the slot, when it was last looked at */
	SlotProcess process;
	Presence   *presence;
	BackgroundWorkerHandle *handle; /* of what we have started, or NULL */
	Usec		started;		/* when it was last started, or found there */
	Usec		rest;			/* the last one after a failure; 0 = none */
	Usec		due;			/* RESTING: when it is started again */
} Keeper;

static const struct
{
	const char *type;
	const char *function;
}			processes[SLOT_PROCESSES] = {
	[SLOT_WORKER] = {"llm_failover worker", "llm_worker_main"},
	[SLOT_SETTLER] = {"llm_failover settler", "llm_settler_main"},
};

static Keeper *keepers;			/* SLOT_PROCESSES for each slot */

static Usec tend(DatabaseSlot *slot, Keeper *keeper, Usec now);
static void observe(Keeper *keeper, Usec now);
static void change_owner(Keeper *keeper, Oid database);
static bool is_there(const Keeper *keeper);
static Wanted is_wanted(const Keeper *keeper);
static void try_to_start(Keeper *keeper, Usec now);
static void trans_to_present(Keeper *keeper, BackgroundWorkerHandle *handle,
							 Usec now);
static void trans_present_to_absent(Keeper *keeper);
static void trans_present_to_resting(Keeper *keeper, Usec now);
static void trans_to_resting_without_room(Keeper *keeper, Usec now);
static void trans_resting_to_absent(Keeper *keeper);
static void set_state(Keeper *keeper, KeeperState state);
static void say_full(Usec now);

void
keepers_init(void)
{
	keepers = MemoryContextAllocZero(TopMemoryContext,
									 mul_size(llm_max_databases *
											  SLOT_PROCESSES,
											  sizeof(Keeper)));
	for (int i = 0; i < llm_max_databases * SLOT_PROCESSES; i++)
	{
		SlotProcess process = (SlotProcess) (i % SLOT_PROCESSES);

		keepers[i].process = process;
		keepers[i].presence =
			&slot_number(i / SLOT_PROCESSES)->processes[process];
	}
}

Usec
keepers_tend(Usec now)
{
	Usec		next = USEC_NEVER;

	for (int i = 0; i < llm_max_databases * SLOT_PROCESSES; i++)
	{
		DatabaseSlot *slot = slot_number(i / SLOT_PROCESSES);

		change_owner(&keepers[i], slot->database);
		if (OidIsValid(slot->database))
			next = Min(next, tend(slot, &keepers[i], now));
	}
	return next;
}

/*
 * Looks after one. It is not waited until a database that is kept free is so no
 * longer: who keeps it free wakes us.
 */
static Usec
tend(DatabaseSlot *slot, Keeper *keeper, Usec now)
{
	observe(keeper, now);
	if (keeper->state == KEEPER_PRESENT || slot_is_kept_free(slot))
		return USEC_NEVER;
	if (keeper->state == KEEPER_ABSENT ? is_wanted(keeper) != WANTED_NOT :
		now >= keeper->due)
		try_to_start(keeper, now);
	return keeper->state == KEEPER_RESTING ? keeper->due : USEC_NEVER;
}

/* Notes what a process has done by itself. */
static void
observe(Keeper *keeper, Usec now)
{
	bool		there = is_there(keeper);
	Wanted		wanted = is_wanted(keeper);

	if (keeper->state != KEEPER_PRESENT && there)
		trans_to_present(keeper, NULL, now);
	else if (keeper->state == KEEPER_PRESENT && !there)
	{
		if (wanted == WANTED_STILL)
			trans_present_to_resting(keeper, now);
		else
			trans_present_to_absent(keeper);
	}
	else if (keeper->state == KEEPER_RESTING && wanted == WANTED_NOT)
		trans_resting_to_absent(keeper);
}

/* Begins anew when the slot has become another database's. */
static void
change_owner(Keeper *keeper, Oid database)
{
	if (keeper->database == database)
		return;
	process_forget(&keeper->handle);
	keeper->database = database;
	keeper->state = KEEPER_ABSENT;
	keeper->rest = 0;
}

static bool
is_there(const Keeper *keeper)
{
	return pg_atomic_read_u32(&keeper->presence->pid) != 0 ||
		(keeper->handle && process_is_alive(keeper->handle));
}

static Wanted
is_wanted(const Keeper *keeper)
{
	return (Wanted) pg_atomic_read_u32(&keeper->presence->wanted);
}

/*
 * Starts a process, unless its database lets nobody in: then it is not wanted,
 * until the next signal. The order matters: a signal that comes meanwhile is
 * kept.
 */
static void
try_to_start(Keeper *keeper, Usec now)
{
	pg_atomic_uint32 *wanted = &keeper->presence->wanted;
	BackgroundWorkerHandle *handle;

	pg_atomic_exchange_u32(wanted, WANTED_NOT);
	if (!database_is_open(keeper->database))
	{
		if (keeper->state == KEEPER_RESTING)
			trans_resting_to_absent(keeper);
		return;
	}
	pg_atomic_exchange_u32(wanted, WANTED_STILL);
	handle = process_start(keeper->database, keeper->process, now);
	if (handle)
		trans_to_present(keeper, handle, now);
	else
		trans_to_resting_without_room(keeper, now);
}

/* --- transitions --- */

/* It is started, or has come by itself. */
static void
trans_to_present(Keeper *keeper, BackgroundWorkerHandle *handle, Usec now)
{
	Assert(keeper->state != KEEPER_PRESENT);
	keeper->handle = handle;
	keeper->started = now;
	set_state(keeper, KEEPER_PRESENT);
}

/* It has ended as it should. */
static void
trans_present_to_absent(Keeper *keeper)
{
	Assert(keeper->state == KEEPER_PRESENT);
	process_forget(&keeper->handle);
	keeper->rest = 0;
	set_state(keeper, KEEPER_ABSENT);
}

/* It has failed. */
static void
trans_present_to_resting(Keeper *keeper, Usec now)
{
	Assert(keeper->state == KEEPER_PRESENT);
	process_forget(&keeper->handle);
	if (now - keeper->started >= PROVEN_AFTER)
		keeper->rest = 0;
	keeper->rest = Min(Max(2 * keeper->rest, SHORTEST_REST), LONGEST_REST);
	keeper->due = now + keeper->rest;
	set_state(keeper, KEEPER_RESTING);
}

/* It could not be started, which is no fault of its. */
static void
trans_to_resting_without_room(Keeper *keeper, Usec now)
{
	Assert(keeper->state != KEEPER_PRESENT);
	keeper->due = now + RETRY_AFTER;
	set_state(keeper, KEEPER_RESTING);
}

/* It is not wanted any more. */
static void
trans_resting_to_absent(Keeper *keeper)
{
	Assert(keeper->state == KEEPER_RESTING);
	set_state(keeper, KEEPER_ABSENT);
}

static void
set_state(Keeper *keeper, KeeperState state)
{
	static const char *const names[] = {"absent", "present", "resting"};

	ereport(DEBUG2,
			(errmsg_internal("%s of database %u: %s -> %s",
							 processes[keeper->process].type, keeper->database,
							 names[keeper->state], names[state])));
	keeper->state = state;
}

/* --- processes --- */

BackgroundWorkerHandle *
process_start(Oid database, SlotProcess process, Usec now)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorkerHandle *handle = NULL;
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS |
			BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = LIBRARY,
		.bgw_main_arg = ObjectIdGetDatum(database),
		.bgw_notify_pid = MyProcPid
	};

	strlcpy(worker.bgw_name, processes[process].type, BGW_MAXLEN);
	strlcpy(worker.bgw_type, processes[process].type, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, processes[process].function,
			BGW_MAXLEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		say_full(now);
	MemoryContextSwitchTo(caller);
	return handle;
}

bool
process_is_alive(BackgroundWorkerHandle *handle)
{
	pid_t		pid;
	BgwHandleStatus status = GetBackgroundWorkerPid(handle, &pid);

	return status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED;
}

void
process_forget(BackgroundWorkerHandle **handle)
{
	if (*handle)
		pfree(*handle);
	*handle = NULL;
}

/* Says that no process can be started; once an hour. */
static void
say_full(Usec now)
{
	if (!shared_should_say(slots_full_said_at(), now))
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("llm_failover: no background worker is free for the queue, probes and the journal of a database"),
			 errdetail("Calls go on. It is tried again every %d seconds.",
					   (int) (RETRY_AFTER / USEC_SEC)),
			 errhint("Increase \"%s\" and restart: it takes one for the launcher, and up to two for each database that has the extension.",
					 "max_worker_processes")));
}
