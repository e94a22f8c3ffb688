/*
 * local.c
 *	  Which builtin model answers.
 */
#include "postgres.h"

#include "local.h"

/* Answers with the prompt: for tests, which can then see what was asked. */
static void
echo_answer(const char *prompt, LocalAnswer *out)
{
	out->text = pstrdup(prompt);
	out->source = "model";
}

/* Asks a builtin model; see the header. */
void
local_answer(BuiltinModel model, const Config *config, const char *prompt,
			 const char *feature, const JsonNode *params, LocalAnswer *out)
{
	memset(out, 0, sizeof(*out));
	switch (model)
	{
		case BUILTIN_RULE:
			rule_answer(config, prompt, feature, out);
			return;
		case BUILTIN_EXTRACT:
			extract_answer(prompt, params, out);
			return;
		case BUILTIN_ECHO:
			echo_answer(prompt, out);
			return;
		case BUILTIN_NONE:
			break;
	}
	elog(ERROR, "unrecognized builtin model: %d", (int) model);
}
