/*
 * llm_failover.c
 *	  Where PostgreSQL loads us.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "settings.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* Runs once a process, or once in the postmaster when preloaded. */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;					/* each function says what is missing */

	settings_init();
	llm_preloaded = true;
}
