/*
 * cost.c
 *	  What a call may take and what it has cost.
 *
 * Estimates are rough: no tokenizer is at hand, and nobody knows how long an
 * answer will be. They serve to reserve what is put right afterwards.
 */
#include "postgres.h"

#include "common/int.h"

#include "cost.h"

/* Bytes of text a token, on average. */
#define BYTES_PER_TOKEN 4

/* Tokens that an answer is taken to have when max_tokens does not say. */
#define USUAL_OUTPUT_TOKENS 500

/* Estimates a request by the length of its prompt; max_tokens 0 = not given. */
Estimate
estimate_request(size_t prompt_len, int max_tokens)
{
	return (Estimate) {
		.input_tokens = prompt_len / BYTES_PER_TOKEN,
		.output_tokens = max_tokens > 0 ? max_tokens : USUAL_OUTPUT_TOKENS,
	};
}

/* Returns the tokens of an answer, which no model can make longer than so. */
static int64
output_tokens(const Estimate *estimate, const Model *model)
{
	if (model->max_output_tokens > 0)
		return Min(estimate->output_tokens, model->max_output_tokens);
	return estimate->output_tokens;
}

/* Returns the tokens that a request may take at a model, input and output. */
int64
estimate_tokens(const Estimate *estimate, const Model *model)
{
	return estimate->input_tokens + output_tokens(estimate, model);
}

/* Adds the price of some tokens. False when the sum is beyond all reason. */
static bool
add_price(Picodollars *cost, int64 tokens, Picodollars price)
{
	int64		added;

	return !pg_mul_s64_overflow(tokens, price, &added) &&
		!pg_add_s64_overflow(*cost, added, cost);
}

/* Says whether a model's prices are known. */
static bool
is_priced(const Model *model)
{
	return model->input_price != PRICE_UNKNOWN &&
		model->output_price != PRICE_UNKNOWN;
}

/* Estimates the cost of a request at a candidate; builtin ones are free. */
bool
estimate_cost(const Estimate *estimate, const Candidate *candidate,
			  Picodollars *cost)
{
	const Model *model = candidate->route->model;

	*cost = 0;
	if (candidate->route->builtin != BUILTIN_NONE)
		return true;
	if (model == NULL || !is_priced(model))
		return false;
	return add_price(cost, estimate->input_tokens, model->input_price) &&
		add_price(cost, output_tokens(estimate, model), model->output_price);
}

/*
 * Adds what an attempt has cost, where the provider told its tokens: numbers
 * that may be anything. One that is no answer and does not tell is free.
 */
bool
cost_add_reply(Picodollars *cost, const Model *model, const Reply *reply)
{
	int64		cached = Max(reply->cached_tokens, 0);
	int64		input = Max(reply->input_tokens - cached, 0);
	int64		output = Max(reply->output_tokens, 0);

	if (reply->input_tokens < 0 && reply->output_tokens < 0)
		return reply->kind != REPLY_ANSWER ||
			(model->input_price == 0 && model->output_price == 0);
	return is_priced(model) &&
		add_price(cost, input, model->input_price) &&
		add_price(cost, output, model->output_price) &&
		add_price(cost, cached, model->cached_input_price);
}

/*
 * Adds the estimated input of an attempt that was given up while it ran: the
 * provider has read the request, and will charge for that at least.
 */
bool
cost_add_abandoned(Picodollars *cost, const Model *model,
				   const Estimate *estimate)
{
	return is_priced(model) &&
		add_price(cost, estimate->input_tokens, model->input_price);
}
