/*
 * queue_raw.c
 *	  The yardstick: many requests at once, by libcurl alone.
 *
 * queue_raw URL COUNT CONCURRENCY < BODY
 *
 * POSTs standard input COUNT times, CONCURRENCY at once, over kept connections,
 * with the headers that a provider wants, and throws the answers away. Does as
 * little as a program can: a handle for each of the concurrent requests, whose
 * options are set once, a multi handle and an epoll set. Prints key=value lines:
 * per_second and cpu_us, the processor time of a request in this process. The
 * connections are opened before, by requests that do not count. Build with
 * cc -O2 queue_raw.c -lcurl.
 */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_BODY 65536
#define BATCH 256

static CURLM *multi;
static int	epoll;
static int64_t timer_due = -1;	/* microseconds; -1 = not set */
static long to_start;
static long to_end;

/* Ends the program, saying what failed. */
static void
fail(const char *what)
{
	fprintf(stderr, "queue_raw: %s\n", what);
	exit(1);
}

/* Returns monotonic time in microseconds. */
static int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

/* Returns the processor time of this process in microseconds. */
static int64_t
cpu_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

/* Throws a piece of a response away. */
static size_t
discard(char *bytes, size_t size, size_t count, void *arg)
{
	(void) bytes;
	(void) arg;
	return size * count;
}

/* CURLMOPT_SOCKETFUNCTION; `known` says whether the socket is in the set. */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = fd};

	(void) easy;
	(void) arg;
	if (what == CURL_POLL_REMOVE)
		return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL) < 0 ? -1 : 0;
	event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) |
		(what & CURL_POLL_OUT ? EPOLLOUT : 0);
	if (epoll_ctl(epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
		return -1;
	curl_multi_assign(multi, fd, multi);
	return 0;
}

/* CURLMOPT_TIMERFUNCTION */
static int
on_timer(CURLM *handle, long ms, void *arg)
{
	(void) handle;
	(void) arg;
	timer_due = ms < 0 ? -1 : now_us() + ms * 1000;
	return 0;
}

/* Makes the handle of one of the concurrent requests. */
static CURL *
prepare(const char *url, struct curl_slist *headers, const char *body,
		long size)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		fail("out of memory");
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "queue_raw/0.1.0");
	curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, size);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
	return easy;
}

/* Starts the next request, if there is one left, by a handle that is free. */
static void
start(CURL *easy)
{
	if (to_start == 0)
		return;
	to_start--;
	if (curl_multi_add_handle(multi, easy) != CURLM_OK)
		fail("curl_multi_add_handle");
}

/* Takes a request that has ended, and starts the next in its place. */
static void
take_ended(const CURLMsg *message)
{
	CURL	   *easy = message->easy_handle;
	CURLcode	result = message->data.result;
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (result != CURLE_OK || status != 200)
	{
		fprintf(stderr, "queue_raw: %s, status %ld\n",
				curl_easy_strerror(result), status);
		exit(1);
	}
	to_end--;
	curl_multi_remove_handle(multi, easy);
	start(easy);
}

/* Has libcurl act on a socket, or on its timer. */
static void
act(curl_socket_t fd, uint32_t events)
{
	int			how = (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
		(events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? CURL_CSELECT_IN : 0);
	int			left;
	CURLMsg    *message;

	if (curl_multi_socket_action(multi, fd, how, &left) != CURLM_OK)
		fail("curl_multi_socket_action");
	while ((message = curl_multi_info_read(multi, &left)) != NULL)
		take_ended(message);
}

/* Returns for how long to wait for sockets, in milliseconds, or -1. */
static int
patience(void)
{
	int64_t		wait;

	if (timer_due < 0)
		return -1;
	wait = timer_due - now_us();
	return wait > 0 ? (int) ((wait + 999) / 1000) : 0;
}

/* Does what is due, or waits until something is. */
static void
turn(void)
{
	struct epoll_event events[BATCH];
	int			n;

	if (patience() == 0)
	{
		timer_due = -1;
		act(CURL_SOCKET_TIMEOUT, 0);
		return;
	}
	n = epoll_wait(epoll, events, BATCH, patience());
	for (int i = 0; i < n; i++)
		act(events[i].data.fd, events[i].events);
}

/* Makes so many requests by these handles. */
static void
run(CURL **handles, long concurrency, long count)
{
	to_start = to_end = count;
	for (long i = 0; i < concurrency; i++)
		start(handles[i]);
	while (to_end > 0)
		turn();
}

/* Opens the set and the multi handle. */
static void
open_loop(long concurrency)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	epoll = epoll_create1(0);
	if (epoll < 0 || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
		(multi = curl_multi_init()) == NULL)
		fail("could not begin");
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, concurrency);
}

int
main(int argc, char **argv)
{
	long		count = argc == 4 ? atol(argv[2]) : 0;
	long		concurrency = argc == 4 ? atol(argv[3]) : 0;
	static char body[MAX_BODY];
	size_t		size;
	struct curl_slist *headers = NULL;
	CURL	  **handles;
	int64_t		began;
	int64_t		cpu_before;

	if (count < 1 || concurrency < 1)
	{
		fprintf(stderr, "usage: queue_raw URL COUNT CONCURRENCY < BODY\n");
		return 2;
	}
	size = fread(body, 1, sizeof(body), stdin);
	open_loop(concurrency);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, "Authorization: Bearer key");
	handles = calloc(concurrency, sizeof(CURL *));
	if (handles == NULL)
		fail("out of memory");
	for (long i = 0; i < concurrency; i++)
		handles[i] = prepare(argv[1], headers, body, (long) size);
	run(handles, concurrency, concurrency);
	began = now_us();
	cpu_before = cpu_us();
	run(handles, concurrency, count);
	printf("per_second=%.0f\ncpu_us=%.1f\n", count * 1e6 / (now_us() - began),
		   (double) (cpu_us() - cpu_before) / count);
	return 0;
}
