/*
 * cell.c
 *	  What the whole server knows of one thing: see cell.h.
 */
#include "postgres.h"

#include "health/cell.h"
#include "storage/spin.h"

/*
 * Makes a cell that knows nothing and counts since `wall`. Key, generation and
 * the in-flight count are left alone: they are the table's, and who has counted
 * himself in only to find the cell taken away still has to count himself out.
 */
void
cell_init(Cell *cell, TimestampTz wall)
{
	breaker_init(&cell->breaker);
	pg_atomic_init_u64(&cell->throttled_until, 0);
	pg_atomic_init_u32(&cell->throttles, 0);
	pg_atomic_init_u64(&cell->fingerprint, 0);
	pg_atomic_init_u64(&cell->last_used, 0);
	limiter_init(&cell->requests);
	limiter_init(&cell->tokens);
	budget_init(&cell->budget);
	for (int i = 0; i < NUM_CELL_COUNTS; i++)
		pg_atomic_init_u64(&cell->counts[i], 0);
	pg_atomic_init_u64(&cell->stats_reset, (uint64) wall);
	pg_atomic_init_u32(&cell->unwanted, 0);
	pg_atomic_init_u32(&cell->drained, 0);
	SpinLockInit(&cell->lock);
	memset(cell->reason, 0, sizeof(cell->reason));
	latency_init(&cell->latency);
}

/*
 * Returns how much of a text to keep so that it fits. Nothing here knows the
 * database's encoding, but in all that a server can have the bytes of a
 * character of several have their high bit set: the cut goes before a run of
 * them. Who has long texts without ASCII clips them first.
 */
static size_t
clip(const char *text, size_t len, size_t max)
{
	if (len <= max)
		return len;
	if (IS_HIGHBIT_SET(text[max]))
		while (max > 0 && IS_HIGHBIT_SET(text[max - 1]))
			max--;
	return max;
}

void
cell_set_reason(Cell *cell, const char *reason)
{
	size_t		len = clip(reason, strlen(reason), CELL_REASON_LEN - 1);

	SpinLockAcquire(&cell->lock);
	memcpy(cell->reason, reason, len);
	cell->reason[len] = '\0';
	SpinLockRelease(&cell->lock);
}

void
cell_get_reason(Cell *cell, char reason[CELL_REASON_LEN])
{
	SpinLockAcquire(&cell->lock);
	memcpy(reason, cell->reason, CELL_REASON_LEN);
	SpinLockRelease(&cell->lock);
}

/* Puts a cell aside until a time, or for longer if it is so already. */
void
cell_throttle(Cell *cell, Usec until)
{
	uint64		old = pg_atomic_read_u64(&cell->throttled_until);

	while (old < (uint64) until &&
		   !pg_atomic_compare_exchange_u64(&cell->throttled_until, &old,
										   (uint64) until))
		;
}
