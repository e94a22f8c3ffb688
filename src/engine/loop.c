/*
 * loop.c
 *	  Runs any number of calls side by side: the one loop under all drivers.
 *
 * Waiting is transport_wait()'s: sockets, the process latch and interrupts. A
 * turn costs what happened in it, however many calls are under way.
 *
 * A driver for which one call's error is not the end of all gives a guard: each
 * step of a call is run by it. Without one, an error ends the loop, and
 * calls_run() releases the transfers here and now. Their calls' memory may be
 * there for long (a cursor that failed inside a savepoint keeps its executor
 * until the transaction ends), and the next loop would be handed them.
 */
#include "postgres.h"

#include "catalog/breaker_store.h"
#include "engine/loop.h"

static int	wakes_earlier(const pairingheap_node *a, const pairingheap_node *b,
						  void *arg);
static void run_step(CallLoop *loop, Call *call, CallStep step, void *what);
static void settle(CallLoop *loop, Call *call);
static void unsettle(CallLoop *loop, Call *call);
static Call *first_timed(const CallLoop *loop);
static void step_start(CallLoop *loop, void *what);
static void step_transfer(CallLoop *loop, void *what);
static void step_wake(CallLoop *loop, void *what);

void
calls_init(CallLoop *loop, const LoopDriver *driver)
{
	*loop = (CallLoop) {
		.driver = driver,
		.timed = {wakes_earlier, NULL, NULL},
	};
}

/* Orders calls by the time at which they want to go on. */
static int
wakes_earlier(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	Usec		wake_a = pairingheap_const_container(Call, wake_node, a)->wake;
	Usec		wake_b = pairingheap_const_container(Call, wake_node, b)->wake;

	(void) arg;
	return wake_a < wake_b ? 1 : wake_a > wake_b ? -1 : 0;
}

/* --- calls --- */

void
calls_start(CallLoop *loop, Call *call)
{
	loop->running++;
	loop->unheard = loop->running;
	run_step(loop, call, step_start, call);
}

void
calls_abandon(CallLoop *loop, Call *call)
{
	unsettle(loop, call);
	call_abandon(call);
	loop->running--;
}

/*
 * A call is woken only when no answer is left to be read, or as many have been
 * read as could have been there: who was busy elsewhere for a while, with a
 * transaction, say, must not take for silence what it has not listened to.
 */
bool
calls_turn(CallLoop *loop, Usec until, bool latch)
{
	Call	   *timed = first_timed(loop);
	Transfer   *ended = transport_wait(timed ? Min(timed->wake, until) : until,
									   latch);
	Usec		now = clock_now();
	bool		happened;

	if (ended == NULL && timed && timed->wake <= now)
		ended = transport_wait(now, false);
	happened = ended != NULL;
	if (ended)
	{
		Try		   *try = ended->owner;

		unsettle(loop, try->call);
		run_step(loop, try->call, step_transfer, try);
		if (loop->unheard-- > 0)
			return true;
	}
	loop->unheard = loop->running;
	while ((timed = first_timed(loop)) != NULL && timed->wake <= now)
	{
		happened = true;
		unsettle(loop, timed);
		run_step(loop, timed, step_wake, timed);
	}
	return happened;
}

/* Starts all calls and goes on until all have ended. */
static void
run_all(CallLoop *loop, Call **calls, int ncalls)
{
	for (int i = 0; i < ncalls; i++)
		calls_start(loop, calls[i]);
	while (loop->running > 0)
		(void) calls_turn(loop, USEC_NEVER, false);
}

void
calls_run(Call **calls, int ncalls, void (*work) (Call *, LocalAnswer *))
{
	LoopDriver	driver = {.work = work};
	CallLoop	loop;

	calls_init(&loop, &driver);
	PG_TRY();
	{
		run_all(&loop, calls, ncalls);
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

/* --- steps --- */

/* Lets something happen to a call that is not in the heap. */
static void
run_step(CallLoop *loop, Call *call, CallStep step, void *what)
{
	const LoopDriver *driver = loop->driver;

	if (driver->guard == NULL)
		step(loop, what);
	else if (!driver->guard(step, loop, what))
	{
		calls_abandon(loop, call);
		driver->failed(call);
		return;
	}
	if (call->state == CALL_ENDED)
	{
		loop->running--;
		if (driver->ended)
			driver->ended(call);
	}
}

static void
step_start(CallLoop *loop, void *what)
{
	Call	   *call = what;

	call_start(call, clock_now());
	settle(loop, call);
}

static void
step_transfer(CallLoop *loop, void *what)
{
	Try		   *try = what;
	Call	   *call = try->call;

	call_transfer_ended(try, clock_now());	/* which releases the transfer */
	settle(loop, call);
}

static void
step_wake(CallLoop *loop, void *what)
{
	Call	   *call = what;

	call_wake(call, clock_now());
	settle(loop, call);
}

/* Does a call's local work, and puts it where its state belongs. */
static void
settle(CallLoop *loop, Call *call)
{
	while (call->state == CALL_LOCAL)
	{
		LocalAnswer answer = {0};

		loop->driver->work(call, &answer);
		call_local_done(call, &answer, clock_now());
	}
	if (call->state != CALL_ENDED && call->wake != USEC_NEVER)
	{
		pairingheap_add(&loop->timed, &call->wake_node);
		call->queued = true;
	}
}

/* Takes a call out of the heap before its time may change. */
static void
unsettle(CallLoop *loop, Call *call)
{
	if (call->queued)
		pairingheap_remove(&loop->timed, &call->wake_node);
	call->queued = false;
}

/* Returns the call that is first to go on by itself, or NULL. */
static Call *
first_timed(const CallLoop *loop)
{
	if (pairingheap_is_empty(&loop->timed))
		return NULL;
	return pairingheap_container(Call, wake_node,
								 pairingheap_first(unconstify(pairingheap *,
															  &loop->timed)));
}
