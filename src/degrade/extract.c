/*
 * extract.c
 *	  The builtin model "extract": a summary of sentences of the prompt.
 *
 * The text is cut into sentences (sentence.c) and rid of the instruction before
 * it (instruction.c); those that say most are picked (rank.c) and given back
 * in the order of the text, word for word.
 *
 * Bounds: the first 10 MB and 100,000 sentences of a text are read, and what
 * goes on for 4 kB without an end is no sentence. So it takes about a second
 * and 100 MB at most, and listens to interrupts all the while.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "tsearch/ts_cache.h"
#include "utils/memutils.h"

#include "instruction.h"
#include "local.h"
#include "rank.h"
#include "sentence.h"
#include "util/encoding.h"

/* A longer text is read this far. */
#define EXTRACT_MAX_LEN (10 * 1024 * 1024)

/* Fewer are no choice. */
#define EXTRACT_MIN_SENTENCES 3

/* The option "sentences": at most so many, and at most half of the text's. */
#define EXTRACT_DEFAULT 3

typedef struct Options
{
	int			sentences;
	Oid			config;			/* text search configuration */
} Options;

/* ---- options ---- */

/* Reads the option "sentences". NULL, or why it cannot be used. */
static const char *
read_sentences(const JsonNode *given, int *sentences)
{
	int64		value = json_is(given, JN_NULL) ? EXTRACT_DEFAULT :
		json_int(given, 0);

	*sentences = (int) value;
	if (value >= 1 && value <= EXTRACT_MAX_SENTENCES)
		return NULL;
	return psprintf("option \"sentences\" must be a number from 1 to %d",
					EXTRACT_MAX_SENTENCES);
}

/*
 * Reads the option "config"; without it the database's configuration, should
 * that be there. NULL, or why it cannot be used.
 */
static const char *
read_config(const JsonNode *given, Oid *config)
{
	const char *name = "pg_catalog.simple";
	bool		replaced = false;
	size_t		len;

	if (json_is(given, JN_STRING))
		name = utf8_to_text(given->text, given->text_len, &len, &replaced);
	else if (!json_is(given, JN_NULL))
		return "option \"config\" must be a string";
	else if (TSCurrentConfig && OidIsValid(lexeme_config(TSCurrentConfig)))
		name = TSCurrentConfig;
	*config = lexeme_config(name);
	if (OidIsValid(*config))
		return NULL;
	return psprintf("text search configuration \"%s\" does not exist", name);
}

/* Reads the options. NULL, or why they cannot be used. */
static const char *
read_options(const JsonNode *params, Options *options)
{
	const char *problem = read_sentences(json_get(params, "sentences"),
										 &options->sentences);

	if (problem == NULL)
		problem = read_config(json_get(params, "config"), &options->config);
	return problem;
}

/* ---- output ---- */

/* Returns the last character of a sentence. */
static const char *
last_character(const Sentence *sentence)
{
	return sentence->text +
		pg_mbcliplen(sentence->text, sentence->len, sentence->len - 1);
}

/* Appends a sentence; its white space becomes single spaces. */
static void
append_sentence(StringInfo out, const Sentence *sentence)
{
	const char *p = sentence->text;
	const char *end = p + sentence->len;

	while (p < end)
	{
		size_t		word = strcspn(p, " \t\r\n\v\f");

		word = Min(word, (size_t) (end - p));
		appendBinaryStringInfo(out, p, (int) word);
		p += word;
		p += strspn(p, " \t\r\n\v\f");
		if (p < end)
			appendStringInfoChar(out, ' ');
	}
}

/*
 * Joins the sentences picked: by a space, but not behind a wide mark, as of
 * Chinese.
 */
static char *
join(const Sentence *sentences, const bool *picked, int n)
{
	StringInfoData out;
	const Sentence *last = NULL;

	initStringInfo(&out);
	for (int i = 0; i < n; i++)
	{
		if (!picked[i])
			continue;
		if (last && !(last->complete && pg_dsplen(last_character(last)) == 2))
			appendStringInfoChar(&out, ' ');
		append_sentence(&out, &sentences[i]);
		last = &sentences[i];
	}
	return out.data;
}

/* Returns the length of what is read of a prompt. */
static size_t
bounded_length(const char *prompt)
{
	size_t		len = strlen(prompt);

	if (len <= EXTRACT_MAX_LEN)
		return len;
	return pg_mbcliplen(prompt, EXTRACT_MAX_LEN, EXTRACT_MAX_LEN);
}

/* Makes an extract, or returns NULL and says why not. */
static char *
extract(const char *prompt, const JsonNode *params, const char **reason)
{
	Options		options;
	LexemeReader words;
	Sentence   *sentences;
	int			n;

	*reason = read_options(params, &options);
	if (*reason)
		return NULL;
	lexeme_reader_init(&words, options.config);
	n = sentence_split(prompt, bounded_length(prompt), &words, &sentences);
	n = instruction_strip(sentences, n);
	if (n < EXTRACT_MIN_SENTENCES)
	{
		*reason = "needs three sentences to choose from";
		return NULL;
	}
	return join(sentences,
				rank_pick(sentences, n, &words, Min(options.sentences, n / 2)),
				n);
}

/* Answers with an extract of the prompt, or declines. */
void
extract_answer(const char *prompt, const JsonNode *params, LocalAnswer *out)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller,
												  "llm_failover extract",
												  ALLOCSET_DEFAULT_SIZES);
	const char *text;
	const char *reason;

	MemoryContextSwitchTo(scratch);
	text = extract(prompt, params, &reason);
	MemoryContextSwitchTo(caller);
	if (text)
	{
		out->text = pstrdup(text);
		out->source = "extract";
	}
	else
		out->reason = pstrdup(reason);
	MemoryContextDelete(scratch);
}
