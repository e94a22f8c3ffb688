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

/* Loaded by shared_preload_libraries, so that functions may run. */
extern bool llm_preloaded;

extern void settings_init(void);
extern void require_preload(void);

#endif							/* LLM_SETTINGS_H */
