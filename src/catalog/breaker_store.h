/*
 * breaker_store.h
 *	  Breakers outlive a restart: the table llm_breaker, and who reads and
 *	  writes it when.
 *
 * A process that has changed a breaker says so in the log, counts it and
 * signals the worker, which stores the state of all breakers
 * (worker/breakers.c). So no call writes a table, or waits for one who does.
 * What is stored is read again by the first process that loads the database's
 * configuration after the server has started.
 */
#ifndef LLM_BREAKER_STORE_H
#define LLM_BREAKER_STORE_H

#include "postgres.h"

#include "catalog/config.h"
#include "datatype/timestamp.h"
#include "health/shared.h"

#define BREAKER_TABLE "llm_breaker"

/*
 * Finds this database's slot, and sees to it that it has a worker; false when
 * there is no room for one.
 */
extern bool breaker_store_find_slot(void);

/* Forgets the health of an extension that was here before this one. */
extern void breaker_store_forget_predecessor(const Config *config);

/* A HealthListener: logs a change, and has it stored. */
extern void breaker_store_note(const Cell *cell, const BreakerChange *change,
							   const char *reason);

/*
 * Asks for a worker if what has changed is not stored and there is none. To be
 * called after each call: two reads, mostly.
 */
extern void breaker_store_flush(void);

/* Reads the stored states, once for the server, into unused breakers. */
extern void breaker_store_restore(const Config *config);

/* From monotonic time to the time of day and back. */
extern TimestampTz wall_of_usec(Usec at);
extern Usec usec_of_wall(TimestampTz at);

#endif							/* LLM_BREAKER_STORE_H */
