/*
 * request.c
 *	  What all dialects need to write a request: params, headers, URLs.
 *
 * Precedence. The explicit arguments max_tokens and temperature of a call win
 * over params, whoever wrote those. Among params the call's win over the
 * route's, those over the region's, key by key at the top level; a null takes
 * a key away. Forbidden keys (param_is_forbidden) were refused when the row was
 * written and when the call was made; here they are left out in silence.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "common.h"

#define NLAYERS 3

/* Notes a key that params must not write any more. */
void
take_key(TakenKeys *taken, const char *key)
{
	Assert(taken->nkeys < MAX_TAKEN);
	taken->keys[taken->nkeys++] = key;
}

static bool
is_taken(const TakenKeys *taken, const char *key)
{
	for (int i = 0; i < taken->nkeys; i++)
		if (strcmp(taken->keys[i], key) == 0)
			return true;
	return false;
}

/* Lists the params of a call at an endpoint, the strongest first. */
static void
params_layers(const ChatRequest *chat, const Endpoint *endpoint,
			  const JsonNode *layers[NLAYERS])
{
	layers[0] = chat->params;
	layers[1] = endpoint->route_params;
	layers[2] = endpoint->region_params;
}

/* Returns a param that is in force, or NULL. */
const JsonNode *
params_get(const ChatRequest *chat, const Endpoint *endpoint, const char *key)
{
	const JsonNode *layers[NLAYERS];

	params_layers(chat, endpoint, layers);
	for (int i = 0; i < NLAYERS; i++)
	{
		const JsonNode *found = json_get(layers[i], key);

		if (found)
			return json_is(found, JN_NULL) ? NULL : found;
	}
	return NULL;
}

/* Writes a comma unless this is an object's first member, and a key. */
void
put_key(StringInfo out, const char *key)
{
	if (out->len > 0 && out->data[out->len - 1] != '{')
		appendStringInfoChar(out, ',');
	json_put_cstring(out, key);
	appendStringInfoChar(out, ':');
}

/* Writes the params that are in force as members of the object at hand. */
void
params_put(StringInfo out, const ChatRequest *chat, const Endpoint *endpoint,
		   const TakenKeys *taken)
{
	const JsonNode *layers[NLAYERS];

	params_layers(chat, endpoint, layers);
	for (int i = 0; i < NLAYERS; i++)
	{
		if (!json_is(layers[i], JN_OBJECT))
			continue;
		for (JsonNode *param = layers[i]->child; param; param = param->next)
		{
			CHECK_FOR_INTERRUPTS(); /* a caller may give a million */
			if (params_get(chat, endpoint, param->key) != param ||
				is_taken(taken, param->key) || param_is_forbidden(param->key))
				continue;
			put_key(out, param->key);
			json_put_raw(out, param);
		}
	}
}

/* Writes the members of an object that are not taken. */
void
put_members(StringInfo out, const JsonNode *object, const TakenKeys *taken)
{
	if (!json_is(object, JN_OBJECT))
		return;
	for (JsonNode *member = object->child; member; member = member->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (json_get(object, member->key) != member ||
			is_taken(taken, member->key))
			continue;
		put_key(out, member->key);
		json_put_raw(out, member);
	}
}

/* Writes the member temperature; all dialects call it that. */
void
put_temperature(StringInfo out, double temperature)
{
	put_key(out, "temperature");
	appendStringInfo(out, "%g", temperature);
}

/*
 * Returns how many tokens the call wants at most, or 0 when it does not say.
 * More than the model can do would be refused, and is no reason to fail.
 */
int
max_tokens_for(const ChatRequest *chat, const Endpoint *endpoint)
{
	if (endpoint->max_output_tokens > 0)
		return Min(chat->max_tokens, endpoint->max_output_tokens);
	return chat->max_tokens;
}

/* Writes text for use inside one segment of a path, or in a query. */
void
put_percent(StringInfo out, const char *text)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

	for (; *text; text++)
	{
		if (strchr(plain, *text))
			appendStringInfoChar(out, *text);
		else
			appendStringInfo(out, "%%%02X", (unsigned char) *text);
	}
}

/* Says whether a URL's host is this domain or lies below it. */
bool
host_is_below(const char *url, const char *domain)
{
	const char *host = strstr(url, "://");
	size_t		host_len;
	size_t		len = strlen(domain);

	if (host == NULL)
		return false;
	host += 3;
	host_len = strcspn(host, ":/");
	if (host_len < len ||
		pg_strncasecmp(host + host_len - len, domain, len) != 0)
		return false;
	return host_len == len || host[host_len - len - 1] == '.';
}

/* Says whether a text ends in this way. */
bool
ends_with(const char *text, const char *end)
{
	size_t		text_len = strlen(text);
	size_t		end_len = strlen(end);

	return text_len >= end_len &&
		strcmp(text + text_len - end_len, end) == 0;
}

/* Says whether the provider's headers have one of that name. */
static bool
has_extra_header(const Endpoint *endpoint, const char *name)
{
	for (int i = 0; i < endpoint->nheaders; i++)
		if (pg_strcasecmp(endpoint->headers[i].name, name) == 0)
			return true;
	return false;
}

/*
 * Adds a header of the dialect's own, unless the provider's row has one of
 * that name. NULL, or why not; never with the value.
 */
const char *
add_own_header(HttpRequest *out, const Endpoint *endpoint, const char *name,
			   const char *value)
{
	if (has_extra_header(endpoint, name) ||
		http_add_header(out, name, value))
		return NULL;
	return psprintf("the header \"%s\" has a control character", name);
}

/* Adds the key as a bearer token, when there is one. */
const char *
add_bearer(HttpRequest *out, const Endpoint *endpoint)
{
	if (endpoint->secret == NULL)
		return NULL;
	return add_own_header(out, endpoint, "Authorization",
						  psprintf("Bearer %s", endpoint->secret));
}

/* Adds the headers of the provider's row. NULL, or why not. */
const char *
add_extra_headers(HttpRequest *out, const Endpoint *endpoint)
{
	for (int i = 0; i < endpoint->nheaders; i++)
	{
		const ExtraHeader *header = &endpoint->headers[i];

		if (!http_add_header(out, header->name, header->value))
			return psprintf("the header \"%s\" has a control character, or there are too many",
							header->name);
	}
	return NULL;
}
