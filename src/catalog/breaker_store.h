/*
 * breaker_store.h
 *	  Breakers outlive a restart: the table llm_breaker, and who reads and
 *	  writes it when.
 *
 * A process that has changed a breaker says so in the log, counts it and asks
 * for a writer (worker/writer.c), a background worker that stores the state of
 * all breakers and goes away. If none can be had, a later call asks again. So
 * no call writes a table, or waits for one who does. What is stored is read again
 * by the first process that loads the database's configuration after the server
 * has started.
 */
#ifndef LLM_BREAKER_STORE_H
#define LLM_BREAKER_STORE_H

#include "postgres.h"

#include "catalog/config.h"
#include "datatype/timestamp.h"
#include "health/shared.h"

#define BREAKER_TABLE "llm_breaker"

/*
 * How long a writer is believed to be at work that does not say so again. Also
 * how long after an error in one the next is started.
 */
#define WRITER_LEASE (10 * USEC_SEC)

/* Finds this database's slot, or says that there is no room for one. */
extern bool breaker_store_find_slot(void);

/* Forgets the health of an extension that was here before this one. */
extern void breaker_store_forget_predecessor(const Config *config);

/* A HealthListener: logs a change, and has it stored. */
extern void breaker_store_note(const Cell *cell, const BreakerChange *change,
							   const char *reason);

/*
 * Asks for a writer if what has changed is not stored and none is at work. To
 * be called after each call, in case none could be had before: two reads.
 */
extern void breaker_store_flush(void);

/* Reads the stored states, once for the server, into unused breakers. */
extern void breaker_store_restore(const Config *config);

/* From monotonic time to the time of day and back. */
extern TimestampTz wall_of_usec(Usec at);
extern Usec usec_of_wall(TimestampTz at);

#endif							/* LLM_BREAKER_STORE_H */
