/*
 * flush.c
 *	  llm_flush(): waits for the worker to store what calls have left.
 */
#include "postgres.h"

#include "fmgr.h"

#include "queue/journal.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_flush);

/* llm_flush() → void */
Datum
llm_flush(PG_FUNCTION_ARGS pg_attribute_unused())
{
	require_preload();
	journal_flush();
	PG_RETURN_VOID();
}
