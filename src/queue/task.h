/*
 * task.h
 *	  Between the files that the queue is made of; for them only.
 *
 * A *task* that the worker has claimed is, one after the other, *ready* (it
 * waits for a place), *running* (its call is under way) and *ended* (its result
 * is to be stored). A *lane* is what the worker knows of a tier's tasks.
 */
#ifndef LLM_TASK_H
#define LLM_TASK_H

#include "postgres.h"

#include "lib/ilist.h"

#include "engine/router.h"
#include "queue/queue.h"
#include "sql/driver.h"

/* What becomes of a task whose call has ended. */
typedef enum TaskEnd
{
	END_DONE,
	END_FAILED,					/* for good */
	END_EXPIRED,				/* while it ran */
	END_RETRY,					/* back to the queue: it has failed by itself */
	END_RELEASE,				/* back to the queue: nobody could be asked */
	END_IN_DOUBT				/* one of these two; will be known soon */
} TaskEnd;

typedef struct Task
{
	Job			job;			/* must be first */
	dlist_node	node;			/* of ready, running or ended */
	MemoryContext context;		/* all of it, with its call */
	struct Lane *lane;
	int64		id;
	CallArgs	args;			/* what the row asks for */
	const char *role;
	bool		allow_degraded;
	int			tries;			/* that have failed so far */
	int			max_tries;
	bool		has_callback;
	bool		has_key;		/* a dedupe_key */
	Usec		expires_at;		/* or USEC_NEVER */
	Usec		outage;			/* when it failed in an outage, or 0 */
	Call	   *call;			/* NULL: it could not even be begun */
	Report		refused;		/* why it is not to be started */
	bool		postponed;		/* there is no room for it in memory */
	Size		size;			/* of what it asks with, in memory */

	/* ended */
	TaskEnd		end;
	EndedCall  *result;			/* NULL without a call */
	const char *error;
	const char *error_code;
	Usec		ended;
	Usec		store_at;		/* not before: somebody has the row locked */
} Task;

/* A task that is back in the queue and is not to be claimed yet. */
typedef struct Deferred
{
	int64		id;
	Usec		until;
	Usec		outage;			/* when it failed in one, or 0 */
} Deferred;

#define MAX_DEFERRED 1024

/* A residency that nobody of a tier can serve for now, though others can be. */
typedef struct ShutResidency
{
	char	   *residency;		/* NULL: a free place */
	Usec		until;			/* not claimed before */
} ShutResidency;

#define MAX_SHUT 16

/* How many tasks of a tier are claimed at once, at most. */
#define MAX_CLAIM 512

/* Before the first task. */
#define LANE_TOP_URGENCY PG_INT32_MIN
#define LANE_TOP_ID PG_INT64_MIN

typedef struct Lane
{
	dlist_node	node;
	char	   *tier;
	bool		listed;			/* the last look has found tasks of it */
	int			ntasks;			/* in the worker's memory */
	int			claimed;		/* of these: ready and running */
	int			ready;			/* of these: ready */
	int			cap;			/* of these; lower while a limit of ours bites */
	bool		dry;			/* the last claim has found the end */
	Usec		open_at;		/* no claim before: nobody is admitted */
	Usec		last_success;
	TierOutlook outlook;

	/* where the next claim begins; what is before it was claimed or locked */
	int32		after_urgency;
	int64		after_id;
	Usec		top_cost;		/* of the last claim from the top */
	Usec		top_at;			/* when that may be again */

	/* as of the last look */
	bool		has_due;		/* tasks whose not_before has passed */
	Usec		next_due;		/* when the next one's passes */
	Usec		expires_at;		/* its queue_timeout ends, or USEC_NEVER */

	ShutResidency shut[MAX_SHUT];
	int			ndeferred;
	unsigned	oldest_deferred;
	Usec		deferred_next;	/* when one of these may be claimed */
	Deferred	deferred[MAX_DEFERRED];
} Lane;

typedef struct Queue
{
	MemoryContext context;
	DatabaseSlot *slot;
	int64		incarnation;
	Config	   *config;			/* pinned; as of the last look */
	bool		stands;			/* paused, or a copy */
	bool		copied;			/* a copy: no probe is sent either */
	dlist_head	lanes;
	dlist_head	ready;
	dlist_head	running;
	dlist_head	ended;
	int			nready;
	int			nrunning;
	int			nended;
	Size		size;			/* of what all of these ask with */
	Usec		next_expiry;	/* of expires_at, as of the last look */
	Usec		expired_at;		/* when that was last enforced */
	Usec		store_next;		/* when an ended task is to be looked at */
	Usec		store_free;		/* no results before, unless there are many */
	Usec		oldest_result;	/* that is not stored: since when */
	bool		look_wanted;
	Usec		look_at;		/* at the latest */
	Usec		look_free;		/* and at the earliest */
	Usec		claim_free;		/* no claim before: the last one has failed */
	Usec		take_back_at;	/* older incarnations have left locked rows */
	Usec		drop_at;		/* tasks were revoked: when to look which */
	int			places;			/* for calls: the setting, or what fits */
	int			ahead;			/* tasks that may be claimed beyond */
	Usec		ends_at;		/* when that is computed anew */
	uint64		nfinished;		/* calls that have ended so far */
	bool		answered;		/* rows for the settler were written */
	bool		settled;		/* rows were finished: NOTIFY, */
	Usec		notify_at;		/* but not before */
} Queue;

extern Queue queue;				/* the worker's */

/* state.c: the row of llm_queue_state */
extern void queue_read_state(void);
extern void queue_new_incarnation(void);

/* look.c: which tiers have tasks, and when something is due */
extern void queue_look(void);
extern void queue_expire(Usec now);

/* claim.c */
extern bool lane_may_claim(const Lane *lane, Usec now);
extern int	lane_claim(Lane *lane, int limit, Usec now);

/* task.c: from a row to a call, and what its end means */
extern Task *task_of_row(Lane *lane, HeapTuple row, TupleDesc desc);
extern void task_start(CallLoop *loop, Task *task);
extern void task_judge(Task *task, Usec now);
extern Usec task_backoff(const Task *task);
extern void task_give_up(Task *task, int sqlstate);
extern void task_free(Task *task);

/* guard.c: steps that may throw */
extern bool queue_guard(CallStep step, CallLoop *loop, void *what);
extern void queue_local_work(Call *call, LocalAnswer *answer);
extern int	guard_sqlstate(void);
extern const char *guard_message(void);

/* result.c: what goes into the table */
extern void queue_store(Usec now);
extern void note_result(bool has_callback);
extern void tell_of_results(Usec now);

/* result_row.c: results that one statement writes */
#define STORE_BATCH 256			/* of them at most */
typedef struct Results Results;

extern Results *results_begin(void);
extern void results_add(Results *results, const Task *task);
extern void results_write(Results *results);

/* requeue.c: what goes back to the queue, or is not ours any more */
extern void requeue_row(int64 id, int tries, const char *error,
						const char *error_code);
extern void requeue_be_impatient(void);
extern bool queue_take_back(void);
extern void queue_drop_revoked(CallLoop *loop, Usec now);
extern void queue_release_all(CallLoop *loop);
extern void queue_forget_claimed(dlist_node *last);

/* lane.c */
extern Lane *lane_of_tier(const char *tier);
extern void lane_forget(Lane *lane);
extern void lane_rewind(Lane *lane);
extern void lane_defer(Lane *lane, int64 id, Usec until, Usec outage);
extern Usec lane_undefer(Lane *lane, int64 id);
extern void lane_shut(Lane *lane, const Task *task, Usec until);
extern void lane_mind_deferred(Lane *lane, Usec now);
extern void lane_refused(Lane *lane, Usec until);
extern void lane_succeeded(Lane *lane, Usec now);

#endif							/* LLM_TASK_H */
