/*
 * sentence.h
 *	  Cuts a text into sentences.
 */
#ifndef LLM_SENTENCE_H
#define LLM_SENTENCE_H

#include "postgres.h"

#include "degrade/lexeme.h"

/* What is longer (in bytes) is data rather than a sentence: left out. */
#define SENTENCE_MAX_LEN 4096

/* A longer text is read this far. */
#define SENTENCE_MAX_COUNT 100000

typedef struct Sentence
{
	const char *text;			/* in the text, without space around it */
	int			len;			/* bytes */
	bool		complete;		/* ends with a mark: is no heading */
} Sentence;

/*
 * Returns the number of sentences of a text in the database's encoding, and
 * the array itself, palloc'd. `words` tells the stop words of its language.
 */
extern int	sentence_split(const char *text, size_t len, LexemeReader *words,
						   Sentence **sentences);

#endif							/* LLM_SENTENCE_H */
