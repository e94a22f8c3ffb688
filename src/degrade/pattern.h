/*
 * pattern.h
 *	  PostgreSQL's own regular expressions, on a text that is matched more than
 *	  once.
 *
 * They are compiled through its cache, under the database's collation. The
 * engine looks for interrupts itself, so that an expression that backtracks for
 * ever ends with the statement's timeout, or with whatever else cancels it. No
 * transaction is needed.
 */
#ifndef LLM_PATTERN_H
#define LLM_PATTERN_H

#include "postgres.h"

#include "mb/pg_wchar.h"
#include "regex/regex.h"

/* What patterns are matched on. The engine counts in characters. */
typedef struct Subject
{
	const char *text;
	pg_wchar   *chars;
	size_t		nchars;
} Subject;

typedef enum PatternMatch
{
	PATTERN_FOUND,
	PATTERN_NOT_FOUND,
	PATTERN_UNUSABLE			/* no expression, or too complex */
} PatternMatch;

/* Converts a text in the database's encoding for the engine, once for all. */
extern void subject_init(Subject *subject, const char *text);

/*
 * Says whether a pattern is found in the subject, and where its first parts
 * are. The tables' triggers refuse what is no expression, but a restore or a
 * replica may bring one: that is unusable, and no error.
 */
extern PatternMatch pattern_match(const char *pattern, const Subject *subject,
								  regmatch_t *parts, int nparts);

#endif							/* LLM_PATTERN_H */
