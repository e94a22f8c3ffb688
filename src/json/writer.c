/*
 * writer.c
 *	  JSON into a buffer.
 */
#include "postgres.h"

#include "json.h"

/* A byte in each of a word's eight. */
#define EACH(byte) (UINT64CONST(0x0101010101010101) * (byte))

/* Says whether a byte must not stand in a string as it is. */
static inline bool
needs_escape(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

/* Says whether one of eight bytes is zero. */
static inline bool
has_zero(uint64 word)
{
	return ((word - EACH(1)) & ~word & EACH(0x80)) != 0;
}

/* Says whether one of eight bytes needs an escape. */
static inline bool
word_needs_escape(const char *bytes)
{
	uint64		word;

	memcpy(&word, bytes, sizeof(word));
	return ((word - EACH(0x20)) & ~word & EACH(0x80)) != 0 ||
		has_zero(word ^ EACH('"')) || has_zero(word ^ EACH('\\'));
}

/* Returns how many of the first bytes can be copied as they are. */
static size_t
plain_run(const char *bytes, size_t len)
{
	size_t		run = 0;

	while (len - run >= sizeof(uint64) && !word_needs_escape(bytes + run))
		run += sizeof(uint64);
	while (run < len && !needs_escape(bytes[run]))
		run++;
	return run;
}

/* Writes a byte that cannot stand as it is. */
static void
put_escaped(StringInfo out, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	static const char letters[] = "btnvfr"; /* 0x08 to 0x0d; no \v in JSON */

	appendStringInfoChar(out, '\\');
	if (c == '"' || c == '\\')
		appendStringInfoChar(out, c);
	else if (c >= '\b' && c <= '\r' && c != '\v')
		appendStringInfoChar(out, letters[c - '\b']);
	else
	{
		appendBinaryStringInfo(out, "u00", 3);
		appendStringInfoChar(out, hex[c >> 4]);
		appendStringInfoChar(out, hex[c & 0xf]);
	}
}

/* Writes a string of UTF-8 text, quotes included. Linear in its length. */
void
json_put_string(StringInfo out, const char *text, size_t len)
{
	appendStringInfoChar(out, '"');
	for (;;)
	{
		size_t		run = plain_run(text, len);

		appendBinaryStringInfo(out, text, (int) run);
		if (run == len)
			break;
		put_escaped(out, text[run]);
		text += run + 1;
		len -= run + 1;
	}
	appendStringInfoChar(out, '"');
}

/* Writes a string that ends with a zero. */
void
json_put_cstring(StringInfo out, const char *text)
{
	json_put_string(out, text, strlen(text));
}

/* Writes a value as it stood in its source; null for NULL. */
void
json_put_raw(StringInfo out, const JsonNode *node)
{
	if (node == NULL)
		appendBinaryStringInfo(out, "null", 4);
	else
		appendBinaryStringInfo(out, node->raw, (int) node->raw_len);
}
