/*
 * cell.h
 *	  What the whole server knows of a provider, a region, a target or a tier:
 *	  a cell in shared memory.
 *
 * Who may touch what under which lock:
 * - The table (which key has which cell) is under a LWLock. It is taken when a
 *	 configuration is loaded and by views, never by a call.
 * - What calls read and count is atomic; what they record is under the lock of
 *	 the part it belongs to (see breaker.h, budget.h), for a few assignments.
 * - The reason is under the cell's own lock.
 *
 * A cell is found once, when the configuration is loaded, and followed by
 * pointer afterwards. Cells whose configuration is gone are given to others
 * when the table is full, so a reference carries the cell's generation, and
 * cell_of() is asked on each use. Where the table has no place, a reference
 * leads to a cell of the process's own: everything works as before, unshared.
 */
#ifndef LLM_CELL_H
#define LLM_CELL_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/s_lock.h"

#include "health/breaker.h"
#include "health/budget.h"
#include "health/latency.h"
#include "health/limiter.h"

typedef enum CellScope
{
	CELL_PROVIDER,
	CELL_REGION,
	CELL_TARGET,
	CELL_TIER					/* counts and latency only */
} CellScope;

#define CELL_NAME_LEN	64
#define CELL_MODEL_LEN	132

/* Zeroed before it is filled: it is hashed as bytes. */
typedef struct CellKey
{
	Oid			database;
	uint32		scope;			/* CellScope */
	char		provider[CELL_NAME_LEN];	/* CELL_TIER: the tier's name */
	char		region[CELL_NAME_LEN];	/* CELL_REGION, CELL_TARGET */
	char		model[CELL_MODEL_LEN];	/* CELL_TARGET */
} CellKey;

/* What is counted, since the last reset. */
typedef enum CellCount
{
	COUNT_CALLS,				/* of a target: attempts */
	COUNT_FAILURES,				/* of these: failed */
	COUNT_DEGRADED,				/* of a tier, as all that follow */
	COUNT_ATTEMPTS,
	COUNT_FAILOVERS,
	COUNT_RETRIES,
	COUNT_HEDGES
} CellCount;

#define NUM_CELL_COUNTS (COUNT_HEDGES + 1)

#define CELL_REASON_LEN 160

typedef struct Cell
{
	CellKey		key;			/* of a cell in use; under the table's lock */
	pg_atomic_uint32 generation;	/* another one for each owner */
	pg_atomic_uint32 in_flight; /* attempts under way */
	Breaker		breaker;
	pg_atomic_uint64 throttled_until;	/* Usec; nothing is sent before */
	pg_atomic_uint32 throttles; /* in a row, without a success between */
	pg_atomic_uint64 fingerprint;	/* of what a sticky trip blamed */
	pg_atomic_uint64 last_used; /* Usec: by an attempt, or a load */
	Limiter		requests;		/* rpm, of a target */
	Limiter		tokens;			/* tpm, of a target */
	Budget		budget;			/* of a provider */
	pg_atomic_uint64 counts[NUM_CELL_COUNTS];
	pg_atomic_uint64 stats_reset;	/* TimestampTz */
	pg_atomic_uint32 unwanted;	/* its configuration is gone */
	pg_atomic_uint32 drained;	/* of a target: it was disabled when last */
								/* looked at */
	slock_t		lock;			/* protects reason */
	char		reason[CELL_REASON_LEN];	/* why it is not closed; "" */
	Latency		latency;		/* last: large, and touched when used only */
} Cell;

typedef struct CellRef
{
	Cell	   *cell;			/* NULL: nothing is known or kept */
	uint32		generation;
} CellRef;

/* Returns the cell, or NULL when it is somebody else's by now. */
static inline Cell *
cell_of(CellRef ref)
{
	if (unlikely(ref.cell == NULL ||
				 pg_atomic_read_u32(&ref.cell->generation) != ref.generation))
		return NULL;
	return ref.cell;
}

/*
 * Holds a cell so that no other owner gets it, as one more attempt under way;
 * NULL, and nothing held, when it is somebody else's by now. It may be taken
 * away between the look and the count, so it is looked at after the count. For
 * a moment only: cell_drop().
 */
static inline Cell *
cell_hold(CellRef ref)
{
	if (ref.cell == NULL)
		return NULL;
	pg_atomic_fetch_add_u32(&ref.cell->in_flight, 1);
	if (likely(cell_of(ref) != NULL))
		return ref.cell;
	pg_atomic_fetch_sub_u32(&ref.cell->in_flight, 1);
	return NULL;
}

static inline void
cell_drop(Cell *cell)
{
	pg_atomic_fetch_sub_u32(&cell->in_flight, 1);
}

extern void cell_init(Cell *cell, TimestampTz wall);

extern void cell_set_reason(Cell *cell, const char *reason);
extern void cell_get_reason(Cell *cell, char reason[CELL_REASON_LEN]);
extern void cell_throttle(Cell *cell, Usec until);

static inline void
cell_count(Cell *cell, CellCount count)
{
	pg_atomic_fetch_add_u64(&cell->counts[count], 1);
}

#endif							/* LLM_CELL_H */
