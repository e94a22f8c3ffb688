/*
 * router.h
 *	  Which candidate comes next.
 *
 * A route is a walk along a chain of tiers. Inside a tier the first group
 * with an admitted candidate gets the call; inside a group the tier's strategy
 * shares out (strategy.h). Whether a candidate is admitted is asked of the
 * configuration, of the call's needs, and of the health that all backends
 * share (health.h). The walk remembers whom it has tried and which scopes have failed, so
 * that no call asks a dead region twice, not in the next tier either.
 */
#ifndef LLM_ROUTER_H
#define LLM_ROUTER_H

#include "postgres.h"

#include "catalog/config.h"
#include "engine/outcome.h"
#include "engine/strategy.h"
#include "util/clock.h"

/* What a call needs of a candidate. */
typedef struct RouteNeeds
{
	int			nlabels;
	char	  **labels;			/* residency: all of them, */
	const char *residency;		/* and the same as one text */
	uint32		capabilities;	/* CAP_… that the messages need */
	int64		min_tokens;		/* the prompt has no fewer than these */
	Estimate	estimate;		/* what it may take */
	double		leave;			/* the share of each limit that is for others */
	const char *providers_off;	/* why no provider may be asked, or NULL */
	const Model *larger_than;	/* a model whose window was too small, or NULL */
} RouteNeeds;

/* What a walk knows of a candidate of its current tier. */
typedef struct CandidateState
{
	const char *barred;			/* why it is not asked (again), or NULL */
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
	const Config *config;
	const Tier *asked;			/* the tier asked for */
	const Tier *tier;			/* where the walk is; NULL: at its end */
	int			tiers_seen;		/* of the chain, from `asked` on */
	bool		used_up;		/* all of the chain was: no tier comes next */
	bool		no_trials;		/* one was made: this call pays for no other */
	int			attempts;		/* made in this tier */
	CandidateState *states;		/* of tier->candidates, */
	Admission  *admissions;		/* as of the last look */
	double	   *scratch;
	int			serving;		/* first group that takes calls, or NO_GROUP */
	RouteNeeds	needs;
	int			nfailed;
	FailedScope failed[MAX_FAILED_SCOPES];
} Router;

extern void router_start(Router *router, const Config *config,
						 const Tier *tier, const RouteNeeds *needs);
extern bool router_next_tier(Router *router);
extern void router_revisit(Router *router, const Tier *tier);
extern void router_admit(Router *router, Usec now);
extern void router_check(const Candidate *candidate, int64 tokens,
						 double leave, Usec now, HealthCheck *check);
extern void router_examine(const Config *config, const Candidate *candidate,
						   int64 tokens, double leave, Usec now,
						   HealthCheck *check);
extern const Candidate *router_pick(Router *router, Usec now);
extern const Candidate *router_pick_retry(Router *router);
extern const Candidate *router_first_chance(Router *router, bool own_limits,
											Usec now, Usec *at);
extern const char *router_why_unwell(const Router *router,
									 const Candidate *candidate, Usec now);
extern Usec router_limit_ends(const HealthCheck *check, Usec now);
extern const char *router_why(const Router *router,
							  const Candidate *candidate);
extern void router_mark_tried(Router *router, const Candidate *candidate);
extern void router_bar(Router *router, const Candidate *candidate,
					   const char *why);
extern void router_failed(Router *router, const FailedScope *failed);
extern void router_allow_retry(Router *router, const Candidate *candidate,
							   Usec at);
extern Usec router_retry_at(const Router *router, const Candidate *candidate);
/* eligible.c: who may take a call, whatever his health */
extern const char *router_why_out(const Router *router,
								  const Candidate *candidate);
extern const char *router_why_idle(const Config *config,
								   const Candidate *candidate);
extern bool router_covers(const FailedScope *failed,
						  const Candidate *candidate);
extern bool router_satisfies_residency(const Config *config, const Tier *tier,
									   bool chain, int nlabels, char **labels);

/* Stands for words that depend on the call: see router_why(). */
extern const char *const router_out_residency;

/* outlook.c: what a tier can do for tasks, which wait for it in the queue */

/* What calls to a tier may expect without its fallback. */
typedef enum OutlookState
{
	OUTLOOK_READY,				/* somebody is well, or builtin models serve */
	OUTLOOK_LIMITED,			/* only ones that ramp, or that are on trial */
	OUTLOOK_OUT					/* nobody is admitted */
} OutlookState;

typedef struct TierOutlook
{
	OutlookState state;
	int			calls;			/* about how many more get through now, by */
								/* limits, permits and ramps; 0 when OUT, */
								/* PG_INT32_MAX = no end is known */
	Usec		until;			/* when that may be one more; 0 = not known */
} TierOutlook;

/*
 * Says what calls of so many tokens may expect of a tier now that leave a share
 * of each limit to others. The calls' other needs, residency for one, are not
 * looked at. Like a call, it ends a trip whose cause is gone. May allocate in
 * the current context.
 */
extern void tier_outlook(const Config *config, const Tier *tier, double leave,
						 int64 tokens, Usec now, TierOutlook *outlook);

/*
 * Says in words why the tier_outlook() of tasks, however small, is OUTLOOK_OUT,
 * or NULL when it is not.
 */
extern char *tier_blocked_by(const Config *config, const Tier *tier, Usec now);

/* words.c: what health says, for people */
extern char *health_in_words(const Candidate *candidate,
							 const HealthCheck *check, Usec now);
extern char *health_in_few_words(const Candidate *candidate,
								 const HealthCheck *check, Usec now);
extern char *time_in_words(Usec at, Usec now);

#endif							/* LLM_ROUTER_H */
