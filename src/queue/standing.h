/*
 * standing.h
 *	  Why the queue of this database stands.
 */
#ifndef LLM_STANDING_H
#define LLM_STANDING_H

#include "postgres.h"

#include "fmgr.h"

/* The columns of llm_queue_state that say it. */
typedef struct QueueOrigin
{
	uint64		system_identifier;
	Oid			database;		/* InvalidOid: filled by a restore */
	const char *paused;			/* NULL = it is not */
} QueueOrigin;

/*
 * Reads it of three arguments of a function, from the `first` on, none of them
 * NULL: nothing paused is ''.
 */
extern QueueOrigin queue_origin_of_args(FunctionCallInfo fcinfo, int first);

/* Says whether a queue was filled elsewhere, so that it must not run here. */
extern bool queue_is_copy(const QueueOrigin *origin);

/* Says in words why a queue stands, or returns NULL when it does not. */
extern const char *queue_why_standing(const QueueOrigin *origin);

#endif							/* LLM_STANDING_H */
