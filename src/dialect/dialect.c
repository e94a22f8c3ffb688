/*
 * dialect.c
 *	  The registry, and the words all dialects share.
 */
#include "postgres.h"

#include "dialect.h"

static const Dialect *const dialects[] = {
	&openai_dialect,
	&azure_dialect,
	&anthropic_dialect,
	&gemini_dialect,
};

static const struct
{
	const char *name;
	uint32		bit;
}			capabilities[] =
{
	{"json_schema", CAP_JSON_SCHEMA},
	{"tools", CAP_TOOLS},
	{"images", CAP_IMAGES},
	{"temperature", CAP_TEMPERATURE},
	{"system", CAP_SYSTEM},
	{"embeddings", CAP_EMBEDDINGS},
};

static const char *const finish_names[] = {
	[FINISH_NONE] = NULL,
	[FINISH_STOP] = "stop",
	[FINISH_LENGTH] = "length",
	[FINISH_TOOL_CALLS] = "tool_calls",
	[FINISH_CONTENT_FILTER] = "content_filter",
};

/*
 * What params must not say: what is asked, of whom, how often and in which
 * form it comes back; and anything that could be a key.
 */
static const char *const forbidden_params[] = {
	"model",
	"n",
	"stream",
	"stream_options",
	"messages",
	"contents",
	"prompt",
	"input",
	"key",
	"api_key",
	"api-key",
	"apikey",
	"x-api-key",
	"x-goog-api-key",
	"access_token",
	"authorization",
	"proxy-authorization",
};

/* Returns the dialect of that name, or NULL. */
const Dialect *
dialect_find(const char *name)
{
	for (size_t i = 0; i < lengthof(dialects); i++)
		if (strcmp(dialects[i]->name, name) == 0)
			return dialects[i];
	return NULL;
}

/* Returns the dialects' names for a hint, palloc'd. */
const char *
dialect_names(void)
{
	StringInfoData names;

	initStringInfo(&names);
	for (size_t i = 0; i < lengthof(dialects); i++)
	{
		if (i > 0)
			appendStringInfoString(&names, ", ");
		appendStringInfoString(&names, dialects[i]->name);
	}
	return names.data;
}

/* Returns a finish reason in OpenAI's word, or NULL when there is none. */
const char *
finish_reason_name(FinishReason finish)
{
	return finish_names[finish];
}

/* Returns the bit of a capability, or 0 when there is none of that name. */
uint32
capability_bit(const char *name)
{
	for (size_t i = 0; i < lengthof(capabilities); i++)
		if (strcmp(capabilities[i].name, name) == 0)
			return capabilities[i].bit;
	return 0;
}

/* Says whether a name in params is one that a caller must not set. */
bool
param_is_forbidden(const char *key)
{
	for (size_t i = 0; i < lengthof(forbidden_params); i++)
		if (pg_strcasecmp(forbidden_params[i], key) == 0)
			return true;
	return false;
}
