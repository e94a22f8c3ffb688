/*
 * entry.c
 *	  The bytes of an entry of the journal: see entry.h.
 *
 * A number is written seven bits a byte, the lowest first; the highest bit says
 * that more follow. A text is its length and its bytes.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "queue/entry.h"

#define BITS	7
#define MORE	0x80

/* Stands for the bytes of a text that are not valid in the database. */
#define REPLACEMENT '?'

void
entry_put_number(EntryWriter *writer, uint64 number)
{
	do
	{
		unsigned char byte = number & (MORE - 1);

		number >>= BITS;
		Assert(writer->len < ENTRY_MAX);
		writer->bytes[writer->len++] = (char) (number ? byte | MORE : byte);
	} while (number);
}

void
entry_put_text(EntryWriter *writer, const char *text, size_t max)
{
	size_t		len = text ? strnlen(text, max + 1) : 0;

	if (len > max)
		len = pg_mbcliplen(text, (int) len, (int) max);
	entry_put_number(writer, len);
	Assert(writer->len + len <= ENTRY_MAX);
	if (len > 0)
		memcpy(writer->bytes + writer->len, text, len);
	writer->len += len;
}

uint64
entry_get_number(EntryReader *reader)
{
	uint64		number = 0;

	for (int shift = 0; reader->left > 0 && shift < 64; shift += BITS)
	{
		unsigned char byte = (unsigned char) *reader->bytes++;

		reader->left--;
		number |= (uint64) (byte & (MORE - 1)) << shift;
		if (!(byte & MORE))
			break;
	}
	return number;
}

/* Takes a text as it stands there. */
static const char *
take_bytes(EntryReader *reader, size_t *len)
{
	uint64		told = entry_get_number(reader);
	const char *bytes = reader->bytes;

	*len = Min(told, reader->left);
	reader->bytes += *len;
	reader->left -= *len;
	return bytes;
}

/*
 * The change of a breaker may have been noted by a process of another database,
 * in another encoding: then what is not plain ASCII is replaced.
 */
char *
entry_get_text(EntryReader *reader)
{
	size_t		len;
	const char *bytes = take_bytes(reader, &len);
	char	   *text;

	if (len == 0)
		return NULL;
	text = pnstrdup(bytes, len);
	if (!pg_verifymbstr(text, (int) len, true))
		for (size_t i = 0; i < len; i++)
			if (IS_HIGHBIT_SET(text[i]))
				text[i] = REPLACEMENT;
	return text;
}

void
entry_skip_text(EntryReader *reader)
{
	size_t		len;

	(void) take_bytes(reader, &len);
}
