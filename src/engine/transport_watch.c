/*
 * transport_watch.c
 *	  The sockets of libcurl: an epoll set of them (kqueue elsewhere).
 *
 * A connection that is put away stays registered, because the next call is
 * likely to want it again and two epoll_ctl() a call would cost as much as all
 * the rest of the loop. That it stays registered is of use besides: whatever
 * comes on a connection that nobody waits for is the end of it, or a piece of
 * an answer that some server misframed, or its 408 for an idle client. The
 * next request must not take that for its own answer (libcurl before 8.0 does
 * not look), so such a connection is made dead before a transfer begins.
 *
 * What is ready waits in a queue, each descriptor once, so that none is served
 * again before all others were. Readiness may be stale by the time its turn
 * comes: an earlier event may have closed the socket, and its number may be
 * taken by another. So a descriptor that is forgotten has nothing to be served
 * for, though it may still stand in the queue. Each registration has a number
 * of its own besides, which comes back with the event: a child of ours that has
 * yet to exec holds a copy of a socket that we have closed.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "transport_impl.h"

#if defined(HAVE_SYS_EPOLL_H)
#include <sys/epoll.h>
#else
#include <sys/event.h>
#endif

/* What we know of a descriptor of libcurl's; the table's index is its number. */
typedef struct Watch
{
	uint8		wanted;			/* CURL_POLL_IN | CURL_POLL_OUT, by libcurl */
	uint8		registered;		/* the same, in our set */
	bool		owned;			/* opened by us, so we hear of its end */
	bool		shared;			/* HTTP/2: the server may speak unasked */
	bool		queued;			/* stands in the queue of what is ready */
	bool		ready;			/* and not in vain */
	uint8		how;			/* CURL_CSELECT_IN | OUT; 0 = libcurl must look */
	int			next;			/* behind it in the queue; -1 = none */
	uint32		number;			/* of the registration */
	ino_t		inode;			/* of the socket, when owned */
} Watch;

/* Readiness is taken in batches of this size at most. */
#define EVENT_BATCH 64

static int	mux = -1;
static Watch *watches;
static int	nwatches;
static int	first_ready = -1;	/* the queue */
static int	last_ready = -1;

static void note_ready(int fd, uint32 number, int how);
static void put_away(int fd, CURL *easy);
static void lose_socket(int fd);
static void end_kept(int fd);

/* ---- epoll or kqueue ---- */

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

/* Takes note of what is ready, without waiting. */
void
watch_fetch(void)
{
	struct epoll_event events[EVENT_BATCH];
	int			n = epoll_wait(mux, events, EVENT_BATCH, 0);

	for (int i = 0; i < n; i++)
	{
		uint32		what = events[i].events;

		note_ready((int) (uint32) events[i].data.u64, events[i].data.u64 >> 32,
				   what & ~(EPOLLIN | EPOLLOUT) ? 0 :
				   (what & EPOLLIN ? CURL_CSELECT_IN : 0) |
				   (what & EPOLLOUT ? CURL_CSELECT_OUT : 0));
	}
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

/* Takes note of what is ready, without waiting. */
void
watch_fetch(void)
{
	struct kevent events[EVENT_BATCH];
	struct timespec now = {0};
	int			n = kevent(mux, NULL, 0, events, EVENT_BATCH, &now);

	for (int i = 0; i < n; i++)
		note_ready((int) events[i].ident,
				   (uint32) (uintptr_t) events[i].udata,
				   events[i].flags & EV_ERROR ? 0 :
				   events[i].filter == EVFILT_READ ? CURL_CSELECT_IN :
				   CURL_CSELECT_OUT);
}

#endif

/*
 * Makes the set, and returns its descriptor in *set, which is readable while a
 * socket in it is ready. NULL, or why it cannot be made now.
 */
const char *
watch_open(int *set)
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
	*set = mux;
	return NULL;
}

/* ---- What libcurl wants ---- */

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
int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
			 void *socket_arg)
{
	(void) arg;
	(void) socket_arg;
	if (what != CURL_POLL_REMOVE)
	{
		/* a failure told to libcurl would ruin the multi handle for good */
		if (!update_watch(fd, what & (CURL_POLL_IN | CURL_POLL_OUT)))
			loop_fail("could not wait for a socket");
	}
	else if (fd < nwatches && watches[fd].owned)
		put_away(fd, easy);
	else
		watch_forget(fd);
	return 0;
}

/* Returns what tells a socket from others; 0 when there is none. */
static ino_t
inode_of(int fd)
{
	struct stat now;

	return fstat(fd, &now) == 0 ? now.st_ino : 0;
}

/* Says whether a descriptor still is the socket that it was when opened. */
static bool
is_same_socket(int fd)
{
	return inode_of(fd) == watches[fd].inode;
}

/*
 * Waits for nothing but what the server says. A new libcurl may end a transfer
 * while it still waits to write, and an idle connection always can be written.
 */
static void
listen_only(int fd)
{
	if (watches[fd].registered != CURL_POLL_IN &&
		!update_watch(fd, CURL_POLL_IN))
		loop_fail("could not wait for a socket");
	watches[fd].wanted = 0;
	watches[fd].ready = false;
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
	watches[fd].shared = state && state->http2;
	if ((state == NULL || state->phase == PHASE_CONNECTING) &&
		!is_same_socket(fd))
		lose_socket(fd);
	else
		listen_only(fd);
}

/* Forgets a socket that was closed behind our back. */
static void
lose_socket(int fd)
{
	watch_forget(fd);
	net_socket_closed();
}

/* Looks for sockets that were closed behind our back. */
void
watch_find_lost(void)
{
	for (int fd = 0; fd < nwatches; fd++)
		if (watches[fd].owned && !is_same_socket(fd))
			lose_socket(fd);
}

/* Takes note of a socket whose end watch_forget() will announce. */
void
watch_own(curl_socket_t fd)
{
	if (!ensure_watch(fd))
		return;
	if (watches[fd].owned)
		lose_socket(fd);		/* or else the number would not be free */
	watches[fd].owned = true;
	watches[fd].inode = inode_of(fd);
}

/* Forgets a descriptor that is about to be closed. */
void
watch_forget(curl_socket_t fd)
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
	watch->ready = false;
}

/* ---- What is ready ---- */

/* Puts a descriptor at the end of the queue. */
static void
enqueue(int fd)
{
	watches[fd].next = -1;
	watches[fd].queued = true;
	if (first_ready < 0)
		first_ready = fd;
	else
		watches[last_ready].next = fd;
	last_ready = fd;
}

/* Takes the first descriptor out of the queue. */
static int
dequeue(void)
{
	int			fd = first_ready;

	first_ready = watches[fd].next;
	watches[fd].queued = false;
	return fd;
}

/*
 * A socket was found ready. Has it served if libcurl waits for it; ends a kept
 * connection that nobody waits for.
 */
static void
note_ready(int fd, uint32 number, int how)
{
	Watch	   *watch = &watches[fd];

	if (watch->number != number || !watch->registered)
		return;					/* not the socket that was registered */
	if (!watch->wanted)
	{
		end_kept(fd);
		return;
	}
	/* with different words about it, libcurl had better look itself */
	watch->how = watch->ready && watch->how != how ? 0 : how;
	watch->ready = true;
	if (!watch->queued)
		enqueue(fd);
}

/* Says whether watch_next() has something. */
bool
watch_has_next(void)
{
	return first_ready >= 0;
}

/*
 * Takes the next socket that is ready, and that libcurl waits for. False when
 * there is none.
 */
bool
watch_next(curl_socket_t *fd, int *how)
{
	while (first_ready >= 0)
	{
		Watch	   *watch;

		*fd = dequeue();
		watch = &watches[*fd];
		*how = watch->how;
		if (watch->ready && watch->wanted)
		{
			watch->ready = false;
			return true;
		}
		watch->ready = false;
	}
	return false;
}

/*
 * Something came on a connection that was put away. Puts a closed socket in
 * its place, so that libcurl finds it dead, whatever there is to read; an
 * HTTP/2 one is libcurl's to judge.
 */
static void
end_kept(int fd)
{
	static int	dead = -1;
	int			pair[2];

	if (!update_watch(fd, 0))
		loop_fail("could not stop waiting for a socket");
	if (watches[fd].shared)
		return;
	if (dead < 0)
	{
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
			return;
		close(pair[0]);
		dead = pair[1];
		(void) fcntl(dead, F_SETFD, FD_CLOEXEC);
	}
	dup2(dead, fd);
	watches[fd].inode = inode_of(fd);
}
