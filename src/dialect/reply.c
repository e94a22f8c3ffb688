/*
 * reply.c
 *	  What all dialects need to read a response.
 *
 * The order of questions is the same everywhere. Is it JSON? Is it an error,
 * by its status or by what it says? Only then the dialect looks for the parts
 * of an answer, and reply_conclude() judges them: no answer without a finish
 * reason that is known to mean one.
 */
#include "postgres.h"

#include "common.h"

#define MAX_EXCERPT 200			/* bytes of a body that cannot be read */
#define MAX_TOKENS PG_INT32_MAX

/* Where the name of a request stands that a vendor's support asks for. */
static const char *const request_id_headers[] = {
	"x-request-id",
	"request-id",
	"apim-request-id",
	"x-ms-request-id",
};

/* Returns a number of tokens, or -1 when it is none that can be. */
int64
token_count(const JsonNode *node)
{
	int64		count = json_int(node, -1);

	return count >= 0 && count <= MAX_TOKENS ? count : -1;
}

/* Finds the name of a request in the headers. */
static const char *
find_request_id(const HttpResponse *resp)
{
	for (size_t i = 0; i < lengthof(request_id_headers); i++)
	{
		char	   *id = http_header(resp, request_id_headers[i]);

		if (id && *id)
			return clean_text(id, strlen(id), 100, false);
	}
	return NULL;
}

/* Says that a response cannot be read, and what is wrong with it. */
void
reply_garbage(Reply *out, const char *what)
{
	out->kind = REPLY_GARBAGE;
	out->error_text = what;
}

/* The same, with the first words of the body. */
static void
garbage_with_excerpt(const HttpResponse *resp, const char *why, Reply *out)
{
	const char *words = clean_text(resp->body, resp->body_len, MAX_EXCERPT,
								   true);

	reply_garbage(out, *words ? psprintf("the response %s: %s", why, words) :
				  psprintf("the response %s", why));
}

/* Makes a reply of an error body, or of any body of an error status. */
void
reply_error(const HttpResponse *resp, time_t now, const JsonNode *root,
			Reply *out)
{
	out->kind = REPLY_ERROR;
	if (!error_read(root, resp->status, out))
		out->error_text = clean_text(resp->body, resp->body_len,
									 MAX_EXCERPT, true);
	out->retry_after_ms = retry_hint(resp, now, json_get(root, "error"),
									 out->error_text);
}

/*
 * Begins to read a response. Returns the body's tree, or NULL when the reply is
 * finished already: garbage or an error.
 */
const JsonNode *
reply_begin(const HttpResponse *resp, time_t now, Reply *out)
{
	const JsonNode *root;
	const char *why;

	memset(out, 0, sizeof(*out));
	out->input_tokens = out->output_tokens = -1;
	out->cached_tokens = out->reasoning_tokens = -1;
	out->request_id = find_request_id(resp);
	limits_read(resp, now, out);

	root = json_parse(resp->body, resp->body_len, &why);
	if (root == NULL)
	{
		garbage_with_excerpt(resp, why, out);
		out->retry_after_ms = retry_hint(resp, now, NULL, NULL);
		return NULL;
	}
	if (root->kind == JN_ARRAY && error_is_there(root->child))
		root = root->child;		/* Google wraps errors so, here and there */
	if (resp->status / 100 == 2 && !error_is_there(root))
		return root;
	reply_error(resp, now, root, out);
	return NULL;
}

/*
 * Makes a reply of a body that has a good status but not what an answer has
 * (`lacks`: "has no choices"): an error when it has words to say, else garbage.
 */
void
reply_not_an_answer(const HttpResponse *resp, time_t now,
					const JsonNode *root, const char *lacks, Reply *out)
{
	if (error_has_words(root))
		reply_error(resp, now, root, out);
	else
		garbage_with_excerpt(resp, lacks, out);
}

/* Adds an element of tool_calls; what a vendor leaves out is made up. */
void
answer_add_call(AnswerParts *parts, const char *id, const char *name,
				const char *arguments, size_t arguments_len,
				const char *signature)
{
	StringInfo	calls = &parts->calls;

	if (parts->ncalls++ == 0)
		initStringInfo(calls);
	else
		appendStringInfoChar(calls, ',');
	if (id == NULL || *id == '\0')
		id = psprintf("call_%d", parts->ncalls);
	appendStringInfoString(calls, "{\"id\":");
	json_put_cstring(calls, id);
	appendStringInfoString(calls, ",\"type\":\"function\",\"function\":{\"name\":");
	json_put_cstring(calls, name);
	appendStringInfoString(calls, ",\"arguments\":");
	json_put_string(calls, arguments, arguments_len);
	appendStringInfoChar(calls, '}');
	if (signature)
	{
		/* Spelt as Google spells it in its OpenAI-compatible answers. */
		appendStringInfoString(calls,
							   ",\"extra_content\":{\"google\":{\"thought_signature\":");
		json_put_cstring(calls, signature);
		appendStringInfoString(calls, "}}");
	}
	appendStringInfoChar(calls, '}');
}

/* Returns the assistant's message in OpenAI's form. */
static const char *
assistant_message(const AnswerParts *parts, bool has_text)
{
	StringInfoData message;

	initStringInfo(&message);
	appendStringInfoString(&message, "{\"role\":\"assistant\",\"content\":");
	if (has_text)
		json_put_string(&message, parts->text, parts->text_len);
	else
		appendStringInfoString(&message, "null");
	if (parts->ncalls > 0)
	{
		appendStringInfoString(&message, ",\"tool_calls\":[");
		appendBinaryStringInfo(&message, parts->calls.data, parts->calls.len);
		appendStringInfoChar(&message, ']');
	}
	appendStringInfoChar(&message, '}');
	return message.data;
}

/* Looks up a finish reason; of an unknown one nothing good is believed. */
static FinishMeaning
find_meaning(const char *name, const FinishMeaning *meanings, size_t nmeanings)
{
	for (size_t i = 0; i < nmeanings; i++)
		if (strcmp(meanings[i].name, name) == 0)
			return meanings[i];
	return (FinishMeaning) {name, REPLY_CUT, FINISH_NONE};
}

/* Says whether a text has more than blanks. */
static bool
has_words(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (strchr(" \t\r\n", text[i]) == NULL)
			return true;
	return false;
}

/* Fills in an answer, or says that it is empty. */
static void
conclude_answer(Reply *out, const AnswerParts *parts, FinishReason finish)
{
	bool		has_text = has_words(parts->text, parts->text_len);

	if (!has_text && parts->ncalls == 0)
	{
		out->kind = REPLY_EMPTY;
		out->finish = finish;
		out->error_text = finish == FINISH_LENGTH ?
			"no text before the limit of tokens was reached" :
			"the answer is empty";
		return;
	}
	out->kind = REPLY_ANSWER;
	out->error_text = NULL;
	/* Some say stop even though they call tools. */
	out->finish = parts->ncalls > 0 && finish == FINISH_STOP ?
		FINISH_TOOL_CALLS : finish;
	if (has_text)
	{
		out->text = parts->text;
		out->text_len = parts->text_len;
	}
	out->message = assistant_message(parts, has_text);
}

/*
 * Judges the parts of an answer by the vendor's finish reason. An error_text
 * that the dialect has set already is kept, unless it is an answer.
 */
void
reply_conclude(Reply *out, const AnswerParts *parts,
			   const FinishMeaning *meanings, size_t nmeanings)
{
	FinishMeaning meaning;

	if (parts->finish == NULL || parts->finish[0] == '\0')
	{
		out->kind = REPLY_CUT;
		out->error_text = "the answer has no finish reason";
		return;
	}
	meaning = find_meaning(parts->finish, meanings, nmeanings);
	if (meaning.kind == REPLY_ANSWER)
	{
		conclude_answer(out, parts, meaning.finish);
		return;
	}
	out->kind = meaning.kind;
	out->finish = meaning.finish;
	out->error_code = clean_text(parts->finish, strlen(parts->finish),
								 100, false);
	if (out->error_text == NULL)
		out->error_text = psprintf("the answer ended with \"%s\"",
								   out->error_code);
}
