/*
 * router.c
 *	  Which candidate comes next: see router.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"

#include "catalog/secret.h"
#include "health/shared.h"
#include "router.h"

/* Waiting for a slot of a region: look again after so long. */
#define SLOT_POLL_MIN	(2 * USEC_MSEC)
#define SLOT_POLL_MAX	(20 * USEC_MSEC)

static const char *const barred_tried = "tried in this call";

/* Enters a tier with nothing tried. */
static void
enter_tier(Router *router, const Tier *tier)
{
	int			n = Max(tier->ncandidates, 1);

	router->tier = tier;
	router->attempts = 0;
	router->tiers_seen++;
	router->serving = NO_GROUP;
	router->states = palloc0(n * sizeof(CandidateState));
	router->admissions = palloc0(n * sizeof(Admission));
	router->scratch = palloc(2 * n * sizeof(double));
}

/* Begins a walk at the tier asked for. Memory comes from the current context. */
void
router_start(Router *router, const Config *config, const Tier *tier,
			 const RouteNeeds *needs)
{
	router->config = config;
	router->asked = tier;
	router->needs = *needs;
	router->nfailed = 0;
	router->tiers_seen = 0;
	router->used_up = false;
	router->no_trials = false;
	enter_tier(router, tier);
}

/*
 * Goes back to a tier for somebody who had to wait, when the whole chain is
 * used up. Nobody else is asked any more. May come often, to the same tier.
 */
void
router_revisit(Router *router, const Tier *tier)
{
	if (router->tier != tier)
		enter_tier(router, tier);
	router->used_up = true;
	router->needs.providers_off = NULL;
	for (int i = 0; i < tier->ncandidates; i++)
		router->states[i] = (CandidateState) {.barred = barred_tried};
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

	if (router->used_up)
		return false;
	if (next == NULL || has_seen(router, next))
	{
		router->tier = NULL;
		return false;
	}
	enter_tier(router, next);
	return true;
}

/*
 * Ends a trip whose cause is gone: what was blamed, the key or the address, is
 * another one by now. True when it was.
 */
static bool
end_outdated_trip(const Config *config, const Candidate *candidate,
				  const HealthCheck *check, Usec now)
{
	Cell	   *cell = cell_of(candidate->target->health.cells[check->scope]);
	uint64		blamed;

	/* what this transaction has written may be rolled back */
	if (cell == NULL || TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	blamed = pg_atomic_read_u64(&cell->fingerprint);
	if (blamed == 0 ||
		blamed == secret_fingerprint(config, candidate->region, check->scope))
		return false;
	health_reset(candidate->target->health.cells[check->scope],
				 "its key or address has changed", now);
	return true;
}

/*
 * Says whether a provider's candidate may be asked now for a request of so many
 * tokens, which leaves a share of each limit to others: by its health, and by
 * that of our own network.
 */
void
router_check(const Candidate *candidate, int64 tokens, double leave, Usec now,
			 HealthCheck *check)
{
	Usec		until;

	health_check(&candidate->target->health, tokens, leave, now, check);
	if (check->verdict == HEALTH_OUT)
		return;
	until = network_pause(shared_network(), candidate->region->host, now);
	if (unlikely(until > 0))
		*check = (HealthCheck) {
			.verdict = HEALTH_OUT, .why = WHY_NETWORK, .until = until,
		};
}

/* The same, for who is about to ask it: a trip whose cause is gone ends. */
void
router_examine(const Config *config, const Candidate *candidate, int64 tokens,
			   double leave, Usec now, HealthCheck *check)
{
	router_check(candidate, tokens, leave, now, check);
	if (unlikely(check->verdict == HEALTH_OUT && check->sticky) &&
		end_outdated_trip(config, candidate, check, now))
		router_check(candidate, tokens, leave, now, check);
}

/* Looks whether a candidate takes a call now. */
static void
admit(Router *router, int i, Usec now)
{
	const Candidate *candidate = &router->tier->candidates[i];
	Admission  *admission = &router->admissions[i];
	HealthCheck *health = &admission->health;
	int64		tokens;

	health->verdict = HEALTH_READY;
	health->why = WHY_NONE;
	health->share = 1;
	admission->out = router->states[i].barred;
	if (admission->out == NULL)
		admission->out = router_why_out(router, candidate);
	if (admission->out || candidate->target == NULL)
		return;
	tokens = candidate->target->health.tpm == 0 ? 0 :
		estimate_tokens(&router->needs.estimate, candidate->route->model);
	router_examine(router->config, candidate, tokens, router->needs.leave, now,
				   health);
}

/* Looks at all candidates of the current tier and shares out its calls. */
static void
look(Router *router, bool draw, Usec now)
{
	for (int i = 0; i < router->tier->ncandidates; i++)
		admit(router, i, now);
	router->serving = share_tier(router->tier, router->admissions,
								 router->scratch, &router->needs.estimate,
								 router->attempts == 0, draw, now);
}

/* The same, for whoever wants to know the shares exactly. */
void
router_admit(Router *router, Usec now)
{
	look(router, false, now);
}

/*
 * Says in words why a candidate of the current tier is out whatever its
 * health, or NULL; as of the last look.
 */
const char *
router_why(const Router *router, const Candidate *candidate)
{
	const char *out = router->admissions[candidate - router->tier->candidates].out;

	if (out == router_out_residency)
		return psprintf("residency \"%s\" is not satisfied",
						router->needs.residency);
	return out;
}

/*
 * Says in words why a provider's candidate of the current tier is not asked
 * for its health's sake, or NULL; as of the last look.
 */
const char *
router_why_unwell(const Router *router, const Candidate *candidate, Usec now)
{
	const Admission *admission =
		&router->admissions[candidate - router->tier->candidates];

	if (admission->out || admission->health.why == WHY_NONE)
		return NULL;
	return health_in_words(candidate, &admission->health, now);
}

/*
 * Says whether a candidate is worth a trial by this call: its group would be
 * asked, and not as the last resort only.
 */
static bool
is_due_for_trial(const Router *router, int i)
{
	const Candidate *candidate = &router->tier->candidates[i];
	const Admission *admission = &router->admissions[i];

	return admission->out == NULL &&
		admission->health.verdict == HEALTH_TRIAL &&
		candidate->group <= router->serving &&
		(candidate->share > 0 || router->serving == NO_GROUP);
}

/*
 * Returns a candidate with a permit for a trial, where the walk comes past it:
 * trials take the calls of a half-open breaker's group before its others do.
 * Returns -1 when there is none.
 */
static int
pick_trial(const Router *router)
{
	for (int i = 0; i < router->tier->ncandidates && !router->no_trials; i++)
		if (is_due_for_trial(router, i))
			return i;
	return -1;
}

/* Draws a candidate by its share; -1 when nobody has one. */
static int
draw(const Router *router)
{
	double		at = pg_prng_double(&pg_global_prng_state);
	int			last = -1;

	for (int i = 0; i < router->tier->ncandidates; i++)
	{
		if (router->admissions[i].share <= 0)
			continue;
		last = i;
		at -= router->admissions[i].share;
		if (at < 0)
			break;
	}
	return last;
}

/*
 * Returns the next candidate of this tier that has not been tried and is
 * admitted, marked as tried, or NULL.
 */
const Candidate *
router_pick(Router *router, Usec now)
{
	int			picked;

	look(router, true, now);
	picked = pick_trial(router);
	if (picked < 0)
		picked = draw(router);
	if (picked < 0)
		return NULL;
	router_mark_tried(router, &router->tier->candidates[picked]);
	return &router->tier->candidates[picked];
}

/*
 * Returns when a limit may let somebody through who was refused. When a slot of
 * a region is free nobody knows, so each looks again at a time of its own.
 */
Usec
router_limit_ends(const HealthCheck *check, Usec now)
{
	if (check->why != WHY_MAX_INFLIGHT || check->until == USEC_NEVER)
		return Max(check->until, now);
	return now + (Usec) pg_prng_uint64_range(&pg_global_prng_state,
											 SLOT_POLL_MIN, SLOT_POLL_MAX);
}

/*
 * Returns who of this tier's untried candidates will be admitted first of those
 * that only a limit keeps out, and when, or NULL; as of the last look. With
 * own_limits only limits of ours count, not what a provider has asked for.
 */
const Candidate *
router_first_chance(Router *router, bool own_limits, Usec now, Usec *at)
{
	const Candidate *first = NULL;

	for (int i = 0; i < router->tier->ncandidates; i++)
	{
		const Admission *admission = &router->admissions[i];
		Usec		until;

		if (admission->out || admission->health.verdict != HEALTH_OUT ||
			admission->health.why == WHY_BREAKER ||
			admission->health.why == WHY_NETWORK ||
			(own_limits && admission->health.why == WHY_THROTTLED))
			continue;
		until = router_limit_ends(&admission->health, now);
		if (first == NULL || until < *at)
		{
			first = &router->tier->candidates[i];
			*at = until;
		}
	}
	return first;
}

/* Leaves a candidate of this tier out that is asked. */
void
router_mark_tried(Router *router, const Candidate *candidate)
{
	router_bar(router, candidate, barred_tried);
}

/* Leaves a candidate of this tier out, or with NULL lets it in again. */
void
router_bar(Router *router, const Candidate *candidate, const char *why)
{
	router->states[candidate - router->tier->candidates].barred = why;
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
