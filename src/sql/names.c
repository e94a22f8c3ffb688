/*
 * names.c
 *	  The names of a provider, a region and a model that a person gives to a
 *	  function, and what they mean.
 *
 * What is switched off or not routed is still a name: only what no row of the
 * configuration knows is refused.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "cells.h"
#include "driver.h"

/* Reads the first three arguments of a function. */
Names
names_of_args(FunctionCallInfo fcinfo)
{
	char	   *names[3];

	for (int i = 0; i < 3; i++)
		names[i] = PG_ARGISNULL(i) ? NULL :
			text_to_cstring(PG_GETARG_TEXT_PP(i));
	return (Names) {names[0], names[1], names[2]};
}

/* Raises LL006 for a name that there is not. */
static void pg_attribute_noreturn()
unknown_name(const char *what, const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(SQLSTATE_LL(6)),
			 errmsg("%s \"%s\" does not exist", what, name),
			 hint ? errhint("%s", hint) : 0));
}

/* Returns the question whether another name was meant, NULL without one. */
static const char *
did_you_mean(const char *closest)
{
	return closest ? psprintf("Did you mean \"%s\"?", closest) : NULL;
}

/* Returns the hint that names a provider's regions. */
static const char *
regions_hint(const Provider *provider)
{
	StringInfoData hint;

	initStringInfo(&hint);
	appendStringInfoString(&hint, "Its regions: ");
	for (int i = 0; i < provider->nregions; i++)
		appendStringInfo(&hint, "%s%s", i > 0 ? ", " : "",
						 provider->regions[i].name);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

/* Raises LL006 for a region that a provider does not have. */
static void pg_attribute_noreturn()
unknown_region(const Provider *provider, const char *region)
{
	ereport(ERROR,
			(errcode(SQLSTATE_LL(6)),
			 errmsg("provider \"%s\" has no region \"%s\"",
					provider->name, region),
			 errhint("%s", regions_hint(provider))));
}

/* Says whether any provider has a region of that name. */
static bool
region_exists(const Config *config, const char *region)
{
	for (int i = 0; i < config->nproviders; i++)
		if (provider_region(&config->providers[i], region))
			return true;
	return false;
}

/*
 * Says whether a provider, or with NULL any, has a model of that name; if not,
 * *closest is the nearest one that there is, or NULL.
 */
static bool
model_exists(const Config *config, const Provider *provider,
			 const char *model, const char **closest)
{
	const char **names = palloc((config->nmodels + 1) * sizeof(char *));
	int			n = 0;

	for (int i = 0; i < config->nmodels; i++)
	{
		const Model *it = &config->models[i];

		if (provider && strcmp(it->provider_name, provider->name) != 0)
			continue;
		if (strcmp(it->name, model) == 0)
			return true;
		names[n++] = it->name;
	}
	*closest = closest_name(model, names, n);
	return false;
}

/* Raises LL006 when a provider, region or model that was named is unknown. */
void
names_check(const Names *names, const Config *config)
{
	const Provider *provider = NULL;
	const char *hint;

	if (names->provider)
	{
		provider = config_provider(config, names->provider);
		if (provider == NULL)
			unknown_name("provider", names->provider,
						 did_you_mean(config_closest_provider(config,
															  names->provider)));
		if (names->region && provider_region(provider, names->region) == NULL)
			unknown_region(provider, names->region);
	}
	else if (names->region && !region_exists(config, names->region))
		unknown_name("region", names->region, "No provider has it.");
	if (names->model &&
		!model_exists(config, provider, names->model, &hint))
		unknown_name("model", names->model,
					 hint ? did_you_mean(hint) :
					 "Neither llm_model nor llm_route names it.");
}

/*
 * Says whether a cell belongs to what was named: to the scope itself or to one
 * below it. Tiers do not.
 */
bool
names_cover(const Names *names, const CellKey *key)
{
	if (key->scope == CELL_TIER)
		return false;
	if (names->provider && strcmp(key->provider, names->provider) != 0)
		return false;
	/* a wider scope has no name there */
	if (names->region && strcmp(key->region, names->region) != 0)
		return false;
	return names->model == NULL || strcmp(key->model, names->model) == 0;
}
