/*
 * scrub.c
 *	  Takes a key out of what somebody else wrote.
 *
 * A provider that refuses a key likes to repeat it, and whoever stands between
 * us and the writer of the message may have quoted it on the way, some of them
 * twice. So a key is known in the spellings that are in use on the web,
 * character by character: as it is, with a backslash as JSON has it, in
 * percents as a URL, or as a character reference of HTML. Backslashes are
 * skipped on both sides, because their number grows with each quoting.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "secret.h"

/* A key shorter than this is not searched for: it would be in every text. */
#define MIN_SCRUBBED 4

/* As many of them before a character are skipped: four times quoted. */
#define MAX_BACKSLASHES 16

/* What stands where a key was. */
#define SCRUBBED "***"

/* The references of HTML that have names and are in use for ASCII. */
static const struct
{
	const char *name;
	char		c;
}			entities[] =
{
	{"&amp;", '&'},
	{"&lt;", '<'},
	{"&gt;", '>'},
	{"&quot;", '"'},
	{"&apos;", '\''},
};

static size_t count_searched(const char *key);
static size_t match_key(const char *text, const char *end, const char *key);
static size_t match_char(const char *text, const char *end, char wanted);
static size_t read_char(const char *text, const char *end, unsigned *c);
static size_t read_reference(const char *text, const char *end, unsigned *c);
static size_t read_number(const char *text, const char *end, int base,
						  size_t max_digits, unsigned *number);

/*
 * Replaces each occurrence of a key in a text of *len bytes, which may have
 * zeros in it. Returns the text itself when there is none, else a palloc'd one
 * with a NUL behind it, and its length.
 */
const char *
secret_scrub(const char *text, size_t *len, const char *key)
{
	const char *end = text + *len;
	const char *kept = text;
	StringInfoData out = {0};

	if (count_searched(key) < MIN_SCRUBBED)
		return text;
	for (const char *at = text; at < end;)
	{
		size_t		found = match_key(at, end, key);

		if (found == 0)
		{
			at++;
			continue;
		}
		if (out.data == NULL)
			initStringInfo(&out);
		appendBinaryStringInfo(&out, kept, (int) (at - kept));
		appendStringInfoString(&out, SCRUBBED);
		at += found;
		kept = at;
	}
	if (out.data == NULL)
		return text;
	appendBinaryStringInfo(&out, kept, (int) (end - kept));
	*len = out.len;
	return out.data;
}

/* Counts what is searched for of a key: all but backslashes. */
static size_t
count_searched(const char *key)
{
	size_t		n = 0;

	for (; *key; key++)
		n += *key != '\\';
	return n;
}

/* Returns the length of the key that begins here, or 0 if none does. */
static size_t
match_key(const char *text, const char *end, const char *key)
{
	const char *at = text;

	for (; *key; key++)
	{
		size_t		step = *key == '\\' ? 0 : match_char(at, end, *key);

		if (step == 0 && *key != '\\')
			return 0;
		at += step;
	}
	return at - text;
}

/*
 * Returns the length of a character in any spelling, with the backslashes
 * before it, or 0 if it is another one.
 */
static size_t
match_char(const char *text, const char *end, char wanted)
{
	const char *at = text;
	unsigned	c;

	for (int skipped = 0; skipped <= MAX_BACKSLASHES && at < end; skipped++)
	{
		size_t		step = read_char(at, end, &c);

		if (c == (unsigned char) wanted)
			return at + step - text;
		if (c != '\\')
			break;
		at += step;
	}
	/* what looked like a spelling may have been none */
	return at < end && *at == wanted ? at + 1 - text : 0;
}

/* Reads a character in whatever spelling; returns the length of that. */
static size_t
read_char(const char *text, const char *end, unsigned *c)
{
	size_t		len = 0;

	if (*text == '\\' && end - text > 1 && text[1] == 'u' &&
		read_number(text + 2, end, 16, 4, c) == 4)
		return 6;
	if (*text == '%' && read_number(text + 1, end, 16, 2, c) == 2)
		return 3;
	if (*text == '&')
		len = read_reference(text, end, c);
	if (len > 0)
		return len;
	*c = (unsigned char) *text;
	return 1;
}

/* The same of &#47; &#x2f; and &amp;; 0 when it is none of these. */
static size_t
read_reference(const char *text, const char *end, unsigned *c)
{
	size_t		left = end - text;
	bool		is_hex = left > 2 && (text[2] == 'x' || text[2] == 'X');
	size_t		len = is_hex ? 3 : 2;

	if (left > 2 && text[1] == '#')
	{
		size_t		n = read_number(text + len, end, is_hex ? 16 : 10, 7, c);

		len += n;
		return n == 0 ? 0 : len + (len < left && text[len] == ';' ? 1 : 0);
	}
	for (size_t i = 0; i < lengthof(entities); i++)
	{
		len = strlen(entities[i].name);
		if (left < len || memcmp(text, entities[i].name, len) != 0)
			continue;
		*c = (unsigned char) entities[i].c;
		return len;
	}
	return 0;
}

/* Reads up to max_digits digits; returns how many there were. */
static size_t
read_number(const char *text, const char *end, int base, size_t max_digits,
			unsigned *number)
{
	static const char all[] = "0123456789abcdef";
	size_t		n = 0;

	*number = 0;
	for (; n < max_digits && text + n < end; n++)
	{
		const char *digit = text[n] == '\0' ? NULL :
			strchr(all, pg_tolower((unsigned char) text[n]));

		if (digit == NULL || digit - all >= base)
			break;
		*number = *number * base + (unsigned) (digit - all);
	}
	return n;
}
