/*
 * llm_failover.c
 *	  Where PostgreSQL loads us.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "catalog/breaker_store.h"
#include "health/shared.h"
#include "queue/journal.h"
#include "settings.h"
#include "worker/launcher.h"
#include "worker/stop.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

static void request_memory(void);
static void start_memory(void);
static void note_breaker(const Cell *cell, const BreakerChange *change,
						 const char *reason);

/* Runs once a process, or once in the postmaster when preloaded. */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;					/* each function says what is missing */

	settings_init();
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_memory;
	health_listener = note_breaker;
	launcher_register();
	stop_install();
	llm_preloaded = true;
}

/* Asks for shared memory. */
static void
request_memory(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	shared_request();
	journal_request();
}

/* Makes what lies in it, at each start and after each crash. */
static void
start_memory(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	shared_startup();
	journal_startup();
}

/* Takes the news that a breaker's state has changed. */
static void
note_breaker(const Cell *cell, const BreakerChange *change,
			 const char *reason)
{
	breaker_store_note(cell, change, reason);
	journal_breaker(cell, change, reason);
}
