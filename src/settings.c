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
static void define_memory_settings(void);

/* Defines all settings and reserves their prefix. */
void
settings_init(void)
{
	define_call_settings();
	define_safety_settings();
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
							"Sets for how many databases breakers are kept over a restart.",
							NULL, &llm_max_databases, DEFAULT_MAX_DATABASES,
							/* min_value= */ 1,
							/* max_value= */ LARGEST_MAX_DATABASES,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
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
