/*
 * json.h
 *	  A read-only tree over PostgreSQL's own JSON lexer, and a writer.
 *
 * The tree is for bytes that strangers sent: bounded in depth and number of
 * values, checked for UTF-8, and never an ereport. All text in and out is
 * UTF-8, whatever the database's encoding. Trees live in the memory context
 * that was current. Of several members with one key the last wins.
 */
#ifndef LLM_JSON_H
#define LLM_JSON_H

#include "postgres.h"

#include "lib/stringinfo.h"

#define JSON_MAX_DEPTH	64
#define JSON_MAX_VALUES	1000000 /* in one document; 72 bytes each */

typedef enum JsonKind
{
	JN_NULL,
	JN_FALSE,
	JN_TRUE,
	JN_NUMBER,
	JN_STRING,
	JN_ARRAY,
	JN_OBJECT
} JsonKind;

typedef struct JsonNode
{
	JsonKind	kind;
	const char *key;			/* decoded, when a member of an object */
	const char *text;			/* string: decoded; number: as written */
	size_t		text_len;
	const char *raw;			/* this value as it stands in the source, */
	size_t		raw_len;		/* which must outlive the tree */
	int			nchildren;
	struct JsonNode *child;		/* first member or element */
	struct JsonNode *next;		/* next sibling */
} JsonNode;

/*
 * Reading. A NULL node is like a JSON null everywhere: paths can be chained.
 * When json_parse() returns NULL, *why is a phrase like "ends too early".
 */
extern JsonNode *json_parse(const char *bytes, size_t len, const char **why);
extern const JsonNode *json_get(const JsonNode *node, const char *key);
extern const JsonNode *json_at(const JsonNode *node, int index);
extern const char *json_text(const JsonNode *node);
extern const char *json_scalar_text(const JsonNode *node);
extern int64 json_int(const JsonNode *node, int64 missing);
extern bool json_is(const JsonNode *node, JsonKind kind);

/* Writing, appended to a buffer. */
extern void json_put_string(StringInfo out, const char *text, size_t len);
extern void json_put_cstring(StringInfo out, const char *text);
extern void json_put_raw(StringInfo out, const JsonNode *node);

#endif							/* LLM_JSON_H */
