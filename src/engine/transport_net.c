/*
 * transport_net.c
 *	  Sockets and addresses: what leaves this process.
 *
 * Plain http goes to loopback only, unless a superuser allowed it. A name
 * proves nothing ("localhost" is what /etc/hosts says), so the address is
 * looked at: before connecting, and before each request on a kept connection,
 * which may have been made while the setting was on. A proxy's address counts
 * like any other: it would read the key as well.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#include "transport_impl.h"

static int	sockets;			/* open ones */

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

/* ---- Sockets ---- */

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
	if (!fds_take(1))
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
		fds_give(1);
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
	fds_give(1);
}

/* Returns how many sockets are open: in use or kept. */
int
net_sockets(void)
{
	return sockets;
}
