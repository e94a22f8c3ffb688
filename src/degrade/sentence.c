/*
 * sentence.c
 *	  Cuts a text into sentences.
 *
 * Where a sentence ends:
 * - after . ! ? … and their kin before white space, unless a small letter
 *	 follows or the period is an abbreviation's; closing quotes, brackets and
 *	 footnote numbers belong to it;
 * - after the marks of scripts that put no space there, such as 。 and ।;
 * - at an empty line, before an item of a list, and at the end of a line that
 *	 was broken on purpose: the next word would have fitted into it.
 *
 * A text of fewer than three sentences is cut again with small letters
 * allowed to begin one: there are people who never write another kind.
 */
#include "postgres.h"

#include <ctype.h>

#include "miscadmin.h"

#include "abbreviation.h"
#include "marks.h"
#include "sentence.h"

/* A text of fewer is cut again. */
#define SENTENCE_FEW 3

typedef struct Splitter
{
	const char *end;			/* of the text */
	Marks	   *marks;
	Abbreviations *abbreviations;
	LexemeReader *words;
	bool		case_tells;		/* no sentence begins with a small letter */

	const char *start;			/* of the current sentence */
	const char *word;			/* of the current word */
	const char *line;			/* of the current line */
	const char *marked;			/* end of the last marks that may end one */
	size_t		width;			/* of the paragraph's longest line, in bytes */
	const char *measured;		/* end of that paragraph */

	int			n;
	int			max;
	Sentence   *sentences;
} Splitter;

/* The marks at the end of a sentence, with what closes behind them. */
typedef struct Ending
{
	const char *end;
	bool		full;			/* has a mark that needs no space */
	bool		closed;			/* by a quote or bracket */
	bool		lone_period;	/* is nothing but one */
} Ending;

/* ---- sentences ---- */

/* Says whether the next word begins with a small letter. */
static bool
small_letter_follows(const Splitter *s, const char *p)
{
	return marks_at_small(s->marks,
						  marks_skip(s->marks, p, MARKS_BEFORE_WORD));
}

/* Says whether a stretch of text has a letter or digit in it. */
static bool
has_word(const Splitter *s, const char *from, const char *to)
{
	int			len;

	for (; from < to; from += len)
	{
		if (mark_at(s->marks, from, &len) == MARK_NONE &&
			(IS_HIGHBIT_SET(*from) || isalnum((unsigned char) *from)))
			return true;
	}
	return false;
}

/* Ends the current sentence, unless it is none, and begins another there. */
static void
end_sentence(Splitter *s, const char *at)
{
	const char *from = marks_skip(s->marks, s->start, MARKS_BLANK);
	const char *to = at;

	while (to > from && !IS_HIGHBIT_SET(to[-1]) &&
		   isspace((unsigned char) to[-1]))
		to--;
	s->start = s->word = at;
	if (to <= from || to - from > SENTENCE_MAX_LEN || !has_word(s, from, to))
		return;
	if (s->n == s->max)
	{
		s->max *= 2;
		s->sentences = repalloc(s->sentences, s->max * sizeof(Sentence));
	}
	s->sentences[s->n++] = (Sentence) {
		.text = from,
		.len = (int) (to - from),
		.complete = (to == s->marked),
	};
}

/* Returns the end of a footnote's number in brackets, or p. */
static const char *
skip_footnote(const Splitter *s, const char *p)
{
	const char *q = p;

	if (q >= s->end || *q != '[')
		return p;
	for (q++; q < s->end && q - p < 8 && isalnum((unsigned char) *q); q++)
		 /* nothing */ ;
	return q < s->end && *q == ']' ? q + 1 : p;
}

/* Says whether a closing quote stands alone at p, as in French: Oui ! » */
static bool
at_spaced_quote(const Splitter *s, const char *p)
{
	int			len;

	return p < s->end && mark_at(s->marks, p, &len) == MARK_CLOSE &&
		marks_at_space(s->marks, p + len);
}

/* Says whether what stands at the end of the marks so far closes something. */
static bool
closes(const Splitter *s, const Ending *ending)
{
	const char *p = ending->end;
	int			len;

	switch (mark_at(s->marks, p, &len))
	{
		case MARK_CLOSE:
			return true;
		case MARK_QUOTE:
			/* “ closes in German, but opens in Chinese */
			return !(ending->full && IS_HIGHBIT_SET(*p));
		case MARK_SPACE:
			return at_spaced_quote(s, p + len);
		default:
			return false;
	}
}

/* Reads the marks that may end a sentence, from the first on. */
static Ending
read_ending(const Splitter *s, const char *p)
{
	Ending		ending = {.end = p};
	int			nmarks = 0;
	bool		periods = true;

	while (ending.end < s->end)
	{
		const char *footnote = skip_footnote(s, ending.end);
		int			len;
		Mark		mark = mark_at(s->marks, ending.end, &len);

		CHECK_FOR_INTERRUPTS();
		if (footnote > ending.end)
			len = footnote - ending.end;
		else if (closes(s, &ending))
			ending.closed = true;
		else if (mark == MARK_PERIOD || mark == MARK_END || mark == MARK_FULL)
		{
			nmarks++;
			ending.full |= (mark == MARK_FULL);
			periods &= (*ending.end == '.');
		}
		else
			break;
		ending.end += len;
	}
	ending.lone_period = periods && nmarks == 1 && ending.end == p + 1;
	return ending;
}

/*
 * Says whether a sentence ends with these marks. With a quote closed and no
 * space behind it the sentence goes on, in Chinese too: “好。”他说。
 */
static bool
ends_sentence(const Splitter *s, const char *p, const Ending *ending)
{
	if (ending->end >= s->end)
		return true;
	if (!marks_at_space(s->marks, ending->end))
		return ending->full && !ending->closed;
	if (ending->full)
		return true;
	if (s->case_tells && small_letter_follows(s, ending->end))
		return false;
	return !ending->lone_period ||
		!abbreviation_at(s->abbreviations, s->marks, s->words, s->word, p);
}

/* Goes past the marks at p; ends the sentence there, or not. */
static const char *
pass_marks(Splitter *s, const char *p)
{
	Ending		ending = read_ending(s, p);

	s->marked = ending.end;
	if (ends_sentence(s, p, &ending))
		end_sentence(s, ending.end);
	return ending.end;
}

/* ---- lines ---- */

/* Goes past the number or letter of a list's item: 12. 12) a) */
static const char *
skip_number(const Splitter *s, const char *line)
{
	const char *p = line;

	while (p < s->end && p - line < 3 && isdigit((unsigned char) *p))
		p++;
	if (p > line)
		return p < s->end && (*p == '.' || *p == ')') ? p + 1 : line;
	if (s->end - p >= 2 && isalpha((unsigned char) p[0]) && p[1] == ')')
		return p + 2;
	return line;
}

/*
 * Goes past what stands before the text of a line: bullets and numbers of
 * lists, marks of headings and quotations, rules.
 */
static const char *
skip_margin(const Splitter *s, const char *line)
{
	while (line < s->end)
	{
		const char *p = marks_skip(s->marks, line, MARKS(MARK_BULLET));

		if (p == line)
			p = skip_number(s, line);
		if (p == line || !marks_at_space(s->marks, p))
			break;
		line = marks_skip(s->marks, p, MARKS_BLANK);
	}
	return line;
}

/* Measures the longest line up to the next empty one. */
static void
measure(Splitter *s, const char *p)
{
	s->width = 0;
	while (p < s->end)
	{
		const char *eol = memchr(p, '\n', s->end - p);
		size_t		len = (eol ? eol : s->end) - p;

		CHECK_FOR_INTERRUPTS();
		if (strspn(p, " \t\r") >= len)
			break;
		s->width = Max(s->width, len);
		p += len + 1;
	}
	s->measured = p;
}

/*
 * Begins a paragraph. What has been measured is not measured again, whatever
 * counts as an empty line: so a text is read twice at most.
 */
static const char *
begin_paragraph(Splitter *s, const char *p)
{
	if (p >= s->measured)
		measure(s, p);
	s->line = p;
	s->start = s->word = skip_margin(s, p);
	return s->start;
}

/* Says whether the line that ends here was broken although it had room. */
static bool
broken_on_purpose(const Splitter *s, const char *eol, const char *next)
{
	const char *word_end = marks_word_end(s->marks, next);

	return (size_t) (eol - s->line) + 1 + (word_end - next) <= s->width &&
		!small_letter_follows(s, next);
}

/* Goes past the end of a line; it may end the sentence as well. */
static const char *
pass_newline(Splitter *s, const char *eol)
{
	int			len;
	const char *next;
	const char *text;

	mark_at(s->marks, eol, &len);
	next = marks_skip(s->marks, eol + len, MARKS(MARK_SPACE));
	if (next < s->end && mark_at(s->marks, next, &len) == MARK_NEWLINE)
	{
		end_sentence(s, eol);
		return begin_paragraph(s, marks_skip(s->marks, next, MARKS_BLANK));
	}
	text = skip_margin(s, next);
	if (text > next || broken_on_purpose(s, eol, next))
	{
		end_sentence(s, eol);
		s->start = text;
	}
	s->line = next;
	s->word = text;
	return text;
}

/* Cuts the text from p on. */
static void
split(Splitter *s, const char *p)
{
	s->n = 0;
	s->measured = s->marked = NULL;
	p = begin_paragraph(s, marks_skip(s->marks, p, MARKS_BLANK));
	while (p < s->end && s->n < SENTENCE_MAX_COUNT)
	{
		int			len;

		CHECK_FOR_INTERRUPTS();
		switch (mark_at(s->marks, p, &len))
		{
			case MARK_NEWLINE:
				p = pass_newline(s, p);
				break;
			case MARK_PERIOD:
			case MARK_END:
			case MARK_FULL:
				p = pass_marks(s, p);
				break;
			case MARK_SPACE:
			case MARK_OPEN:
				p += len;
				s->word = p;
				break;
			default:
				p += len;
		}
	}
	end_sentence(s, p);
}

/* Cuts a text into sentences; see the header. */
int
sentence_split(const char *text, size_t len, LexemeReader *words,
			   Sentence **sentences)
{
	Splitter	s = {
		.end = text + len,
		.marks = palloc(sizeof(Marks)),
		.abbreviations = palloc(sizeof(Abbreviations)),
		.words = words,
		.case_tells = true,
		.max = 64,
	};

	s.sentences = palloc(s.max * sizeof(Sentence));
	marks_load(s.marks, s.end);
	abbreviations_load(s.abbreviations);
	split(&s, text);
	if (s.n < SENTENCE_FEW)
	{
		s.case_tells = false;
		split(&s, text);
	}
	*sentences = s.sentences;
	return s.n;
}
