/*
 * config_lookup.c
 *	  Questions to a configuration snapshot.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/varlena.h"

#include "config.h"

/* "Did you mean" is silent beyond so many edits. */
#define MAX_EDITS 4

static int	compare_tier_name(const void *key, const void *element);
static int	compare_provider_name(const void *key, const void *element);
static int	compare_model_key(const void *key, const void *element);
static const char *closest_of_array(const char *given, const void *array,
									int n, size_t size, size_t name_offset);

/* bsearch() that takes an array of nothing. */
static inline void *
search(const void *key, const void *array, int n, size_t size,
	   int (*compare) (const void *, const void *))
{
	return n > 0 ? (void *) bsearch(key, array, n, size, compare) : NULL;
}

/* Finds a tier by name, or NULL. */
Tier *
config_tier(const Config *config, const char *name)
{
	return search(name, config->tiers, config->ntiers, sizeof(Tier),
				  compare_tier_name);
}

/* Finds a provider by name, or NULL. */
Provider *
config_provider(const Config *config, const char *name)
{
	return search(name, config->providers, config->nproviders,
				  sizeof(Provider), compare_provider_name);
}

/* Finds a provider's region, the implicit one too, or NULL. */
Region *
provider_region(const Provider *provider, const char *name)
{
	for (int i = 0; i < provider->nregions; i++)
		if (strcmp(provider->regions[i].name, name) == 0)
			return &provider->regions[i];
	return NULL;
}

/* Finds a model that has a row, a route or a probe, or NULL. */
Model *
provider_model(const Config *config, const Provider *provider,
			   const char *name)
{
	Model		key = {.provider_name = provider->name};

	key.name = unconstify(char *, name);
	return search(&key, config->models, config->nmodels, sizeof(Model),
				  compare_model_key);
}

/* Says whether a region bears all of these labels. */
bool
region_has_labels(const Region *region, char **labels, int nlabels)
{
	for (int i = 0; i < nlabels; i++)
	{
		bool		found = false;

		for (int j = 0; j < region->nlabels && !found; j++)
			found = strcmp(labels[i], region->labels[j]) == 0;
		if (!found)
			return false;
	}
	return true;
}

/* Says why a candidate takes no new work; see the header. */
const char *
candidate_disabled(const Candidate *candidate)
{
	const Route *route = candidate->route;

	if (route->provider && !route->provider->enabled)
		return "provider disabled";
	if (candidate->region && !candidate->region->enabled)
		return "region disabled";
	if (route->model && !route->model->enabled)
		return "model disabled";
	if (!route->enabled)
		return "route disabled";
	return candidate->problem;
}

/*
 * Finds the name nearest to a misspelt one: at most MAX_EDITS edits and half
 * of its length away, upper and lower case being the same when nothing else
 * differs; the first of equals. NULL when none is near, or what was given is
 * too long to be a name at all.
 */
const char *
closest_name(const char *given, const char *const *names, int nnames)
{
	int			given_len = (int) strnlen(given, NAMEDATALEN * 2);
	const char *best = NULL;
	int			limit;

	if (given_len == NAMEDATALEN * 2)
		return NULL;
	limit = Min(MAX_EDITS, pg_mbstrlen_with_len(given, given_len) / 2);
	for (int i = 0; i < nnames && limit >= 0; i++)
	{
		int			len = (int) strlen(names[i]);
		int			edits = varstr_levenshtein_less_equal(given, given_len,
														  names[i], len,
														  1, 1, 1, limit, true);

		if (pg_strcasecmp(given, names[i]) == 0)
			edits = 0;
		if (edits <= limit)
		{
			best = names[i];
			limit = edits - 1;
		}
	}
	return best;
}

/* Finds the tier whose name is nearest, or NULL. */
const char *
config_closest_tier(const Config *config, const char *given)
{
	return closest_of_array(given, config->tiers, config->ntiers,
							sizeof(Tier), offsetof(Tier, name));
}

/* Finds the provider whose name is nearest, or NULL. */
const char *
config_closest_provider(const Config *config, const char *given)
{
	return closest_of_array(given, config->providers, config->nproviders,
							sizeof(Provider), offsetof(Provider, name));
}

/* Finds the nearest of the names in an array of structs. */
static const char *
closest_of_array(const char *given, const void *array, int n, size_t size,
				 size_t name_offset)
{
	const char **names;

	if (n == 0)
		return NULL;
	names = palloc(n * sizeof(char *));
	for (int i = 0; i < n; i++)
		names[i] = *(char *const *) ((const char *) array + i * size +
									 name_offset);
	return closest_name(given, names, n);
}

static int
compare_tier_name(const void *key, const void *element)
{
	return strcmp(key, ((const Tier *) element)->name);
}

static int
compare_provider_name(const void *key, const void *element)
{
	return strcmp(key, ((const Provider *) element)->name);
}

static int
compare_model_key(const void *key, const void *element)
{
	const Model *left = key;
	const Model *right = element;
	int			order = strcmp(left->provider_name, right->provider_name);

	return order ? order : strcmp(left->name, right->name);
}
