/*
 * breaker_step.c
 *	  What happens to a breaker: results, silence, trips, and what is done by
 *	  hand. Each is a step, taken under the lock; see breaker.c for the rules.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "storage/spin.h"

#include "health/breaker_word.h"

/* A trip lengthens an opening only if it gets this much longer. */
#define TRIP_STEP USEC_SEC

typedef struct Event Event;

/*
 * What an event does: changes the word, and records. Runs under the lock, and
 * again when the word of a breaker that is OPEN or HALF_OPEN has changed
 * meanwhile.
 */
typedef void (*Step) (Breaker *breaker, const Event *event, Word *word);

struct Event
{
	Step		step;
	const BreakerConfig *config;
	BreakerTicket *ticket;
	bool		slow;
	Usec		time;			/* a length or a point: what the step says */
	Usec		now;
};

void
breaker_end_silence(Breaker *breaker, const BreakerTicket *ticket)
{
	if (!ticket->silent || breaker->silent == 0)
		return;
	breaker->silent--;
	if (ticket->run == breaker->run)
		breaker->silent_run--;
}

/*
 * A success ends what was silent in a row: a few attempts that hang while the
 * others are answered are a matter of the failure rate.
 */
static void
begin_run(Breaker *breaker)
{
	breaker->silent_run = 0;
	breaker->run++;
}

/* Records an attempt that has ended. */
static void
record(Breaker *breaker, const Event *event, bool failed)
{
	WindowCounts counts = {.calls = 1, .failures = failed, .slow = event->slow};

	breaker_end_silence(breaker, event->ticket);
	breaker->consecutive = failed ? breaker->consecutive + 1 : 0;
	if (!failed)
		begin_run(breaker);
	window_add(&breaker->window, event->config->window, counts, event->now);
}

/*
 * Says whether so many of all reach a rate. Compared as float: a rate comes out
 * of a column of type real, and 4 of 5 do reach 0.8. None never do.
 */
static bool
reaches(uint64 some, uint64 all, double rate)
{
	return some > 0 && (float) ((double) some / all) >= (float) rate;
}

/*
 * Says whether what was recorded is reason to open, when `silent` attempts have
 * failed, `run` of them since the last success.
 */
static bool
should_open(const Breaker *breaker, const Event *event, int silent, int run)
{
	const BreakerConfig *config = event->config;
	WindowCounts sum =
		window_sum(&breaker->window, config->window, event->now);
	uint64		calls = (uint64) sum.calls + silent;
	uint64		failures = (uint64) sum.failures + silent;

	if (breaker->consecutive + run >= config->consecutive)
		return true;
	if (calls < (uint64) config->min_calls)
		return false;
	return reaches(failures, calls, config->failure_rate) ||
		(config->slow_call > 0 && reaches(sum.slow, calls, config->slow_rate));
}

/*
 * Returns until when to stay open: twice as long with each opening in a row, up
 * to a maximum, and give or take the jitter, so that breakers which opened
 * together do not try together. event->time is the floor.
 */
static Usec
open_until(const Event *event, int trips)
{
	const BreakerConfig *config = event->config;
	double		time = Min(ldexp((double) config->open_time, trips),
						   (double) config->open_time_max);
	double		jitter = 2 * pg_prng_double(&pg_global_prng_state) - 1;

	time += time * BREAKER_JITTER * jitter;
	return later(event->now, Max((Usec) time, event->time));
}

/* Opens an admitting breaker if there is reason to. */
static bool
open_if_bad(const Breaker *breaker, const Event *event, Word *word)
{
	if (!should_open(breaker, event, breaker->silent, breaker->silent_run))
		return false;
	word_open(word, open_until(event, word->trips));
	word->silent = !should_open(breaker, event, 0, 0);
	return true;
}

/* Takes the consequences of a failure: opens, or lets a ramp start again. */
static void
weigh_failure(const Breaker *breaker, const Event *event, Word *word)
{
	if (!open_if_bad(breaker, event, word) && word->state == BREAKER_RAMPING)
		word->until = later(event->now, event->config->ramp);
}

static bool
is_own(const BreakerTicket *ticket, const Word *word)
{
	return ticket->generation == word->generation;
}

static bool
is_trial(const BreakerTicket *ticket, const Word *word)
{
	return ticket->permit && is_own(ticket, word) &&
		word->state == BREAKER_HALF_OPEN;
}

/*
 * Says whether a probe speaks of what the breaker is now. Time may have made it
 * HALF_OPEN while the probe was under way.
 */
static bool
is_probe_of(const BreakerTicket *ticket, const Word *word)
{
	return ticket->probe &&
		(is_own(ticket, word) ||
		 (word->state == BREAKER_HALF_OPEN &&
		  ((ticket->generation + 1) & GENERATION_MASK) == word->generation));
}

/* Says whether an attempt is one of those whose silence has opened a breaker. */
static bool
has_spoken(const BreakerTicket *ticket, const Word *word)
{
	return ticket->silent && word->silent &&
		((ticket->generation + 1) & GENERATION_MASK) == word->generation;
}

/*
 * Says whether a success shows that a breaker was opened by mistake: it was
 * closed before, nothing had failed, and of what was silent for too long
 * something has spoken after all.
 */
static bool
refutes(const BreakerTicket *ticket, const Word *word)
{
	return !word_admits(word) && !word->forced && word->trips == 1 &&
		has_spoken(ticket, word);
}

/* Says whether a success shows that a breaker need not be shut any more. */
static bool
revives(const BreakerTicket *ticket, const Word *word)
{
	if (word_admits(word) || word->forced)
		return false;
	return ticket->probe || is_trial(ticket, word) || has_spoken(ticket, word);
}

static void
step_success(Breaker *breaker, const Event *event, Word *word)
{
	if (refutes(event->ticket, word))
		word_close(word);
	else if (revives(event->ticket, word))
		word_ramp(word, event->config, event->now);
	else if (word_admits(word) && is_own(event->ticket, word))
	{
		record(breaker, event, false);
		open_if_bad(breaker, event, word);
	}
}

/*
 * Lets an opening last longer, for a probe has failed: it was a trial that has
 * cost no call. One by hand or by a trip knows by itself when it ends.
 */
static void
prolong(const Event *event, Word *word)
{
	Usec		until = open_until(event, word->trips);

	if (word->forced || word->sticky || until <= word->until)
		return;
	word->until = until;
	if (ldexp((double) event->config->open_time, word->trips) <
		(double) event->config->open_time_max)
		word->trips++;
}

/* event->time: the floor of the open time. */
static void
step_failure(Breaker *breaker, const Event *event, Word *word)
{
	const BreakerTicket *ticket = event->ticket;
	bool		probe = is_probe_of(ticket, word);

	if (is_trial(ticket, word) || (probe && word->state == BREAKER_HALF_OPEN))
		word_open(word, open_until(event, word->trips));
	else if (probe && word->state == BREAKER_OPEN)
		prolong(event, word);
	else if (word_admits(word) && is_own(ticket, word))
	{
		record(breaker, event, true);
		weigh_failure(breaker, event, word);
	}
}

/* Marks the ticket of whom it has counted, or whose trial it has ended. */
static void
step_silent(Breaker *breaker, const Event *event, Word *word)
{
	BreakerTicket *ticket = event->ticket;

	if (is_trial(ticket, word))
	{
		word_open(word, open_until(event, word->trips));
		word->silent = ticket->silent = true;
	}
	else if (word_admits(word) && is_own(ticket, word))
	{
		ticket->silent = true;
		ticket->run = breaker->run;
		breaker->silent++;
		breaker->silent_run++;
		weigh_failure(breaker, event, word);
	}
}

/* event->time: how long. */
static void
step_trip(Breaker *breaker pg_attribute_unused(), const Event *event,
		  Word *word)
{
	Usec		until = later(event->now, event->time);

	if (event->ticket->entered && !is_own(event->ticket, word) &&
		!is_probe_of(event->ticket, word))
		return;
	if (word->state == BREAKER_OPEN &&
		(word->forced || until <= later(word->until, TRIP_STEP)))
		return;
	if (word->sticky)
	{
		word->until = until;
		return;
	}
	word_open(word, until);
	word->sticky = true;
}

/* event->time: until when. */
static void
step_force_open(Breaker *breaker pg_attribute_unused(), const Event *event,
				Word *word)
{
	word_force_open(word, event->time);
}

static void
step_ramp(Breaker *breaker pg_attribute_unused(), const Event *event,
		  Word *word)
{
	if (word->state == BREAKER_CLOSED)
		word_ramp(word, event->config, event->now);
}

static void
step_reset(Breaker *breaker pg_attribute_unused(),
		   const Event *event pg_attribute_unused(), Word *word)
{
	word_close(word);
}

/* event->time: since when. */
static void
step_forgive(Breaker *breaker, const Event *event, Word *word)
{
	if (word->forced || word->sticky)
		return;
	if (word->state != BREAKER_CLOSED && breaker->opened_at >= event->time)
		word_close(word);
	else if (word_admits(word))
	{
		breaker->consecutive = 0;
		window_clear(&breaker->window);
	}
}

/*
 * Begins new records after a change of state. Of a breaker that has opened the
 * window stays, to be looked at, until it is of use again.
 */
static void
begin_records(Breaker *breaker, BreakerState state, Usec now)
{
	breaker->consecutive = 0;
	breaker->silent = 0;
	begin_run(breaker);
	if (state == BREAKER_OPEN)
		breaker->opened_at = now;
	else
		window_clear(&breaker->window);
}

/*
 * Takes a step and returns what has changed. A step that finds the breaker
 * HALF_OPEN and leaves it there has done nothing: that OPEN has become
 * HALF_OPEN is for breaker_enter() to write down.
 */
static BreakerChange
breaker_take_step(Breaker *breaker, const Event *event)
{
	uint64		raw;
	uint64		wanted;
	Word		was;
	Word		word;
	Word		stored;

	SpinLockAcquire(&breaker->lock);
	raw = pg_atomic_read_u64(&breaker->word);
	do
	{
		was = word = word_at(raw, event->now);
		event->step(breaker, event, &word);
		wanted = word.state == BREAKER_HALF_OPEN ? raw : word_pack(&word);
	} while (wanted != raw &&
			 !pg_atomic_compare_exchange_u64(&breaker->word, &raw, wanted));
	if (word.state != was.state || word.generation != was.generation)
		begin_records(breaker, word.state, event->now);
	SpinLockRelease(&breaker->lock);

	was = word_unpack(raw);
	stored = word_unpack(wanted);
	return (BreakerChange) {
		.changed = was.state != stored.state ||
			(stored.state == BREAKER_OPEN &&
			 was.generation != stored.generation),
		.prolonged = stored.state == BREAKER_OPEN &&
			was.generation == stored.generation &&
			was.until < stored.until,
		.from = was.state,
		.to = stored.state,
		.until = stored.until,
	};
}

/* Takes the step that ends a ticket; nothing when it is empty. */
static BreakerChange
end_ticket(Breaker *breaker, const Event *event)
{
	BreakerChange change = {0};

	if (event->ticket->entered)
		change = breaker_take_step(breaker, event);
	memset(event->ticket, 0, sizeof(*event->ticket));
	return change;
}

BreakerChange
breaker_success(Breaker *breaker, const BreakerConfig *config,
				BreakerTicket *ticket, bool slow, Usec now)
{
	const Event event = {.step = step_success, .config = config,
		.ticket = ticket, .slow = slow, .now = now};

	return end_ticket(breaker, &event);
}

BreakerChange
breaker_failure(Breaker *breaker, const BreakerConfig *config,
				BreakerTicket *ticket, bool slow, Usec retry_after, Usec now)
{
	const Event event = {.step = step_failure, .config = config,
		.ticket = ticket, .slow = slow, .time = retry_after, .now = now};

	return end_ticket(breaker, &event);
}

BreakerChange
breaker_trip(Breaker *breaker, BreakerTicket *ticket, Usec open_for, Usec now)
{
	const Event event = {.step = step_trip, .ticket = ticket,
		.time = open_for, .now = now};
	BreakerChange change = breaker_take_step(breaker, &event);

	memset(ticket, 0, sizeof(*ticket));
	return change;
}

BreakerChange
breaker_silent(Breaker *breaker, const BreakerConfig *config,
			   BreakerTicket *ticket, Usec now)
{
	const Event event = {.step = step_silent, .config = config,
		.ticket = ticket, .now = now};
	BreakerChange change = {0};

	if (ticket->entered && !ticket->silent)
		change = breaker_take_step(breaker, &event);
	if (ticket->silent)
		ticket->permit = false;
	return change;
}

BreakerChange
breaker_force_open(Breaker *breaker, Usec until, Usec now)
{
	const Event event = {.step = step_force_open, .time = until, .now = now};

	return breaker_take_step(breaker, &event);
}

BreakerChange
breaker_begin_ramp(Breaker *breaker, const BreakerConfig *config, Usec now)
{
	const Event event = {.step = step_ramp, .config = config, .now = now};

	return breaker_take_step(breaker, &event);
}

BreakerChange
breaker_reset(Breaker *breaker, Usec now)
{
	const Event event = {.step = step_reset, .now = now};

	return breaker_take_step(breaker, &event);
}

BreakerChange
breaker_forgive(Breaker *breaker, Usec since, Usec now)
{
	const Event event = {.step = step_forgive, .time = since, .now = now};

	return breaker_take_step(breaker, &event);
}
