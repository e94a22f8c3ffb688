/*
 * usage.c
 *	  What calls have used: entries of the journal, and rows of llm_usage.
 *
 * A call has an entry for each target that it has asked, and one without a
 * target when nobody answered. An entry begins with the key of its row; as it
 * is always written in the same way, equal bytes are equal keys, and a batch is
 * added up before the database sees it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "queue/columns.h"
#include "queue/journal.h"
#include "queue/journal_impl.h"
#include "queue/work.h"
#include "sql/driver.h"

/* The longest names, in bytes: see config.h; features and roles are cut. */
#define NAME_MAX_BYTES	63
#define MODEL_MAX_BYTES 128

/* Texts of a key, behind the hour: provider to role. */
#define KEY_TEXTS 6

/* A number is at most 10 bytes, and the length of a name at most 2. */
#define KEY_MAX (10 + 5 * (NAME_MAX_BYTES + 1) + MODEL_MAX_BYTES + 2)

/* What is counted, in the order of the columns; all are sums. */
typedef enum Figure
{
	FIGURE_CALLS,
	FIGURE_FAILED,
	FIGURE_DEGRADED,
	FIGURE_ATTEMPTS,
	FIGURE_ERRORS,
	FIGURE_INPUT_TOKENS,
	FIGURE_OUTPUT_TOKENS,
	FIGURE_CACHED_TOKENS,
	FIGURE_COST,				/* Picodollars of what has a price */
	FIGURE_UNPRICED				/* attempts whose cost is not known */
} Figure;

#define NUM_FIGURES (FIGURE_UNPRICED + 1)

typedef struct Figures
{
	int64		figures[NUM_FIGURES];
} Figures;

/* A row to be; the key is as in the entries, and zeroes behind. */
typedef struct UsageRow
{
	char		key[KEY_MAX];
	Figures		sum;
} UsageRow;

static bool same_target(const Candidate *one, const Candidate *other);
static bool is_first_of_target(const Call *call, int n);
static void add_target(const Call *call, const Candidate *candidate,
					   Figures *figures);
static void add_attempt(Figures *figures, const Attempt *attempt);
static bool is_error(Outcome outcome);
static void add(Figures *figures, Figure figure, int64 number);
static void put_entry(const Call *call, const Candidate *candidate,
					  const char *tier, const char *role,
					  const Figures *figures);
static HTAB *add_up(List *entries);
static void add_entry(HTAB *rows, EntryReader reader);
static void fill_row(Columns *columns, int n, const UsageRow *row);

/* --- the entries of a call --- */

void
journal_usage(const Call *call, const char *tier, const char *role)
{
	Figures		nobody = {{0}};

	for (int i = 0; i < call->ntrace; i++)
	{
		const Candidate *candidate = call->trace[i].candidate;
		Figures		figures = {{0}};

		if (!is_first_of_target(call, i))
			continue;
		add_target(call, candidate, &figures);
		if (figures.figures[FIGURE_CALLS] > 0 ||
			figures.figures[FIGURE_ATTEMPTS] > 0)
			put_entry(call, candidate, tier, role, &figures);
	}
	if (call->error == CALL_ANSWERED)
		return;
	add(&nobody, FIGURE_CALLS, 1);
	add(&nobody, FIGURE_FAILED, 1);
	put_entry(call, NULL, tier, role, &nobody);
}

/* Says whether two candidates, of one tier or of two, are the same target. */
static bool
same_target(const Candidate *one, const Candidate *other)
{
	return one->target == other->target &&
		one->route->builtin == other->route->builtin;
}

/* Says whether no earlier attempt of a call was made at the target of one. */
static bool
is_first_of_target(const Call *call, int n)
{
	for (int i = 0; i < n; i++)
		if (same_target(call->trace[i].candidate, call->trace[n].candidate))
			return false;
	return true;
}

/* Adds up what a call has done at a target. */
static void
add_target(const Call *call, const Candidate *candidate, Figures *figures)
{
	for (int i = 0; i < call->ntrace; i++)
		if (same_target(call->trace[i].candidate, candidate))
			add_attempt(figures, &call->trace[i]);
	if (call->error != CALL_ANSWERED ||
		!same_target(call->answer.candidate, candidate))
		return;
	add(figures, FIGURE_CALLS, 1);
	add(figures, FIGURE_DEGRADED, call->answer.degraded);
}

/* Adds an attempt. As in llm_response, builtin models have none. */
static void
add_attempt(Figures *figures, const Attempt *attempt)
{
	if (attempt->candidate->route->builtin != BUILTIN_NONE)
		return;
	add(figures, FIGURE_ATTEMPTS, 1);
	add(figures, FIGURE_ERRORS, is_error(attempt->outcome));
	add(figures, FIGURE_INPUT_TOKENS, attempt->input_tokens);
	add(figures, FIGURE_OUTPUT_TOKENS, attempt->output_tokens);
	add(figures, FIGURE_CACHED_TOKENS, attempt->cached_tokens);
	if (attempt->cost_known)
		add(figures, FIGURE_COST, attempt->cost);
	else
		add(figures, FIGURE_UNPRICED, 1);
}

/* Says whether an attempt has failed; one that was given up has not. */
static bool
is_error(Outcome outcome)
{
	return outcome != OUTCOME_OK && outcome != OUTCOME_CANCELLED;
}

/* Adds to a figure. A sum of costs that is beyond all reason is not known. */
static void
add(Figures *figures, Figure figure, int64 number)
{
	int64	   *sum = &figures->figures[figure];

	if (!pg_add_s64_overflow(*sum, number, sum))
		return;
	*sum = 0;
	figures->figures[FIGURE_UNPRICED]++;
}

/* Appends an entry; the columns of the key in their order. */
static void
put_entry(const Call *call, const Candidate *candidate, const char *tier,
		  const char *role, const Figures *figures)
{
	TimestampTz now = GetCurrentTimestamp();
	const Route *route = candidate ? candidate->route : NULL;
	const Region *region = candidate ? candidate->region : NULL;
	EntryWriter entry;

	entry.len = 0;
	entry_put_number(&entry, (uint64) (now - now % USECS_PER_HOUR));
	entry_put_text(&entry, route ? route->provider_name : NULL, NAME_MAX_BYTES);
	entry_put_text(&entry, region ? region->name : NULL, NAME_MAX_BYTES);
	entry_put_text(&entry, route ? route->model_name : NULL, MODEL_MAX_BYTES);
	entry_put_text(&entry, tier, NAME_MAX_BYTES);
	entry_put_text(&entry, call->spec.feature, NAME_MAX_BYTES);
	entry_put_text(&entry, role, NAME_MAX_BYTES);
	for (int i = 0; i < NUM_FIGURES; i++)
		entry_put_number(&entry, (uint64) figures->figures[i]);
	journal_append(MyDatabaseId, JOURNAL_USAGE, &entry);
}

/* --- the rows --- */

/* Columns of the statement: the hour, the texts, the figures to the cost. */
#define USAGE_COLUMNS (1 + KEY_TEXTS + FIGURE_COST + 1)
#define COLUMN_OF(figure) (1 + KEY_TEXTS + (figure))

static const Oid column_types[USAGE_COLUMNS] = {
	TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	NUMERICOID
};

static const Oid array_types[USAGE_COLUMNS] = {
	TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
	INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
	NUMERICARRAYOID
};

/* A sum with a NULL is NULL: what has no price once has none in that hour. */
static WorkPlan upsert = {
	.sql =
	"INSERT INTO @extschema@.llm_usage AS u"
	" (hour, provider, region, model, tier, feature, role,"
	" calls, failed, degraded, attempts, errors,"
	" input_tokens, output_tokens, cached_tokens, cost)"
	" SELECT n.hour, n.provider, n.region, n.model, n.tier, n.feature,"
	" n.role::pg_catalog.name, n.calls, n.failed, n.degraded, n.attempts,"
	" n.errors, n.input_tokens, n.output_tokens, n.cached_tokens, n.cost"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,"
	" $12, $13, $14, $15, $16) AS n(hour, provider, region, model, tier,"
	" feature, role, calls, failed, degraded, attempts, errors,"
	" input_tokens, output_tokens, cached_tokens, cost)"
	" ON CONFLICT (hour, provider, region, model, tier, feature, role)"
	" DO UPDATE SET calls = u.calls + excluded.calls,"
	" failed = u.failed + excluded.failed,"
	" degraded = u.degraded + excluded.degraded,"
	" attempts = u.attempts + excluded.attempts,"
	" errors = u.errors + excluded.errors,"
	" input_tokens = u.input_tokens + excluded.input_tokens,"
	" output_tokens = u.output_tokens + excluded.output_tokens,"
	" cached_tokens = u.cached_tokens + excluded.cached_tokens,"
	" cost = u.cost + excluded.cost",
	.nargs = USAGE_COLUMNS,
	.types = array_types
};

void
usage_store(List *entries)
{
	HTAB	   *rows;
	HASH_SEQ_STATUS seq;
	UsageRow   *row;
	Columns		columns;
	int			n = 0;

	if (entries == NIL)
		return;
	rows = add_up(entries);
	columns_make(&columns, USAGE_COLUMNS, column_types,
				 (int) hash_get_num_entries(rows));
	hash_seq_init(&seq, rows);
	while ((row = hash_seq_search(&seq)) != NULL)
		fill_row(&columns, n++, row);
	(void) work_execute(&upsert, columns_arrays(&columns), NULL);
}

/* Adds up entries that belong to one row. */
static HTAB *
add_up(List *entries)
{
	HASHCTL		info = {
		.keysize = KEY_MAX,
		.entrysize = sizeof(UsageRow),
		.hcxt = CurrentMemoryContext,
	};
	HTAB	   *rows = hash_create("llm_failover usage", 64, &info,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ListCell   *lc;

	foreach(lc, entries)
		add_entry(rows, *(EntryReader *) lfirst(lc));
	return rows;
}

/* Adds an entry to its row. */
static void
add_entry(HTAB *rows, EntryReader reader)
{
	char		key[KEY_MAX] = {0};
	const char *begin = reader.bytes;
	UsageRow   *row;
	bool		found;

	(void) entry_get_number(&reader);
	for (int i = 0; i < KEY_TEXTS; i++)
		entry_skip_text(&reader);
	Assert(reader.bytes - begin <= KEY_MAX);
	memcpy(key, begin, reader.bytes - begin);
	row = hash_search(rows, key, HASH_ENTER, &found);
	if (!found)
		memset(&row->sum, 0, sizeof(row->sum));
	for (int i = 0; i < NUM_FIGURES; i++)
		add(&row->sum, i, (int64) entry_get_number(&reader));
}

/* Fills the columns of a row. */
static void
fill_row(Columns *columns, int n, const UsageRow *row)
{
	EntryReader key = {row->key, KEY_MAX};
	const int64 *figures = row->sum.figures;

	columns_put(columns, n, 0,
				TimestampTzGetDatum((TimestampTz) entry_get_number(&key)));
	for (int i = 1; i <= KEY_TEXTS; i++)
		columns_put_text(columns, n, i, entry_get_text(&key));
	for (int i = 0; i < FIGURE_COST; i++)
		columns_put(columns, n, COLUMN_OF(i), Int64GetDatum(figures[i]));
	if (figures[FIGURE_UNPRICED] == 0)
		columns_put(columns, n, COLUMN_OF(FIGURE_COST),
					picodollars_to_numeric(figures[FIGURE_COST]));
}
