/*
 * unit_breaker_threads.c
 *	  Many threads at one breaker: of those who make a change exactly one is
 *	  told so, and nothing that was held stays.
 */
#include "postgres.h"

#include <pthread.h>

#include "common/pg_prng.h"

#include "health/breaker.h"

#include "unit.h"
#include "unit_breaker.h"

#define THREADS		8
#define ROUNDS		200
#define EVENTS		10000		/* of each thread, when all do what they like */
#define LEASE		(20 * USEC_SEC)
#define NUM_STATES	(BREAKER_RAMPING + 1)

static Breaker breaker;
static BreakerConfig config;
static pg_atomic_uint64 ticks;	/* made-up time, when threads move it */
static pthread_barrier_t barrier;

typedef struct Worker
{
	pthread_t	thread;
	int			number;
	Usec		now;
	BreakerTicket ticket;
	bool		entered;
	BreakerChange change;
	int			told[NUM_STATES][NUM_STATES];
} Worker;

static Worker workers[THREADS];

/* ---- All at once, step by step ---- */

typedef void (*Job) (Worker *worker);

static Job	job;				/* NULL: go home */

static void *
work(void *arg)
{
	Worker	   *worker = arg;

	for (;;)
	{
		pthread_barrier_wait(&barrier);
		if (job == NULL)
			return NULL;
		job(worker);
		pthread_barrier_wait(&barrier);
	}
}

static void
run_all(Job what)
{
	job = what;
	pthread_barrier_wait(&barrier);
	if (job)
		pthread_barrier_wait(&barrier);
}

/* Lets all do it; returns how many were told of a change. */
static int
all_do(Job what, Usec now)
{
	int			told = 0;

	for (int i = 0; i < THREADS; i++)
	{
		workers[i].now = now;
		workers[i].change = (BreakerChange) {0};
	}
	run_all(what);
	for (int i = 0; i < THREADS; i++)
		told += workers[i].change.changed;
	return told;
}

static void
do_enter(Worker *worker)
{
	worker->entered = breaker_enter(&breaker, &config, false, LEASE,
									worker->now, &worker->ticket,
									&worker->change);
}

static void
do_succeed(Worker *worker)
{
	worker->change = breaker_success(&breaker, &config, &worker->ticket, false,
									 worker->now);
}

static void
do_fail(Worker *worker)
{
	worker->change = breaker_failure(&breaker, &config, &worker->ticket, false,
									 0, worker->now);
}

static void
do_silence(Worker *worker)
{
	worker->change = breaker_silent(&breaker, &config, &worker->ticket,
									worker->now);
}

static void
do_leave(Worker *worker)
{
	breaker_leave(&breaker, &worker->ticket);
}

/* Each has read the clock a bit later. */
static void
do_trip(Worker *worker)
{
	worker->change = breaker_trip(&breaker, &worker->ticket, 60 * USEC_SEC,
								  worker->now + worker->number * USEC_MSEC);
}

static void
do_reset(Worker *worker)
{
	worker->change = breaker_reset(&breaker, worker->now);
}

static void
do_forgive(Worker *worker)
{
	worker->change = breaker_forgive(&breaker, 1, worker->now);
}

static int
count_entered(void)
{
	int			n = 0;

	for (int i = 0; i < THREADS; i++)
		n += workers[i].entered;
	return n;
}

/* All leave but one. */
static void
do_leave_but_last(Worker *worker)
{
	if (worker->number != THREADS - 1)
		do_leave(worker);
}

static void
check_all(BreakerState state, int told, int want, const char *what, Usec now)
{
	BreakerView view = breaker_view(&breaker, &config, now);

	CHECK(view.state == state && told == want,
		  "%s: %d were told, is %s", what, told,
		  breaker_state_name(view.state));
}

/* Once round the diagram; each step by all threads at once. */
static void
play_round(Usec now)
{
	Usec		end;
	int			told;

	all_do(do_enter, now);
	CHECK(count_entered() == THREADS, "closed");
	check_all(BREAKER_OPEN, all_do(do_fail, now), 1, "failures", now);
	CHECK(breaker_view(&breaker, &config, now).trips == 1, "one opening");
	all_do(do_enter, now);
	CHECK(count_entered() == 0, "open");

	end = breaker_view(&breaker, &config, now).until;
	check_all(BREAKER_HALF_OPEN, all_do(do_enter, end), 1, "trials", end);
	CHECK(count_entered() == 3, "trials: %d", count_entered());
	all_do(do_leave, end);
	CHECK(breaker_view(&breaker, &config, end).permits == 0, "all back");
	check_all(BREAKER_HALF_OPEN, all_do(do_enter, end), 0, "again", end);
	CHECK(count_entered() == 3, "trials again: %d", count_entered());
	check_all(BREAKER_OPEN, all_do(do_silence, end), 1, "silence", end);
	check_all(BREAKER_RAMPING, all_do(do_succeed, end), 1, "alive", end);

	end = breaker_view(&breaker, &config, end).until;
	all_do(do_enter, end);
	CHECK(count_entered() == THREADS, "ramp over");
	check_all(BREAKER_CLOSED, all_do(do_succeed, end), 1, "over", end);
	CHECK(breaker.window.total.calls == THREADS, "%u of %d counted",
		  breaker.window.total.calls, THREADS);

	all_do(do_enter, end);
	all_do(do_leave_but_last, end);
	told = all_do(do_trip, end);
	check_all(BREAKER_OPEN, told, 1, "trips", end);
	check_all(BREAKER_CLOSED, all_do(do_reset, end), 1, "resets", end);
	all_do(do_enter, end);
	check_all(BREAKER_OPEN, all_do(do_silence, end), 1, "all silent", end);
	check_all(BREAKER_CLOSED, all_do(do_forgive, end), 1, "forgiven", end);
	all_do(do_leave, end);
	CHECK(breaker.silent == 0, "%d silent", breaker.silent);
	breaker_reset(&breaker, end);
}

/* ---- Each as it likes ---- */

static void
note(Worker *worker, BreakerChange change)
{
	if (change.changed)
		worker->told[change.from][change.to]++;
}

/* An attempt with whatever end. */
static void
attempt(Worker *worker, pg_prng_state *dice)
{
	Usec		now = pg_atomic_fetch_add_u64(&ticks, 20 * USEC_MSEC);
	uint64		end = pg_prng_uint64_range(dice, 0, 99);
	BreakerTicket nobody = {0};

	worker->now = now;
	do_enter(worker);
	note(worker, worker->change);
	if (pg_prng_uint64_range(dice, 0, 9) == 0)
		note(worker, breaker_silent(&breaker, &config, &worker->ticket, now));
	if (end < 50)
		note(worker, breaker_success(&breaker, &config, &worker->ticket, false,
									 now));
	else if (end < 80)
		note(worker, breaker_failure(&breaker, &config, &worker->ticket, false,
									 0, now));
	if (end == 99)
		note(worker, breaker_trip(&breaker, &nobody, USEC_SEC, now));
	if (end == 98)
		note(worker, breaker_reset(&breaker, now));
	if (end == 97)
		note(worker, breaker_force_open(&breaker, now + USEC_SEC, now));
	if (end == 96)
		note(worker, breaker_forgive(&breaker, now - USEC_SEC, now));
	breaker_leave(&breaker, &worker->ticket);
}

static void
do_as_it_likes(Worker *worker)
{
	pg_prng_state dice;

	pg_prng_seed(&dice, worker->number + 1);
	for (int i = 0; i < EVENTS; i++)
		attempt(worker, &dice);
}

/*
 * Checks that every state has been entered as often as left, by what was told,
 * give or take the first and the last one: a change that nobody was told of, or
 * two, leaves a difference.
 */
static void
check_told(BreakerState last)
{
	int			sum[NUM_STATES] = {0};
	int			changes = 0;

	for (int i = 0; i < THREADS; i++)
		for (int from = 0; from < NUM_STATES; from++)
			for (int to = 0; to < NUM_STATES; to++)
			{
				sum[to] += workers[i].told[from][to];
				sum[from] -= workers[i].told[from][to];
				changes += workers[i].told[from][to];
			}
	sum[BREAKER_CLOSED]++;
	sum[last]--;
	for (int state = 0; state < NUM_STATES; state++)
		CHECK(sum[state] == 0, "%s: %d times too often",
			  breaker_state_name(state), sum[state]);
	CHECK(changes > 1000, "only %d changes", changes);
}

static void
play_freely(void)
{
	BreakerView view;

	breaker_init(&breaker);
	config.open_time = 100 * USEC_MSEC;
	config.open_time_max = 200 * USEC_MSEC;
	config.ramp = 200 * USEC_MSEC;
	run_all(do_as_it_likes);
	/* the state as it was told: at a time at which nothing has passed */
	view = breaker_view(&breaker, &config, 1);
	check_told(view.state);
	CHECK(breaker.silent == 0, "%d silent", breaker.silent);
	CHECK(view.permits == 0, "%d permits", view.permits);
}

void
test_breaker_threads(void)
{
	config = breaker_defaults;
	breaker_init(&breaker);
	pg_atomic_init_u64(&ticks, 1000 * USEC_SEC);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
	{
		workers[i].number = i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			abort();
	}
	for (int round = 0; round < ROUNDS; round++)
		play_round((1000 + round * 1000) * USEC_SEC);
	play_freely();
	run_all(NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_barrier_destroy(&barrier);
}
