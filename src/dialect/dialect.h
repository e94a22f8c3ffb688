/*
 * dialect.h
 *	  What every provider dialect can do: bytes from structs, structs from
 *	  bytes.
 *
 * Pure functions: no SQL, no network, no clock, no ereport; but interrupts are
 * served where the work grows faster than the request. A new provider is one
 * file and one line in dialect.c. All text is UTF-8; memory is palloc'd in the
 * current context.
 */
#ifndef LLM_DIALECT_H
#define LLM_DIALECT_H

#include "postgres.h"

#include <time.h>

#include "health/limiter.h"
#include "json/json.h"
#include "util/http.h"

/* What a model can do; the bits of llm_model.capabilities. */
#define CAP_JSON_SCHEMA	(1 << 0)
#define CAP_TOOLS		(1 << 1)
#define CAP_IMAGES		(1 << 2)
#define CAP_TEMPERATURE	(1 << 3)
#define CAP_SYSTEM		(1 << 4)
#define CAP_EMBEDDINGS	(1 << 5)

/* What is asked: the same for every target that a call tries. */
typedef struct ChatRequest
{
	const char *prompt;			/* NULL when messages are given */
	size_t		prompt_len;
	const char *system;			/* or NULL */
	const JsonNode *messages;	/* OpenAI-style array, passed chat_check() */
	uint32		needs;			/* CAP_TOOLS | CAP_IMAGES, from the messages */
	int			max_tokens;		/* 0 = the model's default */
	bool		has_temperature;
	double		temperature;
	const JsonNode *params;		/* the call's own, or NULL */
} ChatRequest;

/* One more request header of llm_provider.headers, its value resolved. */
typedef struct ExtraHeader
{
	const char *name;
	const char *value;
} ExtraHeader;

/* Whom it is asked of: one target, with inheritance done. */
typedef struct Endpoint
{
	const char *base_url;		/* no slash at its end; {region} replaced */
	const char *model;
	uint32		capabilities;
	int			max_output_tokens;	/* of the model, 0 = unknown */
	const char *secret;			/* the key itself, or NULL */
	const JsonNode *region_params;	/* objects or NULL, merged in this */
	const JsonNode *route_params;	/* order, the call's last */
	int			nheaders;
	const ExtraHeader *headers;
} Endpoint;

/*
 * Error codes that are ours, where a vendor's own would not say it: Google's
 * 429 RESOURCE_EXHAUSTED when the quota is one a day, or nought, so that
 * waiting a minute does not help (billing, not throttling); and Azure's
 * content filter where only innererror names it.
 */
#define ERROR_CODE_QUOTA_EXHAUSTED	"quota_exhausted"
#define ERROR_CODE_CONTENT_FILTER	"content_filter"

typedef enum FinishReason
{
	FINISH_NONE,
	FINISH_STOP,
	FINISH_LENGTH,
	FINISH_TOOL_CALLS,
	FINISH_CONTENT_FILTER
} FinishReason;

/* What came back, as far as the body and headers tell. */
typedef enum ReplyKind
{
	REPLY_ANSWER,				/* complete and not empty */
	REPLY_ERROR,				/* an error body, whatever the status */
	REPLY_FILTERED,				/* refused or blocked by a content filter */
	REPLY_CONTEXT,				/* the context window overflowed (200) */
	REPLY_EMPTY,				/* well-formed, but nobody said anything */
	REPLY_CUT,					/* no finish reason: not complete */
	REPLY_GARBAGE				/* not JSON, or not of this dialect */
} ReplyKind;

typedef struct Reply
{
	ReplyKind	kind;
	/* of an answer */
	const char *text;			/* NULL when only tools are called */
	size_t		text_len;
	const char *message;		/* assistant message in OpenAI form, JSON */
	FinishReason finish;		/* of an empty one, too */
	int64		input_tokens;	/* includes cached; -1 = not told */
	int64		output_tokens;	/* includes reasoning; -1 = not told */
	int64		cached_tokens;	/* -1 = not told */
	int64		reasoning_tokens;	/* -1 = not told */
	const char *answered_as;	/* the model's name in the answer, or NULL */
	/* of an error: as the provider spells it, NULL when absent */
	const char *error_code;		/* code, or type when there is no code; an */
								/* HTTP status only if nothing else is there */
								/* or the response's own claims success */
	const char *error_type;		/* type; Google's status */
	const char *error_text;		/* for people; of garbage: what is wrong */
	/* of both */
	const char *request_id;
	int64		retry_after_ms;	/* the longest hint found; 0 = none */
	LimitNotice requests_left;	/* of its owner's rate limits */
	LimitNotice tokens_left;
} Reply;

typedef struct Dialect
{
	const char *name;
	const char *base_url;		/* the vendor's public one; NULL = must be set */
	uint32		capabilities;
	/*
	 * Writes URL and headers. NULL, or why the endpoint cannot be addressed: a
	 * fault of its configuration, as a phrase for people without the secret.
	 */
	const char *(*address) (const ChatRequest *chat, const Endpoint *endpoint,
							HttpRequest *out);

	/*
	 * Writes the body. NULL, or why the dialect cannot say this: a fault of
	 * the request, as a phrase for people.
	 */
	const char *(*compose) (const ChatRequest *chat, const Endpoint *endpoint,
							StringInfo out);

	/* Reads a complete response of any status. Never fails: see kind. */
	void		(*parse) (const HttpResponse *resp, time_t now, Reply *out);
} Dialect;

extern const Dialect openai_dialect;
extern const Dialect azure_dialect;
extern const Dialect anthropic_dialect;
extern const Dialect gemini_dialect;

extern const Dialect *dialect_find(const char *name);
extern const char *dialect_names(void);	/* "openai, azure, …" */
extern const char *finish_reason_name(FinishReason finish); /* NULL: none */
extern uint32 capability_bit(const char *name); /* 0: no such capability */

/*
 * Checks an OpenAI-style array of messages. NULL when it is one, else what is
 * wrong with it, as a phrase that follows "messages ". Sets the capabilities
 * it needs.
 */
extern const char *chat_check(const JsonNode *messages, uint32 *needs);

/* The text of the last user message, palloc'd; "" when there is none. */
extern char *chat_last_user_text(const JsonNode *messages);

/* Whether a name in params is one that a caller must not set. */
extern bool param_is_forbidden(const char *key);

#endif							/* LLM_DIALECT_H */
