/*
 * transport_impl.h
 *	  What the files of the transport share among themselves. Nobody else
 *	  includes it.
 */
#ifndef LLM_TRANSPORT_IMPL_H
#define LLM_TRANSPORT_IMPL_H

#include "postgres.h"

#include <curl/curl.h>

#include "lib/ilist.h"
#include "lib/pairingheap.h"

#include "engine/transport.h"

#define MIN_LIBCURL 0x075700
#if LIBCURL_VERSION_NUM < MIN_LIBCURL
#error "llm_failover needs libcurl 7.87 or later (CURLOPT_QUICK_EXIT)"
#endif

/* A growing piece of malloc's memory: callbacks must not palloc. */
typedef struct Bytes
{
	char	   *data;			/* NULL while size is 0 */
	size_t		len;
	size_t		size;
} Bytes;

/* Where a transfer is, as far as our clocks care. */
typedef enum TransferPhase
{
	PHASE_CONNECTING,			/* look-up, connection, handshake */
	PHASE_ASKED,				/* connected; not a byte of an answer yet */
	PHASE_ANSWERING
} TransferPhase;

/* Two of our own headers, and a body that libcurl need not announce. */
#define OWN_HEADERS 2

/*
 * All that a transfer needs besides what its owner sees. In malloc's memory,
 * and kept for the next transfer together with its easy handle.
 */
typedef struct TransferState
{
	Transfer	transfer;
	CURL	   *easy;
	bool		in_use;			/* started and not released */
	bool		running;		/* libcurl has it */
	bool		unreported;		/* ended, and transport_wait() has yet to say so */
	dlist_node	link;			/* in the list of these, or of the unused */

	/* the request, copied */
	Bytes		copy;			/* body and header lines */
	size_t		body_len;
	struct curl_slist headers[HTTP_MAX_HEADERS + OWN_HEADERS];
	size_t		secrets_from;	/* where header lines lie in the copy */
	size_t		secrets_to;

	/* what the handle was last set to, to spare setting it again */
	char	   *url;
	char	   *ca_file;
	char	   *proxy;
	bool		plain;			/* of url: not https */
	char	   *host;			/* of url */
	bool		by_name;		/* of url: its host has to be looked up */
	bool		to_loopback;	/* of url: its host is loopback by name */

	/* limits */
	TransferLimits limits;
	bool		loopback_only;
	size_t		max_body;

	/* progress */
	TransferPhase phase;
	bool		looking_up;		/* a thread of libcurl's may be resolving */
	bool		put_off;		/* until another's look-up has ended */
	dlist_node	lookup_link;	/* in the list of either, if so */
	int			times_sent;		/* > 1: a kept connection was dead */
	bool		redone;			/* by us, after libcurl had given up */
	Usec		due;			/* what our clock waits for; USEC_NEVER */
	pairingheap_node due_node;

	/* the response */
	size_t		header_bytes;	/* of all header blocks together */
	bool		http2;			/* the connection may carry others beside */
	bool		head_complete;	/* the empty line behind the last was seen */
	Bytes		head;
	Bytes		body;

	/* a refusal by one of our callbacks; libcurl's code then is a mere echo */
	TransferEnd problem;		/* TRANSFER_RUNNING: none */
	char		problem_text[128];
	char		error[CURL_ERROR_SIZE];
} TransferState;

/* transport_watch.c: which sockets libcurl waits for, and which are ready */
extern const char *watch_open(int *set);
extern void watch_fetch(void);
extern bool watch_has_next(void);
extern bool watch_next(curl_socket_t *fd, int *how);
extern int	watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
						 void *socket_arg);
extern void watch_own(curl_socket_t fd);
extern void watch_forget(curl_socket_t fd);
extern void watch_find_lost(void);

/* transport_loop.c: the multi handle, clocks and the latch */
extern const char *loop_open(void);
extern void loop_bound(int kept, int total);
extern void loop_check_kept(void);
extern bool loop_add(TransferState *state);
extern void loop_remove(TransferState *state);
extern void loop_set_due(TransferState *state, Usec due);
extern void loop_run_timer(void);
extern bool loop_turn(Usec until);
extern bool loop_was_latched(void);
extern void loop_fail(const char *text);

/* transport.c */
extern void transfer_done(TransferState *state, CURLcode code);
extern void transfer_overdue(TransferState *state);
extern void transfer_resume(TransferState *state);
extern void transfer_connecting(TransferState *state);
extern void transfer_asked(TransferState *state);
extern void transfer_answering(TransferState *state);
extern void transfer_problem(TransferState *state, TransferEnd end,
							 const char *fmt,...) pg_attribute_printf(3, 4);

/* transport_handle.c: easy handles and their options */
extern TransferState *handle_take(void);
extern void handle_give_back(TransferState *state);
extern bool handle_prepare(TransferState *state, const HttpRequest *request);
extern bool handle_set_connect_timeout(TransferState *state, Usec timeout);
extern bool handle_avoid_kept(TransferState *state, bool avoid);
extern void handle_keep(int n);
extern void handle_forget(void);

/* transport_receive.c: callbacks of a transfer, and their memory */
extern bool bytes_reserve(Bytes *bytes, size_t more);
extern void bytes_put(Bytes *bytes, const char *from, size_t len);
extern void bytes_reset(Bytes *bytes);
extern int	receive_permission(void *arg, char *remote_ip, char *local_ip,
							   int remote_port, int local_port);
extern size_t receive_header(char *line, size_t size, size_t count, void *arg);
extern size_t receive_body(char *bytes, size_t size, size_t count, void *arg);

/* transport_fds.c: how many descriptors there may be */
extern bool fds_take(int n);
extern void fds_take_open(void);
extern void fds_give(int n);

/* transport_net.c: sockets and addresses */
extern curl_socket_t net_open_socket(void *arg, curlsocktype purpose,
									 struct curl_sockaddr *address);
extern int	net_close_socket(void *arg, curl_socket_t fd);
extern void net_socket_closed(void);
extern int	net_sockets(void);
extern bool net_host_is_loopback(const char *host);
extern bool net_host_is_literal(const char *host);
extern bool net_address_is_loopback(const char *address);
extern void net_forbid_plain(TransferState *state, const char *address);

/* transport_lookup.c: name look-ups */
extern int	lookup_begin(void *resolver, void *reserved, void *arg);
extern void lookup_end(TransferState *state);
extern void lookup_forget(TransferState *state);
extern void lookup_unblock_signals(void);
extern void lookup_wait(TransferState *state);
extern TransferState *lookup_next_resumed(void);
extern TransferState *lookup_next_fellow(const TransferState *state);
extern int	lookup_unfinished(void);

/* transport_end.c: from libcurl's codes to ours, and words for people */
extern void describe_end(TransferState *state, CURLcode code);
extern void describe_why(Transfer *transfer, const char *fmt,...)
			pg_attribute_printf(2, 3);

#endif							/* LLM_TRANSPORT_IMPL_H */
