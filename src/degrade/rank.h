/*
 * rank.h
 *	  Which sentences of a text say most of it.
 */
#ifndef LLM_RANK_H
#define LLM_RANK_H

#include "postgres.h"

#include "degrade/lexeme.h"
#include "degrade/sentence.h"

/*
 * Picks at least one and at most k of n sentences. Returns for each whether it
 * was picked, palloc'd. Takes memory in proportion to the text, and time in
 * proportion to the text and k.
 */
extern bool *rank_pick(const Sentence *sentences, int n, LexemeReader *words,
					   int k);

#endif							/* LLM_RANK_H */
