/*
 * check.c
 *	  llm_check(): asks every target now, many at once.
 *
 * For set-up, key rotation and after a drain. It is the ordinary engine with
 * one candidate a call; a target that is named is asked even when disabled.
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "driver.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_check);

#define CHECK_COLS 7

/* Each takes a descriptor, and a backend has some 300 of them to give. */
#define MAX_AT_ONCE 64

#define CHECK_PROMPT "Reply with OK."

/* Bounds the bill; a model that reasons first needs some room. */
#define CHECK_MAX_TOKENS 1024

typedef struct Target
{
	const Candidate *candidate;
	Call	   *call;
} Target;

typedef struct Check
{
	const Config *config;
	char	   *provider;		/* what was named, or NULL */
	char	   *region;
	char	   *model;
	int			ntargets;
	int			max_targets;
	Target	   *targets;
} Check;

/* Raises LL006 for a name that there is not. */
static void pg_attribute_noreturn()
unknown_name(const char *what, const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(SQLSTATE_LL(6)),
			 errmsg("%s \"%s\" does not exist", what, name),
			 hint ? errhint("%s", hint) : 0));
}

/* Returns the hint that names a provider's regions. */
static char *
regions_hint(const Provider *provider)
{
	StringInfoData hint;

	initStringInfo(&hint);
	appendStringInfo(&hint, "Regions of provider \"%s\": ", provider->name);
	for (int i = 0; i < provider->nregions; i++)
		appendStringInfo(&hint, "%s%s", i > 0 ? ", " : "",
						 provider->regions[i].name);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

/* Says whether any provider has a region of that name. */
static bool
region_exists(const Config *config, const char *region)
{
	for (int i = 0; i < config->nproviders; i++)
		if (provider_region(&config->providers[i], region))
			return true;
	return false;
}

/* Says whether a route of that provider, or of any, names a model. */
static bool
model_is_routed(const Config *config, const char *provider, const char *model)
{
	for (int t = 0; t < config->ntiers; t++)
		for (int i = 0; i < config->tiers[t].ncandidates; i++)
		{
			const Route *route = config->tiers[t].candidates[i].route;

			if (strcmp(route->model_name, model) == 0 &&
				(!provider || strcmp(route->provider_name, provider) == 0))
				return true;
		}
	return false;
}

/* Raises LL006 when a provider, region or model that was named is unknown. */
static void
check_names(const Check *check)
{
	const Provider *provider;
	const char *closest;

	if (check->provider)
	{
		provider = config_provider(check->config, check->provider);
		closest = config_closest_provider(check->config, check->provider);
		if (provider == NULL)
			unknown_name("provider", check->provider, closest ?
						 psprintf("Did you mean \"%s\"?", closest) : NULL);
		if (check->region && provider_region(provider, check->region) == NULL)
			unknown_name("region", check->region, regions_hint(provider));
	}
	else if (check->region && !region_exists(check->config, check->region))
		unknown_name("region", check->region, "No provider has it.");
	if (check->model &&
		!model_is_routed(check->config, check->provider, check->model))
		unknown_name("model", check->model, "No route leads to it.");
}

/* Says whether a candidate is meant by the names that were given. */
static bool
is_meant(const Check *check, const Candidate *candidate)
{
	const Route *route = candidate->route;

	if (candidate->region == NULL)
		return false;
	if (check->provider && strcmp(route->provider_name, check->provider) != 0)
		return false;
	if (check->region && strcmp(candidate->region->name, check->region) != 0)
		return false;
	if (check->model && strcmp(route->model_name, check->model) != 0)
		return false;
	/* one that is named wholly is asked even when it takes no work */
	return check->region != NULL || candidate_disabled(candidate) == NULL ||
		candidate->problem != NULL;
}

/* Says whether a target is there already, by another route. */
static bool
is_known(const Check *check, const Candidate *candidate)
{
	for (int i = 0; i < check->ntargets; i++)
	{
		const Candidate *known = check->targets[i].candidate;

		if (known->region == candidate->region &&
			known->route->model == candidate->route->model)
			return true;
	}
	return false;
}

/* Collects the targets of all routes. */
static void
find_targets(Check *check)
{
	for (int t = 0; t < check->config->ntiers; t++)
	{
		const Tier *tier = &check->config->tiers[t];

		for (int i = 0; i < tier->ncandidates; i++)
		{
			const Candidate *candidate = &tier->candidates[i];

			if (!is_meant(check, candidate) || is_known(check, candidate))
				continue;
			if (check->ntargets == check->max_targets)
			{
				check->max_targets *= 2;
				check->targets = repalloc(check->targets,
										  check->max_targets * sizeof(Target));
			}
			check->targets[check->ntargets++] = (Target) {candidate, NULL};
		}
	}
}

/* Makes a call to each target, and runs MAX_AT_ONCE of them side by side. */
static void
ask_targets(Check *check, Config *config)
{
	Call	  **calls = palloc(check->ntargets * sizeof(Call *));

	for (int i = 0; i < check->ntargets; i++)
	{
		const Candidate *candidate = check->targets[i].candidate;
		CallSpec	spec = {
			.chat = {
				.prompt = CHECK_PROMPT,
				.prompt_len = strlen(CHECK_PROMPT),
				.max_tokens = CHECK_MAX_TOKENS,
			},
			.local_prompt = CHECK_PROMPT,
			.tier = candidate->route->tier,
			.timeout = candidate->route->tier->timeout,
			.deadline = USEC_NEVER,
			.only = candidate,
		};

		calls[i] = call_create(&spec, config, CurrentMemoryContext);
		check->targets[i].call = calls[i];
	}
	for (int i = 0; i < check->ntargets; i += MAX_AT_ONCE)
		calls_run(&calls[i], Min(check->ntargets - i, MAX_AT_ONCE),
				  local_work);
}

/* Says what went wrong and what to do about it. */
static void
explain_failure(const Call *call, const char **error, const char **hint)
{
	Report		report = {0};

	if (call->ntrace > 0)
	{
		*error = attempt_in_words(&call->trace[0]);
		*hint = attempt_hint(&call->trace[0]);
		return;
	}
	report_make(call, &report);
	*error = report.message;
	*hint = report.hint;
}

/* Adds a target's row. */
static void
put_target(ReturnSetInfo *rsinfo, const Target *target)
{
	const Call *call = target->call;
	const Candidate *candidate = target->candidate;
	bool		ok = call->error == CALL_ANSWERED;
	const char *error = NULL;
	const char *hint = NULL;
	Datum		values[CHECK_COLS] = {0};
	bool		nulls[CHECK_COLS] = {0};

	if (!ok)
		explain_failure(call, &error, &hint);
	values[0] = CStringGetTextDatum(candidate->route->provider_name);
	values[1] = CStringGetTextDatum(candidate->region->name);
	values[2] = CStringGetTextDatum(candidate->route->model_name);
	values[3] = BoolGetDatum(ok);
	values[4] = IntervalPGetDatum(usec_to_interval(call->ended - call->started));
	nulls[5] = error == NULL;
	if (error)
		values[5] = CStringGetTextDatum(error);
	nulls[6] = hint == NULL;
	if (hint)
		values[6] = CStringGetTextDatum(hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* llm_check(provider, region, model) → one row a target */
Datum
llm_check(PG_FUNCTION_ARGS)
{
	Config	   *config;
	Check		check = {
		.provider = PG_ARGISNULL(0) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(0)),
		.region = PG_ARGISNULL(1) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.model = PG_ARGISNULL(2) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(2)),
		.max_targets = 16,
	};

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	check.config = config;
	check.targets = palloc(check.max_targets * sizeof(Target));
	check_names(&check);
	find_targets(&check);
	if (check.ntargets == 0)
	{
		ereport(NOTICE,
				(errmsg("no enabled route leads to a provider")));
		return (Datum) 0;
	}
	ask_targets(&check, config);
	for (int i = 0; i < check.ntargets; i++)
		put_target((ReturnSetInfo *) fcinfo->resultinfo, &check.targets[i]);
	return (Datum) 0;
}
