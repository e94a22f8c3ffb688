/*
 * check.c
 *	  llm_check(): asks every target now, many at once.
 *
 * For set-up, key rotation and after a drain. It is the ordinary engine with
 * one candidate a call; a target that is named is asked even when disabled.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "cells.h"
#include "driver.h"
#include "engine/loop.h"
#include "queue/journal.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_check);

#define CHECK_COLS 7

/* Each takes a descriptor, and a backend has some 300 of them to give. */
#define MAX_AT_ONCE 64

#define CHECK_PROMPT "Reply with OK."

/* Bounds the bill; a model that reasons first needs some room. */
#define CHECK_MAX_TOKENS 1024

/* One that is asked. */
typedef struct CheckedTarget
{
	const Candidate *candidate;
	Call	   *call;
} CheckedTarget;

typedef struct Check
{
	const Config *config;
	Names		names;
	int			ntargets;
	CheckedTarget *targets;
} Check;

/* Says whether a candidate is meant by the names that were given. */
static bool
is_meant(const Names *names, const Candidate *candidate)
{
	const Target *target = candidate->target;

	if (target == NULL)
		return false;
	if (names->provider &&
		strcmp(target->region->provider->name, names->provider) != 0)
		return false;
	if (names->region && strcmp(target->region->name, names->region) != 0)
		return false;
	if (names->model && strcmp(target->model->name, names->model) != 0)
		return false;
	/* one that is named wholly is asked even when it takes no work */
	return names->region != NULL || candidate_disabled(candidate) == NULL ||
		candidate->problem != NULL;
}

/* Collects the targets that are meant, each by the first route to it. */
static void
find_targets(Check *check)
{
	const Config *config = check->config;
	bool	   *known = palloc0((config->ntargets + 1) * sizeof(bool));

	check->targets = palloc((config->ntargets + 1) * sizeof(CheckedTarget));
	for (int t = 0; t < config->ntiers; t++)
		for (int i = 0; i < config->tiers[t].ncandidates; i++)
		{
			const Candidate *candidate = &config->tiers[t].candidates[i];

			if (!is_meant(&check->names, candidate) ||
				known[candidate->target - config->targets])
				continue;
			known[candidate->target - config->targets] = true;
			check->targets[check->ntargets++] = (CheckedTarget) {candidate, NULL};
		}
}

/* Makes a call to each target, and runs MAX_AT_ONCE of them side by side. */
static void
ask_targets(Check *check, Config *config)
{
	Call	  **calls = palloc(check->ntargets * sizeof(Call *));
	const char *role = GetUserNameFromId(GetUserId(), true);

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
	for (int i = 0; i < check->ntargets; i++)
		journal_usage(calls[i], NULL, role);
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
put_target(ReturnSetInfo *rsinfo, const CheckedTarget *target)
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
	Check		check = {.names = names_of_args(fcinfo)};

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	check.config = config;
	names_check(&check.names, config);
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
