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

/* Whether params of a route to that model may have this key. */
extern bool builtin_has_option(BuiltinModel model, const char *key);

#endif							/* LLM_BUILTIN_H */
