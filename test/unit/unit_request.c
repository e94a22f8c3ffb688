/*
 * unit_request.c
 *	  What each dialect sends, to the byte.
 */
#include "postgres.h"

#include "dialect/dialect.h"

#include "unit.h"

#define ALL (CAP_JSON_SCHEMA | CAP_TOOLS | CAP_IMAGES | CAP_TEMPERATURE | CAP_SYSTEM)
#define MAX_EXTRA 4

/* What a case leaves out is a prompt "Hi" to model "m" with every capability. */
typedef struct Case
{
	const char *name;
	const Dialect *dialect;
	const char *base_url;
	const char *model;
	const char *secret;
	uint32		lacks;			/* capabilities */
	int			max_output_tokens;
	const char *prompt;
	const char *system;
	const char *messages;
	int			max_tokens;
	const char *temperature;
	const char *params[3];		/* region, route, call */
	ExtraHeader extra[MAX_EXTRA];
	const char *why;			/* it cannot be sent, or: */
	const char *url;
	const char *headers;		/* joined by | */
	const char *body;
} Case;

#define TOOL_TALK \
	"[{\"role\":\"user\",\"content\":\"Weather?\"}," \
	"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" \
	"{\"id\":\"functions.w:0\",\"type\":\"function\",\"function\":{\"name\":\"w\",\"arguments\":\"{\\\"c\\\":\\\"Rome\\\"}\"}," \
	"\"extra_content\":{\"google\":{\"thought_signature\":\"Sig=\"}}}," \
	"{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"t\",\"arguments\":\"\"}}]}," \
	"{\"role\":\"tool\",\"tool_call_id\":\"functions.w:0\",\"content\":\"{\\\"deg\\\":20}\"}," \
	"{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":[{\"type\":\"text\",\"text\":\"noon\"}]}," \
	"{\"role\":\"user\",\"content\":\"And?\"}]"

#define IMAGE_TALK \
	"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"See\"}," \
	"{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,iVBO\"}}," \
	"{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y.JPG?z\",\"detail\":\"low\"}}]}]"

#define SYSTEM_TALK \
	"[{\"role\":\"system\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"1\"}," \
	"{\"role\":\"user\",\"content\":\"2\"},{\"role\":\"assistant\",\"content\":\"3\"}," \
	"{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"B\"}]},{\"role\":\"user\",\"content\":\"\"}]"

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define HI_BLOCKS "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}]}]"
#define HI_PARTS "\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"Hi\"}]}]"
#define ROME "{\\\"c\\\":\\\"Rome\\\"}"
#define VERSION "anthropic-version: 2023-06-01"

static const Case cases[] = {
	/* openai */
	{"the vendor's own", &openai_dialect, .model = "gpt-5", .secret = "sk-1",
		.max_tokens = 50, .temperature = "0.7", .system = "Be \"brief\".",
		.url = "https://api.openai.com/v1/chat/completions",
		.headers = "Authorization: Bearer sk-1",
		.body = "{\"model\":\"gpt-5\",\"messages\":[{\"role\":\"system\",\"content\":\"Be \\\"brief\\\".\"},"
	"{\"role\":\"user\",\"content\":\"Hi\"}],\"max_completion_tokens\":50,\"temperature\":0.7}"},
	{"a region of the vendor's", &openai_dialect, .max_tokens = 5,
		.base_url = "https://EU.API.OpenAI.com:443/v1",
		.url = "https://EU.API.OpenAI.com:443/v1/chat/completions", .headers = "",
	.body = "{\"model\":\"m\"," HI ",\"max_completion_tokens\":5}"},
	{"somebody else's, no key", &openai_dialect, .max_tokens = 5,
		.base_url = "http://localhost:11434/v1",
		.url = "http://localhost:11434/v1/chat/completions", .headers = "",
	.body = "{\"model\":\"m\"," HI ",\"max_tokens\":5}"},
	{"a reasoning model at somebody else's", &openai_dialect, .max_tokens = 5,
		.base_url = "https://openrouter.ai/api/v1", .model = "openai/gpt-5-mini",
		.url = "https://openrouter.ai/api/v1/chat/completions",
	.body = "{\"model\":\"openai/gpt-5-mini\"," HI ",\"max_completion_tokens\":5}"},
	{"a model that only begins alike", &openai_dialect, .max_tokens = 5,
		.base_url = "https://openrouter.ai/api/v1", .model = "gpt-4o",
		.url = "https://openrouter.ai/api/v1/chat/completions",
	.body = "{\"model\":\"gpt-4o\"," HI ",\"max_tokens\":5}"},
	{"not the vendor, only alike", &openai_dialect, .max_tokens = 5,
		.base_url = "https://notopenai.com/v1",
	.body = "{\"model\":\"m\"," HI ",\"max_tokens\":5}"},
	{"not the vendor, in the path", &openai_dialect, .max_tokens = 5,
		.base_url = "https://proxy/api.openai.com",
	.body = "{\"model\":\"m\"," HI ",\"max_tokens\":5}"},
	{"no more than the model can do", &openai_dialect, .max_tokens = 500,
		.max_output_tokens = 100,
	.body = "{\"model\":\"m\"," HI ",\"max_completion_tokens\":100}"},
	{"a model's limit alone is not sent", &openai_dialect,
		.max_output_tokens = 100,
	.body = "{\"model\":\"m\"," HI "}"},
	{"control characters and a model's name", &openai_dialect,
		.model = "a/\"b\"", .prompt = "x\n\001\xE2\x82\xAC",
		.body = "{\"model\":\"a/\\\"b\\\"\",\"messages\":[{\"role\":\"user\","
	"\"content\":\"x\\n\\u0001\xE2\x82\xAC\"}]}"},
	{"params, layer over layer", &openai_dialect,
		.params = {"{\"a\":1,\"b\":1,\"c\":1,\"d\":1}",
			"{\"b\":{\"x\":2},\"c\":2,\"e\":2}",
		"{\"c\":3,\"e\":null,\"f\":\"\\n\"}"},
		.body = "{\"model\":\"m\"," HI ",\"c\":3,\"f\":\"\\n\",\"b\":{\"x\":2},"
	"\"a\":1,\"d\":1}"},
	{"forbidden params", &openai_dialect,
		.params = {"{\"model\":\"x\",\"n\":5,\"stream\":true,\"Api_Key\":\"k\"}",
			"{\"messages\":[],\"top_p\":0.5,\"stream_options\":{}}",
		"{\"authorization\":\"k\",\"key\":1,\"prompt\":\"x\"}"},
	.body = "{\"model\":\"m\"," HI ",\"top_p\":0.5}"},
	{"a key that is there twice", &openai_dialect,
		.params = {NULL, NULL, "{\"a\":1,\"a\":2}"},
	.body = "{\"model\":\"m\"," HI ",\"a\":2}"},
	{"arguments win over params", &openai_dialect, .max_tokens = 5,
		.temperature = "0",
		.params = {"{\"max_tokens\":9}", "{\"max_completion_tokens\":8}",
		"{\"temperature\":1}"},
		.body = "{\"model\":\"m\"," HI ",\"max_completion_tokens\":5,"
	"\"temperature\":0}"},
	{"params without arguments", &openai_dialect,
		.params = {"{\"max_tokens\":9,\"temperature\":1}"},
	.body = "{\"model\":\"m\"," HI ",\"max_tokens\":9,\"temperature\":1}"},
	{"no temperature", &openai_dialect, .lacks = CAP_TEMPERATURE,
		.temperature = "0.5", .params = {"{\"temperature\":1}"},
	.body = "{\"model\":\"m\"," HI "}"},
	{"no temperature in params either", &openai_dialect,
		.lacks = CAP_TEMPERATURE, .params = {"{\"temperature\":1,\"seed\":2}"},
	.body = "{\"model\":\"m\"," HI ",\"seed\":2}"},
	{"no system", &openai_dialect, .lacks = CAP_SYSTEM, .system = "S",
		.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\","
	"\"content\":\"S\\n\\nHi\"}]}"},
	{"messages, as they are", &openai_dialect,
		.messages = "[ {\"role\" : \"developer\", \"content\":\"A\", \"name\":\"x\"} ]",
		.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\","
	"\"content\":\"A\",\"name\":\"x\"}]}"},
	{"developer is unknown elsewhere", &openai_dialect,
		.base_url = "http://h/v1",
		.messages = "[{\"role\":\"developer\",\"content\":\"A\"}]",
		.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"system\","
	"\"content\":\"A\"}]}"},
	{"messages and system", &openai_dialect, .system = "S",
		.messages = "[{\"role\":\"user\",\"content\":\"A\"}]",
		.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"S\"},"
	"{\"role\":\"user\",\"content\":\"A\"}]}"},
	{"messages, no system", &openai_dialect, .lacks = CAP_SYSTEM,
		.messages = SYSTEM_TALK,
		.body = "{\"model\":\"m\",\"messages\":[{\"content\":\"A\\n\\nB\\n\\n1\",\"role\":\"user\"},"
		"{\"role\":\"user\",\"content\":\"2\"},{\"role\":\"assistant\",\"content\":\"3\"},"
	"{\"role\":\"user\",\"content\":\"\"}]}"},
	{"messages with parts, no system", &openai_dialect, .lacks = CAP_SYSTEM,
		.system = "S", .messages = IMAGE_TALK,
		.body = "{\"model\":\"m\",\"messages\":[{\"content\":[{\"type\":\"text\",\"text\":\"S\"},"
		"{\"type\":\"text\",\"text\":\"See\"},"
		"{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,iVBO\"}},"
		"{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y.JPG?z\",\"detail\":\"low\"}}],"
	"\"role\":\"user\"}]}"},
	{"only the system speaks, no system", &openai_dialect, .lacks = CAP_SYSTEM,
		.messages = "[{\"role\":\"system\",\"content\":\"A\"}]",
	.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"A\"}]}"},
	{"tools, without Google's signatures", &openai_dialect,
		.messages = "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\","
		"\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{}}}]}]",
		.body = "{\"model\":\"m\",\"messages\":[{\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\","
	"\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}],\"role\":\"assistant\",\"content\":null}]}"},
	{"tools, with them for Google", &openai_dialect,
		.base_url = "https://generativelanguage.googleapis.com/v1beta/openai",
		.messages = "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\","
		"\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{}}}]}]",
		.body = "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\","
	"\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{}}}]}]}"},
	{"more headers", &openai_dialect, .secret = "sk-1",
		.extra = {{"OpenAI-Project", "p"}, {"X-Team", "t"}},
	.headers = "Authorization: Bearer sk-1|OpenAI-Project: p|X-Team: t"},
	{"a header instead of ours", &openai_dialect, .secret = "sk-1",
		.extra = {{"authorization", "Basic x"}},
	.headers = "authorization: Basic x"},
	{"a header that breaks out", &openai_dialect,
		.extra = {{"X-Team", "a\r\nX-Evil: b"}},
	.why = "the header \"X-Team\" has a control character, or there are too many"},
	{"a key that breaks out", &openai_dialect, .secret = "sk\nX-Evil: b",
	.why = "the header \"Authorization\" has a control character"},

	/* azure */
	{"a deployment", &azure_dialect, .model = "my dep/1", .secret = "k",
		.base_url = "https://r.openai.azure.com", .max_tokens = 5,
		.url = "https://r.openai.azure.com/openai/deployments/my%20dep%2F1"
		"/chat/completions?api-version=2024-10-21",
		.headers = "api-key: k",
	.body = "{" HI ",\"max_completion_tokens\":5}"},
	{"another version", &azure_dialect,
		.base_url = "https://r.openai.azure.com/openai",
		.params = {"{\"api-version\":\"2025-04-01-preview&x\"}"},
		.url = "https://r.openai.azure.com/openai/deployments/m/chat/completions"
		"?api-version=2025-04-01-preview%26x",
	.body = "{" HI "}"},
	{"the newer path", &azure_dialect, .secret = "k",
		.base_url = "https://r.openai.azure.com/openai/v1",
		.url = "https://r.openai.azure.com/openai/v1/chat/completions",
		.headers = "api-key: k",
	.body = "{\"model\":\"m\"," HI "}"},
	{"the newer path, by the other dialect", &openai_dialect, .secret = "k",
		.base_url = "https://r.openai.azure.com/openai/v1", .max_tokens = 5,
		.headers = "Authorization: Bearer k",
	.body = "{\"model\":\"m\"," HI ",\"max_completion_tokens\":5}"},
	{"a token of Entra", &azure_dialect,
		.base_url = "https://r.openai.azure.com",
		.extra = {{"authorization", "Bearer e"}},
	.headers = "authorization: Bearer e"},

	/* anthropic */
	{"the vendor's own", &anthropic_dialect, .secret = "sk-ant",
		.model = "claude-opus-4-6", .system = "S", .max_tokens = 5,
		.temperature = "1.5",
		.url = "https://api.anthropic.com/v1/messages",
		.headers = "x-api-key: sk-ant|" VERSION,
		.body = "{\"model\":\"claude-opus-4-6\",\"max_tokens\":5,\"system\":\"S\"," HI_BLOCKS
	",\"temperature\":1}"},
	{"with /v1, and no key", &anthropic_dialect,
		.base_url = "http://h:1/v1", .url = "http://h:1/v1/messages",
		.headers = VERSION,
	.body = "{\"model\":\"m\",\"max_tokens\":4096," HI_BLOCKS "}"},
	{"another version", &anthropic_dialect,
		.extra = {{"Anthropic-Version", "2024-01-01"}, {"anthropic-beta", "b"}},
	.headers = "Anthropic-Version: 2024-01-01|anthropic-beta: b"},
	{"max_tokens of the model", &anthropic_dialect, .max_output_tokens = 777,
	.body = "{\"model\":\"m\",\"max_tokens\":777," HI_BLOCKS "}"},
	{"max_tokens of params", &anthropic_dialect, .max_output_tokens = 777,
		.params = {"{\"max_tokens\":7}", "{\"max_tokens\":8}"},
	.body = "{\"model\":\"m\"," HI_BLOCKS ",\"max_tokens\":8}"},
	{"max_tokens taken away", &anthropic_dialect,
		.params = {"{\"max_tokens\":7}", "{\"max_tokens\":null}"},
	.body = "{\"model\":\"m\",\"max_tokens\":4096," HI_BLOCKS "}"},
	{"params, and their system", &anthropic_dialect,
		.params = {"{\"inference_geo\":\"us\"}",
		"{\"system\":[{\"type\":\"text\",\"text\":\"P\"}]}"},
		.body = "{\"model\":\"m\",\"max_tokens\":4096," HI_BLOCKS
	",\"system\":[{\"type\":\"text\",\"text\":\"P\"}],\"inference_geo\":\"us\"}"},
	{"the call's system wins", &anthropic_dialect, .system = "S",
		.params = {"{\"system\":\"P\"}"},
	.body = "{\"model\":\"m\",\"max_tokens\":4096,\"system\":\"S\"," HI_BLOCKS "}"},
	{"no system, no temperature", &anthropic_dialect, .system = "S",
		.lacks = CAP_SYSTEM | CAP_TEMPERATURE, .temperature = "0.5",
		.body = "{\"model\":\"m\",\"max_tokens\":4096,\"messages\":[{\"role\":\"user\",\"content\":["
	"{\"type\":\"text\",\"text\":\"S\"},{\"type\":\"text\",\"text\":\"Hi\"}]}]}"},
	{"turns", &anthropic_dialect, .messages = SYSTEM_TALK,
		.body = "{\"model\":\"m\",\"max_tokens\":4096,\"system\":\"A\\n\\nB\",\"messages\":["
		"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"1\"},{\"type\":\"text\",\"text\":\"2\"}]},"
	"{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"3\"}]}]}"},
	{"only the system speaks", &anthropic_dialect,
		.messages = "[{\"role\":\"system\",\"content\":\"A\"}]",
		.body = "{\"model\":\"m\",\"max_tokens\":4096,\"messages\":[{\"role\":\"user\",\"content\":["
	"{\"type\":\"text\",\"text\":\"A\"}]}]}"},
	{"nobody says anything", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":\"\"}]",
	.why = "the messages hold nothing to answer"},
	{"tools", &anthropic_dialect, .messages = TOOL_TALK,
		.body = "{\"model\":\"m\",\"max_tokens\":4096,\"messages\":["
		"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Weather?\"}]},"
		"{\"role\":\"assistant\",\"content\":["
		"{\"type\":\"tool_use\",\"id\":\"functions_w_0\",\"name\":\"w\",\"input\":{\"c\":\"Rome\"}},"
		"{\"type\":\"tool_use\",\"id\":\"b\",\"name\":\"t\",\"input\":{}}]},"
		"{\"role\":\"user\",\"content\":["
		"{\"type\":\"tool_result\",\"tool_use_id\":\"functions_w_0\",\"content\":\"{\\\"deg\\\":20}\"},"
		"{\"type\":\"tool_result\",\"tool_use_id\":\"b\",\"content\":\"noon\"},"
	"{\"type\":\"text\",\"text\":\"And?\"}]}]}"},
	{"arguments that are none", &anthropic_dialect,
		.messages = "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}]",
	.why = "the arguments of a tool call are not a JSON object"},
	{"images", &anthropic_dialect, .messages = IMAGE_TALK,
		.body = "{\"model\":\"m\",\"max_tokens\":4096,\"messages\":[{\"role\":\"user\",\"content\":["
		"{\"type\":\"text\",\"text\":\"See\"},"
		"{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"iVBO\"}},"
	"{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x/y.JPG?z\"}}]}]}"},
	{"an image from elsewhere", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}]}]",
	.why = "an image must have a data:, https: or http: URL"},
	{"an image that is not base64", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/svg+xml,<svg/>\"}}]}]",
	.why = "a data: URL of an image must have a media type and be base64"},
	{"an image cut short", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:x,\"}}]}]",
	.why = "a data: URL of an image must have a media type and be base64"},
	{"an image cut shorter", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}]}]",
	.why = "a data: URL of an image must have a media type and be base64"},
	{"sound", &anthropic_dialect,
		.messages = "[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{}}]}]",
	.why = "this dialect has no content of type \"input_audio\""},

	/* gemini */
	{"the vendor's own", &gemini_dialect, .model = "gemini-2.5-flash",
		.secret = "AIza", .system = "S", .max_tokens = 5, .temperature = "0.25",
		.url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
		.headers = "x-goog-api-key: AIza",
		.body = "{" HI_PARTS ",\"systemInstruction\":{\"parts\":[{\"text\":\"S\"}]},"
	"\"generationConfig\":{\"maxOutputTokens\":5,\"temperature\":0.25}}"},
	{"no version, a strange model", &gemini_dialect, .model = "a b/c:d",
		.base_url = "http://127.0.0.1:8080",
		.url = "http://127.0.0.1:8080/v1beta/models/a%20b%2Fc%3Ad:generateContent",
	.body = "{" HI_PARTS ",\"generationConfig\":{}}"},
	{"a model of one's own", &gemini_dialect, .model = "tunedModels/mine",
	.url = "https://generativelanguage.googleapis.com/v1beta/tunedModels/mine:generateContent"},
	{"Vertex", &gemini_dialect, .secret = "ya29.t",
		.base_url = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google",
		.url = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google/models/m:generateContent",
	.headers = "Authorization: Bearer ya29.t"},
	{"generationConfig is merged", &gemini_dialect, .max_tokens = 5,
		.params = {"{\"generationConfig\":{\"topK\":1}}",
			"{\"generationConfig\":{\"topP\":0.5,\"maxOutputTokens\":9,\"candidateCount\":3,\"temperature\":1}}",
		"{\"safetySettings\":[]}"},
		.body = "{" HI_PARTS ",\"generationConfig\":{\"maxOutputTokens\":5,\"topP\":0.5,"
	"\"temperature\":1},\"safetySettings\":[]}"},
	{"generation_config is, too", &gemini_dialect, .temperature = "0",
		.params = {"{\"generation_config\":{\"top_k\":1,\"temperature\":1,\"candidate_count\":2}}"},
	.body = "{" HI_PARTS ",\"generationConfig\":{\"temperature\":0,\"top_k\":1}}"},
	{"contents are forbidden", &gemini_dialect,
		.params = {"{\"contents\":[],\"cachedContent\":\"c\"}"},
	.body = "{" HI_PARTS ",\"generationConfig\":{},\"cachedContent\":\"c\"}"},
	{"no system, no temperature", &gemini_dialect, .system = "S",
		.lacks = CAP_SYSTEM | CAP_TEMPERATURE, .temperature = "0.5",
		.body = "{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"S\"},{\"text\":\"Hi\"}]}],"
	"\"generationConfig\":{}}"},
	{"turns", &gemini_dialect, .messages = SYSTEM_TALK,
		.body = "{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"1\"},{\"text\":\"2\"}]},"
		"{\"role\":\"model\",\"parts\":[{\"text\":\"3\"}]}],"
	"\"systemInstruction\":{\"parts\":[{\"text\":\"A\\n\\nB\"}]},\"generationConfig\":{}}"},
	{"tools", &gemini_dialect, .messages = TOOL_TALK,
		.body = "{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"Weather?\"}]},"
		"{\"role\":\"model\",\"parts\":["
		"{\"functionCall\":{\"name\":\"w\",\"args\":{\"c\":\"Rome\"}},\"thoughtSignature\":\"Sig=\"},"
		"{\"functionCall\":{\"name\":\"t\",\"args\":{}}}]},"
		"{\"role\":\"user\",\"parts\":["
		"{\"functionResponse\":{\"name\":\"w\",\"response\":{\"deg\":20}}},"
		"{\"functionResponse\":{\"name\":\"t\",\"response\":{\"result\":\"noon\"}}},"
	"{\"text\":\"And?\"}]}],\"generationConfig\":{}}"},
	{"a result of no call", &gemini_dialect,
		.messages = "[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"1\"}]",
	.why = "a tool message answers no earlier tool call"},
	{"images", &gemini_dialect, .messages = IMAGE_TALK,
		.body = "{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"See\"},"
		"{\"inlineData\":{\"mimeType\":\"image/png\",\"data\":\"iVBO\"}},"
		"{\"fileData\":{\"mimeType\":\"image/jpeg\",\"fileUri\":\"https://x/y.JPG?z\"}}]}],"
	"\"generationConfig\":{}}"},
};

static JsonNode *
parse(const char *source)
{
	return source ? json_parse(source, strlen(source), NULL) : NULL;
}

/* Makes what the SQL function would hand down. */
static void
make_chat(const Case *c, ChatRequest *chat)
{
	const char *wrong = NULL;

	memset(chat, 0, sizeof(*chat));
	if (c->messages)
	{
		chat->messages = parse(c->messages);
		wrong = chat_check(chat->messages, &chat->needs);
		CHECK_TEXT(wrong, NULL, c->name);
	}
	else
	{
		const char *prompt = c->prompt ? c->prompt : "Hi";

		chat->prompt_len = strlen(prompt);
		chat->prompt = unit_exact_copy(prompt, chat->prompt_len);
	}
	chat->system = c->system;
	chat->max_tokens = c->max_tokens;
	chat->has_temperature = c->temperature != NULL;
	if (c->temperature)
		chat->temperature = atof(c->temperature);
	chat->params = parse(c->params[2]);
}

/* Makes what the router would hand down. */
static void
make_endpoint(const Case *c, Endpoint *endpoint)
{
	memset(endpoint, 0, sizeof(*endpoint));
	endpoint->base_url = c->base_url ? c->base_url : c->dialect->base_url;
	endpoint->model = c->model ? c->model : "m";
	endpoint->capabilities = ALL & ~c->lacks;
	endpoint->max_output_tokens = c->max_output_tokens;
	endpoint->secret = c->secret;
	endpoint->region_params = parse(c->params[0]);
	endpoint->route_params = parse(c->params[1]);
	endpoint->headers = c->extra;
	while (endpoint->nheaders < MAX_EXTRA && c->extra[endpoint->nheaders].name)
		endpoint->nheaders++;
}

static char *
joined_headers(const HttpRequest *req)
{
	StringInfoData all;

	initStringInfo(&all);
	for (int i = 0; i < req->nheaders; i++)
		appendStringInfo(&all, "%s%s", i ? "|" : "", req->headers[i]);
	return all.data;
}

static void
run_case(const Case *c)
{
	char	   *name = psprintf("%s: %s", c->dialect->name, c->name);
	ChatRequest chat;
	Endpoint	endpoint;
	HttpRequest req;
	const char *why;

	make_chat(c, &chat);
	make_endpoint(c, &endpoint);
	why = build(c->dialect, &chat, &endpoint, &req);
	CHECK_TEXT(why, c->why, name);
	if (why)
		return;
	CHECK(json_parse(req.body.data, req.body.len, NULL) != NULL,
		  "%s: the body is not JSON", name);
	if (c->url)
		CHECK_TEXT(req.url.data, c->url, name);
	if (c->headers)
		CHECK_TEXT(joined_headers(&req), c->headers, name);
	if (c->body)
		CHECK_TEXT(req.body.data, c->body, name);
}

/* More headers than there is room for are no overrun. */
static void
test_too_many_headers(void)
{
	static ExtraHeader extra[HTTP_MAX_HEADERS];
	ChatRequest chat = {.prompt = "Hi", .prompt_len = 2};
	Endpoint	endpoint = {.base_url = "http://h", .model = "m",
		.secret = "k", .nheaders = HTTP_MAX_HEADERS, .headers = extra};
	HttpRequest req;

	for (int i = 0; i < HTTP_MAX_HEADERS; i++)
		extra[i] = (ExtraHeader) {"X-A", "b"};
	CHECK_TEXT(build(&openai_dialect, &chat, &endpoint, &req),
			   "the header \"X-A\" has a control character, or there are too many",
			   "65 headers");
}

/* Ten megabytes of prompt arrive as they are. */
static void
test_large_prompt(void)
{
	static const Dialect *const dialects[] = {
		&openai_dialect, &anthropic_dialect, &gemini_dialect,
	};
	const size_t len = 10 * 1024 * 1024;
	char	   *prompt = palloc(len);

	memset(prompt, 'x', len);
	for (size_t i = 0; i < lengthof(dialects); i++)
	{
		ChatRequest chat = {.prompt = prompt, .prompt_len = len};
		Endpoint	endpoint = {.base_url = "http://h", .model = "m"};
		HttpRequest req;

		CHECK_TEXT(build(dialects[i], &chat, &endpoint, &req), NULL, "large");
		CHECK((size_t) req.body.len > len &&
			  (size_t) req.body.len < len + 200, "%s: %d bytes",
			  dialects[i]->name, req.body.len);
		CHECK(json_parse(req.body.data, req.body.len, NULL) != NULL,
			  "%s: the body is not JSON", dialects[i]->name);
	}
}

void
test_request(void)
{
	for (size_t i = 0; i < lengthof(cases); i++)
	{
		run_case(&cases[i]);
		unit_forget();
	}
	test_too_many_headers();
	test_large_prompt();
}
