/*
 * expect.h
 *	  Whether a probe's answer is the one that was expected.
 */
#ifndef LLM_EXPECT_H
#define LLM_EXPECT_H

#include "postgres.h"

#include "degrade/pattern.h"

/*
 * Matches an answer, in the database's encoding, with a regular expression. One
 * that takes too long is unusable. Needs no transaction.
 */
extern PatternMatch expect_match(const char *expect, const char *answer);

#endif							/* LLM_EXPECT_H */
