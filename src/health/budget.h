/*
 * budget.h
 *	  The retry budget: retries of a target and hedges are at most a part of
 *	  recent requests, over all processes, so that a storm cannot start.
 *	  (Finagle's RetryBudget; Google SRE book, chapter 21.)
 */
#ifndef LLM_BUDGET_H
#define LLM_BUDGET_H

#include "postgres.h"

#include "storage/s_lock.h"

#include "health/window.h"

#define BUDGET_WINDOW	(10 * USEC_SEC)
#define BUDGET_SHARE	0.2		/* retries per request */
#define BUDGET_FLOOR	3		/* retries in a window that are always there */

typedef struct Budget
{
	slock_t		lock;			/* protects the window */
	Window		window;			/* calls = requests, failures = retries */
} Budget;

extern void budget_init(Budget *budget);
extern void budget_count_request(Budget *budget, Usec now);

/* Takes a retry, or a hedge; false when the budget is spent. */
extern bool budget_take_retry(Budget *budget, Usec now);

#endif							/* LLM_BUDGET_H */
