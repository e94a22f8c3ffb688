/*
 * reader.c
 *	  Bytes of strangers as a tree.
 *
 * The tokens are PostgreSQL's own (json_lex), the tree is ours. Two things of
 * pg_parse_json() are not used, because both may throw: its recursion calls
 * check_stack_depth(), and its de-escaping of \u converts to the database's
 * encoding, whatever encoding the lexer was told. Here depth is counted and
 * text stays UTF-8.
 *
 * What is accepted is RFC 8259, one document, nothing behind it. A byte order
 * mark is skipped. \u0000 and lone surrogates are refused: neither can be text
 * in PostgreSQL.
 *
 * Memory: nodes come in blocks that double; all decoded text goes into one
 * buffer as long as the source, which suffices because a token is never
 * shorter than its decoded text, and a terminating zero fits where the quotes
 * or the delimiter behind a number stood.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "compat.h"
#include "json.h"

#define JSON_MAX_BYTES	(MaxAllocSize - 2)
#define FIRST_BLOCK		32		/* nodes; a chat response has about 40 */
#define LARGEST_BLOCK	8192

typedef struct Reader
{
	JsonLexContext *lex;
	const char *source;
	char	   *text;			/* where the next decoded text goes */
	JsonNode   *nodes;			/* where the next node is taken from */
	int			nodes_left;
	int			block;			/* how many nodes the next block has */
	int			nvalues;
	int			depth;
	const char *why;			/* what is wrong, once something is */
} Reader;

static bool read_value(Reader *reader, JsonNode *node);

/* Says what is wrong, and returns false for the caller to pass on. */
static bool
fail(Reader *reader, const char *why)
{
	if (reader->why == NULL)
		reader->why = why;
	return false;
}

/* Says that the current token cannot stand where it stands. */
static bool
fail_at_token(Reader *reader)
{
	const char *token = reader->lex->token_start;

	if (token == NULL)			/* JSON_TOKEN_END */
		return fail(reader, "ends too early");
	return fail(reader, psprintf("is not JSON at byte %zu",
								 (size_t) (token - reader->source)));
}

/* Advances to the next token. */
static inline bool
next_token(Reader *reader)
{
	if (likely(json_lex(reader->lex) == JSON_SUCCESS))
		return true;
	return fail_at_token(reader);
}

/* Advances over the current token, which must be of this type. */
static inline bool
skip_token(Reader *reader, JsonTokenType type)
{
	if (unlikely(reader->lex->token_type != type))
		return fail_at_token(reader);
	return next_token(reader);
}

/* Takes a zeroed node, or NULL when there are too many. */
static JsonNode *
new_node(Reader *reader)
{
	if (unlikely(++reader->nvalues > JSON_MAX_VALUES))
	{
		fail(reader, "has too many values");
		return NULL;
	}
	if (unlikely(reader->nodes_left == 0))
	{
		reader->nodes = palloc0(sizeof(JsonNode) * reader->block);
		reader->nodes_left = reader->block;
		reader->block = Min(reader->block * 2, LARGEST_BLOCK);
	}
	reader->nodes_left--;
	return reader->nodes++;
}

/*
 * Reads the four digits of a \u escape. The lexer has seen to it that they are
 * there.
 */
static pg_wchar
hex4(const char *digits)
{
	pg_wchar	value = 0;

	for (int i = 0; i < 4; i++)
	{
		char		c = digits[i];

		value = value << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return value;
}

/*
 * Decodes what follows a \u, and its other half when it is a surrogate.
 * Returns the number of bytes read, or 0 and says why.
 */
static size_t
decode_unicode(Reader *reader, const char *from, const char *end)
{
	pg_wchar	c = hex4(from);
	size_t		used = 4;

	if (is_utf16_surrogate_first(c) && end - from >= 10 &&
		from[4] == '\\' && from[5] == 'u' &&
		is_utf16_surrogate_second(hex4(from + 6)))
	{
		c = surrogate_pair_to_codepoint(c, hex4(from + 6));
		used = 10;
	}
	else if (is_utf16_surrogate_first(c) || is_utf16_surrogate_second(c))
		return fail(reader, "has half a surrogate pair"), 0;
	if (c == 0)
		return fail(reader, "has \\u0000 in a string"), 0;

	unicode_to_utf8(c, (unsigned char *) reader->text);
	reader->text += pg_utf_mblen((unsigned char *) reader->text);
	return used;
}

/* Decodes the escape that follows a backslash; like decode_unicode(). */
static size_t
decode_escape(Reader *reader, const char *from, const char *end)
{
	static const char letters[] = "bfnrt";
	static const char meanings[] = "\b\f\n\r\t";
	const char *letter;

	if (*from == 'u')
	{
		size_t		used = decode_unicode(reader, from + 1, end);

		return used == 0 ? 0 : used + 1;
	}
	letter = strchr(letters, *from);
	*reader->text++ = letter ? meanings[letter - letters] : *from;
	return 1;
}

/*
 * Decodes the current token, a string, to zero-terminated text. Returns the
 * text and its length, or NULL and says why.
 */
static const char *
decode_string(Reader *reader, size_t *len)
{
	const char *from = reader->lex->token_start + 1;
	const char *end = reader->lex->token_terminator - 1;
	char	   *text = reader->text;

	for (;;)
	{
		const char *escape = memchr(from, '\\', end - from);
		size_t		run = (escape ? escape : end) - from;
		size_t		used;

		memcpy(reader->text, from, run);
		reader->text += run;
		if (escape == NULL)
			break;
		used = decode_escape(reader, escape + 1, end);
		if (used == 0)
			return NULL;
		from = escape + 1 + used;
	}
	*len = reader->text - text;
	*reader->text++ = '\0';
	return text;
}

/* Keeps the current token, a number, as it is written. */
static void
keep_number(Reader *reader, JsonNode *node)
{
	node->text = reader->text;
	node->text_len = reader->lex->token_terminator - reader->lex->token_start;
	memcpy(reader->text, reader->lex->token_start, node->text_len);
	reader->text += node->text_len;
	*reader->text++ = '\0';
}

/* Reads an element of an array or, with key, a member of an object. */
static JsonNode *
read_child(Reader *reader, JsonKind container)
{
	JsonNode   *node = new_node(reader);
	size_t		key_len;

	if (node == NULL)
		return NULL;
	if (container == JN_OBJECT)
	{
		if (reader->lex->token_type != JSON_TOKEN_STRING)
			return fail_at_token(reader), NULL;
		node->key = decode_string(reader, &key_len);
		if (node->key == NULL || !next_token(reader) ||
			!skip_token(reader, JSON_TOKEN_COLON))
			return NULL;
	}
	return read_value(reader, node) ? node : NULL;
}

/*
 * Reads an array or object up to the bracket that closes it, which stays the
 * current token.
 */
static bool
read_children(Reader *reader, JsonNode *container, JsonTokenType close)
{
	JsonNode  **link = &container->child;

	if (++reader->depth > JSON_MAX_DEPTH)
		return fail(reader, "is nested too deeply");
	if (!next_token(reader))
		return false;
	if (reader->lex->token_type != close)
	{
		while ((*link = read_child(reader, container->kind)) != NULL)
		{
			container->nchildren++;
			link = &(*link)->next;
			if (reader->lex->token_type == close)
				break;
			if (!skip_token(reader, JSON_TOKEN_COMMA))
				return false;
		}
		if (reader->why)
			return false;
	}
	reader->depth--;
	return true;
}

/* Fills a node from the current token on, and advances over it. */
static bool
read_value(Reader *reader, JsonNode *node)
{
	node->raw = reader->lex->token_start;
	switch (reader->lex->token_type)
	{
		case JSON_TOKEN_STRING:
			node->kind = JN_STRING;
			node->text = decode_string(reader, &node->text_len);
			break;
		case JSON_TOKEN_NUMBER:
			node->kind = JN_NUMBER;
			keep_number(reader, node);
			break;
		case JSON_TOKEN_OBJECT_START:
			node->kind = JN_OBJECT;
			read_children(reader, node, JSON_TOKEN_OBJECT_END);
			break;
		case JSON_TOKEN_ARRAY_START:
			node->kind = JN_ARRAY;
			read_children(reader, node, JSON_TOKEN_ARRAY_END);
			break;
		case JSON_TOKEN_TRUE:
			node->kind = JN_TRUE;
			break;
		case JSON_TOKEN_FALSE:
			node->kind = JN_FALSE;
			break;
		case JSON_TOKEN_NULL:
			node->kind = JN_NULL;
			break;
		default:
			return fail_at_token(reader);
	}
	if (reader->why)
		return false;
	node->raw_len = reader->lex->token_terminator - node->raw;
	return next_token(reader);
}

/* Reads the only value of the source. */
static JsonNode *
read_document(Reader *reader)
{
	JsonNode   *root = new_node(reader);

	if (!next_token(reader) || !read_value(reader, root))
		return NULL;
	if (reader->lex->token_type != JSON_TOKEN_END)
	{
		fail(reader, "has something behind its end");
		return NULL;
	}
	return root;
}

/*
 * Reads a JSON document. Returns its tree, or NULL and a phrase in *why (which
 * may be NULL) that follows "the response " or the like. The bytes must
 * outlive the tree, and need no terminating zero. Raises nothing but out of
 * memory.
 */
JsonNode *
json_parse(const char *bytes, size_t len, const char **why)
{
	Reader		reader = {.source = bytes, .block = FIRST_BLOCK};
	JsonNode   *root = NULL;

	if (len >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0)
	{
		bytes += 3;
		len -= 3;
	}
	if (len == 0)
		reader.why = "is empty";
	else if (len > JSON_MAX_BYTES)
		reader.why = "is too long";
	else if (pg_encoding_verifymbstr(PG_UTF8, bytes, (int) len) != (int) len)
		reader.why = "is not valid UTF-8";
	else
	{
		reader.text = palloc(len + 1);
		reader.lex = make_json_lexer_compat(bytes, len, PG_UTF8);
		root = read_document(&reader);
	}
	if (why)
		*why = reader.why;
	return root;
}
