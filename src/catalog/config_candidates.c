/*
 * config_candidates.c
 *	  Lays out the candidates of a tier: order, groups and shares.
 *
 * Candidates are a tier's routes times the regions of their providers, sorted
 * by (route.position, region.position); a run of equal pairs is a group. In a
 * group a route's share is its weight over the weights of the group's routes,
 * and a candidate's is that times its region's weight over the weights of the
 * route's regions in the group: two regions do not double a provider's
 * traffic. Only what takes new work counts, so that a drained region's share
 * goes to the others of its route, and a disabled route's to the other routes.
 */
#include "postgres.h"

#include "config_internal.h"

/* Where builtin candidates, and those without a region, stand. */
#define DEFAULT_REGION_POSITION 1

static void number_groups(Tier *tier);
static void share_group(Candidate *group, int n);
static int	end_of_route(const Candidate *group, int first, int n);
static double region_weights(const Candidate *candidates, int n);
static int	region_position(const Candidate *candidate);
static double region_weight(const Candidate *candidate);
static int	compare_candidates(const void *a, const void *b);

/* Fills tier->candidates from the tier's routes, which are sorted. */
void
config_add_candidates(Config *config, Tier *tier, Route *routes, int nroutes)
{
	int			n = 0;
	Region	   *region;

	for (int i = 0; i < nroutes; i++)
		n += config_route_regions(&routes[i], &region);
	tier->candidates = MemoryContextAllocZero(config->context,
											  n * sizeof(Candidate));

	for (int i = 0; i < nroutes; i++)
	{
		int			nregions = config_route_regions(&routes[i], &region);

		for (int r = 0; r < nregions; r++)
			config_fill_candidate(&tier->candidates[tier->ncandidates++],
								  &routes[i], region ? &region[r] : NULL);
	}
	qsort(tier->candidates, tier->ncandidates, sizeof(Candidate),
		  compare_candidates);
	number_groups(tier);
}

/*
 * Finds the regions that a route goes to, at least 1. What has none, because
 * it is builtin or leads nowhere, gets one candidate with a NULL region.
 */
int
config_route_regions(const Route *route, Region **first)
{
	*first = NULL;
	if (route->provider == NULL)
		return 1;
	if (route->region_name)
	{
		*first = provider_region(route->provider, route->region_name);
		return 1;
	}
	*first = route->provider->regions;
	return route->provider->nregions;
}

/* Makes one candidate. */
void
config_fill_candidate(Candidate *candidate, Route *route, Region *region)
{
	candidate->route = route;
	candidate->region = region;
	candidate->problem = route->problem;
	if (candidate->problem == NULL && region)
		candidate->problem = region->problem;
}

/* Numbers the groups and shares each one out. */
static void
number_groups(Tier *tier)
{
	int			group = 0;
	int			end;

	for (int first = 0; first < tier->ncandidates; first = end, group++)
	{
		Candidate  *head = &tier->candidates[first];

		for (end = first; end < tier->ncandidates; end++)
		{
			Candidate  *candidate = &tier->candidates[end];

			if (candidate->route->position != head->route->position ||
				region_position(candidate) != region_position(head))
				break;
			candidate->group = group;
		}
		share_group(head, end - first);
	}
}

/*
 * Shares out a group: first over its routes, then over the regions of each. A
 * route whose regions have no weight left has no share to lose.
 */
static void
share_group(Candidate *group, int n)
{
	double		route_weights = 0;
	int			end;

	for (int first = 0; first < n; first = end)
	{
		end = end_of_route(group, first, n);
		if (region_weights(&group[first], end - first) > 0)
			route_weights += group[first].route->weight;
	}
	if (route_weights <= 0)
		return;

	for (int first = 0; first < n; first = end)
	{
		double		weights;

		end = end_of_route(group, first, n);
		weights = region_weights(&group[first], end - first);
		for (int i = first; weights > 0 && i < end; i++)
			if (candidate_disabled(&group[i]) == NULL)
				group[i].share = group[i].route->weight / route_weights *
					region_weight(&group[i]) / weights;
	}
}

/* Finds where a route's run of candidates in a group ends. */
static int
end_of_route(const Candidate *group, int first, int n)
{
	int			end = first;

	while (end < n && group[end].route == group[first].route)
		end++;
	return end;
}

/* Sums the regions' weights of those candidates that take new work. */
static double
region_weights(const Candidate *candidates, int n)
{
	double		sum = 0;

	for (int i = 0; i < n; i++)
		if (candidate_disabled(&candidates[i]) == NULL)
			sum += region_weight(&candidates[i]);
	return sum;
}

static int
region_position(const Candidate *candidate)
{
	return candidate->region ? candidate->region->position :
		DEFAULT_REGION_POSITION;
}

static double
region_weight(const Candidate *candidate)
{
	return candidate->region ? candidate->region->weight : 1;
}

/*
 * By (route.position, region.position), then by route, so that a route's
 * candidates stand together in their group, then by region. Routes are in one
 * array that is sorted by position and names.
 */
static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *left = a;
	const Candidate *right = b;

	if (left->route->position != right->route->position)
		return left->route->position < right->route->position ? -1 : 1;
	if (region_position(left) != region_position(right))
		return region_position(left) < region_position(right) ? -1 : 1;
	if (left->route != right->route)
		return left->route < right->route ? -1 : 1;
	return (left->region > right->region) - (left->region < right->region);
}
