/*
 * builtin.h
 *	  The names of the compiled-in provider: what a route may say. What its
 *	  models do is degrade/'s.
 */
#ifndef LLM_BUILTIN_H
#define LLM_BUILTIN_H

#include "postgres.h"

#define BUILTIN_PROVIDER "builtin"

typedef enum BuiltinModel
{
	BUILTIN_NONE,
	BUILTIN_RULE,
	BUILTIN_EXTRACT,
	BUILTIN_ECHO
} BuiltinModel;

extern BuiltinModel builtin_find(const char *model);
extern const char *builtin_names(void); /* "rule, extract, echo" */

#define EXTRACT_MAX_SENTENCES 100

/* An option of a builtin model, as a key of params; null is the default. */
typedef struct BuiltinOption
{
	const char *name;
	int			max;			/* a whole number from 1 to this; 0: a text */
} BuiltinOption;

/* The option of that name, or NULL. */
extern const BuiltinOption *builtin_option(BuiltinModel model,
										   const char *name);

#endif							/* LLM_BUILTIN_H */
