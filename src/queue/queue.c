/*
 * queue.c
 *	  What the worker does for the queue, and when.
 *
 * After each turn of the loop it does what is due, in short transactions: it
 * stores results, looks at the table, claims and starts tasks. Each of these
 * may take a bounded share of the time, so that calls under way are read while
 * the table is slow.
 *
 * Results are stored when nothing else has happened, so that a lone task waits
 * for nobody, and otherwise by the batch. Tasks are claimed a little ahead of
 * the places for their calls, as many as end within AHEAD, so that no place is
 * empty while a claim is under way.
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "queue/task.h"
#include "queue/work.h"
#include "settings.h"

/* Looks at the table without having been told to, for what got lost. */
#define LOOK_INTERVAL (15 * USEC_SEC)

/* While nobody of a tier is admitted: configuration may change, unheard. */
#define SHUT_INTERVAL (1 * USEC_SEC)

/* Expiry is enforced no more often than this. */
#define EXPIRE_INTERVAL (250 * USEC_MSEC)

/* Tasks are claimed so far ahead. */
#define AHEAD (50 * USEC_MSEC)

/* Results that are stored even while others come in. */
#define MANY_RESULTS 256

/* And how long one waits at most for others. */
#define RESULT_WAIT (20 * USEC_MSEC)

/* So many calls are started between two turns of the loop. */
#define STARTS 64

/* A look takes no more than one part in so many of the time. */
#define LOOK_SHARE 10

Queue		queue;

static void begin_in_transaction(void *arg);
static void refresh_config(void);
static void note_ends(Usec now);
static void set_places(void);
static void store(bool idle, Usec now);
static bool is_look_due(Usec now);
static bool may_claim(Usec now);
static void look_and_claim(Usec now);
static void look_in_transaction(void *arg);
static void claim_all(Usec now);
static int	claim_some(Lane *lane, int most, Usec now);
static int	free_places(void);
static int	fewest_places(void);
static void start_ready(CallLoop *loop);
static bool may_start(void);
static Usec next_time(bool idle, Usec now);

/* --- beginning and end --- */

bool
queue_begin(DatabaseSlot *slot)
{
	if (queue.context == NULL)
	{
		queue.context = AllocSetContextCreate(TopMemoryContext,
											  "llm_failover queue",
											  ALLOCSET_DEFAULT_SIZES);
		queue.slot = slot;
		queue.next_expiry = queue.store_next = USEC_NEVER;
		queue.take_back_at = queue.drop_at = USEC_NEVER;
		dlist_init(&queue.lanes);
		dlist_init(&queue.ready);
		dlist_init(&queue.running);
		dlist_init(&queue.ended);
	}
	if (queue.incarnation == 0 &&
		work_run("beginning an incarnation", begin_in_transaction, NULL) !=
		WORK_DONE)
	{
		queue.incarnation = 0;
		return false;
	}
	return queue_take_back();
}

static void
begin_in_transaction(void *arg)
{
	(void) arg;
	queue_new_incarnation();
	refresh_config();
}

void
queue_end(CallLoop *loop)
{
	if (queue.context && queue.incarnation != 0)
		queue_release_all(loop);
}

/* Pins the configuration of now. */
static void
refresh_config(void)
{
	Config	   *config = config_get(work_function());

	if (config == queue.config)
		return;
	config_pin(config);
	if (queue.config)
		config_unpin(queue.config);
	queue.config = config;
}

/* --- a piece of work --- */

Usec
queue_work(CallLoop *loop, uint32 signals, bool idle, Usec now)
{
	dlist_iter	iter;

	set_places();
	note_ends(now);
	if ((signals & SIGNAL_REVOKED) || queue.drop_at <= now)
		queue_drop_revoked(loop, now);
	if (queue.take_back_at <= now)
		(void) queue_take_back();
	if (signals & (SIGNAL_TASKS | SIGNAL_LOOK))
		queue.look_wanted = true;
	dlist_foreach(iter, &queue.lanes)
		lane_mind_deferred(dlist_container(Lane, node, iter.cur), now);

	if (queue.nended > 0)
		store(idle, now);
	if (queue.settled)
		tell_of_results(now);
	if (is_look_due(now) || may_claim(now))
		look_and_claim(clock_now());
	start_ready(loop);
	return next_time(idle, now);
}

/* Makes room for as many calls as the setting says, or as fit. */
static void
set_places(void)
{
	static int	wanted = -1;

	if (wanted == llm_worker_concurrency)
		return;
	wanted = llm_worker_concurrency;
	queue.places = wanted == 0 ? 0 : transport_reserve(wanted);
	if (queue.places < wanted)
		ereport(LOG,
				(errmsg("llm_failover: only %d of llm_failover.worker_concurrency = %d calls fit at once",
						queue.places, wanted),
				 errhint("Raise the limit of open files (ulimit -n) of the server.")));
	queue.look_wanted = true;
}

/* Counts how many calls end within AHEAD. */
static void
note_ends(Usec now)
{
	static Usec since;
	static uint64 ended;

	queue.ends_at = since + AHEAD;
	if (now < queue.ends_at)
		return;
	queue.ahead = (int) Min(queue.nfinished - ended,
							(uint64) queue.places / 2);
	if (now - since > 2 * AHEAD)
		queue.ahead = 0;
	ended = queue.nfinished;
	since = now;
	queue.ends_at = since + AHEAD;
}

/* Stores results if it is time. */
static void
store(bool idle, Usec now)
{
	Usec		begun = clock_now();

	if (queue.nended < MANY_RESULTS &&
		(begun < queue.store_free ||
		 (!idle && now < queue.oldest_result + RESULT_WAIT)))
		return;
	if (queue.store_next > now && queue.nended < MANY_RESULTS)
		return;
	queue_store(now);
	queue.store_free = 2 * clock_now() - begun;
}

/* --- looking and claiming --- */

/* Says whether the table is to be looked at. */
static bool
is_look_due(Usec now)
{
	dlist_iter	iter;

	if (now < queue.look_free)
		return false;
	if (queue.look_wanted || queue.look_at <= now)
		return true;
	if (now - queue.expired_at < EXPIRE_INTERVAL)
		return false;
	if (queue.next_expiry <= now)
		return true;
	dlist_foreach(iter, &queue.lanes)
	{
		const Lane *lane = dlist_container(Lane, node, iter.cur);

		if (lane->next_due <= now || lane->expires_at <= now)
			return true;
	}
	return false;
}

/* Says whether there is a place, and perhaps a task for it. */
static bool
may_claim(Usec now)
{
	dlist_iter	iter;

	if (now < queue.claim_free || free_places() < fewest_places())
		return false;
	dlist_foreach(iter, &queue.lanes)
		if (lane_may_claim(dlist_container(Lane, node, iter.cur), now))
			return true;
	return false;
}

/* Looks, if that is due, and claims, in one transaction. */
static void
look_and_claim(Usec now)
{
	Usec		look_free;
	dlist_node *last = dlist_is_empty(&queue.ready) ? NULL :
		dlist_tail_node(&queue.ready);

	if (work_run("claiming tasks", look_in_transaction, &now) == WORK_DONE)
		look_free = clock_now() + LOOK_SHARE * (clock_now() - now);
	else
	{
		queue_forget_claimed(last);
		queue.look_wanted = true;
		look_free = queue.claim_free = now + SHUT_INTERVAL;
	}
	queue.look_free = look_free;
	tell_of_results(now);
}

static void
look_in_transaction(void *arg)
{
	Usec		now = *(Usec *) arg;

	/*
	 * A claim that a crash of the machine undoes would have to be undone
	 * anyway, so nobody waits for the disk. A result is not lost without the
	 * claim before it.
	 */
	(void) set_config_option("synchronous_commit", "off", PGC_SUSET,
							 PGC_S_OVERRIDE, GUC_ACTION_LOCAL, true, 0,
							 false);
	refresh_config();
	queue_read_state();
	if (queue.take_back_at <= now)
		return;
	if (is_look_due(now))
	{
		queue.look_wanted = false;
		queue.look_at = now + LOOK_INTERVAL;
		queue_expire(now);
		queue_look();
	}
	claim_all(now);
}

/*
 * Shares the free places out among the lanes: in a first round each gets what
 * is missing of an equal share, in a second one what is left.
 */
static void
claim_all(Usec now)
{
	Lane	   *lanes[64];
	int			n = 0;
	int			share;
	dlist_iter	iter;

	dlist_foreach(iter, &queue.lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (n < (int) lengthof(lanes) && lane_may_claim(lane, now))
			lanes[n++] = lane;
	}
	if (n == 0)
		return;
	share = Max(queue.places / n, 1);
	for (int i = 0; i < n && free_places() > 0; i++)
	{
		Lane	   *lane = lanes[i];

		if (lane->claimed < share)
			(void) claim_some(lane, share - lane->claimed, now);
	}
	for (int i = 0; i < n && free_places() > 0; i++)
		if (lane_may_claim(lanes[i], now))
			(void) claim_some(lanes[i], MAX_CLAIM, now);
}

/* Claims from a lane as far as its tier lets calls through. */
static int
claim_some(Lane *lane, int most, Usec now)
{
	const Tier *tier = config_tier(queue.config, lane->tier);
	TierOutlook *outlook = &lane->outlook;
	Usec		begun = clock_now();

	most = Min(most, Min(MAX_CLAIM, free_places()));
	most = Min(most, lane->cap - lane->claimed);
	if (tier)
	{
		tier_outlook(queue.config, tier, llm_sync_reserve, 0, now, outlook);
		if (outlook->state != OUTLOOK_OUT)
			most = Min(most, outlook->calls - lane->ready);
		if (most <= 0 || outlook->state == OUTLOOK_OUT)
			lane->open_at = outlook->until > now ?
				Min(outlook->until, now + SHUT_INTERVAL) : now + SHUT_INTERVAL;
	}
	if (most <= 0)
		return 0;
	return lane_claim(lane, most, begun);
}

/* Returns how many more tasks may be claimed. */
static int
free_places(void)
{
	if (queue.places == 0)
		return 0;
	return queue.places + queue.ahead - queue.nready - queue.nrunning;
}

/*
 * Returns for how few places a claim is worth its while: half of what is claimed
 * ahead, so that there are always tasks at hand.
 */
static int
fewest_places(void)
{
	return Max(1, queue.ahead / 2);
}

/*
 * Starts tasks as far as there are places; a few at a time, for to open a
 * connection takes a while in which nobody reads answers.
 */
static void
start_ready(CallLoop *loop)
{
	for (int n = 0; n < STARTS && may_start(); n++)
		task_start(loop,
				   dlist_container(Task, node,
								   dlist_head_node(&queue.ready)));
}

/* Says whether a task is ready, and has a place. */
static bool
may_start(void)
{
	return queue.nready > 0 && queue.nrunning < queue.places;
}

/* --- when to come back --- */

/* Returns when there is something to do, if nothing happens before. */
static Usec
next_time(bool idle, Usec now)
{
	Usec		look = queue.look_wanted ? now : queue.look_at;
	Usec		expire_free = queue.expired_at + EXPIRE_INTERVAL;
	Usec		next = Min(queue.take_back_at, queue.drop_at);
	bool		room = free_places() >= fewest_places() && !queue.stands;
	dlist_iter	iter;

	if (may_start())
		return now;
	if (queue.settled)
		next = Min(next, queue.notify_at);
	if (queue.ahead > 0 && free_places() < fewest_places())
		next = Min(next, queue.ends_at);	/* by then it may be worth its while */
	if (queue.nended > 0)
		next = Min(next, Max(Max(queue.store_next, queue.store_free),
							 idle ? 0 : now));
	look = Min(look, Max(queue.next_expiry, expire_free));
	dlist_foreach(iter, &queue.lanes)
	{
		const Lane *lane = dlist_container(Lane, node, iter.cur);

		look = Min(look, Max(Min(lane->next_due, lane->expires_at),
							 expire_free));
		next = Min(next, lane->deferred_next);
		if (room && !lane->dry && lane->claimed < lane->cap)
			next = Min(next, Max(queue.claim_free,
								 Max(lane->open_at, lane->top_at)));
	}
	return Min(next, Max(look, queue.look_free));
}
