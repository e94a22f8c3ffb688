/*
 * unit_health_many.c
 *	  Many attempts at once: no limit is exceeded, and nothing that was held is
 *	  ever left behind.
 */
#include "postgres.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg_prng.h"

#include "unit_health.h"

/* ---- many processes ---- */

#define PROCESSES	6
#define ROUNDS		2000
#define TOKENS		10			/* an estimate; what is used is less */

typedef struct Shared
{
	Cell		cells[HEALTH_SCOPES];
	pg_atomic_uint32 inside;
	pg_atomic_uint32 most;
	pg_atomic_uint64 admitted;
	pg_atomic_uint64 used;		/* tokens */
	pg_atomic_uint64 taken;		/* cells that were not in use */
	pg_atomic_uint64 told;		/* changes of breakers to half-open */
	pg_atomic_uint64 wrong;
} Shared;

static Shared *
new_shared(HealthTarget *target)
{
	Shared	   *shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		abort();
	memset(target, 0, sizeof(*target));
	target->breaker = &config;
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
	{
		Cell	   *cell = &shared->cells[scope];

		cell_init(cell, 0);
		target->cells[scope].cell = cell;
		target->cells[scope].generation =
			pg_atomic_read_u32(&cell->generation);
	}
	pg_atomic_init_u32(&shared->inside, 0);
	pg_atomic_init_u32(&shared->most, 0);
	pg_atomic_init_u64(&shared->admitted, 0);
	pg_atomic_init_u64(&shared->used, 0);
	pg_atomic_init_u64(&shared->taken, 0);
	pg_atomic_init_u64(&shared->told, 0);
	pg_atomic_init_u64(&shared->wrong, 0);
	return shared;
}

static void
note_inside(Shared *shared)
{
	uint32		inside = pg_atomic_add_fetch_u32(&shared->inside, 1);
	uint32		most = pg_atomic_read_u32(&shared->most);

	while (inside > most &&
		   !pg_atomic_compare_exchange_u32(&shared->most, &most, inside))
		;
}

/* One process's attempts; some of it settled, some released. */
static void
hammer_leaving(Shared *shared, const HealthTarget *target, double leave)
{
	HealthResult success = result_of(RESULT_SUCCESS, CELL_TARGET);

	for (int i = 0; i < ROUNDS; i++)
	{
		Reservation held;
		HealthCheck check;

		success.tokens = i % (TOKENS + 1);
		if (!health_reserve(target, TOKENS, leave, false, LEASE, T0, &held,
							&check))
		{
			if (held.held || check.verdict != HEALTH_OUT)
				pg_atomic_fetch_add_u64(&shared->wrong, 1);
			continue;
		}
		note_inside(shared);
		pg_atomic_fetch_add_u64(&shared->admitted, 1);
		if (i % 8 == 0)
			usleep(1);			/* lets others in between */
		pg_atomic_fetch_sub_u32(&shared->inside, 1);
		pg_atomic_fetch_add_u64(&shared->used,
								i % 4 == 0 ? TOKENS : success.tokens);
		if (i % 4 == 0)
			health_release(&held);
		else
			health_settle(&held, &success, T0);
	}
}

static void
hammer(Shared *shared, const HealthTarget *target)
{
	hammer_leaving(shared, target, 0);
}

/* As one who leaves a quarter to others. */
static void
hammer_modestly(Shared *shared, const HealthTarget *target)
{
	hammer_leaving(shared, target, 0.25);
}

/* Trials that are all released, so that they go on. */
static void
hammer_trials(Shared *shared, const HealthTarget *target)
{
	for (int i = 0; i < ROUNDS; i++)
	{
		Reservation held;

		if (!reserve(target, 0, T0, &held))
			continue;
		note_inside(shared);
		if (i % 8 == 0)
			usleep(1);
		pg_atomic_fetch_sub_u32(&shared->inside, 1);
		health_release(&held);
	}
}

/*
 * What shared.c does to take a cell away, and does not when it is in use: a
 * reservation either finds the cell gone, or keeps it.
 */
static void
hammer_generation(Shared *shared, const HealthTarget *target)
{
	Cell	   *cell = target->cells[CELL_TARGET].cell;

	for (int i = 0; i < 50 * ROUNDS; i++)
	{
		pg_atomic_fetch_add_u32(&cell->generation, 1);
		if (pg_atomic_read_u32(&cell->in_flight) == 0)
			pg_atomic_fetch_add_u64(&shared->taken, 1);
		pg_atomic_fetch_sub_u32(&cell->generation, 1);
	}
}

typedef void (*Hammer) (Shared *shared, const HealthTarget *target);

/* Runs it in many processes, the first one perhaps another, and waits. */
static void
in_processes(Shared *shared, const HealthTarget *target, Hammer first,
			 Hammer others)
{
	pid_t		pids[PROCESSES];
	int			status;

	fflush(NULL);
	for (int i = 0; i < PROCESSES; i++)
	{
		pids[i] = fork();
		if (pids[i] == 0)
		{
			(i == 0 ? first : others) (shared, target);
			_exit(0);
		}
	}
	for (int i = 0; i < PROCESSES; i++)
		CHECK(pids[i] > 0 && waitpid(pids[i], &status, 0) == pids[i] &&
			  status == 0, "process %d ends well", i);
	check_idle(target, T0, "after many processes");
	CHECK(pg_atomic_read_u64(&shared->wrong) == 0, "a refusal says why");
}

static void
test_inflight_limit(void)
{
	HealthTarget target;
	Shared	   *shared = new_shared(&target);

	target.max_inflight = 2;
	in_processes(shared, &target, hammer, hammer);
	CHECK(pg_atomic_read_u32(&shared->most) <= 2, "%u at once",
		  pg_atomic_read_u32(&shared->most));
	CHECK(pg_atomic_read_u64(&shared->admitted) >= 100, "somebody got in");
	munmap(shared, sizeof(*shared));
}

/* Time stands still: a minute's worth is admitted, and not one more. */
static void
test_rate_limits(void)
{
	HealthTarget target;
	Shared	   *shared = new_shared(&target);

	target.rpm = 500;
	in_processes(shared, &target, hammer, hammer);
	CHECK(pg_atomic_read_u64(&shared->admitted) == 500, "%d requests",
		  (int) pg_atomic_read_u64(&shared->admitted));
	munmap(shared, sizeof(*shared));

	shared = new_shared(&target);
	target.rpm = 0;
	target.tpm = 10000;
	in_processes(shared, &target, hammer, hammer);
	CHECK(pg_atomic_read_u64(&shared->used) <= 10000 &&
		  pg_atomic_read_u64(&shared->used) > 10000 - TOKENS, "%d tokens",
		  (int) pg_atomic_read_u64(&shared->used));
	munmap(shared, sizeof(*shared));
}

/* Who leaves a share to others never takes of it, however many they are. */
static void
test_left_limits(void)
{
	HealthTarget target;
	Shared	   *shared = new_shared(&target);

	target.max_inflight = 4;
	in_processes(shared, &target, hammer_modestly, hammer_modestly);
	CHECK(pg_atomic_read_u32(&shared->most) <= 3, "%u at once of 4",
		  pg_atomic_read_u32(&shared->most));
	munmap(shared, sizeof(*shared));

	shared = new_shared(&target);
	target.max_inflight = 0;
	target.rpm = 500;
	in_processes(shared, &target, hammer_modestly, hammer_modestly);
	CHECK(pg_atomic_read_u64(&shared->admitted) == 375, "%d requests of 500",
		  (int) pg_atomic_read_u64(&shared->admitted));
	in_processes(shared, &target, hammer, hammer);
	CHECK(pg_atomic_read_u64(&shared->admitted) == 500, "%d of all",
		  (int) pg_atomic_read_u64(&shared->admitted));
	munmap(shared, sizeof(*shared));

	shared = new_shared(&target);
	target.rpm = 0;
	target.tpm = 10000;
	in_processes(shared, &target, hammer_modestly, hammer_modestly);
	CHECK(pg_atomic_read_u64(&shared->used) <= 7500 &&
		  pg_atomic_read_u64(&shared->used) > 7500 - TOKENS,
		  "%d tokens of 10000", (int) pg_atomic_read_u64(&shared->used));
	munmap(shared, sizeof(*shared));
}

static Shared *told_to;

static void
count_told(const Cell *cell pg_attribute_unused(),
		   const BreakerChange *change,
		   const char *reason pg_attribute_unused())
{
	if (change->to == BREAKER_HALF_OPEN)
		pg_atomic_fetch_add_u64(&told_to->told, 1);
}

static void
test_trial_limit(void)
{
	HealthTarget target;
	Shared	   *shared = new_shared(&target);

	bring(&target, CELL_REGION, BREAKER_HALF_OPEN, T0);
	told_to = shared;
	health_listener = count_told;
	in_processes(shared, &target, hammer_trials, hammer_trials);
	health_listener = NULL;
	CHECK(pg_atomic_read_u64(&shared->told) == 1, "%d were told of it",
		  (int) pg_atomic_read_u64(&shared->told));
	CHECK(pg_atomic_read_u32(&shared->most) <= TRIALS, "%u trials at once",
		  pg_atomic_read_u32(&shared->most));
	CHECK(view_of(&target, CELL_REGION, T0).state == BREAKER_HALF_OPEN,
		  "still to be tried");
	munmap(shared, sizeof(*shared));

	/* trials that end: whatever comes of it, all permits are back */
	shared = new_shared(&target);
	for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		bring(&target, scope, BREAKER_HALF_OPEN, T0);
	in_processes(shared, &target, hammer, hammer);
	munmap(shared, sizeof(*shared));
}

static void
test_cells_taken(void)
{
	HealthTarget target;
	Shared	   *shared = new_shared(&target);

	in_processes(shared, &target, hammer_generation, hammer);
	CHECK(pg_atomic_read_u64(&shared->taken) > 0, "it was free at times");
	munmap(shared, sizeof(*shared));
}

void
test_health_processes(void)
{
	test_inflight_limit();
	test_rate_limits();
	test_left_limits();
	test_trial_limit();
	test_cells_taken();
}

/* ---- anything, in any order ---- */

#define WORLD_PROVIDERS	2
#define WORLD_REGIONS	4		/* two of each provider */
#define WORLD_TARGETS	8		/* two of each region */
#define WORLD_CELLS		(WORLD_PROVIDERS + WORLD_REGIONS + WORLD_TARGETS)
#define WORLD_HELD		24
#define WORLD_STEPS		150000

typedef struct World
{
	CellRef		cells[WORLD_CELLS];
	HealthTarget targets[WORLD_TARGETS];
	Reservation held[WORLD_HELD];
	pg_prng_state prng;
	Usec		now;
} World;

static uint64
draw(World *world, uint64 n)
{
	return pg_prng_uint64_range(&world->prng, 0, n - 1);
}

static void
world_begin(World *world, uint64 seed)
{
	memset(world, 0, sizeof(*world));
	pg_prng_seed(&world->prng, seed);
	world->now = T0;
	for (int i = 0; i < WORLD_CELLS; i++)
		world->cells[i] = new_ref();
	for (int i = 0; i < WORLD_TARGETS; i++)
	{
		HealthTarget *target = &world->targets[i];

		target->breaker = &config;
		target->cells[CELL_PROVIDER] = world->cells[i / 4];
		target->cells[CELL_REGION] = world->cells[WORLD_PROVIDERS + i / 2];
		target->cells[CELL_TARGET] = world->cells[WORLD_PROVIDERS +
												  WORLD_REGIONS + i];
		target->max_inflight = i / 2 == 1 ? 3 : 0;
		target->rpm = i % 3 == 1 ? 600 : 0;
		target->tpm = i % 3 == 2 ? 60000 : 0;
	}
}

/* Ends of all sorts; most of them good, so that breakers come back. */
static HealthResult
any_result(World *world)
{
	HealthKind	kind = draw(world, 2) ? RESULT_SUCCESS :
		draw(world, RESULT_NOTHING + 1);
	HealthResult result = result_of(kind, draw(world, HEALTH_SCOPES));

	result.our_network = kind == RESULT_FAILURE && draw(world, 10) == 0;
	result.open_for = (1 + draw(world, 60)) * USEC_SEC;
	result.fingerprint = draw(world, 3);
	if (draw(world, 3) == 0)
		result.tokens = draw(world, 10) ? draw(world, 2000) : PG_INT64_MAX;
	if (draw(world, 20) == 0)
		result.retry_after = draw(world, 20 * USEC_SEC);
	if (draw(world, 20) == 0)
		result.tokens_left = (LimitNotice) {1000, draw(world, 1000), USEC_SEC};
	return result;
}

static void
world_reserve(World *world, Reservation *held)
{
	const HealthTarget *target = &world->targets[draw(world, WORLD_TARGETS)];
	bool		probe = draw(world, 30) == 0;
	HealthCheck before;
	HealthCheck check;
	bool		in;
	int64		tokens = draw(world, 3000);
	double		leave = draw(world, 3) ? 0 : draw(world, 11) / 10.0;

	health_check(target, tokens, leave, world->now, &before);
	in = health_reserve(target, tokens, leave, probe,
						draw(world, 5) ? LEASE : USEC_SEC, world->now, held,
						&check);
	CHECK(in == (probe || before.verdict != HEALTH_OUT),
		  "alone, a reservation is as the check said: %d %d", before.verdict,
		  before.why);
	CHECK(in == held->held, "held when it is");
	CHECK(in || (check.verdict == HEALTH_OUT && check.why == before.why &&
				 check.scope == before.scope), "why %d, not %d", check.why,
		  before.why);
}

static void
world_act(World *world, Reservation *held)
{
	HealthResult result = any_result(world);

	if (!held->held)
		world_reserve(world, held);
	else if (draw(world, 4) == 0)
		health_release(held);
	else if (draw(world, 4) == 0)
		health_silent(held, world->now);
	else
		health_settle(held, &result, world->now);
}

/* What comes from outside of any attempt; rare. */
static void
world_meddle(World *world)
{
	CellRef		ref = world->cells[draw(world, WORLD_CELLS)];
	HealthResult result = any_result(world);

	switch (draw(world, 40))
	{
		case 0:
			health_trip(ref, &result, world->now);
			break;
		case 1:
			health_reset(ref, "by hand", world->now);
			break;
		case 2:
			health_forgive(ref, 2 * USEC_SEC, world->now);
			break;
		case 3:
			breaker_force_open(&ref.cell->breaker,
							   world->now + draw(world, 30) * USEC_SEC,
							   world->now);
			break;
		case 4:
			world->now += draw(world, 40) * USEC_SEC;
			break;
		case 5:
			if (draw(world, 50) == 0)
				health_release_all();
			break;
	}
	world->now += draw(world, 300 * USEC_MSEC);
}

/* What each cell has in flight is what is held, and no state is unheard of. */
static void
world_check(World *world, int step)
{
	for (int i = 0; i < WORLD_CELLS; i++)
	{
		Cell	   *cell = world->cells[i].cell;
		BreakerView view = breaker_view(&cell->breaker, &config, world->now);
		uint32		want = 0;

		for (int h = 0; h < WORLD_HELD; h++)
			for (int scope = 0; scope < HEALTH_SCOPES; scope++)
				want += world->held[h].held &&
					world->held[h].cells[scope].cell == cell;
		CHECK(pg_atomic_read_u32(&cell->in_flight) == want,
			  "step %d: cell %d has %u in flight, not %u", step, i,
			  pg_atomic_read_u32(&cell->in_flight), want);
		CHECK(!breaker_is_closed(&cell->breaker) ||
			  view.state == BREAKER_CLOSED, "step %d: a glance deceives", step);
		CHECK(view.state <= BREAKER_RAMPING && view.permits >= 0 &&
			  view.permits <= TRIALS && view.share >= 0 && view.share <= 1 &&
			  (view.permits == 0 || view.state == BREAKER_HALF_OPEN) &&
			  (view.state == BREAKER_OPEN) <= (view.until > world->now),
			  "step %d: cell %d is %s with %d permits and a share of %g", step,
			  i, breaker_state_name(view.state), view.permits, view.share);
	}
}

/* The diagram of breaker.h; rows from, columns to. */
static const bool in_diagram[4][4] = {
	[BREAKER_CLOSED] = {[BREAKER_CLOSED] = true, [BREAKER_OPEN] = true},
	[BREAKER_OPEN] = {true, true, true, true},
	[BREAKER_HALF_OPEN] = {true, true, true, true},
	[BREAKER_RAMPING] = {[BREAKER_CLOSED] = true, [BREAKER_OPEN] = true,
	[BREAKER_RAMPING] = true},
};

static int	nchanges;

static void
listen_diagram(const Cell *cell pg_attribute_unused(),
			   const BreakerChange *change,
			   const char *reason pg_attribute_unused())
{
	CHECK(change->changed && in_diagram[change->from][change->to],
		  "from %s to %s", breaker_state_name(change->from),
		  breaker_state_name(change->to));
	nchanges++;
}

void
test_health_random(void)
{
	World	   *world = malloc(sizeof(World));

	health_listener = listen_diagram;
	world_begin(world, 20260);
	nchanges = 0;
	for (int step = 0; step < WORLD_STEPS; step++)
	{
		world_act(world, &world->held[draw(world, WORLD_HELD)]);
		world_meddle(world);
		if (step % 16 == 0)
			world_check(world, step);
	}
	CHECK(nchanges > 1000, "%d changes of state", nchanges);
	for (int h = 0; h < WORLD_HELD; h++)
	{
		HealthResult result = any_result(world);

		if (h % 2)
			health_settle(&world->held[h], &result, world->now);
	}
	health_release_all();
	for (int i = 0; i < WORLD_TARGETS; i++)
		check_idle(&world->targets[i], world->now, "at the end");
	health_listener = NULL;
	free(world);
}
