/*
 * wake.h
 *	  Tells the background processes of this database what a transaction has
 *	  done to the queue, when it commits and not before.
 */
#ifndef LLM_WAKE_H
#define LLM_WAKE_H

#include "postgres.h"

#include "health/slot.h"

/*
 * Sends signals to a process when this transaction commits. Whatever becomes of
 * a savepoint, they are sent: one too many costs the process a look.
 */
extern void wake_at_commit(SlotProcess process, uint32 signals);

#endif							/* LLM_WAKE_H */
