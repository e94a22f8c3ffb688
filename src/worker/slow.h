/*
 * slow.h
 *	  The roles whose on_finish functions are slow; for the settler.
 *
 * They form a circle: whose turn it was goes to its end.
 */
#ifndef LLM_SLOW_H
#define LLM_SLOW_H

#include "postgres.h"

typedef struct SlowRole
{
	NameData	role;
	int64		after;			/* its tasks up to this one were tried */
} SlowRole;

/* Says whether a role is one of them. */
extern bool slow_has(const NameData *role);

/* Adds a role, or moves it to the end, after one of its tasks was tried. */
extern void slow_add(const NameData *role, int64 task);

/* Takes a role out. */
extern void slow_remove(const NameData *role);

/* Returns the role whose turn it is, or NULL. */
extern const SlowRole *slow_first(void);

/* Returns the names of all of them, or of the first one, as name[]. */
extern Datum slow_names(bool first);

#endif							/* LLM_SLOW_H */
