/*
 * rule.c
 *	  The builtin model "rule": the rows of llm_rule.
 *
 * The first enabled rule whose feature and pattern fit answers. A bad row must
 * not silence the others: a pattern that is unusable matches nothing.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "local.h"
#include "pattern.h"

/* The whole match and \1 to \9. */
#define RULE_MAX_MATCHES 10

/* Returns where a character of the subject's text begins. */
static const char *
character_at(const Subject *subject, regoff_t n)
{
	const char *p = subject->text;

	if (pg_database_encoding_max_length() == 1)
		return p + n;
	while (n-- > 0)
		p += pg_mblen(p);
	return p;
}

/* Appends a part of the match; one that took no part in it is empty. */
static void
append_part(StringInfo out, const Subject *subject, const regmatch_t *part)
{
	const char *from;
	const char *to;

	if (part->rm_so < 0 || part->rm_eo < 0)
		return;
	from = character_at(subject, part->rm_so);
	to = character_at(subject, part->rm_eo);
	appendBinaryStringInfo(out, from, to - from);
}

/*
 * Fills in an answer: \1 to \9 and \& are parts of the match, \\ is a
 * backslash; another backslash stands for itself, as in regexp_replace().
 * No server encoding has a backslash inside a character.
 */
static char *
fill_in(const char *answer, const Subject *subject, const regmatch_t *parts)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *p = answer; *p; p++)
	{
		if (*p != '\\')
			appendStringInfoChar(&out, *p);
		else if (p[1] >= '1' && p[1] <= '9')
			append_part(&out, subject, &parts[*++p - '0']);
		else if (p[1] == '&')
		{
			append_part(&out, subject, &parts[0]);
			p++;
		}
		else
		{
			appendStringInfoChar(&out, '\\');
			if (p[1] == '\\')
				p++;
		}
	}
	return out.data;
}

/* Says whether a rule is there for calls of that feature (NULL: of none). */
static bool
rule_serves(const Rule *rule, const char *feature)
{
	return rule->feature == NULL ||
		(feature != NULL && strcmp(rule->feature, feature) == 0);
}

/* Returns the answer of the first rule that matches, or NULL. */
static char *
first_match(const Config *config, const char *feature, const char *prompt)
{
	Subject		subject;

	if (config->nrules == 0)
		return NULL;
	subject_init(&subject, prompt);
	for (int i = 0; i < config->nrules; i++)
	{
		const Rule *rule = &config->rules[i];
		regmatch_t	parts[RULE_MAX_MATCHES];

		CHECK_FOR_INTERRUPTS();
		if (rule_serves(rule, feature) &&
			pattern_match(rule->pattern, &subject, parts,
						  RULE_MAX_MATCHES) == PATTERN_FOUND)
			return fill_in(rule->answer, &subject, parts);
	}
	return NULL;
}

/* Answers by the rules, or declines. */
void
rule_answer(const Config *config, const char *prompt, const char *feature,
			LocalAnswer *out)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "llm_failover rule",
												  ALLOCSET_DEFAULT_SIZES);
	const char *answer;

	MemoryContextSwitchTo(scratch);
	answer = first_match(config, feature, prompt);
	MemoryContextSwitchTo(caller);
	if (answer)
	{
		out->text = pstrdup(answer);
		out->source = "rule";
	}
	else
		out->reason = "no rule matches";
	MemoryContextDelete(scratch);
}
