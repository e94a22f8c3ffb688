/*
 * columns.h
 *	  Rows for a statement that takes an array a column.
 */
#ifndef LLM_COLUMNS_H
#define LLM_COLUMNS_H

#include "postgres.h"

/* Rows to be, in the memory context in which they were made; NULL at first. */
typedef struct Columns
{
	int			ncolumns;
	int			nrows;
	const Oid  *types;			/* of the elements */
	Datum	   *values;			/* column by column */
	bool	   *nulls;
} Columns;

extern void columns_make(Columns *columns, int ncolumns, const Oid *types,
						 int nrows);
extern void columns_put(Columns *columns, int row, int column, Datum value);

/* Puts a text; NULL stays NULL. */
extern void columns_put_text(Columns *columns, int row, int column,
							 const char *text);

/* Returns an array for each column. */
extern Datum *columns_arrays(const Columns *columns);

#endif							/* LLM_COLUMNS_H */
