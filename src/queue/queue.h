/*
 * queue.h
 *	  The queue: tasks are rows of llm_task, called by the worker.
 *
 * The life of a task and the words are in src/queue/README.md. All of this runs
 * in the worker's process; what sessions do to tasks is in src/sql/task*.c.
 */
#ifndef LLM_QUEUE_H
#define LLM_QUEUE_H

#include "postgres.h"

#include "engine/loop.h"
#include "health/slot.h"

/* Who a call of the worker's loop belongs to: Call.owner. */
typedef struct Job
{
	/* Takes its call when it has ended; frees it, then or later. */
	void		(*ended) (struct Job *job, Call *call);

	/* Takes its call when an error has thrown it over. */
	void		(*failed) (struct Job *job, Call *call);
} Job;

/* --- tasks: queue.c --- */

/*
 * Begins: takes a new incarnation and takes back what older ones left, but for
 * rows that somebody has locked, which follow later. True when that is done;
 * false: call again, soon.
 */
extern bool queue_begin(DatabaseSlot *slot);

/*
 * Does what is due: stores results, looks for expired tasks, claims and starts
 * calls. Returns when to be called again at the latest; sooner after `signals`,
 * and after each turn of the loop in which something happened.
 */
extern Usec queue_work(CallLoop *loop, uint32 signals, bool idle, Usec now);

/* Gives back all that is running, as well as it can: the process ends. */
extern void queue_end(CallLoop *loop);

/* --- probes: probe.c --- */

/*
 * Starts the calls of the probes of llm_probe that are due. Returns when to be
 * called again at the latest; sooner after each turn of the loop in which
 * something happened. Cheap while nothing is due.
 */
extern Usec probes_work(CallLoop *loop, Usec now);

#endif							/* LLM_QUEUE_H */
