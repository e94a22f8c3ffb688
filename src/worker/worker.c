/*
 * worker.c
 *	  The worker of a database: calls its tasks, sends its probes, and stores
 *	  what sessions leave in shared memory.
 *
 * One loop runs all calls; between two turns of it everything else is done, in
 * pieces that take some milliseconds at most. No transaction is open while the
 * loop waits, and nothing is waited for but the loop: sockets, times, and the
 * latch that whoever needs something sets.
 *
 * There is one worker a database. The slot in shared memory sees to that, and a
 * lock in case the slot is wrong. An error in a piece of work is logged and
 * leaves the rest alone; one that nobody expected ends the process, and the
 * launcher starts another, which takes back what this one had claimed.
 *
 * SIGTERM ends it soon: calls are aborted, their tasks put back, and what is in
 * shared memory is stored. kill -9 only leaves the tasks to the next incarnation.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "queue/journal.h"
#include "queue/queue.h"
#include "queue/task.h"
#include "queue/work.h"
#include "settings.h"
#include "worker/breakers.h"

/* What failed because of somebody's lock or an error is tried again then. */
#define RETRY_AFTER (1 * USEC_SEC)

/* Who has dropped the extension, perhaps, holds its lock for a moment more. */
#define LOOK_AGAIN (50 * USEC_MSEC)

/* Rows past their retention are looked for so often, at most and at least. */
#define TIDY_MIN (10 * USEC_SEC)
#define TIDY_MAX (10 * 60 * USEC_SEC)

/* And as often in the time for which they are kept. */
#define TIDY_PARTS 10

/* Advisory locks of users are of kinds 1 and 2. */
#define WORKER_LOCK_KIND 3

PGDLLEXPORT void llm_worker_main(Datum arg) pg_attribute_noreturn();

static void plan_by_index(void);
static void store_all(DatabaseSlot *slot);
static bool is_only_worker(void);
static bool extension_is_here(Usec *again);
static void compare_extension(void *arg);
static bool is_bereft(DatabaseSlot *slot, Usec *again);
static void run(DatabaseSlot *slot);
static Usec work(DatabaseSlot *slot, uint32 signals, bool idle, Usec now);
static Usec work_on_queue(DatabaseSlot *slot, uint32 signals, bool idle,
						  Usec now);
static Usec tidy(DatabaseSlot *slot, Usec now);
static Usec tidy_interval(void);
static void job_ended(Call *call);
static void job_failed(Call *call);

static const LoopDriver driver = {
	.work = queue_local_work,
	.ended = job_ended,
	.guard = queue_guard,
	.failed = job_failed,
};

static CallLoop loop;

/* The process; `arg` is the database's OID. */
void
llm_worker_main(Datum arg)
{
	DatabaseSlot *slot;
	Usec		again;

	work_connect(DatumGetObjectId(arg));
	plan_by_index();
	slot_dismiss(MyDatabaseId, SLOT_WORKER);
	if (!extension_is_here(&again))
		proc_exit(0);
	slot = slot_make(MyDatabaseId);
	if (slot == NULL)
		proc_exit(0);			/* its sessions say so */
	if (!slot_attach(slot, SLOT_WORKER) || !is_only_worker())
		proc_exit(0);
	run(slot);
	queue_end(&loop);
	store_all(slot);
	proc_exit(0);
}

/* Stores what is in shared memory, as far as that goes without waiting. */
static void
store_all(DatabaseSlot *slot)
{
	Usec		next = journal_store(slot, true, clock_now());

	while (next <= clock_now())
		next = journal_store(slot, false, clock_now());
	(void) breakers_store(slot, clock_now());
}

/*
 * Has statements use indexes in their order, whatever statistics say: of a
 * queue they are wrong most of the time.
 */
static void
plan_by_index(void)
{
	static const char *const settings[][2] = {
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_indexscan", "on"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"enable_sort", "off"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"lock_timeout", "50ms"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/* Takes the lock of this database's worker, until the process ends. */
static bool
is_only_worker(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, WORKER_LOCK_KIND);
	return LockAcquire(&tag, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Says whether the extension is in this database, and is the one that this
 * process began with. Where that cannot be found out just now, it is, and is to
 * be looked for again: who drops it tells us before its lock is released.
 */
static bool
extension_is_here(Usec *again)
{
	bool		same = true;
	WorkEnd		end = work_run("looking for the extension", compare_extension,
							   &same);

	*again = end == WORK_DONE ? USEC_NEVER : clock_now() + LOOK_AGAIN;
	return end != WORK_GONE && same;
}

static void
compare_extension(void *arg)
{
	static Oid	mine = InvalidOid;

	if (!OidIsValid(mine))
		mine = work_extension();
	*(bool *) arg = mine == work_extension();
}

/*
 * Says whether the process has to end, as the extension is gone. Another one in
 * its place has another queue, and gets another process: whom signals are left
 * to is started again.
 */
static bool
is_bereft(DatabaseSlot *slot, Usec *again)
{
	if (extension_is_here(again))
		return false;
	slot_dismiss(MyDatabaseId, SLOT_WORKER);
	slot_signal(slot, SLOT_WORKER, SIGNAL_LOOK);
	(void) journal_store(slot, true, clock_now());
	return true;
}

/*
 * Works until the process is told to end, or the extension is gone. While it is
 * not known whether that is so, nothing is begun, and signals are kept.
 */
static void
run(DatabaseSlot *slot)
{
	bool		happened = false;
	uint32		signals = 0;
	Usec		look_at = USEC_NEVER;

	calls_init(&loop, &driver);
	pgstat_report_activity(STATE_IDLE, NULL);
	slot_signal(slot, SLOT_WORKER, SIGNAL_LOOK | SIGNAL_JOURNAL);
	while (!work_should_end())
	{
		Usec		until = USEC_NEVER;

		signals |= slot_take_signals(slot, SLOT_WORKER);
		(void) work_reload();
		if (((signals & SIGNAL_LOOK) || look_at <= clock_now()) &&
			is_bereft(slot, &look_at))
			return;
		if (look_at == USEC_NEVER)
		{
			until = work(slot, signals, !happened, clock_now());
			signals = 0;
		}
		happened = calls_turn(&loop, Min(until, look_at), true);
	}
}

/* Does all that is due; returns when to do so again at the latest. */
static Usec
work(DatabaseSlot *slot, uint32 signals, bool idle, Usec now)
{
	static Usec store_journal = 0;
	static Usec store_breakers = 0;
	Usec		send_probes = USEC_NEVER;
	Usec		next = work_on_queue(slot, signals, idle, now);

	if ((signals & (SIGNAL_JOURNAL | SIGNAL_FLUSH)) || store_journal <= now)
		store_journal = journal_store(slot, (signals & SIGNAL_FLUSH) != 0,
									  clock_now());
	if ((signals & SIGNAL_BREAKERS) || store_breakers <= now)
		store_breakers = breakers_store(slot, clock_now());
	if (queue.incarnation != 0 && !queue.copied)
		send_probes = probes_work(&loop, clock_now());
	next = Min(next, tidy(slot, now));
	return Min(Min(next, store_journal), Min(store_breakers, send_probes));
}

/* Works on the queue, once it could be begun. */
static Usec
work_on_queue(DatabaseSlot *slot, uint32 signals, bool idle, Usec now)
{
	static bool begun = false;
	static uint32 missed = 0;
	static Usec begin_at = 0;

	missed |= signals;
	if (!begun)
	{
		if (begin_at > now)
			return begin_at;
		begin_at = now + RETRY_AFTER;
		begun = queue_begin(slot);
		if (!begun)
			return begin_at;
	}
	signals = missed;
	missed = 0;
	return queue_work(&loop, signals, idle, now);
}

/* Has the settler look for rows that are old enough to go. */
static Usec
tidy(DatabaseSlot *slot, Usec now)
{
	static Usec last = 0;

	if (last == 0 || last + tidy_interval() <= now)
	{
		slot_signal(slot, SLOT_SETTLER, SIGNAL_TIDY | SIGNAL_ANSWERED);
		last = now;
	}
	return last + tidy_interval();
}

/* Returns how often that is worth while, by the settings. */
static Usec
tidy_interval(void)
{
	const int	kept[] = {
		llm_task_retention, llm_event_retention, llm_usage_retention
	};
	Usec		interval = TIDY_MAX;

	for (int i = 0; i < (int) lengthof(kept); i++)
		if (kept[i] >= 0)
			interval = Min(interval, kept[i] * 60 * USEC_SEC / TIDY_PARTS);
	return Max(interval, TIDY_MIN);
}

/* Gives a call that has ended to whom it belongs. */
static void
job_ended(Call *call)
{
	Job		   *job = call->owner;

	job->ended(job, call);
}

static void
job_failed(Call *call)
{
	Job		   *job = call->owner;

	job->failed(job, call);
}
