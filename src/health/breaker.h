/*
 * breaker.h
 *	  A circuit breaker: keeps calls away from what is broken, and lets them
 *	  back step by step.
 *
 *	from		on										to
 *	CLOSED		failures, silence, slow calls			OPEN
 *	OPEN		its time has passed						HALF_OPEN
 *	HALF_OPEN	a trial fails, or a probe				OPEN, for twice as long
 *	HALF_OPEN	a trial succeeds						RAMPING
 *	RAMPING		failures, as when closed				OPEN, for twice as long
 *	RAMPING		a single failure						RAMPING from its start
 *	RAMPING		the ramp is over						CLOSED
 *	OPEN		success of an attempt whose silence
 *				had opened it, or of a probe			RAMPING
 *	OPEN, for
 *	the first
 *	time		success of such an attempt				CLOSED
 *	OPEN		a probe fails							OPEN, for twice as long
 *														from now on
 *	CLOSED		breaker_begin_ramp()					RAMPING
 *	not forced	breaker_trip()							OPEN, sticky
 *	opened just
 *	now			breaker_forgive()						CLOSED
 *	any			breaker_force_open()					OPEN, forced
 *	any			breaker_reset()							CLOSED
 *
 * What admission reads is one atomic word, changed by compare-and-swap alone;
 * who wins the change is told so, to log it. Transitions that time makes are
 * read from the word as if they had been made; OPEN to HALF_OPEN is made by who
 * enters next, RAMPING to CLOSED by whose result comes next. The lock protects
 * what is recorded: the window and the counts beside it. Nothing here
 * allocates, throws, logs or reads a clock.
 *
 * Attempts hold a ticket with the generation of the breaker when they entered.
 * A change of state that is not a continuation (opening, half-opening, lost
 * permits, forgiveness, reset) begins a new generation, and results of an older one change nothing: late
 * failures do not open it again, late successes do not close it.
 *
 * Sources: M. Nygard, Release It!; resilience4j's CircuitBreaker; Envoy's
 * outlier detection and slow start.
 */
#ifndef LLM_BREAKER_H
#define LLM_BREAKER_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/s_lock.h"

#include "health/window.h"

/* The breaker_… columns of llm_provider. */
typedef struct BreakerConfig
{
	Usec		window;
	int			min_calls;
	double		failure_rate;	/* 0–1 */
	int			consecutive;
	Usec		slow_call;		/* longer is slow; 0 = nothing is */
	double		slow_rate;		/* 0–1 */
	Usec		open_time;		/* the first; doubles with each failed trial */
	Usec		open_time_max;
	int			half_open_calls;	/* trials at once, 1–100 */
	Usec		ramp;			/* 0 = none */
} BreakerConfig;

extern const BreakerConfig breaker_defaults;

/* Jitter of the open time, as a part of it, both ways. */
#define BREAKER_JITTER 0.1

/* The share at which a ramp begins. */
#define BREAKER_RAMP_START 0.1

typedef enum BreakerState
{
	BREAKER_CLOSED,
	BREAKER_OPEN,
	BREAKER_HALF_OPEN,
	BREAKER_RAMPING
} BreakerState;

typedef struct Breaker
{
	pg_atomic_uint64 word;		/* state, flags, permits, trips, generation, */
								/* until: breaker_word.c; 0 = pristine */
	slock_t		lock;			/* protects all below */
	int			consecutive;	/* failures in a row */
	int			silent;			/* attempts that weigh as failures for now */
	int			silent_run;		/* of these: since the last success, */
	uint32		run;			/* which has this number */
	Usec		opened_at;		/* when it opened last, 0 = never */
	Window		window;
} Breaker;

/* What a breaker is like at a moment, time's own transitions made. */
typedef struct BreakerView
{
	BreakerState state;
	bool		forced;			/* opened by hand */
	bool		sticky;			/* opened by a trip: ends by itself or when */
								/* what it blamed has changed */
	bool		silent;			/* opened by silence alone */
	int			trips;			/* how often in a row it has opened */
	int			permits;		/* trials under way, HALF_OPEN only */
	Usec		until;			/* end of OPEN, of the trials' lease, of the */
								/* ramp; 0 when CLOSED or not yet entered */
	double		share;			/* of its traffic that is admitted: 1 CLOSED, */
								/* 0 OPEN and HALF_OPEN, between when RAMPING */
} BreakerView;

/*
 * A change of state that the caller has made, to log and to store. A new
 * opening of an open breaker is one, too; a ramp that starts again is none, nor
 * is an opening that only gets longer, by a probe or another trip.
 */
typedef struct BreakerChange
{
	bool		changed;
	bool		prolonged;		/* stays OPEN, and the reason is this one now */
	BreakerState from;
	BreakerState to;
	Usec		until;
} BreakerChange;

/* What an attempt holds of a breaker. All zero = nothing. */
typedef struct BreakerTicket
{
	bool		entered;
	bool		permit;			/* holds one of the trials */
	bool		probe;			/* entered past the breaker: its success */
								/* closes, whatever the generation; its */
								/* failure is that of a trial */
	bool		silent;			/* counted in breaker->silent, */
	uint32		run;			/* when this was breaker->run */
	uint32		generation;
} BreakerTicket;

/* The lowest bits of the word are the BreakerState. */
#define BREAKER_STATE_MASK UINT64CONST(0x3)

/*
 * Says at a glance whether a breaker is closed. One whose ramp is over is not
 * until somebody has noted that; breaker_view() knows.
 */
static inline bool
breaker_is_closed(const Breaker *breaker)
{
	uint64		word =
		pg_atomic_read_u64(&unconstify(Breaker *, breaker)->word);

	return (word & BREAKER_STATE_MASK) == BREAKER_CLOSED;
}

extern void breaker_init(Breaker *breaker);
extern BreakerView breaker_view(const Breaker *breaker,
								const BreakerConfig *config, Usec now);

/*
 * Enters a breaker for one attempt; false when it does not admit one (open, or
 * no trial is left). Whether a ramping one admits is the caller's dice, by
 * BreakerView.share. `lease`: how long a trial may be under way before its
 * permit counts as lost. A probe enters whatever the state. *change is that
 * from OPEN to HALF_OPEN, for the one who has made it.
 */
extern bool breaker_enter(Breaker *breaker, const BreakerConfig *config,
						  bool probe, Usec lease, Usec now,
						  BreakerTicket *ticket, BreakerChange *change);

/*
 * Ends a ticket, which is empty afterwards; on an empty one they do nothing.
 * breaker_leave() is for attempts that say nothing of this scope's health, a
 * cancel among them. retry_after is the floor of the open time, 0 = none.
 */
extern BreakerChange breaker_success(Breaker *breaker,
									 const BreakerConfig *config,
									 BreakerTicket *ticket, bool slow,
									 Usec now);
extern BreakerChange breaker_failure(Breaker *breaker,
									 const BreakerConfig *config,
									 BreakerTicket *ticket, bool slow,
									 Usec retry_after, Usec now);
extern void breaker_leave(Breaker *breaker, BreakerTicket *ticket);

/*
 * Opens at once, for `open_for`; ends the ticket. Also without one (empty):
 * what is said of a model is booked to targets that nobody asked. A forced
 * opening that is under way stays, and so does one that is longer, or shorter
 * by less than a second: many are told the same at once. One by a trip gets
 * longer, and that is all.
 */
extern BreakerChange breaker_trip(Breaker *breaker, BreakerTicket *ticket,
								  Usec open_for, Usec now);

/*
 * Counts an attempt that has been silent for too long as a failure until its
 * ticket ends. A silent trial fails.
 */
extern BreakerChange breaker_silent(Breaker *breaker,
									const BreakerConfig *config,
									BreakerTicket *ticket, Usec now);

/* Lets a closed one that was out of use begin with a part of its share. */
extern BreakerChange breaker_begin_ramp(Breaker *breaker,
										const BreakerConfig *config,
										Usec now);

/* By hand: open for a time whatever happens; closed with no history. */
extern BreakerChange breaker_force_open(Breaker *breaker, Usec until,
										Usec now);
extern BreakerChange breaker_reset(Breaker *breaker, Usec now);

/*
 * Takes an opening back that was not the scope's fault: closes a breaker that
 * has opened at `since` or later, unless forced or sticky, and forgets its
 * failures. One that is admitting forgets them, too.
 */
extern BreakerChange breaker_forgive(Breaker *breaker, Usec since, Usec now);

/*
 * Puts a stored state into a breaker that nobody has used yet; false when it
 * has been used, and live state stays.
 */
extern bool breaker_restore(Breaker *breaker, const BreakerView *view,
							Usec now);

extern const char *breaker_state_name(BreakerState state);

#endif							/* LLM_BREAKER_H */
