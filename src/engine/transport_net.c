/*
 * transport_net.c
 *	  Descriptors, addresses and name look-ups: what leaves this process.
 *
 * Descriptors. Each socket is accounted with fd.c, which refuses beyond a
 * third of what the process may open, so that provider connections never take
 * the descriptors that the executor's files need.
 *
 * Addresses. Plain http goes to loopback only, unless a superuser allowed it.
 * A name proves nothing ("localhost" is what /etc/hosts says), so the address
 * is looked at: before connecting, and before each request on a kept
 * connection, which may have been made while the setting was on. A proxy's
 * address counts like any other: it would read the key as well.
 *
 * Look-ups. libcurl resolves names in a thread each. Giving up on one leaves
 * its thread behind until getaddrinfo() returns, which may be never. So these
 * are counted, and when too many are left no new look-up begins; literal
 * addresses, cached names and kept connections go on. The threads are born
 * with all signals blocked: PostgreSQL's handlers must run in its own thread.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

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

static int	sockets;			/* open ones */

static int	abandoned;			/* look-ups given up on, not known to be over */
static int	abandoned_reserved; /* descriptors accounted for these */
static Usec last_abandoned;
static int	threads_before = -1;	/* when the first look-up began */

static bool signals_blocked;
static sigset_t signals_before;

/* ---- Addresses ---- */

/* Says whether a host, as in a URL, is a numeric address. */
bool
net_host_is_literal(const char *host)
{
	struct in_addr address;

	return host[0] == '[' || inet_pton(AF_INET, host, &address) == 1;
}

/* Says whether a numeric address, as inet_ntop() writes it, is loopback. */
bool
net_address_is_loopback(const char *address)
{
	return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 ||
		strncmp(address, "::ffff:127.", 11) == 0;
}

/* Says whether a host, as in a URL, claims to be loopback. */
bool
net_host_is_loopback(const char *host)
{
	size_t		len = strlen(host);
	const char *suffix = ".localhost";
	size_t		suffix_len = strlen(suffix);

	if (net_host_is_literal(host))
		return strcmp(host, "[::1]") == 0 || strncmp(host, "127.", 4) == 0;
	return pg_strcasecmp(host, "localhost") == 0 ||
		(len > suffix_len && pg_strcasecmp(host + len - suffix_len, suffix) == 0);
}

/* Writes down that plain http was about to go to an address. */
void
net_forbid_plain(TransferState *state, const char *address)
{
	transfer_problem(state, TRANSFER_LOCAL,
					 "plain http to %s, which is not loopback", address);
}

/* Writes an address as text, or says that it is of no kind we know. */
static bool
address_text(const struct sockaddr *address, char *text, size_t size)
{
	const void *bytes;

	if (address->sa_family == AF_INET)
		bytes = &((const struct sockaddr_in *) address)->sin_addr;
	else if (address->sa_family == AF_INET6)
		bytes = &((const struct sockaddr_in6 *) address)->sin6_addr;
	else
		return false;
	return inet_ntop(address->sa_family, bytes, text, size) != NULL;
}

/* Says whether this transfer may connect to this address, and notes why not. */
static bool
may_connect(TransferState *state, const struct sockaddr *address)
{
	char		text[INET6_ADDRSTRLEN] = "an unknown address";

	if (!state->loopback_only)
		return true;
	if (address_text(address, text, sizeof(text)) &&
		net_address_is_loopback(text))
		return true;
	net_forbid_plain(state, text);
	return false;
}

/* ---- Descriptors ---- */

/* Accounts for descriptors about to be opened. False: there are too many. */
static bool
acquire_descriptors(int n)
{
	for (int i = 0; i < n; i++)
	{
		if (AcquireExternalFD())
			continue;
		watch_find_lost();
		if (AcquireExternalFD())
			continue;
		while (i-- > 0)
			ReleaseExternalFD();
		return false;
	}
	return true;
}

/* libcurl wants a socket: CURLOPT_OPENSOCKETFUNCTION. */
curl_socket_t
net_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	TransferState *state = arg;
	int			fd;

	(void) purpose;
	lookup_end(state);			/* whatever was looked up is known by now */
	transfer_connecting(state);	/* again, when a kept connection died */
	if (!may_connect(state, &address->addr))
		return CURL_SOCKET_BAD;
	if (!acquire_descriptors(1))
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "too many open files in this process");
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype, address->protocol);
	if (fd < 0)
	{
		if (errno == EMFILE || errno == ENFILE)
			transfer_problem(state, TRANSFER_LOCAL, "too many open files");
		ReleaseExternalFD();
		return CURL_SOCKET_BAD;
	}
	(void) fcntl(fd, F_SETFD, FD_CLOEXEC);
	sockets++;
	watch_own(fd);
	return fd;
}

/* libcurl is done with a socket: CURLOPT_CLOSESOCKETFUNCTION. */
int
net_close_socket(void *arg, curl_socket_t fd)
{
	(void) arg;					/* its transfer may be long gone */
	watch_forget(fd);
	net_socket_closed();
	return close(fd);
}

/* Accounts for a socket that is no more. */
void
net_socket_closed(void)
{
	sockets--;
	ReleaseExternalFD();
}

/* Returns how many sockets are open: in use or kept. */
int
net_sockets(void)
{
	return sockets;
}

/* ---- Look-ups ---- */

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
	for (; abandoned_reserved > abandoned; abandoned_reserved--)
		ReleaseExternalFD();
}

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
	if (threads_before < 0)
		threads_before = count_threads();
	reap_abandoned();
	if (abandoned >= MAX_ABANDONED_LOOKUPS)
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "too many unfinished name look-ups (%d)", abandoned);
		return 1;
	}
	if (!acquire_descriptors(DESCRIPTORS_PER_LOOKUP))
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "too many open files in this process");
		return 1;
	}
	state->looking_up = true;
	if (!signals_blocked)
	{
		sigset_t	all;

		sigfillset(&all);
		signals_blocked = sigprocmask(SIG_SETMASK, &all, &signals_before) == 0;
	}
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
	for (int i = 0; i < DESCRIPTORS_PER_LOOKUP; i++)
		ReleaseExternalFD();
}

/* Books a look-up of this transfer, if there is one, as given up on. */
void
lookup_abandon(TransferState *state)
{
	if (!state->looking_up)
		return;
	lookup_end(state);
	abandoned++;
	last_abandoned = clock_now();
	ReserveExternalFD();		/* the thread's end of the pair stays open */
	abandoned_reserved++;
}

/* Returns how many look-ups run on that nobody waits for. */
int
lookup_unfinished(void)
{
	reap_abandoned();
	return abandoned;
}
