/*
 * limits.c
 *	  What is left of an owner's rate limits, as response headers tell it.
 *
 * They come with answers, too, so that one knows before a limit is hit. What is
 * no number or time that can be is taken for not told.
 */
#include "postgres.h"

#include "common.h"

#define MAX_UNITS	PG_INT32_MAX
#define MAX_RESET	(24 * 3600 * 1000.0)	/* ms */

typedef struct LimitHeaders
{
	const char *remaining;
	const char *limit;
	const char *reset;
} LimitHeaders;

/*
 * The first ones that are there count. Headers that do not say what they count
 * count requests at OpenRouter and Together; at whom they counted anything else
 * they would at worst make a request wait until one of that is free.
 */
static const LimitHeaders of_requests[] = {
	{"x-ratelimit-remaining-requests", "x-ratelimit-limit-requests",
	"x-ratelimit-reset-requests"},
	{"anthropic-ratelimit-requests-remaining",
		"anthropic-ratelimit-requests-limit",
	"anthropic-ratelimit-requests-reset"},
	{"x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-reset"},
};

/* Mistral calls tokens a size. */
static const LimitHeaders of_tokens[] = {
	{"x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens",
	"x-ratelimit-reset-tokens"},
	{"anthropic-ratelimit-tokens-remaining",
		"anthropic-ratelimit-tokens-limit",
	"anthropic-ratelimit-tokens-reset"},
	{"x-ratelimitbysize-remaining-minute", "x-ratelimitbysize-limit-minute",
	"ratelimitbysize-reset"},
};

/* Returns a header that is a whole number of sane size, or -1. */
static int64
read_units(const HttpResponse *resp, const char *name)
{
	const char *value = http_header(resp, name);
	size_t		len = value ? strlen(value) : 0;
	int64		units;

	if (len == 0 || strspn(value, "0123456789") != len)
		return -1;
	units = strtoll(value, NULL, 10);	/* the largest, if too large */
	return units <= MAX_UNITS ? units : -1;
}

/* Reads a limit; without what remains the rest would say nothing. */
static LimitNotice
read_notice(const HttpResponse *resp, const LimitHeaders *headers, size_t n,
			time_t now)
{
	LimitNotice notice = {-1, -1, -1};

	for (size_t i = 0; i < n && notice.remaining < 0; i++)
	{
		double		reset;

		notice.remaining = read_units(resp, headers[i].remaining);
		if (notice.remaining < 0)
			continue;
		notice.limit = read_units(resp, headers[i].limit);
		reset = read_reset(resp, headers[i].reset, now);
		if (reset > 0 && reset <= MAX_RESET)
			notice.reset = (Usec) (reset * USEC_MSEC);
	}
	return notice;
}

/* Fills in what is left of the limits, each -1 where it is not told. */
void
limits_read(const HttpResponse *resp, time_t now, Reply *out)
{
	out->requests_left = read_notice(resp, of_requests,
									 lengthof(of_requests), now);
	out->tokens_left = read_notice(resp, of_tokens, lengthof(of_tokens), now);
}
