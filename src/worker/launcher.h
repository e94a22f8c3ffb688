/*
 * launcher.h
 *	  The launcher starts the background processes of each database.
 */
#ifndef LLM_LAUNCHER_H
#define LLM_LAUNCHER_H

#include "postgres.h"

/* Has the server start the launcher; from _PG_init(), while preloading. */
extern void launcher_register(void);

#endif							/* LLM_LAUNCHER_H */
