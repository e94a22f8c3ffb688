/*
 * settings.c
 *	  The settings of the extension (GUC parameters).
 *
 * They are defined when the library is preloaded and only then: the sizes of
 * shared memory cannot be set later, and a function that works in one session
 * and not in the next would be worse than one that says so.
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "health/shared.h"
#include "settings.h"

#define DEFAULT_MAX_CELLS 1024
#define LARGEST_MAX_CELLS 65536	/* of some 10 kB each */

#define DEFAULT_MAX_DATABASES 16
#define LARGEST_MAX_DATABASES 1024

#define DEFAULT_MAX_RESPONSE_SIZE (16 * 1024)	/* kB */

/* A string in jsonb cannot be longer than 256 MB: llm_response.message. */
#define LARGEST_MAX_RESPONSE_SIZE (255 * 1024)	/* kB */

#define DEFAULT_WORKER_CONCURRENCY 256
#define LARGEST_WORKER_CONCURRENCY 10000

#define DEFAULT_ON_FINISH_TIMEOUT (30 * 1000)	/* ms */

#define MINUTES_PER_DAY (24 * 60)
#define DEFAULT_TASK_RETENTION (7 * MINUTES_PER_DAY)
#define DEFAULT_EVENT_RETENTION (30 * MINUTES_PER_DAY)
#define DEFAULT_USAGE_RETENTION (400 * MINUTES_PER_DAY)
#define LONGEST_RETENTION (100 * 366 * MINUTES_PER_DAY)

#define DEFAULT_JOURNAL_SIZE (4 * 1024) /* kB */
#define SMALLEST_JOURNAL_SIZE 64
#define LARGEST_JOURNAL_SIZE (1024 * 1024)

bool		llm_enabled = true;
char	   *llm_tier;
char	   *llm_feature;
char	   *llm_residency;
int			llm_on_error = ON_ERROR_RAISE;
bool		llm_allow_degraded = true;
bool		llm_log_failovers = true;
char	   *llm_proxy;
char	   *llm_ca_file;
bool		llm_allow_insecure_http = false;
int			llm_max_response_size = DEFAULT_MAX_RESPONSE_SIZE;
int			llm_worker_concurrency = DEFAULT_WORKER_CONCURRENCY;
double		llm_sync_reserve = 0.2;
int			llm_on_finish_timeout = DEFAULT_ON_FINISH_TIMEOUT;
int			llm_task_retention = DEFAULT_TASK_RETENTION;
int			llm_event_retention = DEFAULT_EVENT_RETENTION;
int			llm_usage_retention = DEFAULT_USAGE_RETENTION;
int			llm_journal_size = DEFAULT_JOURNAL_SIZE;
int			llm_max_cells = DEFAULT_MAX_CELLS;
int			llm_max_databases = DEFAULT_MAX_DATABASES;

bool		llm_preloaded = false;

static const struct config_enum_entry on_error_options[] = {
	{"raise", ON_ERROR_RAISE, false},
	{"null", ON_ERROR_NULL, false},
	{NULL, 0, false}
};

static void define_call_settings(void);
static void define_safety_settings(void);
static void define_queue_settings(void);
static void define_retention(const char *name, const char *description,
							 int *minutes, int usual);
static void define_memory_settings(void);

/* Defines all settings and reserves their prefix. */
void
settings_init(void)
{
	define_call_settings();
	define_safety_settings();
	define_queue_settings();
	define_memory_settings();
	MarkGUCPrefixReserved("llm_failover");
}

/* Defines what a call takes when its parameters are silent. */
static void
define_call_settings(void)
{
	DefineCustomStringVariable("llm_failover.tier",
							   "Sets the tier of calls that name none.",
							   NULL, &llm_tier, "default",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("llm_failover.feature",
							   "Sets the feature of calls that name none.",
							   NULL, &llm_feature, "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("llm_failover.residency",
							   "Adds residency labels to those of each call.",
							   "Comma-separated; a region must bear all of them.",
							   &llm_residency, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("llm_failover.on_error",
							 "Sets what a call does that nobody answered.",
							 NULL, &llm_on_error, ON_ERROR_RAISE,
							 on_error_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("llm_failover.allow_degraded",
							 "Allows answers of another tier than the one asked for.",
							 NULL, &llm_allow_degraded, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Defines what only a superuser decides. */
static void
define_safety_settings(void)
{
	DefineCustomBoolVariable("llm_failover.enabled",
							 "Allows requests to providers.",
							 "When off, no packet leaves; builtin models still answer.",
							 &llm_enabled, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("llm_failover.log_failovers",
							 "Logs each call in which an attempt failed.",
							 NULL, &llm_log_failovers, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("llm_failover.proxy",
							   "Sets the proxy of requests to providers.",
							   "Empty means the one of the server's environment.",
							   &llm_proxy, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("llm_failover.ca_file",
							   "Sets the file of trusted certificate authorities.",
							   "Empty means the system's.",
							   &llm_ca_file, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("llm_failover.allow_insecure_http",
							 "Allows plain http to hosts other than loopback.",
							 NULL, &llm_allow_insecure_http, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_failover.max_response_size",
							"Sets the largest response that is read.",
							NULL, &llm_max_response_size,
							DEFAULT_MAX_RESPONSE_SIZE,
							/* min_value= */ 1,
							/* max_value= */ LARGEST_MAX_RESPONSE_SIZE,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* Defines what the background worker does of its own accord. */
static void
define_queue_settings(void)
{
	DefineCustomIntVariable("llm_failover.worker_concurrency",
							"Sets how many tasks of a database are called at once.",
							"With 0 the queue stands.",
							&llm_worker_concurrency, DEFAULT_WORKER_CONCURRENCY,
							/* min_value= */ 0,
							/* max_value= */ LARGEST_WORKER_CONCURRENCY,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("llm_failover.sync_reserve",
							 "Sets the share of each limit that tasks leave to calls of sessions.",
							 "Of max_inflight, rpm and tpm.",
							 &llm_sync_reserve, 0.2,
							 /* min_value= */ 0.0,
							 /* max_value= */ 1.0,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_failover.on_finish_timeout",
							"Sets how long the on_finish function of a task may run.",
							NULL, &llm_on_finish_timeout,
							DEFAULT_ON_FINISH_TIMEOUT,
							/* min_value= */ 1,
							/* max_value= */ INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	define_retention("llm_failover.task_retention",
					 "Sets how long finished tasks are kept.",
					 &llm_task_retention, DEFAULT_TASK_RETENTION);
	define_retention("llm_failover.event_retention",
					 "Sets how long events are kept.",
					 &llm_event_retention, DEFAULT_EVENT_RETENTION);
	define_retention("llm_failover.usage_retention",
					 "Sets how long usage is kept.",
					 &llm_usage_retention, DEFAULT_USAGE_RETENTION);
}

/* Defines how long rows of one kind are kept. */
static void
define_retention(const char *name, const char *description, int *minutes,
				 int usual)
{
	DefineCustomIntVariable(name, description, "With -1 for ever.",
							minutes, usual,
							/* min_value= */ -1,
							/* max_value= */ LONGEST_RETENTION,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

/* Defines how large shared memory is. */
static void
define_memory_settings(void)
{
	DefineCustomIntVariable("llm_failover.max_cells",
							"Sets for how many providers, regions, targets and tiers health is shared.",
							"Those of all databases count; what is beyond is known to each session alone.",
							&llm_max_cells, DEFAULT_MAX_CELLS,
							/* min_value= */ 1,
							/* max_value= */ LARGEST_MAX_CELLS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_failover.max_databases",
							"Sets how many databases can have a queue, a journal, and breakers that outlive a restart.",
							NULL, &llm_max_databases, DEFAULT_MAX_DATABASES,
							/* min_value= */ 1,
							/* max_value= */ LARGEST_MAX_DATABASES,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("llm_failover.journal_size",
							"Sets how much memory holds what a database's sessions have to store.",
							"Usage and events wait there for the background worker.",
							&llm_journal_size, DEFAULT_JOURNAL_SIZE,
							/* min_value= */ SMALLEST_JOURNAL_SIZE,
							/* max_value= */ LARGEST_JOURNAL_SIZE,
							PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* Raises unless the library was loaded at server start. */
void
require_preload(void)
{
	if (likely(llm_preloaded))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("llm_failover must be loaded via shared_preload_libraries"),
			 errhint("Add it to shared_preload_libraries in postgresql.conf and restart.")));
}
