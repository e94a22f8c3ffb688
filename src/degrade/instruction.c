/*
 * instruction.c
 *	  Takes the instruction off a prompt.
 *
 * Prompts for a model say what to do and then give the text: "Summarise the
 * following text: …". An extract is of the text alone. What ends with a colon
 * at the beginning of a prompt is taken for an instruction when it
 * - is one word ("Summarise:", "Text:"), or
 * - stands on a line of its own, or
 * - has a word that asks for a summary, in one of many languages.
 * So "We tried three systems: A, B and C." keeps its beginning. A first line
 * that is one sentence and asks for a summary needs no colon.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "utils/formatting.h"

#include "instruction.h"
#include "util/encoding.h"

/* Longer ones are text. */
#define INSTRUCTION_MAX_LEN 300

/* Parts of words that ask for a summary, in small letters and UTF-8. */
static const char *const summary_words[] = {
	"summar", "tl;dr", "condense", "key points", "abstract", "abridge",
	"zusammenf", "fasse", "kürze", "stichpunkt",
	"résum", "synthé", "resum", "resúm", "sintet", "síntes", "riassu",
	"samenvat", "sammanfatt", "opsummer", "oppsummer", "tiivist", "foglald",
	"streść", "streszcz", "podsumuj", "shrň", "rezum", "özet", "ringkas",
	"tóm tắt", "περίληψ", "σύνοψ",
	"резюм", "обобщ", "кратко", "підсум", "сумар", "סכם", "لخص", "خلاصه",
	"सारांश", "संक्षेप", "总结", "總結", "概括", "摘要", "要約", "まとめ", "요약",
};

/* Says whether a piece of text has a word that asks for a summary. */
static bool
asks_for_summary(const char *text, int len)
{
	char	   *small = str_tolower(text, len, DEFAULT_COLLATION_OID);

	for (size_t i = 0; i < lengthof(summary_words); i++)
	{
		bool		replaced = false;
		size_t		word_len;
		const char *word = utf8_to_text(summary_words[i],
										strlen(summary_words[i]), &word_len,
										&replaced);

		if (!replaced && strstr(small, word) != NULL)
			return true;
	}
	return false;
}

/* Returns the length of the colon at p, 0 when there is none. */
static int
colon_at(const char *p, const char *wide_colon, int wide_len)
{
	if (*p == ':' && (p[1] == '\0' || strchr(" \t\r\n", p[1]) != NULL))
		return 1;
	if (wide_len > 0 && strncmp(p, wide_colon, wide_len) == 0)
		return wide_len;
	return 0;
}

/*
 * Returns the place behind the first colon of a sentence (a wide one needs no
 * space behind it), or NULL.
 */
static const char *
behind_colon(const Sentence *sentence)
{
	const char *p = sentence->text;
	const char *end = p + Min(sentence->len, INSTRUCTION_MAX_LEN);
	bool		replaced = false;
	size_t		wide_len;
	const char *wide_colon = utf8_to_text("：", strlen("："), &wide_len,
										  &replaced);

	if (replaced)
		wide_len = 0;
	for (; p < end; p += pg_mblen(p))
	{
		int			len = colon_at(p, wide_colon, (int) wide_len);

		if (len > 0)
			return p + len;
	}
	return NULL;
}

/* Says whether nothing but spaces stands before a line's end, or the text's. */
static bool
line_ends(const char *p)
{
	p += strspn(p, " \t\r");
	return *p == '\n' || *p == '\0';
}

/* Says whether the first sentence is all of its line and asks for a summary. */
static bool
is_instruction(const Sentence *sentence)
{
	return sentence->len <= INSTRUCTION_MAX_LEN &&
		line_ends(sentence->text + sentence->len) &&
		asks_for_summary(sentence->text, sentence->len);
}

/* Takes what ends with a colon off the first sentence, if it instructs. */
static void
strip_to_colon(Sentence *first)
{
	const char *rest = behind_colon(first);
	int			len;

	if (rest == NULL)
		return;
	len = (int) (rest - first->text);
	if (memchr(first->text, ' ', len) != NULL && !line_ends(rest) &&
		!asks_for_summary(first->text, len))
		return;
	len += (int) strspn(rest, " \t\r\n");
	len = Min(len, first->len);
	first->text += len;
	first->len -= len;
}

/* Takes the instruction off; see the header. */
int
instruction_strip(Sentence *sentences, int n)
{
	if (n == 0)
		return 0;
	if (!is_instruction(&sentences[0]))
	{
		strip_to_colon(&sentences[0]);
		if (sentences[0].len > 0)
			return n;
	}
	memmove(sentences, sentences + 1, (n - 1) * sizeof(Sentence));
	return n - 1;
}
