/*
 * unit_chat.c
 *	  What counts as messages, and the words that all dialects share.
 */
#include "postgres.h"

#include "dialect/dialect.h"

#include "unit.h"

static JsonNode *
parse(const char *source)
{
	return json_parse(source, strlen(source), NULL);
}

/* What is refused, and in which words. */
static void
test_refused(void)
{
	static const char not_messages[] =
		"must be an array of objects with role and content";
	static const struct
	{
		const char *messages;
		const char *wrong;
	}			cases[] =
	{
		{"null", not_messages},
		{"{}", not_messages},
		{"\"hello\"", not_messages},
		{"[]", "must not be empty"},
		{"[1]", "must be an array of objects with role and content (message 1)"},
		{"[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\"}]",
		"must be an array of objects with role and content (message 2)"},
		{"[{\"role\":\"user\"}]",
		"must be an array of objects with role and content (message 1)"},
		{"[{\"role\":\"user\",\"content\":null}]",
		"must be an array of objects with role and content (message 1)"},
		{"[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":null}]",
		"must be an array of objects with role and content (message 1)"},
		{"[{\"role\":1,\"content\":\"a\"}]",
		"must be an array of objects with role and content (message 1)"},
		{"[{\"role\":\"bo\\nt\",\"content\":\"a\"}]",
		"must have the role system, developer, user, assistant or tool, not \"bo t\" (message 1)"},
		{"[{\"role\":\"user\",\"content\":7}]",
		"must have a string or an array of parts as content (message 1)"},
		{"[{\"role\":\"user\",\"content\":[]}]",
		"must have a string or an array of parts as content (message 1)"},
		{"[{\"role\":\"user\",\"content\":[\"a\"]}]",
		"must have parts with a type in their content (message 1)"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
		"must have a text in parts of type text (message 1)"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]",
		"must have a url in parts of type image_url (message 1)"},
		{"[{\"role\":\"tool\",\"content\":\"a\"}]",
		"of role tool must have a tool_call_id (message 1)"},
		{"[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}]",
		"must not have tool_calls unless the role is assistant (message 1)"},
		{"[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[]}]",
		"must have a non-empty array as tool_calls (message 1)"},
		{"[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"f\"}}]}]",
		"must have id, function.name and function.arguments (a string) in each of tool_calls (message 1)"},
		{"[{\"role\":\"assistant\",\"content\":[{}],\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}]",
		"must have parts with a type in their content (message 1)"},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		uint32		needs;

		CHECK_TEXT(chat_check(parse(cases[i].messages), &needs),
				   cases[i].wrong, cases[i].messages);
	}
}

/* What passes, what it needs of a model, and what the user said last. */
static void
test_accepted(void)
{
	static const struct
	{
		const char *messages;
		uint32		needs;
		const char *last_user_text;
	}			cases[] =
	{
		{"[{\"role\":\"user\",\"content\":\"a\"}]", 0, "a"},
		{"[{\"role\":\"developer\",\"content\":\"a\"}]", 0, ""},
		{"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},"
			"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"c\"},"
			"{\"type\":\"input_audio\",\"input_audio\":{}},"
		"{\"type\":\"text\",\"text\":\"d\"}]},{\"role\":\"system\",\"content\":\"e\"}]", 0, "c\nd"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y.png\"}}]}]",
		CAP_IMAGES, ""},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"https://x/y.png\"}]}]",
		CAP_IMAGES, ""},
		{"[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}]",
		CAP_TOOLS, ""},
		{"[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"7\"}]",
		CAP_TOOLS, ""},
		{"[{\"role\":\"assistant\",\"content\":null,\"refusal\":\"No.\"}]", 0, ""},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		JsonNode   *messages = parse(cases[i].messages);
		uint32		needs = ~0;

		CHECK_TEXT(chat_check(messages, &needs), NULL, cases[i].messages);
		CHECK(needs == cases[i].needs, "needs %x: %s", needs,
			  cases[i].messages);
		CHECK_TEXT(chat_last_user_text(messages), cases[i].last_user_text,
				   cases[i].messages);
	}
}

/* The registry. */
static void
test_words(void)
{
	static const char *const forbidden[] = {
		"model", "n", "stream", "stream_options", "messages", "contents",
		"prompt", "input", "api_key", "api-key", "apikey", "x-api-key", "key",
		"authorization", "Authorization", "API_KEY",
	};
	static const char *const allowed[] = {
		"temperature", "max_tokens", "top_p", "response_format", "seed",
		"tools", "system", "generationConfig", "inference_geo", "api-version",
		"nn", "",
	};

	CHECK_TEXT(dialect_names(), "openai, azure, anthropic, gemini", "names");
	CHECK(dialect_find("gemini") == &gemini_dialect, "gemini");
	CHECK(dialect_find("Gemini") == NULL, "case matters");
	CHECK(azure_dialect.base_url == NULL, "azure has no public address");
	CHECK_TEXT(finish_reason_name(FINISH_TOOL_CALLS), "tool_calls", "finish");
	CHECK_TEXT(finish_reason_name(FINISH_NONE), NULL, "finish");
	CHECK(capability_bit("images") == CAP_IMAGES, "images");
	CHECK(capability_bit("image") == 0, "no such capability");
	for (size_t i = 0; i < lengthof(forbidden); i++)
		CHECK(param_is_forbidden(forbidden[i]), "%s", forbidden[i]);
	for (size_t i = 0; i < lengthof(allowed); i++)
		CHECK(!param_is_forbidden(allowed[i]), "%s", allowed[i]);
}

void
test_chat(void)
{
	test_refused();
	test_accepted();
	test_words();
}
