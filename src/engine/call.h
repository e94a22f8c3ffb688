/*
 * call.h
 *	  The call: from a question to an answer, over as many attempts as it
 *	  takes. States and words are explained in src/engine/README.md.
 *
 * A call never blocks and never touches SQL. A driver starts it, gives it the
 * transfers that end, the time, and the answers of builtin models:
 *
 *	call_create -> call_start -> (call_wake | call_transfer_ended |
 *	call_local_done)* -> state CALL_ENDED -> read the result -> call_free
 *
 * loop.h does all of that for any number of calls.
 */
#ifndef LLM_CALL_H
#define LLM_CALL_H

#include "postgres.h"

#include "lib/pairingheap.h"
#include "nodes/pg_list.h"

#include "catalog/config.h"
#include "degrade/local.h"
#include "engine/cost.h"
#include "engine/outcome.h"
#include "engine/router.h"
#include "engine/transport.h"

/* No tokenizer makes fewer tokens of a text than one for so many bytes. */
#define PROMPT_MAX_BYTES_PER_TOKEN 8

struct Call;

/* What is asked. Strings and trees must outlive the call. */
typedef struct CallSpec
{
	ChatRequest chat;			/* UTF-8 */
	const char *local_prompt;	/* the same for builtin models, in the */
								/* database's encoding */
	const Tier *tier;			/* the tier asked for */
	const char *feature;		/* or NULL */
	int			nlabels;
	char	  **labels;			/* residency, */
	const char *residency;		/* and the same as one text */
	Usec		timeout;		/* of the whole call */
	Usec		deadline;		/* the caller's own, or USEC_NEVER */
	bool		allow_degraded;
	bool		background;		/* leaves llm_failover.sync_reserve of limits */
	const Candidate *only;		/* ask this one, once, and nobody else */

	/*
	 * Says what is wrong with a model's answer, or NULL, before that is booked:
	 * it then counts as OUTCOME_INVALID_OUTPUT. NULL: nothing ever is.
	 */
	const char *(*judge) (const struct Call *call, const Reply *reply);
} CallSpec;

typedef enum CallState
{
	CALL_NEW,
	CALL_ROUTING,				/* choosing; never seen by a driver */
	CALL_SENDING,				/* waits for its transfers, or `wake` */
	CALL_PAUSED,				/* waits for `wake` */
	CALL_LOCAL,					/* waits for a builtin model's answer */
	CALL_ENDED
} CallState;

/* How a call without an answer ends; the SQLSTATEs LL001 to LL006. */
typedef enum CallError
{
	CALL_ANSWERED,
	CALL_NO_ANSWER,				/* LL001 */
	CALL_TIMED_OUT,				/* LL002 */
	CALL_REFUSED,				/* LL003 */
	CALL_UNSAYABLE,				/* LL003, by ourselves */
	CALL_SWITCHED_OFF,			/* LL004 */
	CALL_NO_RESIDENCY,			/* LL004 */
	CALL_MISCONFIGURED			/* LL006 */
} CallError;

/* What happened: an element of the trace. Text in the database's encoding. */
typedef struct Attempt
{
	const Tier *tier;
	const Candidate *candidate;
	Outcome		outcome;
	int			status;			/* HTTP; 0 = none */
	int64		ms;
	const char *error;			/* scrubbed and cut, or NULL */
	const char *next;			/* "retry", "candidate", "tier", or NULL */
	const char *request_id;
	const char *answered_as;	/* when not the model asked for */
	int64		reasoning_tokens;	/* -1 = not told */
	int64		input_tokens;	/* 0 = none, or not told */
	int64		output_tokens;
	int64		cached_tokens;
	Picodollars cost;			/* of what it tells of tokens */
	bool		cost_known;
	bool		replaced;		/* characters that the encoding lacks */
	bool		reconnected;	/* a kept connection had died */
	bool		hedge;			/* asked beside another that was silent */
} Attempt;

/*
 * An attempt under way. What it needs of memory is its own context's; what it
 * holds of shared memory is its reservation's.
 */
typedef struct Try
{
	struct Call *call;
	const Candidate *candidate; /* NULL: nothing is under way */
	const Tier *tier;
	MemoryContext context;		/* request, keys and reply; NULL until used */
	Transfer   *transfer;
	Reservation reservation;
	bool		cut_by_deadline;	/* its time limit is the call's own */
	bool		hedge;
	Usec		suspect_at;		/* when its silence weighs as a failure */
	Usec		look_at;		/* when to look at it; 0 = to be set */
	List	   *secrets;		/* to scrub from what the provider says */
} Try;

/* One, and a second beside it when it is silent. */
#define MAX_TRIES 2

/* Who will be admitted first of those that only a limit keeps out. */
typedef struct Later
{
	const Candidate *candidate; /* NULL: nobody */
	const Tier *tier;
	Usec		at;
} Later;

/* Candidates that were not asked, in words; more are not listed. */
#define MAX_NOT_ASKED 8

/* The answer. Text in the database's encoding. */
typedef struct Answer
{
	const char *text;			/* NULL when only tools are called */
	size_t		text_len;
	const char *message;		/* OpenAI form */
	FinishReason finish;
	const Candidate *candidate;
	const Tier *tier;
	const char *source;
	bool		degraded;
	int64		input_tokens;	/* -1 = not told */
	int64		output_tokens;
	int64		cached_tokens;
} Answer;

typedef struct Call
{
	MemoryContext context;		/* the result; outlives the call's end */
	MemoryContext scratch;		/* the walk; gone at the end */
	CallSpec	spec;
	Config	   *config;			/* pinned */
	CallState	state;
	Usec		started;
	Usec		ended;
	Usec		deadline;		/* the earlier of timeout and the caller's */
	Usec		wake;			/* when to call call_wake(), or USEC_NEVER */
	Usec		hedge_at;		/* when to ask a second candidate */
	Router		router;
	const Candidate *candidate; /* of CALL_PAUSED and CALL_LOCAL */
	Try			tries[MAX_TRIES];

	/* what has happened */
	int			nattempts;		/* at providers */
	int			ntrace;
	int			max_trace;
	Attempt    *trace;
	Picodollars cost;
	bool		cost_known;
	int			nhedges;
	Later		later;
	int			nnot_asked;
	const char *not_asked[MAX_NOT_ASKED];
	const char *problem;		/* first configuration that cannot work */
	const char *problem_hint;
	const char *unsayable;		/* why a dialect has no words for the request */

	/* how it ended */
	CallError	error;
	int			refusal;		/* index of the attempt that refused, or -1 */
	Answer		answer;

	void	   *owner;			/* the driver's, untouched */

	/* the loop's own */
	bool		queued;			/* in the loop's heap, by `wake` */
	pairingheap_node wake_node;
} Call;

extern Call *call_create(const CallSpec *spec, Config *config,
						 MemoryContext parent);
extern void call_start(Call *call, Usec now);
extern void call_wake(Call *call, Usec now);
extern void call_transfer_ended(Try *try, Usec now);
extern void call_local_done(Call *call, const LocalAnswer *local, Usec now);
extern void call_abandon(Call *call);
extern void call_free(Call *call);

#endif							/* LLM_CALL_H */
