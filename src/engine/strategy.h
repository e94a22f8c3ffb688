/*
 * strategy.h
 *	  How a tier's calls are shared out among its admitted candidates.
 *
 * The same code decides whom a call asks, by a random draw, and what shares
 * llm_explain() shows.
 */
#ifndef LLM_STRATEGY_H
#define LLM_STRATEGY_H

#include "postgres.h"

#include "catalog/config.h"
#include "engine/cost.h"

/* Whether a candidate takes a call now, and how many of them. */
typedef struct Admission
{
	const char *out;			/* why not, whatever its health; NULL = may be */
	HealthCheck health;			/* READY for builtin ones */
	double		share;			/* of the tier's calls, health included, 0–1 */
} Admission;

/* No group serves. */
#define NO_GROUP PG_INT32_MAX

/*
 * Fills the shares of a tier's candidates from `out` and `health`. They add up
 * to 1 when anybody is admitted whose health is not HEALTH_TRIAL. `scratch` has
 * room for two doubles per candidate. With `warm`, the tier's warm_share goes to
 * those that would get nothing. With `draw`, a strategy may have drawn already:
 * the shares are right on average then. Returns the first group with a share
 * without regard to warming, or NO_GROUP.
 */
extern int	share_tier(const Tier *tier, Admission *admissions,
					   double *scratch, const Estimate *estimate, bool warm,
					   bool draw, Usec now);

#endif							/* LLM_STRATEGY_H */
