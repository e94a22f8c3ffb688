/*
 * request.c
 *	  From the arguments of a SQL function to a call.
 *
 * Wrong arguments raise 22023 at once, an unknown tier LL006. What comes from
 * data (an empty prompt, messages that are none) is a Report, so that on_error
 * and llm_last() see it.
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "driver.h"
#include "settings.h"
#include "util/encoding.h"

/*
 * When statement_timeout is the deadline, a call ends this much earlier, but
 * by no more than a tenth of what is left, so that an answer of a builtin
 * model still reaches the user.
 */
#define STATEMENT_MARGIN	(50 * USEC_MSEC)

/* Raises 22023 for an argument. */
#define wrong_argument(...) \
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), \
					errmsg(__VA_ARGS__)))

/*
 * Returns an argument's text, or else the setting's, or NULL where that is
 * empty too.
 */
const char *
text_arg(const text *arg, const char *setting)
{
	if (arg)
		return text_to_cstring(arg);
	return setting && setting[0] ? setting : NULL;
}

/* Returns a jsonb as a tree in UTF-8, in the current memory context. */
JsonNode *
jsonb_to_tree(Jsonb *jsonb)
{
	char	   *text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	size_t		len = strlen(text);
	const char *utf8 = text_to_utf8(text, &len);
	const char *why;
	JsonNode   *node = json_parse(utf8, len, &why);

	if (node == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("could not read the JSON argument: %s", why)));
	return node;
}

/* Decides between "raise" and "null". */
static bool
null_on_error(const CallArgs *args)
{
	const char *word;

	if (args->on_error == NULL)
		return llm_on_error == ON_ERROR_NULL;
	word = text_to_cstring(args->on_error);
	if (strcmp(word, "null") == 0)
		return true;
	if (strcmp(word, "raise") == 0)
		return false;
	wrong_argument("on_error must be \"raise\" or \"null\", not \"%s\"", word);
}

/* Returns an interval's length; a month has 30 days. */
static Usec
interval_to_usec(const Interval *interval)
{
	double		days = interval->day + (double) interval->month * DAYS_PER_MONTH;
	double		usec = interval->time + days * (double) USECS_PER_DAY;

	/* far beyond any patience, and safe to add to a clock */
	return (Usec) Max(Min(usec, 1e17), -1e17);
}

/* Raises when params are no object or set what a caller must not set. */
static void
check_params(const JsonNode *params)
{
	if (!json_is(params, JN_OBJECT))
		wrong_argument("params must be a JSON object");
	for (const JsonNode *p = params->child; p; p = p->next)
		if (param_is_forbidden(p->key))
			wrong_argument("params must not set \"%s\"", p->key);
}

/* Returns max_tokens, or raises when it is no number of tokens. */
int32
request_max_tokens(int32 max_tokens)
{
	if (max_tokens <= 0)
		wrong_argument("max_tokens must be greater than 0, not %d", max_tokens);
	return max_tokens;
}

/* Raises when a scalar argument is out of its range. */
static void
check_scalars(const CallArgs *args)
{
	if (args->has_temperature &&
		!(args->temperature >= 0 && args->temperature <= 2))
		wrong_argument("temperature must be a number from 0 to 2, not %g",
					   args->temperature);
	if (args->timeout && interval_to_usec(args->timeout) <= 0)
		wrong_argument("timeout must be greater than 0");
}

/* Says whether a label is among those that a region must bear. */
static bool
has_label(const CallSpec *spec, const char *label)
{
	for (int i = 0; i < spec->nlabels; i++)
		if (strcmp(spec->labels[i], label) == 0)
			return true;
	return false;
}

/* Splits a comma-separated list, without its blanks, into labels, each once. */
static void
add_labels(const char *list, CallSpec *spec)
{
	while (list && *list)
	{
		size_t		len;
		char	   *label;

		CHECK_FOR_INTERRUPTS();
		list += strspn(list, ", \t\n");
		len = strcspn(list, ", \t\n");
		label = pnstrdup(list, len);
		if (len > 0 && !has_label(spec, label))
			spec->labels[spec->nlabels++] = label;
		list += len;
	}
}

/* Joins the labels for messages. */
static const char *
labels_in_words(const CallSpec *spec)
{
	StringInfoData words;

	initStringInfo(&words);
	for (int i = 0; i < spec->nlabels; i++)
		appendStringInfo(&words, "%s%s", i > 0 ? "," : "", spec->labels[i]);
	return words.data;
}

/*
 * Sets the labels that a region must bear: the parameter's and the setting's,
 * which no parameter can widen.
 */
void
request_labels(const char *residency, CallSpec *spec)
{
	size_t		room = (residency ? strlen(residency) : 0) +
		strlen(llm_residency) + 2;

	if (residency == NULL && llm_residency[0] == '\0')
		return;
	spec->labels = palloc(room * sizeof(char *));
	add_labels(llm_residency, spec);
	add_labels(residency, spec);
	spec->residency = labels_in_words(spec);
}

/* Returns when the statement (or transaction) is cancelled, less a margin. */
static Usec
deadline_of_timeout(TimeoutId id, Usec now)
{
	TimestampTz finish;
	Usec		left;

	if (!get_timeout_active(id))
		return USEC_NEVER;
	finish = get_timeout_finish_time(id);
	left = Max(finish - GetCurrentTimestamp(), 0);
	return now + left - Min(STATEMENT_MARGIN, left / 10);
}

/* Returns the caller's own deadline, or USEC_NEVER. */
static Usec
surrounding_deadline(void)
{
	Usec		now = clock_now();
	Usec		deadline = deadline_of_timeout(STATEMENT_TIMEOUT, now);

#if PG_VERSION_NUM >= 170000
	deadline = Min(deadline, deadline_of_timeout(TRANSACTION_TIMEOUT, now));
#endif
	return deadline;
}

/* Says whether a text has nothing but white space. */
static bool
is_blank(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!isspace((unsigned char) text[i]))
			return false;
	return true;
}

/* Takes the prompt. False when it is refused. */
static bool
take_prompt(const CallArgs *args, CallSpec *spec, Report *refused)
{
	size_t		len = VARSIZE_ANY_EXHDR(args->prompt);

	spec->local_prompt = text_to_cstring(args->prompt);
	if (is_blank(spec->local_prompt, len))
	{
		*refused = (Report) {
			.sqlstate = SQLSTATE_LL(3),
			.message = "the prompt is empty",
			.hint = "An expression that yields an empty text may want a WHERE clause.",
		};
		return false;
	}
	spec->chat.prompt = text_to_utf8(spec->local_prompt, &len);
	spec->chat.prompt_len = len;
	return true;
}

/* Takes the messages. False when they are refused. */
static bool
take_messages(const CallArgs *args, CallSpec *spec, Report *refused)
{
	JsonNode   *messages = jsonb_to_tree(args->messages);
	const char *why = chat_check(messages, &spec->chat.needs);
	char	   *last;
	size_t		len;
	bool		replaced = false;

	if (why)
	{
		*refused = (Report) {
			.sqlstate = SQLSTATE_LL(3),
			.message = psprintf("messages %s", why),
			.hint = "Write [{\"role\": \"user\", \"content\": \"...\"}].",
		};
		return false;
	}
	spec->chat.messages = messages;
	spec->chat.prompt_len = messages->raw_len;
	last = chat_last_user_text(messages);
	spec->local_prompt = utf8_to_text(last, strlen(last), &len, &replaced);
	return true;
}

/*
 * Returns the tier of a name, or raises LL006 with the nearest name there is.
 */
Tier *
request_tier(const Config *config, const char *name)
{
	Tier	   *tier = config_tier(config, name);
	const char *closest;

	if (tier)
		return tier;
	closest = config_closest_tier(config, name);
	ereport(ERROR,
			(errcode(SQLSTATE_LL(6)),
			 errmsg("tier \"%s\" does not exist", name),
			 closest ? errhint("Did you mean \"%s\"?", closest) : 0));
}

/* Fills what does not come from the prompt. */
static void
fill_spec(const CallArgs *args, const Config *config, CallSpec *spec)
{
	const char *tier = text_arg(args->tier, llm_tier);

	check_scalars(args);
	spec->tier = request_tier(config, tier ? tier : "default");
	spec->feature = text_arg(args->feature, llm_feature);
	spec->timeout = args->timeout ?
		interval_to_usec(args->timeout) : spec->tier->timeout;
	spec->deadline = surrounding_deadline();
	spec->allow_degraded = args->has_allow_degraded ?
		args->allow_degraded : llm_allow_degraded;
	request_labels(text_arg(args->residency, NULL), spec);
	spec->chat.max_tokens = args->has_max_tokens ?
		request_max_tokens(args->max_tokens) : 0;
	spec->chat.has_temperature = args->has_temperature;
	spec->chat.temperature = args->temperature;
	if (args->params)
	{
		JsonNode   *params = jsonb_to_tree(args->params);

		check_params(params);
		spec->chat.params = params;
	}
	if (args->system)
	{
		size_t		len = VARSIZE_ANY_EXHDR(args->system);

		spec->chat.system = text_to_utf8(text_to_cstring(args->system), &len);
	}
}

/*
 * Makes a call of the arguments, not started, in a context of its own below
 * the current one. Where the data is refused, the report says so and the call
 * is not to be started.
 */
Call *
request_prepare(const CallArgs *args, bool *null, Report *refused)
{
	CallSpec	spec = {0};
	Config	   *config;

	refused->sqlstate = 0;
	*null = null_on_error(args);
	config = config_get(args->function);
	fill_spec(args, config, &spec);
	if (args->prompt)
		take_prompt(args, &spec, refused);
	else
		take_messages(args, &spec, refused);
	return call_create(&spec, config, CurrentMemoryContext);
}
