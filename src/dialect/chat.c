/*
 * chat.c
 *	  Messages in OpenAI's form: are they, and what do they say.
 *
 * chat_check() is the wall: whatever passes it can be walked through without
 * further tests. A part of a type that it does not know passes, because a
 * server of OpenAI's dialect may know it; the other dialects refuse it when
 * they write their request.
 */
#include "postgres.h"

#include "common.h"

#define NOT_MESSAGES	"must be an array of objects with role and content"
#define MAX_QUOTED		40		/* bytes of a user's word in a message */

static const char *check_message(const JsonNode *message, uint32 *needs);
static const char *check_content(const JsonNode *message, uint32 *needs);
static const char *check_part(const JsonNode *part, uint32 *needs);
static const char *check_tool_calls(const JsonNode *calls);

static const struct
{
	const char *name;
	ChatRole	role;
}			roles[] =
{
	{"system", ROLE_SYSTEM},
	{"developer", ROLE_SYSTEM},
	{"user", ROLE_USER},
	{"assistant", ROLE_ASSISTANT},
	{"tool", ROLE_TOOL},
};

/* Looks up a role by name. */
static bool
find_role(const char *name, ChatRole *role)
{
	for (size_t i = 0; i < lengthof(roles); i++)
	{
		if (strcmp(roles[i].name, name) == 0)
		{
			*role = roles[i].role;
			return true;
		}
	}
	return false;
}

/* Quotes a word of the user's, cut short and without control characters. */
static const char *
quoted(const char *word)
{
	return clean_text(word, strlen(word), MAX_QUOTED, false);
}

/* See dialect.h. */
const char *
chat_check(const JsonNode *messages, uint32 *needs)
{
	int			position = 0;

	*needs = 0;
	if (!json_is(messages, JN_ARRAY))
		return NOT_MESSAGES;
	if (messages->nchildren == 0)
		return "must not be empty";
	for (JsonNode *message = messages->child; message; message = message->next)
	{
		const char *wrong = check_message(message, needs);

		position++;
		if (wrong)
			return psprintf("%s (message %d)", wrong, position);
	}
	return NULL;
}

/* Checks one message; the phrase is the one of chat_check(). */
static const char *
check_message(const JsonNode *message, uint32 *needs)
{
	const char *role_name = json_text(json_get(message, "role"));
	const JsonNode *calls = json_get(message, "tool_calls");
	const char *wrong = NULL;
	ChatRole	role;

	if (role_name == NULL)
		return NOT_MESSAGES;
	if (!find_role(role_name, &role))
		return psprintf("must have the role system, developer, user, assistant or tool, not \"%s\"",
						quoted(role_name));
	if (role == ROLE_TOOL)
	{
		*needs |= CAP_TOOLS;
		if (json_text(json_get(message, "tool_call_id")) == NULL)
			return "of role tool must have a tool_call_id";
	}
	if (!json_is(calls, JN_NULL))
	{
		*needs |= CAP_TOOLS;
		if (role != ROLE_ASSISTANT)
			return "must not have tool_calls unless the role is assistant";
		wrong = check_tool_calls(calls);
		if (wrong || json_is(json_get(message, "content"), JN_NULL))
			return wrong;
	}
	return check_content(message, needs);
}

/* Checks the content of a message that must have one. */
static const char *
check_content(const JsonNode *message, uint32 *needs)
{
	const JsonNode *content = json_get(message, "content");

	if (json_is(content, JN_STRING))
		return NULL;
	if (json_is(content, JN_NULL))
	{
		/* What a model refused to say may stand in a history. */
		if (json_text(json_get(message, "refusal")))
			return NULL;
		return NOT_MESSAGES;
	}
	if (!json_is(content, JN_ARRAY) || content->nchildren == 0)
		return "must have a string or an array of parts as content";
	for (JsonNode *part = content->child; part; part = part->next)
	{
		const char *wrong = check_part(part, needs);

		if (wrong)
			return wrong;
	}
	return NULL;
}

/* Checks one part of a content. */
static const char *
check_part(const JsonNode *part, uint32 *needs)
{
	const char *type = json_text(json_get(part, "type"));

	if (type == NULL)
		return "must have parts with a type in their content";
	if (strcmp(type, "text") == 0 &&
		json_text(json_get(part, "text")) == NULL)
		return "must have a text in parts of type text";
	if (strcmp(type, "image_url") == 0)
	{
		*needs |= CAP_IMAGES;
		if (part_image_url(part) == NULL)
			return "must have a url in parts of type image_url";
	}
	return NULL;
}

/* Checks the tools that an assistant called. */
static const char *
check_tool_calls(const JsonNode *calls)
{
	if (!json_is(calls, JN_ARRAY) || calls->nchildren == 0)
		return "must have a non-empty array as tool_calls";
	for (JsonNode *call = calls->child; call; call = call->next)
	{
		const JsonNode *function = json_get(call, "function");

		if (json_text(json_get(call, "id")) == NULL ||
			json_text(json_get(function, "name")) == NULL ||
			json_text(json_get(function, "arguments")) == NULL)
			return "must have id, function.name and function.arguments (a string) in each of tool_calls";
	}
	return NULL;
}

/* Returns the role of a message that passed the check. */
ChatRole
message_role(const JsonNode *message)
{
	ChatRole	role = ROLE_USER;

	find_role(json_text(json_get(message, "role")), &role);
	return role;
}

/* Returns the URL of an image part, or NULL. Some write it without object. */
const char *
part_image_url(const JsonNode *part)
{
	const JsonNode *image = json_get(part, "image_url");
	const char *url = json_text(json_get(image, "url"));

	return url ? url : json_text(image);
}

/* Appends the text of a content, a string or parts, a line each. */
void
append_content_text(StringInfo plain, const JsonNode *content)
{
	if (json_is(content, JN_STRING))
		appendBinaryStringInfo(plain, content->text, (int) content->text_len);
	if (!json_is(content, JN_ARRAY))
		return;
	for (JsonNode *part = content->child; part; part = part->next)
	{
		const JsonNode *text = json_get(part, "text");

		if (!json_is(text, JN_STRING))
			continue;
		if (plain->len > 0)
			appendStringInfoChar(plain, '\n');
		appendBinaryStringInfo(plain, text->text, (int) text->text_len);
	}
}

/*
 * Returns what the call says to the system: its own text, and that of all
 * system messages, wherever they stand; palloc'd, or NULL when there is none.
 */
char *
chat_system_text(const ChatRequest *chat)
{
	StringInfoData all;

	initStringInfo(&all);
	if (chat->system)
		appendStringInfoString(&all, chat->system);
	for (JsonNode *message = chat->messages ? chat->messages->child : NULL;
		 message; message = message->next)
	{
		StringInfoData one;

		if (message_role(message) != ROLE_SYSTEM)
			continue;
		initStringInfo(&one);
		append_content_text(&one, json_get(message, "content"));
		if (all.len > 0 && one.len > 0)
			appendStringInfoString(&all, "\n\n");
		appendBinaryStringInfo(&all, one.data, one.len);
		pfree(one.data);
	}
	return all.len > 0 ? all.data : NULL;
}

/*
 * Says whether the system's text can be sent apart from the turns: the model
 * takes it, and it is not all there is.
 */
bool
chat_system_apart(const ChatRequest *chat, const Endpoint *endpoint)
{
	if ((endpoint->capabilities & CAP_SYSTEM) == 0)
		return false;
	if (chat->messages == NULL)
		return true;
	for (JsonNode *message = chat->messages->child; message;
		 message = message->next)
		if (message_role(message) != ROLE_SYSTEM)
			return true;
	return false;
}

/* Returns the first message of a user, or NULL. */
const JsonNode *
chat_first_user(const ChatRequest *chat)
{
	if (chat->messages == NULL)
		return NULL;
	for (JsonNode *message = chat->messages->child; message;
		 message = message->next)
		if (message_role(message) == ROLE_USER)
			return message;
	return NULL;
}

/* See dialect.h. */
char *
chat_last_user_text(const JsonNode *messages)
{
	const JsonNode *last = NULL;
	StringInfoData plain;

	initStringInfo(&plain);
	for (JsonNode *message = messages->child; message; message = message->next)
		if (message_role(message) == ROLE_USER)
			last = message;
	append_content_text(&plain, json_get(last, "content"));
	return plain.data;
}
