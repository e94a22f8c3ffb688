/*
 * breakers.c
 *	  The worker stores the state of breakers in llm_breaker: see breakers.h.
 *
 * Each time it replaces all rows in one short transaction. What is in the table
 * is then as of a moment at which the count of changes was not smaller than
 * what is noted as stored: a change that comes later differs from it, and is
 * stored next. It does not wait for one who has the table locked.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "breakers.h"
#include "catalog/breaker_store.h"
#include "queue/work.h"

/* After storing, and after meeting a lock. */
#define STORE_AGAIN (1 * USEC_SEC)

/* After an error: a table that cannot be written is not tried all the time. */
#define TRY_AGAIN (10 * USEC_SEC)

#define ROW_COLUMNS 9

/* A breaker that is not closed. */
typedef struct OpenBreaker
{
	CellKey		key;
	BreakerView view;
	char		reason[CELL_REASON_LEN];
} OpenBreaker;

typedef struct OpenBreakers
{
	Usec		now;
	int			n;				/* found */
	int			max;			/* room */
	OpenBreaker *breakers;
} OpenBreakers;

static bool is_stored(DatabaseSlot *slot);
static void replace_rows(void *arg);
static OpenBreakers collect(void);
static void collect_cell(Cell *cell, void *arg);
static void insert_row(const OpenBreaker *breaker);
static Datum text_or_null(const char *text, char *null);

/* Keeps out other writers, and whoever changes the table or locks a row. */
static WorkPlan lock_plan = {
	.sql = "LOCK TABLE @extschema@." BREAKER_TABLE " IN EXCLUSIVE MODE NOWAIT"
};

static WorkPlan delete_plan = {
	.sql = "DELETE FROM @extschema@." BREAKER_TABLE
};

static const Oid row_types[ROW_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, INT4OID,
	TIMESTAMPTZOID, TEXTOID
};

static WorkPlan insert_plan = {
	.sql = "INSERT INTO @extschema@." BREAKER_TABLE
	" (provider, region, model, state, forced, sticky, trips, until, reason)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	.nargs = ROW_COLUMNS,
	.types = row_types
};

Usec
breakers_store(DatabaseSlot *slot, Usec now)
{
	static Usec not_before = 0;
	uint64		changes = pg_atomic_read_u64(&slot->changes);
	WorkEnd		end;

	if (is_stored(slot))
		return USEC_NEVER;
	if (now < not_before)
		return not_before;
	end = work_run("storing the state of breakers", replace_rows, NULL);
	if (end == WORK_DONE)
		pg_atomic_write_u64(&slot->stored, changes);
	not_before = now + (end == WORK_FAILED ? TRY_AGAIN : STORE_AGAIN);
	return is_stored(slot) ? USEC_NEVER : not_before;
}

static bool
is_stored(DatabaseSlot *slot)
{
	return pg_atomic_read_u64(&slot->changes) ==
		pg_atomic_read_u64(&slot->stored);
}

/* Replaces the rows by those of the breakers that are not closed. */
static void
replace_rows(void *arg pg_attribute_unused())
{
	OpenBreakers open = collect();

	work_execute(&lock_plan, NULL, NULL);
	work_execute(&delete_plan, NULL, NULL);
	for (int i = 0; i < open.n; i++)
		insert_row(&open.breakers[i]);
}

/*
 * Lists the breakers that are not closed. They are counted first, as nothing
 * may be allocated under the table's lock. One that opens between is too many,
 * but then this is not the last time.
 */
static OpenBreakers
collect(void)
{
	OpenBreakers open = {.now = clock_now()};

	cells_visit(MyDatabaseId, collect_cell, &open);
	open.max = open.n;
	open.n = 0;
	open.breakers = palloc(Max(open.max, 1) * sizeof(OpenBreaker));
	cells_visit(MyDatabaseId, collect_cell, &open);
	open.n = Min(open.n, open.max);
	return open;
}

/*
 * Adds a cell whose breaker will still not be closed when somebody reads the
 * row. What does not depend on the breaker's settings is all that is used.
 */
static void
collect_cell(Cell *cell, void *arg)
{
	OpenBreakers *open = arg;
	BreakerView view = breaker_view(&cell->breaker, &breaker_defaults,
									open->now);

	if (view.state == BREAKER_CLOSED || view.until <= open->now)
		return;
	if (open->n < open->max)
	{
		OpenBreaker *it = &open->breakers[open->n];

		it->key = cell->key;
		it->view = view;
		cell_get_reason(cell, it->reason);
	}
	open->n++;
}

static void
insert_row(const OpenBreaker *breaker)
{
	const CellKey *key = &breaker->key;
	const BreakerView *view = &breaker->view;
	char		nulls[] = "         ";	/* one for each column */
	Datum		values[ROW_COLUMNS] = {
		CStringGetTextDatum(key->provider),
		text_or_null(key->region, &nulls[1]),
		text_or_null(key->model, &nulls[2]),
		CStringGetTextDatum(breaker_state_name(view->state)),
		BoolGetDatum(view->forced),
		BoolGetDatum(view->sticky),
		Int32GetDatum(view->trips),
		TimestampTzGetDatum(wall_of_usec(view->until)),
		text_or_null(breaker->reason, &nulls[8]),
	};

	StaticAssertStmt(sizeof(nulls) == ROW_COLUMNS + 1, "a mark a column");
	work_execute(&insert_plan, values, nulls);
}

/* Turns an empty text into NULL. */
static Datum
text_or_null(const char *text, char *null)
{
	*null = *text ? ' ' : 'n';
	return CStringGetTextDatum(text);
}
