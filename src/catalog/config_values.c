/*
 * config_values.c
 *	  From a column's value to C.
 *
 * A value that CHECKs and triggers should have refused, but that a superuser
 * or another version let in, must not take the whole configuration down: a
 * number is clamped, and what cannot be used at all becomes the row's problem.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "config_internal.h"

/* What the tables allow. */
#define WEIGHT_MAX 1000000
#define WINDOW_MIN USECS_PER_SEC
#define WINDOW_MAX (10 * USECS_PER_MINUTE)
#define PAUSE_MAX USECS_PER_DAY
#define HALF_OPEN_CALLS_MAX 100

/* An end that is far away, but to which a point in time can be added. */
#define DURATION_MAX (PG_INT64_MAX / 4)

static int64 clamp(int64 value, int64 least, int64 most);
static Usec interval_to_usec(const Interval *interval);
static int	deconstruct_text_array(Datum value, Datum **elements, bool **nulls);

/* Reads text into a char *. */
void
read_text(Datum value, char *field, char *aside pg_attribute_unused())
{
	*(char **) field = TextDatumGetCString(value);
}

/* Reads a key into a char * and leaves no other copy of it in our memory. */
void
read_secret(Datum value, char *field, char *aside pg_attribute_unused())
{
	text	   *detoasted = DatumGetTextPP(value);

	*(char **) field = text_to_cstring(detoasted);
	if ((Pointer) detoasted != DatumGetPointer(value))
	{
		explicit_bzero(detoasted, VARSIZE_ANY(detoasted));
		pfree(detoasted);
	}
}

/* Reads boolean into a bool. */
void
read_boolean(Datum value, char *field, char *aside pg_attribute_unused())
{
	*(bool *) field = DatumGetBool(value);
}

/* Reads int into an int. */
void
read_integer(Datum value, char *field, char *aside pg_attribute_unused())
{
	*(int *) field = DatumGetInt32(value);
}

/* Reads int into an int, 0 being no limit. */
void
read_limit(Datum value, char *field, char *aside pg_attribute_unused())
{
	*(int *) field = Max(0, DatumGetInt32(value));
}

/* Reads real into a double that is not negative and is a number. */
void
read_weight(Datum value, char *field, char *aside pg_attribute_unused())
{
	double		weight = DatumGetFloat4(value);

	*(double *) field = weight > 0 ? Min(weight, WEIGHT_MAX) : 0;
}

/* Reads real into a double from 0 to 1. */
void
read_share(Datum value, char *field, char *aside pg_attribute_unused())
{
	double		share = DatumGetFloat4(value);

	*(double *) field = share > 0 ? Min(share, 1) : 0;
}

/* Reads interval into a Usec. */
void
read_duration(Datum value, char *field, char *aside pg_attribute_unused())
{
	Usec		duration = interval_to_usec(DatumGetIntervalP(value));

	*(Usec *) field = Max(0, Min(duration, DURATION_MAX));
}

/* Counts a month as 30 days, as PostgreSQL does when it compares intervals. */
static Usec
interval_to_usec(const Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		usecs;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &usecs) ||
		pg_add_s64_overflow(usecs, interval->time, &usecs))
		return days < 0 ? 0 : DURATION_MAX;
	return usecs;
}

/* Brings a breaker's settings into the ranges of llm_provider. */
void
clamp_breaker(BreakerConfig *breaker)
{
	breaker->window = clamp(breaker->window, WINDOW_MIN, WINDOW_MAX);
	breaker->min_calls = Max(breaker->min_calls, 1);
	breaker->consecutive = Max(breaker->consecutive, 1);
	breaker->open_time_max = clamp(breaker->open_time_max, 1, PAUSE_MAX);
	breaker->open_time = clamp(breaker->open_time, 1, breaker->open_time_max);
	breaker->half_open_calls = clamp(breaker->half_open_calls, 1,
									 HALF_OPEN_CALLS_MAX);
	breaker->ramp = clamp(breaker->ramp, 0, PAUSE_MAX);
}

static int64
clamp(int64 value, int64 least, int64 most)
{
	return Max(least, Min(value, most));
}

/*
 * Reads a price in USD per million tokens into Picodollars, rounded. Between
 * the two units lies a factor of a million.
 */
void
read_price(Datum value, char *field, char *aside pg_attribute_unused())
{
	const int64 factor = 1000000;
	Datum		most = NumericGetDatum(int64_to_numeric(PRICE_MAX / factor));
	Datum		price;

	if (numeric_is_nan(DatumGetNumeric(value)))
		return;
	if (DatumGetBool(DirectFunctionCall2(numeric_ge, value, most)))
	{
		*(Picodollars *) field = PRICE_MAX;
		return;
	}
	if (numeric_is_inf(DatumGetNumeric(value)))
		return;
	price = DirectFunctionCall2(numeric_mul, value,
								NumericGetDatum(int64_to_numeric(factor)));
	price = DirectFunctionCall2(numeric_larger, price,
								NumericGetDatum(int64_to_numeric(0)));
	*(Picodollars *) field =
		DatumGetInt64(DirectFunctionCall1(numeric_int8, price));
}

/* Reads text[] into a char ** and its count, without NULLs. */
void
read_labels(Datum value, char *field, char *aside)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n = deconstruct_text_array(value, &elements, &nulls);
	char	  **labels = palloc(Max(n, 1) * sizeof(char *));
	int			nlabels = 0;

	for (int i = 0; i < n; i++)
		if (!nulls[i])
			labels[nlabels++] = TextDatumGetCString(elements[i]);
	*(char ***) field = labels;
	*(int *) aside = nlabels;
}

/*
 * Reads text[] into a set of CAP_ bits and the fact that there was one. A
 * capability that only a newer version knows is none of ours.
 */
void
read_capabilities(Datum value, char *field, char *aside)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n = deconstruct_text_array(value, &elements, &nulls);
	uint32		capabilities = 0;

	for (int i = 0; i < n; i++)
		if (!nulls[i])
			capabilities |= capability_bit(TextDatumGetCString(elements[i]));
	*(uint32 *) field = capabilities;
	*(bool *) aside = true;
}

/* Takes text[] apart; returns how many elements there are. */
static int
deconstruct_text_array(Datum value, Datum **elements, bool **nulls)
{
	int			n;

	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false,
					  TYPALIGN_INT, elements, nulls, &n);
	return n;
}

/*
 * Reads jsonb into a UTF-8 tree whose source text stays beside it, or says
 * what is wrong with it in the row's problem.
 */
void
read_params(Datum value, char *field, char *aside)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	char	   *utf8 = try_to_utf8(JsonbToCString(NULL, &jsonb->root,
												  VARSIZE(jsonb)));
	const char *why = "cannot be converted to UTF-8";
	JsonNode   *tree = utf8 ? json_parse(utf8, strlen(utf8), &why) : NULL;

	if (tree && !json_is(tree, JN_OBJECT))
	{
		tree = NULL;
		why = "not an object";
	}
	*(JsonNode **) field = tree;
	if (tree == NULL)
		*(const char **) aside = psprintf("params: %s", why);
}

/*
 * Reads a jsonb object into an array of ConfigHeader and its count. Only
 * strings are headers; the table refuses all else.
 */
void
read_headers(Datum value, char *field, char *aside)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	ConfigHeader *headers;
	int			nheaders = 0;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return;
	headers = palloc(Max(JB_ROOT_COUNT(jsonb), 1) * sizeof(ConfigHeader));
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && v.type == jbvString)
		{
			headers[nheaders].name = name;
			headers[nheaders++].value = pnstrdup(v.val.string.val,
												 v.val.string.len);
		}
	}
	*(ConfigHeader **) field = headers;
	*(int *) aside = nheaders;
}

/*
 * Converts to UTF-8; may return the text itself. NULL, where the server's own
 * functions would raise, when there is no such form: one bad row must not make
 * all others unreadable.
 */
char *
try_to_utf8(const char *text)
{
	int			encoding = GetDatabaseEncoding();
	size_t		len = strlen(text);
	size_t		room = len * MAX_CONVERSION_GROWTH + 1;
	unsigned char *source = (unsigned char *) unconstify(char *, text);
	unsigned char *utf8;
	Oid			proc;

	if (encoding == PG_UTF8)
		return unconstify(char *, text);
	if (encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, text, (int) len, true) ?
			unconstify(char *, text) : NULL;

	proc = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(proc) || !AllocSizeIsValid(room))
		return NULL;
	utf8 = palloc(room);
	if (pg_do_encoding_conversion_buf(proc, encoding, PG_UTF8,
									  source, (int) len, utf8, (int) room,
									  true) != (int) len)
		return NULL;
	return (char *) utf8;
}
