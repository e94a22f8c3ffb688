/*
 * outcome.h
 *	  What became of an attempt, whom it blames, and what may follow.
 */
#ifndef LLM_OUTCOME_H
#define LLM_OUTCOME_H

#include "postgres.h"

#include "dialect/dialect.h"
#include "engine/transport.h"

typedef enum Outcome
{
	OUTCOME_OK,
	OUTCOME_DECLINED,			/* a builtin model had nothing to say */
	OUTCOME_BILLING,
	OUTCOME_AUTH,
	OUTCOME_PERMISSION,
	OUTCOME_MODEL_GONE,
	OUTCOME_CONTEXT_LENGTH,
	OUTCOME_CONTENT_FILTER,
	OUTCOME_BAD_REQUEST,
	OUTCOME_THROTTLED,
	OUTCOME_OVERLOADED,
	OUTCOME_SERVER,
	OUTCOME_NETWORK,
	OUTCOME_TIMEOUT,
	OUTCOME_CONFLICT,
	OUTCOME_INVALID_OUTPUT,
	OUTCOME_CANCELLED,
	OUTCOME_OWN_LIMIT
} Outcome;

#define NUM_OUTCOMES (OUTCOME_OWN_LIMIT + 1)

/* How an outcome counts against the scope it blames. */
typedef enum OutcomeCount
{
	COUNTS_NOT,
	COUNTS_FAILURE,
	COUNTS_THROTTLE,			/* put aside for a while, but not broken */
	COUNTS_TRIP					/* put aside at once */
} OutcomeCount;

/* Whom an outcome speaks of, and so who else is not asked again in a call. */
typedef enum OutcomeScope
{
	SCOPE_NONE,
	SCOPE_PROVIDER,				/* the credential: all its models */
	SCOPE_REGION,				/* the endpoint */
	SCOPE_MODEL,				/* (provider, model) in every region */
	SCOPE_TARGET				/* (provider, region, model) */
} OutcomeScope;

/* When the same target may be asked again. */
typedef enum OutcomeRetry
{
	RETRY_NEVER,
	RETRY_AT_ONCE,
	RETRY_AFTER_JITTER,
	RETRY_AFTER_HINT			/* only when nothing else can answer */
} OutcomeRetry;

/* Whether another candidate may be asked. */
typedef enum OutcomeNext
{
	NEXT_NO,					/* the request is at fault: raise */
	NEXT_YES,
	NEXT_LARGER_WINDOW,			/* only a model with a larger window */
	NEXT_IF_TIER_SAYS			/* llm_tier.on_content_filter */
} OutcomeNext;

typedef struct OutcomeRule
{
	const char *name;			/* as in llm_response.trace */
	OutcomeCount count;
	OutcomeRetry retry;
	OutcomeNext next;
	OutcomeScope scope;
	const char *hint;			/* what a person can do about it, or NULL */
	Usec		open_for;		/* COUNTS_TRIP: how long, unless it is mended */
} OutcomeRule;

#define TRIP_ACCOUNT	(30 * 60 * USEC_SEC)
#define TRIP_MODEL		(5 * 60 * USEC_SEC)

extern const OutcomeRule outcome_rules[NUM_OUTCOMES];

extern Outcome outcome_of_transfer(const Transfer *transfer);
extern Outcome outcome_of_reply(int status, const Reply *reply);
extern OutcomeScope outcome_scope(Outcome outcome, TransferEnd end);

#endif							/* LLM_OUTCOME_H */
