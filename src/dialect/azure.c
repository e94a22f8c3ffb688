/*
 * azure.c
 *	  Azure OpenAI: OpenAI's bodies under paths of its own.
 *
 * base_url is the resource, https://NAME.openai.azure.com, and the model is the
 * name of a deployment, which goes into the path. Where base_url ends with
 * /openai/v1 the newer path is used, with the deployment in the body. The key
 * goes into the header api-key; who has an Entra token puts it into the
 * provider's headers as authorization and leaves secret empty.
 *
 * params may set "api-version" (a region's, since versions are a matter of
 * the resource): it goes into the query. The deployment path needs one and has
 * a default, the newer path has none.
 */
#include "postgres.h"

#include "common.h"

/* The last version of the deployment path that is generally available. */
#define AZURE_API_VERSION "2024-10-21"

#define AZURE_CAPABILITIES \
	(CAP_JSON_SCHEMA | CAP_TOOLS | CAP_IMAGES | CAP_TEMPERATURE | CAP_SYSTEM)

/* Says whether the model is named in the body rather than in the URL. */
static bool
is_v1(const Endpoint *endpoint)
{
	return ends_with(endpoint->base_url, "/openai/v1");
}

/* Writes the URL of a deployment, or of the newer path. */
static void
put_url(StringInfo out, const ChatRequest *chat, const Endpoint *endpoint)
{
	const char *base_url = endpoint->base_url;
	const char *version =
		json_text(params_get(chat, endpoint, "api-version"));

	appendStringInfoString(out, base_url);
	if (!is_v1(endpoint))
	{
		if (!ends_with(base_url, "/openai"))
			appendStringInfoString(out, "/openai");
		appendStringInfoString(out, "/deployments/");
		put_percent(out, endpoint->model);
		if (version == NULL)
			version = AZURE_API_VERSION;
	}
	appendStringInfoString(out, "/chat/completions");
	if (version)
	{
		appendStringInfoString(out, "?api-version=");
		put_percent(out, version);
	}
}

/* See dialect.h. */
static const char *
azure_address(const ChatRequest *chat, const Endpoint *endpoint,
			  HttpRequest *out)
{
	const char *why = NULL;

	put_url(&out->url, chat, endpoint);
	if (endpoint->secret)
		why = add_own_header(out, endpoint, "api-key", endpoint->secret);
	if (why == NULL)
		why = add_extra_headers(out, endpoint);
	return why;
}

/* See dialect.h. */
static const char *
azure_compose(const ChatRequest *chat, const Endpoint *endpoint,
			  StringInfo out)
{
	openai_put_body(out, chat, endpoint, is_v1(endpoint), true);
	return NULL;
}

const Dialect azure_dialect = {
	.name = "azure",
	.base_url = NULL,
	.capabilities = AZURE_CAPABILITIES,
	.address = azure_address,
	.compose = azure_compose,
	.parse = openai_parse,
};
