/*
 * health.c
 *	  The row of the view llm_health: whether this server can answer, and if
 *	  not, why, in words.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "catalog/secret.h"
#include "driver.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_health_rows);

#define HEALTH_COLS 7

/* Says whether calls may go to a candidate of a provider. */
static bool
takes_work(const Config *config, const Candidate *candidate)
{
	return candidate->region && candidate->route->tier->enabled &&
		candidate_disabled(candidate) == NULL &&
		secret_problem(config, candidate) == NULL;
}

/* Says whether a candidate before this one is at the same target. */
static bool
seen_before(const Config *config, int tier, int candidate)
{
	const Candidate *it = &config->tiers[tier].candidates[candidate];

	for (int t = 0; t <= tier; t++)
	{
		int			end = t < tier ? config->tiers[t].ncandidates : candidate;

		for (int i = 0; i < end; i++)
		{
			const Candidate *other = &config->tiers[t].candidates[i];

			if (other->region == it->region &&
				other->route->model == it->route->model &&
				takes_work(config, other))
				return true;
		}
	}
	return false;
}

/* Counts the targets that take work. */
static int
count_targets(const Config *config)
{
	int			n = 0;

	for (int t = 0; t < config->ntiers; t++)
		for (int i = 0; i < config->tiers[t].ncandidates; i++)
		{
			const Candidate *candidate = &config->tiers[t].candidates[i];

			if (takes_work(config, candidate) && !seen_before(config, t, i))
				n++;
		}
	return n;
}

/* Returns a tier that has providers, of which none takes work, or NULL. */
static const Tier *
tier_without_provider(const Config *config)
{
	for (int t = 0; t < config->ntiers; t++)
	{
		const Tier *tier = &config->tiers[t];
		bool		any = false;
		bool		admitted = false;

		for (int i = 0; i < tier->ncandidates; i++)
		{
			if (tier->candidates[i].route->builtin != BUILTIN_NONE)
				continue;
			any = true;
			if (takes_work(config, &tier->candidates[i]))
				admitted = true;
		}
		if (tier->enabled && any && !admitted)
			return tier;
	}
	return NULL;
}

/* Says why this server is not well, or NULL. */
static char *
why_unwell(const Config *config, const char *version)
{
	const Tier *tier;

	if (!llm_enabled)
		return pstrdup("llm_failover.enabled is off");
	if (strcmp(version, LLM_VERSION) != 0)
		return psprintf("the library is %s but the extension %s: ALTER EXTENSION llm_failover UPDATE",
						LLM_VERSION, version);
	tier = tier_without_provider(config);
	if (tier)
		return psprintf("no provider of tier \"%s\" takes work", tier->name);
	return NULL;
}

/* llm_health_rows(version of the extension) → the one row of llm_health */
Datum
llm_health_rows(PG_FUNCTION_ARGS)
{
	Datum		values[HEALTH_COLS] = {0};
	bool		nulls[HEALTH_COLS] = {0};
	const Config *config;
	char	   *version;
	char	   *reason;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	version = text_to_cstring(PG_GETARG_TEXT_PP(0));
	reason = why_unwell(config, version);
	values[0] = BoolGetDatum(reason == NULL);
	nulls[1] = reason == NULL;
	if (reason)
		values[1] = CStringGetTextDatum(reason);
	values[2] = BoolGetDatum(llm_enabled);
	values[3] = BoolGetDatum(RecoveryInProgress());
	values[4] = CStringGetTextDatum(version);
	values[5] = CStringGetTextDatum(LLM_VERSION);
	values[6] = Int32GetDatum(count_targets(config));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}
