/*
 * check.h
 *	  Between the files that check configuration rows; for them only.
 *
 * check.c has the rules of each column and the trigger that applies them,
 * check_column.c, check_json.c and check_url.c the kinds of rule, and
 * check_access.c who may write references to the server's files and
 * environment. check_seed.c keeps the extension's own rows. What concerns
 * other rows waits until the statement is done: check_refer.c, check_chain.c
 * and cascade.c, over check_query.c.
 *
 * Messages never show a value of a column that may hold a key.
 */
#ifndef LLM_CHECK_H
#define LLM_CHECK_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/rel.h"

struct TriggerData;

/* A row that is being changed. */
typedef struct CheckedRow
{
	Relation	rel;
	HeapTuple	tuple;			/* as it will be; NULL on DELETE */
	HeapTuple	old;			/* as it was; NULL on INSERT */
} CheckedRow;

typedef struct ColumnRule ColumnRule;
typedef void (*ColumnCheck) (const CheckedRow *row, const ColumnRule *rule,
							 Datum value);

/*
 * What must hold of one column. `min` and `max` are check_number's, `words`
 * check_word's. A NULL passes every check but those that ask to see it, which
 * get a Datum of 0.
 */
struct ColumnRule
{
	const char *table;
	const char *column;
	ColumnCheck check;
	double		min;
	double		max;
	const char *const *words;
	bool		sees_null;
};

/* check.c: the row, and raising about it. */
extern CheckedRow triggered_row(const struct TriggerData *trigger);
extern int	column_number(Relation rel, const char *column);
extern char *column_text(Relation rel, HeapTuple tuple, const char *column);
extern bool row_changed(const CheckedRow *row, const char *column);
extern int	refusal(const CheckedRow *row, const char *column);
extern char *shown(const char *value);

/* check_column.c */
extern void check_name(const CheckedRow *row, const ColumnRule *rule,
					   Datum value);
extern void check_model_name(const CheckedRow *row, const ColumnRule *rule,
							 Datum value);
extern void check_label(const CheckedRow *row, const ColumnRule *rule,
						Datum value);
extern void check_number(const CheckedRow *row, const ColumnRule *rule,
						 Datum value);
extern void check_duration(const CheckedRow *row, const ColumnRule *rule,
						   Datum value);
extern void check_window(const CheckedRow *row, const ColumnRule *rule,
						 Datum value);
extern void check_ramp(const CheckedRow *row, const ColumnRule *rule,
					   Datum value);
extern void check_wait(const CheckedRow *row, const ColumnRule *rule,
					   Datum value);
extern void check_open_time(const CheckedRow *row, const ColumnRule *rule,
							Datum value);
extern void check_word(const CheckedRow *row, const ColumnRule *rule,
					   Datum value);
extern void check_dialect(const CheckedRow *row, const ColumnRule *rule,
						  Datum value);
extern void check_labels(const CheckedRow *row, const ColumnRule *rule,
						 Datum value);
extern void check_capabilities(const CheckedRow *row, const ColumnRule *rule,
							   Datum value);
extern void check_pattern(const CheckedRow *row, const ColumnRule *rule,
						  Datum value);
extern void check_not_empty(const CheckedRow *row, const ColumnRule *rule,
							Datum value);
extern void check_not_builtin(const CheckedRow *row, const ColumnRule *rule,
							  Datum value);
extern void check_builtin_region(const CheckedRow *row, const ColumnRule *rule,
								 Datum value);
extern void check_builtin_model(const CheckedRow *row, const ColumnRule *rule,
								Datum value);
extern void check_fallback(const CheckedRow *row, const ColumnRule *rule,
						   Datum value);
extern bool is_of_builtin(const CheckedRow *row);
extern bool has_control(const char *text);
extern bool is_name(const char *text);

/* check_json.c */
extern void check_headers(const CheckedRow *row, const ColumnRule *rule,
						  Datum value);
extern void check_params(const CheckedRow *row, const ColumnRule *rule,
						 Datum value);
extern void check_builtin_params(const CheckedRow *row, const ColumnRule *rule,
								 Datum value);
extern bool headers_have_reference(Datum headers);

/* check_url.c */
extern void check_base_url(const CheckedRow *row, const ColumnRule *rule,
						   Datum value);

/* check_access.c */
extern void check_secret_name(const CheckedRow *row, const ColumnRule *rule,
							  Datum value);
extern void check_key(const CheckedRow *row, const ColumnRule *rule,
					  Datum value);
extern void check_reference(const CheckedRow *row, const ColumnRule *rule,
							Datum value);
extern void check_provider_access(const CheckedRow *row,
								  const ColumnRule *rule, Datum value);
extern void check_region_access(const CheckedRow *row, const ColumnRule *rule,
								Datum value);
extern bool is_server_reference(const char *value);
extern bool is_secret_name(const char *value);
extern bool is_well_formed_reference(const char *value);

/*
 * check_query.c: SQL of triggers.
 *
 * Runs between query_begin() and query_end(), with a search_path of
 * pg_catalog, as the owner of the tables or as the user. "@." in a statement
 * stands for the extension's schema; parameters are text unless `types` says
 * otherwise.
 */
typedef struct TriggerQuery
{
	Relation	rel;			/* a table of ours */
	Oid			user;			/* to go back to */
	int			security;
	int			guc_level;
	bool		fire_triggers;	/* at once, not with the user's statement */
} TriggerQuery;

typedef enum QueryUser
{
	AS_OWNER,
	AS_USER
} QueryUser;

extern void query_begin(TriggerQuery *query, Relation rel, QueryUser user,
						struct TriggerData *transition_tables);
extern uint64 query_run(TriggerQuery *query, const char *sql, int nargs,
						const Oid *types, const Datum *values,
						const char *nulls);
extern uint64 query_run_text(TriggerQuery *query, const char *sql, int nargs,
							 char *const *values);
extern char *query_text(uint64 row, int column);
extern bool query_is_true(uint64 row, int column);
extern void query_end(TriggerQuery *query);

#endif							/* LLM_CHECK_H */
