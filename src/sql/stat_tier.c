/*
 * stat_tier.c
 *	  The rows of the view llm_stat_tier: what became of the calls of each
 *	  tier, by the tier that was asked for.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "cells.h"
#include "settings.h"

/* The view's columns, in its order. */
typedef enum TierColumn
{
	COL_TIER,
	COL_CALLS,
	COL_FAILED,
	COL_DEGRADED,
	COL_ATTEMPTS,
	COL_FAILOVERS,
	COL_RETRIES,
	COL_HEDGES,
	COL_P50,
	COL_P95,
	COL_P99,
	COL_STATS_RESET,
	NUM_COLUMNS
} TierColumn;

static const struct
{
	TierColumn	column;
	CellCount	count;
}			counted[] = {
	{COL_CALLS, COUNT_CALLS},
	{COL_FAILED, COUNT_FAILURES},
	{COL_DEGRADED, COUNT_DEGRADED},
	{COL_ATTEMPTS, COUNT_ATTEMPTS},
	{COL_FAILOVERS, COUNT_FAILOVERS},
	{COL_RETRIES, COUNT_RETRIES},
	{COL_HEDGES, COUNT_HEDGES},
};

/* A tier that has a row. */
typedef struct TierRow
{
	const char *name;
	CellRef		cell;
	bool		configured;
} TierRow;

PG_FUNCTION_INFO_V1(llm_stat_tier_rows);

static int	find_rows(const Config *config, TierRow **rows);
static int	compare_rows(const void *a, const void *b);
static void put_row(ReturnSetInfo *rsinfo, const TierRow *row, Usec now);
static void put_counts(Cell *cell, Usec now, Datum *values, bool *nulls);

/* Returns the rows of the view llm_stat_tier, sorted by name. */
Datum
llm_stat_tier_rows(PG_FUNCTION_ARGS)
{
	TierRow    *rows;
	int			n;
	Usec		now = clock_now();

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	n = find_rows(config_get(fcinfo->flinfo->fn_oid), &rows);
	qsort(rows, n, sizeof(TierRow), compare_rows);
	for (int i = 0; i < n; i++)
		if (i == 0 || strcmp(rows[i].name, rows[i - 1].name) != 0)
			put_row((ReturnSetInfo *) fcinfo->resultinfo, &rows[i], now);
	return (Datum) 0;
}

/*
 * Collects the configured tiers and those that were called; returns how many.
 * One that is both is there twice.
 */
static int
find_rows(const Config *config, TierRow **rows)
{
	KnownCells	known = cells_known();
	int			n = config->ntiers;

	*rows = palloc((config->ntiers + known.n + 1) * sizeof(TierRow));
	for (int i = 0; i < config->ntiers; i++)
		(*rows)[i] = (TierRow) {
			config->tiers[i].name, config->tiers[i].cell, true
		};
	for (int i = 0; i < known.n; i++)
	{
		const KnownCell *it = &known.cells[i];

		if (it->key.scope == CELL_TIER &&
			cell_counted(it->ref.cell, COUNT_CALLS) > 0)
			(*rows)[n++] = (TierRow) {it->key.provider, it->ref, false};
	}
	return n;
}

/* Sorts by name; of equals the configured one is first. */
static int
compare_rows(const void *a, const void *b)
{
	const TierRow *left = a;
	const TierRow *right = b;
	int			order = strcmp(left->name, right->name);

	return order ? order : right->configured - left->configured;
}

/* Appends a tier's row. */
static void
put_row(ReturnSetInfo *rsinfo, const TierRow *row, Usec now)
{
	Datum		values[NUM_COLUMNS] = {0};
	bool		nulls[NUM_COLUMNS];
	Cell	   *cell = cell_of(row->cell);

	memset(nulls, true, sizeof(nulls));
	values[COL_TIER] = CStringGetTextDatum(row->name);
	nulls[COL_TIER] = false;
	if (cell)
		put_counts(cell, now, values, nulls);
	/* the cell of a dropped tier may have become another's meanwhile */
	if (row->configured || cell_of(row->cell))
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
}

/* Fills what is counted and measured of a tier. */
static void
put_counts(Cell *cell, Usec now, Datum *values, bool *nulls)
{
	for (size_t i = 0; i < lengthof(counted); i++)
	{
		values[counted[i].column] =
			Int64GetDatum(cell_counted(cell, counted[i].count));
		nulls[counted[i].column] = false;
	}
	put_percentiles(&cell->latency, false, now, &values[COL_P50],
					&nulls[COL_P50]);
	put_stats_reset(cell, &values[COL_STATS_RESET], &nulls[COL_STATS_RESET]);
}
