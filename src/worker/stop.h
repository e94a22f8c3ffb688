/*
 * stop.h
 *	  Statements that the background processes must hear of: those that want
 *	  a database without connections, that create or drop the extension, and
 *	  COMMIT PREPARED.
 */
#ifndef LLM_STOP_H
#define LLM_STOP_H

#include "postgres.h"

/* Installs the hooks; from _PG_init(), while preloading. */
extern void stop_install(void);

#endif							/* LLM_STOP_H */
