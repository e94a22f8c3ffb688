/*
 * lexeme.c
 *	  Words of a text, by PostgreSQL's text search.
 *
 * A lexeme is kept as the hash of its letters: 64 bits tell the words of one
 * text apart well enough, and a text of any size costs 8 bytes a word.
 *
 * The default parser takes Chinese and Japanese, which do not separate words,
 * for words as long as a clause, and no two of those are ever equal. A run of
 * wide characters is therefore read as its overlapping pairs of characters, as
 * is usual in searching those languages. With a parser that does separate
 * words, most of these are one pair anyway.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_ts_config.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "nodes/value.h"
#include "tsearch/ts_utils.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "lexeme.h"

/*
 * Looks up a configuration; see the header. Not by regconfigin(), which raises
 * for what is merely misspelt.
 */
Oid
lexeme_config(const char *name)
{
	List	   *parts;
	Oid			schema;

	if (!SplitIdentifierString(pstrdup(name), '.', &parts))
		return InvalidOid;
	if (list_length(parts) == 1)
		return get_ts_config_oid(list_make1(makeString(linitial(parts))),
								 true);
	if (list_length(parts) != 2)
		return InvalidOid;
	schema = get_namespace_oid(linitial(parts), true);
	if (!OidIsValid(schema))
		return InvalidOid;
	return GetSysCacheOid2(TSCONFIGNAMENSP, Anum_pg_ts_config_oid,
						   CStringGetDatum(lsecond(parts)),
						   ObjectIdGetDatum(schema));
}

/* Prepares a reader in the current memory context. */
void
lexeme_reader_init(LexemeReader *reader, Oid config)
{
	reader->config = config;
	reader->scratch = AllocSetContextCreate(CurrentMemoryContext,
											"llm_failover lexemes",
											ALLOCSET_DEFAULT_SIZES);
	reader->n = 0;
	reader->max = 64;
	reader->lexemes = palloc(reader->max * sizeof(uint64));
}

/* Adds one lexeme. */
static void
add_lexeme(LexemeReader *reader, const char *word, int len)
{
	if (reader->n == reader->max)
	{
		reader->max *= 2;
		reader->lexemes = repalloc(reader->lexemes,
									 reader->max * sizeof(uint64));
	}
	reader->lexemes[reader->n++] =
		hash_bytes_extended((const unsigned char *) word, len, 0);
}

/* Says whether the character is one of two columns: CJK, in any encoding. */
static bool
is_wide(const char *p)
{
	return IS_HIGHBIT_SET(*p) && pg_dsplen(p) == 2;
}

/* Adds the pairs of a run of wide characters; a single one is itself. */
static void
add_pairs(LexemeReader *reader, const char *run, const char *end)
{
	const char *second = run + pg_mblen(run);

	if (second >= end)
		add_lexeme(reader, run, end - run);
	while (second < end)
	{
		const char *next = second + pg_mblen(second);

		add_lexeme(reader, run, next - run);
		run = second;
		second = next;
	}
}

/* Adds a word: its runs of wide characters as pairs, the others as they are. */
static void
add_word(LexemeReader *reader, const char *word, int len)
{
	const char *end = word + len;

	while (word < end)
	{
		const char *run = word;
		bool		wide = is_wide(run);

		while (word < end && is_wide(word) == wide)
			word += pg_mblen(word);
		if (wide)
			add_pairs(reader, run, word);
		else
			add_lexeme(reader, run, word - run);
	}
}

/*
 * Reads a text; see the header. It is clipped so that it cannot hold a word of
 * the length that parsetext() sends a NOTICE about.
 */
void
lexeme_read(LexemeReader *reader, const char *text, int len)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	ParsedText	parsed = {0};

	len = pg_mbcliplen(text, len, LEXEME_MAX_TEXT);
	parsed.lenwords = Max(len / 6, 2);	/* only a first guess */
	parsed.words = palloc(parsed.lenwords * sizeof(ParsedWord));
	parsetext(reader->config, &parsed, unconstify(char *, text), len);
	MemoryContextSwitchTo(caller);

	reader->n = 0;
	for (int i = 0; i < parsed.curwords; i++)
		add_word(reader, parsed.words[i].word, parsed.words[i].len);
	MemoryContextReset(reader->scratch);
}
