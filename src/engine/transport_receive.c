/*
 * transport_receive.c
 *	  What libcurl hands to a transfer: its turn to send, headers, body.
 *
 * Callbacks: they copy bytes into malloc's memory, within bounds, note a
 * refusal, and return.
 */
#include "postgres.h"

#include "transport_impl.h"

/* What all header blocks of a response may add up to, 1xx included. */
#define MAX_HEADER_BYTES (256 * 1024)

/* A buffer larger than this does not outlive its request. */
#define MAX_KEPT_BUFFER (64 * 1024)

/* Makes room for `more` bytes and a NUL behind them. */
bool
bytes_reserve(Bytes *bytes, size_t more)
{
	size_t		need = bytes->len + more + 1;
	size_t		size = Max(bytes->size, 4096);
	char	   *data;

	if (need <= bytes->size)
		return true;
	while (size < need)
		size *= 2;
	data = realloc(bytes->data, size);
	if (data == NULL)
		return false;
	bytes->data = data;
	bytes->size = size;
	return true;
}

/* Appends, and keeps a NUL behind. Needs bytes_reserve() before. */
void
bytes_put(Bytes *bytes, const char *from, size_t len)
{
	memcpy(bytes->data + bytes->len, from, len);
	bytes->len += len;
	bytes->data[bytes->len] = '\0';
}

/* Empties a buffer, and frees it unless it is small enough to be kept. */
void
bytes_reset(Bytes *bytes)
{
	bytes->len = 0;
	if (bytes->size <= MAX_KEPT_BUFFER)
		return;
	free(bytes->data);
	bytes->data = NULL;
	bytes->size = 0;
}

/* CURLOPT_PREREQFUNCTION: connected, the request goes out next. */
int
receive_permission(void *arg, char *remote_ip, char *local_ip, int remote_port,
				   int local_port)
{
	TransferState *state = arg;

	(void) local_ip;
	(void) remote_port;
	(void) local_port;
	lookup_end(state);
	if (state->loopback_only && !net_address_is_loopback(remote_ip))
	{
		net_forbid_plain(state, remote_ip);
		return CURL_PREREQFUNC_ABORT;
	}
	transfer_asked(state);
	return CURL_PREREQFUNC_OK;
}

/*
 * CURLOPT_HEADERFUNCTION: one line. Keeps the lines of the last block only,
 * without the status line that begins it and the empty one that ends it.
 */
size_t
receive_header(char *line, size_t size, size_t count, void *arg)
{
	TransferState *state = arg;
	size_t		len = size * count;

	state->header_bytes += len;
	if (state->header_bytes > MAX_HEADER_BYTES)
	{
		transfer_problem(state, TRANSFER_TOO_LARGE,
						 "response headers larger than %d kB",
						 MAX_HEADER_BYTES / 1024);
		return 0;
	}
	if (len > 5 && memcmp(line, "HTTP/", 5) == 0)
	{
		state->head.len = 0;
		state->head_complete = false;
		state->http2 = line[5] > '1';
		transfer_answering(state);
	}
	else if (line[0] == '\r' || line[0] == '\n')
		state->head_complete = true;
	else
	{
		if (!bytes_reserve(&state->head, len))
		{
			transfer_problem(state, TRANSFER_LOCAL, "out of memory");
			return 0;
		}
		bytes_put(&state->head, line, len);
	}
	return len;
}

/* CURLOPT_WRITEFUNCTION: a piece of the body, decoded. */
size_t
receive_body(char *bytes, size_t size, size_t count, void *arg)
{
	TransferState *state = arg;
	size_t		len = size * count;

	if (len > state->max_body - state->body.len)
	{
		transfer_problem(state, TRANSFER_TOO_LARGE,
						 "response larger than %d kB",
						 (int) (state->max_body / 1024));
		return 0;
	}
	if (!bytes_reserve(&state->body, len))
	{
		transfer_problem(state, TRANSFER_LOCAL, "out of memory");
		return 0;
	}
	bytes_put(&state->body, bytes, len);
	return len;
}
