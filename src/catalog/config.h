/*
 * config.h
 *	  The configuration tables as structs: one immutable snapshot of all.
 *
 * config_get() returns the current snapshot, rebuilt when a row of a config
 * table has changed. Strings are in the database's encoding unless a comment
 * says UTF-8. A snapshot lives until nobody has it pinned and it is outdated:
 * who holds one across anything that may call config_get() again (SQL, user
 * code, a second call) pins it, and unpins it on every path.
 *
 * Members under "as stored" are what the row says; all others have inheritance
 * and defaults applied.
 */
#ifndef LLM_CONFIG_H
#define LLM_CONFIG_H

#include "postgres.h"

#include "catalog/builtin.h"
#include "dialect/dialect.h"
#include "health/health.h"
#include "util/clock.h"

/*
 * USD per token in units of 1e-12: a price of 1 USD per million tokens is
 * 1,000,000. Integer, so that sums are exact. Prices are cut at PRICE_MAX, 1
 * USD per token, so that a price times any real count of tokens fits.
 */
typedef int64 Picodollars;

#define PRICE_UNKNOWN ((Picodollars) -1)
#define PRICE_MAX ((Picodollars) INT64CONST(1000000000000))

/* A header of llm_provider.headers: a literal or a reference. */
typedef struct ConfigHeader
{
	char	   *name;
	char	   *value;			/* literal, env:NAME, file:/path, secret:NAME */
} ConfigHeader;

/* The region of a provider without a row in llm_region. */
#define IMPLICIT_REGION "default"

/* In a base_url, stands for the region's name. */
#define REGION_PLACEHOLDER "{region}"

typedef struct Region
{
	struct Provider *provider;
	char	   *name;
	char	   *base_url;		/* effective: {region} replaced, no end slash */
	uint32		host;			/* hash of its host and port */
	char	   *secret;			/* effective reference, or NULL */
	JsonNode   *params;			/* UTF-8, or NULL */
	int			nlabels;
	char	  **labels;			/* residency */
	int			position;
	double		weight;
	bool		enabled;
	int			max_inflight;	/* 0 = no limit */
	bool		implicit;		/* no row: the provider's only region */
	const char *problem;		/* why it cannot be called, or NULL */
	/* as stored */
	char	   *provider_name;
} Region;

typedef struct Provider
{
	char	   *name;
	const Dialect *dialect;		/* NULL: unknown, then problem is set */
	char	   *secret;			/* reference, or NULL */
	int			nheaders;
	ConfigHeader *headers;
	bool		enabled;
	int			nregions;		/* at least 1 */
	Region	   *regions;		/* by position and name */
	BreakerConfig breaker;		/* of all its scopes */
	const char *problem;		/* why it cannot be called, or NULL */
	/* as stored */
	char	   *dialect_name;
	char	   *base_url;
} Provider;

typedef struct Model
{
	Provider   *provider;
	char	   *name;
	int			context_window; /* tokens; 0 = unknown */
	int			max_output_tokens;	/* 0 = unknown */
	Picodollars input_price;	/* per token; PRICE_UNKNOWN */
	Picodollars output_price;
	Picodollars cached_input_price;
	uint32		capabilities;	/* CAP_…, the dialect's when NULL */
	int			rpm;			/* of each target; 0 = no limit */
	int			tpm;
	bool		enabled;
	bool		known;			/* has a row */
	int			ntargets;
	struct Target **targets;	/* by region */
	/* as stored */
	char	   *provider_name;
	bool		has_capabilities;
} Model;

typedef struct Route
{
	struct Tier *tier;
	char	   *provider_name;	/* as the row says */
	Provider   *provider;		/* NULL: builtin, or there is none of it */
	char	   *model_name;
	char	   *model_utf8;		/* NULL: not convertible, problem is set */
	Model	   *model;			/* NULL only without provider */
	BuiltinModel builtin;		/* BUILTIN_NONE: goes to a provider */
	char	   *region_name;	/* NULL = each */
	int			position;
	double		weight;
	bool		enabled;
	JsonNode   *params;			/* UTF-8, or NULL */
	const char *problem;		/* why it leads nowhere, or NULL */
	/* as stored */
	char	   *tier_name;
} Route;

/* A model at one region: what attempts are made at. */
typedef struct Target
{
	Region	   *region;
	Model	   *model;
	HealthTarget health;		/* refers to cells in shared memory */
} Target;

/*
 * A route at one region. Sorted by (route.position, region.position); a run
 * of equal pairs is a group.
 */
typedef struct Candidate
{
	Route	   *route;
	Region	   *region;			/* NULL: builtin, or problem is set */
	Target	   *target;			/* NULL when region is */
	int			group;			/* 0, 1, … within the tier */
	double		share;			/* of its group, over the enabled, 0–1 */
	const char *problem;		/* why its configuration cannot work, or NULL */
} Candidate;

typedef struct Tier
{
	char	   *name;
	char	   *fallback_name;	/* or NULL */
	struct Tier *fallback;		/* NULL: none, or there is none of that name */
	bool		enabled;
	char	   *strategy;
	Usec		timeout;
	Usec		attempt_timeout;
	Usec		connect_timeout;
	Usec		first_byte_timeout; /* 0 = none of its own */
	int			max_attempts;
	bool		content_filter_next;	/* on_content_filter = 'next' */
	Usec		hedge_after;	/* 0 = never */
	double		warm_share;
	Usec		queue_timeout;	/* of a task; 0 = none */
	CellRef		cell;			/* its counts in shared memory */
	int			ncandidates;
	Candidate  *candidates;		/* enabled or not: see candidate_disabled() */
	/* as stored */
	char	   *on_content_filter;
} Tier;

typedef struct Rule
{
	char	   *name;
	char	   *feature;		/* NULL = any call */
	char	   *pattern;
	char	   *answer;
	/* as stored */
	int			position;
	bool		enabled;
} Rule;							/* enabled ones only, in the order to try */

/* A target that a row of llm_probe has asked from time to time. */
typedef struct ProbedTarget
{
	struct Probe *probe;
	Candidate	candidate;
	Route		route;			/* no row's: its own, in a tier of its own, */
	Tier		tier;			/* with what the first route to the target */
								/* and its tier say */
} ProbedTarget;

typedef struct Probe
{
	char	   *model_name;
	char	   *region_name;	/* NULL = each of the provider */
	Usec		every;
	char	   *prompt;
	char	   *prompt_utf8;	/* NULL: not convertible, has a problem */
	char	   *expect;			/* regular expression; NULL = any answer */
	int			ntargets;		/* 0: there is no such provider */
	ProbedTarget *targets;		/* by region; disabled or not, as candidates */
	/* as stored */
	char	   *provider_name;
	bool		enabled;
} Probe;						/* enabled ones only */

typedef struct StoredSecret
{
	char	   *name;
	char	   *value;
} StoredSecret;

typedef struct Config
{
	MemoryContext context;
	int			pins;
	uint64		version;		/* another number for every snapshot */
	Oid			schema;			/* where the extension lives */
	int			nproviders;
	Provider   *providers;		/* by name */
	int			nregions;
	Region	   *regions;		/* with a row: by provider, position, name */
	int			nmodels;
	Model	   *models;			/* by provider and name */
	int			ntiers;
	Tier	   *tiers;			/* by name */
	int			nroutes;
	Route	   *routes;			/* by tier, position, names */
	int			ntargets;
	Target	   *targets;		/* of all routes and probes: by provider, */
								/* region, model */
	uint64		cells_as_of;	/* cells_reclaimed() when they were found */
	int			nrules;
	Rule	   *rules;
	int			nprobes;
	Probe	   *probes;			/* by provider, model, region */
	int			nsecrets;
	StoredSecret *secrets;		/* by name */
} Config;

extern Config *config_get(Oid any_own_function);

/*
 * The version of the snapshot that config_get() would return as far as this
 * process knows, without asking for news; 0 if it would build one. Needs no
 * transaction.
 */
extern uint64 config_version(void);

extern void config_pin(Config *config);
extern void config_unpin(Config *config);

extern Tier *config_tier(const Config *config, const char *name);
extern Provider *config_provider(const Config *config, const char *name);
extern Region *provider_region(const Provider *provider, const char *name);

/* A model that has a row, a route or a probe, or NULL. */
extern Model *provider_model(const Config *config, const Provider *provider,
							 const char *name);

extern bool region_has_labels(const Region *region, char **labels,
							  int nlabels);

/*
 * Why a candidate takes no new work ("provider disabled", "region disabled",
 * "model disabled", "route disabled", its problem), or NULL when it does.
 * Whether its tier is enabled is not asked.
 */
extern const char *candidate_disabled(const Candidate *candidate);

/* The name nearest to a misspelt one, for "Did you mean", or NULL. */
extern const char *closest_name(const char *given, const char *const *names,
								int nnames);
extern const char *config_closest_tier(const Config *config,
									   const char *given);
extern const char *config_closest_provider(const Config *config,
										   const char *given);

#endif							/* LLM_CONFIG_H */
