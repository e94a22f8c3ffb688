/*
 * builtin.c
 *	  The names of the compiled-in provider's models and their options.
 */
#include "postgres.h"

#include "builtin.h"

#define BUILTIN_MAX_OPTIONS 2

static const struct
{
	const char *name;
	BuiltinModel model;
	const char *options[BUILTIN_MAX_OPTIONS + 1];
}			builtin_models[] =
{
	{"rule", BUILTIN_RULE, {NULL}},
	{"extract", BUILTIN_EXTRACT, {"sentences", "config", NULL}},
	{"echo", BUILTIN_ECHO, {NULL}},
};

/* Returns the model of that name, or BUILTIN_NONE. */
BuiltinModel
builtin_find(const char *model)
{
	for (size_t i = 0; i < lengthof(builtin_models); i++)
		if (strcmp(builtin_models[i].name, model) == 0)
			return builtin_models[i].model;
	return BUILTIN_NONE;
}

/* Returns the models' names for a hint. */
const char *
builtin_names(void)
{
	return "rule, extract, echo";
}

/* Says whether a route to that model may have this key in params. */
bool
builtin_has_option(BuiltinModel model, const char *key)
{
	for (size_t i = 0; i < lengthof(builtin_models); i++)
	{
		if (builtin_models[i].model != model)
			continue;
		for (const char *const *o = builtin_models[i].options; *o; o++)
			if (strcmp(*o, key) == 0)
				return true;
	}
	return false;
}
