/*
 * settings.h
 *	  The settings of the extension (GUC parameters).
 */
#ifndef LLM_SETTINGS_H
#define LLM_SETTINGS_H

#include "postgres.h"

typedef enum OnError
{
	ON_ERROR_RAISE,
	ON_ERROR_NULL
} OnError;

extern bool llm_enabled;
extern char *llm_tier;
extern char *llm_feature;
extern char *llm_residency;
extern int	llm_on_error;
extern bool llm_allow_degraded;
extern bool llm_log_failovers;
extern char *llm_proxy;
extern char *llm_ca_file;
extern bool llm_allow_insecure_http;
extern int	llm_max_response_size;	/* kB */
extern int	llm_worker_concurrency; /* 0 = the queue stands */
extern double llm_sync_reserve; /* 0 to 1 */
extern int	llm_on_finish_timeout;	/* ms */
extern int	llm_task_retention; /* minutes; -1 = for ever */
extern int	llm_event_retention;
extern int	llm_usage_retention;
extern int	llm_journal_size;	/* kB, of a database */

/* Loaded by shared_preload_libraries, so that functions may run. */
extern bool llm_preloaded;

extern void settings_init(void);
extern void require_preload(void);

#endif							/* LLM_SETTINGS_H */
