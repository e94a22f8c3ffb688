/*
 * transport_lookup.c
 *	  Name look-ups, which libcurl does in a thread each.
 *
 * Giving up on a look-up leaves its thread behind until getaddrinfo() returns,
 * which may be never. So these are counted, and when too many are left no new
 * one begins; literal addresses, cached names and kept connections go on. The
 * threads are born with all signals blocked: PostgreSQL's handlers must run in
 * its own thread.
 *
 * A host is looked up for one transfer at a time. The others that need the same
 * name are put off, taken from libcurl, which would start a thread for each of
 * a thousand. They go on when it is known, which libcurl then remembers; they
 * fail with it when it does not resolve; and when it was given up on, the last
 * of them tries anew, which has the most time left. Meanwhile their clock for
 * connecting runs.
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "transport_impl.h"

/* How many given-up look-ups a process may have at a time. */
#define MAX_ABANDONED_LOOKUPS 16

/*
 * Where threads cannot be counted, a given-up look-up is believed to have
 * ended after this time.
 */
#define LOOKUP_LIFETIME (300 * USEC_SEC)

/* Each look-up of libcurl's uses a pair of sockets to say that it is done. */
#define DESCRIPTORS_PER_LOOKUP 2

/* transfers by lookup_link: a name is looked up for them; they are put off */
static dlist_head under_way = DLIST_STATIC_INIT(under_way);
static dlist_head put_off = DLIST_STATIC_INIT(put_off);
static bool may_resume;			/* since a look-up has ended */

static int	abandoned;			/* look-ups given up on, not known to be over */
static int	abandoned_fds;		/* descriptors accounted for these */
static Usec last_abandoned;
static int	threads_before = -1;	/* when the first look-up began */

static bool signals_blocked;
static sigset_t signals_before;

/* ---- What was given up on ---- */

/* Returns how many threads this process has, or -1 where nobody tells. */
static int
count_threads(void)
{
	struct stat task;

	/* a directory of one directory a thread, besides "." and ".." */
	if (stat("/proc/self/task", &task) < 0 || task.st_nlink < 3)
		return -1;
	return (int) task.st_nlink - 2;
}

/*
 * Brings the number of given-up look-ups down to what can still be running.
 * Counts those still wanted with them: too many is the safe side.
 */
static void
reap_abandoned(void)
{
	int			threads;

	if (abandoned == 0)
		return;
	threads = count_threads();
	if (threads >= 0)
		abandoned = Min(abandoned, Max(threads - threads_before, 0));
	else if (clock_now() - last_abandoned > LOOKUP_LIFETIME)
		abandoned = 0;
	if (abandoned_fds > abandoned)
	{
		fds_give(abandoned_fds - abandoned);
		abandoned_fds = abandoned;
	}
}

/* Returns how many given-up look-ups may still be running. */
int
lookup_unfinished(void)
{
	reap_abandoned();
	return abandoned;
}

/* ---- One look-up ---- */

/*
 * Says whether what libcurl is about to resolve may need the network: a proxy
 * has a name of its own.
 */
static bool
needs_lookup(const TransferState *state)
{
	static const char *const variables[] = {
		"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"
	};

	if (state->by_name || state->proxy[0])
		return true;
	for (size_t i = 0; i < lengthof(variables); i++)
		if (getenv(variables[i]))
			return true;
	return false;
}

/* Says whether a transfer's host is being looked up for another. */
static bool
is_under_way(const TransferState *state)
{
	dlist_iter	iter;

	dlist_foreach(iter, &under_way)
	{
		TransferState *other =
			dlist_container(TransferState, lookup_link, iter.cur);

		if (strcmp(other->host, state->host) == 0)
			return true;
	}
	return false;
}

/* Has threads that are made from now on block all signals. */
static void
block_signals(void)
{
	sigset_t	all;

	if (signals_blocked)
		return;
	sigfillset(&all);
	signals_blocked = sigprocmask(SIG_SETMASK, &all, &signals_before) == 0;
}

/*
 * libcurl is about to resolve a host: CURLOPT_RESOLVER_START_FUNCTION. Blocks
 * signals until lookup_unblock_signals(). Not zero stops the transfer.
 */
int
lookup_begin(void *resolver, void *reserved, void *arg)
{
	TransferState *state = arg;

	(void) resolver;
	(void) reserved;
	lookup_end(state);
	if (!needs_lookup(state))
		return 0;				/* done without a thread */
	if (is_under_way(state))
	{
		state->put_off = true;
		return 1;
	}
	if (threads_before < 0)
		threads_before = count_threads();
	reap_abandoned();
	if (abandoned >= MAX_ABANDONED_LOOKUPS)
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "too many unfinished name look-ups (%d)", abandoned);
		return 1;
	}
	if (!fds_take(DESCRIPTORS_PER_LOOKUP))
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "too many open files in this process");
		return 1;
	}
	state->looking_up = true;
	dlist_push_tail(&under_way, &state->lookup_link);
	block_signals();
	return 0;
}

/* Called after whatever may have called lookup_begin(). */
void
lookup_unblock_signals(void)
{
	if (likely(!signals_blocked))
		return;
	sigprocmask(SIG_SETMASK, &signals_before, NULL);
	signals_blocked = false;
}

/* Books a look-up of this transfer, if there is one, as finished. */
void
lookup_end(TransferState *state)
{
	if (!state->looking_up)
		return;
	state->looking_up = false;
	dlist_delete(&state->lookup_link);
	fds_give(DESCRIPTORS_PER_LOOKUP);
	may_resume = true;
}

/* Books a look-up of this transfer, if there is one, as given up on. */
static void
abandon(TransferState *state)
{
	if (!state->looking_up)
		return;
	lookup_end(state);
	abandoned++;
	last_abandoned = clock_now();
	fds_take_open();			/* the thread's end of the pair stays open */
	abandoned_fds++;
}

/* Has a transfer that has ended leave all look-ups alone. */
void
lookup_forget(TransferState *state)
{
	abandon(state);
	if (state->put_off)
		dlist_delete(&state->lookup_link);
	state->put_off = false;
}

/* ---- Those that are put off ---- */

/* Keeps a transfer until the look-up that it needs has ended. */
void
lookup_wait(TransferState *state)
{
	dlist_push_tail(&put_off, &state->lookup_link);
}

/*
 * Returns the last of the transfers that are put off and can go on, or NULL
 * when there is none.
 */
TransferState *
lookup_next_resumed(void)
{
	dlist_iter	iter;

	if (likely(!may_resume))
		return NULL;
	dlist_reverse_foreach(iter, &put_off)
	{
		TransferState *state =
			dlist_container(TransferState, lookup_link, iter.cur);

		if (is_under_way(state))
			continue;
		lookup_forget(state);
		return state;
	}
	may_resume = false;
	return NULL;
}

/*
 * Returns one of the transfers that were put off for the sake of this one's
 * look-up, or NULL when there is none.
 */
TransferState *
lookup_next_fellow(const TransferState *state)
{
	dlist_iter	iter;

	dlist_foreach(iter, &put_off)
	{
		TransferState *other =
			dlist_container(TransferState, lookup_link, iter.cur);

		if (strcmp(other->host, state->host) != 0)
			continue;
		lookup_forget(other);
		return other;
	}
	return NULL;
}
