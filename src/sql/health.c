/*
 * health.c
 *	  The row of the view llm_health: whether this server can answer, and if
 *	  not, why, in words.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "driver.h"
#include "health/shared.h"
#include "queue/journal.h"
#include "queue/standing.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_health_rows);

#define HEALTH_COLS 12

/* So many candidates are named of a tier whose providers are all out. */
#define MAX_REASONS 4

/*
 * Says why calls cannot go to a candidate of a provider, by the configuration,
 * or NULL.
 */
static const char *
why_idle(const Config *config, const Candidate *candidate)
{
	return candidate->route->tier->enabled ?
		router_why_idle(config, candidate) : "tier disabled";
}

/*
 * Says why a candidate of a provider is not admitted, or returns NULL when it
 * is.
 */
static const char *
why_not_admitted(const Config *config, const Candidate *candidate, Usec now)
{
	const char *why = why_idle(config, candidate);
	HealthCheck check;

	if (why)
		return why;
	router_check(candidate, 0, 0, now, &check);
	if (health_is_shut(&check))
		why = health_in_words(candidate, &check, now);
	return why;
}

/*
 * Says why none of a tier's providers is admitted, or returns NULL when one
 * is, or there is none.
 */
static char *
why_tier_unwell(const Config *config, const Tier *tier, Usec now)
{
	StringInfoData reasons;
	int			n = 0;

	initStringInfo(&reasons);
	for (int i = 0; i < tier->ncandidates; i++)
	{
		const Candidate *candidate = &tier->candidates[i];
		const char *why;

		if (candidate->route->builtin != BUILTIN_NONE)
			continue;
		why = why_not_admitted(config, candidate, now);
		if (why == NULL)
			return NULL;
		if (++n <= MAX_REASONS)
			appendStringInfo(&reasons, "%s%s (%s)", n > 1 ? ", " : "",
							 candidate_name(candidate), why);
	}
	if (n > MAX_REASONS)
		appendStringInfo(&reasons, " and %d more", n - MAX_REASONS);
	return n > 0 ? reasons.data : NULL;
}

/* Says whether the worker of this database is there. */
static bool
worker_runs(void)
{
	DatabaseSlot *slot = slot_find(MyDatabaseId);

	return slot && slot_pid(slot, SLOT_WORKER) != 0;
}

/* Says why the queue is not well, or NULL; to stop it by hand is well. */
static char *
why_queue_unwell(const QueueOrigin *origin)
{
	if (queue_is_copy(origin))
		return psprintf("the queue stands: %s; llm_resume() starts it",
						queue_why_standing(origin));
	if (!RecoveryInProgress() && !worker_runs())
		return pstrdup("the worker of this database does not run");
	return NULL;
}

/* Says why this server is not well, or NULL. */
static char *
why_unwell(const Config *config, const char *version,
		   const QueueOrigin *origin, Usec now)
{
	if (!llm_enabled)
		return pstrdup("llm_failover.enabled is off");
	if (strcmp(version, LLM_VERSION) != 0)
		return psprintf("the library is %s but the extension %s: ALTER EXTENSION llm_failover UPDATE",
						LLM_VERSION, version);
	for (int i = 0; i < config->ntiers; i++)
	{
		const Tier *tier = &config->tiers[i];
		const char *why = tier->enabled ?
			why_tier_unwell(config, tier, now) : NULL;

		if (why)
			return psprintf("no provider of tier \"%s\" is admitted: %s",
							tier->name, why);
	}
	return why_queue_unwell(origin);
}

/* Counts the targets that take work, and of these the ones that are open. */
static void
count_targets(const Config *config, Usec now, int *targets, int *open)
{
	bool	   *works = palloc0((config->ntargets + 1) * sizeof(bool));
	HealthCheck check;

	for (int t = 0; t < config->ntiers; t++)
		for (int i = 0; i < config->tiers[t].ncandidates; i++)
		{
			const Candidate *candidate = &config->tiers[t].candidates[i];

			if (candidate->target && why_idle(config, candidate) == NULL)
				works[candidate->target - config->targets] = true;
		}
	for (int i = 0; i < config->ntargets; i++)
		if (works[i])
		{
			++*targets;
			health_check(&config->targets[i].health, 0, 0, now, &check);
			if (health_is_shut(&check) && check.why == WHY_BREAKER)
				++*open;
		}
}

/*
 * llm_health_rows(version of the extension, and what llm_queue_state says of
 * the queue) → the one row of llm_health
 */
Datum
llm_health_rows(PG_FUNCTION_ARGS)
{
	Datum		values[HEALTH_COLS] = {0};
	bool		nulls[HEALTH_COLS] = {0};
	const Config *config;
	char	   *version;
	QueueOrigin origin;
	const char *standing;
	char	   *reason;
	int			targets = 0;
	int			targets_open = 0;
	Usec		now = clock_now();
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	version = text_to_cstring(PG_GETARG_TEXT_PP(0));
	origin = queue_origin_of_args(fcinfo, 1);
	standing = queue_why_standing(&origin);
	reason = why_unwell(config, version, &origin, now);
	count_targets(config, now, &targets, &targets_open);
	values[0] = BoolGetDatum(reason == NULL);
	nulls[1] = reason == NULL;
	if (reason)
		values[1] = CStringGetTextDatum(reason);
	values[2] = BoolGetDatum(llm_enabled);
	values[3] = BoolGetDatum(RecoveryInProgress());
	values[4] = CStringGetTextDatum(version);
	values[5] = CStringGetTextDatum(LLM_VERSION);
	values[6] = Int32GetDatum(targets);
	values[7] = Int32GetDatum(targets_open);
	values[8] = Int64GetDatum((int64) cells_unshared());
	values[9] = BoolGetDatum(worker_runs());
	nulls[10] = standing == NULL;
	if (standing)
		values[10] = CStringGetTextDatum(standing);
	values[11] = Int64GetDatum(journal_dropped());
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}
