/*
 * health.h
 *	  The three scopes of a target taken together: may it be asked, what an
 *	  attempt reserves, and how its end is booked.
 *
 * A reservation has one owner and is settled or released once, on every path:
 * all of a process's are chained, so that health_release_all() returns them
 * when it exits without unwinding.
 */
#ifndef LLM_HEALTH_H
#define LLM_HEALTH_H

#include "postgres.h"

#include "lib/ilist.h"

#include "health/cell.h"

/* The scopes of an attempt, widest first. */
#define HEALTH_SCOPES	3		/* CELL_PROVIDER, CELL_REGION, CELL_TARGET */

/* What of a target's configuration its health depends on. */
typedef struct HealthTarget
{
	CellRef		cells[HEALTH_SCOPES];
	const BreakerConfig *breaker;
	int			max_inflight;	/* of the region; 0 = no limit */
	int			rpm;			/* 0 = no limit */
	int			tpm;
} HealthTarget;

typedef enum HealthVerdict
{
	HEALTH_READY,
	HEALTH_RAMPING,				/* a share of its traffic */
	HEALTH_TRIAL,				/* half-open, and a permit is left */
	HEALTH_OUT
} HealthVerdict;

/* Why a target is not simply ready. */
typedef enum HealthWhy
{
	WHY_NONE,
	WHY_BREAKER,				/* open, half-open or ramping */
	WHY_THROTTLED,				/* its owner said: later */
	WHY_MAX_INFLIGHT,			/* limits of ours */
	WHY_RPM,
	WHY_TPM,
	WHY_NETWORK					/* our own is down, says the caller: network.h */
} HealthWhy;

typedef struct HealthCheck
{
	HealthVerdict verdict;
	HealthWhy	why;
	CellScope	scope;			/* the one that it comes from */
	Usec		until;			/* OUT: when to look again; 0 = not known */
	double		share;			/* admitted; 1 unless RAMPING */
	bool		sticky;			/* OUT by a trip: see BreakerView */
	bool		forced;			/* OUT by hand */
	bool		reserved;		/* OUT by a limit that is left to others */
	int			permits;		/* TRIAL: those that are left */
} HealthCheck;

typedef struct Reservation
{
	dlist_node	node;			/* of this process's reservations */
	bool		held;
	const BreakerConfig *breaker;
	CellRef		cells[HEALTH_SCOPES];	/* its own while held, or NULL */
	BreakerTicket tickets[HEALTH_SCOPES];
	bool		trial;			/* holds a permit of one of them */
	int			rpm;
	int			tpm;
	int64		tokens;			/* the estimate; at most tpm of it is taken */
	Usec		started;
} Reservation;

typedef enum HealthKind
{
	RESULT_SUCCESS,
	RESULT_FAILURE,				/* of `scope` */
	RESULT_TRIP,				/* as above, and it opens at once */
	RESULT_THROTTLED,			/* put aside, but alive */
	RESULT_ANSWERED,			/* says only that it is alive */
	RESULT_NOTHING				/* cancelled: says nothing at all */
} HealthKind;

typedef struct HealthResult
{
	HealthKind	kind;
	CellScope	scope;			/* of FAILURE, TRIP: whom it blames; a target's */
								/* says that the wider ones are alive */
	bool		failed;			/* counts in the statistics as failed */
	bool		our_network;	/* FAILURE by network that is our own fault */
	Usec		open_for;		/* TRIP */
	uint64		fingerprint;	/* TRIP: of what is blamed, or 0 */
	Usec		retry_after;	/* 0 = none */
	int64		tokens;			/* really used; -1 = not told */
	LimitNotice requests_left;
	LimitNotice tokens_left;
	const char *reason;			/* in words, or NULL */
} HealthResult;

/* A change of a breaker's state, for the log. */
typedef void (*HealthListener) (const Cell *cell, const BreakerChange *change,
								const char *reason);

/* Who is told of changes, in the process that made them; NULL = nobody. */
extern HealthListener health_listener;

/*
 * Says whether a target may be asked now for a request of so many tokens by who
 * leaves a share of each limit to others, 0 to 1. He gets at least one request
 * through when nobody else uses the target, however low its limit is; with a
 * share of 1 none, where there is a limit: then `until` is USEC_NEVER. Reads a
 * few atomics and takes no lock.
 */
extern void health_check(const HealthTarget *target, int64 tokens,
						 double leave, Usec now, HealthCheck *check);

/*
 * Says whether nobody is let through for now. Where trials are under way, or a
 * limit of ours is reached, some calls are.
 */
static inline bool
health_is_shut(const HealthCheck *check)
{
	return check->verdict == HEALTH_OUT &&
		(check->why == WHY_THROTTLED || check->why == WHY_NETWORK ||
		 (check->why == WHY_BREAKER && check->until > 0));
}

/*
 * Reserves an attempt: permits, an in-flight slot, a request and its tokens.
 * False, and nothing held, when somebody was faster; then *check says why. With
 * `probe`, nothing can refuse it. `lease`: how long the attempt may take. Tells
 * the listener when it is the first trial of a breaker that was open.
 */
extern bool health_reserve(const HealthTarget *target, int64 tokens,
						   double leave, bool probe, Usec lease, Usec now,
						   Reservation *reservation, HealthCheck *check);

/*
 * Returns how many attempts may be under way at a region before another one by
 * who leaves a share of them to others.
 */
extern uint32 health_inflight_cap(int max_inflight, double leave);

/* For how many more attempts a target has room. */
typedef struct HealthRoom
{
	int			calls;			/* about; PG_INT32_MAX = no end is known */
	const Cell *cell;			/* by whose doing, or NULL */
	Usec		until;			/* when there is room for one more; 0 = not */
								/* known */
} HealthRoom;

/*
 * Says for how many attempts of so many tokens a target has room now that
 * health_check() lets in: by its limits, by the permits of a trial, and while it
 * ramps by its share of `width`, which would be under way if it were well.
 */
extern void health_room(const HealthTarget *target, int64 tokens,
						double leave, int width, Usec now,
						const HealthCheck *check, HealthRoom *room);

/* Books how an attempt ended, and gives back what it held. */
extern void health_settle(Reservation *reservation, const HealthResult *result,
						  Usec now);

/* Gives back what an attempt held, saying nothing. Idempotent. */
extern void health_release(Reservation *reservation);
extern void health_release_all(void);

/*
 * Returns after how long of silence an attempt is suspect: three times the
 * usual longest; for a trial once that, or `unknown`, and twice as long with
 * each trial that failed before it; 0 = nothing is known.
 */
extern Usec health_patience(const Reservation *reservation, Usec unknown);

/*
 * Says whether an attempt has been under way for so long that its silence would
 * be suspect.
 */
extern bool health_is_overdue(const Reservation *reservation, Usec now);

/* Lets an attempt that has been silent for so long weigh as a failure. */
extern void health_silent(Reservation *reservation, Usec now);

/* Opens a scope at once that no attempt of ours entered. */
extern void health_trip(CellRef ref, const HealthResult *result, Usec now);

/*
 * Keeps why a scope is not closed, and tells the listener. The functions here
 * call it themselves; it is for who changes a breaker past them.
 */
extern void health_changed(Cell *cell, const BreakerChange *change,
						   const char *reason);

/* Closes a scope's breaker and forgets why it was not; tells the listener. */
extern void health_reset(CellRef ref, const char *reason, Usec now);

/*
 * Notes whether a target is in use. One that was not comes back by the ramp;
 * tells the listener.
 */
extern void health_note_use(const HealthTarget *target, bool in_use,
							Usec now);

/*
 * Takes back an opening of the last `within` that was not the scope's fault;
 * tells the listener.
 */
extern void health_forgive(CellRef ref, Usec within, Usec now);

/* Takes a retry or a hedge from the provider's budget. */
extern bool health_take_retry(const HealthTarget *target, Usec now);

#endif							/* LLM_HEALTH_H */
