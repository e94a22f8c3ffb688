/*
 * loop.h
 *	  Runs any number of calls side by side: the one loop under all drivers.
 */
#ifndef LLM_LOOP_H
#define LLM_LOOP_H

#include "postgres.h"

#include "lib/pairingheap.h"

#include "engine/call.h"

typedef struct CallLoop CallLoop;

/* A step of a call: something has happened to it. */
typedef void (*CallStep) (CallLoop *loop, void *what);

/* What a driver does for the loop. Members but `work` may be NULL. */
typedef struct LoopDriver
{
	/* Answers for a builtin model. */
	void		(*work) (Call *call, LocalAnswer *answer);

	/* Takes a call that has ended, which may be freed. */
	void		(*ended) (Call *call);

	/*
	 * Runs a step, within whatever the driver needs around it. False when it
	 * has thrown, and the driver has dealt with the error: the loop then
	 * abandons the call and has `failed` take it.
	 */
	bool		(*guard) (CallStep step, CallLoop *loop, void *what);

	/* Takes a call whose step has thrown, which may be freed. */
	void		(*failed) (Call *call);
} LoopDriver;

struct CallLoop
{
	const LoopDriver *driver;
	pairingheap timed;			/* calls that wait for a time, earliest first */
	int			running;		/* calls started that have not ended */
	int			unheard;		/* answers that may be there already */
};

extern void calls_init(CallLoop *loop, const LoopDriver *driver);

/* Starts a call, which may have ended when this returns. */
extern void calls_start(CallLoop *loop, Call *call);

/* Takes a running call out again; nothing but call_free() may follow. */
extern void calls_abandon(CallLoop *loop, Call *call);

/*
 * Waits until something happens or until a time, and gives it to its call.
 * With `latch`, returns also when the process latch was set. Says whether
 * anything has happened to a call. Serves interrupts.
 */
extern bool calls_turn(CallLoop *loop, Usec until, bool latch);

/* Runs calls until all have ended. */
extern void calls_run(Call **calls, int ncalls,
					  void (*work) (Call *call, LocalAnswer *answer));

#endif							/* LLM_LOOP_H */
