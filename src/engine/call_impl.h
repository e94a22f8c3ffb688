/*
 * call_impl.h
 *	  Between the files that a call is made of; for them only.
 *
 * call.c has the states, walk.c the way along the chain of tiers, attempt.c one
 * try at one target, book.c what its end means for the health of its scopes,
 * follow.c what may come after it, hedge.c what is done while it is silent.
 */
#ifndef LLM_CALL_IMPL_H
#define LLM_CALL_IMPL_H

#include "postgres.h"

#include "engine/call.h"

/* What became of starting a try. */
typedef enum TryStart
{
	TRY_STARTED,
	TRY_REFUSED,				/* by health: somebody was faster; see call->later */
	TRY_IMPOSSIBLE				/* as it is configured, or in its dialect */
} TryStart;

/* call.c */
extern void call_set_state(Call *call, CallState state);
extern void call_fail(Call *call, CallError error, Usec now);
extern Attempt *call_add_attempt(Call *call, const Tier *tier,
								 const Candidate *candidate, Outcome outcome);
extern void call_add_cost(Call *call, const Attempt *attempt);
extern bool call_misconfigured(Call *call, const char *problem,
							   const char *hint);

/* walk.c */
extern const char *call_providers_off(const Call *call, Usec now);
extern TryStart call_begin_attempt(Call *call, const Candidate *candidate,
								   Usec now);
extern void call_route_on(Call *call, Usec now);
extern void call_end_pause(Call *call, Usec now);
extern CallError call_error(const Call *call, Usec now);

/* attempt.c */
extern TryStart try_start(Try *try, const Candidate *candidate, Usec now);
extern Outcome try_read(Try *try, Attempt *attempt, Reply *reply);
extern void try_abort(Try *try);
extern void try_release(Try *try);
extern bool try_is_running(const Try *try);
extern Try *call_other_try(Try *try);
extern Try *call_free_try(Call *call);

/* book.c */
extern OutcomeScope blamed_scope(const Candidate *candidate, Outcome outcome,
								 TransferEnd end);
extern void try_book(Try *try, const Attempt *attempt, const Reply *reply,
					 Usec now);
extern void try_cancel(Try *try, bool outrun, Usec now);
extern void call_book(const Call *call);

/* follow.c */
extern void follow_failure(Try *try, Outcome outcome, const Reply *reply,
						   Usec now);
extern bool may_go_on(Call *call, const Candidate *candidate,
					  Outcome outcome);
extern void note_later(Call *call, const Candidate *candidate,
					   const Tier *tier, Usec at);

/* hedge.c */
extern void mind_silence(Call *call, Usec now);
extern void set_silence_timers(Call *call, Usec now);

#endif							/* LLM_CALL_IMPL_H */
