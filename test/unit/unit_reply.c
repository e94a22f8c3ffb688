/*
 * unit_reply.c
 *	  What each dialect makes of what came back: answers, and every shape of
 *	  error that was seen in the wild.
 */
#include "postgres.h"

#include "dialect/dialect.h"

#include "samples.h"
#include "unit.h"

#define NOW ((time_t) 1763830800)	/* Sat, 22 Nov 2025 17:00:00 GMT */

/* A string that is not checked. */
static const char any[] = "(any)";

/* Text fields left out must be NULL; numbers are checked when not zero. */
typedef struct Case
{
	const char *name;
	const Dialect *dialect;
	int			status;			/* 0: 200 */
	const char *headers;
	const char *body;
	ReplyKind	kind;
	const char *text;
	const char *message;
	FinishReason finish;
	const char *code;
	const char *type;
	const char *error;
	const char *request_id;
	int64		retry_ms;
} Case;

#define OPENAI(choice) "{\"choices\":[" choice "]}"
#define SAID(content, finish) \
	OPENAI("{\"message\":{\"content\":" content "},\"finish_reason\":" finish "}")
#define CALLS(calls, finish) \
	OPENAI("{\"message\":{\"content\":null,\"tool_calls\":" calls "},\"finish_reason\":" finish "}")
#define CLAUDE(content, stop) "{\"content\":" content ",\"stop_reason\":" stop "}"
#define TEXT_BLOCK "{\"type\":\"text\",\"text\":\"a\"}"
#define GEMINI(parts, finish) \
	"{\"candidates\":[{\"content\":{\"parts\":" parts "},\"finishReason\":" finish "}]}"
#define MESSAGE(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define CALL(id, name, arguments) \
	"{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":\"" arguments "\"}}"
#define CALLED(calls) "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" calls "]}"
#define QUOTA(text, details) \
	"{\"error\":{\"code\":429,\"message\":\"" text "\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[" details "]}}"

static const Case cases[] = {
	/* openai: answers */
	{"an answer", &openai_dialect, .headers = OPENAI_HEADERS,
		.body = OPENAI_ANSWER, .kind = REPLY_ANSWER, .finish = FINISH_STOP,
		.text = "Hello! How can I assist you today?",
		.message = MESSAGE("Hello! How can I assist you today?"),
	.request_id = "req_7d"},
	{"an answer cut at the limit", &openai_dialect,
		.body = SAID("\"a\\n\\\"b\"", "\"length\""), .kind = REPLY_ANSWER,
		.finish = FINISH_LENGTH, .text = "a\n\"b",
	.message = MESSAGE("a\\n\\\"b")},
	{"Mistral's word for it", &openai_dialect,
		.body = SAID("\"a\"", "\"model_length\""), .kind = REPLY_ANSWER,
	.finish = FINISH_LENGTH, .text = "a", .message = MESSAGE("a")},
	{"chunks with thoughts", &openai_dialect,
		.body = SAID("[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"hm\"}]},"
					 "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"reference\",\"text\":\"c\"},7]", "\"stop\""),
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "ab",
	.message = MESSAGE("ab")},
	{"no error is no error", &openai_dialect,
		.body = "{\"error\":null,\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "a",
	.message = MESSAGE("a")},
	{"an empty error is none", &openai_dialect,
		.body = "{\"error\":\"\",\"choices\":[{\"error\":{},\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "a",
	.message = MESSAGE("a")},
	{"tools", &openai_dialect,
		.body = CALLS("[" CALL("c1", "f", "{\\\"x\\\":1}") "," CALL("c2", "g", "") "]", "\"tool_calls\""),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS,
	.message = CALLED(CALL("c1", "f", "{\\\"x\\\":1}") "," CALL("c2", "g", ""))},
	{"tools, and text, and stop", &openai_dialect,
		.body = OPENAI("{\"message\":{\"content\":\"a\",\"tool_calls\":[" CALL("c1", "f", "{}") "]},\"finish_reason\":\"stop\"}"),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS, .text = "a",
	.message = "{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[" CALL("c1", "f", "{}") "]}"},
	{"tools without id, arguments as an object", &openai_dialect,
		.body = CALLS("[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}},{\"function\":{\"name\":\"g\"}}]", "\"tool_calls\""),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS,
	.message = CALLED(CALL("call_1", "f", "{\\\"x\\\":1}") "," CALL("call_2", "g", ""))},
	{"Google's signature is kept", &openai_dialect,
		.body = CALLS("[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},"
					  "\"extra_content\":{\"google\":{\"thought_signature\":\"S=\"}}}]", "\"tool_calls\""),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS,
		.message = CALLED("{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},"
	"\"extra_content\":{\"google\":{\"thought_signature\":\"S=\"}}}")},

	/* openai: a good status, and no answer */
	{"empty", &openai_dialect, .body = SAID("\"\"", "\"stop\""),
	.kind = REPLY_EMPTY, .error = "the answer is empty"},
	{"blank", &openai_dialect, .body = SAID("\" \\n\\t\"", "\"stop\""),
	.kind = REPLY_EMPTY, .error = "the answer is empty"},
	{"null", &openai_dialect, .body = SAID("null", "\"stop\""),
	.kind = REPLY_EMPTY, .error = "the answer is empty"},
	{"all thought, nothing said", &openai_dialect,
		.body = SAID("\"\"", "\"length\""), .kind = REPLY_EMPTY,
		.finish = FINISH_LENGTH,
	.error = "no text before the limit of tokens was reached"},
	{"no finish reason", &openai_dialect, .body = SAID("\"a\"", "null"),
	.kind = REPLY_CUT, .error = "the answer has no finish reason"},
	{"an empty finish reason", &openai_dialect, .body = SAID("\"a\"", "\"\""),
	.kind = REPLY_CUT, .error = "the answer has no finish reason"},
	{"broken off", &openai_dialect, .body = SAID("\"a\"", "\"abort\""),
		.kind = REPLY_CUT, .code = "abort",
	.error = "the answer ended with \"abort\""},
	{"an unknown finish reason", &openai_dialect,
		.body = SAID("\"a\"", "\"ga\\nga\""), .kind = REPLY_CUT,
	.code = "ga ga", .error = "the answer ended with \"ga ga\""},
	{"an error as a finish reason", &openai_dialect,
		.body = SAID("\"a\"", "\"error\""), .kind = REPLY_ERROR,
	.code = "error", .error = "the answer ended with \"error\""},
	{"filtered", &openai_dialect,
		.body = SAID("\"a\"", "\"content_filter\""), .kind = REPLY_FILTERED,
		.finish = FINISH_CONTENT_FILTER, .code = "content_filter",
	.error = "the answer ended with \"content_filter\""},
	{"refused", &openai_dialect,
		.body = OPENAI("{\"message\":{\"content\":null,\"refusal\":\"I cannot.\"},\"finish_reason\":\"stop\"}"),
		.kind = REPLY_FILTERED, .finish = FINISH_CONTENT_FILTER,
	.code = "refusal", .error = "I cannot."},
	{"a refusal beside an answer", &openai_dialect,
		.body = OPENAI("{\"message\":{\"content\":\"a\",\"refusal\":\"I cannot.\"},\"finish_reason\":\"stop\"}"),
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "a",
	.message = MESSAGE("a")},
	{"no choice", &openai_dialect, .body = OPENAI(""), .kind = REPLY_GARBAGE,
	.error = "the response has no choices: {\"choices\":[]}"},
	{"a choice without message", &openai_dialect, .body = OPENAI("{\"index\":0}"),
	.kind = REPLY_GARBAGE, .error = any},
	{"another dialect's answer", &openai_dialect, .body = ANTHROPIC_ANSWER,
	.kind = REPLY_GARBAGE, .error = any},
	{"not even an object", &openai_dialect, .body = "\"hello\"",
	.kind = REPLY_GARBAGE, .error = "the response has no choices: \"hello\""},
	{"a call without name", &openai_dialect,
		.body = CALLS("[{\"id\":\"a\",\"function\":{}}]", "\"tool_calls\""),
	.kind = REPLY_GARBAGE, .error = "a tool call has no name"},
	{"a stream", &openai_dialect, .body = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
		.kind = REPLY_GARBAGE,
	.error = "the response is not JSON at byte 0: data: {\"choices\":[]} data: [DONE]"},
	{"nothing", &openai_dialect, .body = "", .kind = REPLY_GARBAGE,
	.error = "the response is empty"},
	{"an answer with a bad status", &openai_dialect, .status = 500,
	.body = OPENAI_ANSWER, .kind = REPLY_ERROR, .error = any},
	{"an answer with a status of no sense", &openai_dialect, .status = 302,
	.body = OPENAI_ANSWER, .kind = REPLY_ERROR, .error = any},

	/* errors with a good status */
	{"an error that says 200", &openai_dialect,
		.body = "{\"error\":{\"message\":\"Overloaded\",\"type\":\"server_error\",\"code\":503}}",
		.kind = REPLY_ERROR, .code = "503", .type = "server_error",
	.error = "Overloaded"},
	{"OpenRouter, the provider behind it", &openai_dialect,
		.body = "{\"error\":{\"message\":\"Provider returned error\",\"code\":429,"
		"\"metadata\":{\"raw\":\"rate-limited upstream, retry in 7s\",\"provider_name\":\"X\"}}}",
		.kind = REPLY_ERROR, .code = "429",
		.error = "Provider returned error: rate-limited upstream, retry in 7s",
	.retry_ms = 7000},
	{"OpenRouter, midway", &openai_dialect,
		.body = OPENAI("{\"error\":{\"code\":502,\"message\":\"Network connection lost.\"},\"finish_reason\":\"error\",\"message\":{\"content\":\"a\"}}"),
	.kind = REPLY_ERROR, .code = "502", .error = "Network connection lost."},
	{"an error in other words", &openai_dialect,
		.body = "{\"code\":500,\"msg\":\"404 NOT_FOUND\",\"success\":false}",
	.kind = REPLY_ERROR, .code = "500", .error = "404 NOT_FOUND"},
	{"an error that only says so", &openai_dialect, .body = "{\"type\":\"error\"}",
		.kind = REPLY_ERROR, .code = "error", .type = "error",
	.error = "{\"type\":\"error\"}"},

	/* errors, as the vendors write them */
	{"OpenAI, quota", &openai_dialect, .status = 429,
		.body = "{\"error\":{\"message\":\"You exceeded your current quota\",\"type\":\"insufficient_quota\","
		"\"param\":null,\"code\":\"credit_balance_exhausted\"}}",
		.kind = REPLY_ERROR, .code = "credit_balance_exhausted",
	.type = "insufficient_quota", .error = "You exceeded your current quota"},
	{"OpenAI, no code", &openai_dialect, .status = 400,
		.body = "{\"error\":{\"message\":\"Bad\\n\\tthing\\u0007\",\"type\":\"invalid_request_error\",\"param\":\"x\",\"code\":null}}",
		.kind = REPLY_ERROR, .code = "invalid_request_error",
	.type = "invalid_request_error", .error = "Bad thing"},
	{"a number as code, and a type", &openai_dialect, .status = 404,
		.body = "{\"object\":\"error\",\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}",
		.kind = REPLY_ERROR, .code = "NotFoundError", .type = "NotFoundError",
	.error = "The model `x` does not exist."},
	{"a number as code that is no status", &openai_dialect, .status = 429,
		.body = "{\"error\":{\"code\":1113,\"message\":\"Insufficient balance\"}}",
	.kind = REPLY_ERROR, .code = "1113", .error = "Insufficient balance"},
	{"the same, as a string", &openai_dialect, .status = 429,
		.body = "{\"error\":{\"code\":\"1302\",\"message\":\"Rate limit\"}}",
	.kind = REPLY_ERROR, .code = "1302", .error = "Rate limit"},
	{"llama.cpp, loading", &openai_dialect, .status = 503,
		.body = "{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}",
		.kind = REPLY_ERROR, .code = "unavailable_error",
	.type = "unavailable_error", .error = "Loading model"},
	{"Ollama", &openai_dialect, .status = 404,
		.body = "{\"error\":\"model 'x' not found\"}",
	.kind = REPLY_ERROR, .error = "model 'x' not found"},
	{"Mistral", &openai_dialect, .status = 422,
		.body = "{\"object\":\"error\",\"message\":{\"detail\":[{\"type\":\"extra_forbidden\",\"msg\":\"Extra inputs are not permitted\"}]},"
		"\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"3051\"}",
		.kind = REPLY_ERROR, .code = "3051", .type = "invalid_request_error",
	.error = "Extra inputs are not permitted"},
	{"FastAPI", &openai_dialect, .status = 422,
		.body = "{\"detail\":[{\"loc\":[\"body\",\"n\"],\"msg\":\"field required\",\"type\":\"value_error\"}]}",
	.kind = REPLY_ERROR, .error = "field required"},
	{"FastAPI, short", &openai_dialect, .status = 404,
		.body = "{\"detail\":\"Not Found\"}", .kind = REPLY_ERROR,
	.error = "Not Found"},
	{"Cloudflare", &openai_dialect, .status = 400,
		.body = "{\"success\":false,\"errors\":[{\"code\":7003,\"message\":\"No route\"}]}",
	.kind = REPLY_ERROR, .error = "No route"},
	{"no words at all", &openai_dialect, .status = 418,
		.body = "{\"teapot\" : true,\n \"short\": 1}", .kind = REPLY_ERROR,
	.error = "{\"teapot\" : true, \"short\": 1}"},
	{"words that are none", &openai_dialect, .status = 500,
		.body = "{\"error\":{\"message\":\"\\u0001 \",\"code\":\"c\"}}",
		.kind = REPLY_ERROR, .code = "c",
	.error = "{\"error\":{\"message\":\"\\u0001 \",\"code\":\"c\"}}"},
	{"HTML", &openai_dialect, .status = 502,
		.body = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
		"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
		.kind = REPLY_GARBAGE,
	.error = "the response is not JSON at byte 0: 502 Bad Gateway 502 Bad Gateway nginx"},
	{"bytes", &openai_dialect, .status = 502, .body = "a\xFF\x01\xC3\xA9<b",
		.kind = REPLY_GARBAGE,
	.error = "the response is not valid UTF-8: a? \xC3\xA9<b"},
	{"Azure, filtered", &azure_dialect, .status = 400,
		.headers = "apim-request-id: az-1\r\n",
		.body = "{\"error\":{\"message\":\"The response was filtered\",\"type\":null,\"param\":\"prompt\",\"code\":\"content_filter\",\"status\":400,"
		"\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\",\"content_filter_result\":{\"hate\":{\"filtered\":true}}}}}",
		.kind = REPLY_ERROR, .code = ERROR_CODE_CONTENT_FILTER,
	.error = "The response was filtered", .request_id = "az-1"},
	{"Azure, filtered, only inside", &azure_dialect, .status = 400,
		.body = "{\"error\":{\"message\":\"No\",\"type\":\"invalid_request_error\",\"code\":\"BadRequest\",\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\"}}}",
		.kind = REPLY_ERROR, .code = ERROR_CODE_CONTENT_FILTER,
	.type = "invalid_request_error", .error = "No"},
	{"Azure, throttled", &azure_dialect, .status = 429,
		.headers = "Retry-After: 1\r\nretry-after-ms: 350\r\n",
		.body = "{\"error\":{\"code\":\"429\",\"message\":\"Requests have exceeded call rate limit. Please retry after 26 seconds.\"}}",
		.kind = REPLY_ERROR, .code = "429", .error = any,
	.retry_ms = 26000},
	{"Azure, no such deployment", &azure_dialect, .status = 404,
		.body = "{\"error\":{\"code\":\"DeploymentNotFound\",\"message\":\"No\"}}",
	.kind = REPLY_ERROR, .code = "DeploymentNotFound", .error = "No"},
	{"Azure, its gateway", &azure_dialect, .status = 401,
		.body = "{ \"statusCode\": 401, \"message\": \"Access denied due to invalid subscription key.\" }",
		.kind = REPLY_ERROR,
	.error = "Access denied due to invalid subscription key."},

	/* anthropic */
	{"an answer", &anthropic_dialect, .headers = "request-id: req_9\r\n",
		.body = ANTHROPIC_ANSWER, .kind = REPLY_ANSWER, .finish = FINISH_STOP,
		.text = "Hi! My name is Claude.",
	.message = MESSAGE("Hi! My name is Claude."), .request_id = "req_9"},
	{"tools", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK ",{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"f\",\"input\":{\"x\": \"\\\"\"}},"
					   "{\"type\":\"server_tool_use\",\"id\":\"s\",\"name\":\"web\",\"input\":{}},{\"type\":\"tool_use\",\"name\":\"g\"}]", "\"tool_use\""),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS, .text = "a",
		.message = "{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":["
	CALL("toolu_1", "f", "{\\\"x\\\": \\\"\\\\\\\"\\\"}") "," CALL("call_2", "g", "{}") "]}"},
	{"the limit", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "\"max_tokens\""),
		.kind = REPLY_ANSWER, .finish = FINISH_LENGTH, .text = "a",
	.message = MESSAGE("a")},
	{"a stop sequence", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "\"stop_sequence\""),
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "a",
	.message = MESSAGE("a")},
	{"refused", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "\"refusal\""),
		.kind = REPLY_FILTERED, .finish = FINISH_CONTENT_FILTER,
	.code = "refusal", .error = "the answer ended with \"refusal\""},
	{"the window is full", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "\"model_context_window_exceeded\""),
		.kind = REPLY_CONTEXT, .code = "model_context_window_exceeded",
	.error = any},
	{"a pause", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "\"pause_turn\""), .kind = REPLY_CUT,
	.code = "pause_turn", .error = any},
	{"no stop reason", &anthropic_dialect,
		.body = CLAUDE("[" TEXT_BLOCK "]", "null"), .kind = REPLY_CUT,
	.error = "the answer has no finish reason"},
	{"only thoughts", &anthropic_dialect,
		.body = CLAUDE("[{\"type\":\"thinking\",\"thinking\":\"a\"}]", "\"end_turn\""),
	.kind = REPLY_EMPTY, .error = "the answer is empty"},
	{"empty", &anthropic_dialect, .body = CLAUDE("[]", "\"end_turn\""),
	.kind = REPLY_EMPTY, .error = "the answer is empty"},
	{"no content", &anthropic_dialect,
		.body = "{\"type\":\"message\",\"stop_reason\":\"end_turn\"}",
	.kind = REPLY_GARBAGE, .error = any},
	{"overloaded", &anthropic_dialect, .status = 529,
		.body = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"},\"request_id\":\"req_1\"}",
		.kind = REPLY_ERROR, .code = "overloaded_error",
	.type = "overloaded_error", .error = "Overloaded", .request_id = "req_1"},
	{"overloaded, with status 200", &anthropic_dialect,
		.body = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
		.kind = REPLY_ERROR, .code = "overloaded_error",
	.type = "overloaded_error", .error = "Overloaded"},
	{"out of money", &anthropic_dialect, .status = 429,
		.body = "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\","
		"\"details\":{\"error_code\":\"enforced_spend_limit_reached\"}}}",
		.kind = REPLY_ERROR, .code = "enforced_spend_limit_reached",
	.type = "rate_limit_error", .error = "m"},
	{"OpenAI's error on Anthropic's route", &anthropic_dialect, .status = 500,
		.body = "{\"error\":{\"code\":500,\"message\":\"slot unavailable\",\"type\":\"server_error\"}}",
		.kind = REPLY_ERROR, .code = "server_error", .type = "server_error",
	.error = "slot unavailable"},

	/* gemini */
	{"an answer", &gemini_dialect, .body = GEMINI_ANSWER, .kind = REPLY_ANSWER,
		.finish = FINISH_STOP, .text = "Paris is it.",
	.message = MESSAGE("Paris is it."), .request_id = "r-17"},
	{"tools", &gemini_dialect,
		.body = "{\"responseId\":\"R\",\"candidates\":[{\"content\":{\"parts\":["
		"{\"functionCall\":{\"name\":\"f\",\"args\":{\"x\":1}},\"thoughtSignature\":\"S=\"},"
		"{\"functionCall\":{\"id\":\"i\",\"name\":\"g\"}}]},\"finishReason\":\"STOP\"}]}",
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS,
		.message = CALLED("{\"id\":\"call_R_1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"},"
						  "\"extra_content\":{\"google\":{\"thought_signature\":\"S=\"}}},"
						  CALL("i", "g", "{}")),
	.request_id = "R"},
	{"tools, no ids anywhere", &gemini_dialect,
		.body = GEMINI("[{\"functionCall\":{\"name\":\"f\"}},{\"functionCall\":{\"name\":\"g\"}}]", "\"STOP\""),
		.kind = REPLY_ANSWER, .finish = FINISH_TOOL_CALLS,
	.message = CALLED(CALL("call_1", "f", "{}") "," CALL("call_2", "g", "{}"))},
	{"the limit", &gemini_dialect,
		.body = GEMINI("[{\"text\":\"a\"}]", "\"MAX_TOKENS\""),
		.kind = REPLY_ANSWER, .finish = FINISH_LENGTH, .text = "a",
	.message = MESSAGE("a")},
	{"words on how it ended", &gemini_dialect,
		.body = "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]},\"finishReason\":\"STOP\",\"finishMessage\":\"Done.\"}]}",
		.kind = REPLY_ANSWER, .finish = FINISH_STOP, .text = "a",
	.message = MESSAGE("a")},
	{"thoughts up to the limit", &gemini_dialect,
		.body = "{\"candidates\":[{\"content\":{\"role\":\"model\"},\"finishReason\":\"MAX_TOKENS\"}]}",
		.kind = REPLY_EMPTY, .finish = FINISH_LENGTH,
	.error = "no text before the limit of tokens was reached"},
	{"unsafe", &gemini_dialect,
		.body = "{\"candidates\":[{\"finishReason\":\"SAFETY\",\"finishMessage\":\"Not\\nthat.\"}]}",
		.kind = REPLY_FILTERED, .finish = FINISH_CONTENT_FILTER,
	.code = "SAFETY", .error = "Not that."},
	{"recited", &gemini_dialect,
		.body = GEMINI("[{\"text\":\"a\"}]", "\"RECITATION\""),
		.kind = REPLY_FILTERED, .finish = FINISH_CONTENT_FILTER,
	.code = "RECITATION", .error = any},
	{"blocked", &gemini_dialect,
		.body = "{\"promptFeedback\":{\"blockReason\":\"PROHIBITED_CONTENT\"},\"usageMetadata\":{\"promptTokenCount\":5}}",
		.kind = REPLY_FILTERED, .finish = FINISH_CONTENT_FILTER,
		.code = "PROHIBITED_CONTENT",
	.error = "the prompt was blocked: PROHIBITED_CONTENT"},
	{"nobody", &gemini_dialect, .body = "{\"usageMetadata\":{\"promptTokenCount\":5}}",
	.kind = REPLY_EMPTY, .error = "the response has no candidate"},
	{"a bad call", &gemini_dialect,
		.body = "{\"candidates\":[{\"finishReason\":\"MALFORMED_FUNCTION_CALL\"}]}",
		.kind = REPLY_GARBAGE, .code = "MALFORMED_FUNCTION_CALL",
	.error = "the answer ended with \"MALFORMED_FUNCTION_CALL\""},
	{"no finish reason", &gemini_dialect,
		.body = "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}",
	.kind = REPLY_CUT, .error = "the answer has no finish reason"},
	{"something else", &gemini_dialect, .body = "{\"hello\":1}",
	.kind = REPLY_GARBAGE, .error = "the response has no candidates: {\"hello\":1}"},
	{"a bad key", &gemini_dialect, .status = 400,
		.body = "{\"error\":{\"code\":400,\"message\":\"API key not valid.\",\"status\":\"INVALID_ARGUMENT\",\"details\":["
		"{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":\"API_KEY_INVALID\",\"domain\":\"googleapis.com\"}]}}",
		.kind = REPLY_ERROR, .code = "API_KEY_INVALID",
	.type = "INVALID_ARGUMENT", .error = "API key not valid."},
	{"in an array", &gemini_dialect, .status = 503,
		.body = "[{\"error\":{\"code\":503,\"message\":\"The model is overloaded.\",\"status\":\"UNAVAILABLE\"}}]",
		.kind = REPLY_ERROR, .code = "UNAVAILABLE", .type = "UNAVAILABLE",
	.error = "The model is overloaded."},
	{"throttled for a minute", &gemini_dialect, .status = 429,
		.body = QUOTA("Please retry in 36.9s.",
					  "{\"violations\":[{\"quotaId\":\"GenerateRequestsPerMinutePerProjectPerModel-FreeTier\",\"quotaValue\":\"10\"}]},"
					  "{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"37s\"}"),
		.kind = REPLY_ERROR, .code = "RESOURCE_EXHAUSTED",
		.type = "RESOURCE_EXHAUSTED", .error = "Please retry in 36.9s.",
	.retry_ms = 37000},
	{"throttled, with a reason", &gemini_dialect, .status = 429,
		.body = QUOTA("Quota exceeded, limit: 0.5", "{\"reason\":\"RATE_LIMIT_EXCEEDED\",\"metadata\":{\"quota_limit_value\":\"60\"}}"),
		.kind = REPLY_ERROR, .code = "RATE_LIMIT_EXCEEDED",
	.type = "RESOURCE_EXHAUSTED", .error = "Quota exceeded, limit: 0.5"},
	{"a quota a day", &gemini_dialect, .status = 429,
		.body = QUOTA("You exceeded your current quota", "{\"violations\":["
					  "{\"quotaId\":\"GenerateRequestsPerMinutePerProjectPerModel-FreeTier\",\"quotaValue\":\"10\"},"
					  "{\"quotaId\":\"GenerateRequestsPerDayPerProjectPerModel-FreeTier\",\"quotaValue\":\"250\"}]}"),
		.kind = REPLY_ERROR, .code = ERROR_CODE_QUOTA_EXHAUSTED,
		.type = "RESOURCE_EXHAUSTED",
	.error = "You exceeded your current quota"},
	{"a quota of nought", &gemini_dialect, .status = 429,
		.body = QUOTA("Quota exceeded for metric: requests, limit: 0, model: gemini-3-pro\\nPlease retry in 11.6s.", ""),
		.kind = REPLY_ERROR, .code = ERROR_CODE_QUOTA_EXHAUSTED,
	.type = "RESOURCE_EXHAUSTED", .error = any, .retry_ms = 11600},
	{"a quota of nought, inside", &gemini_dialect, .status = 429,
		.body = QUOTA("Quota exceeded", "{\"reason\":\"RATE_LIMIT_EXCEEDED\",\"metadata\":{\"quota_limit_value\":\"0\"}}"),
		.kind = REPLY_ERROR, .code = ERROR_CODE_QUOTA_EXHAUSTED,
	.type = "RESOURCE_EXHAUSTED", .error = "Quota exceeded"},
};

static void
parse(const Dialect *dialect, int status, const char *headers,
	  const char *body, Reply *out)
{
	HttpResponse resp = {.status = status ? status : 200};

	resp.body_len = strlen(body);
	resp.body = pnstrdup(body, resp.body_len);
	resp.headers_len = headers ? strlen(headers) : 0;
	resp.headers = unit_exact_copy(headers ? headers : "", resp.headers_len);
	dialect->parse(&resp, NOW, out);
}

/* Compares a field unless any will do. */
static void
check_field(const char *got, const char *want, const char *name,
			const char *field)
{
	if (want != any)
		CHECK_TEXT(got, want, psprintf("%s: %s", name, field));
	else
		CHECK(got != NULL, "%s: no %s", name, field);
}

static void
run_case(const Case *c)
{
	char	   *name = psprintf("%s: %s", c->dialect->name, c->name);
	Reply		reply;

	parse(c->dialect, c->status, c->headers, c->body, &reply);
	CHECK(reply.kind == c->kind, "%s: kind %d, not %d", name, reply.kind,
		  c->kind);
	/* an empty answer tells why it ended, which not every case repeats */
	CHECK(reply.finish == c->finish ||
		  (reply.kind == REPLY_EMPTY && c->finish == FINISH_NONE &&
		   reply.finish == FINISH_STOP), "%s: finish %d, not %d", name,
		  reply.finish, c->finish);
	CHECK(reply.retry_after_ms == c->retry_ms, "%s: retry after %lld ms", name,
		  (long long) reply.retry_after_ms);
	CHECK(reply.text_len == (reply.text ? strlen(reply.text) : 0),
		  "%s: length of text", name);
	check_field(reply.text, c->text, name, "text");
	check_field(reply.message, c->message, name, "message");
	check_field(reply.error_code, c->code, name, "code");
	check_field(reply.error_type, c->type, name, "type");
	check_field(reply.error_text, c->error, name, "error");
	check_field(reply.request_id, c->request_id, name, "request id");
}

/* Tokens: what is in what differs from vendor to vendor. */
static void
test_usage(void)
{
	static const struct
	{
		const char *name;
		const Dialect *dialect;
		const char *body;
		int64		input;
		int64		output;
		int64		cached;
		int64		reasoning;
		const char *answered_as;
	}			usages[] =
	{
		{"openai", &openai_dialect, OPENAI_ANSWER, 19, 10, 4, 3,
		"gpt-4.1-2025-04-14"},
		{"anthropic adds the cache", &anthropic_dialect, ANTHROPIC_ANSWER,
		100, 12, 75, -1, "claude-opus-4-6"},
		{"gemini adds the thoughts", &gemini_dialect, GEMINI_ANSWER,
		8, 35, 2, 30, "gemini-2.5-flash"},
		{"none", &openai_dialect, SAID("\"a\"", "\"stop\""), -1, -1, -1, -1, NULL},
		{"none", &anthropic_dialect, CLAUDE("[" TEXT_BLOCK "]", "\"end_turn\""), -1, -1, -1, -1, NULL},
		{"none", &gemini_dialect, GEMINI("[{\"text\":\"a\"}]", "\"STOP\""), -1, -1, -1, -1, NULL},
		{"nobody counted", &openai_dialect, "{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0},\"choices\":[{\"message\":{}}]}",
		-1, -1, -1, -1, NULL},
		{"nobody counted", &anthropic_dialect, "{\"usage\":{\"input_tokens\":0,\"output_tokens\":0},\"content\":[]}",
		-1, -1, -1, -1, NULL},
		{"nonsense", &openai_dialect, "{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":99999999999,"
			"\"prompt_tokens_details\":[],\"completion_tokens_details\":\"x\"},\"choices\":[{\"message\":{}}]}",
		-1, -1, -1, -1, NULL},
		{"numbers with a point", &openai_dialect, "{\"usage\":{\"prompt_tokens\":5.0,\"completion_tokens\":1e2},\"choices\":[{\"message\":{}}]}",
		5, 100, -1, -1, NULL},
		{"DeepSeek", &openai_dialect, "{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"prompt_cache_hit_tokens\":8},\"choices\":[{\"message\":{}}]}",
		9, 1, 8, -1, NULL},
		{"xAI counts reasoning apart", &openai_dialect, "{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":35,"
			"\"completion_tokens_details\":{\"reasoning_tokens\":20}},\"choices\":[{\"message\":{}}]}",
		10, 25, -1, 20, NULL},
		{"thoughts alone", &gemini_dialect, "{\"usageMetadata\":{\"promptTokenCount\":5,\"thoughtsTokenCount\":7,\"toolUsePromptTokenCount\":2},\"candidates\":[{}]}",
		7, 7, -1, 7, NULL},
	};

	for (size_t i = 0; i < lengthof(usages); i++)
	{
		Reply		reply;

		parse(usages[i].dialect, 200, NULL, usages[i].body, &reply);
		CHECK(reply.input_tokens == usages[i].input &&
			  reply.output_tokens == usages[i].output &&
			  reply.cached_tokens == usages[i].cached &&
			  reply.reasoning_tokens == usages[i].reasoning,
			  "%s, %s: %lld, %lld, %lld, %lld",
			  usages[i].dialect->name, usages[i].name,
			  (long long) reply.input_tokens, (long long) reply.output_tokens,
			  (long long) reply.cached_tokens,
			  (long long) reply.reasoning_tokens);
		CHECK_TEXT(reply.answered_as, usages[i].answered_as, usages[i].name);
	}
}

/* When to ask again. */
static void
test_retry(void)
{
	static const struct
	{
		int			status;
		const char *headers;
		const char *text;
		int64		ms;
	}			hints[] =
	{
		{429, "", "no", 0},
		{503, "Retry-After: 7\r\n", "no", 7000},
		{503, "retry-after: 1.5\r\n", "no", 1500},
		{503, "Retry-After: 0\r\n", "no", 0},
		{503, "Retry-After: -5\r\n", "no", 0},
		{503, "Retry-After: soon\r\n", "no", 0},
		{503, "Retry-After: nan\r\n", "no", 0},
		{503, "Retry-After: inf\r\n", "no", 0},
		{503, "Retry-After:\r\n", "no", 0},
		{503, "Retry-After: Sat, 22 Nov 2025 17:01:30 GMT\r\n", "no", 90000},
		{503, "Retry-After: Saturday, 22-Nov-25 17:01:30 GMT\r\n", "no", 90000},
		{503, "Retry-After: Sat, 22 Nov 2025 16:00:00 GMT\r\n", "no", 0},
		{503, "Retry-After: Sat, 22 Nov 2525 16:00:00 GMT\r\n", "no", 86400000},
		{503, "Retry-After: 2025-11-22T17:01:30Z\r\n", "no", 90000},
		{503, "Retry-After: 2025-11-22T17:01:30\r\n", "no", 90000},
		{503, "Retry-After: 2025-11-22T18:01:30.25+0100\r\n", "no", 90000},
		{503, "Retry-After: 2025-11-22T17:01:30 or so\r\n", "no", 0},
		{503, "Retry-After: 2025-11-22T17:61:30Z\r\n", "no", 0},
		{503, "Retry-After: 99999999\r\n", "no", 86400000},
		{503, "Retry-After: 1e999\r\n", "no", 86400000},
		{429, "Retry-After: 2\r\nretry-after-ms: 2345\r\nx-ms-retry-after-ms: 100\r\n", "no", 2345},
		{429, "x-ms-retry-after-ms: 100\r\n", "no", 100},
		{429, "x-ratelimit-reset-requests: 6m0s\r\n", "no", 360000},
		{429, "x-ratelimit-reset-tokens: 120ms\r\nx-ratelimit-reset-requests: 2m59.56s\r\n", "no", 179560},
		{429, "x-ratelimit-reset-tokens: 9s\r\nx-ratelimit-remaining-tokens: 100\r\n"
		"x-ratelimit-reset-requests: 1s\r\nx-ratelimit-remaining-requests: 0\r\n", "no", 1000},
		{429, "X-RateLimit-Reset: 1763830860000\r\n", "no", 60000},
		{429, "X-RateLimit-Reset: 1763830805\r\n", "no", 5000},
		{429, "X-RateLimit-Reset: 1663830805\r\n", "no", 0},
		{429, "X-RateLimit-Reset: 30\r\n", "no", 30000},
		{429, "ratelimitbysize-reset: 15\r\n", "no", 15000},
		{503, "x-ratelimit-reset-requests: 6m0s\r\n", "no", 0},
		{429, "", "Please try again in 6m0s.", 360000},
		{429, "", "Please try again in 1.5s. Visit us", 1500},
		{429, "", "Try again in 20ms", 20},
		{429, "", "RETRY IN 1 hour", 3600000},
		{429, "", "please retry after 26 seconds.", 26000},
		{429, "", "try again in 2 minutes and pray", 120000},
		{429, "", "try again in 1d", 86400000},
		{429, "", "try again in 3d", 86400000},
		{429, "", "try again in 5", 5000},
		{429, "", "try again in a moment", 0},
		{429, "", "try again in 2s, or retry in 3s", 3000},
		{429, "Retry-After: 9\r\n", "try again in 2s", 9000},
	};

	for (size_t i = 0; i < lengthof(hints); i++)
	{
		char	   *body = psprintf("{\"error\":{\"message\":\"%s\"}}",
									hints[i].text);
		Reply		reply;

		parse(&openai_dialect, hints[i].status, hints[i].headers, body, &reply);
		CHECK(reply.retry_after_ms == hints[i].ms, "%s%s: %lld ms",
			  hints[i].headers, hints[i].text,
			  (long long) reply.retry_after_ms);
	}
}

/* Compares a notice with one whose reset is in milliseconds. */
static void
check_notice(const LimitNotice *got, const LimitNotice *want, const char *what)
{
	Usec		reset = want->reset < 0 ? -1 : want->reset * USEC_MSEC;

	CHECK(got->limit == want->limit && got->remaining == want->remaining &&
		  got->reset == reset, "%s%lld, %lld, %lld us", what,
		  (long long) got->limit, (long long) got->remaining,
		  (long long) got->reset);
}

/* What is left of the owner's limits. */
static void
test_limit_headers(void)
{
	static const struct
	{
		const Dialect *dialect;
		int			status;
		const char *headers;
		LimitNotice requests;	/* the reset in ms */
		LimitNotice tokens;
	}			limits[] =
	{
		{&openai_dialect, 200, OPENAI_HEADERS, {5000, 4999, 12}, {-1, -1, -1}},
		{&openai_dialect, 429, "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 6m0s\r\n"
			"X-RateLimit-Limit-Tokens: 150000\r\nX-RateLimit-Remaining-Tokens: 149984\r\nX-RateLimit-Reset-Tokens: 6.5s\r\n",
		{60, 0, 360000}, {150000, 149984, 6500}},
		{&azure_dialect, 200, "x-ratelimit-remaining-requests: 9\r\nx-ratelimit-remaining-tokens: 890\r\n",
		{-1, 9, -1}, {-1, 890, -1}},
		{&azure_dialect, 500, "x-ratelimit-remaining-requests: 9\r\nx-ratelimit-reset-requests: 10\r\n",
		{-1, 9, 10000}, {-1, -1, -1}},
		{&anthropic_dialect, 200, "anthropic-ratelimit-requests-limit: 50\r\nanthropic-ratelimit-requests-remaining: 49\r\n"
			"anthropic-ratelimit-requests-reset: 2025-11-22T17:00:02Z\r\n"
			"anthropic-ratelimit-tokens-limit: 40000\r\nanthropic-ratelimit-tokens-remaining: 39000\r\n"
			"anthropic-ratelimit-tokens-reset: 2025-11-22T17:01:00Z\r\n"
			"anthropic-ratelimit-input-tokens-remaining: 1\r\nanthropic-ratelimit-output-tokens-remaining: 2\r\n",
		{50, 49, 2000}, {40000, 39000, 60000}},
		{&anthropic_dialect, 529, "anthropic-ratelimit-tokens-remaining: 0\r\nanthropic-ratelimit-tokens-reset: 2025-11-22t19:00:03.999+02:00\r\n",
		{-1, -1, -1}, {-1, 0, 3000}},
		{&anthropic_dialect, 200, "anthropic-ratelimit-tokens-remaining: 0\r\nanthropic-ratelimit-tokens-reset: 2025-11-22T09:30:00-07:30\r\n",
		{-1, -1, -1}, {-1, 0, -1}},	/* now */
		{&openai_dialect, 200, "x-ratelimit-limit: 20\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1763830860000\r\n",
		{20, 0, 60000}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining: 3\r\nx-ratelimit-remaining-requests: 2\r\nx-ratelimit-limit: 5\r\n",
		{-1, 2, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimitbysize-limit-minute: 500000\r\nx-ratelimitbysize-remaining-minute: 499000\r\nratelimitbysize-reset: 15\r\n",
		{-1, -1, -1}, {500000, 499000, 15000}},
		{&gemini_dialect, 200, "", {-1, -1, -1}, {-1, -1, -1}},

		/* What cannot be */
		{&openai_dialect, 200, "x-ratelimit-limit-requests: 60\r\nx-ratelimit-reset-requests: 1s\r\n", {-1, -1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: -1\r\nx-ratelimit-remaining-tokens: nan\r\n", {-1, -1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 2147483648\r\nx-ratelimit-remaining-tokens: 18446744073709551617\r\n", {-1, -1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 1e3\r\nx-ratelimit-remaining-tokens: 0x10\r\n", {-1, -1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests:\r\nx-ratelimit-remaining-tokens: 100, 100;w=60\r\n", {-1, -1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 2147483647\r\nx-ratelimit-limit-requests: inf\r\nx-ratelimit-reset-requests: inf\r\n", {-1, PG_INT32_MAX, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 1\r\nx-ratelimit-limit-requests: -7\r\nx-ratelimit-reset-requests: -5s\r\n", {-1, 1, -1}, {-1, -1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 1e999\r\nx-ratelimit-remaining-tokens: 1\r\nx-ratelimit-reset-tokens: 86401\r\n", {-1, 1, -1}, {-1, 1, -1}},
		{&openai_dialect, 200, "x-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 24h\r\nx-ratelimit-remaining-tokens: 1\r\nx-ratelimit-reset-tokens: soon\r\n", {-1, 1, 86400000}, {-1, 1, -1}},
		{&anthropic_dialect, 200, "anthropic-ratelimit-tokens-remaining: 0\r\nanthropic-ratelimit-tokens-reset: 2525-11-22T17:01:00Z\r\n", {-1, -1, -1}, {-1, 0, -1}},
		{&anthropic_dialect, 200, "anthropic-ratelimit-tokens-remaining: 0\r\nanthropic-ratelimit-tokens-reset: 2025-13-42T17:01:00Z\r\n", {-1, -1, -1}, {-1, 0, -1}},
	};
	static const char *const bodies[] = {OPENAI_ANSWER, "{}", "<h1>Busy</h1>", ""};

	for (size_t i = 0; i < lengthof(limits) * lengthof(bodies); i++)
	{
		size_t		at = i / lengthof(bodies);
		Reply		reply;

		parse(limits[at].dialect, limits[at].status, limits[at].headers,
			  bodies[i % lengthof(bodies)], &reply);
		check_notice(&reply.requests_left, &limits[at].requests,
					 limits[at].headers);
		check_notice(&reply.tokens_left, &limits[at].tokens,
					 limits[at].headers);
	}
}

/* A page of no JSON may have the header, too. */
static void
test_garbage_may_say_when(void)
{
	Reply		reply;

	parse(&gemini_dialect, 503, "Retry-After: 4\r\n", "<h1>Busy</h1>", &reply);
	CHECK(reply.kind == REPLY_GARBAGE && reply.retry_after_ms == 4000,
		  "%lld ms", (long long) reply.retry_after_ms);
}

/* What a message in OpenAI's form is for: it goes back into a request. */
static void
test_message_goes_back(void)
{
	static const char body[] = "{\"responseId\":\"R\",\"candidates\":[{\"content\":{\"parts\":["
		"{\"functionCall\":{\"name\":\"f\",\"args\":{\"x\":1}},\"thoughtSignature\":\"S=\"}]},"
		"\"finishReason\":\"STOP\"}]}";
	static const char back[] = "{\"contents\":[{\"role\":\"model\",\"parts\":["
		"{\"functionCall\":{\"name\":\"f\",\"args\":{\"x\":1}},\"thoughtSignature\":\"S=\"}]}],"
		"\"generationConfig\":{}}";
	Reply		reply;
	char	   *messages;
	ChatRequest chat = {0};
	Endpoint	endpoint = {.base_url = "http://h", .model = "m"};
	HttpRequest req;

	parse(&gemini_dialect, 200, NULL, body, &reply);
	messages = psprintf("[%s]", reply.message);
	chat.messages = json_parse(messages, strlen(messages), NULL);
	CHECK_TEXT(chat_check(chat.messages, &chat.needs), NULL, messages);
	CHECK_TEXT(build(&gemini_dialect, &chat, &endpoint, &req), NULL, messages);
	CHECK_TEXT(req.body.data, back, "the call and its signature");
}

void
test_reply(void)
{
	for (size_t i = 0; i < lengthof(cases); i++)
		run_case(&cases[i]);
	test_usage();
	test_retry();
	test_limit_headers();
	test_garbage_may_say_when();
	test_message_goes_back();
}
