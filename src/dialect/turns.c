/*
 * turns.c
 *	  Messages for vendors who want turns of two roles.
 *
 * Anthropic and Gemini know user and assistant (model), want them to
 * alternate, and content as an array of blocks; the system's text stands
 * apart, results of tools are the user's. So a turn is opened when the role
 * changes and filled with blocks until it changes again. How a block is
 * written is the dialect's: TurnFormat.
 */
#include "postgres.h"

#include "common.h"

typedef struct Turns
{
	StringInfo	out;
	const TurnFormat *format;
	bool		open;			/* a turn is open, */
	bool		assistant;		/* this one's */
} Turns;

static const char *put_message(Turns *turns, const JsonNode *messages,
							   const JsonNode *message);
static const char *put_content(Turns *turns, bool assistant,
							   const JsonNode *content);
static const char *put_part(Turns *turns, bool assistant,
							const JsonNode *part);
static const char *put_image(Turns *turns, const char *url);
static const char *put_tool_calls(Turns *turns, const JsonNode *calls);

/* Opens a turn, or adds to the one that is open. A block must follow. */
static void
begin_block(Turns *turns, bool assistant)
{
	if (turns->open && turns->assistant == assistant)
	{
		appendStringInfoChar(turns->out, ',');
		return;
	}
	if (turns->open)
	{
		appendStringInfoString(turns->out, turns->format->close);
		appendStringInfoChar(turns->out, ',');
	}
	appendStringInfoString(turns->out, assistant ?
						   turns->format->open_assistant :
						   turns->format->open_user);
	turns->open = true;
	turns->assistant = assistant;
}

/* Writes a block of text; none when it is empty, which vendors refuse. */
static void
put_text_block(Turns *turns, bool assistant, const char *text, size_t len)
{
	if (len == 0)
		return;
	begin_block(turns, assistant);
	turns->format->put_text(turns->out, text, len);
}

/*
 * Writes prompt or messages as an array of turns. The system's text goes
 * before the first user's unless it is said `system_apart`; where the system
 * alone speaks it takes the user's turn. NULL, or why these messages cannot be
 * sent.
 */
const char *
put_turns(StringInfo out, const ChatRequest *chat, bool system_apart,
		  const TurnFormat *format)
{
	Turns		turns = {.out = out, .format = format};
	const JsonNode *first_user = chat_first_user(chat);
	const char *system = system_apart ? NULL : chat_system_text(chat);
	const char *why = NULL;

	appendStringInfoChar(out, '[');
	if (system && first_user == NULL)
		put_text_block(&turns, false, system, strlen(system));
	if (chat->messages == NULL)
		put_text_block(&turns, false, chat->prompt, chat->prompt_len);
	else
	{
		for (JsonNode *message = chat->messages->child; message && !why;
			 message = message->next)
		{
			if (system && message == first_user)
				put_text_block(&turns, false, system, strlen(system));
			why = put_message(&turns, chat->messages, message);
		}
	}
	if (turns.open)
		appendStringInfoString(out, format->close);
	appendStringInfoChar(out, ']');
	if (why == NULL && !turns.open)
		why = "the messages hold nothing to answer";
	return why;
}

/* Writes the blocks of one message. NULL, or why not. */
static const char *
put_message(Turns *turns, const JsonNode *messages, const JsonNode *message)
{
	const JsonNode *content = json_get(message, "content");
	const char *why;

	switch (message_role(message))
	{
		case ROLE_SYSTEM:
			return NULL;
		case ROLE_USER:
			return put_content(turns, false, content);
		case ROLE_ASSISTANT:
			why = put_content(turns, true, content);
			return why ? why :
				put_tool_calls(turns, json_get(message, "tool_calls"));
		case ROLE_TOOL:
			begin_block(turns, false);
			return turns->format->put_tool_result(turns->out, messages,
												  message);
	}
	pg_unreachable();
}

/* Writes a content as blocks: a string, parts, or nothing. */
static const char *
put_content(Turns *turns, bool assistant, const JsonNode *content)
{
	const char *why = NULL;

	if (json_is(content, JN_STRING))
		put_text_block(turns, assistant, content->text, content->text_len);
	if (!json_is(content, JN_ARRAY))
		return NULL;
	for (JsonNode *part = content->child; part && !why; part = part->next)
		why = put_part(turns, assistant, part);
	return why;
}

/* Writes one part of a content as a block. */
static const char *
put_part(Turns *turns, bool assistant, const JsonNode *part)
{
	const char *type = json_text(json_get(part, "type"));
	const JsonNode *text = json_get(part, "text");

	if (strcmp(type, "image_url") == 0 && !assistant)
		return put_image(turns, part_image_url(part));
	if (strcmp(type, "refusal") == 0)
		text = json_get(part, "refusal");
	else if (strcmp(type, "text") != 0)
		return psprintf("this dialect has no content of type \"%s\"",
						clean_text(type, strlen(type), 40, false));
	if (json_is(text, JN_STRING))
		put_text_block(turns, assistant, text->text, text->text_len);
	return NULL;
}

/* Guesses the media type of a picture from its URL, or leaves it out. */
static void
guess_media_type(Image *image)
{
	static const char *const types[][2] = {
		{".png", "image/png"}, {".jpg", "image/jpeg"},
		{".jpeg", "image/jpeg"}, {".gif", "image/gif"},
		{".webp", "image/webp"}, {".heic", "image/heic"},
	};
	size_t		path_len = strcspn(image->url, "?#");

	for (size_t i = 0; i < lengthof(types); i++)
	{
		size_t		len = strlen(types[i][0]);

		if (path_len > len &&
			pg_strncasecmp(image->url + path_len - len, types[i][0], len) == 0)
		{
			image->media_type = types[i][1];
			image->media_type_len = strlen(types[i][1]);
		}
	}
}

/* Writes an image, which is a data: or an http URL. */
static const char *
put_image(Turns *turns, const char *url)
{
	Image		image = {.url = url};

	if (pg_strncasecmp(url, "data:", 5) == 0)
	{
		const char *comma = strchr(url, ',');

		image.media_type = url + 5;
		image.media_type_len = strcspn(image.media_type, ";,");
		if (comma == NULL || image.media_type_len == 0 || comma - url < 7 ||
			pg_strncasecmp(comma - 7, ";base64", 7) != 0)
			return "a data: URL of an image must have a media type and be base64";
		image.data = comma + 1;
		image.data_len = strlen(image.data);
	}
	else if (pg_strncasecmp(url, "https://", 8) == 0 ||
			 pg_strncasecmp(url, "http://", 7) == 0)
		guess_media_type(&image);
	else
		return "an image must have a data:, https: or http: URL";
	begin_block(turns, false);
	turns->format->put_image(turns->out, &image);
	return NULL;
}

/* Writes the tools that an assistant called. */
static const char *
put_tool_calls(Turns *turns, const JsonNode *calls)
{
	const char *why = NULL;

	if (!json_is(calls, JN_ARRAY))
		return NULL;
	for (JsonNode *call = calls->child; call && !why; call = call->next)
	{
		begin_block(turns, true);
		why = turns->format->put_tool_call(turns->out, call);
	}
	return why;
}

/*
 * Returns a tool call's arguments, written as a JSON string, as the object
 * that they are, or NULL when they are none. Empty means no arguments.
 */
const JsonNode *
tool_arguments(const JsonNode *call)
{
	const JsonNode *written = json_get(json_get(call, "function"), "arguments");
	const JsonNode *arguments;

	if (written->text_len == 0)
		return json_parse("{}", 2, NULL);
	arguments = json_parse(written->text, written->text_len, NULL);
	return json_is(arguments, JN_OBJECT) ? arguments : NULL;
}
