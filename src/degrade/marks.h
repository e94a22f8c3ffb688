/*
 * marks.h
 *	  The characters that cut a text into words, sentences and lines.
 */
#ifndef LLM_MARKS_H
#define LLM_MARKS_H

#include "postgres.h"

typedef enum Mark
{
	MARK_NONE,					/* a letter, a digit, a comma, … */
	MARK_SPACE,
	MARK_NEWLINE,
	MARK_PERIOD,				/* ends a sentence, or an abbreviation */
	MARK_END,					/* ends a sentence before white space */
	MARK_FULL,					/* ends a sentence anywhere */
	MARK_OPEN,
	MARK_CLOSE,
	MARK_QUOTE,					/* closes or opens: languages differ */
	MARK_BULLET					/* at the start of a line: no part of it */
} Mark;

#define MARKS(mark) (1U << (mark))
#define MARKS_BLANK (MARKS(MARK_SPACE) | MARKS(MARK_NEWLINE))
#define MARKS_BEFORE_WORD \
	(MARKS_BLANK | MARKS(MARK_OPEN) | MARKS(MARK_CLOSE) | \
	 MARKS(MARK_QUOTE) | MARKS(MARK_BULLET))

/* An item of a list: a character or a word, in the database's encoding. */
typedef struct ListItem
{
	const char *text;
	int			len;
	int			kind;
} ListItem;

/* More than the table has beyond ASCII. */
#define MARKS_MAX 96

typedef struct Marks
{
	const char *end;			/* of the text */
	Mark		ascii[128];
	bool		leads[256];		/* a mark may begin with this byte */
	int			n;				/* beyond ASCII */
	ListItem	items[MARKS_MAX];
} Marks;

extern void marks_load(Marks *marks, const char *text_end);
extern Mark mark_at(const Marks *marks, const char *p, int *len);

/* Returns the first place from p on that bears no mark of the set. */
extern const char *marks_skip(const Marks *marks, const char *p, uint32 set);

/* Returns the end of the word at p: where the first mark is. */
extern const char *marks_word_end(const Marks *marks, const char *p);

/* Whether there is white space, or nothing more, at p. */
extern bool marks_at_space(const Marks *marks, const char *p);

/* Whether the letter at p is a small one. */
extern bool marks_at_small(const Marks *marks, const char *p);

/*
 * Takes the next item off a list in UTF-8 with spaces between; false at its
 * end. Items that the database's encoding lacks are skipped: no text has them.
 */
extern bool list_next(const char **list, ListItem *item);

#endif							/* LLM_MARKS_H */
