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
	BuiltinOption options[BUILTIN_MAX_OPTIONS];
}			builtin_models[] =
{
	{"rule", BUILTIN_RULE, {{NULL, 0}}},
	{"extract", BUILTIN_EXTRACT,
	{{"sentences", EXTRACT_MAX_SENTENCES}, {"config", 0}}},
	{"echo", BUILTIN_ECHO, {{NULL, 0}}},
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

/* Finds an option of a model, or NULL. */
const BuiltinOption *
builtin_option(BuiltinModel model, const char *name)
{
	for (size_t i = 0; i < lengthof(builtin_models); i++)
	{
		const BuiltinOption *options = builtin_models[i].options;

		if (builtin_models[i].model != model)
			continue;
		for (int o = 0; o < BUILTIN_MAX_OPTIONS && options[o].name; o++)
			if (strcmp(options[o].name, name) == 0)
				return &options[o];
	}
	return NULL;
}
