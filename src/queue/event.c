/*
 * event.c
 *	  What has happened: entries of the journal, and rows of llm_event.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "catalog/breaker_store.h"
#include "queue/columns.h"
#include "queue/journal.h"
#include "queue/journal_impl.h"
#include "queue/work.h"
#include "util/when.h"

#define CHANNEL "llm_event"

/* The longest texts, in bytes. They fit into an entry, all together. */
#define NAME_MAX_BYTES 63
#define MODEL_MAX_BYTES 128
#define MESSAGE_MAX_BYTES 1000
#define DETAIL_MAX_BYTES 2000
#define REASON_MAX_BYTES 250

static void put_names(EntryWriter *entry, const JournalScope *scope);
static const char *kind_of_change(const BreakerChange *change);
static void word_change(char message[MESSAGE_MAX_BYTES], const CellKey *key,
						const BreakerChange *change, const char *reason);
static void detail_change(char detail[DETAIL_MAX_BYTES], const Cell *cell,
						  const BreakerChange *change, const char *reason);
static void quote_json(char *quoted, const char *text, size_t max);
static void fill_row(Columns *columns, int n, EntryReader reader);

/* --- noting --- */

void
journal_event(Oid database, const char *kind, const JournalScope *scope,
			  const char *message, const char *detail, bool notify)
{
	EntryWriter entry;

	entry.len = 0;
	entry_put_number(&entry, (uint64) GetCurrentTimestamp());
	entry_put_number(&entry, notify);
	entry_put_text(&entry, kind, NAME_MAX_BYTES);
	put_names(&entry, scope);
	entry_put_text(&entry, message, MESSAGE_MAX_BYTES);
	/* half of a JSON text is none */
	entry_put_text(&entry, detail && strlen(detail) <= DETAIL_MAX_BYTES ?
				   detail : NULL, DETAIL_MAX_BYTES);
	journal_append(database, JOURNAL_EVENT, &entry);
}

/* Puts what an event is about. */
static void
put_names(EntryWriter *entry, const JournalScope *scope)
{
	static const JournalScope nothing = {0};

	if (scope == NULL)
		scope = &nothing;
	entry_put_text(entry, scope->provider, NAME_MAX_BYTES);
	entry_put_text(entry, scope->region, NAME_MAX_BYTES);
	entry_put_text(entry, scope->model, MODEL_MAX_BYTES);
	entry_put_text(entry, scope->tier, NAME_MAX_BYTES);
	entry_put_text(entry, scope->feature, NAME_MAX_BYTES);
	entry_put_text(entry, scope->role, NAME_MAX_BYTES);
}

/* --- breakers --- */

void
journal_breaker(const Cell *cell, const BreakerChange *change,
				const char *reason)
{
	const CellKey *key = &cell->key;
	JournalScope scope = {
		.provider = key->provider,
		.region = key->region,
		.model = key->model,
	};
	const char *kind = kind_of_change(change);
	char		message[MESSAGE_MAX_BYTES];
	char		detail[DETAIL_MAX_BYTES];

	if (kind == NULL)
		return;
	word_change(message, key, change, reason);
	detail_change(detail, cell, change, reason);
	journal_event(key->database, kind, &scope, message, detail, true);
}

/*
 * Returns the kind of event that a change of a breaker is, or NULL. Who counts
 * openings and closings should find as many of one as of the other: one that
 * was shut and ramps lets calls through again, and is closed; what comes after
 * is a matter of shares.
 */
static const char *
kind_of_change(const BreakerChange *change)
{
	bool		was_shut = change->from == BREAKER_OPEN ||
		change->from == BREAKER_HALF_OPEN;

	if (change->to == BREAKER_OPEN)
		return "breaker_open";
	if (change->to == BREAKER_HALF_OPEN)
		return "breaker_half_open";
	return was_shut ? "breaker_closed" : NULL;
}

/* Words a change as the log does. */
static void
word_change(char message[MESSAGE_MAX_BYTES], const CellKey *key,
			const BreakerChange *change, const char *reason)
{
	bool		opened = change->to == BREAKER_OPEN;
	char		until[WHEN_LEN] = "";

	if (opened)
		write_when(until, change->until, clock_now(), log_timezone);
	snprintf(message, MESSAGE_MAX_BYTES, "breaker of %s%s%s%s%s %s%s%s%s",
			 key->provider,
			 key->region[0] ? "/" : "", key->region,
			 key->model[0] ? "/" : "", key->model,
			 opened ? "opened until " : breaker_state_name(change->to), until,
			 reason && *reason ? ": " : "", reason ? reason : "");
}

/* Writes the numbers of a change as JSON. */
static void
detail_change(char detail[DETAIL_MAX_BYTES], const Cell *cell,
			  const BreakerChange *change, const char *reason)
{
	BreakerView view = breaker_view(&cell->breaker, &breaker_defaults,
									clock_now());
	char		until[MAXDATELEN + 3] = "null";
	char		quoted[6 * REASON_MAX_BYTES + 3] = "null";

	if (change->until > 0)
		snprintf(until, sizeof(until), "\"%s\"",
				 timestamptz_to_str(wall_of_usec(change->until)));
	if (reason && *reason)
		quote_json(quoted, reason, REASON_MAX_BYTES);
	snprintf(detail, DETAIL_MAX_BYTES,
			 "{\"from\": \"%s\", \"to\": \"%s\", \"until\": %s, \"reason\": %s, \"trips\": %d}",
			 breaker_state_name(change->from), breaker_state_name(change->to),
			 until, quoted, view.trips);
}

/*
 * Writes a text as a JSON string, cut to `max` bytes; there must be room for
 * six times as many. No encoding of a database has a character one of whose
 * later bytes is ASCII.
 */
static void
quote_json(char *quoted, const char *text, size_t max)
{
	size_t		len = strlen(text);
	char	   *to = quoted;

	if (len > max)
		len = pg_mbcliplen(text, (int) len, (int) max);
	*to++ = '"';
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '"' || text[i] == '\\')
			*to++ = '\\';
		if ((unsigned char) text[i] < ' ')
			to += sprintf(to, "\\u%04x", text[i]);
		else
			*to++ = text[i];
	}
	strcpy(to, "\"");
}

/* --- the rows --- */

/* In the order of the table, as in an entry. */
#define EVENT_COLUMNS 10

static const Oid column_types[EVENT_COLUMNS] = {
	TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	TEXTOID, TEXTOID, TEXTOID
};

static const Oid array_types[EVENT_COLUMNS] = {
	TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID
};

static WorkPlan insert = {
	.sql =
	"INSERT INTO @extschema@.llm_event"
	" (at, kind, provider, region, model, tier, feature, role, message, detail)"
	" SELECT n.at, n.kind, n.provider, n.region, n.model, n.tier, n.feature,"
	" n.role::pg_catalog.name, n.message, n.detail::pg_catalog.jsonb"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
	" AS n(at, kind, provider, region, model, tier, feature, role, message,"
	" detail)",
	.nargs = EVENT_COLUMNS,
	.types = array_types
};

void
event_store(List *entries)
{
	Columns		columns;
	ListCell   *lc;
	int			n = 0;

	if (entries == NIL)
		return;
	columns_make(&columns, EVENT_COLUMNS, column_types, list_length(entries));
	foreach(lc, entries)
		fill_row(&columns, n++, *(EntryReader *) lfirst(lc));
	(void) work_execute(&insert, columns_arrays(&columns), NULL);
}

/*
 * Fills the columns of a row, and tells of it where that is wanted: PostgreSQL
 * sends equal notifications of a transaction once.
 */
static void
fill_row(Columns *columns, int n, EntryReader reader)
{
	bool		notify;
	char	   *kind;

	columns_put(columns, n, 0,
				TimestampTzGetDatum((TimestampTz) entry_get_number(&reader)));
	notify = entry_get_number(&reader) != 0;
	kind = entry_get_text(&reader);
	if (notify)
		Async_Notify(CHANNEL, kind);
	columns_put_text(columns, n, 1, kind);
	for (int i = 2; i < EVENT_COLUMNS; i++)
		columns_put_text(columns, n, i, entry_get_text(&reader));
}
