/*
 * error.c
 *	  Error bodies, of whatever make.
 *
 * One reader for all dialects, because servers mix them: an OpenAI-style error
 * on an Anthropic-style route, a proxy's own in front of either. Seen so far:
 *
 *	OpenAI, most	{"error": {"message", "type", "param", "code"}}
 *	Azure			{"error": {"code", "message", "innererror": {"code"}}}
 *	Anthropic		{"type": "error", "error": {"type", "message", "details"}}
 *	Google			{"error": {"code", "message", "status", "details": []}},
 *					also inside an array
 *	Ollama			{"error": "…"}
 *	Mistral			{"object": "error", "message", "type", "code"}
 *	gateways		{"message"}, {"detail"}, {"msg"}, {"errors": []}
 *
 * A code is a word that a program can act on. A number that only repeats the
 * HTTP status is one only when there is no type; but where the status claims
 * success, that number is the status that was meant.
 */
#include "postgres.h"

#include "common.h"

#define MAX_ERROR_WORD 100		/* bytes */

/* Where words for people stand, the likeliest first. */
static const char *const text_keys[] = {
	"message",
	"detail",
	"msg",
	"error_description",
	"errorMessage",
	"errors",
	"title",
};

/* Says whether a member is there and says anything. */
static bool
says_something(const JsonNode *node)
{
	if (json_is(node, JN_STRING))
		return node->text_len > 0;
	return json_is(node, JN_OBJECT) && node->nchildren > 0;
}

/* Says whether a body calls itself an error, whatever the status. */
bool
error_is_there(const JsonNode *root)
{
	const char *object = json_text(json_get(root, "object"));
	const char *type = json_text(json_get(root, "type"));

	return says_something(json_get(root, "error")) ||
		(object && strcmp(object, "error") == 0) ||
		(type && strcmp(type, "error") == 0);
}

/* Finds words for people: a text, or the first one inside. */
static const JsonNode *
find_text(const JsonNode *node)
{
	const JsonNode *text = NULL;

	if (json_is(node, JN_STRING) && node->text_len > 0)
		return node;
	if (json_is(node, JN_ARRAY))
		return find_text(node->child);
	for (size_t i = 0; i < lengthof(text_keys) && text == NULL; i++)
		if (json_get(node, text_keys[i]))
			text = find_text(json_get(node, text_keys[i]));
	return text;
}

/* Says whether a body that is no answer has words that explain it. */
bool
error_has_words(const JsonNode *root)
{
	return json_is(root, JN_OBJECT) && find_text(root) != NULL;
}

/* Returns a word of the provider's, bounded and clean, or NULL. */
static const char *
word(const JsonNode *node)
{
	const char *clean;

	if (!json_is(node, JN_STRING) && !json_is(node, JN_NUMBER))
		return NULL;
	clean = clean_text(node->text, node->text_len, MAX_ERROR_WORD, false);
	return *clean ? clean : NULL;
}

/* Says whether a code only repeats an HTTP status. */
static bool
is_http_status(const char *code)
{
	return strlen(code) == 3 && code[0] >= '1' && code[0] <= '5' &&
		strspn(code, "0123456789") == 3;
}

/* Returns the reason of Google's ErrorInfo, or NULL. */
static const char *
google_reason(const JsonNode *details)
{
	if (!json_is(details, JN_ARRAY))
		return NULL;
	for (JsonNode *detail = details->child; detail; detail = detail->next)
	{
		const char *reason = word(json_get(detail, "reason"));

		if (reason)
			return reason;
	}
	return NULL;
}

/*
 * Says whether one violation of Google's QuotaFailure does not pass by
 * waiting a minute: a quota a day, or one that is nought.
 */
static bool
violation_is_lasting(const JsonNode *violation)
{
	const char *id = json_text(json_get(violation, "quotaId"));
	const char *value = json_text(json_get(violation, "quotaValue"));

	return (id && strstr(id, "PerDay")) ||
		(value && strcmp(value, "0") == 0);
}

/* Says whether a text has "limit: 0", and not "limit: 0.5" or "limit: 05". */
static bool
text_says_limit_0(const char *text)
{
	static const char limit_0[] = "limit: 0";

	while (text && (text = strstr(text, limit_0)) != NULL)
	{
		text += strlen(limit_0);
		if (strspn(text, "0123456789") == 0 &&
			!(text[0] == '.' && strspn(text + 1, "0123456789") > 0))
			return true;
	}
	return false;
}

/* Says whether Google refuses for longer than a minute: see dialect.h. */
static bool
quota_is_exhausted(const JsonNode *error, const char *text)
{
	const char *status = json_text(json_get(error, "status"));
	const JsonNode *details = json_get(error, "details");

	if (status == NULL || strcmp(status, "RESOURCE_EXHAUSTED") != 0)
		return false;
	if (text_says_limit_0(text))
		return true;
	for (const JsonNode *detail = json_at(details, 0); detail;
		 detail = detail->next)
	{
		const JsonNode *metadata = json_get(detail, "metadata");
		const char *limit = json_text(json_get(metadata, "quota_limit_value"));

		if (limit && strcmp(limit, "0") == 0)
			return true;
		for (const JsonNode *violation =
			 json_at(json_get(detail, "violations"), 0);
			 violation; violation = violation->next)
			if (violation_is_lasting(violation))
				return true;
	}
	return false;
}

/* Returns the most telling word for a program that an error has, or NULL. */
static const char *
find_code(const JsonNode *error, int status, const Reply *reply)
{
	const JsonNode *details = json_get(error, "details");
	const char *inner = word(json_get(json_get(error, "innererror"), "code"));
	const char *code = word(json_get(error, "code"));
	const char *found;

	if (quota_is_exhausted(error, reply->error_text))
		return ERROR_CODE_QUOTA_EXHAUSTED;
	if (inner && strcmp(inner, "ResponsibleAIPolicyViolation") == 0)
		return ERROR_CODE_CONTENT_FILTER;
	if (code && !is_http_status(code))
		return code;
	found = word(json_get(details, "error_code"));
	if (found == NULL)
		found = google_reason(details);
	if (found == NULL && (code == NULL || status / 100 != 2))
		found = reply->error_type;
	return found ? found : code;
}

/* Joins an error's words with those of the provider behind a router. */
static const char *
error_words(const JsonNode *text, const JsonNode *error)
{
	const char *words = clean_words(text);
	const char *raw = clean_words(json_get(json_get(error, "metadata"),
										   "raw"));

	return words && raw ? psprintf("%s: %s", words, raw) : words;
}

/*
 * Reads an error into a reply. False, and only what was found is set, when
 * there are no words for people in it.
 */
bool
error_read(const JsonNode *root, int status, Reply *out)
{
	const JsonNode *error = json_get(root, "error");
	const JsonNode *text = find_text(error);
	const JsonNode *google;

	if (!json_is(error, JN_OBJECT))
		error = root;
	if (text == NULL)
		text = find_text(root);
	out->error_text = error_words(text, error);
	google = json_get(error, "status");
	out->error_type = word(json_get(error, "type"));
	if (out->error_type == NULL && json_is(google, JN_STRING))
		out->error_type = word(google);
	out->error_code = find_code(error, status, out);
	if (out->request_id == NULL)
		out->request_id = word(json_get(root, "request_id"));
	return out->error_text != NULL;
}
