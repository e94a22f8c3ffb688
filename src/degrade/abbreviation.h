/*
 * abbreviation.h
 *	  Whether a period ends a sentence or shortens a word.
 */
#ifndef LLM_ABBREVIATION_H
#define LLM_ABBREVIATION_H

#include "postgres.h"

#include "degrade/lexeme.h"
#include "degrade/marks.h"

/* More than the table has. */
#define ABBREVIATIONS_MAX 160

typedef struct Abbreviations
{
	int			n;
	ListItem	items[ABBREVIATIONS_MAX];
} Abbreviations;

extern void abbreviations_load(Abbreviations *abbreviations);

/*
 * Whether the period behind a word is an abbreviation's, in mid-sentence.
 * `words` tells the stop words of the text's language.
 */
extern bool abbreviation_at(const Abbreviations *abbreviations,
							const Marks *marks, LexemeReader *words,
							const char *word, const char *period);

#endif							/* LLM_ABBREVIATION_H */
