/*
 * transport.c
 *	  HTTP requests of this process, any number at once: the transfers.
 *
 * The contract with libcurl, kept by all transport_*.c:
 *
 * - There is one multi handle a process, made on first use. That is after the
 *	 fork: neither libcurl nor a connection of its is ever inherited.
 * - libcurl's callbacks store and return. Nothing in them raises, palloc's,
 *	 serves interrupts or calls libcurl (but to ask whose a handle is); what
 *	 they keep is malloc's memory. A callback that refuses writes down why
 *	 (transfer_problem()): libcurl then only reports that somebody refused.
 * - Nothing waits but loop_turn(), and nothing in it waits for longer than
 *	 until the process latch is set. Between two turns interrupts are served,
 *	 and a turn is one socket, so a cancel takes effect at once whatever
 *	 libcurl is at. transport_wait() may throw for that reason: all that
 *	 transfers hold is reachable from here and their owners release them.
 * - NOSIGNAL and QUICK_EXIT are set on each handle, so that giving up on a
 *	 transfer never waits for a resolver. What is left behind is a thread: see
 *	 transport_lookup.c, which bounds them.
 * - CAINFO is set and CAPATH is not, because only then does libcurl keep the
 *	 parsed store across connections.
 * - libcurl keeps connections and finds one that fits (host, port, TLS
 *	 settings with the CA file, proxy) by itself. When a kept one turns out to
 *	 be dead before a byte of an answer came, libcurl mostly sends the request
 *	 again on another. Where it does not (7.88: the server resets while a large
 *	 body is on its way, and every sixth time in a handle's life, because its
 *	 counter is never reset) we do, once and on a new connection; likewise for
 *	 a request that broke before all of it was sent. Either way it is nobody's
 *	 failure and shown in Transfer.connects.
 * - libcurl's only clock in use is the one for connecting, because it divides
 *	 the time among a host's addresses. First byte and total are ours: libcurl
 *	 has no notion of the former, and forgets the latter's time when it sends a
 *	 request again (seen in 7.88).
 *
 * Words: a *transfer* is one HTTP exchange as its owner sees it; its *state*
 * is that with libcurl's easy handle and buffers, kept for the next transfer;
 * it is *running* while libcurl has it, and *unreported* from its end until
 * transport_wait() returned it.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "transport_impl.h"

/* What a server takes of a request at first, unless it says otherwise. */
#define HTTP2_WINDOW 65535

/* How often an answer is looked at that libcurl may not see the end of. */
#define LOOK_INTERVAL (20 * USEC_MSEC)

static dlist_head unreported = DLIST_STATIC_INIT(unreported);
static int	in_use;

static bool begin(TransferState *state, const HttpRequest *request);
static void end(TransferState *state);
static void watch_answer(TransferState *state);
static Usec total_due(const TransferState *state);

/* Brings a state to where a transfer begins. */
static void
reset(TransferState *state, const TransferLimits *limits, void *owner)
{
	Transfer   *transfer = &state->transfer;

	MemSet(&transfer->response, 0, sizeof(transfer->response));
	transfer->owner = owner;
	transfer->end = TRANSFER_RUNNING;
	transfer->why[0] = '\0';
	transfer->started = clock_now();
	transfer->finished = 0;
	transfer->connects = 0;
	transfer->state = state;
	state->limits = *limits;
	state->phase = PHASE_CONNECTING;
	state->looking_up = false;
	state->put_off = false;
	state->times_sent = 0;
	state->redone = false;
	state->header_bytes = 0;
	state->http2 = false;
	state->head_complete = false;
	state->problem = TRANSFER_RUNNING;
	state->error[0] = '\0';
	state->in_use = true;
	in_use++;
}

/* Does as much of a request as can be done without waiting. */
Transfer *
transport_start(const HttpRequest *request, const TransferLimits *limits,
				void *owner)
{
	const char *problem = loop_open();
	TransferState *state = handle_take();

	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while making a request handle.")));
	reset(state, limits, owner);
	if (problem)
		transfer_problem(state, TRANSFER_LOCAL, "%s", problem);
	if (problem || !begin(state, request))
	{
		describe_end(state, CURLE_OUT_OF_MEMORY);
		end(state);
	}
	return &state->transfer;
}

/* Gives a transfer to libcurl. False when it cannot even be begun. */
static bool
begin(TransferState *state, const HttpRequest *request)
{
	if (!handle_prepare(state, request))
		return false;
	loop_check_kept();
	if (!loop_add(state))
		return false;
	loop_set_due(state, total_due(state));
	loop_run_timer();
	return true;
}

/* Serves interrupts before each turn, so it may throw. */
Transfer *
transport_wait(Usec until, bool latch)
{
	const char *problem = loop_open();

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not wait for requests: %s", problem)));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!dlist_is_empty(&unreported))
		{
			TransferState *state =
				dlist_container(TransferState, link,
								dlist_pop_head_node(&unreported));

			state->unreported = false;
			return &state->transfer;
		}
		if (!loop_turn(until) || (loop_was_latched() && latch))
			return NULL;
	}
}

/* Never throws, never waits. */
void
transport_release(Transfer *transfer)
{
	TransferState *state = transfer ? transfer->state : NULL;

	if (state == NULL || !state->in_use)
		return;
	loop_set_due(state, USEC_NEVER);
	lookup_forget(state);
	loop_remove(state);
	if (state->redone)
		handle_avoid_kept(state, false);
	if (state->unreported)
		dlist_delete(&state->link);
	state->unreported = false;
	state->in_use = false;
	in_use--;
	handle_give_back(state);
}

/* Says what this process holds. */
void
transport_counts(TransportCounts *counts)
{
	counts->running = in_use;
	counts->sockets = net_sockets();
	counts->unfinished_lookups = lookup_unfinished();
}

/* Notes why a callback refuses; the first reason counts. Never throws. */
void
transfer_problem(TransferState *state, TransferEnd problem,
				 const char *fmt,...)
{
	va_list		args;

	if (state->problem != TRANSFER_RUNNING)
		return;
	state->problem = problem;
	va_start(args, fmt);
	vsnprintf(state->problem_text, sizeof(state->problem_text), fmt, args);
	va_end(args);
}

/* Returns when a transfer has to have ended. */
static Usec
total_due(const TransferState *state)
{
	return state->transfer.started + state->limits.timeout;
}

/* The connection is gone, or not yet there: only the total counts. */
void
transfer_connecting(TransferState *state)
{
	state->phase = PHASE_CONNECTING;
	loop_set_due(state, total_due(state));
}

/* The connection stands and the request goes out: the first byte's clock. */
void
transfer_asked(TransferState *state)
{
	Usec		first_byte = state->limits.first_byte_timeout;

	state->phase = PHASE_ASKED;
	state->times_sent++;
	if (first_byte > 0)
		loop_set_due(state, Min(total_due(state), clock_now() + first_byte));
}

/* A byte of an answer is here. */
void
transfer_answering(TransferState *state)
{
	if (state->phase == PHASE_ANSWERING)
		return;
	state->phase = PHASE_ANSWERING;
	watch_answer(state);
}

/*
 * Sets the clock of a transfer that is being answered. An HTTP/2 server may be
 * done before it has taken all of a request that is larger than its window,
 * and libcurl does not notice: so we look from time to time.
 */
static void
watch_answer(TransferState *state)
{
	Usec		due = total_due(state);

	if (state->http2 && state->body_len > HTTP2_WINDOW)
		due = Min(due, clock_now() + LOOK_INTERVAL);
	loop_set_due(state, due);
}

/*
 * Says whether a whole response is here, whatever libcurl thinks of it: it is
 * not content when a server answers before it has read the request (7.88 then
 * waits for ever over HTTP/2, or speaks of a partial file).
 */
static bool
has_whole_response(TransferState *state)
{
	long		status = 0;
	curl_off_t	announced = -1;
	curl_off_t	received = 0;

	if (!state->head_complete || state->problem != TRANSFER_RUNNING)
		return false;
	curl_easy_getinfo(state->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(state->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T,
					  &announced);
	curl_easy_getinfo(state->easy, CURLINFO_SIZE_DOWNLOAD_T, &received);
	return status >= 200 && announced == received;
}

/* A clock of ours has rung: ends the transfer if its time is up. */
void
transfer_overdue(TransferState *state)
{
	const TransferLimits *limits = &state->limits;
	Transfer   *transfer = &state->transfer;
	Usec		now = clock_now();

	if (has_whole_response(state))
		transfer_done(state, CURLE_OK);
	else if (now >= total_due(state))
	{
		transfer->end = TRANSFER_TIMEOUT;
		describe_why(transfer, "no whole answer after " INT64_FORMAT " ms",
					 limits->timeout / USEC_MSEC);
		end(state);
	}
	else if (state->put_off)
	{
		describe_end(state, CURLE_OPERATION_TIMEDOUT);
		end(state);
	}
	else if (state->phase == PHASE_ASKED)
	{
		transfer->end = TRANSFER_FIRST_BYTE_TIMEOUT;
		describe_why(transfer, "no byte of an answer after " INT64_FORMAT " ms",
					 limits->first_byte_timeout / USEC_MSEC);
		end(state);
	}
	else
		watch_answer(state);
}

/* Hands the response to the owner. */
static void
fill_response(TransferState *state)
{
	HttpResponse *response = &state->transfer.response;
	long		status = 0;

	curl_easy_getinfo(state->easy, CURLINFO_RESPONSE_CODE, &status);
	response->status = (int) status;
	response->body = state->body.len ? state->body.data : "";
	response->body_len = state->body.len;
	response->headers = state->head.len ? state->head.data : "";
	response->headers_len = state->head.len;
}

/* Says whether a code means that a connection, or an HTTP/2 stream, broke. */
static bool
is_break(CURLcode code)
{
	return code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR ||
		code == CURLE_GOT_NOTHING || code == CURLE_PARTIAL_FILE ||
		code == CURLE_HTTP2 || code == CURLE_HTTP2_STREAM;
}

/*
 * Says whether a request failed without anybody having a chance to answer it:
 * the kept connection that it was sent on was dead or about to be, or it could
 * not be sent to its end (a server that answers early and hangs up may lose
 * its answer that way).
 */
static bool
was_unlucky(TransferState *state, CURLcode code)
{
	long		connects = 0;
	curl_off_t	sent = 0;

	if (!is_break(code) || state->phase != PHASE_ASKED ||
		state->problem != TRANSFER_RUNNING)
		return false;
	curl_easy_getinfo(state->easy, CURLINFO_NUM_CONNECTS, &connects);
	curl_easy_getinfo(state->easy, CURLINFO_SIZE_UPLOAD_T, &sent);
	return connects == 0 || sent < (curl_off_t) state->body_len;
}

/* Sends a request again, over a new connection. False when that cannot be. */
static bool
redo(TransferState *state)
{
	if (state->redone || !handle_avoid_kept(state, true))
		return false;
	state->redone = true;
	state->error[0] = '\0';
	transfer_connecting(state);
	loop_remove(state);
	return loop_add(state);
}

/* Returns when the time for connecting is over. */
static Usec
connect_due(const TransferState *state)
{
	return Min(total_due(state),
			   state->transfer.started + state->limits.connect_timeout);
}

/* Takes a transfer from libcurl until another's look-up has ended. */
static void
put_off(TransferState *state)
{
	loop_remove(state);
	loop_set_due(state, connect_due(state));
	lookup_wait(state);
}

/* Goes on with a transfer that was put off. */
void
transfer_resume(TransferState *state)
{
	state->error[0] = '\0';
	if (handle_set_connect_timeout(state, connect_due(state) - clock_now()) &&
		loop_add(state))
	{
		loop_set_due(state, total_due(state));
		return;
	}
	describe_end(state, CURLE_OUT_OF_MEMORY);
	end(state);
}

/* A name does not resolve: ends those that were waiting for it, too. */
static void
fail_fellows(TransferState *state, CURLcode code)
{
	TransferState *fellow;

	lookup_end(state);
	while ((fellow = lookup_next_fellow(state)) != NULL)
	{
		strlcpy(fellow->error, state->error, sizeof(fellow->error));
		describe_end(fellow, code);
		end(fellow);
	}
}

/* libcurl has finished a transfer, or has all that it can get. */
void
transfer_done(TransferState *state, CURLcode code)
{
	if (state->put_off)
	{
		put_off(state);
		return;
	}
	if (was_unlucky(state, code) && redo(state))
		return;
	if (state->looking_up && (code == CURLE_COULDNT_RESOLVE_HOST ||
							  code == CURLE_COULDNT_RESOLVE_PROXY))
		fail_fellows(state, code);
	if (is_break(code) && has_whole_response(state))
		code = CURLE_OK;
	describe_end(state, code);
	if (state->transfer.end == TRANSFER_OK)
		fill_response(state);
	end(state);
}

/* Takes an ended transfer from libcurl and puts it up for its owner. */
static void
end(TransferState *state)
{
	Transfer   *transfer = &state->transfer;
	long		connects = 0;

	if (state->running)
		curl_easy_getinfo(state->easy, CURLINFO_NUM_CONNECTS, &connects);
	transfer->connects = state->times_sent > 1 ? 2 : (int) connects;
	transfer->finished = clock_now();
	lookup_forget(state);
	loop_set_due(state, USEC_NEVER);
	loop_remove(state);
	dlist_push_tail(&unreported, &state->link);
	state->unreported = true;
}
