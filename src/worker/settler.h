/*
 * settler.h
 *	  The second background process of a database: runs the on_finish functions
 *	  of answered tasks, and deletes rows that are past their retention.
 *
 * The launcher starts it when somebody has signalled it (slot_signal() with
 * SLOT_SETTLER): SIGNAL_ANSWERED whenever rows have become `answered`, or a
 * copied queue was let go; SIGNAL_TIDY to look for old rows. It leaves when
 * there is nothing to do for a while.
 */
#ifndef LLM_SETTLER_H
#define LLM_SETTLER_H

#include "postgres.h"

/* The process; `database` is the OID of one that has a slot. */
extern PGDLLEXPORT void llm_settler_main(Datum database)
			pg_attribute_noreturn();

#endif							/* LLM_SETTLER_H */
