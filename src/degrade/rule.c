/*
 * rule.c
 *	  The builtin model "rule": the rows of llm_rule.
 *
 * The first enabled rule whose feature and pattern fit answers. Patterns are
 * PostgreSQL's own regular expressions, compiled through its cache, under the
 * database's collation. The engine looks for interrupts itself, so a pattern
 * that backtracks for ever ends with the statement's timeout.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "local.h"

/* The whole match and \1 to \9. */
#define RULE_MAX_MATCHES 10

/* What patterns are matched on. The engine counts in characters. */
typedef struct Subject
{
	const char *text;
	pg_wchar   *chars;
	size_t		nchars;
} Subject;

/* Converts the prompt for the engine, once for all rules. */
static void
subject_init(Subject *subject, const char *text)
{
	size_t		len = strlen(text);

	subject->text = text;
	subject->chars = palloc_extended((len + 1) * sizeof(pg_wchar),
									 MCXT_ALLOC_HUGE);
	subject->nchars = pg_mb2wchar_with_len(text, subject->chars, (int) len);
}

/*
 * Compiles a pattern, or returns NULL when it is none. The table's trigger
 * refuses those, but a restore or a replica may bring one, and one bad row
 * must not silence the others.
 */
static regex_t *
compile(const char *pattern)
{
	MemoryContext caller = CurrentMemoryContext;
	regex_t    *volatile compiled = NULL;

	PG_TRY();
	{
		compiled = RE_compile_and_cache(cstring_to_text(pattern),
										REG_ADVANCED, DEFAULT_COLLATION_OID);
	}
	PG_CATCH();
	{
		/* thrown between two calls of the engine: nothing is held */
		if (geterrcode() != ERRCODE_INVALID_REGULAR_EXPRESSION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return compiled;
}

/* Says whether a pattern is found in the subject, and where its parts are. */
static bool
matches(const char *pattern, const Subject *subject, regmatch_t *parts)
{
	regex_t    *compiled = compile(pattern);
	int			result;

	if (compiled == NULL)
		return false;
	result = pg_regexec(compiled, subject->chars, subject->nchars, 0, NULL,
						RULE_MAX_MATCHES, parts, 0);
	if (result == REG_OKAY || result == REG_NOMATCH)
		return result == REG_OKAY;

	/* 15 returns REG_CANCEL instead of throwing */
	CHECK_FOR_INTERRUPTS();
	if (result == REG_ESPACE)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while matching a pattern of llm_rule.")));
	return false;				/* too complex: as one that does not match */
}

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
			matches(rule->pattern, &subject, parts))
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
