/*
 * words.c
 *	  What a vendor says to people, made fit to be shown: one line, valid
 *	  UTF-8, and not longer than anyone reads.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "common.h"

#define MAX_WORDS 2000			/* bytes */

/* Skips a tag such as <br>, so that an HTML page reads as its words. */
static size_t
tag_len(const char *bytes, size_t len)
{
	const char *close;

	if (*bytes != '<')
		return 0;
	close = memchr(bytes, '>', len);
	return close ? close - bytes + 1 : 0;
}

/* Returns the length of the UTF-8 character at hand, or 0 when it is none. */
static size_t
character_len(const char *bytes, size_t len)
{
	int			n = pg_encoding_verifymbchar(PG_UTF8, bytes, (int) len);

	return n > 0 ? n : 0;
}

/*
 * Returns the first `limit` bytes of a text in one line, palloc'd: blanks and
 * control characters become single spaces, what is not UTF-8 becomes "?".
 */
char *
clean_text(const char *bytes, size_t len, size_t limit, bool strip_tags)
{
	char	   *clean = palloc(Min(len, limit) + 1);
	size_t		used = 0;
	bool		blank = false;
	size_t		step;

	for (; len > 0; bytes += step, len -= step)
	{
		unsigned char c = *bytes;
		size_t		tag = strip_tags ? tag_len(bytes, len) : 0;
		size_t		width = 1;

		step = 1;
		if (c <= ' ' || c == 0x7f || tag > 0)
		{
			step = Max(tag, 1);
			blank = used > 0;
			continue;
		}
		if (c >= 0x80 && (width = character_len(bytes, len)) > 0)
			step = width;
		if (used + (blank ? 1 : 0) + step > limit)
			break;
		if (blank)
			clean[used++] = ' ';
		blank = false;
		if (width > 0)
			memcpy(clean + used, bytes, step);
		else
			clean[used] = '?';
		used += step;
	}
	clean[used] = '\0';
	return clean;
}

/* Returns a vendor's words for people in one line, or NULL when none. */
const char *
clean_words(const JsonNode *node)
{
	const char *words;

	if (!json_is(node, JN_STRING))
		return NULL;
	words = clean_text(node->text, node->text_len, MAX_WORDS, false);
	return *words ? words : NULL;
}
