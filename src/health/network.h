/*
 * network.h
 *	  Is it them or us? When two or more hosts cannot be reached within two
 *	  seconds and nobody could, the fault is on our side: no breaker should
 *	  open for it.
 */
#ifndef LLM_NETWORK_H
#define LLM_NETWORK_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/s_lock.h"

#include "health/cell.h"

#define NETWORK_WINDOW	(2 * USEC_SEC)
#define NETWORK_PAUSE	(1 * USEC_SEC)
#define NETWORK_SAY_EVERY	(60 * USEC_SEC)
#define NETWORK_MEMORY	16		/* hosts that are remembered */

/*
 * One for each host and cell, not for each failure: many calls that fail at one
 * host must not push out all that is known of others.
 */
typedef struct NetworkFailure
{
	uint32		host;			/* hash of host and port */
	CellRef		cell;			/* the region's, whose breaker it counted in */
	Usec		since;			/* the first of failures without a pause */
	Usec		at;				/* the last one; 0 = none */
} NetworkFailure;

typedef struct Network
{
	pg_atomic_uint64 reached_at;	/* when somebody answered, whatever */
	pg_atomic_uint64 pause_until;	/* who failed is not asked before; 0 = no */
								/* pause */
	pg_atomic_uint64 said_at;	/* when it was last said */
	slock_t		lock;			/* protects the failures */
	NetworkFailure failures[NETWORK_MEMORY];
} Network;

extern void network_init(Network *network);

/*
 * Notes that a host answered, which ends a pause. Costs one store, and not even
 * that if recent.
 */
extern void network_reached(Network *network, Usec now);

/*
 * Notes that a host could not be reached. True when the fault is ours: then a
 * pause begins, and `mine` gets the cells whose breakers counted the failures
 * of the last two seconds (at most NETWORK_MEMORY), to forgive them. Other
 * processes get the reference, too: it must be empty unless the cell is shared.
 */
extern bool network_failed(Network *network, uint32 host, CellRef cell,
						   Usec now, CellRef *mine, int *nmine);

/*
 * Returns until when a host is left alone, 0 when it is not: in a pause, one
 * that failed within the window. Others are asked: they may be nearer.
 */
extern Usec network_pause(Network *network, uint32 host, Usec now);

/* Ends a pause by hand. */
extern void network_end_pause(Network *network);

/* True once a minute for the whole server: somebody should say what is wrong. */
extern bool network_should_say(Network *network, Usec now);

#endif							/* LLM_NETWORK_H */
