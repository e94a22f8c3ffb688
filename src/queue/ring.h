/*
 * ring.h
 *	  A bounded queue of entries of any length in a piece of memory.
 *
 * Positions count the bytes ever appended, so they only grow; where in the
 * memory one lies is its remainder. An entry may go over the end of the memory
 * and on at its begin.
 *
 * Nothing here takes a lock: who appends, who releases and who reads a position
 * must keep out of each other's way. But what lies between two positions that
 * are in the ring does not change until it is released, so who alone releases
 * may copy without a lock what others only append to.
 */
#ifndef LLM_RING_H
#define LLM_RING_H

#include "postgres.h"

typedef struct Ring
{
	char	   *data;
	uint64		size;			/* of data, in bytes */
	uint64		start;			/* position of the oldest entry */
	uint64		end;			/* position behind the newest one */
	uint64		dropped;		/* entries that found no room */
} Ring;

/* An entry in a copy of a ring's bytes. */
typedef struct RingEntry
{
	uint32		kind;
	uint32		len;
	const char *bytes;			/* not aligned */
} RingEntry;

/* Makes an empty ring of a piece of memory. */
extern void ring_init(Ring *ring, char *data, uint64 size);

/* Returns how many bytes are in use. */
static inline uint64
ring_used(const Ring *ring)
{
	return ring->end - ring->start;
}

/* Appends an entry. False, and counted, when there is no room for it. */
extern bool ring_append(Ring *ring, uint32 kind, const char *bytes,
						uint32 len);

/*
 * Copies what lies from one position to another, as far as there is room.
 * Returns the number of bytes, the last of which may belong to a part of an
 * entry.
 */
extern size_t ring_copy(const Ring *ring, uint64 from, uint64 to,
						char *buffer, size_t room);

/*
 * Finds the entry at *offset of a copy, and sets *offset behind it. False when
 * there is no whole entry any more.
 */
extern bool ring_next(const char *copy, size_t len, size_t *offset,
					  RingEntry *entry);

/* Removes what lies before a position, which is the end of an entry. */
extern void ring_release(Ring *ring, uint64 position);

#endif							/* LLM_RING_H */
