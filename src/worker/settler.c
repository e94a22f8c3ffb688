/*
 * settler.c
 *	  The second background process of a database: see settler.h.
 *
 * What takes its time or runs a user's code is done here, so that the worker
 * never waits for it. This process never touches the network.
 *
 * It works in *rounds*: a batch of on_finish functions, each in a transaction
 * of its own, then a batch of old rows. Rounds make up a *pass*, which goes
 * through the answered tasks by their id. A task whose row is locked, or whose
 * end could not be stored, is left for another pass.
 *
 * Roles do not have to wait for one another: a role whose function was slow, or
 * was timed out, goes behind. Its tasks are taken when there are no others, one
 * at a time, those of several slow roles in turn. So all that slow functions
 * cost the others is the one run that is under way when their tasks come. A
 * role is slow until a function of its is quick again, or it has no task left.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"

#include "callback.h"
#include "compat.h"
#include "queue/standing.h"
#include "queue/work.h"
#include "retention.h"
#include "settler.h"
#include "slow.h"

/* It leaves when it has had nothing to do for so long. */
#define PATIENCE (10 * USEC_SEC)

/* What was left is tried again so much later; longer if that is in vain. */
#define SHORTEST_RETRY (1 * USEC_SEC)
#define LONGEST_RETRY (10 * USEC_SEC)

/* Listeners are told so long after a task was settled, at the latest. */
#define NOTIFY_WITHIN (500 * USEC_MSEC)

/* A function that runs for so long is slow. */
#define SLOW (1 * USEC_SEC)

#define BATCH 100

/* A task whose function is to run. */
typedef struct Due
{
	int64		id;
	NameData	role;
} Due;

/* Tasks that are looked for: those of slow roles, or those of all others. */
typedef struct Look
{
	int64		after;			/* this id */
	bool		slow;			/* one, of the slow role whose turn it is */
	int			n;				/* found */
	Due			tasks[BATCH];
} Look;

static struct
{
	DatabaseSlot *slot;
	bool		gone;			/* the extension is */
	bool		stands;			/* the queue is a copy */
	int64		overdue;		/* task that is to be buried, or 0 */

	/* the pass */
	bool		wanted;			/* there is to be another one */
	bool		under_way;
	int64		after;			/* where its next round begins */
	bool		settled;		/* it has brought tasks to their end */
	bool		left;			/* others it has not */
	Usec		retry;			/* for those the last one came so much later */
	Usec		retry_at;		/* and the next one comes then */

	Usec		untold_since;	/* a task was settled; 0 = listeners know */
} settler = {.wanted = true, .retry_at = USEC_NEVER};

static void run_settler(void);
static void hurry_back(int code, Datum arg);
static bool go_round(void);
static void look_at_signals(Usec now);
static void begin_pass(void);
static void end_pass(void);
static void bury_overdue(void);
static void restore_slow(void *arg);
static bool settle_batch(void);
static bool settle_slow(void);
static void look(Look *it);
static void look_up(void *arg);
static void read_state(void);
static void find_due(Look *it);
static void settle(const Due *task);
static void tell_listeners(Usec since);
static void notify(void *arg);
static bool note_end(WorkEnd end);
static void sleep_until(Usec until);

/* --- the process --- */

void
llm_settler_main(Datum database)
{
	work_connect(DatumGetObjectId(database));
	settler.slot = slot_find(MyDatabaseId);
	if (settler.slot == NULL || !slot_attach(settler.slot, SLOT_SETTLER))
		proc_exit(0);
	callback_init(settler.slot);
	settler.overdue = callback_overdue();
	before_shmem_exit(hurry_back, (Datum) 0);
	run_settler();

	/* whoever signals from here on has another one started */
	if (!work_should_end())
		slot_dismiss(MyDatabaseId, SLOT_SETTLER);
	proc_exit(0);
}

/* Works until it is told to end, or has been idle for long enough. */
static void
run_settler(void)
{
	Usec		idle_since = clock_now();

	while (!work_should_end() && !settler.gone)
	{
		Usec		leave_at = idle_since + PATIENCE;

		if (go_round())
			idle_since = clock_now();
		else if (settler.retry_at == USEC_NEVER && clock_now() >= leave_at)
			break;
		else
			sleep_until(settler.retry_at == USEC_NEVER ? leave_at :
						settler.retry_at);
	}
}

/*
 * Has the launcher start another one at once when a function has cost us the
 * process: that is no failure of ours.
 */
static void
hurry_back(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	if (pg_atomic_read_u64(&settler.slot->settling) == 0)
		return;
	slot_dismiss(MyDatabaseId, SLOT_SETTLER);
	slot_signal(settler.slot, SLOT_SETTLER, SIGNAL_ANSWERED);
}

/* Waits until somebody wakes us, or until a time. */
static void
sleep_until(Usec until)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = new_wait_event_compat("LlmFailoverSettler");
	pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) (Max(until - clock_now(), 0) / USEC_MSEC) + 1,
					 wait_event);
	ResetLatch(MyLatch);
	QueryCancelPending = false; /* there is nothing to cancel */
	CHECK_FOR_INTERRUPTS();
}

/* Takes in how a piece of work has ended; true if well. */
static bool
note_end(WorkEnd end)
{
	if (end == WORK_GONE)
		settler.gone = true;
	return end == WORK_DONE;
}

/* --- rounds and passes --- */

/* Does a round; false when there was nothing to do. */
static bool
go_round(void)
{
	bool		busy;

	(void) work_reload();
	look_at_signals(clock_now());
	if (settler.wanted && !settler.under_way)
		begin_pass();
	busy = settler.under_way ? settle_batch() : settle_slow();
	tell_listeners(0);
	if (!settler.stands && retention_step())
		busy = true;
	return busy;
}

/* Finds out whether there may be something to do. */
static void
look_at_signals(Usec now)
{
	uint32		signals = slot_take_signals(settler.slot, SLOT_SETTLER);

	if (signals & SIGNAL_TIDY)
		retention_begin();
	if (signals != 0 || now >= settler.retry_at)
		settler.wanted = true;
}

static void
begin_pass(void)
{
	settler.wanted = false;
	settler.under_way = true;
	settler.after = 0;
	settler.settled = false;
	settler.left = false;
	settler.retry_at = USEC_NEVER;
	if (settler.overdue != 0)
		bury_overdue();
}

/* Has what it has left tried again. */
static void
end_pass(void)
{
	settler.under_way = false;
	settler.retry = settler.settled || !settler.left ? 0 : 2 * settler.retry;
	settler.retry = Max(settler.retry, SHORTEST_RETRY);
	settler.retry = Min(settler.retry, LONGEST_RETRY);
	if (settler.left)
		settler.retry_at = clock_now() + settler.retry;
}

/*
 * Marks the task failed whose function cost another settler its process. Who
 * was slow then is known no longer; the rows tell of the worst.
 */
static void
bury_overdue(void)
{
	if (callback_bury(settler.overdue) == CALLBACK_LATER)
	{
		settler.left = true;
		return;
	}
	settler.overdue = 0;
	settler.untold_since = clock_now();
	(void) note_end(work_run("looking for slow on_finish functions",
							 restore_slow, NULL));
}

static void
restore_slow(void *arg pg_attribute_unused())
{
	static WorkPlan plan = {
		.sql = "SELECT DISTINCT role FROM @extschema@.llm_task"
		" WHERE finished_at > now() - interval '1 h'"
		" AND error_code = '57014' AND starts_with(error, 'on_finish: ')"
	};

	(void) work_execute(&plan, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		null;
		Datum		role = SPI_getbinval(SPI_tuptable->vals[i],
										 SPI_tuptable->tupdesc, 1, &null);

		slow_add(DatumGetName(role), 0);
	}
}

/* --- tasks --- */

/* Settles the next tasks of a pass; false when there is none left. */
static bool
settle_batch(void)
{
	static Look it;

	it.after = settler.after;
	it.slow = false;
	look(&it);
	if (it.n == 0)
	{
		end_pass();
		return false;
	}
	settler.after = it.tasks[it.n - 1].id;
	for (int i = 0; i < it.n && !work_should_end(); i++)
		if (!slow_has(&it.tasks[i].role))
		{
			settle(&it.tasks[i]);
			tell_listeners(NOTIFY_WITHIN);
		}
	return true;
}

/*
 * Settles one task of a slow role. A role that has none left is slow no longer;
 * what was left of its tasks is for another pass.
 */
static bool
settle_slow(void)
{
	const SlowRole *role = slow_first();
	Look		it = {.slow = true};

	if (role == NULL)
		return false;
	it.after = role->after;
	look(&it);
	if (it.n > 0)
		settle(&it.tasks[0]);
	else
	{
		slow_remove(&role->role);
		settler.wanted = true;
	}
	return true;
}

/* Looks for tasks; when that fails, there are none this time. */
static void
look(Look *it)
{
	it->n = 0;
	if (!note_end(work_run("looking for answered tasks", look_up, it)))
	{
		it->n = 0;
		settler.left = true;
	}
}

static void
look_up(void *arg)
{
	Look	   *it = arg;

	/* in this order: a restore may just bring both */
	find_due(it);
	read_state();
	if (settler.stands)
		it->n = 0;
}

/* Finds out whether the queue is a copy: a copy repeats nothing. */
static void
read_state(void)
{
	static WorkPlan plan = {
		.sql = "SELECT system_identifier, database"
		" FROM @extschema@.llm_queue_state"
	};
	QueueOrigin origin = {0};

	if (work_execute(&plan, NULL, NULL) == 1)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		null;

		origin.system_identifier =
			(uint64) DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
		origin.database = DatumGetObjectId(SPI_getbinval(row, desc, 2, &null));
	}
	settler.stands = queue_is_copy(&origin);
}

/* Finds the next tasks, by the index llm_task_answered. */
static void
find_due(Look *it)
{
	static const Oid types[] = {INT8OID, NAMEARRAYOID, BOOLOID, INT4OID};
	static WorkPlan plan = {
		.sql = "SELECT id, role FROM @extschema@.llm_task"
		" WHERE finished_at IS NULL AND on_finish IS NOT NULL"
		" AND (response IS NOT NULL OR error_code IS NOT NULL)"
		" AND state = 'answered' AND id > $1 AND (role = ANY ($2)) = $3"
		" ORDER BY id LIMIT $4",
		.nargs = 4,
		.types = types
	};
	Datum		values[] = {
		Int64GetDatum(it->after), slow_names(it->slow),
		BoolGetDatum(it->slow), Int32GetDatum(it->slow ? 1 : BATCH)
	};

	it->n = (int) work_execute(&plan, values, NULL);
	for (int i = 0; i < it->n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Due		   *task = &it->tasks[i];
		bool		null;

		task->id = DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
		task->role = *DatumGetName(SPI_getbinval(row, desc, 2, &null));
	}
}

/* Runs the function of a task, and notes how long that took its role. */
static void
settle(const Due *task)
{
	Usec		began = clock_now();
	CallbackEnd end = task->id == settler.overdue ? CALLBACK_LATER :
		callback_run(task->id);

	if (end == CALLBACK_LATER)
		settler.left = true;
	else
	{
		settler.settled = true;
		if (settler.untold_since == 0)
			settler.untold_since = clock_now();
	}
	if (end == CALLBACK_TIMED_OUT || clock_now() - began >= SLOW ||
		(end == CALLBACK_LATER && slow_has(&task->role)))
		slow_add(&task->role, task->id);
	else if (slow_has(&task->role))
	{
		slow_remove(&task->role);
		settler.wanted = true;
	}
}

/* --- listeners --- */

/* Sends NOTIFY llm_task if a task was settled at least so long ago. */
static void
tell_listeners(Usec since)
{
	if (settler.untold_since == 0 ||
		clock_now() < settler.untold_since + since)
		return;
	settler.untold_since = 0;
	(void) note_end(work_run("telling listeners of llm_task", notify, NULL));
}

/* Not in a function's transaction: its commit would keep others' waiting. */
static void
notify(void *arg pg_attribute_unused())
{
	Async_Notify("llm_task", NULL);
}
