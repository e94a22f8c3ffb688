/*
 * status.c
 *	  The rows of the view llm_status: how each target is.
 *
 * A target has a row when a route or a probe leads to it, or when it was called
 * since its counts were reset. Its state is the worst of its provider's, its
 * region's and its own. Only atomics are read, but for a breaker's window,
 * whose lock is held for a copy.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "cells.h"
#include "settings.h"

/* The view's columns, in its order. */
typedef enum StatusColumn
{
	COL_PROVIDER,
	COL_REGION,
	COL_MODEL,
	COL_STATE,
	COL_UNTIL,
	COL_REASON,
	COL_IN_FLIGHT,
	COL_CALLS,
	COL_FAILURES,
	COL_ERROR_RATE,
	COL_P50,
	COL_P95,
	COL_P99,
	COL_TOTAL_P50,
	COL_TOTAL_P95,
	COL_TOTAL_P99,
	COL_STATS_RESET,
	NUM_COLUMNS
} StatusColumn;

/* What a target is like, from well to worst. */
typedef enum TargetState
{
	STATE_CLOSED,
	STATE_RAMPING,
	STATE_HALF_OPEN,
	STATE_THROTTLED,
	STATE_OPEN,
	STATE_DISABLED
} TargetState;

static const char *const state_names[] = {
	[STATE_CLOSED] = "closed",
	[STATE_RAMPING] = "ramping",
	[STATE_HALF_OPEN] = "half_open",
	[STATE_THROTTLED] = "throttled",
	[STATE_OPEN] = "open",
	[STATE_DISABLED] = "disabled",
};

/* A breaker's states among them, and in words. */
static const struct
{
	TargetState state;
	const char *words;
}			breaker_states[] = {
	[BREAKER_CLOSED] = {STATE_CLOSED, "closed"},
	[BREAKER_OPEN] = {STATE_OPEN, "open"},
	[BREAKER_HALF_OPEN] = {STATE_HALF_OPEN, "half-open"},
	[BREAKER_RAMPING] = {STATE_RAMPING, "ramping"},
};

static const char *const scope_names[] = {
	[CELL_PROVIDER] = "provider",
	[CELL_REGION] = "region",
	[CELL_TARGET] = "target",
};

/* A target that has a row. */
typedef struct StatusRow
{
	const char *provider;
	const char *region;
	const char *model;
	const HealthTarget *health; /* NULL: no route leads to it any more, and */
	CellRef		cell;			/* this is all there is of it */
	const char *disabled;		/* why it takes no work, or NULL */
} StatusRow;

/* The worst that was found of a target. */
typedef struct Finding
{
	TargetState state;
	Usec		until;			/* 0 = not known */
	const char *reason;
} Finding;

PG_FUNCTION_INFO_V1(llm_status_rows);

static int	find_rows(const Config *config, StatusRow **rows);
static void find_disabled(const Config *config, StatusRow *rows);
static int	compare_rows(const void *a, const void *b);
static bool same_target(const StatusRow *a, const StatusRow *b);
static void put_row(ReturnSetInfo *rsinfo, const StatusRow *row,
					const Moment *moment);
static void put_state(const StatusRow *row, const Moment *moment,
					  Datum *values, bool *nulls);
static void find_worst(const HealthTarget *health, Usec now,
					   Finding *finding);
static void look_at_breaker(Cell *cell, CellScope scope,
							const BreakerConfig *config, Usec now,
							Finding *finding);
static void look_at_throttle(Cell *cell, Usec now, Finding *finding);
static bool worst_error_rate(const HealthTarget *health, Usec now,
							 double *rate);
static void put_counts(Cell *cell, Usec now, Datum *values, bool *nulls);

/* Returns the rows of the view llm_status, sorted by name. */
Datum
llm_status_rows(PG_FUNCTION_ARGS)
{
	StatusRow  *rows;
	const Config *config;
	int			n;
	Moment		moment;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	config = config_get(fcinfo->flinfo->fn_oid);
	n = find_rows(config, &rows);
	qsort(rows, n, sizeof(StatusRow), compare_rows);
	moment = moment_now();
	for (int i = 0; i < n; i++)
		if (i == 0 || !same_target(&rows[i], &rows[i - 1]))
			put_row((ReturnSetInfo *) fcinfo->resultinfo, &rows[i], &moment);
	return (Datum) 0;
}

/*
 * Collects the targets of all routes and probes and those that were called;
 * returns how many. One that is both is there twice.
 */
static int
find_rows(const Config *config, StatusRow **rows)
{
	KnownCells	known = cells_known();
	int			n = config->ntargets;

	*rows = palloc_extended((config->ntargets + known.n + 1) *
							sizeof(StatusRow), MCXT_ALLOC_HUGE);
	for (int i = 0; i < config->ntargets; i++)
	{
		const Target *target = &config->targets[i];

		(*rows)[i] = (StatusRow) {
			target->region->provider->name, target->region->name,
			target->model->name, &target->health,
			target->health.cells[CELL_TARGET], NULL
		};
	}
	find_disabled(config, *rows);
	for (int i = 0; i < known.n; i++)
	{
		const KnownCell *it = &known.cells[i];

		if (it->key.scope == CELL_TARGET &&
			cell_counted(it->ref.cell, COUNT_CALLS) > 0)
			(*rows)[n++] = (StatusRow) {
				it->key.provider, it->key.region, it->key.model, NULL,
				it->ref, "no route leads to it"
			};
	}
	return n;
}

/*
 * Fills why targets take no new work: none of their candidates does, and that
 * is why the last of them does not. Where no route leads, a probe's tells.
 */
static void
find_disabled(const Config *config, StatusRow *rows)
{
	for (int p = 0; p < config->nprobes; p++)
		for (int i = 0; i < config->probes[p].ntargets; i++)
		{
			const Candidate *candidate = &config->probes[p].targets[i].candidate;

			if (candidate->target)
				rows[candidate->target - config->targets].disabled =
					candidate_disabled(candidate);
		}
	for (int works = 0; works <= 1; works++)
		for (int t = 0; t < config->ntiers; t++)
			for (int i = 0; i < config->tiers[t].ncandidates; i++)
			{
				const Candidate *candidate = &config->tiers[t].candidates[i];
				const char *why = config->tiers[t].enabled ?
					candidate_disabled(candidate) : "tier disabled";

				if (candidate->target && (why == NULL) == works)
					rows[candidate->target - config->targets].disabled = why;
			}
}

/* Sorts by provider, region and model; of equals the routed one is first. */
static int
compare_rows(const void *a, const void *b)
{
	const StatusRow *left = a;
	const StatusRow *right = b;
	int			order = strcmp(left->provider, right->provider);

	if (order == 0)
		order = strcmp(left->region, right->region);
	if (order == 0)
		order = strcmp(left->model, right->model);
	return order ? order : (left->health == NULL) - (right->health == NULL);
}

static bool
same_target(const StatusRow *a, const StatusRow *b)
{
	return strcmp(a->provider, b->provider) == 0 &&
		strcmp(a->region, b->region) == 0 && strcmp(a->model, b->model) == 0;
}

/* Appends a target's row. */
static void
put_row(ReturnSetInfo *rsinfo, const StatusRow *row, const Moment *moment)
{
	Datum		values[NUM_COLUMNS] = {0};
	bool		nulls[NUM_COLUMNS];
	Cell	   *cell = cell_of(row->cell);
	double		rate;

	memset(nulls, true, sizeof(nulls));
	memset(nulls, false, COL_UNTIL * sizeof(bool));
	values[COL_PROVIDER] = CStringGetTextDatum(row->provider);
	values[COL_REGION] = CStringGetTextDatum(row->region);
	values[COL_MODEL] = CStringGetTextDatum(row->model);
	put_state(row, moment, values, nulls);
	if (row->health && worst_error_rate(row->health, moment->now, &rate))
	{
		values[COL_ERROR_RATE] = Float4GetDatum((float4) rate);
		nulls[COL_ERROR_RATE] = false;
	}
	if (cell)
		put_counts(cell, moment->now, values, nulls);
	/* what nobody routes to may have become another's while it was read */
	if (row->health || cell_of(row->cell))
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
}

/* Fills state, until and reason. */
static void
put_state(const StatusRow *row, const Moment *moment, Datum *values,
		  bool *nulls)
{
	Finding		finding = {STATE_CLOSED, 0, NULL};

	if (row->disabled)
		finding = (Finding) {STATE_DISABLED, 0, row->disabled};
	else
		find_worst(row->health, moment->now, &finding);
	values[COL_STATE] = CStringGetTextDatum(state_names[finding.state]);
	if (finding.until > 0)
	{
		values[COL_UNTIL] =
			TimestampTzGetDatum(moment_at(moment, finding.until));
		nulls[COL_UNTIL] = false;
	}
	if (finding.reason)
	{
		values[COL_REASON] = CStringGetTextDatum(finding.reason);
		nulls[COL_REASON] = false;
	}
}

/* Finds the worst of a target's scopes; of equals the widest. */
static void
find_worst(const HealthTarget *health, Usec now, Finding *finding)
{
	for (CellScope scope = CELL_PROVIDER; scope <= CELL_TARGET; scope++)
	{
		Cell	   *cell = cell_of(health->cells[scope]);

		if (cell == NULL)
			continue;
		look_at_breaker(cell, scope, health->breaker, now, finding);
		if (scope == CELL_TARGET)
			look_at_throttle(cell, now, finding);
	}
}

/* Takes a breaker's state for the finding, if that is worse. */
static void
look_at_breaker(Cell *cell, CellScope scope, const BreakerConfig *config,
				Usec now, Finding *finding)
{
	BreakerView view = breaker_view(&cell->breaker, config, now);
	TargetState state = breaker_states[view.state].state;
	char		reason[CELL_REASON_LEN];

	if (state < finding->state ||
		(state == finding->state && view.until <= finding->until))
		return;
	cell_get_reason(cell, reason);
	finding->state = state;
	/* of trials there is but a lease, which nobody needs to wait for */
	finding->until = state == STATE_HALF_OPEN ? 0 : view.until;
	if (view.forced && state == STATE_OPEN)
		finding->reason = psprintf("%s breaker %s", scope_names[scope],
								   reason[0] ? reason : "opened by hand");
	else
		finding->reason = psprintf("%s breaker %s%s%s", scope_names[scope],
								   breaker_states[view.state].words,
								   reason[0] ? ": " : "", reason);
}

/* Takes what the target's owner asked for, if that is worse. */
static void
look_at_throttle(Cell *cell, Usec now, Finding *finding)
{
	Usec		until = (Usec) pg_atomic_read_u64(&cell->throttled_until);

	if (until <= now || STATE_THROTTLED <= finding->state)
		return;
	finding->state = STATE_THROTTLED;
	finding->until = until;
	finding->reason = "target throttled";
}

/*
 * Finds the error rate over breaker_window: of the scope that has the highest,
 * since a failure is booked to one scope only. False when none has a call.
 */
static bool
worst_error_rate(const HealthTarget *health, Usec now, double *rate)
{
	bool		any = false;

	for (int i = 0; i < HEALTH_SCOPES; i++)
	{
		Cell	   *cell = cell_of(health->cells[i]);
		Window		window;
		WindowCounts sum;

		if (cell == NULL)
			continue;
		SpinLockAcquire(&cell->breaker.lock);
		window = cell->breaker.window;
		SpinLockRelease(&cell->breaker.lock);
		sum = window_sum(&window, health->breaker->window, now);
		if (sum.calls == 0)
			continue;
		*rate = Max(any ? *rate : 0, (double) sum.failures / sum.calls);
		any = true;
	}
	return any;
}

/* Fills what is counted and measured of a target. */
static void
put_counts(Cell *cell, Usec now, Datum *values, bool *nulls)
{
	values[COL_IN_FLIGHT] =
		Int32GetDatum((int32) pg_atomic_read_u32(&cell->in_flight));
	nulls[COL_IN_FLIGHT] = false;
	values[COL_CALLS] = Int64GetDatum(cell_counted(cell, COUNT_CALLS));
	nulls[COL_CALLS] = false;
	values[COL_FAILURES] = Int64GetDatum(cell_counted(cell, COUNT_FAILURES));
	nulls[COL_FAILURES] = false;
	put_percentiles(&cell->latency, true, now, &values[COL_P50],
					&nulls[COL_P50]);
	put_percentiles(&cell->latency, false, now, &values[COL_TOTAL_P50],
					&nulls[COL_TOTAL_P50]);
	put_stats_reset(cell, &values[COL_STATS_RESET], &nulls[COL_STATS_RESET]);
}
