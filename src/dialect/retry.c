/*
 * retry.c
 *	  When may one ask again: every place where vendors hide it. Also the
 *	  reader of all times in headers.
 *
 * Headers (Retry-After in seconds or as a date, retry-after-ms,
 * x-ms-retry-after-ms), Google's RetryInfo, the words "try again in 6m0s", and
 * for a 429 the resets of the limits. Whoever of them asks for the longest
 * wait is obeyed, up to a day: a stranger must not put a target to sleep for
 * good.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "common.h"

#define MS_SECOND	1000.0
#define MS_MINUTE	(60 * MS_SECOND)
#define MS_HOUR		(60 * MS_MINUTE)
#define MS_DAY		(24 * MS_HOUR)

/* Resets from here on are points in time: in seconds, or in milliseconds. */
#define EPOCH_SECONDS	1e9
#define EPOCH_MS		1e12

static const struct
{
	const char *name;
	double		ms;
}			units[] =
{
	{"ms", 1}, {"millisecond", 1}, {"milliseconds", 1},
	{"s", MS_SECOND}, {"sec", MS_SECOND}, {"secs", MS_SECOND},
	{"second", MS_SECOND}, {"seconds", MS_SECOND},
	{"m", MS_MINUTE}, {"min", MS_MINUTE}, {"mins", MS_MINUTE},
	{"minute", MS_MINUTE}, {"minutes", MS_MINUTE},
	{"h", MS_HOUR}, {"hr", MS_HOUR}, {"hour", MS_HOUR}, {"hours", MS_HOUR},
	{"d", MS_DAY}, {"day", MS_DAY}, {"days", MS_DAY},
};

/* Headers with a limit's reset, and with what is left of that limit. */
static const char *const resets[][2] = {
	{"x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"},
	{"x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"},
	{"x-ratelimit-reset", "x-ratelimit-remaining"},
	{"ratelimitbysize-reset", "x-ratelimitbysize-remaining-minute"},
};

/* Words in front of a wait. */
static const char *const phrases[] = {
	"try again in ",
	"retry in ",
	"retry after ",
	"try again after ",
};

/* Returns the longer of two waits; Max() would reckon the second one twice. */
static inline double
longer(double a, double b)
{
	return a > b ? a : b;
}

/* Returns the milliseconds of a unit, or 0 when it is none. */
static double
unit_ms(const char *name, size_t len)
{
	for (size_t i = 0; i < lengthof(units); i++)
		if (strlen(units[i].name) == len &&
			pg_strncasecmp(units[i].name, name, len) == 0)
			return units[i].ms;
	return 0;
}

/* Says whether a digit follows, whatever the locale calls one. */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Skips the letters of a word. */
static const char *
word_end(const char *word)
{
	while ((*word | 0x20) >= 'a' && (*word | 0x20) <= 'z')
		word++;
	return word;
}

/*
 * Reads a length of time such as 6m0s, 1.5s, 20ms, 26 seconds; a bare number
 * is in `bare_ms`. Returns milliseconds, 0 when there is none.
 */
static double
read_duration(const char *text, double bare_ms)
{
	double		total = 0;

	while (is_digit(*text))
	{
		char	   *unit;
		double		number = strtod(text, &unit);
		const char *end;
		double		ms;

		if (*unit == ' ')
			unit++;
		end = word_end(unit);
		ms = unit_ms(unit, end - unit);
		if (ms == 0)			/* no unit, or the sentence goes on */
			return total + (total == 0 ? number * bare_ms : 0);
		total += number * ms;
		text = end;
	}
	return total;
}

/*
 * Rewrites a time of RFC 3339, such as 2025-11-22T17:00:00.5+01:00, so that
 * curl_getdate() can judge it: 20251122 17:00:00 +0100. NULL when it is none.
 */
static const char *
rewrite_rfc3339(const char *value)
{
	static const char shape[] = "0000-00-00T00:00:00";
	const char *zone;
	int			hours;

	for (size_t i = 0; i < strlen(shape); i++)
		if (shape[i] == '0' ? !is_digit(value[i]) :
			pg_toupper((unsigned char) value[i]) != shape[i])
			return NULL;
	zone = value + strlen(shape);
	if (*zone == '.')
		zone += 1 + strspn(zone + 1, "0123456789");
	if (pg_strcasecmp(zone, "Z") == 0)
		zone = "GMT";
	hours = (int) strcspn(zone, ":");
	return psprintf("%.4s%.2s%.2s %.8s %.*s%s", value, value + 5, value + 8,
					value + 11, hours, zone,
					zone[hours] ? zone + hours + 1 : "");
}

/* Reads a header that is a length of time, or a date; as above. */
static double
read_header(const HttpResponse *resp, const char *name, double bare_ms,
			time_t now)
{
	const char *value = http_header(resp, name);
	const char *rewritten;
	time_t		date;

	if (value == NULL)
		return 0;
	rewritten = rewrite_rfc3339(value);
	if (rewritten == NULL && is_digit(*value))
		return read_duration(value, bare_ms);
	date = curl_getdate(rewritten ? rewritten : value, NULL);
	return date > now ? (double) (date - now) * MS_SECOND : 0;
}

/*
 * Reads a header with the time after which a limit is whole again: a length of
 * time, or a point in it. Returns milliseconds, 0 when there is none.
 */
double
read_reset(const HttpResponse *resp, const char *name, time_t now)
{
	double		ms = read_header(resp, name, MS_SECOND, now);

	/* A bare number that large is a point in time. */
	if (ms >= EPOCH_MS * MS_SECOND)
		ms = ms / MS_SECOND - (double) now * MS_SECOND;
	else if (ms >= EPOCH_SECONDS * MS_SECOND)
		ms -= (double) now * MS_SECOND;
	return longer(ms, 0);
}

/*
 * Returns when the limit that was hit is free again. A limit of which
 * something is left was not the one.
 */
static double
read_resets(const HttpResponse *resp, time_t now)
{
	double		longest = 0;

	for (size_t i = 0; i < lengthof(resets); i++)
	{
		char	   *remaining = http_header(resp, resets[i][1]);

		if (remaining && strtod(remaining, NULL) > 0)
			continue;
		longest = longer(longest, read_reset(resp, resets[i][0], now));
	}
	return longest;
}

/* Finds "retry in 36.9s" and the like in an error's text. */
static double
read_phrases(const char *text)
{
	double		longest = 0;

	for (; *text; text++)
	{
		if ((*text | 0x20) != 't' && (*text | 0x20) != 'r')
			continue;
		for (size_t i = 0; i < lengthof(phrases); i++)
		{
			size_t		len = strlen(phrases[i]);

			if (pg_strncasecmp(text, phrases[i], len) == 0)
				longest = longer(longest,
								 read_duration(text + len, MS_SECOND));
		}
	}
	return longest;
}

/* Finds Google's RetryInfo in an error's details. */
static double
read_retry_info(const JsonNode *error)
{
	const JsonNode *details = json_get(error, "details");
	double		longest = 0;

	if (!json_is(details, JN_ARRAY))
		return 0;
	for (JsonNode *detail = details->child; detail; detail = detail->next)
	{
		const char *delay = json_text(json_get(detail, "retryDelay"));

		if (delay)
			longest = longer(longest, read_duration(delay, MS_SECOND));
	}
	return longest;
}

/*
 * Returns for how many milliseconds not to ask again, 0 when nobody says.
 * `error` is the error object of the body, `text` its message; both may be
 * NULL.
 */
int64
retry_hint(const HttpResponse *resp, time_t now, const JsonNode *error,
		   const char *text)
{
	double		ms = read_header(resp, "retry-after", MS_SECOND, now);

	ms = longer(ms, read_header(resp, "retry-after-ms", 1, now));
	ms = longer(ms, read_header(resp, "x-ms-retry-after-ms", 1, now));
	ms = longer(ms, read_retry_info(error));
	if (text)
		ms = longer(ms, read_phrases(text));
	if (resp->status == 429)
		ms = longer(ms, read_resets(resp, now));
	return ms > 0 ? (int64) Min(ms, MS_DAY) : 0;
}
