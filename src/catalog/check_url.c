/*
 * check_url.c
 *	  Rules of base_url, judged by libcurl's own reading of it: what it would
 *	  connect to is what is checked.
 *
 * A URL is never shown: somebody may have put a password into it.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include "utils/builtins.h"

#include "catalog/config.h"
#include "check.h"
#include "settings.h"

#define HOST_MAX	256			/* with its end */

/* What libcurl makes of a URL. */
typedef struct UrlParts
{
	bool		valid;
	bool		has_user;
	bool		is_https;
	char		host[HOST_MAX];
} UrlParts;

static void check_url_text(const CheckedRow *row, const ColumnRule *rule,
						   const char *url);
static void check_url_parts(const CheckedRow *row, const ColumnRule *rule,
							const char *url);
static const char *authority_of(const char *url);
static char *fill_region(const CheckedRow *row, const char *url);
static bool is_printable_ascii(const char *text);
static void read_parts(const char *url, UrlParts *parts);
static bool copy_part(CURLU *handle, CURLUPart part, char *buffer,
					  size_t size);
static bool is_loopback(const char *host);

/* Wants the base of a provider's URLs: https, or http to ourselves. */
void
check_base_url(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *url = TextDatumGetCString(value);

	check_url_text(row, rule, url);
	url = fill_region(row, url);
	if (strpbrk(url, "{}") != NULL)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must have no placeholder but %s",
						RelationGetRelationName(row->rel), rule->column,
						REGION_PLACEHOLDER)));
	check_url_parts(row, rule, url);
}

/* Refuses what can be seen without taking the URL apart. */
static void
check_url_text(const CheckedRow *row, const ColumnRule *rule, const char *url)
{
	const char *table = RelationGetRelationName(row->rel);
	const char *authority = authority_of(url);

	if (has_control(url))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not contain control characters",
						table, rule->column)));
	if (authority == NULL || !is_printable_ascii(url))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be an http or https URL",
						table, rule->column),
				 errhint("Write it as the vendor's own SDK takes it, for example https://api.openai.com/v1.")));
	if (authority[strcspn(authority, "@/?#")] == '@')
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not contain credentials",
						table, rule->column),
				 errhint("Put the key into the column secret.")));
	if (strpbrk(url, "?#") != NULL)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must not contain a query or a fragment",
						table, rule->column),
				 errhint("Put a key into the column secret; what else a request needs belongs in headers or params.")));
}

/*
 * Returns what follows the scheme and "//", or NULL if it is no such URL.
 * libcurl would forgive a third slash; others read such a URL otherwise.
 */
static const char *
authority_of(const char *url)
{
	static const char *const schemes[] = {"https://", "http://"};

	for (size_t i = 0; i < lengthof(schemes); i++)
	{
		size_t		len = strlen(schemes[i]);

		if (pg_strncasecmp(url, schemes[i], len) == 0)
			return url[len] == '/' || url[len] == '\0' ? NULL : url + len;
	}
	return NULL;
}

static bool
is_printable_ascii(const char *text)
{
	for (const char *c = text; *c; c++)
		if (*c <= ' ' || !isascii((unsigned char) *c))
			return false;
	return true;
}

/*
 * Fills in the region: of llm_region its own name. A provider's is for regions
 * to come, so any name stands for theirs; a name can change neither the shape
 * of a URL nor make a host a loopback one unless it is one already.
 */
static char *
fill_region(const CheckedRow *row, const char *url)
{
	bool		is_region = strcmp(RelationGetRelationName(row->rel),
								   "llm_region") == 0;
	char	   *region = is_region ? column_text(row->rel, row->tuple, "name") : NULL;
	StringInfoData filled;
	const char *at;

	initStringInfo(&filled);
	while ((at = strstr(url, REGION_PLACEHOLDER)) != NULL)
	{
		appendBinaryStringInfo(&filled, url, (int) (at - url));
		appendStringInfoString(&filled, region ? region : "region");
		url = at + strlen(REGION_PLACEHOLDER);
	}
	appendStringInfoString(&filled, url);
	return filled.data;
}

/* Refuses what libcurl would not connect to, or must not. */
static void
check_url_parts(const CheckedRow *row, const ColumnRule *rule,
				const char *url)
{
	UrlParts	parts;

	read_parts(url, &parts);
	if (!parts.valid || parts.has_user)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s is not a valid URL",
						RelationGetRelationName(row->rel), rule->column)));
	if (!parts.is_https && !llm_allow_insecure_http &&
		!is_loopback(parts.host))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s uses plain http to \"%s\"",
						RelationGetRelationName(row->rel), rule->column,
						parts.host),
				 errhint("Use https, or let a superuser set llm_failover.allow_insecure_http.")));
}

/* Takes a URL apart by libcurl; throws nothing and keeps nothing. */
static void
read_parts(const char *url, UrlParts *parts)
{
	CURLU	   *handle = curl_url();
	char		scheme[sizeof("https")];
	char		user[2];

	memset(parts, 0, sizeof(*parts));
	if (handle != NULL &&
		curl_url_set(handle, CURLUPART_URL, url, 0) == CURLUE_OK &&
		copy_part(handle, CURLUPART_SCHEME, scheme, sizeof(scheme)) &&
		copy_part(handle, CURLUPART_HOST, parts->host, HOST_MAX))
	{
		parts->valid = true;
		parts->is_https = strcmp(scheme, "https") == 0;
		parts->has_user = copy_part(handle, CURLUPART_USER, user,
									sizeof(user));
	}
	curl_url_cleanup(handle);
}

/* Copies a part of a URL, cut to the buffer; false when it has none. */
static bool
copy_part(CURLU *handle, CURLUPart part, char *buffer, size_t size)
{
	char	   *text = NULL;

	if (curl_url_get(handle, part, &text, 0) != CURLUE_OK || text == NULL)
		return false;
	strlcpy(buffer, text, size);
	curl_free(text);
	return buffer[0] != '\0';
}

/* Says whether a host is this machine: 127.0.0.0/8, ::1 or localhost. */
static bool
is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	char		bare[HOST_MAX];

	if (pg_strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	if (host[0] != '[')
		return false;
	strlcpy(bare, host + 1, sizeof(bare));
	bare[strcspn(bare, "]")] = '\0';
	return inet_pton(AF_INET6, bare, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}
