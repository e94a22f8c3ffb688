/*
 * retention.h
 *	  Deletes rows that are past their retention; for the settler.
 */
#ifndef LLM_RETENTION_H
#define LLM_RETENTION_H

#include "postgres.h"

/* Has retention_step() go through all tables, if it does not do so already. */
extern void retention_begin(void);

/*
 * Deletes a batch of old rows, in a transaction of its own. True as long as
 * there may be more to delete.
 */
extern bool retention_step(void);

#endif							/* LLM_RETENTION_H */
