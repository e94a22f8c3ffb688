/*
 * lexeme.h
 *	  The words of a text as PostgreSQL's text search sees them: stop words
 *	  are gone, the others are stems.
 */
#ifndef LLM_LEXEME_H
#define LLM_LEXEME_H

#include "postgres.h"

#include "tsearch/ts_type.h"

typedef struct LexemeReader
{
	Oid			config;			/* text search configuration */
	MemoryContext scratch;
	int			n;				/* of the text read last */
	int			max;
	uint64	   *lexemes;		/* their hashes */
} LexemeReader;

/* Looks up a configuration, qualified or not. InvalidOid: there is none. */
extern Oid	lexeme_config(const char *name);

extern void lexeme_reader_init(LexemeReader *reader, Oid config);

/* Reads the lexemes of at most LEXEME_MAX_TEXT bytes of a text. */
#define LEXEME_MAX_TEXT (MAXSTRLEN - 1)
extern void lexeme_read(LexemeReader *reader, const char *text, int len);

#endif							/* LLM_LEXEME_H */
