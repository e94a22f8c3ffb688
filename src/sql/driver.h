/*
 * driver.h
 *	  The driver of SQL functions: from their arguments to a call, and from
 *	  its end to a value, an error, a NOTICE and a line in the log.
 */
#ifndef LLM_DRIVER_H
#define LLM_DRIVER_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "engine/call.h"

/* What a user typed. NULL, 0 and has_… = false where it was NULL. */
typedef struct CallArgs
{
	Oid			function;		/* the SQL function's own OID */
	text	   *prompt;			/* one of these two */
	Jsonb	   *messages;
	text	   *tier;
	text	   *system;
	bool		has_max_tokens;
	int32		max_tokens;
	bool		has_temperature;
	double		temperature;
	text	   *feature;
	text	   *residency;
	Interval   *timeout;
	Jsonb	   *params;
	bool		has_allow_degraded;
	bool		allow_degraded;
	text	   *on_error;
} CallArgs;

/* What a person is told about a call without an answer. */
typedef struct Report
{
	int			sqlstate;		/* 0 = there is an answer */
	const char *message;
	const char *detail;
	const char *hint;
} Report;

/* A call that has ended. Lives in the call's own memory context. */
typedef struct EndedCall
{
	Call	   *call;
	Report		report;
	Oid			role;			/* that asked */
} EndedCall;

#define SQLSTATE_LL(n)	MAKE_SQLSTATE('L', 'L', '0', '0', '0' + (n))

/* request.c */
extern Call *request_prepare(const CallArgs *args, bool *null_on_error,
							 Report *refused);
extern int32 request_max_tokens(int32 max_tokens);
extern void request_labels(const char *residency, CallSpec *spec);
extern Tier *request_tier(const Config *config, const char *name);
extern const char *text_arg(const text *arg, const char *setting);
extern JsonNode *jsonb_to_tree(Jsonb *jsonb);

/* report.c */
extern void report_make(const Call *call, Report *report);
extern void report_raise(const Report *report) pg_attribute_noreturn();
extern void report_degraded(const Call *call);
extern void report_failover(const Call *call, const char *role);
extern char *candidate_name(const Candidate *candidate);
extern char *attempt_in_words(const Attempt *attempt);
extern char *attempt_hint(const Attempt *attempt);

/* response.c */
extern Datum response_datum(FunctionCallInfo fcinfo, const EndedCall *result);
extern Datum response_row(TupleDesc desc, const EndedCall *result);
extern Interval *usec_to_interval(Usec usec);
extern Datum picodollars_to_numeric(Picodollars cost);

/* complete.c */
extern void local_work(Call *call, LocalAnswer *answer);
extern EndedCall *call_conclude(Call *call, const Report *refused, Oid role);

#endif							/* LLM_DRIVER_H */
