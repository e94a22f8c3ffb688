/*
 * callback.h
 *	  Runs the on_finish function of an answered task; for the settler.
 */
#ifndef LLM_CALLBACK_H
#define LLM_CALLBACK_H

#include "postgres.h"

#include "health/slot.h"

/* How it ended. */
typedef enum CallbackEnd
{
	CALLBACK_DONE,				/* the task has its final state */
	CALLBACK_FAILED,			/* the function raised: the task has failed */
	CALLBACK_TIMED_OUT,			/* as its time was up: the task has failed */
	CALLBACK_LATER				/* somebody has the row locked, or the like */
} CallbackEnd;

/* Begins; once a process. */
extern void callback_init(DatabaseSlot *slot);

/*
 * Runs the function of a task and sets the task's final state, in one
 * transaction: both or neither. When the function raises, another transaction
 * sets the task's state to failed.
 */
extern CallbackEnd callback_run(int64 task);

/*
 * Returns the task whose function did not end in its time, so that its process
 * had to, or 0. To be asked before any function is run.
 */
extern int64 callback_overdue(void);

/* Sets the state of such a task to failed. */
extern CallbackEnd callback_bury(int64 task);

#endif							/* LLM_CALLBACK_H */
