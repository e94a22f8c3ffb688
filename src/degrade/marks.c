/*
 * marks.c
 *	  The characters that cut a text into words, sentences and lines.
 *
 * Those beyond ASCII are looked up in the database's encoding. ASCII is looked
 * up by the byte, for no server encoding has ASCII inside a character.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/formatting.h"

#include "marks.h"
#include "util/encoding.h"

static const struct
{
	Mark		mark;
	const char *characters;		/* a list */
}			mark_table[] =
{
	{MARK_SPACE, "\t \v \f \r \u00a0 \u2002 \u2003 \u2009 \u202f \u3000"},
	{MARK_NEWLINE, "\n \u2028 \u2029"},
	{MARK_PERIOD, ". …"},
	{MARK_END, "! ? ‼ ⁇ ⁈ ⁉ ։"},
	{MARK_FULL, "。 ！ ？ ． ｡ ؟ ۔ । ॥ ። ፧ ။ ។ །"},
	{MARK_OPEN, "( [ { „ ‚ ‘ ¿ ¡ ‹ 「 『 （ 【 《 〈"},
	{MARK_CLOSE, ") ] } ” ’ » › 」 』 ） 】 》 〉"},
	{MARK_QUOTE, "\" ' “ «"},
	{MARK_BULLET, "- * + # > = _ ` ~ | • ‣ ▪ ● ◦ · – —"},
};

/* Takes an item off a list; see the header. */
bool
list_next(const char **list, ListItem *item)
{
	for (;;)
	{
		const char *utf8 = *list + strspn(*list, " ");
		size_t		utf8_len = strcspn(utf8, " ");
		size_t		len;
		bool		replaced = false;

		if (utf8_len == 0)
			return false;
		*list = utf8 + utf8_len;
		item->text = utf8_to_text(utf8, utf8_len, &len, &replaced);
		item->len = (int) len;
		if (!replaced)
			return true;
	}
}

/* Loads the table for a text, which ends there. */
void
marks_load(Marks *marks, const char *text_end)
{
	memset(marks, 0, sizeof(*marks));
	marks->end = text_end;
	marks->ascii[' '] = MARK_SPACE;
	for (size_t i = 0; i < lengthof(mark_table); i++)
	{
		const char *list = mark_table[i].characters;
		ListItem	item = {.kind = mark_table[i].mark};

		while (list_next(&list, &item))
		{
			unsigned char lead = item.text[0];

			if (!IS_HIGHBIT_SET(lead))
			{
				marks->ascii[lead] = mark_table[i].mark;
				continue;
			}
			Assert(marks->n < MARKS_MAX);
			marks->leads[lead] = true;
			marks->items[marks->n++] = item;
		}
	}
}

/* Returns what the character at p is, and its length in bytes. */
Mark
mark_at(const Marks *marks, const char *p, int *len)
{
	unsigned char lead = *p;

	*len = 1;
	if (!IS_HIGHBIT_SET(lead))
		return marks->ascii[lead];
	for (int i = 0; marks->leads[lead] && i < marks->n; i++)
	{
		const ListItem *item = &marks->items[i];

		if (item->len <= marks->end - p &&
			memcmp(item->text, p, item->len) == 0)
		{
			*len = item->len;
			return item->kind;
		}
	}
	*len = Min(pg_mblen(p), marks->end - p);
	return MARK_NONE;
}

/* Skips marks; see the header. */
const char *
marks_skip(const Marks *marks, const char *p, uint32 set)
{
	int			len;

	while (p < marks->end && (set & MARKS(mark_at(marks, p, &len))) != 0)
	{
		CHECK_FOR_INTERRUPTS();
		p += len;
	}
	return p;
}

/* Skips a word; see the header. */
const char *
marks_word_end(const Marks *marks, const char *p)
{
	int			len;

	while (p < marks->end && mark_at(marks, p, &len) == MARK_NONE)
	{
		CHECK_FOR_INTERRUPTS();
		p += len;
	}
	return p;
}

/* Says whether there is space; see the header. */
bool
marks_at_space(const Marks *marks, const char *p)
{
	int			len;

	return p >= marks->end ||
		(MARKS_BLANK & MARKS(mark_at(marks, p, &len))) != 0;
}

/* Says whether there is a small letter: one that has a capital. */
bool
marks_at_small(const Marks *marks, const char *p)
{
	int			len;
	char	   *capital;
	bool		small;

	if (p >= marks->end)
		return false;
	if (!IS_HIGHBIT_SET(*p))
		return *p >= 'a' && *p <= 'z';
	len = Min(pg_mblen(p), marks->end - p);
	capital = str_toupper(p, len, DEFAULT_COLLATION_OID);
	small = strncmp(capital, p, len) != 0;
	pfree(capital);
	return small;
}
