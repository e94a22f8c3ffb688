/*
 * transport_handle.c
 *	  Easy handles: their options, and the few that are kept.
 *
 * What never changes is set once, when a handle is made; what rarely changes
 * (URL, CA file, proxy) when it differs from the last time; the rest for each
 * request.
 */
#include "postgres.h"

#include <unistd.h>

#include "settings.h"
#include "transport_impl.h"

/* Unused handles beyond this are freed, unless more are needed. */
#define MAX_UNUSED_HANDLES 16

/*
 * For how long libcurl believes what it read from the CA file. Reading the
 * system's takes some 30 ms, so not each time; but a rotated file must count
 * in a process that lives for months.
 */
#define CA_CACHE_SECONDS 300

typedef struct FixedOption
{
	CURLoption	option;
	long		value;
} FixedOption;

/* What each handle is set to, once, or is not used at all. */
static const FixedOption needed_options[] = {
	{CURLOPT_NOSIGNAL, 1},
	{CURLOPT_QUICK_EXIT, 1},
	{CURLOPT_POST, 1},
	{CURLOPT_FOLLOWLOCATION, 0},
	{CURLOPT_NETRC, CURL_NETRC_IGNORED},
	{CURLOPT_HTTP09_ALLOWED, 0},
	{CURLOPT_SUPPRESS_CONNECT_HEADERS, 1},
	{CURLOPT_SSL_VERIFYPEER, 1},
	{CURLOPT_SSL_VERIFYHOST, 2},
	{CURLOPT_TCP_NODELAY, 1},
	{CURLOPT_TCP_KEEPALIVE, 1},
};

/* What a libcurl may have been built without. */
static const FixedOption wished_options[] = {
	{CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS},
	{CURLOPT_PROXY_SSL_VERIFYPEER, 1},
	{CURLOPT_PROXY_SSL_VERIFYHOST, 2},
	{CURLOPT_CA_CACHE_TIMEOUT, CA_CACHE_SECONDS},
};

/* Where systems keep their CA file, if libcurl was built without knowing. */
static const char *const ca_files[] = {
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
};

static dlist_head unused = DLIST_STATIC_INIT(unused);
static int	nunused;
static int	max_unused = MAX_UNUSED_HANDLES;

static bool set_fixed_options(TransferState *state);

/* ---- Handles ---- */

/* Frees a handle with all that belongs to it. */
static void
handle_free(TransferState *state)
{
	curl_easy_cleanup(state->easy);
	free(state->copy.data);
	free(state->head.data);
	free(state->body.data);
	free(state->url);
	free(state->host);
	free(state->ca_file);
	free(state->proxy);
	free(state);
}

/* Makes a handle with the fixed options set, or returns NULL. */
static TransferState *
handle_create(void)
{
	TransferState *state = calloc(1, sizeof(TransferState));

	if (state == NULL)
		return NULL;
	state->due = USEC_NEVER;
	state->easy = curl_easy_init();
	if (state->easy && set_fixed_options(state))
		return state;
	handle_free(state);
	return NULL;
}

/* Returns an unused handle, or a new one. NULL when out of memory. */
TransferState *
handle_take(void)
{
	TransferState *state;

	if (dlist_is_empty(&unused))
		return handle_create();
	state = dlist_container(TransferState, link, dlist_pop_head_node(&unused));
	nunused--;
	return state;
}

/* Takes a handle back, and wipes the keys that went out with it. */
void
handle_give_back(TransferState *state)
{
	if (state->copy.data)
		explicit_bzero(state->copy.data + state->secrets_from,
					   state->secrets_to - state->secrets_from);
	state->secrets_from = state->secrets_to = 0;
	if (nunused >= max_unused)
	{
		handle_free(state);
		return;
	}
	bytes_reset(&state->copy);
	bytes_reset(&state->head);
	bytes_reset(&state->body);
	dlist_push_head(&unused, &state->link);
	nunused++;
}

/* Has so many unused handles kept, or as many as usual if that is more. */
void
handle_keep(int n)
{
	max_unused = Max(n, MAX_UNUSED_HANDLES);
}

/* Frees handles that nobody has used for long. */
void
handle_forget(void)
{
	for (; nunused > MAX_UNUSED_HANDLES; nunused--)
		handle_free(dlist_container(TransferState, link,
									dlist_pop_head_node(&unused)));
}

/* Sets what is the same for all requests. */
static bool
set_fixed_options(TransferState *state)
{
	CURL	   *easy = state->easy;
	int			failed = 0;

	for (size_t i = 0; i < lengthof(wished_options); i++)
		(void) curl_easy_setopt(easy, wished_options[i].option,
								wished_options[i].value);
	(void) curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	(void) curl_easy_setopt(easy, CURLOPT_PROXY_CAPATH, NULL);
	for (size_t i = 0; i < lengthof(needed_options); i++)
		failed |= curl_easy_setopt(easy, needed_options[i].option,
								   needed_options[i].value);
	failed |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	failed |= curl_easy_setopt(easy, CURLOPT_USERAGENT,
							   "llm_failover/" LLM_VERSION);
	failed |= curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
	failed |= curl_easy_setopt(easy, CURLOPT_PRIVATE, state);
	failed |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, state->error);
	failed |= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, receive_header);
	failed |= curl_easy_setopt(easy, CURLOPT_HEADERDATA, state);
	failed |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive_body);
	failed |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, state);
	failed |= curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION,
							   receive_permission);
	failed |= curl_easy_setopt(easy, CURLOPT_PREREQDATA, state);
	failed |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION,
							   net_open_socket);
	failed |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, state);
	failed |= curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION,
							   net_close_socket);
	failed |= curl_easy_setopt(easy, CURLOPT_RESOLVER_START_FUNCTION,
							   lookup_begin);
	failed |= curl_easy_setopt(easy, CURLOPT_RESOLVER_START_DATA, state);
	return failed == 0;
}

/* ---- What rarely changes ---- */

/* Replaces a remembered string. False when out of memory. */
static bool
remember(char **remembered, const char *value)
{
	char	   *copy = strdup(value);

	if (copy == NULL)
		return false;
	free(*remembered);
	*remembered = copy;
	return true;
}

/* Returns the system's CA file, or NULL. */
static const char *
system_ca_file(void)
{
	static const char *found;

	if (found)
		return found;
	found = curl_version_info(CURLVERSION_NOW)->cainfo;
	for (size_t i = 0; !found && i < lengthof(ca_files); i++)
		if (access(ca_files[i], R_OK) == 0)
			found = ca_files[i];
	return found;
}

/* Sets the file of trusted authorities. */
static bool
set_ca_file(TransferState *state)
{
	const char *file = llm_ca_file[0] ? llm_ca_file : system_ca_file();

	if (file == NULL)
		file = "";				/* trusts nobody, and says so */
	if (state->ca_file && strcmp(state->ca_file, file) == 0)
		return true;
	(void) curl_easy_setopt(state->easy, CURLOPT_PROXY_CAINFO, file);
	return curl_easy_setopt(state->easy, CURLOPT_CAINFO, file) == CURLE_OK &&
		remember(&state->ca_file, file);
}

/* Sets the proxy; with none set, libcurl reads the environment. */
static bool
set_proxy(TransferState *state)
{
	if (state->proxy && strcmp(state->proxy, llm_proxy) == 0)
		return true;
	return curl_easy_setopt(state->easy, CURLOPT_PROXY,
							llm_proxy[0] ? llm_proxy : NULL) == CURLE_OK &&
		remember(&state->proxy, llm_proxy);
}

/* Takes from a URL what decides over its transfer. False: malformed. */
static bool
study_url(TransferState *state, const char *url)
{
	CURLU	   *parsed = curl_url();
	char	   *scheme = NULL;
	char	   *host = NULL;
	bool		ok = parsed != NULL &&
		curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK;

	if (ok)
	{
		state->plain = pg_strcasecmp(scheme, "https") != 0;
		state->to_loopback = net_host_is_loopback(host);
		/* what is loopback by name, libcurl knows without asking */
		state->by_name = !net_host_is_literal(host) && !state->to_loopback;
		ok = remember(&state->host, host);
	}
	curl_free(scheme);
	curl_free(host);
	curl_url_cleanup(parsed);
	return ok;
}

/* Sets the URL. */
static bool
set_url(TransferState *state, const char *url)
{
	if (state->url == NULL || strcmp(state->url, url) != 0)
	{
		free(state->url);
		state->url = NULL;
		if (!study_url(state, url))
		{
			transfer_problem(state, TRANSFER_LOCAL, "malformed URL");
			return false;
		}
		if (curl_easy_setopt(state->easy, CURLOPT_URL, url) != CURLE_OK ||
			!remember(&state->url, url))
			return false;
	}
	state->loopback_only = state->plain && !llm_allow_insecure_http;
	if (state->loopback_only && !state->to_loopback)
	{
		transfer_problem(state, TRANSFER_LOCAL,
						 "plain http to a host that is not loopback");
		return false;
	}
	return true;
}

/* ---- Each request ---- */

/* Appends a header line to the list, from the copy. */
static void
link_header(TransferState *state, int i, char *line)
{
	state->headers[i].data = line;
	state->headers[i].next = NULL;
	if (i > 0)
		state->headers[i - 1].next = &state->headers[i];
}

/*
 * Copies body and header lines into one block, and makes libcurl's list of the
 * latter without an allocation for each.
 */
static bool
copy_request(TransferState *state, const HttpRequest *request)
{
	static char content_type[] = "Content-Type: application/json";
	static char no_expect[] = "Expect:";
	Bytes	   *copy = &state->copy;
	size_t		need = request->body.len + 1;

	for (int i = 0; i < request->nheaders; i++)
		need += strlen(request->headers[i]) + 1;
	if (!bytes_reserve(copy, need))
		return false;
	bytes_put(copy, request->body.data, request->body.len + 1);
	state->body_len = request->body.len;

	link_header(state, 0, content_type);
	link_header(state, 1, no_expect);
	state->secrets_from = copy->len;
	for (int i = 0; i < request->nheaders; i++)
	{
		link_header(state, OWN_HEADERS + i, copy->data + copy->len);
		bytes_put(copy, request->headers[i], strlen(request->headers[i]) + 1);
	}
	state->secrets_to = copy->len;
	return true;
}

/* Returns a length of time in libcurl's milliseconds: at least 1, rounded up. */
static long
curl_ms(Usec time)
{
	Usec		ms = (time + USEC_MSEC - 1) / USEC_MSEC;

	return (long) Min(Max(ms, 1), INT_MAX);
}

/* Sets how long a handle may take to connect, from when it is begun. */
bool
handle_set_connect_timeout(TransferState *state, Usec timeout)
{
	return curl_easy_setopt(state->easy, CURLOPT_CONNECTTIMEOUT_MS,
							curl_ms(timeout)) == CURLE_OK;
}

/*
 * Sets a handle up for a request. False when that cannot be done; the transfer
 * then has a problem noted, or memory ran out.
 */
bool
handle_prepare(TransferState *state, const HttpRequest *request)
{
	CURL	   *easy = state->easy;

	if (!set_url(state, request->url.data) || !set_ca_file(state) ||
		!set_proxy(state) || !copy_request(state, request))
		return false;
	state->max_body = (size_t) llm_max_response_size * 1024;
	return curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
							state->copy.data) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) state->body_len) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER,
						 state->headers) == CURLE_OK &&
		handle_set_connect_timeout(state, state->limits.connect_timeout);
}

/* Has the next request of a handle go over a new connection, or not. */
bool
handle_avoid_kept(TransferState *state, bool avoid)
{
	return curl_easy_setopt(state->easy, CURLOPT_FRESH_CONNECT,
							avoid ? 1L : 0L) == CURLE_OK;
}
