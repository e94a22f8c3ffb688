/*
 * common.h
 *	  What the dialects share. Private to this directory.
 *
 * request.c writes what goes out, chat.c and turns.c know messages, reply.c
 * reads what comes back, error.c, retry.c and limits.c read what else may come
 * back.
 */
#ifndef LLM_DIALECT_COMMON_H
#define LLM_DIALECT_COMMON_H

#include "postgres.h"

#include "dialect.h"

/* request.c: keys that are written already, so that params must not. */
#define MAX_TAKEN 8

typedef struct TakenKeys
{
	int			nkeys;
	const char *keys[MAX_TAKEN];
} TakenKeys;

extern void take_key(TakenKeys *taken, const char *key);
extern const JsonNode *params_get(const ChatRequest *chat,
								  const Endpoint *endpoint, const char *key);
extern void params_put(StringInfo out, const ChatRequest *chat,
					   const Endpoint *endpoint, const TakenKeys *taken);
extern void put_members(StringInfo out, const JsonNode *object,
						const TakenKeys *taken);
extern void put_key(StringInfo out, const char *key);
extern void put_temperature(StringInfo out, double temperature);
extern int	max_tokens_for(const ChatRequest *chat, const Endpoint *endpoint);
extern void put_percent(StringInfo out, const char *text);
extern bool host_is_below(const char *url, const char *domain);
extern bool ends_with(const char *text, const char *end);
extern const char *add_own_header(HttpRequest *out, const Endpoint *endpoint,
								  const char *name, const char *value);
extern const char *add_bearer(HttpRequest *out, const Endpoint *endpoint);
extern const char *add_extra_headers(HttpRequest *out,
									 const Endpoint *endpoint);

/* chat.c: messages that passed chat_check(). */
typedef enum ChatRole
{
	ROLE_SYSTEM,				/* developer too */
	ROLE_USER,
	ROLE_ASSISTANT,
	ROLE_TOOL
} ChatRole;

extern ChatRole message_role(const JsonNode *message);
extern void append_content_text(StringInfo plain, const JsonNode *content);
extern char *chat_system_text(const ChatRequest *chat);
extern bool chat_system_apart(const ChatRequest *chat,
							  const Endpoint *endpoint);
extern const JsonNode *chat_first_user(const ChatRequest *chat);
extern const char *part_image_url(const JsonNode *part);

/*
 * turns.c: messages for vendors who want turns of two roles, each an array of
 * blocks. Neighbours of one role become one turn.
 */
typedef struct Image
{
	const char *media_type;		/* of a url it is guessed, or has length 0 */
	size_t		media_type_len;
	const char *data;			/* base64, or NULL: see url */
	size_t		data_len;
	const char *url;
} Image;

typedef struct TurnFormat
{
	const char *open_user;		/* up to the bracket that opens the blocks */
	const char *open_assistant;
	const char *close;
	void		(*put_text) (StringInfo out, const char *text, size_t len);
	void		(*put_image) (StringInfo out, const Image *image);
	/* These two return NULL, or why not. */
	const char *(*put_tool_call) (StringInfo out, const JsonNode *call);
	const char *(*put_tool_result) (StringInfo out, const JsonNode *messages,
									const JsonNode *message);
} TurnFormat;

extern const char *put_turns(StringInfo out, const ChatRequest *chat,
							 bool system_apart, const TurnFormat *format);
extern const JsonNode *tool_arguments(const JsonNode *call);

/* reply.c */
typedef struct FinishMeaning
{
	const char *name;			/* as the vendor spells it */
	ReplyKind	kind;
	FinishReason finish;
} FinishMeaning;

/* What an answer is put together from. */
typedef struct AnswerParts
{
	const char *text;			/* or NULL */
	size_t		text_len;
	StringInfoData calls;		/* elements of tool_calls; data NULL: none */
	int			ncalls;
	const char *finish;			/* as the vendor spells it, or NULL */
} AnswerParts;

extern const JsonNode *reply_begin(const HttpResponse *resp, time_t now,
								   Reply *out);
extern void answer_add_call(AnswerParts *parts, const char *id,
							const char *name, const char *arguments,
							size_t arguments_len, const char *signature);
extern void reply_conclude(Reply *out, const AnswerParts *parts,
						   const FinishMeaning *meanings, size_t nmeanings);
extern void reply_error(const HttpResponse *resp, time_t now,
						const JsonNode *root, Reply *out);
extern void reply_garbage(Reply *out, const char *what);
extern void reply_not_an_answer(const HttpResponse *resp, time_t now,
								const JsonNode *root, const char *lacks,
								Reply *out);
extern int64 token_count(const JsonNode *node);

/* words.c */
extern char *clean_text(const char *bytes, size_t len, size_t limit,
						bool strip_tags);
extern const char *clean_words(const JsonNode *node);

/* error.c */
extern bool error_is_there(const JsonNode *root);
extern bool error_has_words(const JsonNode *root);
extern bool error_read(const JsonNode *root, int status, Reply *out);

/* retry.c */
extern int64 retry_hint(const HttpResponse *resp, time_t now,
						const JsonNode *error, const char *text);
extern double read_reset(const HttpResponse *resp, const char *name,
						 time_t now);

/* limits.c */
extern void limits_read(const HttpResponse *resp, time_t now, Reply *out);

/* openai.c, for azure.c */
extern void openai_put_body(StringInfo out, const ChatRequest *chat,
							const Endpoint *endpoint, bool with_model,
							bool genuine);
extern void openai_parse(const HttpResponse *resp, time_t now, Reply *out);

#endif							/* LLM_DIALECT_COMMON_H */
