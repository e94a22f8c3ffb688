/*
 * breaker_word.h
 *	  The atomic word of a breaker, for breaker*.c: its fields, and the
 *	  transitions between states. Arithmetic only; the callers store it.
 */
#ifndef LLM_BREAKER_WORD_H
#define LLM_BREAKER_WORD_H

#include "postgres.h"

#include "health/breaker.h"

/* Of the generation, which wraps round. */
#define GENERATION_MASK UINT64CONST(0xFF)

typedef struct Word
{
	BreakerState state;
	bool		forced;
	bool		sticky;
	bool		silent;			/* opened by what had not failed yet */
	int			permits;		/* 0 unless HALF_OPEN */
	int			trips;			/* 0 when CLOSED */
	uint32		generation;
	Usec		until;			/* 0 when CLOSED, or HALF_OPEN with no permit */
} Word;

extern uint64 word_pack(const Word *word);
extern Word word_unpack(uint64 raw);

/* Unpacks a word as it is at `now`, with the transitions that time makes. */
extern Word word_at(uint64 raw, Usec now);

/* Says whether calls are admitted and recorded: CLOSED or RAMPING. */
extern bool word_admits(const Word *word);

/*
 * Any state to OPEN. By hand it says nothing of health, so it is no trip; nor
 * is a new opening of an open one another in a row.
 */
extern void word_open(Word *word, Usec until);
extern void word_force_open(Word *word, Usec until);

/* HALF_OPEN to HALF_OPEN, with all permits in hand. */
extern void word_new_round(Word *word);

/*
 * Any state to RAMPING, or where there is no ramp, to CLOSED. The generation
 * stays.
 */
extern void word_ramp(Word *word, const BreakerConfig *config, Usec now);

/* Any state to CLOSED, with no history. */
extern void word_close(Word *word);

/* Adds a length to a point in time; what is too far away never comes. */
static inline Usec
later(Usec now, Usec length)
{
	return length > USEC_NEVER - now ? USEC_NEVER : now + length;
}

/*
 * Lets a silent attempt weigh no longer. Under the breaker's lock, in the
 * generation of the ticket.
 */
extern void breaker_end_silence(Breaker *breaker, const BreakerTicket *ticket);

#endif							/* LLM_BREAKER_WORD_H */
