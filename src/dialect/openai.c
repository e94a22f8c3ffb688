/*
 * openai.c
 *	  OpenAI's chat completions, and all who speak them: vLLM, llama.cpp,
 *	  Ollama, Groq, Mistral, OpenRouter, DeepSeek, …
 *
 * base_url is what OpenAI's own libraries take, version path included:
 * https://api.openai.com/v1, http://localhost:11434/v1. `stream` is not sent:
 * everyone's default is false, and strict servers refuse what they do not know.
 *
 * Genuine servers (OpenAI's and Azure's) want max_completion_tokens and know
 * the role developer; the others want max_tokens and know only system.
 * OpenAI's reasoning models want the new name wherever they are served.
 */
#include "postgres.h"

#include "common.h"

#define OPENAI_CAPABILITIES \
	(CAP_JSON_SCHEMA | CAP_TOOLS | CAP_IMAGES | CAP_TEMPERATURE | CAP_SYSTEM)

/* What a finish reason means; not all are OpenAI's own. */
static const FinishMeaning meanings[] = {
	{"stop", REPLY_ANSWER, FINISH_STOP},
	{"length", REPLY_ANSWER, FINISH_LENGTH},
	{"tool_calls", REPLY_ANSWER, FINISH_TOOL_CALLS},
	{"content_filter", REPLY_FILTERED, FINISH_CONTENT_FILTER},
	{"model_length", REPLY_ANSWER, FINISH_LENGTH},	/* Mistral */
	{"max_tokens", REPLY_ANSWER, FINISH_LENGTH},
	{"eos", REPLY_ANSWER, FINISH_STOP}, /* Together */
	{"eos_token", REPLY_ANSWER, FINISH_STOP},	/* Text Generation Inference */
	{"stop_sequence", REPLY_ANSWER, FINISH_STOP},
	{"end_turn", REPLY_ANSWER, FINISH_STOP},
	{"error", REPLY_ERROR, FINISH_NONE},	/* Mistral, OpenRouter */
	{"insufficient_system_resource", REPLY_ERROR, FINISH_NONE}, /* DeepSeek */
	{"abort", REPLY_CUT, FINISH_NONE},	/* vLLM, SGLang */
};

static void put_messages(StringInfo out, const ChatRequest *chat,
						 const Endpoint *endpoint, bool genuine);

/* See dialect.h. */
static const char *
openai_address(const ChatRequest *chat, const Endpoint *endpoint,
			   HttpRequest *out)
{
	const char *why;

	(void) chat;
	appendStringInfo(&out->url, "%s/chat/completions", endpoint->base_url);
	why = add_bearer(out, endpoint);
	if (why == NULL)
		why = add_extra_headers(out, endpoint);
	return why;
}

/* See dialect.h. */
static const char *
openai_compose(const ChatRequest *chat, const Endpoint *endpoint,
			   StringInfo out)
{
	bool		genuine = host_is_below(endpoint->base_url, "openai.com") ||
		host_is_below(endpoint->base_url, "openai.azure.com");

	openai_put_body(out, chat, endpoint, true, genuine);
	return NULL;
}

/*
 * Says whether a model is one of OpenAI's that refuse max_tokens, whatever
 * gateway stands before it: gpt-5 and later, o1, o3, ...
 */
static bool
refuses_max_tokens(const char *model)
{
	const char *slash = strrchr(model, '/');	/* openai/gpt-5 */
	const char *name = slash ? slash + 1 : model;

	if (name[0] == 'o')
		return name[1] >= '1' && name[1] <= '9';
	return strncmp(name, "gpt-", 4) == 0 && name[4] >= '5' && name[4] <= '9';
}

/* Writes the body of a request, of Azure's too. */
void
openai_put_body(StringInfo out, const ChatRequest *chat,
				const Endpoint *endpoint, bool with_model, bool genuine)
{
	bool		can_heat = (endpoint->capabilities & CAP_TEMPERATURE) != 0;
	int			max_tokens = max_tokens_for(chat, endpoint);
	TakenKeys	taken = {0};

	take_key(&taken, "api-version");	/* Azure's, and in the URL */
	appendStringInfoChar(out, '{');
	if (with_model)
	{
		put_key(out, "model");
		json_put_cstring(out, endpoint->model);
	}
	put_key(out, "messages");
	put_messages(out, chat, endpoint, genuine);
	if (max_tokens > 0)
	{
		put_key(out, genuine || refuses_max_tokens(endpoint->model) ?
				"max_completion_tokens" : "max_tokens");
		appendStringInfo(out, "%d", max_tokens);
		take_key(&taken, "max_completion_tokens");
		take_key(&taken, "max_tokens");
	}
	if (chat->has_temperature && can_heat)
		put_temperature(out, chat->temperature);
	if (chat->has_temperature || !can_heat)
		take_key(&taken, "temperature");
	params_put(out, chat, endpoint, &taken);
	appendStringInfoChar(out, '}');
}

/* Writes a message of plain text. */
static void
put_text_message(StringInfo out, const char *role, const char *text,
				 size_t len)
{
	appendStringInfo(out, "{\"role\":\"%s\",\"content\":", role);
	json_put_string(out, text, len);
	appendStringInfoChar(out, '}');
}

/* Writes prompt and system as messages. */
static void
put_prompt(StringInfo out, const ChatRequest *chat, bool takes_system)
{
	StringInfoData both;

	if (chat->system && takes_system)
	{
		put_text_message(out, "system", chat->system, strlen(chat->system));
		appendStringInfoChar(out, ',');
	}
	if (chat->system == NULL || takes_system)
	{
		put_text_message(out, "user", chat->prompt, chat->prompt_len);
		return;
	}
	initStringInfo(&both);
	appendStringInfo(&both, "%s\n\n", chat->system);
	appendBinaryStringInfo(&both, chat->prompt, (int) chat->prompt_len);
	put_text_message(out, "user", both.data, both.len);
	pfree(both.data);
}

/* Writes a content with the system's text in front of it. */
static void
put_prefixed_content(StringInfo out, const char *system,
					 const JsonNode *content)
{
	StringInfoData both;

	if (json_is(content, JN_ARRAY))
	{
		appendStringInfoString(out, "[{\"type\":\"text\",\"text\":");
		json_put_cstring(out, system);
		appendStringInfoString(out, "},");
		appendBinaryStringInfo(out, content->raw + 1,
							   (int) content->raw_len - 1);
		return;
	}
	initStringInfo(&both);
	appendStringInfo(&both, "%s\n\n", system);
	append_content_text(&both, content);
	json_put_string(out, both.data, both.len);
	pfree(both.data);
}

/*
 * Writes tool calls without extra_content: Google's signatures of thoughts,
 * which only Google takes back.
 */
static void
put_tool_calls(StringInfo out, const JsonNode *calls)
{
	TakenKeys	taken = {1, {"extra_content"}};

	appendStringInfoChar(out, '[');
	for (JsonNode *call = calls->child; call; call = call->next)
	{
		if (call != calls->child)
			appendStringInfoChar(out, ',');
		appendStringInfoChar(out, '{');
		put_members(out, call, &taken);
		appendStringInfoChar(out, '}');
	}
	appendStringInfoChar(out, ']');
}

/* Writes a message as it was given, but for what the server would refuse. */
static void
put_message(StringInfo out, const JsonNode *message, const char *prefix,
			const Endpoint *endpoint, bool genuine)
{
	bool		google = host_is_below(endpoint->base_url, "googleapis.com");
	const JsonNode *calls = json_get(message, "tool_calls");
	TakenKeys	taken = {0};

	appendStringInfoChar(out, '{');
	if (message_role(message) == ROLE_SYSTEM && !genuine)
	{
		appendStringInfoString(out, "\"role\":\"system\"");
		take_key(&taken, "role");
	}
	if (prefix)
	{
		put_key(out, "content");
		put_prefixed_content(out, prefix, json_get(message, "content"));
		take_key(&taken, "content");
	}
	if (json_is(calls, JN_ARRAY) && !google)
	{
		put_key(out, "tool_calls");
		put_tool_calls(out, calls);
		take_key(&taken, "tool_calls");
	}
	put_members(out, message, &taken);
	appendStringInfoChar(out, '}');
}

/* Writes the given messages; a model without system gets it from the user. */
static void
put_given_messages(StringInfo out, const ChatRequest *chat,
				   const Endpoint *endpoint, bool genuine)
{
	bool		apart = (endpoint->capabilities & CAP_SYSTEM) != 0;
	const char *system = apart ? chat->system : chat_system_text(chat);
	const JsonNode *first_user = chat_first_user(chat);
	const char *separator = "";

	if (system && (apart || first_user == NULL))
	{
		put_text_message(out, apart ? "system" : "user", system,
						 strlen(system));
		separator = ",";
	}
	for (JsonNode *message = chat->messages->child; message;
		 message = message->next)
	{
		if (message_role(message) == ROLE_SYSTEM && !apart)
			continue;
		appendStringInfoString(out, separator);
		put_message(out, message,
					!apart && message == first_user ? system : NULL,
					endpoint, genuine);
		separator = ",";
	}
}

/* Writes what is asked as an array of messages. */
static void
put_messages(StringInfo out, const ChatRequest *chat,
			 const Endpoint *endpoint, bool genuine)
{
	appendStringInfoChar(out, '[');
	if (chat->messages)
		put_given_messages(out, chat, endpoint, genuine);
	else
		put_prompt(out, chat, (endpoint->capabilities & CAP_SYSTEM) != 0);
	appendStringInfoChar(out, ']');
}

/* Takes an answer's text; some write chunks, thoughts among them. */
static void
take_text(AnswerParts *parts, const JsonNode *content)
{
	StringInfoData all;

	if (json_is(content, JN_STRING))
	{
		parts->text = content->text;
		parts->text_len = content->text_len;
	}
	if (!json_is(content, JN_ARRAY))
		return;
	initStringInfo(&all);
	for (JsonNode *chunk = content->child; chunk; chunk = chunk->next)
	{
		const char *type = json_text(json_get(chunk, "type"));
		const JsonNode *text = json_get(chunk, "text");

		if (type && strcmp(type, "text") == 0 && json_is(text, JN_STRING))
			appendBinaryStringInfo(&all, text->text, (int) text->text_len);
	}
	parts->text = all.data;
	parts->text_len = all.len;
}

/* Takes the tools that are called. False when one has no name. */
static bool
take_calls(AnswerParts *parts, const JsonNode *calls)
{
	for (const JsonNode *call = json_at(calls, 0); call; call = call->next)
	{
		const JsonNode *function = json_get(call, "function");
		const char *name = json_text(json_get(function, "name"));
		const JsonNode *arguments = json_get(function, "arguments");
		const JsonNode *google = json_get(json_get(call, "extra_content"),
										  "google");
		bool		is_text = json_is(arguments, JN_STRING);

		if (name == NULL)
			return false;
		/* Some write the arguments as the object that they are. */
		answer_add_call(parts, json_text(json_get(call, "id")), name,
						is_text ? arguments->text :
						arguments ? arguments->raw : "",
						is_text ? arguments->text_len :
						arguments ? arguments->raw_len : 0,
						json_text(json_get(google, "thought_signature")));
	}
	return true;
}

/* Reads the tokens used. Zero of what must be more was not counted. */
static void
take_usage(Reply *out, const JsonNode *usage)
{
	const JsonNode *prompt = json_get(usage, "prompt_tokens_details");
	const JsonNode *completion = json_get(usage, "completion_tokens_details");
	int64		total = token_count(json_get(usage, "total_tokens"));

	out->input_tokens = token_count(json_get(usage, "prompt_tokens"));
	out->output_tokens = token_count(json_get(usage, "completion_tokens"));
	out->cached_tokens = token_count(json_get(prompt, "cached_tokens"));
	if (out->cached_tokens < 0) /* DeepSeek */
		out->cached_tokens =
			token_count(json_get(usage, "prompt_cache_hit_tokens"));
	out->reasoning_tokens =
		token_count(json_get(completion, "reasoning_tokens"));
	if (out->input_tokens == 0)
		out->input_tokens = out->output_tokens = -1;

	/* xAI counts reasoning beside the completion, and the total shows it. */
	if (out->reasoning_tokens > 0 && out->output_tokens >= 0 &&
		total == out->input_tokens + out->output_tokens +
		out->reasoning_tokens)
		out->output_tokens += out->reasoning_tokens;
}

/* See dialect.h; for Azure too. */
void
openai_parse(const HttpResponse *resp, time_t now, Reply *out)
{
	const JsonNode *root = reply_begin(resp, now, out);
	const JsonNode *choice = json_at(json_get(root, "choices"), 0);
	const JsonNode *message = json_get(choice, "message");
	const char *refusal = clean_words(json_get(message, "refusal"));
	AnswerParts parts = {0};

	if (root == NULL)
		return;
	if (error_is_there(choice))
	{
		/* OpenRouter: the provider behind it broke off. */
		reply_error(resp, now, choice, out);
		return;
	}
	if (!json_is(message, JN_OBJECT))
	{
		reply_not_an_answer(resp, now, root, "has no choices", out);
		return;
	}
	out->answered_as = json_text(json_get(root, "model"));
	take_usage(out, json_get(root, "usage"));
	take_text(&parts, json_get(message, "content"));
	parts.finish = json_text(json_get(choice, "finish_reason"));
	if (!take_calls(&parts, json_get(message, "tool_calls")))
		reply_garbage(out, "a tool call has no name");
	else if (refusal && parts.text_len == 0)
	{
		out->kind = REPLY_FILTERED;
		out->finish = FINISH_CONTENT_FILTER;
		out->error_code = "refusal";
		out->error_text = refusal;
	}
	else
		reply_conclude(out, &parts, meanings, lengthof(meanings));
}

const Dialect openai_dialect = {
	.name = "openai",
	.base_url = "https://api.openai.com/v1",
	.capabilities = OPENAI_CAPABILITIES,
	.address = openai_address,
	.compose = openai_compose,
	.parse = openai_parse,
};
