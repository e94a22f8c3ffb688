/*
 * local.h
 *	  The builtin models: answers without a provider.
 *
 * Run by a driver, inside a transaction, never from a libcurl loop. Text is in
 * the database's encoding. A model may decline and says why; it raises only
 * what a user must see (cancel, out of memory).
 */
#ifndef LLM_LOCAL_H
#define LLM_LOCAL_H

#include "postgres.h"

#include "catalog/config.h"

typedef struct LocalAnswer
{
	const char *text;			/* palloc'd, or NULL: declined */
	const char *reason;			/* when declined: "no rule matches" */
	const char *source;			/* rule, extract, model (echo) */
} LocalAnswer;

/*
 * Asks a builtin model. `prompt` is the prompt, or the last user message of a
 * chat; `params` the route's merged with the call's, may be NULL.
 */
extern void local_answer(BuiltinModel model, const Config *config,
						 const char *prompt, const char *feature,
						 const JsonNode *params, LocalAnswer *out);

extern void rule_answer(const Config *config, const char *prompt,
						const char *feature, LocalAnswer *out);
extern void extract_answer(const char *prompt, const JsonNode *params,
						   LocalAnswer *out);

#endif							/* LLM_LOCAL_H */
