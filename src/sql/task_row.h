/*
 * task_row.h
 *	  Between the files that check rows of llm_task; for them only.
 */
#ifndef LLM_TASK_ROW_H
#define LLM_TASK_ROW_H

#include "postgres.h"

#include "utils/rel.h"

/*
 * task_finish.c: finds the function that on_finish names, in the search_path of
 * now, and returns its name with its schema. Raises when there is none, or the
 * user may not execute it.
 */
extern char *finish_function(Relation tasks, const char *name);

/*
 * queue_restore.c: notes that a task comes from a dump, so that the queue is a
 * copy.
 */
extern void queue_note_restore(Relation tasks);

#endif							/* LLM_TASK_ROW_H */
