/*
 * result_row.c
 *	  Results into rows that are locked.
 *
 * All results of a transaction go into one statement: to begin one costs more
 * than ten rows in it, since PostgreSQL reads the table's CHECKs anew each time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "queue/task.h"
#include "queue/work.h"

/* The columns of a result. */
typedef enum ResultColumn
{
	COLUMN_ID,
	COLUMN_STATE,
	COLUMN_FINAL_STATE,
	COLUMN_TRIES,
	COLUMN_ANSWER,
	COLUMN_RESPONSE,
	COLUMN_ERROR,
	COLUMN_ERROR_CODE
} ResultColumn;

#define RESULT_COLUMNS (COLUMN_ERROR_CODE + 1)

/* Results of one transaction, column by column. */
struct Results
{
	int			n;
	Datum		values[RESULT_COLUMNS][STORE_BATCH];
	bool		nulls[RESULT_COLUMNS][STORE_BATCH];
};

static void put(Results *results, int row, ResultColumn column, Datum value);
static void put_text(Results *results, int row, ResultColumn column,
					 const char *text);
static Datum answer_of(const Answer *answer);
static Datum response_of(const EndedCall *result);
static TupleDesc response_type(void);

/* Begins with none; in the transaction's memory. */
Results *
results_begin(void)
{
	return palloc0(sizeof(Results));
}

/* Adds an end that is final, but for on_finish. */
void
results_add(Results *results, const Task *task)
{
	const char *state = task->end == END_DONE ? "done" :
		task->end == END_EXPIRED ? "expired" : "failed";
	int			row = results->n++;

	put(results, row, COLUMN_ID, Int64GetDatum(task->id));
	put_text(results, row, COLUMN_STATE,
			 task->has_callback ? "answered" : state);
	put_text(results, row, COLUMN_FINAL_STATE,
			 task->has_callback ? state : NULL);
	put(results, row, COLUMN_TRIES,
		Int16GetDatum(task->tries + (task->end == END_FAILED)));
	results->nulls[COLUMN_ANSWER][row] = true;
	if (task->end == END_DONE && task->call->answer.text)
		put(results, row, COLUMN_ANSWER, answer_of(&task->call->answer));
	results->nulls[COLUMN_RESPONSE][row] = true;
	if (task->result)
		put(results, row, COLUMN_RESPONSE, response_of(task->result));
	put_text(results, row, COLUMN_ERROR, task->error);
	put_text(results, row, COLUMN_ERROR_CODE, task->error_code);
	note_result(task->has_callback);
}

static void
put(Results *results, int row, ResultColumn column, Datum value)
{
	results->values[column][row] = value;
	results->nulls[column][row] = false;
}

/* Puts a text; NULL stays NULL. */
static void
put_text(Results *results, int row, ResultColumn column, const char *text)
{
	if (text)
		put(results, row, column, CStringGetTextDatum(text));
	else
		results->nulls[column][row] = true;
}

/* Writes results into rows that are locked. */
void
results_write(Results *results)
{
	static const Oid types[RESULT_COLUMNS] = {
		INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT2ARRAYOID, TEXTARRAYOID,
		JSONBARRAYOID, TEXTARRAYOID, TEXTARRAYOID
	};
	static WorkPlan plan = WORK_PLAN(
		"UPDATE @extschema@.llm_task t SET state = r.state,"
		" final_state = r.final_state,"
		" finished_at = CASE WHEN r.final_state IS NULL"
		"  THEN pg_catalog.clock_timestamp() END,"
		" tries = r.tries, answer = r.answer, response = r.response,"
		" error = r.error, error_code = r.error_code"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
		"  AS r(id, state, final_state, tries, answer, response, error,"
		"   error_code)"
		" WHERE t.id = r.id",
		types);
	Datum		values[RESULT_COLUMNS];

	if (results->n == 0)
		return;
	for (int i = 0; i < RESULT_COLUMNS; i++)
	{
		Oid			type = get_element_type(types[i]);
		int			dims[1] = {results->n};
		int			lbs[1] = {1};
		int16		len;
		bool		byval;
		char		align;

		get_typlenbyvalalign(type, &len, &byval, &align);
		values[i] = PointerGetDatum(construct_md_array(results->values[i],
													   results->nulls[i],
													   1, dims, lbs, type,
													   len, byval, align));
	}
	(void) work_execute(&plan, values, NULL);
}

/* Returns an answer's text. */
static Datum
answer_of(const Answer *answer)
{
	return PointerGetDatum(cstring_to_text_with_len(answer->text,
													(int) answer->text_len));
}

/* Returns an ended call as to_jsonb(llm_response). */
static Datum
response_of(const EndedCall *result)
{
	static FmgrInfo to_jsonb = {0};
	TupleDesc	desc = response_type();
	Datum		row = response_row(desc, result);

	if (to_jsonb.fn_oid == InvalidOid)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		Node	   *arg = (Node *) makeNullConst(RECORDOID, -1, InvalidOid);

		fmgr_info(F_TO_JSONB, &to_jsonb);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												 list_make1(arg), InvalidOid,
												 InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &to_jsonb);
		MemoryContextSwitchTo(old);
	}
	ReleaseTupleDesc(desc);
	return FunctionCall1(&to_jsonb, row);
}

/* Looks llm_response up. */
static TupleDesc
response_type(void)
{
	static WorkPlan plan = WORK_PLAN_BARE(
		"SELECT '@extschema@.llm_response'::pg_catalog.regtype::pg_catalog.oid");
	static Oid	type;
	static Oid	as_of;
	bool		null;

	if (as_of != work_function())
	{
		(void) work_execute(&plan, NULL, NULL);
		type = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &null));
		as_of = work_function();
	}
	return lookup_rowtype_tupdesc(type, -1);
}
