/*
 * eligible.c
 *	  Which candidates may take a call at all, whatever their health: by the
 *	  configuration, by what the call needs, and by what has failed in it.
 */
#include "postgres.h"

#include "catalog/secret.h"
#include "router.h"

const char *const router_out_residency = "residency is not satisfied";

/* Says whether a failure speaks of this candidate too. */
bool
router_covers(const FailedScope *failed, const Candidate *candidate)
{
	const Route *a = failed->candidate->route;
	const Route *b = candidate->route;

	if (a->provider != b->provider)
		return false;
	switch (failed->scope)
	{
		case SCOPE_PROVIDER:
			return true;
		case SCOPE_REGION:
			return failed->candidate->region == candidate->region;
		case SCOPE_MODEL:
			return a->model == b->model;
		case SCOPE_TARGET:
			return a->model == b->model &&
				failed->candidate->region == candidate->region;
		case SCOPE_NONE:
			break;
	}
	return false;
}

/* Says whether a scope that failed in this call covers a candidate. */
static bool
has_failed(const Router *router, const Candidate *candidate)
{
	for (int i = 0; i < router->nfailed; i++)
		if (router_covers(&router->failed[i], candidate))
			return true;
	return false;
}

/*
 * Says whether a model may take a request that was too long for another one:
 * its window is larger, or one of the two is unknown and it is another model.
 */
static bool
window_is_larger(const Model *model, const Model *than)
{
	if (model == than)
		return false;
	if (model->context_window == 0 || than->context_window == 0)
		return true;
	return model->context_window > than->context_window;
}

/* Says why a provider's candidate cannot take this call, or NULL. */
static const char *
why_provider_out(const Router *router, const Candidate *candidate)
{
	const RouteNeeds *needs = &router->needs;
	const Model *model = candidate->route->model;
	uint32		missing = needs->capabilities & ~model->capabilities;

	if (needs->providers_off)
		return needs->providers_off;
	if (!region_has_labels(candidate->region, needs->labels, needs->nlabels))
		return router_out_residency;
	if (missing & CAP_IMAGES)
		return "the model takes no images";
	if (missing & CAP_TOOLS)
		return "the model calls no tools";
	if (model->context_window != 0 && needs->min_tokens > model->context_window)
		return "the prompt is longer than the context window";
	if (needs->larger_than && !window_is_larger(model, needs->larger_than))
		return "the context window is not larger";
	if (has_failed(router, candidate))
		return "failed in this call";
	return NULL;
}

/*
 * Says why a candidate is out for this call whatever its health, or NULL.
 */
const char *
router_why_out(const Router *router, const Candidate *candidate)
{
	const char *disabled = candidate_disabled(candidate);

	if (!candidate->route->tier->enabled)
		return "tier disabled";
	if (disabled)
		return disabled;
	if (candidate->route->builtin != BUILTIN_NONE)
		return router->needs.larger_than ?
			"the request was refused as too long" : NULL;
	return why_provider_out(router, candidate);
}

/*
 * Says why no call can go to a candidate, by the configuration, or NULL.
 * Whether its tier is enabled is not asked.
 */
const char *
router_why_idle(const Config *config, const Candidate *candidate)
{
	const char *why = candidate_disabled(candidate);

	return why ? why : secret_problem(config, candidate);
}

/*
 * Says whether a tier (or its whole chain) has a provider's region that bears
 * all labels. A chain without providers is not concerned, so true.
 */
bool
router_satisfies_residency(const Config *config, const Tier *tier, bool chain,
						   int nlabels, char **labels)
{
	bool		any_provider = false;

	for (int seen = 0; tier && seen < config->ntiers; seen++)
	{
		for (int i = 0; i < tier->ncandidates; i++)
		{
			const Candidate *c = &tier->candidates[i];

			if (c->region == NULL)
				continue;
			any_provider = true;
			if (region_has_labels(c->region, labels, nlabels))
				return true;
		}
		tier = chain ? tier->fallback : NULL;
	}
	return !any_provider;
}
