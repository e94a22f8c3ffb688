/*
 * loop.c
 *	  Runs any number of calls side by side: the one loop under all drivers.
 *
 * Waiting is transport_wait()'s: sockets, the process latch and interrupts. A
 * turn costs what happened in it, however many calls are under way.
 *
 * When it throws, transfers are released here and now. Their calls' memory may
 * be there for long (a cursor that failed inside a savepoint keeps its executor
 * until the transaction ends), and the next loop would be handed them.
 */
#include "postgres.h"

#include "call.h"
#include "catalog/breaker_store.h"

typedef struct Loop
{
	pairingheap timed;			/* calls that wait for a time, earliest first */
	int			unfinished;
	LocalWork	work;
} Loop;

/* Orders calls by the time at which they want to go on. */
static int
wakes_earlier(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	Usec		wake_a = pairingheap_const_container(Call, wake_node, a)->wake;
	Usec		wake_b = pairingheap_const_container(Call, wake_node, b)->wake;

	(void) arg;
	return wake_a < wake_b ? 1 : wake_a > wake_b ? -1 : 0;
}

/* Does a call's local work, and puts it where its state belongs. */
static void
settle(Loop *loop, Call *call)
{
	while (call->state == CALL_LOCAL)
	{
		LocalAnswer answer = {0};

		loop->work(call, &answer);
		call_local_done(call, &answer, clock_now());
	}
	if (call->state == CALL_ENDED)
		loop->unfinished--;
	else if (call->wake != USEC_NEVER)
	{
		pairingheap_add(&loop->timed, &call->wake_node);
		call->queued = true;
	}
}

/* Takes a call out of the heap before its time may change. */
static void
unsettle(Loop *loop, Call *call)
{
	if (call->queued)
		pairingheap_remove(&loop->timed, &call->wake_node);
	call->queued = false;
}

/* Returns the call that is first to go on by itself, or NULL. */
static Call *
first_timed(Loop *loop)
{
	if (pairingheap_is_empty(&loop->timed))
		return NULL;
	return pairingheap_container(Call, wake_node,
								 pairingheap_first(&loop->timed));
}

/* Waits until something happens, and gives it to its call. */
static void
turn(Loop *loop)
{
	Call	   *timed = first_timed(loop);
	Transfer   *ended = transport_wait(timed ? timed->wake : USEC_NEVER);
	Usec		now = clock_now();

	if (ended)
	{
		Try		   *try = ended->owner;
		Call	   *call = try->call;

		unsettle(loop, call);
		call_transfer_ended(try, now);	/* which releases the transfer */
		settle(loop, call);
	}
	while ((timed = first_timed(loop)) != NULL && timed->wake <= now)
	{
		unsettle(loop, timed);
		call_wake(timed, now);
		settle(loop, timed);
	}
}

/* Starts all calls and goes on until all have ended. */
static void
run(Loop *loop, Call **calls, int ncalls)
{
	for (int i = 0; i < ncalls; i++)
	{
		call_start(calls[i], clock_now());
		settle(loop, calls[i]);
	}
	while (loop->unfinished > 0)
		turn(loop);
}

/* Starts all calls and returns when all have ended. */
void
calls_run(Call **calls, int ncalls, LocalWork work)
{
	Loop		loop = {
		.timed = {wakes_earlier, NULL, NULL},
		.unfinished = ncalls,
		.work = work,
	};

	PG_TRY();
	{
		run(&loop, calls, ncalls);
	}
	PG_CATCH();
	{
		for (int i = 0; i < ncalls; i++)
			call_abandon(calls[i]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	breaker_store_flush();
}
