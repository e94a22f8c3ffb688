/*
 * outlook.c
 *	  What a tier can do for tasks, which can wait: see router.h.
 *
 * A task that is asked of a tier in which nobody is admitted has only been
 * moved to and fro. So the queue looks before it claims: is anybody there, for
 * about how many, and when is it worth to look again. The tier's fallback is
 * not looked at: a task waits for its own tier.
 *
 * A builtin model that may well decline (a rule that does not match) is no
 * reason to claim tasks for which the tier's models are out; where there are no
 * models, it is.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "router.h"
#include "settings.h"

/* So many cells are counted; what more bound the calls add nothing. */
#define MAX_CELLS 32

/* So many scopes are named of a tier in which nobody is admitted. */
#define MAX_NAMED 4

/* The least that a call takes: it finds a limit of tokens that is used up. */
#define LEAST_TOKENS 1

/* What is added up over the candidates of a tier. */
typedef struct Tally
{
	TierOutlook *outlook;
	bool		unknown;		/* somebody may be admitted at any time */
	int			ncells;
	const Cell *cells[MAX_CELLS];	/* whose room is counted */
} Tally;

static bool tier_has_model(const Tier *tier);
static bool serves_locally(const Tier *tier);
static void add_out(Tally *tally, Usec until);
static void add_room(Tally *tally, const HealthRoom *room);
static void add_until(Tally *tally, Usec until);
static char *why_all_out(const Config *config, const Tier *tier, Usec now);
static char *why_out(const Config *config, const Candidate *candidate,
					 Usec now);
static List *add_once(List *words, char *word);
static char *scope_name(const Candidate *candidate, CellScope scope);

/* Says whether a tier has an enabled route to a provider. */
static bool
tier_has_model(const Tier *tier)
{
	for (int i = 0; i < tier->ncandidates; i++)
		if (tier->candidates[i].route->builtin == BUILTIN_NONE &&
			candidate_disabled(&tier->candidates[i]) == NULL)
			return true;
	return false;
}

/* Says whether a builtin model of a tier serves whatever its models do. */
static bool
serves_locally(const Tier *tier)
{
	bool		has_model = tier_has_model(tier);

	for (int i = 0; i < tier->ncandidates; i++)
	{
		const Candidate *candidate = &tier->candidates[i];
		BuiltinModel builtin = candidate->route->builtin;

		if (builtin != BUILTIN_NONE && candidate_disabled(candidate) == NULL &&
			(builtin != BUILTIN_RULE || !has_model))
			return true;
	}
	return false;
}

/* --- how much --- */

void
tier_outlook(const Config *config, const Tier *tier, double leave,
			 int64 tokens, Usec now, TierOutlook *outlook)
{
	Tally		tally = {.outlook = outlook};
	HealthCheck check;
	HealthRoom	room;

	*outlook = (TierOutlook) {.state = OUTLOOK_OUT};
	if (tier->enabled && serves_locally(tier))
		*outlook = (TierOutlook) {OUTLOOK_READY, PG_INT32_MAX, 0};
	if (!tier->enabled || !llm_enabled || outlook->state == OUTLOOK_READY)
		return;
	tokens = Max(tokens, LEAST_TOKENS);
	for (int i = 0; i < tier->ncandidates; i++)
	{
		const Candidate *candidate = &tier->candidates[i];

		if (candidate->target == NULL || router_why_idle(config, candidate))
			continue;
		router_examine(config, candidate, tokens, leave, now, &check);
		if (check.verdict == HEALTH_OUT)
		{
			add_out(&tally, check.until);
			continue;
		}
		health_room(&candidate->target->health, tokens, leave,
					llm_worker_concurrency, now, &check, &room);
		add_room(&tally, &room);
		if (check.verdict == HEALTH_READY)
			outlook->state = OUTLOOK_READY;
		else
			outlook->state = Min(outlook->state, OUTLOOK_LIMITED);
	}
	if (tally.unknown)
		outlook->until = 0;
}

/* Counts a candidate that is out until a time, which may be unknown. */
static void
add_out(Tally *tally, Usec until)
{
	if (until != USEC_NEVER)
		add_until(tally, until);
}

/* Counts the room of a candidate, once for all that have it together. */
static void
add_room(Tally *tally, const HealthRoom *room)
{
	TierOutlook *outlook = tally->outlook;

	if (room->calls == PG_INT32_MAX)
	{
		outlook->calls = PG_INT32_MAX;
		return;
	}
	add_until(tally, room->until);
	for (int i = 0; i < tally->ncells; i++)
		if (tally->cells[i] == room->cell)
			return;
	if (tally->ncells == MAX_CELLS)
		return;
	tally->cells[tally->ncells++] = room->cell;
	outlook->calls = (int) Min((int64) outlook->calls + room->calls,
							   PG_INT32_MAX);
}

/* Looks again at the first time of all; when one is unknown, nobody knows. */
static void
add_until(Tally *tally, Usec until)
{
	TierOutlook *outlook = tally->outlook;

	if (until == 0)
		tally->unknown = true;
	else if (outlook->until == 0 || until < outlook->until)
		outlook->until = until;
}

/* --- in words --- */

char *
tier_blocked_by(const Config *config, const Tier *tier, Usec now)
{
	if (!tier->enabled)
		return psprintf("tier \"%s\" is disabled", tier->name);
	if (tier->ncandidates == 0)
		return psprintf("tier \"%s\" has no route", tier->name);
	if (serves_locally(tier))
		return NULL;
	if (!llm_enabled)
		return pstrdup("llm_failover is switched off");
	return why_all_out(config, tier, now);
}

/* Lists why each of a tier's models is out; NULL when one is not. */
static char *
why_all_out(const Config *config, const Tier *tier, Usec now)
{
	StringInfoData words;
	List	   *reasons = NIL;
	ListCell   *lc;

	for (int i = 0; i < tier->ncandidates; i++)
	{
		char	   *reason;

		if (tier->candidates[i].route->builtin != BUILTIN_NONE)
			continue;
		reason = why_out(config, &tier->candidates[i], now);
		if (reason == NULL)
			return NULL;
		reasons = add_once(reasons, reason);
	}
	initStringInfo(&words);
	appendStringInfoString(&words, "no candidate admitted: ");
	foreach(lc, reasons)
		if (foreach_current_index(lc) < MAX_NAMED)
			appendStringInfo(&words, "%s%s",
							 foreach_current_index(lc) > 0 ? ", " : "",
							 (char *) lfirst(lc));
	if (list_length(reasons) > MAX_NAMED)
		appendStringInfo(&words, " and %d more",
						 list_length(reasons) - MAX_NAMED);
	return words.data;
}

/*
 * Says who keeps a candidate out, and why: openai (402 billing, until 14:40).
 * NULL when it is admitted.
 */
static char *
why_out(const Config *config, const Candidate *candidate, Usec now)
{
	const char *idle = router_why_idle(config, candidate);
	HealthCheck check;

	if (idle)
		return psprintf("%s (%s)", scope_name(candidate, CELL_TARGET), idle);
	router_check(candidate, LEAST_TOKENS, llm_sync_reserve, now, &check);
	if (check.verdict != HEALTH_OUT)
		return NULL;
	return psprintf("%s (%s)", scope_name(candidate, check.scope),
					health_in_few_words(candidate, &check, now));
}

/* Appends what is not there yet: candidates have their scopes together. */
static List *
add_once(List *words, char *word)
{
	ListCell   *lc;

	foreach(lc, words)
		if (strcmp(lfirst(lc), word) == 0)
			return words;
	return lappend(words, word);
}

/* Names a candidate's provider, region or target. */
static char *
scope_name(const Candidate *candidate, CellScope scope)
{
	const Route *route = candidate->route;

	if (scope == CELL_PROVIDER || candidate->region == NULL)
		return pstrdup(route->provider_name);
	if (scope == CELL_REGION)
		return psprintf("%s/%s", route->provider_name,
						candidate->region->name);
	return psprintf("%s/%s/%s", route->provider_name, candidate->region->name,
					route->model_name);
}
