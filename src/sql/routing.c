/*
 * routing.c
 *	  llm_routing: the effective configuration, a row a candidate.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "catalog/config.h"
#include "catalog/secret.h"
#include "settings.h"

/* The view's columns, in its order. */
typedef enum RoutingColumn
{
	COL_TIER,
	COL_PROVIDER,
	COL_REGION,
	COL_MODEL,
	COL_DIALECT,
	COL_BASE_URL,
	COL_CREDENTIAL,
	COL_RESIDENCY,
	COL_ROUTE_POSITION,
	COL_REGION_POSITION,
	COL_SHARE,
	COL_ENABLED,
	COL_PROBLEM,
	NUM_COLUMNS
} RoutingColumn;

PG_FUNCTION_INFO_V1(llm_routing_rows);

static void put_row(ReturnSetInfo *rsinfo, const Config *config,
					const Tier *tier, const Candidate *candidate);
static const char *find_problem(const Config *config,
								const Candidate *candidate);
static void set_text(Datum *values, bool *nulls, RoutingColumn column,
					 const char *text);
static Datum labels_datum(const Region *region);

/* Returns the rows of the view llm_routing. */
Datum
llm_routing_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Config	   *config;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);

	for (int t = 0; t < config->ntiers; t++)
	{
		const Tier *tier = &config->tiers[t];

		for (int c = 0; c < tier->ncandidates; c++)
			put_row(rsinfo, config, tier, &tier->candidates[c]);
	}
	return (Datum) 0;
}

/* Appends the row of one candidate. */
static void
put_row(ReturnSetInfo *rsinfo, const Config *config, const Tier *tier,
		const Candidate *candidate)
{
	const Route *route = candidate->route;
	const Region *region = candidate->region;
	const Dialect *dialect = route->provider ? route->provider->dialect : NULL;
	const char *problem = find_problem(config, candidate);
	Datum		values[NUM_COLUMNS] = {0};
	bool		nulls[NUM_COLUMNS] = {0};

	set_text(values, nulls, COL_TIER, tier->name);
	set_text(values, nulls, COL_PROVIDER, route->provider_name);
	set_text(values, nulls, COL_REGION,
			 region ? region->name : route->region_name);
	set_text(values, nulls, COL_MODEL, route->model_name);
	set_text(values, nulls, COL_DIALECT, dialect ? dialect->name : NULL);
	set_text(values, nulls, COL_BASE_URL, region ? region->base_url : NULL);
	set_text(values, nulls, COL_CREDENTIAL,
			 secret_describe(region ? region->secret : NULL));
	set_text(values, nulls, COL_PROBLEM, problem);

	if (region)
		values[COL_RESIDENCY] = labels_datum(region);
	else
		nulls[COL_RESIDENCY] = true;
	values[COL_ROUTE_POSITION] = Int32GetDatum(route->position);
	values[COL_REGION_POSITION] = Int32GetDatum(region ? region->position : 1);
	values[COL_SHARE] = Float4GetDatum((float4) candidate->share);
	values[COL_ENABLED] = BoolGetDatum(tier->enabled && problem == NULL &&
									   candidate_disabled(candidate) == NULL);

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * Says why a candidate cannot work, or NULL: what the configuration tells, and
 * then whether its credentials can be had, which is tried.
 */
static const char *
find_problem(const Config *config, const Candidate *candidate)
{
	return candidate->problem ? candidate->problem :
		secret_problem(config, candidate);
}

/* Sets a column of type text; NULL is NULL. */
static void
set_text(Datum *values, bool *nulls, RoutingColumn column, const char *text)
{
	nulls[column] = text == NULL;
	if (text)
		values[column] = CStringGetTextDatum(text);
}

/* Makes text[] of a region's labels. */
static Datum
labels_datum(const Region *region)
{
	Datum	   *labels = palloc((region->nlabels + 1) * sizeof(Datum));

	for (int i = 0; i < region->nlabels; i++)
		labels[i] = CStringGetTextDatum(region->labels[i]);
	return PointerGetDatum(construct_array(labels, region->nlabels, TEXTOID,
										   -1, false, TYPALIGN_INT));
}
