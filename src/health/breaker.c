/*
 * breaker.c
 *	  The circuit breaker as calls see it: looking, entering and leaving,
 *	  without its lock. What results do to it is in breaker_step.c, the layout
 *	  of the word in breaker_word.c.
 *
 * Who may change the word:
 * - Without the lock, permits come and go, and the first one makes OPEN to
 *	 HALF_OPEN. So the word of a breaker that is OPEN or HALF_OPEN may change at
 *	 any time.
 * - All else is done by a step, under the lock. So the word of a breaker that
 *	 is CLOSED or RAMPING stays while one holds the lock. As only these two
 *	 record anything, a step that has recorded is never repeated.
 *
 * Generations: opening, half-opening, giving out lost permits, reset and
 * forgiveness begin a new one. From OPEN or HALF_OPEN to RAMPING to CLOSED it
 * stays: the other trials of a round count in the ramp, as what they are. An
 * attempt of an older generation has no say but for two: a probe whose success
 * shows that it is alive now, or whose failure comes just when time has made
 * OPEN to HALF_OPEN, and one whose silence was a reason to open (the generation
 * just before that of the opening), if it was not dead after all.
 *
 * Eight bits of generation are enough: an attempt lives for minutes at most,
 * and 256 generations are 128 openings, of which all but the first take long.
 */
#include "postgres.h"

#include "storage/spin.h"

#include "health/breaker_word.h"

const BreakerConfig breaker_defaults = {
	.window = 30 * USEC_SEC,
	.min_calls = 5,
	.failure_rate = 0.5,
	.consecutive = 3,
	.slow_call = 0,
	.slow_rate = 0.8,
	.open_time = 5 * USEC_SEC,
	.open_time_max = 300 * USEC_SEC,
	.half_open_calls = 3,
	.ramp = 30 * USEC_SEC,
};

static const char *const state_names[] = {
	[BREAKER_CLOSED] = "closed",
	[BREAKER_OPEN] = "open",
	[BREAKER_HALF_OPEN] = "half_open",
	[BREAKER_RAMPING] = "ramping",
};

void
breaker_init(Breaker *breaker)
{
	memset(breaker, 0, sizeof(*breaker));
	pg_atomic_init_u64(&breaker->word, 0);
	SpinLockInit(&breaker->lock);
}

/*
 * Says whether the permits that are out are all lost: nobody came back within
 * the lease of the last one, and there is none left to try with.
 */
static bool
permits_are_lost(const Word *word, const BreakerConfig *config, Usec now)
{
	return word->state == BREAKER_HALF_OPEN &&
		word->permits >= config->half_open_calls && now >= word->until;
}

/* Returns the admitted share: from BREAKER_RAMP_START to 1 over the ramp. */
static double
word_share(const Word *word, const BreakerConfig *config, Usec now)
{
	Usec		left;

	if (word->state != BREAKER_RAMPING)
		return word->state == BREAKER_CLOSED ? 1.0 : 0.0;
	left = Min(word->until - now, config->ramp);
	if (left <= 0)
		return 1.0;
	return 1.0 - (1.0 - BREAKER_RAMP_START) * left / config->ramp;
}

BreakerView
breaker_view(const Breaker *breaker, const BreakerConfig *config, Usec now)
{
	Word		word =
		word_at(pg_atomic_read_u64(&unconstify(Breaker *, breaker)->word), now);

	if (permits_are_lost(&word, config, now))
		word_new_round(&word);
	return (BreakerView) {
		.state = word.state,
		.forced = word.forced,
		.sticky = word.sticky,
		.silent = word.silent,
		.trips = word.trips,
		.permits = word.permits,
		.until = word.until,
		.share = word_share(&word, config, now),
	};
}

/* Takes a permit of a half-open breaker's word; false when none is left. */
static bool
take_permit(Word *word, const BreakerConfig *config, Usec lease, Usec now)
{
	if (permits_are_lost(word, config, now))
		word_new_round(word);
	if (word->permits >= config->half_open_calls)
		return false;
	word->permits++;
	word->until = Max(word->until, later(now, lease));
	return true;
}

bool
breaker_enter(Breaker *breaker, const BreakerConfig *config, bool probe,
			  Usec lease, Usec now, BreakerTicket *ticket,
			  BreakerChange *change)
{
	uint64		raw = pg_atomic_read_u64(&breaker->word);
	uint64		wanted;
	bool		permit = false;
	Word		word;

	memset(ticket, 0, sizeof(*ticket));
	memset(change, 0, sizeof(*change));
	do
	{
		word = word_at(raw, now);
		if (probe || word_admits(&word))
			break;
		if (word.state == BREAKER_OPEN ||
			!take_permit(&word, config, lease, now))
			return false;
		wanted = word_pack(&word);
		permit = pg_atomic_compare_exchange_u64(&breaker->word, &raw, wanted);
	} while (!permit);

	if (permit && word_unpack(raw).state == BREAKER_OPEN)
		*change = (BreakerChange) {
			.changed = true,
			.from = BREAKER_OPEN,
			.to = BREAKER_HALF_OPEN,
			.until = word_unpack(wanted).until,
		};
	*ticket = (BreakerTicket) {
		.entered = true,
		.permit = permit,
		.probe = probe,
		.generation = word.generation,
	};
	return true;
}

/* Gives a trial's permit back, unless its round is over. */
static void
return_permit(Breaker *breaker, const BreakerTicket *ticket)
{
	uint64		raw = pg_atomic_read_u64(&breaker->word);
	Word		word;

	do
	{
		word = word_unpack(raw);
		if (word.state != BREAKER_HALF_OPEN ||
			word.generation != ticket->generation || word.permits == 0)
			return;
		if (--word.permits == 0)
			word.until = 0;
	} while (!pg_atomic_compare_exchange_u64(&breaker->word, &raw,
											 word_pack(&word)));
}

void
breaker_leave(Breaker *breaker, BreakerTicket *ticket)
{
	if (ticket->permit)
		return_permit(breaker, ticket);
	if (ticket->silent)
	{
		SpinLockAcquire(&breaker->lock);
		if (word_unpack(pg_atomic_read_u64(&breaker->word)).generation ==
			ticket->generation)
			breaker_end_silence(breaker, ticket);
		SpinLockRelease(&breaker->lock);
	}
	memset(ticket, 0, sizeof(*ticket));
}

bool
breaker_restore(Breaker *breaker, const BreakerView *view, Usec now)
{
	bool		unused;
	Word		word = {
		.state = view->state,
		.forced = view->forced,
		.sticky = view->sticky,
		.silent = view->silent,
		.trips = view->trips,
		.generation = 1,
		.until = view->state == BREAKER_HALF_OPEN ? 0 : view->until,
	};

	word = word_at(word_pack(&word), now);

	SpinLockAcquire(&breaker->lock);
	unused = pg_atomic_read_u64(&breaker->word) == 0 &&
		breaker->window.width == 0 && breaker->silent == 0;
	if (unused && word.state != BREAKER_CLOSED)
		pg_atomic_write_u64(&breaker->word, word_pack(&word));
	SpinLockRelease(&breaker->lock);
	return unused;
}

const char *
breaker_state_name(BreakerState state)
{
	return state_names[state];
}
