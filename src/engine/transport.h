/*
 * transport.h
 *	  HTTP requests of this process, any number at once.
 *
 * One libcurl multi handle a process; connections are kept across calls and
 * statements. The contract with libcurl stands in transport.c. A transfer that
 * is started must be released, on every path; release aborts it if it is still
 * running, and neither waits nor throws. Its memory is malloc's and of no
 * memory context.
 */
#ifndef LLM_TRANSPORT_H
#define LLM_TRANSPORT_H

#include "postgres.h"

#include "util/clock.h"
#include "util/http.h"

/* How a transfer ended, before anyone looks at status or body. */
typedef enum TransferEnd
{
	TRANSFER_RUNNING,
	TRANSFER_OK,				/* a whole response */
	TRANSFER_NO_NAME,			/* the host's name does not resolve */
	TRANSFER_NO_CONNECTION,		/* refused, unreachable, proxy failed */
	TRANSFER_NO_TLS,			/* handshake or certificate */
	TRANSFER_BROKEN,			/* reset, early EOF, body cut short */
	TRANSFER_BAD_RESPONSE,		/* not HTTP, bad encoding, redirected … */
	TRANSFER_TOO_LARGE,			/* beyond llm_failover.max_response_size */
	TRANSFER_CONNECT_TIMEOUT,
	TRANSFER_FIRST_BYTE_TIMEOUT,
	TRANSFER_TIMEOUT,			/* limits.timeout */
	TRANSFER_LOCAL				/* our own fault: memory, descriptors … */
} TransferEnd;

typedef struct TransferLimits
{
	Usec		connect_timeout;
	Usec		first_byte_timeout; /* from the connection on; 0 = none */
	Usec		timeout;		/* of the whole transfer */
} TransferLimits;

typedef struct Transfer
{
	void	   *owner;			/* the caller's, untouched */
	TransferEnd end;
	bool		reached;		/* somebody at the other end was there, even */
								/* if only to refuse the connection */
	HttpResponse response;		/* when TRANSFER_OK; malloc's memory, good */
								/* until the transfer is released */
	char		why[256];		/* in words, when it failed; has no secrets */
	Usec		started;
	Usec		finished;
	int			connects;		/* 0: on a kept connection; 1: on a new one; */
								/* 2: the first had died under the request, */
								/* which was sent once more */
	struct TransferState *state;	/* transport.c's own */
} Transfer;

/*
 * Begins a request; the request may be freed afterwards. The transfer may have
 * ended already; transport_wait() returns it all the same. Raises only on out
 * of memory.
 */
extern Transfer *transport_start(const HttpRequest *request,
								 const TransferLimits *limits, void *owner);

/*
 * Waits until a transfer has ended, and returns it (each one once), or until
 * `until`, and returns NULL; with `latch` also when the process latch was set,
 * which it resets. Sockets and the process latch are waited for together;
 * interrupts are served, so it may throw: the caller's transfers then still
 * have to be released.
 */
extern Transfer *transport_wait(Usec until, bool latch);

/*
 * Takes a transfer back. Harmless for NULL, and twice in a row; but the next
 * transport_start() may use its memory again, so forget the pointer.
 */
extern void transport_release(Transfer *transfer);

/*
 * Prepares this process for so many transfers at once, where a session has
 * about 250: has the kernel allow it the descriptors, and keeps connections and
 * handles for as many. Returns how many fit, at least 1. May be called again
 * with another number. Once nobody has asked for anything for two minutes, the
 * connections are closed if they are more than a session keeps.
 */
extern int	transport_reserve(int ncalls);

/* For tests and views: handles in use, kept connections, abandoned look-ups. */
typedef struct TransportCounts
{
	int			running;
	int			sockets;
	int			unfinished_lookups;
} TransportCounts;

extern void transport_counts(TransportCounts *counts);

#endif							/* LLM_TRANSPORT_H */
