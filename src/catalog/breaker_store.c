/*
 * breaker_store.c
 *	  Breakers outlive a restart: see breaker_store.h.
 *
 * What is stored is a help, not the truth: live state always wins, and nothing
 * here may stop or delay a call. Breakers are per server, so a standby neither
 * restores those of its primary nor stores its own.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "breaker_store.h"
#include "util/when.h"

/* A row of llm_breaker. */
typedef struct StoredBreaker
{
	char	   *provider;
	char	   *region;			/* NULL: the provider's own breaker */
	char	   *model;			/* NULL: the provider's, or the region's */
	BreakerView view;
	char	   *reason;
} StoredBreaker;

static DatabaseSlot *slot;		/* of this database, or NULL */

static void ask_for_worker(void);
static bool is_outdated(void);
static void count_change(DatabaseSlot *changed);
static bool claim_restore(void);
static void try_restore(const Config *config);
static void restore_table(const Config *config);
static void restore_rows(const Config *config, Relation rel);
static bool read_row(Relation rel, HeapTuple tuple, StoredBreaker *row);
static Datum column(Relation rel, HeapTuple tuple, const char *name, Oid type);
static char *text_column(Relation rel, HeapTuple tuple, const char *name);
static bool state_of_name(const char *name, BreakerState *state);
static void restore_row(const Config *config, const StoredBreaker *row);
static Cell *cell_of_row(const Config *config, const StoredBreaker *row);

bool
breaker_store_find_slot(void)
{
	if (slot == NULL)
		slot = slot_make(MyDatabaseId);
	if (slot)
		ask_for_worker();
	return slot != NULL;
}

/*
 * Has a worker started if there is none: nobody may have done so yet where the
 * extension has come with a template. It is asked for once; that it stays is
 * the launcher's business. What this transaction has created is not there yet
 * for others. On a standby the launcher hears of it when it is promoted.
 */
static void
ask_for_worker(void)
{
	static bool asked = false;

	if (asked || TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	asked = true;
	if (slot_pid(slot, SLOT_WORKER) == 0)
		slot_signal(slot, SLOT_WORKER, SIGNAL_LOOK);
}

/*
 * Lets an extension that was dropped and created again begin with cells of its
 * own: a breaker that somebody had opened by hand in the one before is none of
 * its. Its tables are others. What this transaction has done itself may be
 * rolled back, so then a later load finds out.
 */
void
breaker_store_forget_predecessor(const Config *config)
{
	Oid			table = get_relname_relid(BREAKER_TABLE, config->schema);
	Oid			before;

	if (slot == NULL || !OidIsValid(table) ||
		TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	before = pg_atomic_exchange_u32(&slot->table, table);
	if (!OidIsValid(before) || before == table)
		return;
	shared_forget_cells(MyDatabaseId);
	/* a worker that came late has stored the old ones in the new table */
	count_change(slot);
}

/* --- changes --- */

/*
 * Logs a change, and has it stored by the worker of the database that it is of,
 * for an outage of our network is taken back in all of them. Interrupts are
 * held: ereport() would act on a cancel, in the middle of the bookkeeping of an
 * attempt's end. So the client is not told; it might not be reading.
 */
void
breaker_store_note(const Cell *cell, const BreakerChange *change,
				   const char *reason)
{
	const CellKey *key = &cell->key;
	bool		opened = change->to == BREAKER_OPEN;
	DatabaseSlot *changed;
	char		until[WHEN_LEN];

	HOLD_INTERRUPTS();
	ereport(LOG_SERVER_ONLY,
			(errmsg("llm_failover: breaker of %s%s%s%s%s %s%s%s%s",
					key->provider,
					key->region[0] ? "/" : "", key->region,
					key->model[0] ? "/" : "", key->model,
					opened ? "opened until " :
					change->to == BREAKER_HALF_OPEN ? "half-open" :
					breaker_state_name(change->to),
					opened ? write_when(until, change->until, clock_now(),
										log_timezone) : "",
					reason && *reason ? ": " : "",
					reason ? reason : ""),
			 errhidestmt(true), errhidecontext(true)));
	changed = key->database == MyDatabaseId ? slot :
		slot_find(key->database);
	if (changed)
		count_change(changed);
	RESUME_INTERRUPTS();
}

/* The worker was told when it changed: what is missing may be the worker. */
void
breaker_store_flush(void)
{
	if (slot && is_outdated() && slot_pid(slot, SLOT_WORKER) == 0)
		slot_signal(slot, SLOT_WORKER, SIGNAL_BREAKERS);
}

static bool
is_outdated(void)
{
	return pg_atomic_read_u64(&slot->changes) !=
		pg_atomic_read_u64(&slot->stored);
}

/* Counts a change, and has the state of all breakers stored. */
static void
count_change(DatabaseSlot *changed)
{
	pg_atomic_fetch_add_u64(&changed->changes, 1);
	slot_signal(changed, SLOT_WORKER, SIGNAL_BREAKERS);
}

/* --- restoring --- */

void
breaker_store_restore(const Config *config)
{
	if (slot == NULL || !claim_restore())
		return;
	if (RecoveryInProgress())
		return;					/* and not after a promotion either */
	if (IsInParallelMode())
		pg_atomic_write_u32(&slot->restored, 0);	/* no subtransaction now */
	else
		try_restore(config);
}

static bool
claim_restore(void)
{
	uint32		restored = pg_atomic_read_u32(&slot->restored);

	return restored == 0 &&
		pg_atomic_compare_exchange_u32(&slot->restored, &restored, 1);
}

/*
 * Restores in a subtransaction, so that an error is a line in the log and
 * nothing else. Interrupts are held, so that no cancel counts as an error and
 * a terminated process does not leave it half done.
 */
static void
try_restore(const Config *config)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	HOLD_INTERRUPTS();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		restore_table(config);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();		/* the error has let go */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(LOG_SERVER_ONLY,
				(errcode(error->sqlerrcode),
				 errmsg("llm_failover: could not restore the state of breakers: %s",
						error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	RESUME_INTERRUPTS();
}

/*
 * Reads the table, but does not wait when somebody has it locked: then a later
 * load tries again. SQL that is older than the library has no such table.
 */
static void
restore_table(const Config *config)
{
	Oid			relid = get_relname_relid(BREAKER_TABLE, config->schema);
	Relation	rel;

	if (!OidIsValid(relid))
		return;
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		pg_atomic_write_u32(&slot->restored, 0);
		return;
	}
	rel = try_table_open(relid, NoLock);
	if (rel == NULL)
		return;
	restore_rows(config, rel);
	table_close(rel, AccessShareLock);
}

/* Restores each row, by a systable scan as in config_tables.c. */
static void
restore_rows(const Config *config, Relation rel)
{
	Snapshot	snapshot =
		RegisterSnapshot(GetCatalogSnapshot(RelationGetRelid(rel)));
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot,
										  0, NULL);
	HeapTuple	tuple;
	StoredBreaker row;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (read_row(rel, tuple, &row))
			restore_row(config, &row);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/* Reads a row; false when nothing follows from it any more. */
static bool
read_row(Relation rel, HeapTuple tuple, StoredBreaker *row)
{
	char	   *state = text_column(rel, tuple, "state");

	memset(row, 0, sizeof(*row));
	row->provider = text_column(rel, tuple, "provider");
	row->region = text_column(rel, tuple, "region");
	row->model = text_column(rel, tuple, "model");
	row->reason = text_column(rel, tuple, "reason");
	row->view.forced = DatumGetBool(column(rel, tuple, "forced", BOOLOID));
	row->view.sticky = DatumGetBool(column(rel, tuple, "sticky", BOOLOID));
	row->view.trips = DatumGetInt32(column(rel, tuple, "trips", INT4OID));
	row->view.until = usec_of_wall(DatumGetTimestampTz(column(rel, tuple,
															  "until",
															  TIMESTAMPTZOID)));

	/*
	 * A trip ends when what it blamed has changed, which a restart may have
	 * done: a key in the environment is only read then. One call will tell.
	 */
	return row->provider && state && state_of_name(state, &row->view.state) &&
		row->view.until > clock_now() && !row->view.sticky;
}

/* Returns a column's value; 0 if it is NULL, or there is no such column. */
static Datum
column(Relation rel, HeapTuple tuple, const char *name, Oid type)
{
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	bool		isnull;
	Datum		value;

	if (attnum == InvalidAttrNumber ||
		TupleDescAttr(desc, attnum - 1)->atttypid != type)
		return (Datum) 0;
	value = heap_getattr(tuple, attnum, desc, &isnull);
	return isnull ? (Datum) 0 : value;
}

static char *
text_column(Relation rel, HeapTuple tuple, const char *name)
{
	Datum		value = column(rel, tuple, name, TEXTOID);

	return value ? TextDatumGetCString(value) : NULL;
}

static bool
state_of_name(const char *name, BreakerState *state)
{
	for (*state = BREAKER_OPEN; *state <= BREAKER_RAMPING; (*state)++)
		if (strcmp(name, breaker_state_name(*state)) == 0)
			return true;
	return false;
}

/* Puts a row into its breaker, if nobody has used that yet. */
static void
restore_row(const Config *config, const StoredBreaker *row)
{
	Cell	   *cell = cell_of_row(config, row);

	if (cell == NULL ||
		!breaker_restore(&cell->breaker, &row->view, clock_now()))
		return;
	cell_set_reason(cell, row->reason ? row->reason : "");
	ereport(DEBUG1,
			(errmsg_internal("restored breaker of %s: %s", row->provider,
							 breaker_state_name(row->view.state))));
}

/* Finds the cell of a row by a target that it concerns, or NULL. */
static Cell *
cell_of_row(const Config *config, const StoredBreaker *row)
{
	CellScope	scope = row->model ? CELL_TARGET :
		row->region ? CELL_REGION : CELL_PROVIDER;

	for (int i = 0; i < config->ntargets; i++)
	{
		const Target *target = &config->targets[i];

		if (strcmp(target->region->provider_name, row->provider) == 0 &&
			(row->region == NULL ||
			 strcmp(target->region->name, row->region) == 0) &&
			(row->model == NULL ||
			 strcmp(target->model->name, row->model) == 0))
			return cell_of(target->health.cells[scope]);
	}
	return NULL;
}

/* --- two clocks --- */

TimestampTz
wall_of_usec(Usec at)
{
	return GetCurrentTimestamp() + (at - clock_now());
}

/* 0 for what lies before the clock began, or cannot be told. */
Usec
usec_of_wall(TimestampTz at)
{
	TimestampTz wall = GetCurrentTimestamp();

	if (at <= wall)
		return 0;
	return TIMESTAMP_NOT_FINITE(at) ? 0 : clock_now() + (at - wall);
}
