/*
 * cells.c
 *	  What the functions over cells share: which there are, and how their
 *	  numbers become columns.
 *
 * The table of cells is locked only while it is listed. Everything else is
 * read and changed afterwards, through references: cells stay where they are,
 * and one that was given to another owner in the meantime is noticed.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "cells.h"
#include "driver.h"
#include "health/shared.h"

/* Notes a cell. Runs under the table's lock: no allocation. */
static void
note_cell(Cell *cell, void *arg)
{
	KnownCells *known = arg;
	KnownCell  *it;

	if (known->n == known->max)
		return;
	it = &known->cells[known->n++];
	it->key = cell->key;
	it->ref.cell = cell;
	it->ref.generation = pg_atomic_read_u32(&cell->generation);
}

/* Lists the cells of this database. */
KnownCells
cells_known(void)
{
	KnownCells	known = {.max = cells_most()};

	known.cells = palloc_extended(known.max * sizeof(KnownCell),
								  MCXT_ALLOC_HUGE);
	cells_visit(MyDatabaseId, note_cell, &known);
	return known;
}

/* Returns what was counted since the last reset. */
uint64
cell_counted(Cell *cell, CellCount count)
{
	return pg_atomic_read_u64(&cell->counts[count]);
}

/* Reads both clocks. */
Moment
moment_now(void)
{
	return (Moment) {clock_now(), GetCurrentTimestamp()};
}

/* Returns the time of day of a point in monotonic time. */
TimestampTz
moment_at(const Moment *moment, Usec at)
{
	return moment->wall + (at - moment->now);
}

/*
 * Fills three columns with p50, p95 and p99 of the last minute or since the
 * last reset; NULL without a sample.
 */
void
put_percentiles(const Latency *latency, bool recent, Usec now,
				Datum *values, bool *nulls)
{
	static const double shares[SHOWN_PERCENTILES] = {0.50, 0.95, 0.99};
	Usec		found[SHOWN_PERCENTILES];
	bool		any = latency_percentiles(latency, recent, shares,
										  SHOWN_PERCENTILES, found, now);

	for (int i = 0; i < SHOWN_PERCENTILES; i++)
	{
		nulls[i] = !any;
		if (any)
			values[i] = IntervalPGetDatum(usec_to_interval(found[i]));
	}
}

/* Fills a column with the time since when a cell counts. */
void
put_stats_reset(Cell *cell, Datum *value, bool *isnull)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&cell->stats_reset);

	*isnull = since == 0;
	*value = TimestampTzGetDatum(since);
}
