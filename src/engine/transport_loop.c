/*
 * transport_loop.c
 *	  One loop over sockets, clocks and the process latch.
 *
 * libcurl says which sockets it wants watched and when it wants to be called;
 * we only write that down and call it from here, never from its callbacks. Its
 * sockets live in a set of our own (transport_watch.c), and that set is one
 * entry of a WaitEventSet, beside the latch: whoever sets the latch ends the
 * wait at once. A turn serves one socket and one clock at most, and costs the
 * same however many transfers there are.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "transport_impl.h"

/*
 * As many connections are kept while nobody uses them. In a process that is
 * prepared for more transfers it is as many as these; but when it has had none
 * for some time, and libcurl would not use what is left any more (it does not
 * trust a connection that was idle for 118 s), all are closed.
 */
#define MAX_KEPT_CONNECTIONS 64
#define FORGET_AFTER (120 * USEC_SEC)

/* How often kept connections are looked at while there is much to do. */
#define LOOK_AT_KEPT_INTERVAL USEC_MSEC

/* Longest wait at a time; bounds the arithmetic, nothing else. */
#define MAX_WAIT (3600 * USEC_SEC)

static CURLM *multi;
static int	kept = MAX_KEPT_CONNECTIONS;
static int	total;				/* connections there may be; 0 = any number */
static int	added;				/* transfers that libcurl has */
static Usec idle_since;			/* when it last had some */
static WaitEventSet *wait_set;
static uint32 wait_event;
static const char *failure;		/* raised by the next turn */
static bool latched;			/* the latch was set in the last turn */

static void set_bounds(void);
static int	on_timer(CURLM *handle, long ms, void *arg);
static int	compare_due(const pairingheap_node *a, const pairingheap_node *b,
						void *arg);
static void act(curl_socket_t fd, int how);
static bool run_due(Usec now);
static bool serve_socket(void);
static bool wait_for_events(Usec now, Usec until);
static void look(Usec now);

static Usec looked_at;			/* at sockets */
static Usec timer_due = USEC_NEVER; /* libcurl's */
static pairingheap clocks = {compare_due, NULL, NULL};	/* ours: running */
												/* transfers by `due` */

/* ---- Opening ---- */

/* Makes our set and puts it beside the latch. May raise. */
static const char *
open_wait_set(void)
{
	int			mux;
	const char *problem = watch_open(&mux);

	if (problem)
		return problem;
	if (wait_set == NULL)
	{
		WaitEventSet *set = create_wait_event_set_compat(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
							  NULL);
		AddWaitEventToSet(set, WL_SOCKET_READABLE, mux, NULL, NULL);
		wait_event = new_wait_event_compat("LlmFailoverRequest");
		wait_set = set;
	}
	return NULL;
}

/* Makes the multi handle: the first use of libcurl in this process. */
static const char *
open_multi(void)
{
	static bool initialized;
	CURLM	   *handle;

	if (curl_version_info(CURLVERSION_NOW)->version_num < MIN_LIBCURL)
		return "libcurl is older than 7.87";
	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return "could not initialize libcurl";
	initialized = true;
	handle = curl_multi_init();
	if (handle == NULL)
		return "could not initialize libcurl";
	curl_multi_setopt(handle, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(handle, CURLMOPT_TIMERFUNCTION, on_timer);
	multi = handle;
	set_bounds();
	return NULL;
}

/* Tells libcurl how many connections there may be. */
static void
set_bounds(void)
{
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) kept);
	curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) total);
}

/*
 * Has libcurl keep so many connections as are needed for that many transfers,
 * if that is more than usual. Beyond `max` it closes an idle one before it
 * opens another, or else has the transfer wait.
 */
void
loop_bound(int transfers, int max)
{
	kept = Max(transfers, MAX_KEPT_CONNECTIONS);
	total = max;
	if (multi != NULL)
		set_bounds();
}

/*
 * Opens the loop on first use in a process. Returns NULL, or why it cannot be
 * done now; the next use tries again.
 */
const char *
loop_open(void)
{
	const char *problem;

	if (likely(multi != NULL))
		return NULL;
	Assert(IsUnderPostmaster || !IsPostmasterEnvironment);
	problem = open_wait_set();
	return problem ? problem : open_multi();
}

/* Has the next turn raise an error: something is wrong with the loop itself. */
void
loop_fail(const char *text)
{
	failure = text;
}

/* CURLMOPT_TIMERFUNCTION */
static int
on_timer(CURLM *handle, long ms, void *arg)
{
	(void) handle;
	(void) arg;
	timer_due = ms < 0 ? USEC_NEVER : clock_now() + ms * USEC_MSEC;
	return 0;
}

/* ---- Transfers ---- */

/* Hands a transfer to libcurl, which does nothing before loop_run_timer(). */
bool
loop_add(TransferState *state)
{
	state->running = curl_multi_add_handle(multi, state->easy) == CURLM_OK;
	added += state->running;
	return state->running;
}

/* Takes a transfer away from libcurl, ended or not. */
void
loop_remove(TransferState *state)
{
	if (!state->running)
		return;
	curl_multi_remove_handle(multi, state->easy);
	state->running = false;
	added--;
	idle_since = clock_now();
}

/* Orders transfers by what comes first. */
static int
compare_due(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	Usec		due_a =
		pairingheap_const_container(TransferState, due_node, a)->due;
	Usec		due_b =
		pairingheap_const_container(TransferState, due_node, b)->due;

	(void) arg;
	return due_a < due_b ? 1 : due_a > due_b ? -1 : 0;
}

/*
 * Has transfer_overdue() called for a transfer when a time has come; unless
 * that is USEC_NEVER. Replaces the time set before.
 */
void
loop_set_due(TransferState *state, Usec due)
{
	if (state->due == due)
		return;
	if (state->due != USEC_NEVER)
		pairingheap_remove(&clocks, &state->due_node);
	state->due = due;
	if (due != USEC_NEVER)
		pairingheap_add(&clocks, &state->due_node);
}

/* ---- Turning ---- */

/*
 * Does what is due, and serves a socket that is ready; or else waits until
 * there is something. False when there was nothing until `until`. May raise,
 * but serves no interrupts: the caller does, between any two turns.
 */
bool
loop_turn(Usec until)
{
	Usec		now = clock_now();
	bool		done;

	latched = false;
	if (failure)
	{
		const char *text = failure;

		failure = NULL;
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("request loop failed: %s", text)));
	}
	done = run_due(now);
	/* there may be something to do at all times: see to the latch, too */
	if (!MyLatch->is_set && (serve_socket() || done))
		return true;
	return wait_for_events(now, done ? now : until) || done;
}

/* Says whether the process latch was set in the last turn; it is reset. */
bool
loop_was_latched(void)
{
	return latched;
}

/* Has libcurl look at the next socket that is ready, if there is one. */
static bool
serve_socket(void)
{
	curl_socket_t fd;
	int			how;

	if (!watch_next(&fd, &how))
		return false;
	act(fd, how);
	return true;
}

/* Takes note of which sockets are ready. */
static void
look(Usec now)
{
	looked_at = now;
	watch_fetch();
}

/* Looks whether kept connections are still fit for use. Never waits. */
void
loop_check_kept(void)
{
	Usec		now = clock_now();

	if (net_sockets() == 0 ||
		(watch_has_next() && now - looked_at < LOOK_AT_KEPT_INTERVAL))
		return;
	look(now);
}

/* Lets libcurl do what it has put off until now. */
void
loop_run_timer(void)
{
	if (timer_due > clock_now())
		return;
	timer_due = USEC_NEVER;
	act(CURL_SOCKET_TIMEOUT, 0);
}

/* Returns when the connections are to be closed that nobody uses. */
static Usec
forget_due(void)
{
	return added == 0 && net_sockets() > MAX_KEPT_CONNECTIONS ?
		idle_since + FORGET_AFTER : USEC_NEVER;
}

/* Closes all connections. The next transfer opens the loop anew. */
static void
forget_connections(void)
{
	CURLM	   *handle = multi;

	multi = NULL;
	timer_due = USEC_NEVER;
	curl_multi_cleanup(handle);
	watch_find_lost();
	handle_forget();
}

/* Does one thing whose time has come. */
static bool
run_due(Usec now)
{
	TransferState *first = lookup_next_resumed();

	if (first)
	{
		transfer_resume(first);
		loop_run_timer();
		return true;
	}
	if (forget_due() <= now)
	{
		forget_connections();
		return true;
	}
	if (timer_due <= now)
	{
		loop_run_timer();
		return true;
	}
	if (pairingheap_is_empty(&clocks))
		return false;
	first = pairingheap_container(TransferState, due_node,
								  pairingheap_first(&clocks));
	if (first->due > now)
		return false;
	transfer_overdue(first);
	return true;
}

/* Returns the first point in time at which something has to be done. */
static Usec
next_due(Usec until)
{
	Usec		due = Min(Min(until, timer_due), forget_due());

	if (!pairingheap_is_empty(&clocks))
		due = Min(due,
				  pairingheap_container(TransferState, due_node,
										pairingheap_first(&clocks))->due);
	return due;
}

/*
 * Waits for sockets, the latch and the clock, and fetches what is ready.
 * False when nothing came until `until`.
 */
static bool
wait_for_events(Usec now, Usec until)
{
	WaitEvent	events[2];
	Usec		due = watch_has_next() ? now : next_due(until);
	Usec		wait = Min(Max(due - now, 0), MAX_WAIT);
	int			n = WaitEventSetWait(wait_set,
									 (wait + USEC_MSEC - 1) / USEC_MSEC,
									 events, lengthof(events), wait_event);

	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latched = true;
		}
		if (events[i].events & WL_SOCKET_READABLE)
			look(clock_now());
	}
	return n > 0 || watch_has_next() || until > clock_now();
}

/* Lets libcurl act on a socket, or on its timers, and takes what has ended. */
static void
act(curl_socket_t fd, int how)
{
	int			running;
	int			queued;
	CURLMsg    *message;
	CURLMcode	code = curl_multi_socket_action(multi, fd, how, &running);

	lookup_unblock_signals();
	if (code != CURLM_OK)
		loop_fail(curl_multi_strerror(code));
	while ((message = curl_multi_info_read(multi, &queued)) != NULL)
	{
		CURLcode	result = message->data.result;
		char	   *state;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &state);
		transfer_done((TransferState *) state, result);
	}
}
