/*
 * node.c
 *	  Finding one's way in a tree.
 *
 * A NULL node is like a JSON null everywhere, and what is not there is NULL:
 * json_text(json_get(json_at(choices, 0), "text")) needs no test in between.
 */
#include "postgres.h"

#include <errno.h>
#include <math.h>

#include "json.h"

/* 2^63, the first double that is too large for an int64. */
#define INT64_END 9223372036854775808.0

/* Says whether a node is of this kind. */
bool
json_is(const JsonNode *node, JsonKind kind)
{
	return node ? node->kind == kind : kind == JN_NULL;
}

/*
 * Returns a member of an object, or NULL. Of several with one key the last
 * wins, as in jsonb.
 */
const JsonNode *
json_get(const JsonNode *node, const char *key)
{
	const JsonNode *found = NULL;

	if (node == NULL || node->kind != JN_OBJECT)
		return NULL;
	for (const JsonNode *member = node->child; member; member = member->next)
		if (strcmp(member->key, key) == 0)
			found = member;
	return found;
}

/* Returns an element of an array, from 0, or NULL. */
const JsonNode *
json_at(const JsonNode *node, int index)
{
	const JsonNode *element;

	if (node == NULL || node->kind != JN_ARRAY || index < 0)
		return NULL;
	for (element = node->child; element && index > 0; index--)
		element = element->next;
	return element;
}

/* Returns a string's text, or NULL when it is none. */
const char *
json_text(const JsonNode *node)
{
	return json_is(node, JN_STRING) ? node->text : NULL;
}

/* Returns the text of a string, number or boolean, or NULL. */
const char *
json_scalar_text(const JsonNode *node)
{
	if (node == NULL)
		return NULL;
	switch (node->kind)
	{
		case JN_STRING:
		case JN_NUMBER:
			return node->text;
		case JN_TRUE:
			return "true";
		case JN_FALSE:
			return "false";
		default:
			return NULL;
	}
}

/*
 * Returns a number as an integer, cut towards zero (some write 12.0), or
 * `missing` when it is no number or too large.
 */
int64
json_int(const JsonNode *node, int64 missing)
{
	char	   *end;
	long long	exact;
	double		value;

	if (!json_is(node, JN_NUMBER))
		return missing;
	errno = 0;
	exact = strtoll(node->text, &end, 10);
	if (*end == '\0' && errno == 0)
		return exact;
	value = strtod(node->text, NULL);
	if (isnan(value) || value >= INT64_END || value < -INT64_END)
		return missing;
	return (int64) value;
}
