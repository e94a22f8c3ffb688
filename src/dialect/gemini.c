/*
 * gemini.c
 *	  Google's generateContent, on the Gemini API and on Vertex.
 *
 * base_url has the version path,
 * https://generativelanguage.googleapis.com/v1beta; without any path that
 * version is added, as Google's own library does. On Vertex
 * (…-aiplatform.googleapis.com) it ends with /publishers/google, and the key
 * is an OAuth token, sent as a bearer.
 *
 * Models since Gemini 3 want back the signature of the thought that led to a
 * tool call. It travels in the message as Google's OpenAI-compatible answers
 * have it: tool_calls[].extra_content.google.thought_signature.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "common.h"

#define GEMINI_CAPABILITIES \
	(CAP_JSON_SCHEMA | CAP_TOOLS | CAP_IMAGES | CAP_TEMPERATURE | CAP_SYSTEM)

#define FILTERED(name) {name, REPLY_FILTERED, FINISH_CONTENT_FILTER}
#define BROKEN(name) {name, REPLY_GARBAGE, FINISH_NONE}

static const FinishMeaning meanings[] = {
	{"STOP", REPLY_ANSWER, FINISH_STOP},
	{"MAX_TOKENS", REPLY_ANSWER, FINISH_LENGTH},
	FILTERED("SAFETY"),
	FILTERED("RECITATION"),
	FILTERED("LANGUAGE"),
	FILTERED("BLOCKLIST"),
	FILTERED("PROHIBITED_CONTENT"),
	FILTERED("SPII"),
	FILTERED("MODEL_ARMOR"),
	FILTERED("IMAGE_SAFETY"),
	FILTERED("IMAGE_PROHIBITED_CONTENT"),
	FILTERED("IMAGE_RECITATION"),
	BROKEN("MALFORMED_FUNCTION_CALL"),
	BROKEN("MALFORMED_RESPONSE"),
	BROKEN("UNEXPECTED_TOOL_CALL"),
	BROKEN("TOO_MANY_TOOL_CALLS"),
	BROKEN("MISSING_THOUGHT_SIGNATURE"),
	BROKEN("NO_IMAGE"),
	BROKEN("IMAGE_OTHER"),
	BROKEN("OTHER"),
};

/* Writes a part of text. */
static void
put_text(StringInfo out, const char *text, size_t len)
{
	appendStringInfoString(out, "{\"text\":");
	json_put_string(out, text, len);
	appendStringInfoChar(out, '}');
}

/* Writes a part with an image. */
static void
put_image(StringInfo out, const Image *image)
{
	appendStringInfoString(out, image->data ? "{\"inlineData\":{" :
						   "{\"fileData\":{");
	if (image->media_type_len > 0)
	{
		put_key(out, "mimeType");
		json_put_string(out, image->media_type, image->media_type_len);
	}
	put_key(out, image->data ? "data" : "fileUri");
	if (image->data)
		json_put_string(out, image->data, image->data_len);
	else
		json_put_cstring(out, image->url);
	appendStringInfoString(out, "}}");
}

/* See TurnFormat. */
static const char *
put_tool_call(StringInfo out, const JsonNode *call)
{
	const JsonNode *arguments = tool_arguments(call);
	const JsonNode *google = json_get(json_get(call, "extra_content"),
									  "google");
	const char *signature = json_text(json_get(google, "thought_signature"));

	if (arguments == NULL)
		return "the arguments of a tool call are not a JSON object";
	appendStringInfoString(out, "{\"functionCall\":{\"name\":");
	json_put_cstring(out, json_text(json_get(json_get(call, "function"),
											 "name")));
	appendStringInfoString(out, ",\"args\":");
	json_put_raw(out, arguments);
	appendStringInfoChar(out, '}');
	if (signature)
	{
		put_key(out, "thoughtSignature");
		json_put_cstring(out, signature);
	}
	appendStringInfoChar(out, '}');
	return NULL;
}

/*
 * Returns the name of the tool whose call a message answers, or NULL. The
 * latest call before it counts: made-up ids may come again.
 */
static const char *
called_name(const JsonNode *messages, const JsonNode *answer)
{
	const char *id = json_text(json_get(answer, "tool_call_id"));
	const char *name = NULL;

	for (const JsonNode *message = messages->child; message != answer;
		 message = message->next)
	{
		CHECK_FOR_INTERRUPTS();
		for (const JsonNode *call = json_at(json_get(message, "tool_calls"), 0);
			 call; call = call->next)
			if (strcmp(json_text(json_get(call, "id")), id) == 0)
				name = json_text(json_get(json_get(call, "function"), "name"));
	}
	return name;
}

/* See TurnFormat. */
static const char *
put_tool_result(StringInfo out, const JsonNode *messages,
				const JsonNode *message)
{
	const char *name = called_name(messages, message);
	StringInfoData plain;

	if (name == NULL)
		return "a tool message answers no earlier tool call";
	initStringInfo(&plain);
	append_content_text(&plain, json_get(message, "content"));
	appendStringInfoString(out, "{\"functionResponse\":{\"name\":");
	json_put_cstring(out, name);
	appendStringInfoString(out, ",\"response\":");
	/* It must be an object, and becomes one if it is none. */
	if (json_is(json_parse(plain.data, plain.len, NULL), JN_OBJECT))
		appendBinaryStringInfo(out, plain.data, plain.len);
	else
	{
		appendStringInfoString(out, "{\"result\":");
		json_put_string(out, plain.data, plain.len);
		appendStringInfoChar(out, '}');
	}
	appendStringInfoString(out, "}}");
	return NULL;
}

static const TurnFormat turn_format = {
	.open_user = "{\"role\":\"user\",\"parts\":[",
	.open_assistant = "{\"role\":\"model\",\"parts\":[",
	.close = "]}",
	.put_text = put_text,
	.put_image = put_image,
	.put_tool_call = put_tool_call,
	.put_tool_result = put_tool_result,
};

/* Writes the system's text; params' own stays when there is none. */
static void
put_system(StringInfo out, const ChatRequest *chat, TakenKeys *taken)
{
	const char *system = chat_system_text(chat);

	if (system == NULL)
		return;
	put_key(out, "systemInstruction");
	appendStringInfoString(out, "{\"parts\":[");
	put_text(out, system, strlen(system));
	appendStringInfoString(out, "]}");
	take_key(taken, "systemInstruction");
	take_key(taken, "system_instruction");
}

/* Takes both spellings of a key that Google's JSON has. */
static void
take_both(TakenKeys *taken, const char *camel, const char *snake)
{
	take_key(taken, camel);
	take_key(taken, snake);
}

/*
 * Writes generationConfig: the call's max_tokens and temperature over what
 * params say. How many candidates come back is not for params to say.
 */
static void
put_generation_config(StringInfo out, const ChatRequest *chat,
					  const Endpoint *endpoint)
{
	const JsonNode *given = params_get(chat, endpoint, "generationConfig");
	bool		can_heat = (endpoint->capabilities & CAP_TEMPERATURE) != 0;
	int			max_tokens = max_tokens_for(chat, endpoint);
	TakenKeys	taken = {0};

	if (given == NULL)
		given = params_get(chat, endpoint, "generation_config");
	put_key(out, "generationConfig");
	appendStringInfoChar(out, '{');
	take_both(&taken, "candidateCount", "candidate_count");
	if (max_tokens > 0)
	{
		put_key(out, "maxOutputTokens");
		appendStringInfo(out, "%d", max_tokens);
		take_both(&taken, "maxOutputTokens", "max_output_tokens");
	}
	if (chat->has_temperature && can_heat)
		put_temperature(out, chat->temperature);
	if (chat->has_temperature || !can_heat)
		take_key(&taken, "temperature");
	put_members(out, given, &taken);
	appendStringInfoChar(out, '}');
}

/* See dialect.h. */
static const char *
gemini_compose(const ChatRequest *chat, const Endpoint *endpoint,
			   StringInfo out)
{
	bool		system_apart = chat_system_apart(chat, endpoint);
	TakenKeys	taken = {0};
	const char *why;

	take_both(&taken, "generationConfig", "generation_config");
	appendStringInfoChar(out, '{');
	put_key(out, "contents");
	why = put_turns(out, chat, system_apart, &turn_format);
	if (why)
		return why;
	if (system_apart)
		put_system(out, chat, &taken);
	put_generation_config(out, chat, endpoint);
	params_put(out, chat, endpoint, &taken);
	appendStringInfoChar(out, '}');
	return NULL;
}

/* Writes the URL. A model may be named with its collection: tunedModels/x. */
static void
put_url(StringInfo out, const Endpoint *endpoint)
{
	static const char *const collections[] = {"models/", "tunedModels/"};
	const char *model = endpoint->model;
	const char *collection = collections[0];
	const char *host = strstr(endpoint->base_url, "://");

	for (size_t i = 0; i < lengthof(collections); i++)
	{
		size_t		len = strlen(collections[i]);

		if (strncmp(model, collections[i], len) == 0)
		{
			collection = collections[i];
			model += len;
			break;
		}
	}
	appendStringInfoString(out, endpoint->base_url);
	if (host && strchr(host + 3, '/') == NULL)
		appendStringInfoString(out, "/v1beta");
	appendStringInfo(out, "/%s", collection);
	put_percent(out, model);
	appendStringInfoString(out, ":generateContent");
}

/* See dialect.h. */
static const char *
gemini_address(const ChatRequest *chat, const Endpoint *endpoint,
			   HttpRequest *out)
{
	const char *why = NULL;

	(void) chat;
	put_url(&out->url, endpoint);
	if (host_is_below(endpoint->base_url, "googleapis.com") &&
		strstr(endpoint->base_url, "aiplatform.googleapis.com"))
		why = add_bearer(out, endpoint);
	else if (endpoint->secret)
		why = add_own_header(out, endpoint, "x-goog-api-key",
							 endpoint->secret);
	if (why == NULL)
		why = add_extra_headers(out, endpoint);
	return why;
}

/* Returns an id for a call that has none: the same for the same response. */
static const char *
call_id(const JsonNode *root, const JsonNode *call, int position)
{
	const char *id = json_text(json_get(call, "id"));
	const char *response = json_text(json_get(root, "responseId"));

	if (id && *id)
		return id;
	return response ? psprintf("call_%s_%d", response, position) : NULL;
}

/*
 * Takes the parts of an answer: text and calls of functions, not thoughts.
 * False when a call has no name.
 */
static bool
take_parts(AnswerParts *parts, const JsonNode *root, const JsonNode *content)
{
	StringInfoData all;

	initStringInfo(&all);
	for (const JsonNode *part = json_at(json_get(content, "parts"), 0); part;
		 part = part->next)
	{
		const JsonNode *text = json_get(part, "text");
		const JsonNode *call = json_get(part, "functionCall");
		const JsonNode *args = json_get(call, "args");
		const char *name = json_text(json_get(call, "name"));

		if (json_is(text, JN_STRING) &&
			!json_is(json_get(part, "thought"), JN_TRUE))
			appendBinaryStringInfo(&all, text->text, (int) text->text_len);
		if (!json_is(call, JN_OBJECT))
			continue;
		if (name == NULL)
			return false;
		answer_add_call(parts, call_id(root, call, parts->ncalls + 1), name,
						args ? args->raw : "{}", args ? args->raw_len : 2,
						json_text(json_get(part, "thoughtSignature")));
	}
	parts->text = all.data;
	parts->text_len = all.len;
	return true;
}

/* Reads the tokens used. Thoughts are counted beside the candidates. */
static void
take_usage(Reply *out, const JsonNode *usage)
{
	int64		candidates =
		token_count(json_get(usage, "candidatesTokenCount"));
	int64		prompt = token_count(json_get(usage, "promptTokenCount"));
	int64		tools =
		token_count(json_get(usage, "toolUsePromptTokenCount"));

	out->cached_tokens = token_count(json_get(usage,
											  "cachedContentTokenCount"));
	out->reasoning_tokens = token_count(json_get(usage,
												 "thoughtsTokenCount"));
	if (prompt > 0)
		out->input_tokens = prompt + Max(tools, 0);
	if (candidates >= 0 || out->reasoning_tokens > 0)
		out->output_tokens = Max(candidates, 0) +
			Max(out->reasoning_tokens, 0);
}

/* Judges a response without candidates: blocked, empty, or something else. */
static void
judge_no_candidate(const HttpResponse *resp, time_t now, const JsonNode *root,
				   Reply *out)
{
	const JsonNode *feedback = json_get(root, "promptFeedback");
	const char *reason = json_text(json_get(feedback, "blockReason"));
	const char *words = clean_words(json_get(feedback, "blockReasonMessage"));

	if (reason)
	{
		out->kind = REPLY_FILTERED;
		out->finish = FINISH_CONTENT_FILTER;
		out->error_code = clean_text(reason, strlen(reason), 100, false);
		out->error_text = words ? words :
			psprintf("the prompt was blocked: %s", out->error_code);
	}
	else if (json_get(root, "candidates") || json_get(root, "usageMetadata"))
	{
		out->kind = REPLY_EMPTY;
		out->error_text = "the response has no candidate";
	}
	else
		reply_not_an_answer(resp, now, root, "has no candidates", out);
}

/* See dialect.h. */
static void
gemini_parse(const HttpResponse *resp, time_t now, Reply *out)
{
	const JsonNode *root = reply_begin(resp, now, out);
	const JsonNode *candidate = json_at(json_get(root, "candidates"), 0);
	AnswerParts parts = {0};

	if (root == NULL)
		return;
	out->answered_as = json_text(json_get(root, "modelVersion"));
	if (out->request_id == NULL)
		out->request_id = json_text(json_get(root, "responseId"));
	take_usage(out, json_get(root, "usageMetadata"));
	if (!json_is(candidate, JN_OBJECT))
	{
		judge_no_candidate(resp, now, root, out);
		return;
	}
	out->error_text = clean_words(json_get(candidate, "finishMessage"));
	parts.finish = json_text(json_get(candidate, "finishReason"));
	if (take_parts(&parts, root, json_get(candidate, "content")))
		reply_conclude(out, &parts, meanings, lengthof(meanings));
	else
		reply_garbage(out, "a tool call has no name");
}

const Dialect gemini_dialect = {
	.name = "gemini",
	.base_url = "https://generativelanguage.googleapis.com/v1beta",
	.capabilities = GEMINI_CAPABILITIES,
	.address = gemini_address,
	.compose = gemini_compose,
	.parse = gemini_parse,
};
