/*
 * config_probes.c
 *	  The targets of each probe: what the worker asks by itself.
 *
 * A probe needs no route: each of its targets gets one of its own, alone in a
 * tier of its own, since a call walks through a tier. Where a tier of the table
 * leads to the target, too, it is asked as that tier's calls ask it: within its
 * times, and with its route's params.
 */
#include "postgres.h"

#include "config_internal.h"

/* The tier whose times are those of a target that no tier leads to. */
#define DEFAULT_TIER "default"

static void add_targets(Config *config, Probe *probe);
static void add_tier(const Config *config, ProbedTarget *target);
static const Route *first_route_to(const Config *config,
								   const Candidate *candidate);
static int	compare_probes(const void *a, const void *b);

/* Drops the disabled probes, and sorts the others. */
void
config_keep_probes(Config *config)
{
	int			kept = 0;

	for (int i = 0; i < config->nprobes; i++)
		if (config->probes[i].enabled)
			config->probes[kept++] = config->probes[i];
	config->nprobes = kept;
	if (kept > 1)
		qsort(config->probes, kept, sizeof(Probe), compare_probes);
}

/* Gives each probe its targets, once tiers have their candidates. */
void
config_add_probes(Config *config)
{
	for (int i = 0; i < config->nprobes; i++)
		add_targets(config, &config->probes[i]);
}

/*
 * Gives a probe a target for each region it is for; one without a region, and
 * with a problem, where there is none.
 */
static void
add_targets(Config *config, Probe *probe)
{
	Route		route = {
		.tier_name = DEFAULT_TIER,
		.provider_name = probe->provider_name,
		.model_name = probe->model_name,
		.region_name = probe->region_name,
		.enabled = true,
	};
	Region	   *region;

	config_finish_route(config, &route);
	probe->prompt_utf8 = try_to_utf8(probe->prompt);
	if (route.problem == NULL && probe->prompt_utf8 == NULL)
		route.problem = "the prompt cannot be converted to UTF-8";
	probe->ntargets = config_route_regions(&route, &region);
	probe->targets = palloc0(probe->ntargets * sizeof(ProbedTarget));
	for (int i = 0; i < probe->ntargets; i++)
	{
		ProbedTarget *target = &probe->targets[i];

		target->probe = probe;
		target->route = route;
		config_fill_candidate(&target->candidate, &target->route,
							  region ? &region[i] : NULL);
		add_tier(config, target);
	}
}

/*
 * Puts a target into a tier that is like the one of the first route to it, or
 * like the default one. There is none without the latter.
 */
static void
add_tier(const Config *config, ProbedTarget *target)
{
	const Route *route = first_route_to(config, &target->candidate);

	if (route)
	{
		target->route.tier = route->tier;
		target->route.params = route->params;
	}
	if (target->route.tier == NULL)
		return;
	target->tier = *target->route.tier;
	target->tier.fallback = NULL;
	target->tier.ncandidates = 1;
	target->tier.candidates = &target->candidate;
	target->route.tier = &target->tier;
}

/* Finds the first route of an enabled tier to a candidate's target, or NULL. */
static const Route *
first_route_to(const Config *config, const Candidate *candidate)
{
	if (candidate->region == NULL)
		return NULL;
	for (int t = 0; t < config->ntiers; t++)
	{
		const Tier *tier = &config->tiers[t];

		for (int i = 0; tier->enabled && i < tier->ncandidates; i++)
			if (tier->candidates[i].region == candidate->region &&
				tier->candidates[i].route->model == candidate->route->model)
				return tier->candidates[i].route;
	}
	return NULL;
}

/* By provider, model and region; the one for each region comes first. */
static int
compare_probes(const void *a, const void *b)
{
	const Probe *left = a;
	const Probe *right = b;
	int			order = strcmp(left->provider_name, right->provider_name);

	if (order == 0)
		order = strcmp(left->model_name, right->model_name);
	if (order == 0)
		order = strcmp(left->region_name ? left->region_name : "",
					   right->region_name ? right->region_name : "");
	return order;
}
