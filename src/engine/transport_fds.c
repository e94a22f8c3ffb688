/*
 * transport_fds.c
 *	  How many descriptors requests may take.
 *
 * fd.c gives its clients a third of what it thinks that this process can open
 * (max_safe_fds), so that connections to providers never take the descriptors
 * that the executor's files need. That is what a session has. A process of our
 * own that is to have many requests under way has the kernel allow it more;
 * what lies beyond that which fd.c reckons with is ours alone, is taken first,
 * and needs no accounting there. fd.c does not come to know: it reads the limit
 * once, in the postmaster, and the limit is raised in this process only.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "storage/fd.h"

#include "transport_impl.h"

/*
 * Descriptors that fd.c does not reckon with: what was open when the postmaster
 * counted, what is opened behind its back, and its own reserve of 10.
 */
#define UNCOUNTED_FDS 64

/* What the server itself takes of the third: latches and WAL. */
#define SERVER_FDS 8

/* Descriptors besides those of connections: look-ups, given up on or not. */
#define LOOKUP_FDS 48

static int	taken;				/* descriptors in use */
static int	own;				/* how many of them fd.c has not to know */

/* Takes a descriptor's place. False: there are too many. */
static bool
take_one(void)
{
	if (taken >= own && !AcquireExternalFD())
		return false;
	taken++;
	return true;
}

/* Accounts for descriptors about to be opened. False: there are too many. */
bool
fds_take(int n)
{
	for (int i = 0; i < n; i++)
	{
		if (take_one())
			continue;
		watch_find_lost();
		if (take_one())
			continue;
		fds_give(i);
		return false;
	}
	return true;
}

/* Accounts for a descriptor that is open already. */
void
fds_take_open(void)
{
	if (taken >= own)
		ReserveExternalFD();
	taken++;
}

/* Accounts for descriptors that are no more. */
void
fds_give(int n)
{
	for (; n > 0; n--)
		if (taken-- > own)
			ReleaseExternalFD();
}

/*
 * Has the kernel allow this process as many descriptors as it needs, as far as
 * it does. Returns how many there may be.
 */
static int
raise_limit(int need)
{
	struct rlimit limit;
	rlim_t		old;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	old = limit.rlim_cur;
	if (old < (rlim_t) need)
	{
		limit.rlim_cur = Min((rlim_t) need, limit.rlim_max);
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			limit.rlim_cur = old;
	}
	return (int) Min(limit.rlim_cur, (rlim_t) need);
}

/*
 * Makes room for that many descriptors, as far as the kernel allows. Returns
 * how many there may be from now on; what was given is never taken back.
 */
static int
make_room(int n)
{
	int			counted = max_safe_fds + UNCOUNTED_FDS;
	int			before = own;

	own = Max(own, raise_limit(counted + n) - counted);
	for (int i = before; i < Min(own, taken); i++)
		ReleaseExternalFD();
	return own + Max(max_safe_fds / 3 - SERVER_FDS, 0);
}

/*
 * Prepares this process for so many transfers at once, and returns how many
 * there can be. There may be more connections than these: a call may be hedged,
 * and idle ones may lead elsewhere; and for a host with two kinds of addresses
 * two sockets are tried.
 */
int
transport_reserve(int ncalls)
{
	int			room = make_room(2 * ncalls + LOOKUP_FDS) - LOOKUP_FDS;
	int			connections = Max(room, 1);
	int			fit = Min(ncalls, connections);

	handle_keep(fit);
	loop_bound(fit, connections);
	return fit;
}
