/*
 * transport_end.c
 *	  How a transfer ended: from libcurl's codes to ours, and in words.
 *
 * The words go into traces and logs. They are made of our own texts, numbers,
 * and libcurl's error text, which names hosts and ports but repeats neither
 * URLs nor headers; whatever is not printable ASCII in it is masked, because
 * a TLS library may quote what a server sent.
 */
#include "postgres.h"

#include <ctype.h>
#include <errno.h>

#include "settings.h"
#include "transport_impl.h"

typedef struct EndRule
{
	CURLcode	code;
	TransferEnd early;			/* when no connection stood yet */
	TransferEnd late;			/* when one did */
	const char *text;			/* NULL: libcurl's own */
} EndRule;

/* What is not listed is no connection before, a broken one after. */
static const EndRule end_rules[] = {
	{CURLE_UNSUPPORTED_PROTOCOL, TRANSFER_LOCAL, TRANSFER_BAD_RESPONSE, NULL},
	{CURLE_FAILED_INIT, TRANSFER_LOCAL, TRANSFER_LOCAL, NULL},
	{CURLE_URL_MALFORMAT, TRANSFER_LOCAL, TRANSFER_LOCAL, "malformed URL"},
	{CURLE_COULDNT_RESOLVE_HOST, TRANSFER_NO_NAME, TRANSFER_NO_NAME, NULL},
	{CURLE_WEIRD_SERVER_REPLY, TRANSFER_NO_CONNECTION, TRANSFER_BAD_RESPONSE, NULL},
	{CURLE_BAD_CONTENT_ENCODING, TRANSFER_NO_CONNECTION, TRANSFER_BAD_RESPONSE, NULL},
	{CURLE_WRITE_ERROR, TRANSFER_NO_CONNECTION, TRANSFER_BAD_RESPONSE, NULL},
	{CURLE_GOT_NOTHING, TRANSFER_NO_CONNECTION, TRANSFER_BROKEN,
	"connection closed without an answer"},
	{CURLE_SSL_CONNECT_ERROR, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_PEER_FAILED_VERIFICATION, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_SSL_CERTPROBLEM, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_SSL_CIPHER, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_SSL_ISSUER_ERROR, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_SSL_PINNEDPUBKEYNOTMATCH, TRANSFER_NO_TLS, TRANSFER_NO_TLS, NULL},
	{CURLE_SSL_CACERT_BADFILE, TRANSFER_LOCAL, TRANSFER_LOCAL, NULL},
	{CURLE_SSL_ENGINE_INITFAILED, TRANSFER_LOCAL, TRANSFER_LOCAL, NULL},
};

typedef struct ErrnoText
{
	int			code;
	const char *text;
} ErrnoText;

/* strerror() would speak the server's language; traces should not. */
static const ErrnoText errno_texts[] = {
	{ECONNREFUSED, "connection refused"},
	{ECONNRESET, "connection reset"},
	{EPIPE, "connection reset"},
	{ETIMEDOUT, "connection timed out"},
	{ENETUNREACH, "network is unreachable"},
	{EHOSTUNREACH, "host is unreachable"},
	{EADDRNOTAVAIL, "no local address available"},
	{EACCES, "connecting is not permitted"},
	{EPERM, "connecting is not permitted"},
};

/*
 * Writes why a transfer failed, cut to what fits. Begins with a small letter,
 * as messages do here, unless that is an acronym's.
 */
void
describe_why(Transfer *transfer, const char *fmt,...)
{
	char	   *why = transfer->why;
	va_list		args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(transfer->why), fmt, args);
	va_end(args);
	for (char *c = why; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			*c = '?';
	if (islower((unsigned char) why[1]))
		why[0] = pg_tolower((unsigned char) why[0]);
}

/* Returns the words for the errno of a connection, or NULL. */
static const char *
errno_text(CURL *easy)
{
	long		code = 0;

	curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &code);
	for (size_t i = 0; i < lengthof(errno_texts); i++)
		if (errno_texts[i].code == code)
			return errno_texts[i].text;
	return NULL;
}

/*
 * Says whether a code stands for an errno, rather than for what libcurl itself
 * found wrong; the errno may be an old one then.
 */
static bool
is_system_error(const TransferState *state, CURLcode code)
{
	return code == CURLE_COULDNT_CONNECT ||
		strncmp(state->error, "Recv failure:", 13) == 0 ||
		strncmp(state->error, "Send failure:", 13) == 0;
}

/* Returns what a code means. */
static const EndRule *
find_rule(CURLcode code)
{
	static const EndRule others = {
		CURL_LAST, TRANSFER_NO_CONNECTION, TRANSFER_BROKEN, NULL
	};

	for (size_t i = 0; i < lengthof(end_rules); i++)
		if (end_rules[i].code == code)
			return &end_rules[i];
	return &others;
}

/* Returns libcurl's words for what went wrong with this transfer. */
static const char *
curl_text(TransferState *state, CURLcode code)
{
	return state->error[0] ? state->error : curl_easy_strerror(code);
}

/*
 * Says whether libcurl gave up on an endless header line. Before 8.6 it calls
 * that being out of memory, which it hardly ever is.
 */
static bool
is_long_line(const TransferState *state, CURLcode code)
{
#if LIBCURL_VERSION_NUM >= 0x080600
	if (code == CURLE_TOO_LARGE)
		return true;
#endif
	return code == CURLE_OUT_OF_MEMORY && !state->head_complete &&
		state->phase != PHASE_CONNECTING;
}

/* Describes a code of libcurl's that means failure. */
static void
describe_failure(TransferState *state, CURLcode code)
{
	bool		connected = state->phase != PHASE_CONNECTING;
	const EndRule *rule = find_rule(code);
	const char *text = rule->text;

	state->transfer.end = connected ? rule->late : rule->early;
	if (text == NULL && is_system_error(state, code))
		text = errno_text(state->easy);
	describe_why(&state->transfer, "%s", text ? text : curl_text(state, code));
}

/*
 * Says whether somebody at the other end was there. A refused connection was
 * refused by somebody, unless that is the proxy of llm_failover.proxy.
 */
static bool
was_reached(TransferState *state)
{
	long		code = 0;

	if (state->phase != PHASE_CONNECTING ||
		state->transfer.end == TRANSFER_OK ||
		state->transfer.end == TRANSFER_NO_TLS)
		return true;
	if (state->transfer.end != TRANSFER_NO_CONNECTION || llm_proxy[0])
		return false;
	curl_easy_getinfo(state->easy, CURLINFO_OS_ERRNO, &code);
	return code == ECONNREFUSED || code == ECONNRESET;
}

/* Sets `end`, and `why` unless all went well, from libcurl's verdict. */
static void
judge_end(TransferState *state, CURLcode code)
{
	Transfer   *transfer = &state->transfer;

	if (code == CURLE_OK && state->head_complete)
		transfer->end = TRANSFER_OK;
	else if (code == CURLE_OK)
	{
		/* libcurl is content with half a header and no body */
		transfer->end = TRANSFER_BROKEN;
		describe_why(transfer, "connection closed within the headers");
	}
	else if (state->problem != TRANSFER_RUNNING)
	{
		transfer->end = state->problem;
		describe_why(transfer, "%s", state->problem_text);
	}
	else if (is_long_line(state, code))
	{
		transfer->end = TRANSFER_TOO_LARGE;
		describe_why(transfer, "response header too long");
	}
	else if (code == CURLE_OUT_OF_MEMORY)
	{
		transfer->end = TRANSFER_LOCAL;
		describe_why(transfer, "out of memory");
	}
	else if (code == CURLE_OPERATION_TIMEDOUT)
	{
		/* the only clock that is libcurl's; the kernel may give up before */
		Usec		waited = Min(state->limits.connect_timeout,
								 clock_now() - transfer->started);

		transfer->end = TRANSFER_CONNECT_TIMEOUT;
		describe_why(transfer, "no connection after " INT64_FORMAT " ms",
					 waited / USEC_MSEC);
	}
	else
		describe_failure(state, code);
}

/* Sets all that tells how a transfer ended. */
void
describe_end(TransferState *state, CURLcode code)
{
	judge_end(state, code);
	state->transfer.reached = was_reached(state);
}
