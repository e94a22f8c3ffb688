/*
 * cost.h
 *	  What a call may take and what it has cost: tokens and USD.
 */
#ifndef LLM_COST_H
#define LLM_COST_H

#include "postgres.h"

#include "catalog/config.h"

/* What a request is taken to need before anybody has answered. */
typedef struct Estimate
{
	int64		input_tokens;
	int64		output_tokens;
} Estimate;

extern Estimate estimate_request(size_t prompt_len, int max_tokens);

/* Tokens that the request may take at a model. */
extern int64 estimate_tokens(const Estimate *estimate, const Model *model);

/* What it may cost at a candidate; false when the price is unknown. */
extern bool estimate_cost(const Estimate *estimate,
						  const Candidate *candidate, Picodollars *cost);

/* Adds the price of an attempt; false when it is not known what that is. */
extern bool cost_add_reply(Picodollars *cost, const Model *model,
						   const Reply *reply);

/* Adds the input of an attempt that was abandoned and not told its tokens. */
extern bool cost_add_abandoned(Picodollars *cost, const Model *model,
							   const Estimate *estimate);

#endif							/* LLM_COST_H */
