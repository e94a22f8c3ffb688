/*
 * queue_server.c
 *	  A provider that costs next to nothing: answers OpenAI's chat completions
 *	  after a delay, over any number of kept connections, on one core.
 *
 * queue_server DELAY_MS MARKER
 *
 * Listens on a free port of 127.0.0.1 and prints it. A POST is answered DELAY_MS
 * after its last byte was read, and never if its body contains MARKER. GET
 * /count tells what has come, GET /body the body of the last POST: what a raw
 * loop has to send to do the same work.
 *
 * It speaks as much HTTP as libcurl needs: Content-Length, one request at a time
 * on a connection. The delay is the same for all, so those who wait are a queue.
 * Build with cc -O2 queue_server.c.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 16384	/* descriptors are below this */
#define MAX_REQUEST 65536
#define BATCH 256

typedef struct Connection
{
	char	   *input;			/* MAX_REQUEST bytes, made on first use */
	size_t		len;
	uint32_t	generation;		/* of this descriptor; counts its uses */
} Connection;

/* A connection that waits for its answer. */
typedef struct Waiting
{
	int64_t		due;			/* microseconds */
	int			fd;
	uint32_t	generation;
} Waiting;

static Connection connections[MAX_CONNECTIONS];
static Waiting waiting[MAX_CONNECTIONS];	/* a ring */
static size_t first_waiting;
static size_t nwaiting;

static int	epoll;
static int	listener;
static int64_t delay;			/* microseconds */
static const char *marker;

static char answer[2048];
static size_t answer_len;
static char last_body[MAX_REQUEST];
static size_t last_body_len;
static long requests;
static long hanging;
static long opened;

/* As OpenAI sends it. */
static const char answer_body[] =
	"{\"id\":\"chatcmpl-9\",\"object\":\"chat.completion\","
	"\"created\":1760000000,\"model\":\"m\",\"choices\":[{\"index\":0,"
	"\"message\":{\"role\":\"assistant\",\"content\":\"Air scatters the short, "
	"blue waves of sunlight more than the long, red ones.\",\"refusal\":null},"
	"\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":"
	"{\"prompt_tokens\":19,\"completion_tokens\":17,\"total_tokens\":36,"
	"\"prompt_tokens_details\":{\"cached_tokens\":0},"
	"\"completion_tokens_details\":{\"reasoning_tokens\":0}},"
	"\"system_fingerprint\":\"fp_1\"}";

/* Ends the program, saying what failed. */
static void
fail(const char *what)
{
	perror(what);
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

static void
hang_up(int fd)
{
	connections[fd].generation++;
	connections[fd].len = 0;
	close(fd);
}

/* Sends what fits into an idle socket's buffer by far. */
static void
send_all(int fd, const char *bytes, size_t len)
{
	if (send(fd, bytes, len, MSG_NOSIGNAL) != (ssize_t) len)
		hang_up(fd);
}

/* Answers a GET. */
static void
tell(int fd, const char *body, size_t len)
{
	static char response[MAX_REQUEST + 256];
	int			head = sprintf(response, "HTTP/1.1 200 OK\r\n"
							   "Content-Length: %zu\r\n\r\n", len);

	memcpy(response + head, body, len);
	send_all(fd, response, head + len);
}

static void
tell_count(int fd)
{
	char		text[128];

	tell(fd, text, sprintf(text, "requests=%ld hanging=%ld connections=%ld\n",
						   requests, hanging, opened));
}

/* Answers a POST, at once or in time. */
static void
take_post(int fd, const char *body, size_t len)
{
	memcpy(last_body, body, len);
	last_body_len = len;
	requests++;
	if (memmem(body, len, marker, strlen(marker)))
		hanging++;
	else if (delay == 0)
		send_all(fd, answer, answer_len);
	else if (nwaiting == MAX_CONNECTIONS)
		hang_up(fd);
	else
		waiting[(first_waiting + nwaiting++) % MAX_CONNECTIONS] =
			(Waiting) {now_us() + delay, fd, connections[fd].generation};
}

/* Returns the length of a request's body by its head. */
static size_t
content_length(const char *head)
{
	const char *found = strcasestr(head, "\r\nContent-Length:");

	return found ? strtoul(found + 17, NULL, 10) : 0;
}

/* Answers the request that has been read, if it is whole. */
static void
take_request(int fd, Connection *connection)
{
	char	   *input = connection->input;
	char	   *end;
	size_t		head;
	size_t		body;

	input[connection->len] = '\0';
	end = strstr(input, "\r\n\r\n");
	if (end == NULL)
		return;
	head = end + 4 - input;
	body = content_length(input);
	if (connection->len < head + body)
		return;
	connection->len = 0;
	if (strncmp(input, "POST ", 5) == 0)
		take_post(fd, input + head, body);
	else if (strncmp(input, "GET /body ", 10) == 0)
		tell(fd, last_body, last_body_len);
	else
		tell_count(fd);
}

/* Reads what has come over a connection. */
static void
read_from(int fd)
{
	Connection *connection = &connections[fd];
	ssize_t		n;

	if (connection->input == NULL &&
		(connection->input = malloc(MAX_REQUEST)) == NULL)
		fail("malloc");
	n = recv(fd, connection->input + connection->len,
			 MAX_REQUEST - 1 - connection->len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
	{
		hang_up(fd);
		return;
	}
	connection->len += n;
	take_request(fd, connection);
}

/* Accepts all that wait to be. */
static void
accept_all(void)
{
	int			fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
	{
		struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
		int			on = 1;

		if (fd >= MAX_CONNECTIONS)
		{
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
			fail("epoll_ctl");
		opened++;
	}
}

/*
 * Answers all whose time has come. Returns for how long nothing more is due, in
 * milliseconds, or -1.
 */
static int
answer_due(void)
{
	int64_t		now = nwaiting > 0 ? now_us() : 0;

	while (nwaiting > 0)
	{
		Waiting    *next = &waiting[first_waiting];

		if (next->due > now)
			return (int) ((next->due - now + 999) / 1000);
		first_waiting = (first_waiting + 1) % MAX_CONNECTIONS;
		nwaiting--;
		if (connections[next->fd].generation == next->generation)
			send_all(next->fd, answer, answer_len);
	}
	return -1;
}

/* Listens on a free port and says which. */
static void
listen_somewhere(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	size = sizeof(address);
	struct epoll_event event = {.events = EPOLLIN};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	epoll = epoll_create1(0);
	event.data.fd = listener;
	if (listener < 0 || epoll < 0 ||
		bind(listener, (struct sockaddr *) &address, size) < 0 ||
		listen(listener, 4096) < 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) < 0 ||
		epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
		fail("listen");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
}

/* Lets this process have as many descriptors as it may. */
static void
raise_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int
main(int argc, char **argv)
{
	struct epoll_event events[BATCH];

	if (argc != 3)
	{
		fprintf(stderr, "usage: queue_server DELAY_MS MARKER\n");
		return 2;
	}
	delay = atol(argv[1]) * 1000;
	marker = argv[2];
	answer_len = sprintf(answer, "HTTP/1.1 200 OK\r\n"
						 "Content-Type: application/json\r\n"
						 "Content-Length: %zu\r\n\r\n%s",
						 strlen(answer_body), answer_body);
	raise_limit();
	listen_somewhere();
	for (;;)
	{
		int			n = epoll_wait(epoll, events, BATCH, answer_due());

		for (int i = 0; i < n; i++)
		{
			if (events[i].data.fd == listener)
				accept_all();
			else
				read_from(events[i].data.fd);
		}
	}
}
