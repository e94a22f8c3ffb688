/*
 * unit_hostile.c
 *	  Strangers' bytes do no harm: cut at every place, and altered at random
 *	  (with a fixed seed), under the sanitizers.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "dialect/dialect.h"

#include "samples.h"
#include "unit.h"

#define ROUNDS 4000				/* a sample */
#define DAY_MS (24 * 60 * 60 * 1000)

static const struct
{
	const Dialect *dialect;
	const char *body;
}			samples[] =
{
	{&openai_dialect, OPENAI_ANSWER},
	{&azure_dialect, OPENAI_ANSWER},
	{&anthropic_dialect, ANTHROPIC_ANSWER},
	{&gemini_dialect, GEMINI_ANSWER},
	{&openai_dialect, "{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"a\\u00e9\\ud83d\\ude00\"}],"
		"\"tool_calls\":[{\"id\":\"i\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}],"
	"\"usage\":{\"prompt_tokens\":1e1,\"completion_tokens\":-0.5}}"},
	{&openai_dialect, "{\"error\":{\"message\":\"try again in 6m0s\",\"type\":\"t\",\"code\":429,\"metadata\":{\"raw\":\"\xC3\xA9\"},"
	"\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\"}}}"},
	{&anthropic_dialect, "{\"content\":[{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"f\",\"input\":{\"a\":[1,2,{}]}}],\"stop_reason\":\"tool_use\"}"},
	{&gemini_dialect, "{\"responseId\":\"r\",\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"f\",\"args\":{\"a\":null}},"
	"\"thoughtSignature\":\"s\"}]},\"finishReason\":\"STOP\"}]}"},
	{&gemini_dialect, "[{\"error\":{\"code\":429,\"message\":\"limit: 0\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"violations\":[{\"quotaId\":\"PerDay\"}]},"
	"{\"retryDelay\":\"1.5s\"},{\"reason\":\"R\",\"metadata\":{\"quota_limit_value\":\"0\"}}]}}]"},
	{&gemini_dialect, "{\"promptFeedback\":{\"blockReason\":\"OTHER\",\"blockReasonMessage\":\"m\"}}"},
};

static const char headers[] = "Retry-After: 17\r\nretry-after-ms: 20\r\n"
	"x-request-id: r\r\nx-ratelimit-reset-tokens: 6m0s\r\n"
	"x-ratelimit-reset: 1763830860000\r\n";

static const char talk[] = "[{\"role\":\"system\",\"content\":\"s\"},"
	"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"t\"},"
	"{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,iVBO\"}},"
	"{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://h/i.gif\"}}]},"
	"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\","
	"\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"},\"extra_content\":{\"google\":{\"thought_signature\":\"s\"}}}]},"
	"{\"role\":\"tool\",\"tool_call_id\":\"i\",\"content\":\"{\\\"r\\\":2}\"}]";

static uint32 seed = 20251122;

/* Returns a number below `end`: xorshift, the same on every machine. */
static size_t
roll(size_t end)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed % end;
}

/* Says whether a text could be shown in a log line. */
static bool
is_clean(const char *text)
{
	size_t		len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if ((unsigned char) text[i] < ' ' || text[i] == 0x7f)
			return false;
	return pg_encoding_verifymbstr(PG_UTF8, text, (int) len) == (int) len;
}

/* What must hold of an answer. */
static void
check_answer(const Reply *reply, const char *body)
{
	JsonNode   *message = reply->message ?
		json_parse(reply->message, strlen(reply->message), NULL) : NULL;
	const char *role = json_text(json_get(message, "role"));
	uint32		needs;

	CHECK(role && strcmp(role, "assistant") == 0, "no message: %s", body);
	CHECK(reply->finish != FINISH_NONE, "no finish reason: %s", body);
	CHECK(reply->error_text == NULL, "an answer and an error: %s", body);
	CHECK(reply->text || json_get(message, "tool_calls"), "nothing: %s", body);
	CHECK(reply->text == NULL || strlen(reply->text) == reply->text_len,
		  "length: %s", body);
	/* It goes back into a history as it is. */
	if (message)
		CHECK(chat_check(json_parse(psprintf("[%s]", reply->message),
									strlen(reply->message) + 2, NULL),
						 &needs) == NULL, "no history: %s", reply->message);
}

/* What must hold of a reply to whatever bytes. */
static void
check_reply(const Reply *reply, const char *body)
{
	CHECK(reply->kind >= REPLY_ANSWER && reply->kind <= REPLY_GARBAGE,
		  "kind %d: %s", reply->kind, body);
	CHECK(reply->retry_after_ms >= 0 && reply->retry_after_ms <= DAY_MS,
		  "retry after %lld: %s", (long long) reply->retry_after_ms, body);
	CHECK(reply->input_tokens >= -1 && reply->output_tokens >= -1 &&
		  reply->cached_tokens >= -1 && reply->reasoning_tokens >= -1,
		  "tokens: %s", body);
	if (reply->kind == REPLY_ANSWER)
		check_answer(reply, body);
	else
		CHECK(reply->text == NULL && reply->error_text &&
			  *reply->error_text && is_clean(reply->error_text),
			  "no reason, or a dirty one: %s", body);
	CHECK(reply->error_code == NULL || is_clean(reply->error_code),
		  "code: %s", body);
	CHECK(reply->request_id == NULL || is_clean(reply->request_id),
		  "request id: %s", body);
}

/* Parses bytes that end where their memory ends. */
static void
parse(const Dialect *dialect, int status, const char *body, size_t len,
	  const char *head, size_t head_len, Reply *out)
{
	HttpResponse resp = {.status = status, .body_len = len,
	.headers_len = head_len};
	char	   *copy = palloc(len + 1);

	memcpy(copy, body, len);
	copy[len] = '\0';
	resp.body = copy;
	resp.headers = unit_exact_copy(head, head_len);
	dialect->parse(&resp, 1763830800, out);
	check_reply(out, copy);
}

/* A body cut short is never an answer, wherever it is cut. */
static void
test_cut(void)
{
	for (size_t i = 0; i < lengthof(samples); i++)
	{
		const char *body = samples[i].body;
		size_t		whole = strrchr(body, '}') - body + 1;
		Reply		reply;

		for (size_t len = 0; len < whole; len++)
		{
			parse(samples[i].dialect, 200, body, len, "", 0, &reply);
			CHECK(reply.kind == REPLY_GARBAGE, "kind %d of: %.*s", reply.kind,
				  (int) len, body);
			unit_forget();
		}
	}
}

/* Alters a text in one to four places. Returns its new length. */
static size_t
alter(char *text, size_t len)
{
	static const char spice[] = "{}[]\",:\\u0-9e.nft \n\x7f\x80\xC3\xED\xFF";

	for (size_t n = 1 + roll(4); n > 0 && len > 1; n--)
	{
		size_t		at = roll(len);
		size_t		run = 1 + roll(12);

		run = Min(run, len - at);
		switch (roll(4))
		{
			case 0:				/* another byte */
				text[at] = (char) roll(256);
				break;
			case 1:				/* a byte that means something */
				text[at] = spice[roll(sizeof(spice))];
				break;
			case 2:				/* something is missing */
				memmove(text + at, text + at + run, len - at - run);
				len -= run;
				break;
			default:			/* something is there twice */
				memmove(text + at, text + roll(len - run + 1), run);
				break;
		}
	}
	return len;
}

/* Responses altered at random, with all kinds of status. */
static void
test_altered_responses(void)
{
	static const int statuses[] = {200, 200, 200, 429, 500, 0};

	for (size_t i = 0; i < lengthof(samples); i++)
	{
		for (int round = 0; round < ROUNDS; round++)
		{
			char	   *body = pstrdup(samples[i].body);
			char	   *head = pstrdup(headers);
			size_t		len = alter(body, strlen(body));
			size_t		head_len = alter(head, strlen(head));
			Reply		reply;

			parse(samples[i].dialect, statuses[roll(lengthof(statuses))],
				  body, len, head, head_len, &reply);
			unit_forget();
		}
	}
}

/* Messages altered at random: refused, or sent as JSON. */
static void
test_altered_messages(void)
{
	static const Dialect *const dialects[] = {
		&openai_dialect, &azure_dialect, &anthropic_dialect, &gemini_dialect,
	};
	int			sent = 0;

	for (int round = 0; round < ROUNDS * 5; round++)
	{
		const Dialect *dialect = dialects[round % lengthof(dialects)];
		char	   *text = pstrdup(talk);
		ChatRequest chat = {.max_tokens = 7};
		Endpoint	endpoint = {.base_url = "https://h", .model = "m",
		.capabilities = roll(2) ? CAP_SYSTEM : 0};
		HttpRequest req;

		chat.messages = json_parse(text, alter(text, strlen(text)), NULL);
		chat.params = json_at(chat.messages, (int) roll(4));
		if (chat_check(chat.messages, &chat.needs) == NULL &&
			build(dialect, &chat, &endpoint, &req) == NULL)
		{
			sent++;
			CHECK(json_parse(req.body.data, req.body.len, NULL) != NULL,
				  "not JSON: %s", req.body.data);
			CHECK(chat_last_user_text(chat.messages) != NULL, "no text");
		}
		unit_forget();
	}
	CHECK(sent > ROUNDS / 10, "only %d were sent", sent);
}

/* Bodies made to be expensive. */
static void
test_expensive(void)
{
	static const struct
	{
		const char *open;
		const char *fill;
		const char *close;
	}			shapes[] =
	{
		{"", "[", ""},
		{"", "{\"error\":", ""},
		{"{\"error\":{\"message\":\"", "try again in 1s ", "\"}}"},
		{"{\"error\":{\"message\":\"", "retry ", "\"}}"},
		{"{\"error\":[", "[],", "[]]}"},
		{"{\"choices\":[", "{\"message\":{}},", "{}]}"},
		{"{", "\"error\":{\"message\":\"x\"},", "\"a\":1}"},
		{"", "<", ""},
		{"", "<>", ""},
		{"", "\x80", ""},
		{"", " ", ""},
		{"\"", "\\ud83d\\ude00", "\""},
	};

	for (size_t i = 0; i < lengthof(shapes); i++)
	{
		StringInfoData body;
		Reply		reply;

		initStringInfo(&body);
		appendStringInfoString(&body, shapes[i].open);
		while (body.len < 2 * 1024 * 1024)
			appendStringInfoString(&body, shapes[i].fill);
		appendStringInfoString(&body, shapes[i].close);
		for (size_t d = 0; d < lengthof(samples); d += 3)
			parse(samples[d].dialect, 500, body.data, body.len, "", 0, &reply);
		unit_forget();
	}
}

void
test_hostile(void)
{
	test_cut();
	test_altered_responses();
	test_altered_messages();
	test_expensive();
}
