/*
 * abbreviation.c
 *	  Whether a period ends a sentence or shortens a word.
 *
 * Where it may do either ("the U.S. Navy", "am 3. Mai", "Acme Inc. It"), a
 * stop word behind it begins a sentence: those are the words that sentences
 * begin with. The idea is that of the "frequent sentence starters" of Kiss and
 * Strunk, Unsupervised Multilingual Sentence Boundary Detection, Computational
 * Linguistics 32(4), 2006; text search's stop words stand for what they count
 * in a corpus.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"

#include "abbreviation.h"

/* No abbreviation is longer, in bytes. */
#define ABBREVIATION_MAX_LEN 16

typedef enum Abbreviation
{
	ABBREVIATION_NOT,
	ABBREVIATION_ALWAYS,		/* never ends a sentence */
	ABBREVIATION_NUMBER,		/* only before a number */
	ABBREVIATION_MAYBE			/* may end a sentence as well */
} Abbreviation;

/*
 * Those that a capital letter may follow: the others betray themselves by the
 * small letter. A letter alone, or several as in U.S, need no entry.
 */
static const struct
{
	Abbreviation kind;
	const char *words;			/* a list */
}			abbreviation_table[] =
{
	{ABBREVIATION_ALWAYS, "mr mrs ms messrs dr drs prof st mt gen sen rep gov"
		" capt cmdr lt col maj sgt rev hon vs cf viz e.g i.e approx"},
	{ABBREVIATION_ALWAYS, "ca bzw vgl ggf inkl zzgl hr fr dipl dipl.-ing z.b"
		" d.h u.a s.o s.u mio mrd fa"},
	{ABBREVIATION_ALWAYS, "mme mlle mm sra srta dra sig dott ing av p.ej dhr"
		" mevr bijv o.a"},
	{ABBREVIATION_ALWAYS, "ул пр пл им проф акад т.е т.к т.н см ср напр тыс"
		" млн млрд"},
	{ABBREVIATION_NUMBER, "no nos nr nrs fig figs vol p pp ch sec eq tab art"
		" abs abb kap ziff jan feb mar apr jun jul aug sep sept oct nov dec"
		" núm рис стр гл табл п ст"},
	{ABBREVIATION_MAYBE, "inc ltd co corp bros jr sr al a.m p.m"},
};

/* Loads the table. */
void
abbreviations_load(Abbreviations *abbreviations)
{
	abbreviations->n = 0;
	for (size_t i = 0; i < lengthof(abbreviation_table); i++)
	{
		const char *list = abbreviation_table[i].words;
		ListItem	item = {.kind = abbreviation_table[i].kind};

		while (list_next(&list, &item))
		{
			Assert(abbreviations->n < ABBREVIATIONS_MAX);
			abbreviations->items[abbreviations->n++] = item;
		}
	}
}

/* Says whether a word is letters with periods between, as in "U.S". */
static bool
is_acronym(const char *word, const char *end)
{
	for (;;)
	{
		if (!IS_HIGHBIT_SET(*word) && !isalpha((unsigned char) *word))
			return false;
		word += pg_mblen(word);
		if (word >= end)
			return true;
		if (*word++ != '.' || word >= end)
			return false;
	}
}

/* Says whether a word is a number such as German ordinals have: 1 to 99. */
static bool
is_ordinal(const char *word, int len)
{
	return len <= 2 && strspn(word, "0123456789") == (size_t) len;
}

/* Says what a word before a period may be. */
static Abbreviation
kind_of(const Abbreviations *abbreviations, const char *word, int len)
{
	if (len <= 0 || len > ABBREVIATION_MAX_LEN)
		return ABBREVIATION_NOT;
	for (int i = 0; i < abbreviations->n; i++)
	{
		const ListItem *item = &abbreviations->items[i];

		if (item->len == len && pg_strncasecmp(item->text, word, len) == 0)
			return item->kind;
	}
	if (is_acronym(word, word + len) || is_ordinal(word, len))
		return ABBREVIATION_MAYBE;
	return ABBREVIATION_NOT;
}

/*
 * Says whether the word at p is a stop word. What has a period of its own is
 * an initial or the like.
 */
static bool
is_stop_word(const Marks *marks, LexemeReader *words, const char *p)
{
	const char *end = marks_word_end(marks, p);

	if (end == p || *end == '.')
		return false;
	lexeme_read(words, p, (int) Min(end - p, LEXEME_MAX_TEXT));
	return words->n == 0;
}

/* Says whether a period is an abbreviation's; see the header. */
bool
abbreviation_at(const Abbreviations *abbreviations, const Marks *marks,
				LexemeReader *words, const char *word, const char *period)
{
	const char *next = marks_skip(marks, period + 1, MARKS_BEFORE_WORD);

	while (word < period && (*word == '\'' || *word == '"'))
		word++;
	switch (kind_of(abbreviations, word, (int) (period - word)))
	{
		case ABBREVIATION_ALWAYS:
			return true;
		case ABBREVIATION_NUMBER:
			return next < marks->end && isdigit((unsigned char) *next);
		case ABBREVIATION_MAYBE:
			return !is_stop_word(marks, words, next);
		case ABBREVIATION_NOT:
			break;
	}
	return false;
}
