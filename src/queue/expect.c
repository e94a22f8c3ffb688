/*
 * expect.c
 *	  Whether a probe's answer is the one that was expected.
 *
 * Matching looks at no table, so that it is no piece of work as work.h has it:
 * it must come to an end while others have the extension locked, too. While it
 * lasts the worker's calls wait, and so its time is short.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "queue/expect.h"

#define EXPECT_TIME_LIMIT 1000	/* ms */

static PatternMatch match_in_time(const char *expect, const char *answer);
static void end_time_limit(void);

PatternMatch
expect_match(const char *expect, const char *answer)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "llm_failover expect",
												  ALLOCSET_DEFAULT_SIZES);
	PatternMatch match;

	MemoryContextSwitchTo(scratch);
	match = match_in_time(expect, answer);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return match;
}

/*
 * Matches, and gives up after a time: the engine looks for a cancel, as that of
 * a statement's timeout is.
 */
static PatternMatch
match_in_time(const char *expect, const char *answer)
{
	MemoryContext context = CurrentMemoryContext;
	volatile PatternMatch match = PATTERN_UNUSABLE;

	PG_TRY();
	{
		Subject		subject;

		enable_timeout_after(STATEMENT_TIMEOUT, EXPECT_TIME_LIMIT);
		subject_init(&subject, answer);
		match = pattern_match(expect, &subject, NULL, 0);
		end_time_limit();
	}
	PG_CATCH();
	{
		end_time_limit();
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return match;
}

/* A cancel that came too late must not hit what is done next. */
static void
end_time_limit(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}
