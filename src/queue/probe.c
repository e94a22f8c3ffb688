/*
 * probe.c
 *	  The worker asks targets by itself, on the schedule of llm_probe.
 *
 * A probe is a call with one candidate, past breakers and limits, as those of
 * llm_check() are: so its end is booked as any attempt's, opens a breaker and
 * closes it. An answer that is not what was expected is made a failure before
 * it is booked, or it would close a breaker first.
 *
 * The configuration is read, which takes a transaction, when a probe is due,
 * when this process has heard of a change, and from time to time, since news
 * are heard of in transactions only.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "queue/expect.h"
#include "queue/journal.h"
#include "queue/queue.h"
#include "queue/schedule.h"
#include "queue/work.h"
#include "settings.h"
#include "sql/driver.h"
#include "util/encoding.h"

/* A new row is noticed so soon at the latest. */
#define LOOK_EVERY		(30 * USEC_SEC)

/* When somebody has the extension locked. */
#define RETRY_AFTER		(1 * USEC_SEC)

/* Each takes a descriptor, and tasks have most of them. */
#define MAX_AT_ONCE		64

/* Bounds the bill; a model that reasons first needs some room. */
#define PROBE_MAX_TOKENS 1024

/* So much of an expression stands in a message, in bytes. */
#define EXPECT_SHOWN	100

#define WARN_EVERY		(3600 * USEC_SEC)

typedef struct ProbeJob
{
	Job			job;			/* must be first */
	ScheduledProbe *scheduled;
	const ProbedTarget *target; /* of the call's configuration */
	bool		mismatched;		/* its answer is not what was expected */
} ProbeJob;

static struct
{
	MemoryContext context;		/* of all below, and of the calls */
	Schedule	schedule;
	uint64		version;		/* of the configuration that it is made of */
	Usec		look_at;		/* when to read that again */
	Usec		not_before;		/* it could not be read */
	Usec		due_at;			/* when something can be started, or NEVER */
	int			running;
}			probes;

static bool nothing_to_do(Usec now);
static bool look(Usec now, Config **config);
static void read_config(void *arg);
static void forget_all(Usec now);
static void reschedule(const Config *config, Usec now);
static ScheduleItem *add_items(ScheduleItem *item, const Probe *probe);
static void start_due(CallLoop *loop, Config *config, Usec now);
static void start(CallLoop *loop, Config *config, ScheduledProbe *scheduled,
				  Usec now);
static void note_due(void);
static const char *judge(const Call *call, const Reply *reply);
static void warn_of_expression(const Candidate *candidate);
static void probe_ended(Job *job, Call *call);
static void probe_failed(Job *job, Call *call);
static void end_probe(const ProbeJob *job, Call *call, ProbeFinding finding);
static ProbeFinding finding_of(const Call *call);
static void tell_failure(const ProbeJob *job, const Call *call);
static const char *failure_in_words(const ProbeJob *job, const Call *call);
static const char *failure_detail(const Call *call);

/* --- when --- */

Usec
probes_work(CallLoop *loop, Usec now)
{
	Config	   *config;

	if (probes.context == NULL)
		probes.context = AllocSetContextCreate(TopMemoryContext,
											   "llm_failover probes",
											   ALLOCSET_SMALL_SIZES);
	if (!llm_enabled)
		forget_all(now);
	else if (!nothing_to_do(now) && look(now, &config))
	{
		config_pin(config);
		if (config->version != probes.version)
			reschedule(config, now);
		start_due(loop, config, now);
		config_unpin(config);
	}
	return Max(probes.not_before, Min(probes.look_at, probes.due_at));
}

/* Says so without a transaction: this is asked after each turn of the loop. */
static bool
nothing_to_do(Usec now)
{
	if (now < probes.not_before)
		return true;
	return now < probes.look_at && now < probes.due_at &&
		probes.version != 0 && probes.version == config_version();
}

/* Reads the configuration; false when that cannot be done now. */
static bool
look(Usec now, Config **config)
{
	WorkEnd		how = work_run("reading the probes", read_config, config);

	probes.look_at = now + LOOK_EVERY;
	probes.not_before = how == WORK_DONE ? 0 :
		how == WORK_BUSY ? now + RETRY_AFTER : probes.look_at;
	return how == WORK_DONE;
}

static void
read_config(void *arg)
{
	*(Config **) arg = config_get(work_function());
}

/* Begins anew when we are switched on again. */
static void
forget_all(Usec now)
{
	if (probes.version != 0)
		schedule_update(&probes.schedule, NULL, 0, now);
	probes.version = 0;
	probes.look_at = now + LOOK_EVERY;
	probes.due_at = USEC_NEVER;
}

/* Puts a new configuration into the schedule. */
static void
reschedule(const Config *config, Usec now)
{
	MemoryContext caller = MemoryContextSwitchTo(probes.context);
	ScheduleItem *items;
	ScheduleItem *end;
	int			most = 0;

	for (int i = 0; i < config->nprobes; i++)
		most += config->probes[i].ntargets;
	end = items = palloc((most + 1) * sizeof(ScheduleItem));
	for (int i = 0; i < config->nprobes; i++)
		end = add_items(end, &config->probes[i]);
	schedule_update(&probes.schedule, items, (int) (end - items), now);
	probes.version = config->version;
	while (end > items)
		pfree(unconstify(char *, (--end)->key));
	pfree(items);
	MemoryContextSwitchTo(caller);
}

/*
 * Appends those targets of a probe that may be asked; returns the end. One that
 * cannot work as it is configured may: that it is not probed is to be told.
 */
static ScheduleItem *
add_items(ScheduleItem *item, const Probe *probe)
{
	for (int i = 0; i < probe->ntargets; i++)
	{
		const ProbedTarget *target = &probe->targets[i];
		const Candidate *candidate = &target->candidate;

		if (target->route.tier == NULL ||
			(candidate->problem == NULL && candidate_disabled(candidate)))
			continue;
		/* no name has a space */
		item->key = psprintf("%s %s %s %s", probe->provider_name,
							 probe->model_name,
							 probe->region_name ? probe->region_name : "",
							 candidate->region ? candidate->region->name : "");
		item->every = probe->every;
		item->target = target;
		item++;
	}
	return item;
}

/* --- starting --- */

/* Starts what is due, as far as there is room. */
static void
start_due(CallLoop *loop, Config *config, Usec now)
{
	ScheduledProbe *first;

	while (probes.running < MAX_AT_ONCE &&
		   (first = schedule_first(&probes.schedule)) != NULL &&
		   first->due <= now)
		start(loop, config, first, now);
	note_due();
}

/* Starts one, which may have ended when this returns. */
static void
start(CallLoop *loop, Config *config, ScheduledProbe *scheduled, Usec now)
{
	const ProbedTarget *target = scheduled->target;
	const Probe *probe = target->probe;
	CallSpec	spec = {
		.chat = {
			.prompt = probe->prompt_utf8,
			.prompt_len = probe->prompt_utf8 ? strlen(probe->prompt_utf8) : 0,
			.max_tokens = PROBE_MAX_TOKENS,
		},
		.local_prompt = probe->prompt,
		.tier = target->route.tier,
		/* one attempt: cut short by less, it would blame nobody */
		.timeout = target->route.tier->attempt_timeout,
		.deadline = USEC_NEVER,
		.only = &target->candidate,
		.judge = probe->expect ? judge : NULL,
	};
	Call	   *call = call_create(&spec, config, probes.context);
	ProbeJob   *job = MemoryContextAllocZero(call->context, sizeof(ProbeJob));

	job->job = (Job) {probe_ended, probe_failed};
	job->scheduled = scheduled;
	job->target = target;
	call->owner = job;
	probes.running++;
	schedule_begin(scheduled, now);
	calls_start(loop, call);
}

/*
 * Notes when something can be started next. Where all places are taken an end
 * makes room, after which we are called.
 */
static void
note_due(void)
{
	ScheduledProbe *first = schedule_first(&probes.schedule);

	probes.due_at = first && probes.running < MAX_AT_ONCE ? first->due :
		USEC_NEVER;
}

/* --- the answer --- */

/* Says what is wrong with an answer, or NULL. */
static const char *
judge(const Call *call, const Reply *reply)
{
	ProbeJob   *job = call->owner;
	const char *expect = job->target->probe->expect;
	size_t		len = reply->text ? reply->text_len : 0;
	const char *text = pnstrdup(reply->text ? reply->text : "", len);
	bool		replaced;
	PatternMatch match = expect_match(expect,
									  utf8_to_text(text, len, &len, &replaced));

	if (match == PATTERN_UNUSABLE)
		warn_of_expression(&job->target->candidate);
	if (match != PATTERN_NOT_FOUND)
		return NULL;
	len = strlen(expect);
	job->mismatched = true;
	return psprintf("the answer does not match \"%.*s%s\"",
					pg_mbcliplen(expect, (int) len, EXPECT_SHOWN), expect,
					len > EXPECT_SHOWN ? "..." : "");
}

/* Says, once an hour, that an answer counts as good for want of a verdict. */
static void
warn_of_expression(const Candidate *candidate)
{
	static Usec warned_at = 0;
	Usec		now = clock_now();

	if (warned_at != 0 && now - warned_at < WARN_EVERY)
		return;
	warned_at = now;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
			 errmsg("llm_failover: the answer of %s to its probe could not be matched with llm_probe.expect",
					candidate_name(candidate)),
			 errdetail("The regular expression is wrong, or too complex for the time there is.")));
}

/* --- the end --- */

/* Takes a call that has ended. */
static void
probe_ended(Job *job, Call *call)
{
	journal_usage(call, NULL, NULL);
	end_probe((ProbeJob *) job, call, finding_of(call));
}

/* Takes a call that an error has thrown over, which is in the log. */
static void
probe_failed(Job *job, Call *call)
{
	end_probe((ProbeJob *) job, call, PROBE_UNKNOWN);
}

static void
end_probe(const ProbeJob *job, Call *call, ProbeFinding finding)
{
	if (schedule_end(job->scheduled, finding, clock_now()))
		tell_failure(job, call);
	call_free(call);
	probes.running--;
	note_due();
}

/* Says what a call has found out of its target. */
static ProbeFinding
finding_of(const Call *call)
{
	if (call->error == CALL_ANSWERED)
		return PROBE_GOOD;
	if (call->error == CALL_SWITCHED_OFF)
		return PROBE_UNKNOWN;
	if (call->ntrace > 0 &&
		(call->trace[0].outcome == OUTCOME_CANCELLED ||
		 call->trace[0].outcome == OUTCOME_OWN_LIMIT))
		return PROBE_UNKNOWN;
	return PROBE_BAD;
}

/* Makes an event of a failure. */
static void
tell_failure(const ProbeJob *job, const Call *call)
{
	const Candidate *candidate = &job->target->candidate;
	MemoryContext caller = MemoryContextSwitchTo(call->context);
	JournalScope scope = {
		.provider = candidate->route->provider_name,
		.region = candidate->region ? candidate->region->name :
		candidate->route->region_name,
		.model = candidate->route->model_name,
	};

	journal_event(MyDatabaseId, "probe_failed", &scope,
				  psprintf("probe of %s failed: %s", candidate_name(candidate),
						   failure_in_words(job, call)),
				  failure_detail(call), false);
	MemoryContextSwitchTo(caller);
}

static const char *
failure_in_words(const ProbeJob *job, const Call *call)
{
	if (job->mismatched)
		return call->trace[0].error;
	if (call->ntrace > 0)
		return attempt_in_words(&call->trace[0]);
	if (call->problem)
		return call->problem;
	return call->unsayable ? call->unsayable : "it could not be asked";
}

/* Returns what became of the attempt as JSON, or NULL if there was none. */
static const char *
failure_detail(const Call *call)
{
	const Attempt *attempt = &call->trace[0];
	StringInfoData json;

	if (call->ntrace == 0)
		return NULL;
	initStringInfo(&json);
	appendStringInfo(&json, "{\"outcome\": \"%s\"",
					 outcome_rules[attempt->outcome].name);
	if (attempt->status > 0)
		appendStringInfo(&json, ", \"status\": %d", attempt->status);
	appendStringInfo(&json, ", \"ms\": " INT64_FORMAT "}", attempt->ms);
	return json.data;
}
