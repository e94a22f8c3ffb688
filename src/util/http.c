/*
 * http.c
 *	  Headers of requests and responses.
 */
#include "postgres.h"

#include "http.h"

/* Makes an empty request in the current memory context. */
void
http_request_init(HttpRequest *req)
{
	initStringInfo(&req->url);
	initStringInfo(&req->body);
	req->nheaders = 0;
}

/* Says whether a header value may be sent: no CR, LF or other control. */
static bool
value_is_safe(const char *value)
{
	for (; *value; value++)
	{
		unsigned char c = *value;

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

/*
 * Adds a header. False, and nothing added, when the value would break out of
 * its line or there are too many: the last wall against header injection.
 */
bool
http_add_header(HttpRequest *req, const char *name, const char *value)
{
	if (req->nheaders >= HTTP_MAX_HEADERS || !value_is_safe(name) ||
		!value_is_safe(value))
		return false;
	req->headers[req->nheaders++] = psprintf("%s: %s", name, value);
	return true;
}

/*
 * Returns the value of a response's header, palloc'd and trimmed, or NULL. Of
 * several of one name the last one wins.
 */
char *
http_header(const HttpResponse *resp, const char *name)
{
	size_t		name_len = strlen(name);
	const char *line = resp->headers;
	const char *end = resp->headers + resp->headers_len;
	char	   *found = NULL;

	while (line < end)
	{
		const char *eol = memchr(line, '\n', end - line);
		const char *next = eol ? eol + 1 : end;

		if ((size_t) (next - line) > name_len && line[name_len] == ':' &&
			pg_strncasecmp(line, name, name_len) == 0)
		{
			const char *from = line + name_len + 1;
			const char *to = next;

			while (from < to && (*from == ' ' || *from == '\t'))
				from++;
			while (to > from && (unsigned char) to[-1] <= ' ')
				to--;
			if (found)
				pfree(found);
			found = pnstrdup(from, to - from);
		}
		line = next;
	}
	return found;
}
