/*
 * anthropic.c
 *	  Anthropic's messages, and all who speak them: llama.cpp, vLLM, Ollama.
 *
 * base_url is what Anthropic's own libraries take, https://api.anthropic.com;
 * one that ends with /v1 already is good too.
 */
#include "postgres.h"

#include "common.h"

#define ANTHROPIC_VERSION "2023-06-01"

/* max_tokens is required. This is said when nobody else says anything. */
#define DEFAULT_MAX_TOKENS 4096

/* OpenAI's scale ends at 2, Anthropic's at 1, and more is refused. */
#define MAX_TEMPERATURE 1.0

#define ANTHROPIC_CAPABILITIES \
	(CAP_JSON_SCHEMA | CAP_TOOLS | CAP_IMAGES | CAP_TEMPERATURE | CAP_SYSTEM)

static const FinishMeaning meanings[] = {
	{"end_turn", REPLY_ANSWER, FINISH_STOP},
	{"stop_sequence", REPLY_ANSWER, FINISH_STOP},
	{"max_tokens", REPLY_ANSWER, FINISH_LENGTH},
	{"tool_use", REPLY_ANSWER, FINISH_TOOL_CALLS},
	{"refusal", REPLY_FILTERED, FINISH_CONTENT_FILTER},
	{"model_context_window_exceeded", REPLY_CONTEXT, FINISH_NONE},
	{"pause_turn", REPLY_CUT, FINISH_NONE}, /* wants to go on after a break */
};

/* Writes a block of text. */
static void
put_text(StringInfo out, const char *text, size_t len)
{
	appendStringInfoString(out, "{\"type\":\"text\",\"text\":");
	json_put_string(out, text, len);
	appendStringInfoChar(out, '}');
}

/* Writes a block with an image. */
static void
put_image(StringInfo out, const Image *image)
{
	appendStringInfoString(out, "{\"type\":\"image\",\"source\":{\"type\":");
	if (image->data)
	{
		appendStringInfoString(out, "\"base64\",\"media_type\":");
		json_put_string(out, image->media_type, image->media_type_len);
		appendStringInfoString(out, ",\"data\":");
		json_put_string(out, image->data, image->data_len);
	}
	else
	{
		appendStringInfoString(out, "\"url\",\"url\":");
		json_put_cstring(out, image->url);
	}
	appendStringInfoString(out, "}}");
}

/*
 * Writes the id of a tool call. Others' ids may have characters that Anthropic
 * refuses; replacing them the same way in call and result keeps them together.
 */
static void
put_tool_id(StringInfo out, const char *id)
{
	static const char good[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char	   *fitting = pstrdup(id);

	for (char *c = fitting + strspn(fitting, good); *c; c += strspn(c, good))
		*c = '_';
	json_put_cstring(out, fitting);
	pfree(fitting);
}

/* See TurnFormat. */
static const char *
put_tool_call(StringInfo out, const JsonNode *call)
{
	const JsonNode *arguments = tool_arguments(call);

	if (arguments == NULL)
		return "the arguments of a tool call are not a JSON object";
	appendStringInfoString(out, "{\"type\":\"tool_use\",\"id\":");
	put_tool_id(out, json_text(json_get(call, "id")));
	appendStringInfoString(out, ",\"name\":");
	json_put_cstring(out, json_text(json_get(json_get(call, "function"),
											 "name")));
	appendStringInfoString(out, ",\"input\":");
	json_put_raw(out, arguments);
	appendStringInfoChar(out, '}');
	return NULL;
}

/* See TurnFormat. */
static const char *
put_tool_result(StringInfo out, const JsonNode *messages pg_attribute_unused(),
				const JsonNode *message)
{
	StringInfoData plain;

	initStringInfo(&plain);
	append_content_text(&plain, json_get(message, "content"));
	appendStringInfoString(out, "{\"type\":\"tool_result\",\"tool_use_id\":");
	put_tool_id(out, json_text(json_get(message, "tool_call_id")));
	appendStringInfoString(out, ",\"content\":");
	json_put_string(out, plain.data, plain.len);
	appendStringInfoChar(out, '}');
	pfree(plain.data);
	return NULL;
}

static const TurnFormat turn_format = {
	.open_user = "{\"role\":\"user\",\"content\":[",
	.open_assistant = "{\"role\":\"assistant\",\"content\":[",
	.close = "]}",
	.put_text = put_text,
	.put_image = put_image,
	.put_tool_call = put_tool_call,
	.put_tool_result = put_tool_result,
};

/*
 * Writes max_tokens: the call's, else the params', else the model's, else the
 * default.
 */
static void
put_max_tokens(StringInfo out, const ChatRequest *chat,
			   const Endpoint *endpoint, TakenKeys *taken)
{
	int			max_tokens = max_tokens_for(chat, endpoint);

	if (max_tokens <= 0)
	{
		if (params_get(chat, endpoint, "max_tokens"))
			return;
		max_tokens = endpoint->max_output_tokens;
	}
	if (max_tokens <= 0)
		max_tokens = DEFAULT_MAX_TOKENS;
	put_key(out, "max_tokens");
	appendStringInfo(out, "%d", max_tokens);
	take_key(taken, "max_tokens");
}

/* Writes the system's text; params' own stays when there is none. */
static void
put_system(StringInfo out, const ChatRequest *chat, TakenKeys *taken)
{
	const char *system = chat_system_text(chat);

	if (system == NULL)
		return;
	put_key(out, "system");
	json_put_cstring(out, system);
	take_key(taken, "system");
}

/* See dialect.h. */
static const char *
anthropic_compose(const ChatRequest *chat, const Endpoint *endpoint,
				  StringInfo out)
{
	bool		can_heat = (endpoint->capabilities & CAP_TEMPERATURE) != 0;
	bool		system_apart = chat_system_apart(chat, endpoint);
	TakenKeys	taken = {0};
	const char *why;

	appendStringInfoChar(out, '{');
	put_key(out, "model");
	json_put_cstring(out, endpoint->model);
	put_max_tokens(out, chat, endpoint, &taken);
	if (system_apart)
		put_system(out, chat, &taken);
	put_key(out, "messages");
	why = put_turns(out, chat, system_apart, &turn_format);
	if (why)
		return why;
	if (chat->has_temperature && can_heat)
		put_temperature(out, Min(chat->temperature, MAX_TEMPERATURE));
	if (chat->has_temperature || !can_heat)
		take_key(&taken, "temperature");
	params_put(out, chat, endpoint, &taken);
	appendStringInfoChar(out, '}');
	return NULL;
}

/* See dialect.h. */
static const char *
anthropic_address(const ChatRequest *chat, const Endpoint *endpoint,
				  HttpRequest *out)
{
	const char *why = NULL;

	(void) chat;
	appendStringInfo(&out->url, "%s%s/messages", endpoint->base_url,
					 ends_with(endpoint->base_url, "/v1") ? "" : "/v1");
	if (endpoint->secret)
		why = add_own_header(out, endpoint, "x-api-key", endpoint->secret);
	if (why == NULL)
		why = add_own_header(out, endpoint, "anthropic-version",
							 ANTHROPIC_VERSION);
	if (why == NULL)
		why = add_extra_headers(out, endpoint);
	return why;
}

/*
 * Takes the blocks of an answer: text and calls of tools; thoughts and what
 * the server's own tools did are passed over. False when a call has no name.
 */
static bool
take_blocks(AnswerParts *parts, const JsonNode *content)
{
	StringInfoData all;

	initStringInfo(&all);
	for (const JsonNode *block = json_at(content, 0); block;
		 block = block->next)
	{
		const char *type = json_text(json_get(block, "type"));
		const JsonNode *text = json_get(block, "text");
		const char *name = json_text(json_get(block, "name"));
		const JsonNode *input = json_get(block, "input");

		if (type == NULL)
			continue;
		if (strcmp(type, "text") == 0 && json_is(text, JN_STRING))
			appendBinaryStringInfo(&all, text->text, (int) text->text_len);
		if (strcmp(type, "tool_use") != 0)
			continue;
		if (name == NULL)
			return false;
		answer_add_call(parts, json_text(json_get(block, "id")), name,
						input ? input->raw : "{}",
						input ? input->raw_len : 2, NULL);
	}
	parts->text = all.data;
	parts->text_len = all.len;
	return true;
}

/* Reads the tokens used. Anthropic's input excludes what the cache held. */
static void
take_usage(Reply *out, const JsonNode *usage)
{
	int64		input = token_count(json_get(usage, "input_tokens"));
	int64		read =
		token_count(json_get(usage, "cache_read_input_tokens"));
	int64		created =
		token_count(json_get(usage, "cache_creation_input_tokens"));

	out->output_tokens = token_count(json_get(usage, "output_tokens"));
	out->cached_tokens = read;
	if (input < 0)
		return;
	input += Max(read, 0) + Max(created, 0);
	if (input > 0)
		out->input_tokens = input;
	else						/* nobody counted */
		out->output_tokens = -1;
}

/* See dialect.h. */
static void
anthropic_parse(const HttpResponse *resp, time_t now, Reply *out)
{
	const JsonNode *root = reply_begin(resp, now, out);
	const JsonNode *content = json_get(root, "content");
	AnswerParts parts = {0};

	if (root == NULL)
		return;
	if (!json_is(content, JN_ARRAY))
	{
		reply_not_an_answer(resp, now, root, "has no content", out);
		return;
	}
	out->answered_as = json_text(json_get(root, "model"));
	take_usage(out, json_get(root, "usage"));
	parts.finish = json_text(json_get(root, "stop_reason"));
	if (take_blocks(&parts, content))
		reply_conclude(out, &parts, meanings, lengthof(meanings));
	else
		reply_garbage(out, "a tool call has no name");
}

const Dialect anthropic_dialect = {
	.name = "anthropic",
	.base_url = "https://api.anthropic.com",
	.capabilities = ANTHROPIC_CAPABILITIES,
	.address = anthropic_address,
	.compose = anthropic_compose,
	.parse = anthropic_parse,
};
