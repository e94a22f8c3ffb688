/*
 * columns.c
 *	  Rows for a statement that takes an array a column: see columns.h.
 */
#include "postgres.h"

#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "queue/columns.h"

void
columns_make(Columns *columns, int ncolumns, const Oid *types, int nrows)
{
	size_t		n = (size_t) ncolumns * nrows;

	*columns = (Columns) {
		.ncolumns = ncolumns,
		.nrows = nrows,
		.types = types,
		.values = palloc0(n * sizeof(Datum)),
		.nulls = palloc(n),
	};
	memset(columns->nulls, true, n);
}

void
columns_put(Columns *columns, int row, int column, Datum value)
{
	int			at = column * columns->nrows + row;

	columns->values[at] = value;
	columns->nulls[at] = false;
}

void
columns_put_text(Columns *columns, int row, int column, const char *text)
{
	if (text)
		columns_put(columns, row, column, CStringGetTextDatum(text));
}

Datum *
columns_arrays(const Columns *columns)
{
	Datum	   *arrays = palloc(columns->ncolumns * sizeof(Datum));
	int			dim = columns->nrows;
	int			first = 1;

	for (int i = 0; i < columns->ncolumns; i++)
	{
		Oid			type = columns->types[i];
		int16		len;
		bool		byval;
		char		align;

		get_typlenbyvalalign(type, &len, &byval, &align);
		arrays[i] =
			PointerGetDatum(construct_md_array(columns->values + i * dim,
											   columns->nulls + i * dim,
											   1, &dim, &first,
											   type, len, byval, align));
	}
	return arrays;
}
