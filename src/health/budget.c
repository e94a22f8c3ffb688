/*
 * budget.c
 *	  The retry budget: see budget.h.
 */
#include "postgres.h"

#include "health/budget.h"
#include "storage/spin.h"

void
budget_init(Budget *budget)
{
	SpinLockInit(&budget->lock);
	window_clear(&budget->window);
}

void
budget_count_request(Budget *budget, Usec now)
{
	const WindowCounts request = {.calls = 1};

	SpinLockAcquire(&budget->lock);
	window_add(&budget->window, BUDGET_WINDOW, request, now);
	SpinLockRelease(&budget->lock);
}

bool
budget_take_retry(Budget *budget, Usec now)
{
	const WindowCounts retry = {.failures = 1};
	WindowCounts sum;
	bool		granted;

	SpinLockAcquire(&budget->lock);
	sum = window_sum(&budget->window, BUDGET_WINDOW, now);
	granted = sum.failures + 1 <= BUDGET_FLOOR + BUDGET_SHARE * sum.calls;
	if (granted)
		window_add(&budget->window, BUDGET_WINDOW, retry, now);
	SpinLockRelease(&budget->lock);
	return granted;
}
