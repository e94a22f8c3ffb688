/*
 * retention.c
 *	  Deletes rows that are past their retention: see retention.h.
 *
 * A sweep goes through one table after the other, oldest rows first, a batch at
 * a time. Rows that somebody has locked are passed over, and so are those that
 * a foreign key without CASCADE refers to. When a batch cannot be deleted for
 * another reason (somebody's trigger, a lock on a row that would be deleted
 * with it), it is tried again in smaller pieces, down to the row that is to
 * blame. What is left is for the next sweep.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "queue/work.h"
#include "retention.h"
#include "settings.h"

#define BATCH 2000

/* A batch that cannot be deleted is cut into so many. */
#define PIECES 10

typedef struct Kind
{
	const char *table;
	const char *column;			/* the time that counts */
	const int  *retention;		/* minutes; -1 = for ever */
} Kind;

static const Kind kinds[] = {
	{"llm_task", "finished_at", &llm_task_retention},
	{"llm_event", "at", &llm_event_retention},
	{"llm_usage", "hour", &llm_usage_retention},
};

/* Where a sweep is. */
typedef struct Sweep
{
	int			kind;			/* lengthof(kinds) = there is none */
	int			limit;			/* rows of the next batch */
	TimestampTz at;				/* of the last row that it is done with */
	ItemPointerData place;
} Sweep;

/* Rows that are deleted together. */
typedef struct Batch
{
	const Kind *kind;
	int			n;
	TimestampTz at;				/* of the last one */
	ItemPointerData places[BATCH];
} Batch;

static Sweep sweep = {.kind = lengthof(kinds)};

static void begin_kind(int kind);
static void advance(WorkEnd end, const Batch *batch);
static void delete_batch(void *arg);
static void choose_rows(Batch *batch);
static char *no_reference(const char *table);
static void delete_rows(const Batch *batch);

void
retention_begin(void)
{
	if (sweep.kind == lengthof(kinds))
		begin_kind(0);
}

/* Starts with the oldest row of a table, or ends the sweep. */
static void
begin_kind(int kind)
{
	while (kind < (int) lengthof(kinds) && *kinds[kind].retention < 0)
		kind++;
	sweep.kind = kind;
	sweep.limit = BATCH;
	sweep.at = DT_NOBEGIN;
	ItemPointerSetInvalid(&sweep.place);
}

bool
retention_step(void)
{
	static Batch batch;

	if (sweep.kind == lengthof(kinds))
		return false;
	batch.kind = &kinds[sweep.kind];
	batch.n = 0;
	advance(work_run("deleting rows that are past their retention",
					 delete_batch, &batch), &batch);
	return sweep.kind < (int) lengthof(kinds);
}

/* Moves on after a batch. */
static void
advance(WorkEnd end, const Batch *batch)
{
	if (end != WORK_DONE && batch->n > 1)
	{
		sweep.limit = Max(batch->n / PIECES, 1);
		return;
	}
	if (batch->n < sweep.limit)
	{
		begin_kind(sweep.kind + 1);
		return;
	}
	sweep.at = batch->at;
	sweep.place = batch->places[batch->n - 1];
	if (end == WORK_DONE)
		sweep.limit = Min(sweep.limit * PIECES, BATCH);
}

/* --- in a transaction --- */

static void
delete_batch(void *arg)
{
	Batch	   *batch = arg;

	choose_rows(batch);
	if (batch->n > 0)
		delete_rows(batch);
}

/*
 * Chooses and locks the next rows. A row is known by its place, which does not
 * change as long as it is locked.
 */
static void
choose_rows(Batch *batch)
{
	const Kind *kind = batch->kind;
	TimestampTz before = GetCurrentTimestamp() -
		*kind->retention * (SECS_PER_MINUTE * USECS_PER_SEC);
	Oid			types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, TIDOID, INT4OID};
	Datum		values[] = {
		TimestampTzGetDatum(before), TimestampTzGetDatum(sweep.at),
		PointerGetDatum(&sweep.place), Int32GetDatum(sweep.limit)
	};
	char	   *sql = psprintf("SELECT t.%s, t.ctid FROM %s.%s t"
							   " WHERE t.%s < $1"
							   " AND (t.%s, t.ctid) > ($2, $3)%s"
							   " ORDER BY t.%s, t.ctid LIMIT $4"
							   " FOR UPDATE OF t SKIP LOCKED",
							   kind->column, work_schema(), kind->table,
							   kind->column, kind->column,
							   no_reference(kind->table), kind->column);

	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL,
							  false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		null;

		batch->at = DatumGetTimestampTz(SPI_getbinval(row, desc, 1, &null));
		batch->places[batch->n++] =
			*(ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, 2, &null));
	}
}

/*
 * Returns the condition that no row of a user's table refers to row t, by a
 * foreign key that would refuse to let it go.
 */
static char *
no_reference(const char *table)
{
	static const char *const sql =
		"SELECT string_agg(format(' AND NOT EXISTS"
		" (SELECT FROM %s f WHERE %s)', c.conrelid::regclass, k.match), '')"
		" FROM pg_constraint c, LATERAL (SELECT"
		" string_agg(format('t.%I OPERATOR(%I.%s) f.%I', p.attname, n.nspname,"
		" o.oprname, f.attname), ' AND ') AS match"
		" FROM unnest(c.confkey, c.conkey, c.conpfeqop) u(p, f, o)"
		" JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = u.p"
		" JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = u.f"
		" JOIN pg_operator o ON o.oid = u.o"
		" JOIN pg_namespace n ON n.oid = o.oprnamespace) k"
		" WHERE c.contype = 'f' AND c.confdeltype IN ('a', 'r')"
		" AND c.conparentid = 0 AND c.confrelid = $1::regclass";
	Oid			types[] = {TEXTOID};
	Datum		values[] = {
		CStringGetTextDatum(psprintf("%s.%s", work_schema(), table))
	};
	char	   *condition;

	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL,
							  true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for references to %s", table);
	condition = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return condition ? condition : "";
}

static void
delete_rows(const Batch *batch)
{
	Oid			types[] = {get_array_type(TIDOID)};
	Datum	   *places = palloc(batch->n * sizeof(Datum));
	Datum		values[1];
	char	   *sql = psprintf("DELETE FROM %s.%s WHERE ctid = ANY ($1)",
							   work_schema(), batch->kind->table);

	for (int i = 0; i < batch->n; i++)
		places[i] = PointerGetDatum(&batch->places[i]);
	values[0] = PointerGetDatum(construct_array(places, batch->n, TIDOID,
												sizeof(ItemPointerData),
												false, TYPALIGN_SHORT));
	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL,
							  false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from %s", batch->kind->table);
}
