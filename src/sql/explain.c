/*
 * explain.c
 *	  llm_explain(): the routing of a call that is not made.
 *
 * It asks the router itself why a candidate is out, and looks whether its key
 * can be had, so it cannot disagree with what a call would do.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"

#include "catalog/secret.h"
#include "driver.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_explain);

#define EXPLAIN_COLS 9

/* Bytes of text a token, for estimates of cost. */
#define BYTES_PER_TOKEN 4

/* Tokens that an answer is taken to have when max_tokens does not say. */
#define USUAL_OUTPUT_TOKENS 500

typedef struct Explanation
{
	ReturnSetInfo *rsinfo;
	const Config *config;
	Router		router;
	int64		input_tokens;
	int64		output_tokens;
	bool		no_residency;	/* no provider's region satisfies it */
	int			step;			/* of the last candidate that is not out */
} Explanation;

/* The group of a tier that gets its calls. */
typedef struct ServingGroup
{
	int			group;			/* -1: nobody is admitted */
	int			n;				/* its admitted candidates */
	double		sum;			/* of their shares */
} ServingGroup;

/* Estimates the cost of a call. False when the price is unknown. */
static bool
estimate_cost(const Explanation *explanation, const Candidate *candidate,
			  Picodollars *cost)
{
	const Model *model = candidate->route->model;
	int64		output_tokens = explanation->output_tokens;

	*cost = 0;
	if (candidate->route->builtin != BUILTIN_NONE)
		return true;
	if (model == NULL || model->input_price == PRICE_UNKNOWN ||
		model->output_price == PRICE_UNKNOWN)
		return false;
	if (model->max_output_tokens > 0)
		output_tokens = Min(output_tokens, model->max_output_tokens);
	return call_add_price(cost, explanation->input_tokens,
						  model->input_price) &&
		call_add_price(cost, output_tokens, model->output_price);
}

/* Adds a candidate's row. */
static void
put_candidate(Explanation *explanation, const Candidate *candidate,
			  double share, const char *out)
{
	const Route *route = candidate->route;
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
	values[6] = CStringGetTextDatum(out ? "out" : "ready");
	if (out)
		values[7] = CStringGetTextDatum(out);
	else
		nulls[7] = true;
	if (estimate_cost(explanation, candidate, &cost))
		values[8] = picodollars_to_numeric(cost);
	else
		nulls[8] = true;
	tuplestore_putvalues(explanation->rsinfo->setResult,
						 explanation->rsinfo->setDesc, values, nulls);
}

/* Finds the first group with an admitted candidate: it gets all calls. */
static ServingGroup
serving_group(const Tier *tier, const char *const *out)
{
	ServingGroup serving = {.group = -1};

	for (int i = 0; i < tier->ncandidates; i++)
	{
		const Candidate *candidate = &tier->candidates[i];

		if (out[i] || (serving.n > 0 && candidate->group != serving.group))
			continue;
		serving.group = candidate->group;
		serving.sum += candidate->share;
		serving.n++;
	}
	return serving;
}

/* Returns an admitted candidate's share of its tier's calls. */
static double
share_of(const Candidate *candidate, const ServingGroup *serving)
{
	if (candidate->group != serving->group)
		return 0;
	return serving->sum > 0 ? candidate->share / serving->sum :
		1.0 / serving->n;
}

/*
 * Says why a candidate is out. Where no provider of the chain satisfies the
 * residency, a call ends at once, so builtin models are out as well.
 */
static const char *
why_out(const Explanation *explanation, const Candidate *candidate)
{
	const char *out;

	if (explanation->no_residency)
		return psprintf("residency \"%s\" is not satisfied",
						explanation->router.needs.residency);
	out = router_why_out(&explanation->router, candidate);
	return out ? out : secret_problem(explanation->config, candidate);
}

/* Adds the rows of a group: what has no share is its last resort. */
static void
explain_group(Explanation *explanation, const Tier *tier, int first, int end,
			  const char *const *out, const ServingGroup *serving)
{
	for (int last_resort = 0; last_resort <= 1; last_resort++)
		for (int i = first; i < end; i++)
		{
			const Candidate *candidate = &tier->candidates[i];

			if ((out[i] == NULL && candidate->share <= 0) != last_resort)
				continue;
			put_candidate(explanation, candidate,
						  out[i] ? 0 : share_of(candidate, serving), out[i]);
		}
}

/* Adds the rows of a tier, whose groups are runs of its candidates. */
static void
explain_tier(Explanation *explanation, const Tier *tier)
{
	const char **out = palloc0((tier->ncandidates + 1) * sizeof(*out));
	ServingGroup serving;

	for (int i = 0; i < tier->ncandidates; i++)
		out[i] = why_out(explanation, &tier->candidates[i]);
	serving = serving_group(tier, out);
	for (int first = 0, end; first < tier->ncandidates; first = end)
	{
		for (end = first + 1; end < tier->ncandidates; end++)
			if (tier->candidates[end].group != tier->candidates[first].group)
				break;
		explain_group(explanation, tier, first, end, out, &serving);
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
	explanation.input_tokens = prompt_len / BYTES_PER_TOKEN;
	explanation.output_tokens = PG_ARGISNULL(2) ? USUAL_OUTPUT_TOKENS :
		request_max_tokens(PG_GETARG_INT32(2));
	tier = request_tier(config, tier_name ? tier_name : "default");
	explanation.no_residency =
		!router_satisfies_residency(config, tier, chain, needs.nlabels,
									needs.labels);
	router_start(&explanation.router, tier, &needs);
	do
		explain_tier(&explanation, explanation.router.tier);
	while (chain && router_next_tier(&explanation.router));
	return (Datum) 0;
}
