/*
 * writer.c
 *	  The background worker that stores the state of breakers.
 *
 * It lives for as long as there are changes, and a second longer: started by a
 * process that has changed a breaker (catalog/breaker_store.c), never started
 * again by the postmaster. While it lives it holds the lease in its database's
 * slot, so that nobody starts a second one; an error leaves the lease to run
 * out, which is all that keeps a table that cannot be written from being tried
 * with every call.
 *
 * Each time it replaces all rows in one short transaction. What is in the table
 * is then as of a moment at which the count of changes was not smaller than
 * what is noted as stored: a change that comes later differs from it, and is
 * stored next. It never waits for a lock, and waits for changes outside of any
 * transaction, where DROP DATABASE and DROP EXTENSION do not meet it. When it
 * is told to end it finishes what it writes, which takes no time.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog/breaker_store.h"
#include "compat.h"
#include "health/shared.h"

/* How long it waits for more changes. */
#define LINGER (1 * USEC_SEC)

/* A lock that others hold is tried for so many times, LINGER apart. */
#define LOCK_TRIES 10

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

PGDLLEXPORT void llm_writer_main(Datum arg) pg_attribute_noreturn();

static void fix_settings(void);
static bool retire(DatabaseSlot *slot);
static bool store(DatabaseSlot *slot);
static bool store_in_transaction(void);
static char *extension_schema(void);
static void replace_rows(const char *table);
static OpenBreakers collect(void);
static void collect_cell(Cell *cell, void *arg);
static void insert_row(SPIPlanPtr plan, const OpenBreaker *breaker);
static Datum text_or_null(const char *text, char *null);
static void linger(void);

static Oid	row_types[ROW_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, INT4OID,
	TIMESTAMPTZOID, TEXTOID
};

/* The process; `arg` is the database's OID. */
void
llm_writer_main(Datum arg)
{
	DatabaseSlot *slot;
	int			tries = 0;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	fix_settings();

	slot = shared_database(MyDatabaseId);
	if (slot == NULL)
		proc_exit(0);
	do
	{
		pg_atomic_write_u64(&slot->writer_until, clock_now() + WRITER_LEASE);
		tries = store(slot) ? 0 : tries + 1;
		linger();
	} while (!ShutdownRequestPending && tries < LOCK_TRIES &&
			 (tries > 0 || !retire(slot)));
	proc_exit(0);
}

/*
 * Undoes what the settings of the server or the database could do to us: we are
 * who we are, names mean what they say, the transaction may write and sees the
 * newest rows, and waits neither for others' locks nor for a standby.
 */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"synchronous_commit", "local"},
		{"lock_timeout", "1s"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/*
 * Gives the lease back, unless there is more to store: who changed a breaker
 * just before that saw the lease and left the work to us.
 */
static bool
retire(DatabaseSlot *slot)
{
	uint64		nobody = 0;

	pg_atomic_exchange_u64(&slot->writer_until, 0);
	if (pg_atomic_read_u64(&slot->changes) ==
		pg_atomic_read_u64(&slot->stored))
		return true;
	return !pg_atomic_compare_exchange_u64(&slot->writer_until, &nobody,
										   clock_now() + WRITER_LEASE);
}

/*
 * Stores what there is, if that has changed; false when somebody has the table
 * locked.
 */
static bool
store(DatabaseSlot *slot)
{
	uint64		changes = pg_atomic_read_u64(&slot->changes);
	bool		done;

	if (changes == pg_atomic_read_u64(&slot->stored))
		return true;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "storing the state of breakers");

	done = store_in_transaction();

	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);

	if (done)
		pg_atomic_write_u64(&slot->stored, changes);
	return done;
}

/*
 * Locks the table and stores; without the extension there is nothing to do. The
 * lock keeps other writers, and whoever changes the table or locks a row, out
 * until the end of the transaction; false if one of them is there already.
 */
static bool
store_in_transaction(void)
{
	char	   *schema = extension_schema();
	Oid			relid = schema == NULL ? InvalidOid :
		get_relname_relid(BREAKER_TABLE, get_namespace_oid(schema, true));

	if (!OidIsValid(relid))
		return true;
	if (!ConditionalLockRelationOid(relid, ExclusiveLock))
		return false;
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		replace_rows(quote_qualified_identifier(schema, BREAKER_TABLE));
	return true;
}

/* Returns the schema of the extension, or NULL if this database lacks it. */
static char *
extension_schema(void)
{
	if (SPI_execute("SELECT n.nspname FROM pg_catalog.pg_extension e"
					" JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
					" WHERE e.extname = 'llm_failover'", true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not look for the extension");
	if (SPI_processed == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Replaces the rows by those of the breakers that are not closed. */
static void
replace_rows(const char *table)
{
	OpenBreakers open = collect();
	SPIPlanPtr	plan;

	if (SPI_execute(psprintf("DELETE FROM %s", table), false, 0) !=
		SPI_OK_DELETE)
		elog(ERROR, "could not delete from %s", table);
	plan = SPI_prepare(psprintf("INSERT INTO %s (provider, region, model,"
								" state, forced, sticky, trips, until, reason)"
								" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
								table),
					   ROW_COLUMNS, row_types);
	if (plan == NULL)
		elog(ERROR, "could not prepare an insert into %s", table);
	for (int i = 0; i < open.n; i++)
		insert_row(plan, &open.breakers[i]);
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
insert_row(SPIPlanPtr plan, const OpenBreaker *breaker)
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
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert the state of a breaker");
}

/* Turns an empty text into NULL. */
static Datum
text_or_null(const char *text, char *null)
{
	*null = *text ? ' ' : 'n';
	return CStringGetTextDatum(text);
}

/* Lets a second pass; not when the process is to end. */
static void
linger(void)
{
	static uint32 wait_event = 0;
	Usec		until = clock_now() + LINGER;
	Usec		left;

	if (wait_event == 0)
		wait_event = new_wait_event_compat("LlmFailoverWriter");
	while (!ShutdownRequestPending && (left = until - clock_now()) > 0)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) (left / USEC_MSEC) + 1,
						 wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
