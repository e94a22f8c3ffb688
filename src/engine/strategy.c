/*
 * strategy.c
 *	  How a tier's calls are shared out: see strategy.h.
 *
 * The first group with an admitted candidate gets all calls; inside it the
 * tier's strategy weighs. A candidate that is ramping gets that part of the
 * share it would have, and what is left over goes to the ready ones of its
 * group by the same strategy; where there are none, to the next group. Only
 * when nobody in the tier could take it, it goes back to those that are
 * ramping: an answer of the tier asked for is worth more than a gentle ramp.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "strategy.h"

/* A run of candidates with equal positions, and whom to weigh in it. */
typedef struct Group
{
	const Candidate *candidates;
	Admission  *admissions;
	double	   *weights;		/* of all calls of the group; sum 1, or all 0 */
	double	   *scratch;		/* a strategy's own */
	bool		drawn;			/* a strategy that draws may do so */
	int			n;
	bool		ready_only;		/* those that are ramping count as out */
	const Estimate *estimate;
	Usec		now;
} Group;

/* Fills group->weights of its members; 0 for all others. */
typedef void (*Strategy) (Group *group);

static void weigh_weighted(Group *group);
static void weigh_latency(Group *group);
static void weigh_least_busy(Group *group);
static void weigh_cost(Group *group);

static const struct
{
	const char *name;
	Strategy	weigh;
}			strategies[] =
{
	{"weighted", weigh_weighted},
	{"latency", weigh_latency},
	{"least_busy", weigh_least_busy},
	{"cost", weigh_cost},
};

/* Finds a tier's strategy. */
static Strategy
strategy_of(const Tier *tier)
{
	for (size_t i = 1; i < lengthof(strategies); i++)
		if (strcmp(strategies[i].name, tier->strategy) == 0)
			return strategies[i].weigh;
	return strategies[0].weigh;
}

/* Says whether a candidate takes calls in the ordinary way. */
static inline bool
takes_calls(const Admission *admission, bool ready_only)
{
	if (admission->out)
		return false;
	return admission->health.verdict == HEALTH_READY ||
		(admission->health.verdict == HEALTH_RAMPING && !ready_only);
}

/*
 * Says whether a member is to be weighed. One of weight 0 is the last resort of
 * its group: only when there are no others.
 */
static inline bool
is_member(const Group *group, int i, bool last_resort)
{
	return takes_calls(&group->admissions[i], group->ready_only) &&
		(last_resort || group->candidates[i].share > 0);
}

/* Says whether only members of weight 0 are left. */
static bool
only_last_resort(const Group *group)
{
	for (int i = 0; i < group->n; i++)
		if (is_member(group, i, false))
			return false;
	return true;
}

/* Makes the weights add up to 1. */
static void
normalise(Group *group)
{
	double		sum = 0;

	for (int i = 0; i < group->n; i++)
		sum += group->weights[i];
	if (sum > 0)
		for (int i = 0; i < group->n; i++)
			group->weights[i] /= sum;
}

/* Weighs by configured share. */
static void
weigh_weighted(Group *group)
{
	bool		last_resort = only_last_resort(group);

	for (int i = 0; i < group->n; i++)
	{
		double		share = last_resort ? 1 : group->candidates[i].share;

		group->weights[i] = is_member(group, i, last_resort) ? share : 0;
	}
	normalise(group);
}

/* What a strategy compares: less is better. */
typedef double (*Measure) (const Group *group, int i);

/* Gives all calls to the least by a measure; equals share by weight. */
static void
weigh_least(Group *group, Measure measure)
{
	bool		last_resort = only_last_resort(group);
	double		least = 0;
	bool		any = false;

	for (int i = 0; i < group->n; i++)
	{
		group->weights[i] = 0;
		if (!is_member(group, i, last_resort))
			continue;
		group->weights[i] = measure(group, i);
		if (!any || group->weights[i] < least)
			least = group->weights[i];
		any = true;
	}
	for (int i = 0; i < group->n; i++)
	{
		bool		is_least = is_member(group, i, last_resort) &&
			group->weights[i] <= least;

		group->weights[i] = !is_least ? 0 : last_resort ? 1 :
			group->candidates[i].share;
	}
	normalise(group);
}

/* Returns a candidate's cell of its target, or NULL. */
static inline Cell *
target_cell(const Candidate *candidate)
{
	return candidate->target ?
		cell_of(candidate->target->health.cells[CELL_TARGET]) : NULL;
}

/* Attempts under way, in relation to the share that is meant for it. */
static double
busyness(const Group *group, int i)
{
	const Candidate *candidate = &group->candidates[i];
	Cell	   *cell = target_cell(candidate);

	if (cell == NULL)
		return 0;
	return pg_atomic_read_u32(&cell->in_flight) /
		(candidate->share > 0 ? candidate->share : 1);
}

static void
weigh_least_busy(Group *group)
{
	weigh_least(group, busyness);
}

/* The estimated price; one without a price is dearer than all others. */
static double
price(const Group *group, int i)
{
	Picodollars cost;

	return estimate_cost(group->estimate, &group->candidates[i], &cost) ?
		(double) cost : (double) PG_INT64_MAX;
}

static void
weigh_cost(Group *group)
{
	weigh_least(group, price);
}

/*
 * How long a request would take: peak-EWMA × (in flight + 1). One that has
 * never answered is tried when idle, and otherwise taken for the slowest.
 */
static double
load(const Group *group, int i)
{
	Cell	   *cell = target_cell(&group->candidates[i]);
	double		ewma;
	uint32		in_flight;

	if (cell == NULL)
		return 0;
	ewma = (double) latency_ewma(&cell->latency, group->now);
	in_flight = pg_atomic_read_u32(&cell->in_flight);
	if (ewma <= 0)
		return in_flight == 0 ? 0 : (double) PG_INT64_MAX;
	return ewma * (in_flight + 1);
}

/* Draws a member by its weight, but not `except`; the weights' sum is given. */
static int
draw_member(const Group *group, double sum, int except)
{
	double		at = pg_prng_double(&pg_global_prng_state) * sum;
	int			last = -1;

	for (int i = 0; i < group->n; i++)
	{
		if (i == except || group->weights[i] <= 0)
			continue;
		last = i;
		at -= group->weights[i];
		if (at < 0)
			break;
	}
	return last;
}

/* Draws two members by weight; the one with the lower load gets the call. */
static void
draw_two(Group *group)
{
	int			a = draw_member(group, 1, -1);
	int			b = a < 0 ? -1 : draw_member(group, 1 - group->weights[a], a);
	bool		first = b < 0 || load(group, a) <= load(group, b);

	for (int i = 0; i < group->n; i++)
		group->weights[i] = i == (first ? a : b) ? 1 : 0;
}

/*
 * Adds up the pairs that a member wins, each as often as it is drawn; equals
 * win a half of theirs.
 */
static double
wins_of(const Group *group, int i)
{
	double		mine = group->weights[i];
	double		wins = 0;

	if (mine >= 1)
		return 1;
	for (int j = 0; j < group->n && mine > 0; j++)
	{
		double		its = group->weights[j];
		double		a;
		double		b;

		if (j == i || its <= 0 || its >= 1)
			continue;
		a = load(group, i);
		b = load(group, j);
		wins += mine * its * (1 / (1 - mine) + 1 / (1 - its)) *
			(a < b ? 1 : a > b ? 0 : 0.5);
	}
	return wins;
}

/*
 * Weighs by the power of two choices: of two members, drawn by weight, the one
 * with the lower load is asked (M. Mitzenmacher, The Power of Two Choices in
 * Randomized Load Balancing, 2001; Finagle's P2C). A call draws them; what
 * share that makes is the chance of all pairs that a member wins.
 */
static void
weigh_latency(Group *group)
{
	weigh_weighted(group);
	if (group->drawn)
	{
		draw_two(group);
		return;
	}
	for (int i = 0; i < group->n; i++)
		group->scratch[i] = wins_of(group, i);
	memcpy(group->weights, group->scratch, group->n * sizeof(double));
	normalise(group);
}

/* Says how many members of a group are ready, and how many are ramping. */
static void
count_members(const Group *group, int *ready, int *ramping)
{
	*ready = *ramping = 0;
	for (int i = 0; i < group->n; i++)
	{
		*ready += takes_calls(&group->admissions[i], true);
		*ramping += takes_calls(&group->admissions[i], false);
	}
	*ramping -= *ready;
}

/* Adds `mass` × weights to the shares. */
static void
add_shares(Group *group, double mass)
{
	for (int i = 0; i < group->n; i++)
		group->admissions[i].share += mass * group->weights[i];
}

/*
 * Shares out a part of the tier's calls in a group; returns what it leaves to
 * the next one.
 */
static double
share_group(Group *group, Strategy weigh, double mass)
{
	double		spill = 0;
	int			ready;
	int			ramping;

	group->ready_only = false;
	count_members(group, &ready, &ramping);
	if (ready + ramping == 0)
		return mass;
	weigh(group);
	for (int i = 0; ramping > 0 && i < group->n; i++)
	{
		double		kept = group->weights[i] *
			group->admissions[i].health.share;

		spill += group->weights[i] - kept;
		group->weights[i] = kept;
	}
	add_shares(group, mass);
	if (spill <= 0 || ready == 0)
		return mass * spill;
	group->ready_only = true;
	weigh(group);
	add_shares(group, mass * spill);
	return 0;
}

/* Sets a group to the one that begins at `first`; returns where it ends. */
static int
enter_group(Group *group, const Tier *tier, Admission *admissions, int first)
{
	int			end = first + 1;

	while (end < tier->ncandidates &&
		   tier->candidates[end].group == tier->candidates[first].group)
		end++;
	group->candidates = &tier->candidates[first];
	group->admissions = &admissions[first];
	group->n = end - first;
	return end;
}

/* Gives what nobody was ready to take to the first who are ramping. */
static void
share_last_resort(Group *group, const Tier *tier, Admission *admissions,
				  Strategy weigh, double mass)
{
	int			ready;
	int			ramping;

	group->ready_only = false;
	for (int first = 0; first < tier->ncandidates;)
	{
		first = enter_group(group, tier, admissions, first);
		count_members(group, &ready, &ramping);
		if (ramping == 0)
			continue;
		weigh(group);
		add_shares(group, mass);
		return;
	}
}

/* Says whether a candidate is admitted, but nobody would ask it. */
static bool
is_cold(const Candidate *candidate, const Admission *admission)
{
	return candidate->region && admission->out == NULL &&
		admission->health.verdict != HEALTH_OUT && admission->share <= 0;
}

/* Takes a part of all calls for those that would get none. */
static void
share_warm(const Tier *tier, Admission *admissions)
{
	int			ncold = 0;

	for (int i = 0; i < tier->ncandidates; i++)
		ncold += is_cold(&tier->candidates[i], &admissions[i]);
	if (ncold == 0)
		return;
	for (int i = 0; i < tier->ncandidates; i++)
	{
		Admission  *admission = &admissions[i];

		admission->share = is_cold(&tier->candidates[i], admission) ?
			tier->warm_share / ncold :
			admission->share * (1 - tier->warm_share);
	}
}

/* Returns the first group that has a share. */
static int
serving_group(const Tier *tier, const Admission *admissions)
{
	for (int i = 0; i < tier->ncandidates; i++)
		if (admissions[i].share > 0)
			return tier->candidates[i].group;
	return NO_GROUP;
}

/* Shares out a tier's calls; see the header. */
int
share_tier(const Tier *tier, Admission *admissions, double *scratch,
		   const Estimate *estimate, bool warm, bool draw, Usec now)
{
	Strategy	weigh = strategy_of(tier);
	Group		group = {
		.weights = scratch,
		.scratch = scratch + tier->ncandidates,
		.drawn = draw && !(warm && tier->warm_share > 0),
		.estimate = estimate,
		.now = now,
	};
	double		mass = 1;
	int			serving;

	for (int i = 0; i < tier->ncandidates; i++)
		admissions[i].share = 0;
	for (int first = 0; first < tier->ncandidates && mass > 0;)
	{
		first = enter_group(&group, tier, admissions, first);
		mass = share_group(&group, weigh, mass);
	}
	if (mass > 0)
		share_last_resort(&group, tier, admissions, weigh, mass);
	serving = serving_group(tier, admissions);
	if (warm && tier->warm_share > 0 && serving != NO_GROUP)
		share_warm(tier, admissions);
	return serving;
}
