/*
 * database.c
 *	  Which databases there are for the launcher: see database.h.
 *
 * It reads pg_database row by row: who is connected to no database has no
 * indexes and no system caches to rely on.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "utils/memutils.h"

#include "database.h"

/* pg_database.datconnlimit of what DROP DATABASE has left half done. */
#define LIMIT_OF_INVALID (-2)

#define USUAL_NUMBER 64

static bool admits_us(Form_pg_database database);

int
databases_open(Oid **databases)
{
	int			n = 0;
	int			max = USUAL_NUMBER;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	*databases = MemoryContextAlloc(TopMemoryContext, max * sizeof(Oid));
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (!admits_us(database))
			continue;
		if (n == max)
			*databases = repalloc(*databases, (max *= 2) * sizeof(Oid));
		(*databases)[n++] = database->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return n;
}

bool
database_is_open(Oid database)
{
	Oid		   *databases;
	int			n = databases_open(&databases);
	bool		found = false;

	for (int i = 0; i < n; i++)
		found = found || databases[i] == database;
	pfree(databases);
	return found;
}

/* A template is to be copied, and has no work of its own. */
static bool
admits_us(Form_pg_database database)
{
	return database->datallowconn && !database->datistemplate &&
		database->datconnlimit != LIMIT_OF_INVALID;
}
