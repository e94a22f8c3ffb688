/*
 * router.h
 *	  Which candidate comes next.
 *
 * A route is a walk along a chain of tiers. Inside a tier the first group
 * with an admitted candidate gets the call; inside a group the tier's strategy
 * picks. The walk remembers whom it has tried and which scopes have failed, so
 * that no call asks a dead region twice, not in the next tier either.
 */
#ifndef LLM_ROUTER_H
#define LLM_ROUTER_H

#include "postgres.h"

#include "catalog/config.h"
#include "engine/outcome.h"
#include "util/clock.h"

/* What a call needs of a candidate. */
typedef struct RouteNeeds
{
	int			nlabels;
	char	  **labels;			/* residency: all of them, */
	const char *residency;		/* and the same as one text */
	uint32		capabilities;	/* CAP_… that the messages need */
	int64		min_tokens;		/* the prompt has no fewer than these */
	const char *providers_off;	/* why no provider may be asked, or NULL */
	const Model *larger_than;	/* a model whose window was too small, or NULL */
} RouteNeeds;

/* What a walk knows of a candidate of its current tier. */
typedef struct CandidateState
{
	bool		tried;
	bool		may_retry;		/* after `retry_at`, once all others are tried */
	Usec		retry_at;
} CandidateState;

/* A scope that failed in this call and is not asked again. */
typedef struct FailedScope
{
	OutcomeScope scope;
	const Candidate *candidate;
} FailedScope;

#define MAX_FAILED_SCOPES 64

typedef struct Router
{
	const Tier *asked;			/* the tier asked for */
	const Tier *tier;			/* where the walk is; NULL: at its end */
	int			tiers_seen;		/* of the chain, from `asked` on */
	bool		used_up;		/* all of the chain was: no tier comes next */
	int			attempts;		/* made in this tier */
	CandidateState *states;		/* of tier->candidates */
	RouteNeeds	needs;
	int			nfailed;
	FailedScope failed[MAX_FAILED_SCOPES];
} Router;

extern void router_start(Router *router, const Tier *tier,
						 const RouteNeeds *needs);
extern bool router_next_tier(Router *router);
extern const Candidate *router_pick(Router *router);
extern const Candidate *router_pick_retry(Router *router);
extern void router_failed(Router *router, const FailedScope *failed);
extern bool router_covers(const FailedScope *failed,
						  const Candidate *candidate);
extern void router_allow_retry(Router *router, const Candidate *candidate,
							   Usec at);
extern const char *router_why_out(const Router *router,
								  const Candidate *candidate);
extern Usec router_retry_at(const Router *router, const Candidate *candidate);
extern bool router_satisfies_residency(const Config *config, const Tier *tier,
									   bool chain, int nlabels, char **labels);

#endif							/* LLM_ROUTER_H */
