/*
 * task_check.c
 *	  What a task may be when it comes, and what of it may be changed later:
 *	  the BEFORE trigger of llm_task.
 *
 * Whether its tier exists, or its prompt is empty, is for the call to find: the
 * task fails then. What has been claimed is not changed any more, but for
 * metadata. A user's UPDATE of a task that is claimed at the same moment waits
 * for that, and then finds the task running.
 *
 * What the extension does itself, in its processes and in llm_cancel() and
 * llm_requeue(), passes unlooked at. While check_function_bodies is off, as in
 * a restore, on_finish is not looked up; a task that is not finished then makes
 * the queue a copy (queue_restore.c), if it comes from who may restore it.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog/check.h"
#include "compat.h"
#include "driver.h"
#include "queue/work.h"
#include "settings.h"
#include "task_row.h"

#define KEY_MAX_BYTES	1000
#define MOST_TRIES		100

/* Columns that are looked at. */
typedef enum TaskColumn
{
	TASK_ID,
	TASK_PROMPT,
	TASK_MESSAGES,
	TASK_TIER,
	TASK_MAX_TOKENS,
	TASK_TEMPERATURE,
	TASK_PARAMS,
	TASK_FEATURE,
	TASK_RESIDENCY,
	TASK_NOT_BEFORE,
	TASK_EXPIRES_AT,
	TASK_DEDUPE_KEY,
	TASK_ON_FINISH,
	TASK_MAX_TRIES,
	TASK_ROLE,
	TASK_STATE,
	TASK_LEASE
} TaskColumn;

#define TASK_COLUMNS (TASK_LEASE + 1)

static const char *const column_names[TASK_COLUMNS] = {
	"id", "prompt", "messages", "tier", "max_tokens", "temperature", "params",
	"feature", "residency", "not_before", "expires_at", "dedupe_key",
	"on_finish", "max_tries", "role", "state", "lease"
};

/* What a statement's rows have in common. */
typedef struct TaskStatement
{
	int			numbers[TASK_COLUMNS];
	bool		restore_noted;
} TaskStatement;

typedef struct TaskRow
{
	CheckedRow	checked;
	TaskStatement *statement;
} TaskRow;

typedef struct TaskRule
{
	TaskColumn	column;
	ColumnRule	rule;
} TaskRule;

static void check_key_length(const CheckedRow *row, const ColumnRule *rule,
							 Datum value);
static void check_finite(const CheckedRow *row, const ColumnRule *rule,
						 Datum value);

#define RULE(column_, name_, check_, ...) \
	{column_, {.table = "llm_task", .column = name_, .check = check_, __VA_ARGS__}}

static const TaskRule task_rules[] = {
	RULE(TASK_TIER, "tier", check_label),
	RULE(TASK_MAX_TOKENS, "max_tokens", check_number, .min = 1, .max = INFINITY),
	RULE(TASK_TEMPERATURE, "temperature", check_number, .min = 0, .max = 2),
	RULE(TASK_PARAMS, "params", check_params),
	RULE(TASK_FEATURE, "feature", check_label),
	RULE(TASK_NOT_BEFORE, "not_before", check_finite),
	RULE(TASK_EXPIRES_AT, "expires_at", check_finite),
	RULE(TASK_DEDUPE_KEY, "dedupe_key", check_key_length),
	RULE(TASK_MAX_TRIES, "max_tries", check_number, .min = 1, .max = MOST_TRIES),
};

/* What the user sets, and may change as long as a task is queued. */
static const char *const request_columns[] = {
	"prompt", "messages", "system", "tier", "max_tokens", "temperature",
	"params", "feature", "residency", "allow_degraded", "priority",
	"not_before", "expires_at", "dedupe_key", "on_finish", "max_tries"
};

/* The states, and what a task is said to be. */
typedef struct StateWords
{
	const char *state;
	const char *words;
	bool		final;
	bool		requeues;		/* llm_requeue() may queue it again */
} StateWords;

static const StateWords states[] = {
	{"queued", "is queued", false, false},
	{"running", "is running", false, false},
	{"answered", "is answered", false, false},
	{"done", "is done", true, false},
	{"failed", "has failed", true, true},
	{"expired", "has expired", true, true},
	{"cancelled", "is cancelled", true, true},
};

static TaskStatement *statement_of(FmgrInfo *function, Relation rel);
static Datum column_of(const TaskRow *row, HeapTuple tuple, TaskColumn column,
					   bool *isnull);
static const StateWords *state_of(const TaskRow *row, HeapTuple tuple);
static void check_change(const TaskRow *row);
static void check_role(const TaskRow *row);
static void refuse_late_change(const TaskRow *row, const StateWords *state);
static void check_values(const TaskRow *row);
static void check_one_text(const TaskRow *row);
static HeapTuple complete(const TaskRow *row);
static bool is_restored(const TaskRow *row);
static void note_restored(const TaskRow *row);
static bool full_residency(const TaskRow *row, const StateWords *state,
						   Datum *value);
static bool full_on_finish(const TaskRow *row, Datum *value);

PG_FUNCTION_INFO_V1(llm_task_check);

/* BEFORE INSERT OR UPDATE on llm_task, by row. */
Datum
llm_task_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TaskRow		row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		elog(ERROR, "llm_task_check: wrong kind of trigger");
	row.checked = triggered_row(trigger);
	if (work_is_own)
		return PointerGetDatum(row.checked.tuple);
	row.statement = statement_of(fcinfo->flinfo, row.checked.rel);
	if (row.checked.old)
		check_change(&row);
	check_values(&row);
	return PointerGetDatum(complete(&row));
}

/* Returns what rows of this statement have in common. */
static TaskStatement *
statement_of(FmgrInfo *function, Relation rel)
{
	TaskStatement *statement = function->fn_extra;

	if (statement)
		return statement;
	statement = MemoryContextAllocZero(function->fn_mcxt,
									   sizeof(TaskStatement));
	for (int i = 0; i < TASK_COLUMNS; i++)
		statement->numbers[i] = column_number(rel, column_names[i]);
	function->fn_extra = statement;
	return statement;
}

static Datum
column_of(const TaskRow *row, HeapTuple tuple, TaskColumn column, bool *isnull)
{
	return heap_getattr(tuple, row->statement->numbers[column],
						RelationGetDescr(row->checked.rel), isnull);
}

/* Returns the state of a row, or NULL when it is none: a CHECK says so. */
static const StateWords *
state_of(const TaskRow *row, HeapTuple tuple)
{
	bool		isnull;
	Datum		value = column_of(row, tuple, TASK_STATE, &isnull);
	char	   *state = isnull ? "" : TextDatumGetCString(value);

	for (size_t i = 0; i < lengthof(states); i++)
		if (strcmp(states[i].state, state) == 0)
			return &states[i];
	return NULL;
}

/* --- what may be changed --- */

/* Refuses changes of a task that was claimed, and by who may not. */
static void
check_change(const TaskRow *row)
{
	const StateWords *state = state_of(row, row->checked.old);

	check_role(row);
	if (strcmp(state->state, "queued") == 0)
		return;
	for (size_t i = 0; i < lengthof(request_columns); i++)
		if (row_changed(&row->checked, request_columns[i]))
			refuse_late_change(row, state);
}

/*
 * Wants a user who could be the task's role. on_finish runs as that role, with
 * what the task says. Row security asks for membership, which since PostgreSQL
 * 16 can be had without the right to act as the role.
 */
static void
check_role(const TaskRow *row)
{
	bool		isnull;
	Name		role = DatumGetName(column_of(row, row->checked.old, TASK_ROLE,
											  &isnull));
	Oid			oid = get_role_oid(NameStr(*role), true);

	if (superuser() || (OidIsValid(oid) &&
						can_set_role_compat(GetUserId(), oid)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to change tasks of role \"%s\"",
					NameStr(*role))));
}

static void
refuse_late_change(const TaskRow *row, const StateWords *state)
{
	bool		isnull;
	long long	id = (long long) DatumGetInt64(column_of(row, row->checked.old,
														 TASK_ID, &isnull));

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("task %lld %s", id, state->words),
			 errdetail("Of a task that is no longer queued, only metadata can be changed."),
			 state->requeues ?
			 errhint("llm_requeue(%lld) queues it again.", id) : 0));
}

/* --- what it may be --- */

/* Applies the rules of columns. */
static void
check_values(const TaskRow *row)
{
	check_one_text(row);
	for (size_t i = 0; i < lengthof(task_rules); i++)
	{
		bool		isnull;
		Datum		value = column_of(row, row->checked.tuple,
									  task_rules[i].column, &isnull);

		if (!isnull)
			task_rules[i].rule.check(&row->checked, &task_rules[i].rule, value);
	}
}

/* Wants a prompt or messages, and not both. */
static void
check_one_text(const TaskRow *row)
{
	bool		no_prompt;
	bool		no_messages;

	(void) column_of(row, row->checked.tuple, TASK_PROMPT, &no_prompt);
	(void) column_of(row, row->checked.tuple, TASK_MESSAGES, &no_messages);
	if (no_prompt != no_messages)
		return;
	ereport(ERROR,
			(refusal(&row->checked, "prompt"),
			 errmsg("a task needs either a prompt or messages"),
			 no_prompt ?
			 errhint("An expression with a NULL in it is NULL: use coalesce().") : 0));
}

/* Wants a key that an index can hold. */
static void
check_key_length(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	size_t		len = strlen(TextDatumGetCString(value));

	if (len > KEY_MAX_BYTES)
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("llm_task.%s must be at most %d bytes, not %zu",
						rule->column, KEY_MAX_BYTES, len),
				 errhint("Use a hash of it, such as md5().")));
}

/* Wants a point in time. */
static void
check_finite(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value)))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("llm_task.%s must not be infinite", rule->column),
				 errhint("Leave it NULL.")));
}

/* --- what it is given --- */

/* Returns the row as it is stored. */
static HeapTuple
complete(const TaskRow *row)
{
	const StateWords *state = state_of(row, row->checked.tuple);
	int			numbers[3];
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	int			n = 0;

	/* one that has ended says how it was */
	if (state == NULL || state->final)
		return row->checked.tuple;
	if (is_restored(row))
	{
		note_restored(row);
		numbers[n] = row->statement->numbers[TASK_LEASE];
		nulls[n++] = true;
	}
	if (full_residency(row, state, &values[n]))
		numbers[n++] = row->statement->numbers[TASK_RESIDENCY];
	if (full_on_finish(row, &values[n]))
		numbers[n++] = row->statement->numbers[TASK_ON_FINISH];
	if (n == 0)
		return row->checked.tuple;
	return heap_modify_tuple_by_cols(row->checked.tuple,
									 RelationGetDescr(row->checked.rel), n,
									 numbers, values, nulls);
}

/*
 * Says whether a task comes from a dump. Who brings one may fill all columns;
 * who may fill a user's only, does not make the queue a copy.
 */
static bool
is_restored(const TaskRow *row)
{
	return row->checked.old == NULL && !check_function_bodies &&
		pg_class_aclcheck(RelationGetRelid(row->checked.rel), GetUserId(),
						  ACL_INSERT) == ACLCHECK_OK;
}

/*
 * Notes that a task comes from a dump. It is leased to no worker here: one that
 * was running will be taken back.
 */
static void
note_restored(const TaskRow *row)
{
	if (!row->statement->restore_noted)
		queue_note_restore(row->checked.rel);
	row->statement->restore_noted = true;
}

/*
 * Adds the labels of the setting, which no task can do without. A task that was
 * queued without them gets them with any change, as that may bring data that is
 * bound to them. False when the row has them.
 */
static bool
full_residency(const TaskRow *row, const StateWords *state, Datum *value)
{
	CallSpec	spec = {0};
	char	   *given;

	if (llm_residency == NULL || llm_residency[0] == '\0' ||
		(row->checked.old && strcmp(state->state, "queued") != 0))
		return false;
	given = column_text(row->checked.rel, row->checked.tuple, "residency");
	request_labels(given, &spec);
	if (given && strcmp(given, spec.residency) == 0)
		return false;
	*value = CStringGetTextDatum(spec.residency);
	return true;
}

/* Finds the function of on_finish. False when it stays as it is. */
static bool
full_on_finish(const TaskRow *row, Datum *value)
{
	char	   *given;

	if (!check_function_bodies || !row_changed(&row->checked, "on_finish"))
		return false;
	given = column_text(row->checked.rel, row->checked.tuple, "on_finish");
	if (given == NULL)
		return false;
	*value = CStringGetTextDatum(finish_function(row->checked.rel, given));
	return true;
}
