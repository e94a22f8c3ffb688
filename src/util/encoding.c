/*
 * encoding.c
 *	  Between the database's encoding and the wire's UTF-8.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "encoding.h"

/* What stands for a character that the database's encoding lacks. */
#define REPLACEMENT '?'

/* Converts to UTF-8; see the header. */
const char *
text_to_utf8(const char *text, size_t *len)
{
	char	   *utf8 = pg_server_to_any(text, (int) *len, PG_UTF8);

	if (utf8 != text)
		*len = strlen(utf8);
	return utf8;
}

/*
 * Converts one run of UTF-8 as far as it goes. Returns the number of source
 * bytes converted.
 */
static int
convert_run(Oid proc, const char *utf8, int len, StringInfo out)
{
	int			room = len * MAX_CONVERSION_GROWTH + 1;
	int			done;

	enlargeStringInfo(out, room);
	done = pg_do_encoding_conversion_buf(proc, PG_UTF8, GetDatabaseEncoding(),
										 (unsigned char *) unconstify(char *, utf8),
										 len,
										 (unsigned char *) out->data + out->len,
										 room, true);
	out->len += strlen(out->data + out->len);
	return done;
}

/* Converts piece by piece, with a replacement for what cannot be converted. */
static const char *
convert_with_replacement(Oid proc, const char *utf8, size_t len,
						 size_t *out_len, bool *replaced)
{
	/* pieces bound the room that MAX_CONVERSION_GROWTH asks for */
	const size_t piece = 64 * 1024;
	StringInfoData out;

	initStringInfo(&out);
	while (len > 0)
	{
		size_t		want = utf8_clip(utf8, len, piece);
		int			done = convert_run(proc, utf8, (int) want, &out);

		utf8 += done;
		len -= done;
		if ((size_t) done < want)
		{
			int			bad = Min((size_t) pg_utf_mblen((const unsigned char *) utf8), len);

			appendStringInfoChar(&out, REPLACEMENT);
			*replaced = true;
			utf8 += bad;
			len -= bad;
		}
	}
	*out_len = out.len;
	return out.data;
}

/* Converts from UTF-8; see the header. */
const char *
utf8_to_text(const char *utf8, size_t len, size_t *out_len, bool *replaced)
{
	int			encoding = GetDatabaseEncoding();
	Oid			proc;

	*out_len = len;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return utf8;
	proc = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(proc))
		{
		*out_len = 0;
		*replaced = true;
		return "";
	}
	return convert_with_replacement(proc, utf8, len, out_len, replaced);
}

/* Clips UTF-8; see the header. */
size_t
utf8_clip(const char *text, size_t len, size_t max)
{
	if (len <= max)
		return len;
	while (max > 0 && ((unsigned char) text[max] & 0xC0) == 0x80)
		max--;
	return max;
}
