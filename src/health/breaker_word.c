/*
 * breaker_word.c
 *	  The atomic word of a breaker.
 *
 * From its lowest bit; 0 is closed and pristine:
 *
 *	 0	2	state
 *	 2	1	forced: opened by hand
 *	 3	1	sticky: opened by a trip
 *	 4	1	silent: opened by attempts that had not failed yet
 *	 5	7	permits: trials under way
 *	12	5	trips: openings in a row, those by hand aside; stops at 31
 *	17	8	generation, wraps round
 *	25 39	until: milliseconds of monotonic time, rounded up so that nothing
 *			happens early; 17 years, a later one is cut
 *
 * Clocks of other processes may be read earlier or later: `now` is only
 * compared, so that being late or early by that much is all that follows.
 */
#include "postgres.h"

#include "health/breaker_word.h"

#define STATE_SHIFT			0
#define STATE_MASK			UINT64CONST(0x3)
#define FORCED_SHIFT		2
#define STICKY_SHIFT		3
#define SILENT_SHIFT		4
#define FLAG_MASK			UINT64CONST(0x1)
#define PERMITS_SHIFT		5
#define PERMITS_MASK		UINT64CONST(0x7F)
#define TRIPS_SHIFT			12
#define TRIPS_MASK			UINT64CONST(0x1F)
#define GENERATION_SHIFT	17
#define UNTIL_SHIFT			25
#define UNTIL_MASK			UINT64CONST(0x7FFFFFFFFF)

/* Returns a point in time in milliseconds, rounded up. */
static uint64
milliseconds_up(Usec time)
{
	uint64		usec = (uint64) Max(time, 0);

	return Min(usec / USEC_MSEC + (usec % USEC_MSEC != 0), UNTIL_MASK);
}

uint64
word_pack(const Word *word)
{
	return (uint64) word->state << STATE_SHIFT |
		(uint64) word->forced << FORCED_SHIFT |
		(uint64) word->sticky << STICKY_SHIFT |
		(uint64) word->silent << SILENT_SHIFT |
		((uint64) word->permits & PERMITS_MASK) << PERMITS_SHIFT |
		Min((uint64) word->trips, TRIPS_MASK) << TRIPS_SHIFT |
		(word->generation & GENERATION_MASK) << GENERATION_SHIFT |
		milliseconds_up(word->until) << UNTIL_SHIFT;
}

Word
word_unpack(uint64 raw)
{
	return (Word) {
		.state = (BreakerState) (raw >> STATE_SHIFT & STATE_MASK),
		.forced = raw >> FORCED_SHIFT & FLAG_MASK,
		.sticky = raw >> STICKY_SHIFT & FLAG_MASK,
		.silent = raw >> SILENT_SHIFT & FLAG_MASK,
		.permits = (int) (raw >> PERMITS_SHIFT & PERMITS_MASK),
		.trips = (int) (raw >> TRIPS_SHIFT & TRIPS_MASK),
		.generation = (uint32) (raw >> GENERATION_SHIFT & GENERATION_MASK),
		.until = (Usec) (raw >> UNTIL_SHIFT & UNTIL_MASK) * USEC_MSEC,
	};
}

/* Changes the state; nothing else does. What belongs to the old one goes. */
static void
word_set(Word *word, BreakerState state, Usec until)
{
	word->state = state;
	word->forced = word->sticky = word->silent = false;
	word->permits = 0;
	word->until = until;
	if (state == BREAKER_CLOSED)
		word->trips = 0;
}

/* As word_set(), and results of before change nothing. */
static void
word_set_anew(Word *word, BreakerState state, Usec until)
{
	word_set(word, state, until);
	word->generation = (word->generation + 1) & GENERATION_MASK;
}

void
word_open(Word *word, Usec until)
{
	if (word->state != BREAKER_OPEN)
		word->trips++;
	word_set_anew(word, BREAKER_OPEN, until);
}

void
word_force_open(Word *word, Usec until)
{
	word_set_anew(word, BREAKER_OPEN, until);
	word->forced = true;
}

void
word_new_round(Word *word)
{
	Assert(word->state == BREAKER_HALF_OPEN);
	word_set_anew(word, BREAKER_HALF_OPEN, 0);
}

void
word_ramp(Word *word, const BreakerConfig *config, Usec now)
{
	if (config->ramp > 0)
		word_set(word, BREAKER_RAMPING, later(now, config->ramp));
	else
		word_set(word, BREAKER_CLOSED, 0);
}

void
word_close(Word *word)
{
	word_set_anew(word, BREAKER_CLOSED, 0);
}

Word
word_at(uint64 raw, Usec now)
{
	Word		word = word_unpack(raw);

	if (word.state == BREAKER_OPEN && now >= word.until)
		word_set_anew(&word, BREAKER_HALF_OPEN, 0);
	else if (word.state == BREAKER_RAMPING && now >= word.until)
		word_set(&word, BREAKER_CLOSED, 0);
	return word;
}

bool
word_admits(const Word *word)
{
	return word->state == BREAKER_CLOSED || word->state == BREAKER_RAMPING;
}
