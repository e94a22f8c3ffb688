/*
 * entry.h
 *	  The bytes of an entry of the journal: numbers and texts, one after the
 *	  other, small where they are small.
 *
 * Writing neither throws nor allocates. A text is in the encoding of the
 * database of who writes; reading gives one that is valid in the reader's.
 */
#ifndef LLM_ENTRY_H
#define LLM_ENTRY_H

#include "postgres.h"

/* The longest entry: texts are cut so that none is longer. */
#define ENTRY_MAX 4096

typedef struct EntryWriter
{
	size_t		len;
	char		bytes[ENTRY_MAX];
} EntryWriter;

extern void entry_put_number(EntryWriter *writer, uint64 number);

/*
 * Puts a text, cut to `max` bytes where that does not cut a character. An empty
 * text is a NULL.
 */
extern void entry_put_text(EntryWriter *writer, const char *text, size_t max);

typedef struct EntryReader
{
	const char *bytes;
	size_t		left;
} EntryReader;

extern uint64 entry_get_number(EntryReader *reader);

/* Returns a text in the current memory context, or NULL. */
extern char *entry_get_text(EntryReader *reader);

/* Goes over a text. */
extern void entry_skip_text(EntryReader *reader);

#endif							/* LLM_ENTRY_H */
