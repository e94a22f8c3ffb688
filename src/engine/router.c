/*
 * router.c
 *	  Which candidate comes next: see router.h.
 *
 * A strategy is a function that picks one of a group's admitted candidates.
 * It sees shares, never SQL or sockets, so that others can be added beside
 * weighted choice without a change to the walk.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "router.h"

/* Picks one of n admitted candidates of a group, n > 0. */
typedef int (*Strategy) (const Candidate *const *group, int n);

static int	pick_weighted(const Candidate *const *group, int n);

static const struct
{
	const char *name;
	Strategy	pick;
}			strategies[] =
{
	{"weighted", pick_weighted},
};

/* Finds a tier's strategy. */
static Strategy
strategy_of(const Tier *tier)
{
	for (size_t i = 1; i < lengthof(strategies); i++)
		if (strcmp(strategies[i].name, tier->strategy) == 0)
			return strategies[i].pick;
	return strategies[0].pick;
}

/* Enters a tier with nothing tried. */
static void
enter_tier(Router *router, const Tier *tier)
{
	router->tier = tier;
	router->attempts = 0;
	router->tiers_seen++;
	router->states = tier->ncandidates == 0 ? NULL :
		palloc0(tier->ncandidates * sizeof(CandidateState));
}

/* Begins a walk at the tier asked for. Memory comes from the current context. */
void
router_start(Router *router, const Tier *tier, const RouteNeeds *needs)
{
	router->asked = tier;
	router->needs = *needs;
	router->nfailed = 0;
	router->tiers_seen = 0;
	router->used_up = false;
	enter_tier(router, tier);
}

/* Says whether the walk has been to a tier. */
static bool
has_seen(const Router *router, const Tier *tier)
{
	const Tier *seen = router->asked;

	for (int i = 0; i < router->tiers_seen; i++, seen = seen->fallback)
		if (seen == tier)
			return true;
	return false;
}

/*
 * Goes on to the fallback. False at the chain's end, which in a cycle is where
 * it begins again: the tables refuse one, but a restore may bring it.
 */
bool
router_next_tier(Router *router)
{
	const Tier *next = router->tier ? router->tier->fallback : NULL;

	if (next == NULL || router->used_up || has_seen(router, next))
	{
		router->tier = NULL;
		return false;
	}
	enter_tier(router, next);
	return true;
}

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
		return psprintf("residency \"%s\" is not satisfied", needs->residency);
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
 * Says in words why a candidate is out for this call, or NULL when it is
 * admitted. Not whether it was tried.
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

/* Picks by share; candidates of weight 0 only when there are no others. */
static int
pick_weighted(const Candidate *const *group, int n)
{
	double		sum = 0;
	double		at;
	int			last = 0;

	for (int i = 0; i < n; i++)
		sum += group[i]->share;
	if (sum <= 0)
		return (int) pg_prng_uint64_range(&pg_global_prng_state, 0, n - 1);
	at = pg_prng_double(&pg_global_prng_state) * sum;
	for (int i = 0; i < n; i++)
	{
		if (group[i]->share <= 0)
			continue;
		last = i;
		at -= group[i]->share;
		if (at < 0)
			break;
	}
	return last;
}

/* Collects a group's admitted and untried candidates; returns how many. */
static int
admitted_of_group(const Router *router, int first, int end,
				  const Candidate **admitted)
{
	int			n = 0;

	for (int i = first; i < end; i++)
	{
		const Candidate *candidate = &router->tier->candidates[i];

		if (router->states[i].tried)
			continue;
		if (router_why_out(router, candidate))
			continue;
		admitted[n++] = candidate;
	}
	return n;
}

/*
 * Returns the next candidate of this tier that has not been tried, marked as
 * tried, or NULL.
 */
const Candidate *
router_pick(Router *router)
{
	const Tier *tier = router->tier;
	const Candidate **admitted;
	const Candidate *picked = NULL;

	if (tier->ncandidates == 0)
		return NULL;
	admitted = palloc(tier->ncandidates * sizeof(*admitted));
	for (int first = 0, end; first < tier->ncandidates && !picked; first = end)
	{
		int			n;

		for (end = first + 1; end < tier->ncandidates; end++)
			if (tier->candidates[end].group != tier->candidates[first].group)
				break;
		n = admitted_of_group(router, first, end, admitted);
		if (n > 0)
			picked = admitted[strategy_of(tier) (admitted, n)];
	}
	pfree(admitted);
	if (picked)
		router->states[picked - tier->candidates].tried = true;
	return picked;
}

/*
 * Returns the candidate of this tier that may be asked once more and comes
 * first, or NULL; when: router_retry_at().
 */
const Candidate *
router_pick_retry(Router *router)
{
	int			best = -1;

	for (int i = 0; i < router->tier->ncandidates; i++)
	{
		if (!router->states[i].may_retry)
			continue;
		if (best < 0 ||
			router->states[i].retry_at < router->states[best].retry_at)
			best = i;
	}
	if (best < 0)
		return NULL;
	router->states[best].may_retry = false;
	return &router->tier->candidates[best];
}

/* Returns when a candidate of this tier may be asked once more. */
Usec
router_retry_at(const Router *router, const Candidate *candidate)
{
	return router->states[candidate - router->tier->candidates].retry_at;
}

/*
 * Remembers a failed scope for the rest of the call. Nobody in it is asked
 * once more, whoever was granted that before.
 */
void
router_failed(Router *router, const FailedScope *failed)
{
	if (failed->scope == SCOPE_NONE)
		return;
	for (int i = 0; i < router->tier->ncandidates; i++)
		if (router_covers(failed, &router->tier->candidates[i]))
			router->states[i].may_retry = false;
	if (router->nfailed < MAX_FAILED_SCOPES)
		router->failed[router->nfailed++] = *failed;
}

/* Lets a candidate of this tier be asked once more, at `at` or later. */
void
router_allow_retry(Router *router, const Candidate *candidate, Usec at)
{
	CandidateState *state =
		&router->states[candidate - router->tier->candidates];

	state->may_retry = true;
	state->retry_at = at;
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
