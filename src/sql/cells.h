/*
 * cells.h
 *	  Health in SQL: between the functions that show cells of shared memory,
 *	  those that change them by hand, and all that take a target's names.
 */
#ifndef LLM_CELLS_H
#define LLM_CELLS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"

#include "catalog/config.h"

/* What a person names; NULL = any. */
typedef struct Names
{
	char	   *provider;
	char	   *region;
	char	   *model;
} Names;

/* names.c */
extern Names names_of_args(FunctionCallInfo fcinfo);
extern void names_check(const Names *names, const Config *config);
extern bool names_cover(const Names *names, const CellKey *key);

/* A cell as the table had it, to be used when the table's lock is gone. */
typedef struct KnownCell
{
	CellKey		key;
	CellRef		ref;
} KnownCell;

typedef struct KnownCells
{
	int			n;
	int			max;
	KnownCell  *cells;
} KnownCells;

/* Monotonic time and the time of day, read at one moment. */
typedef struct Moment
{
	Usec		now;
	TimestampTz wall;
} Moment;

/* How many percentiles a view shows: p50, p95, p99. */
#define SHOWN_PERCENTILES 3

/* cells.c */
extern KnownCells cells_known(void);
extern uint64 cell_counted(Cell *cell, CellCount count);
extern Moment moment_now(void);
extern TimestampTz moment_at(const Moment *moment, Usec at);
extern void put_percentiles(const Latency *latency, bool recent, Usec now,
							Datum *values, bool *nulls);
extern void put_stats_reset(Cell *cell, Datum *value, bool *isnull);

#endif							/* LLM_CELLS_H */
