/*
 * report.c
 *	  What people are told: errors LL001 to LL006, the NOTICE of a degraded
 *	  answer, log line and event of a failover. All wording of calls is here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "catalog/secret.h"
#include "driver.h"
#include "queue/journal.h"

/* Names a candidate: provider/region/model, or builtin/model. */
char *
candidate_name(const Candidate *candidate)
{
	const Route *route = candidate->route;

	if (candidate->region == NULL)
		return psprintf("%s/%s", route->provider_name, route->model_name);
	return psprintf("%s/%s/%s", route->provider_name, candidate->region->name,
					route->model_name);
}

/* Says whether a provider's own words help with an outcome. */
static bool
words_help(Outcome outcome)
{
	return outcome != OUTCOME_THROTTLED && outcome != OUTCOME_OVERLOADED;
}

/* Says what became of an attempt, without naming the candidate. */
char *
attempt_in_words(const Attempt *attempt)
{
	StringInfoData words;

	initStringInfo(&words);
	if (attempt->status > 0)
	{
		appendStringInfo(&words, "%d %s after %lld ms", attempt->status,
						 outcome_rules[attempt->outcome].name,
						 (long long) attempt->ms);
		if (attempt->error && words_help(attempt->outcome))
			appendStringInfo(&words, " (%s)", attempt->error);
	}
	else
	{
		appendStringInfoString(&words, attempt->error ? attempt->error :
							   outcome_rules[attempt->outcome].name);
		if (attempt->candidate->region && !strstr(words.data, " ms"))
			appendStringInfo(&words, " after %lld ms", (long long) attempt->ms);
	}
	return words.data;
}

/* Says what a person can do about an attempt's outcome, or NULL. */
char *
attempt_hint(const Attempt *attempt)
{
	const char *hint = outcome_rules[attempt->outcome].hint;
	const Region *region = attempt->candidate->region;

	if (hint == NULL || region == NULL)
		return NULL;
	if (strstr(hint, "%s") == NULL)
		return pstrdup(hint);
	if (region->secret == NULL)
		return psprintf("Set llm_provider.secret of \"%s\".",
						region->provider->name);
	return psprintf("Replace the secret %s.", secret_describe(region->secret));
}

/* Who may be asked first of all, and when; NULL: nobody knows of anybody. */
typedef struct FirstChance
{
	const Candidate *candidate;
	Usec		at;
} FirstChance;

/* Looks for the first chance in a tier, by what all backends know. */
static void
look_for_chance(const Tier *tier, Usec now, FirstChance *first)
{
	for (int i = 0; i < tier->ncandidates; i++)
	{
		const Candidate *candidate = &tier->candidates[i];
		HealthCheck check;

		if (candidate->target == NULL || candidate_disabled(candidate))
			continue;
		health_check(&candidate->target->health, 0, 0, now, &check);
		if (check.verdict == HEALTH_OUT && check.until > now &&
			(first->candidate == NULL || check.until < first->at))
			*first = (FirstChance) {candidate, check.until};
	}
}

/* Finds who of the chain of a call may be asked first. */
static FirstChance
first_chance(const Call *call, Usec now)
{
	FirstChance first = {call->later.candidate, call->later.at};
	const Tier *tier = call->spec.tier;

	for (int seen = 0; tier && seen < call->config->ntiers; seen++)
	{
		if (tier->enabled)
			look_for_chance(tier, now, &first);
		tier = call->spec.allow_degraded ? tier->fallback : NULL;
	}
	return first;
}

/* Appends when somebody may be asked again. */
static void
append_again_at(StringInfo detail, const Call *call)
{
	static const char *const ordinals[] = {"first", "second", "third"};
	Usec		now = clock_now();
	FirstChance first = first_chance(call, now);
	const char *at;
	int			n = 0;

	if (first.candidate == NULL)
		return;
	at = time_in_words(first.at, now);
	while (n < call->ntrace && call->trace[n].candidate != first.candidate)
		n++;
	if (n == call->ntrace)
		appendStringInfo(detail, " %s may be asked at %s.",
						 candidate_name(first.candidate), at);
	else if (n < (int) lengthof(ordinals))
		appendStringInfo(detail, " The %s may be asked again at %s.",
						 ordinals[n], at);
	else
		appendStringInfo(detail, " Number %d may be asked again at %s.",
						 n + 1, at);
}

/* Appends why a candidate was not asked, if one was not. */
static void
append_not_asked(StringInfo detail, const char *why)
{
	if (why)
		appendStringInfo(detail, "%sNot asked: %s.", detail->len ? " " : "",
						 why);
}

/* Lists the attempts of a call, or NULL when there was none. */
static const char *
attempts_detail(const Call *call)
{
	StringInfoData detail;

	initStringInfo(&detail);
	for (int i = 0; i < call->ntrace; i++)
		appendStringInfo(&detail, "%s%d. %s: %s.", i > 0 ? " " : "", i + 1,
						 candidate_name(call->trace[i].candidate),
						 attempt_in_words(&call->trace[i]));
	append_not_asked(&detail, call->unsayable);
	append_not_asked(&detail, call->problem);
	for (int i = 0; i < call->nnot_asked; i++)
		append_not_asked(&detail, call->not_asked[i]);
	if (detail.len > 0)
		append_again_at(&detail, call);
	return detail.len > 0 ? detail.data : NULL;
}

/* Says whether a tier has a candidate at a provider. */
static bool
tier_has_provider(const Tier *tier)
{
	for (int i = 0; i < tier->ncandidates; i++)
		if (tier->candidates[i].region)
			return true;
	return false;
}

/* LL001 */
static void
report_no_answer(const Call *call, Report *report)
{
	const Tier *tier = call->spec.tier;

	report->message = "no model could answer";
	report->detail = attempts_detail(call);
	if (!tier_has_provider(tier))
		report->hint =
			psprintf("Tier \"%s\" has no route to a provider. "
					 "INSERT INTO llm_provider(name, dialect, secret) ...; "
					 "INSERT INTO llm_route(provider, model) ...; "
					 "SELECT * FROM llm_check();", tier->name);
	else
		report->hint = "See SELECT * FROM llm_status.";
}

/* LL002 */
static void
report_timed_out(const Call *call, Report *report)
{
	Usec		allowed = call->deadline - call->started;

	report->message = psprintf("no answer within %g s",
							   (double) (allowed / USEC_MSEC) / 1000.0);
	report->detail = attempts_detail(call);
	if (call->deadline == call->spec.deadline)
		report->hint = "Raise statement_timeout.";
	else
		report->hint =
			psprintf("Raise timeout of tier \"%s\", or the parameter timeout.",
					 call->spec.tier->name);
}

/* LL003 */
static void
report_refused(const Call *call, Report *report)
{
	const Attempt *attempt = &call->trace[call->refusal];
	const char *tier = attempt->tier->name;

	report->message = psprintf("the request was refused: %s",
							   attempt->error && attempt->error[0] ?
							   attempt->error :
							   outcome_rules[attempt->outcome].name);
	report->detail = attempts_detail(call);
	if (attempt->outcome == OUTCOME_CONTEXT_LENGTH)
		report->hint =
			psprintf("Shorten the prompt, or route tier \"%s\" to a model with a larger context window.",
					 tier);
	else if (attempt->outcome == OUTCOME_CONTENT_FILTER)
		report->hint =
			psprintf("Rephrase the prompt, or set on_content_filter of tier \"%s\" to 'next'.",
					 tier);
	else
		report->hint = outcome_rules[attempt->outcome].hint;
}

/* LL004, of a residency that nobody satisfies */
static void
report_no_residency(const Call *call, Report *report)
{
	report->message =
		psprintf("no region of tier \"%s\"%s satisfies residency \"%s\"",
				 call->spec.tier->name,
				 call->spec.allow_degraded && call->spec.tier->fallback ?
				 " or its fallbacks" : "",
				 call->spec.residency);
	report->detail =
		"A region may see the data only if llm_region.residency has every label.";
	report->hint =
		psprintf("See SELECT provider, region, residency FROM llm_routing WHERE tier = '%s'.",
				 call->spec.tier->name);
}

/* Words the end of a call without an answer, in the current context. */
void
report_make(const Call *call, Report *report)
{
	switch (call->error)
	{
		case CALL_ANSWERED:
			report->sqlstate = 0;
			break;
		case CALL_NO_ANSWER:
			report->sqlstate = SQLSTATE_LL(1);
			report_no_answer(call, report);
			break;
		case CALL_TIMED_OUT:
			report->sqlstate = SQLSTATE_LL(2);
			report_timed_out(call, report);
			break;
		case CALL_REFUSED:
			report->sqlstate = SQLSTATE_LL(3);
			report_refused(call, report);
			break;
		case CALL_UNSAYABLE:
			report->sqlstate = SQLSTATE_LL(3);
			report->message = psprintf("the request was refused: %s",
									   call->unsayable);
			report->detail = attempts_detail(call);
			report->hint = "Change the messages, or route the tier to a provider of another dialect.";
			break;
		case CALL_SWITCHED_OFF:
			report->sqlstate = SQLSTATE_LL(4);
			report->message = "llm_failover is switched off";
			report->detail = attempts_detail(call);
			report->hint = "Set llm_failover.enabled to on.";
			break;
		case CALL_NO_RESIDENCY:
			report->sqlstate = SQLSTATE_LL(4);
			report_no_residency(call, report);
			break;
		case CALL_MISCONFIGURED:
			report->sqlstate = SQLSTATE_LL(6);
			report->message = call->problem;
			report->hint = call->problem_hint;
			break;
	}
}

/* Raises a report. */
void
report_raise(const Report *report)
{
	ereport(ERROR,
			(errcode(report->sqlstate),
			 errmsg("%s", report->message),
			 report->detail ? errdetail("%s", report->detail) : 0,
			 report->hint ? errhint("%s", report->hint) : 0));
}

/*
 * Tells of a degraded answer, the first time in a statement: for functions
 * whose result cannot say it.
 */
void
report_degraded(const Call *call)
{
	static TimestampTz told_at = 0;
	const Answer *answer = &call->answer;
	const Tier *asked = call->spec.tier;
	char	   *who;

	if (!answer->degraded || told_at == GetCurrentStatementStartTimestamp())
		return;
	told_at = GetCurrentStatementStartTimestamp();
	who = answer->candidate->region ? candidate_name(answer->candidate) :
		psprintf("\"%s\"", answer->candidate->route->model_name);
	if (!tier_has_provider(asked))
		ereport(NOTICE,
				(errmsg("degraded answer: tier \"%s\" has no model, so %s of tier \"%s\" answered",
						asked->name, who, answer->tier->name),
				 errhint("INSERT INTO llm_provider and llm_route.")));
	else
		ereport(NOTICE,
				(errmsg("degraded answer: no candidate of tier \"%s\" was available, so %s of tier \"%s\" answered",
						asked->name, who, answer->tier->name),
				 call->problem ? errhint("Configuration: %s.", call->problem) :
				 errhint("See llm_last() and SELECT * FROM llm_explain(tier => '%s').",
						 asked->name)));
}

/* Writes the attempts that failed, for the log. */
static char *
failed_attempts(const Call *call)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < call->ntrace; i++)
	{
		const Attempt *attempt = &call->trace[i];

		if (attempt->outcome == OUTCOME_OK)
			continue;
		appendStringInfo(&list, "%s%s %s ", list.len > 0 ? ", " : "",
						 candidate_name(attempt->candidate),
						 outcome_rules[attempt->outcome].name);
		if (attempt->status > 0)
			appendStringInfo(&list, "%d ", attempt->status);
		appendStringInfo(&list, "%lld ms", (long long) attempt->ms);
	}
	return list.data;
}

/* Says how a call went on after a failure; without the prompt. */
static const char *
failover_in_words(const Call *call)
{
	const Candidate *answered_by = call->answer.candidate;

	return psprintf("tier \"%s\" %s%s after %d attempt%s: %s",
					call->spec.tier->name,
					answered_by ? "answered by " : "not answered",
					answered_by ? candidate_name(answered_by) : "",
					call->nattempts, call->nattempts == 1 ? "" : "s",
					failed_attempts(call));
}

/* Makes an event of it. */
static void
note_failover(const Call *call, const char *role, const char *words)
{
	const Candidate *answered_by = call->answer.candidate;
	JournalScope scope = {
		.tier = call->spec.tier->name,
		.feature = call->spec.feature,
		.role = role,
	};

	if (answered_by)
	{
		scope.provider = answered_by->route->provider_name;
		scope.region = answered_by->region ? answered_by->region->name : NULL;
		scope.model = answered_by->route->model_name;
	}
	journal_event(MyDatabaseId, "failover", &scope, words,
				  psprintf("{\"attempts\": %d, \"ms\": %lld, \"degraded\": %s}",
						   call->nattempts,
						   (long long) ((call->ended - call->started) / USEC_MSEC),
						   call->answer.degraded ? "true" : "false"),
				  false);
}

/*
 * Tells of a call in which a provider's attempt failed: one line in the log, its
 * order fixed, without the statement, and an event. `role` has asked.
 */
void
report_failover(const Call *call, const char *role)
{
	const Candidate *answered_by = call->answer.candidate;
	MemoryContext old;
	const char *words;

	if (call->nattempts == 0 ||
		(call->nattempts == 1 && answered_by && answered_by->region))
		return;
	old = MemoryContextSwitchTo(call->context);
	words = failover_in_words(call);
	ereport(LOG_SERVER_ONLY,
			(errmsg("llm_failover: %s", words),
			 errhidestmt(true), errhidecontext(true)));
	note_failover(call, role, words);
	MemoryContextSwitchTo(old);
}
