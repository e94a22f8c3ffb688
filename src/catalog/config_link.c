/*
 * config_link.c
 *	  Ties the rows of a snapshot together: references and inheritance.
 *
 * The tables' triggers see to it that references lead somewhere, but a restore
 * brings rows in any order: what leads nowhere gets a problem in words, and is
 * never an error here.
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "config_internal.h"

static void link_providers(Config *config);
static void link_regions(Config *config);
static void add_implicit_region(Provider *provider);
static void finish_region(Region *region, Provider *provider);
static uint32 hash_host(const char *url);
static const char *region_problem(const Region *region, bool is_templated);
static char *effective_url(const char *base_url, const char *region);
static void link_models(Config *config);
static void add_implicit_models(Config *config);
static void add_implicit_model(Config *config, char *provider, char *name);
static void drop_repeated_models(Config *config);
static void finish_model(Model *model);
static void link_tiers(Config *config);
static void link_routes(Config *config);
static const char *route_problem(const Route *route);
static void link_candidates(Config *config);
static void keep_enabled_rules(Config *config);
static int	compare_providers(const void *a, const void *b);
static int	compare_regions(const void *a, const void *b);
static int	compare_models(const void *a, const void *b);
static int	compare_tiers(const void *a, const void *b);
static int	compare_routes(const void *a, const void *b);
static int	compare_rules(const void *a, const void *b);
static int	compare_secrets(const void *a, const void *b);

#define SORT(array, n, compare) \
	do { \
		if ((n) > 1) \
			qsort((array), (n), sizeof((array)[0]), (compare)); \
	} while (0)

/* Completes a snapshot whose rows have been read. */
void
config_link(Config *config)
{
	SORT(config->secrets, config->nsecrets, compare_secrets);
	link_providers(config);
	link_regions(config);
	config_keep_probes(config);
	link_models(config);
	link_tiers(config);
	link_routes(config);
	link_candidates(config);
	config_add_probes(config);
	config_add_targets(config);
	config_find_cells(config);
	keep_enabled_rules(config);
}

/* Finds the dialects, and sees to it that breakers can work. */
static void
link_providers(Config *config)
{
	SORT(config->providers, config->nproviders, compare_providers);
	for (int i = 0; i < config->nproviders; i++)
	{
		Provider   *provider = &config->providers[i];

		clamp_breaker(&provider->breaker);
		provider->dialect = dialect_find(provider->dialect_name);
		if (provider->dialect == NULL)
			provider->problem = psprintf("dialect \"%s\" does not exist",
										 provider->dialect_name);
	}
}

/*
 * Gives each provider its regions. Both arrays are sorted by the provider's
 * name, so that one walk finds all; a region of nobody is left alone.
 */
static void
link_regions(Config *config)
{
	Region	   *region = config->regions;
	Region	   *end = config->regions + config->nregions;

	SORT(config->regions, config->nregions, compare_regions);
	for (int i = 0; i < config->nproviders; i++)
	{
		Provider   *provider = &config->providers[i];

		while (region < end &&
			   strcmp(region->provider_name, provider->name) < 0)
			region++;
		provider->regions = region;
		while (region < end &&
			   strcmp(region->provider_name, provider->name) == 0)
		{
			region++;
			provider->nregions++;
		}
		if (provider->nregions == 0)
			add_implicit_region(provider);
		for (int r = 0; r < provider->nregions; r++)
			finish_region(&provider->regions[r], provider);
	}
}

/* Gives a provider without a row in llm_region its only one. */
static void
add_implicit_region(Provider *provider)
{
	Region	   *region = palloc0(sizeof(Region));

	region->name = IMPLICIT_REGION;
	region->provider_name = provider->name;
	region->position = 1;
	region->weight = 1;
	region->enabled = true;
	region->implicit = true;
	provider->regions = region;
	provider->nregions = 1;
}

/* Lets a region inherit from its provider, and that from the dialect. */
static void
finish_region(Region *region, Provider *provider)
{
	const char *base_url = region->base_url;

	region->provider = provider;
	if (region->secret == NULL)
		region->secret = provider->secret;
	if (base_url == NULL)
		base_url = provider->base_url;
	if (base_url == NULL && provider->dialect)
		base_url = provider->dialect->base_url;
	region->base_url = base_url ? effective_url(base_url, region->name) : NULL;
	region->host = region->base_url ? hash_host(region->base_url) : 0;
	region->problem = region_problem(region, base_url &&
									 strstr(base_url, REGION_PLACEHOLDER));
}

/* Returns a number for the host and port of a URL. */
static uint32
hash_host(const char *url)
{
	const char *host = strstr(url, "://");

	host = host ? host + 3 : url;
	return hash_bytes((const unsigned char *) host,
					  (int) strcspn(host, "/"));
}

/*
 * Says why a region cannot work, or NULL. A key must not go to a host whose
 * name nobody wrote, as the implicit region's would be.
 */
static const char *
region_problem(const Region *region, bool is_templated)
{
	const Provider *provider = region->provider;

	if (provider->problem)
		return provider->problem;
	if (region->base_url == NULL)
		return psprintf("provider \"%s\" has no base_url, and dialect %s has no public one",
						provider->name, provider->dialect_name);
	if (region->implicit && is_templated)
		return psprintf("provider \"%s\" has {region} in base_url, but no row in llm_region",
						provider->name);
	return NULL;
}

/* Puts the region's name in the place of {region}; cuts slashes at the end. */
static char *
effective_url(const char *base_url, const char *region)
{
	StringInfoData url;
	const char *found;

	initStringInfo(&url);
	while ((found = strstr(base_url, REGION_PLACEHOLDER)) != NULL)
	{
		appendBinaryStringInfo(&url, base_url, found - base_url);
		appendStringInfoString(&url, region);
		base_url = found + strlen(REGION_PLACEHOLDER);
	}
	appendStringInfoString(&url, base_url);
	while (url.len > 0 && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	return url.data;
}

/*
 * Lets models inherit; those that only a route or a probe names get an entry,
 * too.
 */
static void
link_models(Config *config)
{
	add_implicit_models(config);
	SORT(config->models, config->nmodels, compare_models);
	drop_repeated_models(config);
	for (int i = 0; i < config->nmodels; i++)
	{
		Model	   *model = &config->models[i];

		model->provider = config_provider(config, model->provider_name);
		finish_model(model);
	}
}

/*
 * Appends a model for each route and probe, whether there is one already or
 * not.
 */
static void
add_implicit_models(Config *config)
{
	int			more = config->nroutes + config->nprobes;

	if (more == 0)
		return;
	config->models = config->models ?
		repalloc(config->models, (config->nmodels + more) * sizeof(Model)) :
		palloc(more * sizeof(Model));
	for (int i = 0; i < config->nroutes; i++)
		add_implicit_model(config, config->routes[i].provider_name,
						   config->routes[i].model_name);
	for (int i = 0; i < config->nprobes; i++)
		add_implicit_model(config, config->probes[i].provider_name,
						   config->probes[i].model_name);
}

/* Appends a model, for which there is room. */
static void
add_implicit_model(Config *config, char *provider, char *name)
{
	config->models[config->nmodels++] = (Model) {
		.provider_name = provider,
		.name = name,
		.input_price = PRICE_UNKNOWN,
		.output_price = PRICE_UNKNOWN,
		.cached_input_price = PRICE_UNKNOWN,
		.enabled = true,
	};
}

/* Keeps the first of each run of one name: the one with a row, if any has. */
static void
drop_repeated_models(Config *config)
{
	int			kept = 0;

	for (int i = 0; i < config->nmodels; i++)
	{
		const Model *model = &config->models[i];
		const Model *last = kept > 0 ? &config->models[kept - 1] : NULL;

		if (last && strcmp(last->provider_name, model->provider_name) == 0 &&
			strcmp(last->name, model->name) == 0)
			continue;
		config->models[kept++] = *model;
	}
	config->nmodels = kept;
}

/* Lets a model inherit from itself and from its dialect. */
static void
finish_model(Model *model)
{
	if (model->cached_input_price == PRICE_UNKNOWN)
		model->cached_input_price = model->input_price;
	if (!model->has_capabilities && model->provider && model->provider->dialect)
		model->capabilities = model->provider->dialect->capabilities;
}

/* Finds the fallbacks. */
static void
link_tiers(Config *config)
{
	SORT(config->tiers, config->ntiers, compare_tiers);
	for (int i = 0; i < config->ntiers; i++)
	{
		Tier	   *tier = &config->tiers[i];

		tier->content_filter_next =
			strcmp(tier->on_content_filter, "next") == 0;
		if (tier->fallback_name)
			tier->fallback = config_tier(config, tier->fallback_name);
	}
}

/* Finds what the routes name. */
static void
link_routes(Config *config)
{
	SORT(config->routes, config->nroutes, compare_routes);
	for (int i = 0; i < config->nroutes; i++)
		config_finish_route(config, &config->routes[i]);
}

/* Finds what one route names, or says why it leads nowhere. */
void
config_finish_route(Config *config, Route *route)
{
	route->tier = config_tier(config, route->tier_name);
	route->model_utf8 = try_to_utf8(route->model_name);
	if (strcmp(route->provider_name, BUILTIN_PROVIDER) == 0)
		route->builtin = builtin_find(route->model_name);
	else
		route->provider = config_provider(config, route->provider_name);
	if (route->provider)
		route->model = provider_model(config, route->provider,
									  route->model_name);
	if (route->problem == NULL)
		route->problem = route_problem(route);
}

/* Says why a route leads nowhere, whatever the region, or NULL. */
static const char *
route_problem(const Route *route)
{
	if (route->builtin != BUILTIN_NONE)
		return NULL;
	if (strcmp(route->provider_name, BUILTIN_PROVIDER) == 0)
		return psprintf("provider \"%s\" has no model \"%s\"",
						BUILTIN_PROVIDER, route->model_name);
	if (route->provider == NULL)
		return psprintf("provider \"%s\" does not exist",
						route->provider_name);
	if (route->region_name &&
		provider_region(route->provider, route->region_name) == NULL)
		return psprintf("provider \"%s\" has no region \"%s\"",
						route->provider_name, route->region_name);
	if (route->model_utf8 == NULL)
		return "the model's name cannot be converted to UTF-8";
	return NULL;
}

/* Hands each tier its run of the sorted routes. */
static void
link_candidates(Config *config)
{
	int			first = 0;
	int			end;

	for (; first < config->nroutes; first = end)
	{
		Route	   *route = &config->routes[first];

		for (end = first + 1; end < config->nroutes; end++)
			if (strcmp(config->routes[end].tier_name, route->tier_name) != 0)
				break;
		if (route->tier)
			config_add_candidates(config, route->tier, route, end - first);
	}
}

/* Drops the disabled rules and sorts the others in the order to try. */
static void
keep_enabled_rules(Config *config)
{
	int			kept = 0;

	for (int i = 0; i < config->nrules; i++)
		if (config->rules[i].enabled)
			config->rules[kept++] = config->rules[i];
	config->nrules = kept;
	SORT(config->rules, config->nrules, compare_rules);
}

/* Compares two numbers for qsort. */
static inline int
compare_ints(int a, int b)
{
	return (a > b) - (a < b);
}

static int
compare_providers(const void *a, const void *b)
{
	return strcmp(((const Provider *) a)->name, ((const Provider *) b)->name);
}

static int
compare_regions(const void *a, const void *b)
{
	const Region *left = a;
	const Region *right = b;
	int			order = strcmp(left->provider_name, right->provider_name);

	if (order == 0)
		order = compare_ints(left->position, right->position);
	return order ? order : strcmp(left->name, right->name);
}

/* Of several of one name the one that has a row comes first. */
static int
compare_models(const void *a, const void *b)
{
	const Model *left = a;
	const Model *right = b;
	int			order = strcmp(left->provider_name, right->provider_name);

	if (order == 0)
		order = strcmp(left->name, right->name);
	return order ? order : compare_ints(right->known, left->known);
}

static int
compare_tiers(const void *a, const void *b)
{
	return strcmp(((const Tier *) a)->name, ((const Tier *) b)->name);
}

/* By tier and position; by names after that, for views that do not change. */
static int
compare_routes(const void *a, const void *b)
{
	const Route *left = a;
	const Route *right = b;
	int			order = strcmp(left->tier_name, right->tier_name);

	if (order == 0)
		order = compare_ints(left->position, right->position);
	if (order == 0)
		order = strcmp(left->provider_name, right->provider_name);
	if (order == 0)
		order = strcmp(left->model_name, right->model_name);
	if (order == 0)
		order = strcmp(left->region_name ? left->region_name : "",
					   right->region_name ? right->region_name : "");
	return order;
}

static int
compare_rules(const void *a, const void *b)
{
	const Rule *left = a;
	const Rule *right = b;
	int			order = compare_ints(left->position, right->position);

	return order ? order : strcmp(left->name, right->name);
}

static int
compare_secrets(const void *a, const void *b)
{
	return strcmp(((const StoredSecret *) a)->name,
				  ((const StoredSecret *) b)->name);
}
