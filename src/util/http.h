/*
 * http.h
 *	  What a dialect hands to the transport and gets back: plain data.
 *
 * Built by dialect/, sent by engine/transport. Knows neither PostgreSQL's
 * errors nor libcurl.
 */
#ifndef LLM_HTTP_H
#define LLM_HTTP_H

#include "postgres.h"

#include "lib/stringinfo.h"

#define HTTP_MAX_HEADERS 64

typedef struct HttpRequest
{
	StringInfoData url;
	StringInfoData body;		/* always sent by POST, as application/json */
	int			nheaders;
	char	   *headers[HTTP_MAX_HEADERS]; /* "Name: value", palloc'd */
} HttpRequest;

typedef struct HttpResponse
{
	int			status;
	const char *body;			/* decoded, NUL-terminated behind body_len */
	size_t		body_len;
	const char *headers;		/* of the final response, CRLF between lines */
	size_t		headers_len;
} HttpResponse;

extern void http_request_init(HttpRequest *req);
extern bool http_add_header(HttpRequest *req, const char *name,
							const char *value);
extern char *http_header(const HttpResponse *resp, const char *name);

#endif							/* LLM_HTTP_H */
