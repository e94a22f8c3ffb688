/*
 * explain.c
 *	  llm_explain(): the routing of a call that is not made.
 *
 * It asks the router itself why a candidate is out and what share it has, and
 * looks whether its key can be had, so it cannot disagree with what a call
 * would do.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"

#include "catalog/secret.h"
#include "driver.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_explain);

#define EXPLAIN_COLS 9

typedef struct Explanation
{
	ReturnSetInfo *rsinfo;
	const Config *config;
	Router		router;
	bool		no_residency;	/* no provider's region satisfies it */
	int			step;			/* of the last candidate that is not out */
	Usec		now;
} Explanation;

/* The verdict on one candidate. */
typedef struct Verdict
{
	const char *word;			/* "ready", "limited" or "out" */
	const char *reason;			/* or NULL */
} Verdict;

/*
 * Says whether a candidate would be asked. Where no provider of the chain
 * satisfies the residency, a call ends at once, so builtin models are out as
 * well.
 */
static Verdict
judge(const Explanation *explanation, const Candidate *candidate)
{
	const Router *router = &explanation->router;
	const Admission *admission =
		&router->admissions[candidate - router->tier->candidates];
	const char *reason;

	if (explanation->no_residency)
		return (Verdict) {"out", psprintf("residency \"%s\" is not satisfied",
										  router->needs.residency)};
	reason = router_why(router, candidate);
	if (reason)
		return (Verdict) {"out", reason};
	if (admission->health.why == WHY_NONE)
		return (Verdict) {"ready", NULL};
	reason = health_in_words(candidate, &admission->health, explanation->now);
	return (Verdict) {health_is_shut(&admission->health) ? "out" : "limited", reason};
}

/* Adds a candidate's row. */
static void
put_candidate(Explanation *explanation, const Candidate *candidate,
			  Verdict verdict)
{
	const Router *router = &explanation->router;
	const Route *route = candidate->route;
	bool		out = strcmp(verdict.word, "out") == 0;
	double		share = out ? 0 :
		router->admissions[candidate - router->tier->candidates].share;
	Datum		values[EXPLAIN_COLS] = {0};
	bool		nulls[EXPLAIN_COLS] = {0};
	Picodollars cost;

	if (out)
		nulls[0] = true;
	else
		values[0] = Int32GetDatum(++explanation->step);
	values[1] = CStringGetTextDatum(route->tier->name);
	values[2] = CStringGetTextDatum(route->provider_name);
	if (candidate->region)
		values[3] = CStringGetTextDatum(candidate->region->name);
	else
		nulls[3] = true;
	values[4] = CStringGetTextDatum(route->model_name);
	values[5] = Float4GetDatum((float4) share);
	values[6] = CStringGetTextDatum(verdict.word);
	if (verdict.reason)
		values[7] = CStringGetTextDatum(verdict.reason);
	else
		nulls[7] = true;
	if (estimate_cost(&router->needs.estimate, candidate, &cost))
		values[8] = picodollars_to_numeric(cost);
	else
		nulls[8] = true;
	tuplestore_putvalues(explanation->rsinfo->setResult,
						 explanation->rsinfo->setDesc, values, nulls);
}

/*
 * Returns a candidate's place among those of its group: one with a permit for a
 * trial takes the next call, and one without a share is the last resort.
 */
static int
place_in_group(const Router *router, const Candidate *candidate,
			   const Verdict *verdict)
{
	const Admission *admission =
		&router->admissions[candidate - router->tier->candidates];

	if (strcmp(verdict->word, "out") == 0)
		return 1;
	if (admission->health.verdict == HEALTH_TRIAL)
		return 0;
	return candidate->share > 0 ? 1 : 2;
}

/* Adds the rows of a group in the order in which they would be tried. */
static void
explain_group(Explanation *explanation, int first, int end)
{
	const Router *router = &explanation->router;

	for (int place = 0; place <= 2; place++)
		for (int i = first; i < end; i++)
		{
			const Candidate *candidate = &router->tier->candidates[i];
			Verdict		verdict = judge(explanation, candidate);

			if (place_in_group(router, candidate, &verdict) == place)
				put_candidate(explanation, candidate, verdict);
		}
}

/* Bars those whose key cannot be had, as a call would find out. */
static void
bar_keyless(Explanation *explanation)
{
	Router	   *router = &explanation->router;

	for (int i = 0; i < router->tier->ncandidates; i++)
	{
		const Candidate *candidate = &router->tier->candidates[i];

		if (candidate_disabled(candidate) == NULL)
			router_bar(router, candidate,
					   secret_problem(explanation->config, candidate));
	}
}

/* Adds the rows of the router's tier, whose groups are runs of candidates. */
static void
explain_tier(Explanation *explanation)
{
	const Tier *tier = explanation->router.tier;

	if (tier->enabled)
		bar_keyless(explanation);
	router_admit(&explanation->router, explanation->now);
	for (int first = 0, end; first < tier->ncandidates; first = end)
	{
		for (end = first + 1; end < tier->ncandidates; end++)
			if (tier->candidates[end].group != tier->candidates[first].group)
				break;
		explain_group(explanation, first, end);
	}
}

/* Fills what a call with these arguments would need. */
static void
fill_needs(FunctionCallInfo fcinfo, int64 prompt_len, RouteNeeds *needs)
{
	CallSpec	spec = {0};

	request_labels(PG_ARGISNULL(4) ? NULL :
				   text_to_cstring(PG_GETARG_TEXT_PP(4)), &spec);
	needs->nlabels = spec.nlabels;
	needs->labels = spec.labels;
	needs->residency = spec.residency;
	needs->min_tokens = prompt_len / PROMPT_MAX_BYTES_PER_TOKEN;
	needs->estimate =
		estimate_request(prompt_len, PG_ARGISNULL(2) ? 0 :
						 request_max_tokens(PG_GETARG_INT32(2)));
	needs->providers_off = llm_enabled ? NULL : "llm_failover is switched off";
}

/*
 * llm_explain(prompt, tier, max_tokens, feature, residency, allow_degraded)
 * → one row a candidate of the chain, in the order it would be tried
 */
Datum
llm_explain(PG_FUNCTION_ARGS)
{
	Explanation explanation = {0};
	const char *tier_name;
	Tier	   *tier;
	Config	   *config;
	RouteNeeds	needs = {0};
	int64		prompt_len = PG_ARGISNULL(0) ? 0 :
		VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0));
	bool		chain = PG_ARGISNULL(5) ? llm_allow_degraded :
		PG_GETARG_BOOL(5);

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	tier_name = text_arg(PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
						 llm_tier);
	fill_needs(fcinfo, prompt_len, &needs);
	explanation.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	explanation.config = config;
	explanation.now = clock_now();
	tier = request_tier(config, tier_name ? tier_name : "default");
	explanation.no_residency =
		!router_satisfies_residency(config, tier, chain, needs.nlabels,
									needs.labels);
	router_start(&explanation.router, config, tier, &needs);
	do
		explain_tier(&explanation);
	while (chain && router_next_tier(&explanation.router));
	return (Datum) 0;
}
