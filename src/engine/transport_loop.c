/*
 * transport_loop.c
 *	  One loop over sockets, clocks and the process latch.
 *
 * libcurl says which sockets it watches and when it wants to be called; we
 * only write that down and call it from here, never from its callbacks. Its
 * sockets live in an epoll set (kqueue elsewhere) of our own, and that set is
 * one entry of a WaitEventSet, beside the latch: a change is O(1) however many
 * transfers there are, and whoever sets the latch ends the wait at once.
 *
 * A connection that is put away stays registered, because the next call is
 * likely to want it again and two epoll_ctl() a call would cost as much as all
 * the rest of the loop. That it stays registered is of use besides: whatever
 * comes on a connection that nobody waits for is the end of it, or a piece of
 * an answer that some server misframed, or its 408 for an idle client. The
 * next request must not take that for its own answer (libcurl before 8.0 does
 * not look), so such a connection is made dead before a transfer begins.
 *
 * Readiness may be stale by the time it is looked at: an earlier event of the
 * same batch may have closed the socket, and the number may be taken by
 * another. So each registration has a number of its own, which comes back with
 * the event.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "transport_impl.h"

#if defined(HAVE_SYS_EPOLL_H)
#include <sys/epoll.h>
#else
#include <sys/event.h>
#endif

/* As many connections are kept while nobody uses them. */
#define MAX_KEPT_CONNECTIONS 64

/* Readiness is taken in batches of this size at most. */
#define EVENT_BATCH 16

/* Longest wait at a time; bounds the arithmetic, nothing else. */
#define MAX_WAIT (3600 * USEC_SEC)

/* What we know of a descriptor of libcurl's; the table's index is its number. */
typedef struct Watch
{
	uint8		wanted;			/* CURL_POLL_IN | CURL_POLL_OUT, by libcurl */
	uint8		registered;		/* the same, in our set */
	bool		owned;			/* opened by us, so we hear of its end */
	bool		shared;			/* HTTP/2: the server may speak unasked */
	uint32		number;			/* of the registration */
	ino_t		inode;			/* of the socket, when owned */
} Watch;

/* A descriptor that is ready. */
typedef struct Ready
{
	int			fd;
	uint32		number;
	int			how;			/* CURL_CSELECT_IN | OUT; 0 = libcurl must look */
} Ready;

static CURLM *multi;
static int	mux = -1;
static WaitEventSet *wait_set;
static uint32 wait_event;
static const char *failure;		/* raised by the next turn */

static Watch *watches;
static int	nwatches;

static Ready batch[EVENT_BATCH];
static int	batch_len;
static int	batch_next;

static int	on_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
					  void *socket_arg);
static void put_away(int fd, CURL *easy);
static void lose_socket(int fd);
static int	on_timer(CURLM *handle, long ms, void *arg);
static int	compare_due(const pairingheap_node *a, const pairingheap_node *b,
						void *arg);
static void act(curl_socket_t fd, int how);
static void dispatch(const Ready *ready);
static void end_kept(int fd);
static bool run_due(Usec now);
static bool wait_for_events(Usec now, Usec until);

static Usec timer_due = USEC_NEVER; /* libcurl's */
static pairingheap clocks = {compare_due, NULL, NULL};	/* ours: running */
												/* transfers by `due` */

/* ---- The set of sockets: epoll or kqueue ---- */

#if defined(HAVE_SYS_EPOLL_H)

static inline int
mux_create(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

/* Changes what is waited for on a descriptor. */
static inline bool
mux_change(int fd, const Watch *watch, int wanted)
{
	struct epoll_event event = {0};
	int			op = !wanted ? EPOLL_CTL_DEL :
		!watch->registered ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	event.events = (wanted & CURL_POLL_IN ? EPOLLIN : 0) |
		(wanted & CURL_POLL_OUT ? EPOLLOUT : 0);
	event.data.u64 = (uint64) watch->number << 32 | (uint32) fd;
	return epoll_ctl(mux, op, fd, &event) == 0;
}

/* Fetches what is ready, without waiting. */
static inline int
mux_fetch(Ready *ready)
{
	struct epoll_event events[EVENT_BATCH];
	int			n = epoll_wait(mux, events, EVENT_BATCH, 0);

	for (int i = 0; i < n; i++)
	{
		uint32		what = events[i].events;

		ready[i].fd = (int) (uint32) events[i].data.u64;
		ready[i].number = events[i].data.u64 >> 32;
		ready[i].how = what & ~(EPOLLIN | EPOLLOUT) ? 0 :
			(what & EPOLLIN ? CURL_CSELECT_IN : 0) |
			(what & EPOLLOUT ? CURL_CSELECT_OUT : 0);
	}
	return Max(n, 0);
}

#else

static inline int
mux_create(void)
{
	return kqueue();
}

/* Changes what is waited for on a descriptor. */
static inline bool
mux_change(int fd, const Watch *watch, int wanted)
{
	static const struct
	{
		int			poll;
		short		filter;
	}			filters[] = {
		{CURL_POLL_IN, EVFILT_READ}, {CURL_POLL_OUT, EVFILT_WRITE}
	};
	struct kevent changes[lengthof(filters)];
	int			n = 0;

	for (size_t i = 0; i < lengthof(filters); i++)
	{
		int			poll = filters[i].poll;

		if ((wanted & poll) || (watch->registered & poll))
			EV_SET(&changes[n++], fd, filters[i].filter,
				   wanted & poll ? EV_ADD : EV_DELETE, 0, 0,
				   (void *) (uintptr_t) watch->number);
	}
	return kevent(mux, changes, n, NULL, 0, NULL) == 0;
}

/* Fetches what is ready, without waiting. */
static inline int
mux_fetch(Ready *ready)
{
	struct kevent events[EVENT_BATCH];
	struct timespec now = {0};
	int			n = kevent(mux, NULL, 0, events, EVENT_BATCH, &now);

	for (int i = 0; i < n; i++)
	{
		ready[i].fd = (int) events[i].ident;
		ready[i].number = (uint32) (uintptr_t) events[i].udata;
		ready[i].how = events[i].flags & EV_ERROR ? 0 :
			events[i].filter == EVFILT_READ ? CURL_CSELECT_IN :
			CURL_CSELECT_OUT;
	}
	return Max(n, 0);
}

#endif

/* ---- Opening ---- */

/* Makes our set and puts it beside the latch. May raise. */
static const char *
open_wait_set(void)
{
	if (mux < 0)
	{
		if (!AcquireExternalFD())
			return "too many open files in this process";
		mux = mux_create();
		if (mux < 0)
		{
			ReleaseExternalFD();
			return "could not create an event queue";
		}
	}
	if (wait_set == NULL)
	{
		WaitEventSet *set = create_wait_event_set_compat(3);

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
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

	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return "could not initialize libcurl";
	initialized = true;
	handle = curl_multi_init();
	if (handle == NULL)
		return "could not initialize libcurl";
	curl_multi_setopt(handle, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(handle, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(handle, CURLMOPT_MAXCONNECTS,
					  (long) MAX_KEPT_CONNECTIONS);
	multi = handle;
	return NULL;
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

/* ---- What libcurl tells us ---- */

/* Makes room for a descriptor in the table. */
static bool
ensure_watch(int fd)
{
	int			size = Max(nwatches, 64);
	Watch	   *table;

	if (fd < nwatches)
		return true;
	while (size <= fd)
		size *= 2;
	table = realloc(watches, size * sizeof(Watch));
	if (table == NULL)
		return false;
	memset(table + nwatches, 0, (size - nwatches) * sizeof(Watch));
	watches = table;
	nwatches = size;
	return true;
}

/* Registers what libcurl wants of a descriptor, if that is news. */
static bool
update_watch(int fd, int wanted)
{
	Watch	   *watch;

	if (!ensure_watch(fd))
		return false;
	watch = &watches[fd];
	watch->wanted = wanted;
	if (watch->registered == wanted)
		return true;
	if (!watch->registered)
		watch->number++;
	if (!mux_change(fd, watch, wanted))
		return false;
	watch->registered = wanted;
	return true;
}

/* CURLMOPT_SOCKETFUNCTION */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	(void) arg;
	(void) socket_arg;
	if (what != CURL_POLL_REMOVE)
	{
		/* a failure told to libcurl would ruin the multi handle for good */
		if (!update_watch(fd, what & (CURL_POLL_IN | CURL_POLL_OUT)))
			failure = "could not wait for a socket";
	}
	else if (fd < nwatches && watches[fd].owned)
		put_away(fd, easy);
	else
		loop_forget_socket(fd);
	return 0;
}

/* Says whether a descriptor still is the socket that it was when opened. */
static bool
is_same_socket(int fd)
{
	struct stat now;

	return fstat(fd, &now) == 0 && now.st_ino == watches[fd].inode;
}

/*
 * Keeps a socket that no transfer uses any more: see the top of this file.
 * libcurl 7.88 closes sockets that never connected without telling.
 */
static void
put_away(int fd, CURL *easy)
{
	char	   *arg = NULL;
	TransferState *state;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &arg);
	state = (TransferState *) arg;
	watches[fd].wanted = 0;
	watches[fd].shared = state && state->http2;
	if ((state == NULL || state->phase == PHASE_CONNECTING) &&
		!is_same_socket(fd))
		lose_socket(fd);
}

/* Forgets a socket that was closed behind our back. */
static void
lose_socket(int fd)
{
	loop_forget_socket(fd);
	net_socket_closed();
}

/* Looks for sockets that were closed behind our back. */
void
loop_find_lost(void)
{
	for (int fd = 0; fd < nwatches; fd++)
		if (watches[fd].owned && !is_same_socket(fd))
			lose_socket(fd);
}

/* Takes note of a socket whose end loop_forget_socket() will announce. */
void
loop_own_socket(curl_socket_t fd)
{
	struct stat now;

	if (!ensure_watch(fd) || fstat(fd, &now) < 0)
		return;
	if (watches[fd].owned)
		lose_socket(fd);		/* or else the number would not be free */
	watches[fd].owned = true;
	watches[fd].inode = now.st_ino;
}

/* Forgets a descriptor that is about to be closed. */
void
loop_forget_socket(curl_socket_t fd)
{
	Watch	   *watch;

	if (fd >= nwatches)
		return;
	watch = &watches[fd];
	if (watch->registered)
		mux_change(fd, watch, 0);
	watch->wanted = 0;
	watch->registered = 0;
	watch->owned = false;
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
 * Does one thing that is due, or else waits until there is one. False when
 * there was nothing until `until`. May raise, but serves no interrupts: the
 * caller does, between any two turns.
 */
bool
loop_turn(Usec until)
{
	Usec		now;

	if (failure)
	{
		const char *text = failure;

		failure = NULL;
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("request loop failed: %s", text)));
	}
	if (batch_next < batch_len)
	{
		dispatch(&batch[batch_next++]);
		return true;
	}
	now = clock_now();
	return run_due(now) || wait_for_events(now, until);
}

/* Has libcurl look at a socket that is ready. */
static void
dispatch(const Ready *ready)
{
	const Watch *watch = &watches[ready->fd];

	if (watch->number != ready->number || !watch->registered)
		return;					/* not the socket that was ready */
	if (watch->wanted)
		act(ready->fd, ready->how);
	else
		end_kept(ready->fd);
}

/*
 * Something came on a connection that was put away. Puts a closed socket in
 * its place, so that libcurl finds it dead, whatever there is to read; an
 * HTTP/2 one is libcurl's to judge.
 */
static void
end_kept(int fd)
{
	int			pair[2];

	if (!update_watch(fd, 0))
		failure = "could not stop waiting for a socket";
	if (watches[fd].shared || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return;
	close(pair[0]);
	dup2(pair[1], fd);
	close(pair[1]);
}

/* Looks whether kept connections are still fit for use. Never waits. */
void
loop_check_kept(void)
{
	if (net_sockets() == 0)
		return;
	batch_len = mux_fetch(batch);
	batch_next = 0;
	for (int i = 0; i < batch_len; i++)
		if (watches[batch[i].fd].wanted == 0)
			dispatch(&batch[i]);
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

/* Does one thing whose time has come. */
static bool
run_due(Usec now)
{
	TransferState *first;

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
	Usec		due = Min(until, timer_due);

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
	Usec		wait = Min(Max(next_due(until) - now, 0), MAX_WAIT);
	int			n = WaitEventSetWait(wait_set,
									 (wait + USEC_MSEC - 1) / USEC_MSEC,
									 events, lengthof(events), wait_event);

	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (events[i].events & WL_SOCKET_READABLE)
		{
			batch_len = mux_fetch(batch);
			batch_next = 0;
		}
	}
	return n > 0 || until > clock_now();
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
		failure = curl_multi_strerror(code);
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
