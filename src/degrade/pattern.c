/*
 * pattern.c
 *	  PostgreSQL's own regular expressions; see the header.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "pattern.h"

void
subject_init(Subject *subject, const char *text)
{
	size_t		len = strlen(text);

	subject->text = text;
	subject->chars = palloc_extended((len + 1) * sizeof(pg_wchar),
									 MCXT_ALLOC_HUGE);
	subject->nchars = pg_mb2wchar_with_len(text, subject->chars, (int) len);
}

/* Compiles a pattern, or returns NULL when it is none. */
static regex_t *
compile(const char *pattern)
{
	MemoryContext caller = CurrentMemoryContext;
	regex_t    *volatile compiled = NULL;

	PG_TRY();
	{
		compiled = RE_compile_and_cache(cstring_to_text(pattern),
										REG_ADVANCED, DEFAULT_COLLATION_OID);
	}
	PG_CATCH();
	{
		/* thrown between two calls of the engine: nothing is held */
		if (geterrcode() != ERRCODE_INVALID_REGULAR_EXPRESSION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return compiled;
}

PatternMatch
pattern_match(const char *pattern, const Subject *subject, regmatch_t *parts,
			  int nparts)
{
	regex_t    *compiled = compile(pattern);
	int			result;

	if (compiled == NULL)
		return PATTERN_UNUSABLE;
	result = pg_regexec(compiled, subject->chars, subject->nchars, 0, NULL,
						nparts, parts, 0);
	if (result == REG_OKAY)
		return PATTERN_FOUND;
	if (result == REG_NOMATCH)
		return PATTERN_NOT_FOUND;

	/* 15 returns REG_CANCEL instead of throwing */
	CHECK_FOR_INTERRUPTS();
	if (result == REG_ESPACE)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while matching a regular expression.")));
	return PATTERN_UNUSABLE;
}
