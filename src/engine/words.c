/*
 * words.c
 *	  What health says, for people: in explanations, errors and views.
 */
#include "postgres.h"

#include <math.h>

#include "router.h"
#include "util/when.h"

static const char *const scope_words[] = {
	[CELL_PROVIDER] = "provider",
	[CELL_REGION] = "region",
	[CELL_TARGET] = "target",
	[CELL_TIER] = "tier",
};

/* Writes a point in monotonic time in the session's time zone. */
char *
time_in_words(Usec at, Usec now)
{
	return write_when(palloc(WHEN_LEN), at, now, session_timezone);
}

/* Says what a breaker is doing to a scope, and why. */
static char *
breaker_in_words(const Candidate *candidate, CellScope scope, Usec now)
{
	Cell	   *cell = cell_of(candidate->target->health.cells[scope]);
	const BreakerConfig *config = candidate->target->health.breaker;
	char		reason[CELL_REASON_LEN];
	BreakerView view;
	const char *name = scope_words[scope];

	if (cell == NULL)
		return psprintf("%s breaker", name);
	view = breaker_view(&cell->breaker, config, now);
	cell_get_reason(cell, reason);
	switch (view.state)
	{
		case BREAKER_OPEN:
			return psprintf("%s breaker open until %s%s%s", name,
							time_in_words(view.until, now),
							reason[0] ? ": " : "", reason);
		case BREAKER_HALF_OPEN:
			return psprintf("%s breaker half-open, %d of %d trials under way",
							name, view.permits, config->half_open_calls);
		case BREAKER_RAMPING:
			return psprintf("%s breaker ramping, at %d %%", name,
							(int) rint(view.share * 100));
		case BREAKER_CLOSED:
			break;
	}
	return psprintf("%s breaker closed", name);
}

/* The same in fewer words, for where the scope is named beside them. */
static char *
breaker_in_few_words(const Candidate *candidate, CellScope scope, Usec now)
{
	Cell	   *cell = cell_of(candidate->target->health.cells[scope]);
	char		reason[CELL_REASON_LEN];
	BreakerView view;

	if (cell == NULL)
		return pstrdup("open");
	view = breaker_view(&cell->breaker, candidate->target->health.breaker, now);
	cell_get_reason(cell, reason);
	if (view.state != BREAKER_OPEN)
		return pstrdup("on trial");
	/* what opens by itself is for llm_status to explain */
	return psprintf("%s, until %s",
					(view.sticky || view.forced) && reason[0] ? reason : "open",
					time_in_words(view.until, now));
}

/*
 * Says what a limit of so much, of which a part may be left to others, is doing
 * until when.
 */
static char *
limit_in_words(const char *name, int limit, const HealthCheck *check, Usec now)
{
	const char *reserve = check->reserved ? ", less sync_reserve," : "";

	if (check->until == USEC_NEVER)
		return psprintf("%s %d is all left to callers by sync_reserve", name,
						limit);
	return psprintf("%s %d%s is reached until %s", name, limit, reserve,
					time_in_words(check->until, now));
}

/* Says in words why a candidate is not simply ready. */
char *
health_in_words(const Candidate *candidate, const HealthCheck *check, Usec now)
{
	switch (check->why)
	{
		case WHY_BREAKER:
			return breaker_in_words(candidate, check->scope, now);
		case WHY_THROTTLED:
			return psprintf("throttled until %s",
							time_in_words(check->until, now));
		case WHY_NETWORK:
			return pstrdup("no provider can be reached from this server");
		case WHY_MAX_INFLIGHT:
			if (check->until == USEC_NEVER)
				return limit_in_words("max_inflight",
									  candidate->target->health.max_inflight,
									  check, now);
			return psprintf("region is at max_inflight %d%s",
							candidate->target->health.max_inflight,
							check->reserved ? ", less sync_reserve" : "");
		case WHY_RPM:
			return limit_in_words("rpm", candidate->target->health.rpm, check,
								  now);
		case WHY_TPM:
			return limit_in_words("tpm", candidate->target->health.tpm, check,
								  now);
		case WHY_NONE:
			break;
	}
	return pstrdup("");
}

/* The same in fewer words, for where check->scope is named beside them. */
char *
health_in_few_words(const Candidate *candidate, const HealthCheck *check,
					Usec now)
{
	return check->why == WHY_BREAKER ?
		breaker_in_few_words(candidate, check->scope, now) :
		health_in_words(candidate, check, now);
}
