/*
 * breakers.h
 *	  The worker stores the state of breakers in llm_breaker.
 */
#ifndef LLM_BREAKERS_H
#define LLM_BREAKERS_H

#include "postgres.h"

#include "health/slot.h"

/*
 * Stores the breakers of this database if one of them has changed since they
 * were stored, at most once a second. Returns when to call it next, or
 * USEC_NEVER while there is nothing to store (SIGNAL_BREAKERS says when there
 * is). Runs a transaction of its own; does not throw.
 */
extern Usec breakers_store(DatabaseSlot *slot, Usec now);

#endif							/* LLM_BREAKERS_H */
