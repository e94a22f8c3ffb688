/*
 * launcher.c
 *	  The launcher starts the background processes of each database.
 *
 * It is one process a server, started by the postmaster when recovery has
 * finished: at once on a primary, at its promotion on a standby, never under
 * pg_upgrade. It is connected to no database. The processes that it starts, a
 * worker and a settler a database, are never started again by the postmaster:
 * that, and when, is decided by their keepers (keeper.c) and nowhere else.
 *
 * Who is to run stands in the slots in shared memory (health/slot.h). At its
 * start the launcher does not know yet which databases have the extension, and
 * a slot is not to be had for each of a thousand. So it sweeps: it starts a
 * worker in one database after the other, which ends at once if the extension
 * is not there, and makes itself the slot if it is. From then on the launcher
 * sleeps until somebody wakes it: who signals a process that is not there, a
 * process that comes or goes, the postmaster when one has started or ended.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "compat.h"
#include "database.h"
#include "keeper.h"
#include "launcher.h"

/* When no background worker was free. */
#define SWEEP_AGAIN (10 * USEC_SEC)

/* The databases that are looked into at the start. */
typedef struct Sweep
{
	Oid		   *databases;
	int			n;
	int			next;			/* the one under way, or to be begun */
	BackgroundWorkerHandle *handle; /* of the worker there, or NULL */
	Usec		due;			/* not before */
} Sweep;

PGDLLEXPORT void llm_launcher_main(Datum arg) pg_attribute_noreturn();

static Sweep sweep;

static void connect_launcher(void);
static void sleep_until(Usec until);
static void begin_sweep(void);
static Usec sweep_on(Usec now);
static bool begin_visit(Oid database, Usec now);
static void end_visit(void);
static bool has_keeper(Oid database);

void
launcher_register(void)
{
	BackgroundWorker worker = {
		.bgw_name = "llm_failover launcher",
		.bgw_type = "llm_failover launcher",
		.bgw_flags = BGWORKER_SHMEM_ACCESS |
			BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 1,
		.bgw_library_name = "llm_failover",
		.bgw_function_name = "llm_launcher_main"
	};

	if (!IsBinaryUpgrade)
		RegisterBackgroundWorker(&worker);
}

/* The launcher; it ends only when it is told to. */
void
llm_launcher_main(Datum arg pg_attribute_unused())
{
	connect_launcher();
	keepers_init();
	begin_sweep();
	for (;;)
	{
		Usec		now = clock_now();
		Usec		next = keepers_tend(now);

		next = Min(next, sweep_on(now));
		sleep_until(next);
	}
}

/* Connects to what all databases share, and says that the launcher is here. */
static void
connect_launcher(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	launcher_attach();
}

/* Waits until somebody wakes the launcher, or until a time. */
static void
sleep_until(Usec until)
{
	static uint32 wait_event = 0;
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long		timeout = -1;

	if (wait_event == 0)
		wait_event = new_wait_event_compat("LlmFailoverLauncher");
	if (until != USEC_NEVER)
	{
		events |= WL_TIMEOUT;
		timeout = (long) (Max(until - clock_now(), 0) / USEC_MSEC) + 1;
	}
	(void) WaitLatch(MyLatch, events, timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		proc_exit(1);			/* and again, unless the server ends */
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* --- the sweep --- */

/* Lists the databases to look into. */
static void
begin_sweep(void)
{
	sweep.n = databases_open(&sweep.databases);
}

/*
 * Looks into one database after the other. Returns when to go on by itself, or
 * USEC_NEVER.
 */
static Usec
sweep_on(Usec now)
{
	while (sweep.next < sweep.n)
	{
		Oid			database = sweep.databases[sweep.next];

		if (sweep.handle && process_is_alive(sweep.handle) &&
			!has_keeper(database))
			return USEC_NEVER;	/* the postmaster or the worker wakes us */
		if (sweep.handle || has_keeper(database))
			end_visit();
		else if (now < sweep.due || !begin_visit(database, now))
			return sweep.due;
	}
	return USEC_NEVER;
}

/* Starts a worker in a database; false, and due later, when none is free. */
static bool
begin_visit(Oid database, Usec now)
{
	slots_set_swept(database);
	sweep.handle = process_start(database, SLOT_WORKER, now);
	if (sweep.handle)
		return true;
	slots_set_swept(InvalidOid);
	sweep.due = now + SWEEP_AGAIN;
	return false;
}

/* The worker has ended, or is a keeper's by now. */
static void
end_visit(void)
{
	slots_set_swept(InvalidOid);
	process_forget(&sweep.handle);
	sweep.next++;
}

/* Says whether a database has a slot whose keeper sees to its worker. */
static bool
has_keeper(Oid database)
{
	DatabaseSlot *slot = slot_find(database);

	return slot && pg_atomic_read_u32(&slot->processes[SLOT_WORKER].wanted) !=
		WANTED_NOT;
}
