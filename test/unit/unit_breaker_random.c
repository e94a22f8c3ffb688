/*
 * unit_breaker_random.c
 *	  Random events at a breaker, against a model of it that is as simple as it
 *	  can be (a list of results, a generation that does not wrap round), and
 *	  against the rules that no event may break.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "health/breaker_word.h"

#include "unit.h"
#include "unit_breaker.h"

#define GAMES		300
#define EVENTS		1000		/* a game */
#define HELD		12			/* attempts under way */
#define HELD_FOR	60			/* events, so that generations do not wrap */
#define LEASE		(2 * USEC_SEC)

typedef struct Result
{
	Usec		at;
	bool		failed;
	bool		slow;
} Result;

/* What is stored: transitions of time are made for a look, and dropped. */
typedef struct Model
{
	BreakerState state;
	bool		forced;
	bool		sticky;
	bool		silent;
	int			trips;
	int			permits;
	int64		generation;
	Usec		until;
	Usec		opened_at;
	int			consecutive;
	int			nresults;
	Usec		newest;			/* time of the newest result */
} Model;

/* An attempt, as the model sees it. */
typedef struct Held
{
	BreakerTicket ticket;
	bool		permit;
	bool		probe;
	bool		silent;
	bool		in_run;			/* silent since the last success */
	int64		generation;
	int			since;			/* number of the event */
} Held;

static Breaker breaker;
static BreakerConfig config;
static Model model;
static Result results[EVENTS];
static Held held[HELD];
static Usec now;
static pg_prng_state dice;

static int
below(int n)
{
	return (int) pg_prng_uint64_range(&dice, 0, n - 1);
}

static Usec
up(Usec time)
{
	return (time + USEC_MSEC - 1) / USEC_MSEC * USEC_MSEC;
}

/* ---- The model ---- */

static bool
admits(void)
{
	return model.state == BREAKER_CLOSED || model.state == BREAKER_RAMPING;
}

static void
become(BreakerState state, Usec until)
{
	model.state = state;
	model.until = up(until);
	model.forced = model.sticky = model.silent = false;
	model.permits = 0;
	if (state == BREAKER_CLOSED)
		model.trips = 0;
}

static void
forget_results(void)
{
	model.consecutive = 0;
	model.nresults = 0;
	model.newest = 0;
}

static void
let_time_pass(void)
{
	if (model.state == BREAKER_OPEN && now >= model.until)
	{
		become(BREAKER_HALF_OPEN, 0);
		model.generation++;
	}
	else if (model.state == BREAKER_RAMPING && now >= model.until)
		become(BREAKER_CLOSED, 0);
}

/* Opens; until when, the caller says. */
static void
open_model(void)
{
	if (model.state != BREAKER_OPEN)
		model.trips = Min(model.trips + 1, 31);
	become(BREAKER_OPEN, 0);
	model.generation++;
	model.consecutive = 0;
	model.opened_at = now;
}

/* Opens after failures; the jitter is taken over when it is within bounds. */
static void
open_model_by_failures(Usec retry_after)
{
	double		plain = config.open_time * (double) ((int64) 1 << model.trips);
	Usec		until = breaker_view(&breaker, &config, now).until;

	plain = Min(plain, (double) config.open_time_max);
	open_model();
	CHECK(until >= now + Max((Usec) (0.9 * plain), retry_after) &&
		  until <= up(now + Max((Usec) (1.1 * plain) + 1, retry_after)),
		  "open for " INT64_FORMAT, until - now);
	model.until = until;
}

static bool
is_bad(int nsilent, int nrun)
{
	Usec		width = config.window / WINDOW_BUCKETS;
	int64		newest = Max(now, model.newest) / width;
	int			calls = nsilent;
	int			failures = nsilent;
	int			slow = 0;

	for (int i = 0; i < model.nresults; i++)
	{
		const Result *result = &results[i];

		if (result->at / width <= newest - WINDOW_BUCKETS)
			continue;
		calls++;
		failures += result->failed;
		slow += result->slow;
	}
	return model.consecutive + nrun >= config.consecutive ||
		(calls >= config.min_calls &&
		 (failures >= config.failure_rate * calls ||
		  (config.slow_call > 0 && slow >= config.slow_rate * calls)));
}

static int
count_silent(void)
{
	int			n = 0;

	for (int i = 0; i < HELD; i++)
		n += held[i].silent && held[i].generation == model.generation;
	return n;
}

static int
count_run(void)
{
	int			n = 0;

	for (int i = 0; i < HELD; i++)
		n += held[i].silent && held[i].in_run &&
			held[i].generation == model.generation;
	return n;
}

static void
end_run(void)
{
	for (int i = 0; i < HELD; i++)
		held[i].in_run = false;
}

static bool
open_model_if_bad(Usec retry_after)
{
	bool		silent;

	if (!is_bad(count_silent(), count_run()))
		return false;
	silent = !is_bad(0, 0);
	open_model_by_failures(retry_after);
	model.silent = silent;
	return true;
}

static void
model_failure(Usec retry_after)
{
	if (!open_model_if_bad(retry_after) && model.state == BREAKER_RAMPING)
		model.until = up(now + config.ramp);
}

static void
model_revive(void)
{
	become(config.ramp > 0 ? BREAKER_RAMPING : BREAKER_CLOSED,
		   config.ramp > 0 ? now + config.ramp : 0);
	forget_results();
}

static void
model_record(bool failed, bool slow)
{
	model.newest = Max(model.newest, now);
	results[model.nresults++] =
		(Result) {.at = model.newest, .failed = failed, .slow = slow};
	model.consecutive = failed ? model.consecutive + 1 : 0;
}

/* ---- Events: each happens to the breaker, then to the model ---- */

typedef BreakerChange (*Happening) (Held *attempt);

static BreakerChange
happen_enter(Held *attempt)
{
	bool		probe = below(8) == 0;
	bool		entered;
	bool		want = true;
	bool		permit = false;
	BreakerChange change = {0};

	if (attempt->ticket.entered)
		return change;
	entered = breaker_enter(&breaker, &config, probe, LEASE, now,
							&attempt->ticket, &change);
	if (!probe && model.state == BREAKER_HALF_OPEN)
	{
		if (model.permits >= config.half_open_calls && now >= model.until)
		{
			become(BREAKER_HALF_OPEN, 0);
			model.generation++;
		}
		permit = want = model.permits < config.half_open_calls;
		if (permit)
		{
			model.permits++;
			model.until = Max(model.until, up(now + LEASE));
		}
	}
	else if (!probe)
		want = admits();
	CHECK(entered == want && attempt->ticket.permit == permit,
		  "entered: %d, permit %d", entered, attempt->ticket.permit);
	attempt->permit = permit;
	attempt->probe = probe;
	attempt->silent = false;
	attempt->generation = model.generation;
	return change;
}

static BreakerChange
happen_success(Held *attempt)
{
	bool		slow = below(3) == 0;
	bool		own = attempt->generation == model.generation;
	bool		mine = attempt->silent && model.silent &&
	attempt->generation + 1 == model.generation;
	BreakerChange change = breaker_success(&breaker, &config, &attempt->ticket,
										   slow, now);

	if (admits() && own)
	{
		attempt->silent = false;
		end_run();
		model_record(false, slow);
		open_model_if_bad(0);
	}
	else if (!admits() && !model.forced && mine && model.trips == 1)
	{
		become(BREAKER_CLOSED, 0);
		forget_results();
		model.generation++;
	}
	else if (!admits() && !model.forced &&
			 (attempt->probe || (own && attempt->permit) || mine))
		model_revive();
	return change;
}

/* Says whether a probe speaks of what the model is now. */
static bool
is_probe_of_now(const Held *attempt)
{
	return attempt->ticket.entered && attempt->probe &&
		(attempt->generation == model.generation ||
		 (model.state == BREAKER_HALF_OPEN &&
		  attempt->generation + 1 == model.generation));
}

/* A probe has failed; the jitter is taken over when it is within bounds. */
static void
prolong_model(Usec retry_after)
{
	double		plain = config.open_time * (double) ((int64) 1 << model.trips);
	bool		longest = plain >= config.open_time_max;
	Usec		until = breaker_view(&breaker, &config, now).until;

	if (model.forced || model.sticky)
		return;
	plain = Min(plain, (double) config.open_time_max);
	CHECK(until >= now + Max((Usec) (0.9 * plain), retry_after) &&
		  until >= model.until &&
		  until <= Max(model.until,
					   up(now + Max((Usec) (1.1 * plain) + 1, retry_after))),
		  "open for " INT64_FORMAT, until - now);
	if (until > model.until && !longest)
		model.trips = Min(model.trips + 1, 31);
	model.until = until;
}

static BreakerChange
happen_failure(Held *attempt)
{
	bool		probe = is_probe_of_now(attempt);
	bool		slow = below(3) == 0;
	Usec		retry_after = below(4) == 0 ? below(100) * USEC_SEC : 0;
	bool		own = attempt->generation == model.generation;
	BreakerChange change = breaker_failure(&breaker, &config, &attempt->ticket,
										   slow, retry_after, now);

	if (admits() && own)
	{
		attempt->silent = false;
		model_record(true, slow);
		model_failure(retry_after);
	}
	else if (model.state == BREAKER_HALF_OPEN &&
			 ((own && attempt->permit) || probe))
		open_model_by_failures(retry_after);
	else if (model.state == BREAKER_OPEN && probe)
		prolong_model(retry_after);
	return change;
}

static BreakerChange
happen_silence(Held *attempt)
{
	bool		own = attempt->generation == model.generation;
	BreakerChange change = breaker_silent(&breaker, &config, &attempt->ticket,
										  now);

	if (attempt->silent || !own)
		return change;
	if (admits())
	{
		attempt->silent = attempt->in_run = true;
		model_failure(0);
	}
	else if (model.state == BREAKER_HALF_OPEN && attempt->permit)
	{
		attempt->silent = true;
		open_model_by_failures(0);
		model.silent = true;
	}
	return change;
}

static BreakerChange
happen_leave(Held *attempt)
{
	breaker_leave(&breaker, &attempt->ticket);
	if (attempt->permit && model.state == BREAKER_HALF_OPEN &&
		attempt->generation == model.generation && --model.permits == 0)
		model.until = 0;
	return (BreakerChange) {0};
}

/* A process dies with a permit. */
static BreakerChange
happen_loss(Held *attempt)
{
	if (attempt->permit && !attempt->silent)
		memset(attempt, 0, sizeof(*attempt));
	return (BreakerChange) {0};
}

static BreakerChange
happen_trip(Held *attempt)
{
	Usec		length = below(100) * USEC_SEC;
	bool		own = attempt->generation == model.generation ||
	!attempt->ticket.entered || is_probe_of_now(attempt);
	BreakerChange change = breaker_trip(&breaker, &attempt->ticket, length,
										now);

	if (own && !(model.state == BREAKER_OPEN &&
				 (model.forced ||
				  now + length <= model.until + USEC_SEC)))
	{
		if (!model.sticky)
			open_model();
		model.until = up(now + length);
		model.sticky = true;
	}
	return change;
}

static BreakerChange
happen_force(Held *attempt pg_attribute_unused())
{
	Usec		until = now + below(100) * USEC_SEC;
	int			trips = model.trips;
	BreakerChange change = breaker_force_open(&breaker, until, now);

	open_model();
	model.until = up(until);
	model.trips = trips;
	model.forced = true;
	return change;
}

static BreakerChange
happen_reset(Held *attempt pg_attribute_unused())
{
	BreakerChange change = breaker_reset(&breaker, now);

	become(BREAKER_CLOSED, 0);
	forget_results();
	model.generation++;
	return change;
}

static BreakerChange
happen_forgiveness(Held *attempt pg_attribute_unused())
{
	Usec		since = now - below(10) * USEC_SEC;
	BreakerChange change = breaker_forgive(&breaker, since, now);

	if (model.forced || model.sticky)
		return change;
	if (model.state != BREAKER_CLOSED && model.opened_at >= since)
	{
		become(BREAKER_CLOSED, 0);
		forget_results();
		model.generation++;
	}
	else if (admits())
		forget_results();
	return change;
}

/* Happenings, how often, and whether they end the attempt they happen to. */
static const struct
{
	const char *name;
	Happening	happen;
	int			weight;
	bool		step;			/* makes the transitions of time, too */
	bool		attempted;		/* needs an attempt that is under way */
	bool		ends;
}			happenings[] =
{
	{"enter", happen_enter, 100, false, false, false},
	{"success", happen_success, 60, true, true, true},
	{"failure", happen_failure, 30, true, true, true},
	{"silence", happen_silence, 12, true, true, false},
	{"leave", happen_leave, 12, false, true, true},
	{"loss", happen_loss, 3, false, true, false},
	{"trip", happen_trip, 1, true, false, true},
	{"force", happen_force, 1, true, false, false},
	{"reset", happen_reset, 1, true, false, false},
	{"forgiveness", happen_forgiveness, 2, true, false, false},
};

/* Places in this table. */
#define ENTER	0
#define SILENCE 3
#define LEAVE	4

static int
draw_happening(void)
{
	int			total = 0;
	int			drawn;

	for (size_t i = 0; i < lengthof(happenings); i++)
		total += happenings[i].weight;
	drawn = below(total);
	for (size_t i = 0; i < lengthof(happenings); i++)
	{
		drawn -= happenings[i].weight;
		if (drawn < 0)
			return (int) i;
	}
	return 0;
}

/* ---- The rules ---- */

/* What may follow what, in a generation and from one to the next. */
static bool
may_follow(const Word *before, const Word *after)
{
	if (after->generation != before->generation)
		return after->state != BREAKER_RAMPING &&
			after->generation == ((before->generation + 1) & GENERATION_MASK);
	return after->state == before->state || after->state == BREAKER_CLOSED ||
		(after->state == BREAKER_RAMPING && before->state != BREAKER_CLOSED);
}

/* Checks what holds whatever has happened, on any clock. */
static void
check_rules(const char *what, uint64 raw_before)
{
	uint64		raw_after = pg_atomic_read_u64(&breaker.word);
	Word		before = word_at(raw_before, now);
	Word		after = word_unpack(raw_after);
	BreakerView view = breaker_view(&breaker, &config, now);

	CHECK(after.permits >= 0 && after.permits <= config.half_open_calls &&
		  (after.permits == 0 || after.state == BREAKER_HALF_OPEN) &&
		  (after.state != BREAKER_HALF_OPEN ||
		   (after.permits == 0) == (after.until == 0)),
		  "%s: %d permits in %s", what, after.permits,
		  breaker_state_name(after.state));
	CHECK(after.state != BREAKER_CLOSED ||
		  (after.until == 0 && after.trips == 0),
		  "%s: closed with a past", what);
	CHECK(after.state == BREAKER_OPEN ||
		  !(after.forced || after.sticky || after.silent),
		  "%s: flags in %s", what, breaker_state_name(after.state));
	CHECK(view.share >= 0 && view.share <= 1 &&
		  (view.share >= BREAKER_RAMP_START - 1e-9) ==
		  (view.state == BREAKER_CLOSED || view.state == BREAKER_RAMPING) &&
		  (view.share == 1 || view.state != BREAKER_CLOSED),
		  "%s: share %f in %s", what, view.share,
		  breaker_state_name(view.state));
	CHECK(breaker.silent >= 0 && breaker.silent <= HELD &&
		  breaker.consecutive >= 0, "%s: %d silent", what, breaker.silent);
	CHECK(raw_after == raw_before || may_follow(&before, &after),
		  "%s: from %s %u to %s %u", what,
		  breaker_state_name(before.state), before.generation,
		  breaker_state_name(after.state), after.generation);
}

/* Checks that what can be seen of the breaker is what the model is. */
static void
check_view(const char *what)
{
	BreakerView view = breaker_view(&breaker, &config, now);
	Model		stored = model;

	let_time_pass();
	if (model.state == BREAKER_HALF_OPEN && now >= model.until &&
		model.permits >= config.half_open_calls)
		become(BREAKER_HALF_OPEN, 0);
	CHECK(view.state == model.state && view.trips == model.trips &&
		  view.forced == model.forced && view.sticky == model.sticky &&
		  view.silent == model.silent,
		  "%s: is %s %d, not %s %d", what, breaker_state_name(view.state),
		  view.trips, breaker_state_name(model.state), model.trips);
	CHECK(view.permits == model.permits && view.until == model.until,
		  "%s: %d permits, not %d; until " INT64_FORMAT " not " INT64_FORMAT,
		  what, view.permits, model.permits, view.until, model.until);
	model = stored;
	CHECK(breaker.silent == count_silent() &&
		  breaker.silent_run == count_run() &&
		  breaker.consecutive == model.consecutive,
		  "%s: %d silent, %d in a row, not %d", what, breaker.silent,
		  breaker.consecutive, model.consecutive);
}

/* Checks that the caller was told what happened. */
static void
check_told(const char *what, const Model *before, BreakerChange change)
{
	bool		changed = model.state != before->state ||
	(model.state == BREAKER_OPEN && model.generation != before->generation);
	bool		prolonged = !changed && model.state == BREAKER_OPEN &&
	model.until > before->until;

	CHECK(change.changed == changed && change.prolonged == prolonged,
		  "%s: told %d, prolonged %d", what, change.changed,
		  change.prolonged);
	if (changed)
		CHECK(change.from == before->state && change.to == model.state &&
			  change.until == model.until, "%s: tells of something else", what);
}

/* ---- The game ---- */

static void
begin_game(int game)
{
	static const Usec ramps[] = {0, 300 * USEC_MSEC, 30 * USEC_SEC};
	static const double rates[] = {0.25, 0.5, 0.75, 1.0};

	pg_prng_seed(&dice, game);
	pg_prng_seed(&pg_global_prng_state, game);
	breaker_init(&breaker);
	memset(&model, 0, sizeof(model));
	memset(held, 0, sizeof(held));
	now = 1000 * USEC_SEC + below(1000000);
	config = (BreakerConfig) {
		.window = (1 + below(60)) * USEC_SEC,
		.min_calls = 1 + below(10),
		.failure_rate = rates[below(lengthof(rates))],
		.consecutive = 1 + below(8),
		.slow_call = below(2),
		.slow_rate = rates[below(lengthof(rates))],
		.open_time = (1 + below(5000)) * USEC_MSEC,
		.open_time_max = (5 + below(60)) * USEC_SEC,
		.half_open_calls = 1 + below(4),
		.ramp = ramps[below(lengthof(ramps))],
	};
}

/* Mostly a little later; now and then a lot; on a wild clock, earlier. */
static void
move_clock(bool wild)
{
	int			kind = below(100);

	if (wild && kind < 20)
		now = Max(now - below(5000000), USEC_SEC);
	else if (wild && kind < 21)
		now += (Usec) below(1000) * 3600 * USEC_SEC;
	else if (kind < 70)
		now += below(100000);
	else if (kind < 97)
		now += below(1000000);
	else
		now += below(40000000);
}

/* Draws what happens to whom; attempts do not stay for ever. */
static int
draw(int event, Held **attempt)
{
	int			which = draw_happening();

	*attempt = &held[below(HELD)];
	if (happenings[which].attempted && !(*attempt)->ticket.entered)
		which = ENTER;
	for (int i = 0; i < HELD; i++)
		if (held[i].ticket.entered && event - held[i].since > HELD_FOR)
		{
			*attempt = &held[i];
			which = LEAVE;
		}
	return which;
}

/*
 * Lets the transitions of time be made, and something happen. They stay only
 * when something else came of it: a step, or a permit.
 */
static void
happen(int which, Held *attempt)
{
	Model		before = model;
	BreakerChange change;
	bool		step = happenings[which].step &&
	!(which == SILENCE && attempt->silent);
	bool		stays;

	let_time_pass();
	change = happenings[which].happen(attempt);
	if (step)
		stays = model.state != BREAKER_HALF_OPEN;
	else
		stays = before.state == BREAKER_HALF_OPEN || model.permits > 0;
	if (!stays)
		model = before;
	check_told(happenings[which].name, &before, change);
}

static void
play_event(int event, bool wild)
{
	Held	   *attempt;
	int			which = draw(event, &attempt);
	uint64		before = pg_atomic_read_u64(&breaker.word);

	move_clock(wild);
	if (which == ENTER)
		attempt->since = event;
	happen(which, attempt);
	if (happenings[which].ends)
	{
		CHECK(!attempt->ticket.entered, "%s: the ticket is still there",
			  happenings[which].name);
		memset(attempt, 0, sizeof(*attempt));
	}
	check_rules(happenings[which].name, before);
	check_view(happenings[which].name);
}

void
test_breaker_random(void)
{
	for (int game = 1; game <= GAMES; game++)
	{
		begin_game(game);
		for (int event = 0; event < EVENTS; event++)
			play_event(event, game % 2 == 0);
	}
}
