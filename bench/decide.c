/*
 * decide.c
 *	  What one routing decision costs: for 4, 32 and 256 candidates, and with 1,
 *	  2 and 8 processes at once over the same cells in shared memory.
 *
 * It is the router and the health of src/, linked outside the server over a
 * made-up configuration. "pick" looks at all candidates, shares out and draws;
 * "attempt" reserves that candidate and books a success besides, which is all
 * that a call does in shared memory.
 */
#include "postgres.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/pg_prng.h"

#include "catalog/secret.h"
#include "engine/router.h"
#include "health/network.h"

#define MAX_CANDIDATES	256
#define MAX_PROCESSES	8
#define SECONDS			0.5
#define ROUNDS			5

/* What the processes share. */
typedef struct Shared
{
	pg_atomic_uint32 ready;
	pg_atomic_uint32 go;
	double		pick[MAX_PROCESSES];	/* ns */
	double		attempt[MAX_PROCESSES];
	Network		network;
	Cell		cells[3 * MAX_CANDIDATES];
} Shared;

static Shared *shared;

/* Nobody is in a transaction, and no trip is outdated. */
TransactionId
GetTopTransactionIdIfAny(void)
{
	return InvalidTransactionId;
}

uint64
secret_fingerprint(const Config *config pg_attribute_unused(),
				   const Region *region pg_attribute_unused(),
				   CellScope scope pg_attribute_unused())
{
	return 1;
}

Network *
shared_network(void)
{
	return &shared->network;
}

static CellRef
cell_ref(int i)
{
	return (CellRef) {&shared->cells[i], 0};
}

/* Makes a tier of n targets: four providers, regions of their own. */
static Tier *
make_tier(int n, const char *strategy)
{
	Provider   *providers = palloc0(4 * sizeof(Provider));
	Tier	   *tier = palloc0(sizeof(Tier));

	tier->name = "bench";
	tier->enabled = true;
	tier->strategy = unconstify(char *, strategy);
	tier->ncandidates = n;
	tier->candidates = palloc0(n * sizeof(Candidate));
	for (int i = 0; i < n; i++)
	{
		Candidate  *candidate = &tier->candidates[i];
		Provider   *provider = &providers[i % 4];
		Route	   *route = palloc0(sizeof(Route));
		Region	   *region = palloc0(sizeof(Region));
		Target	   *target = palloc0(sizeof(Target));

		provider->enabled = true;
		provider->breaker = breaker_defaults;
		region->provider = provider;
		region->enabled = route->enabled = true;
		route->tier = tier;
		route->provider = provider;
		route->model = palloc0(sizeof(Model));
		route->model->enabled = true;
		target->region = region;
		target->model = route->model;
		target->health = (HealthTarget) {
			.cells = {cell_ref(i % 4), cell_ref(MAX_CANDIDATES + i),
			cell_ref(2 * MAX_CANDIDATES + i)},
			.breaker = &provider->breaker,
		};
		candidate->route = route;
		candidate->region = region;
		candidate->target = target;
		candidate->share = 1.0 / n;
	}
	return tier;
}

/* Makes one decision; with `reserve`, books an attempt at its candidate. */
static void
decide(Router *router, bool reserve, Usec now)
{
	static const HealthResult good = {
		.kind = RESULT_SUCCESS,
		.tokens = -1,
		.requests_left = {-1, -1, 0},
		.tokens_left = {-1, -1, 0},
	};
	const Candidate *candidate = router_pick(router, now);
	Reservation reservation;
	HealthCheck check;

	if (candidate == NULL)
		abort();
	router_bar(router, candidate, NULL);
	if (!reserve)
		return;
	if (!health_reserve(&candidate->target->health, 0, 0, false, USEC_SEC, now,
						&reservation, &check))
		abort();
	health_settle(&reservation, &good, now + 100);
}

/* Returns nanoseconds for one decision, over about SECONDS / 2. */
static double
measure(Router *router, bool reserve)
{
	Usec		start = clock_now();
	Usec		now = start;
	long		n = 0;

	while (now - start < SECONDS / 2 * USEC_SEC)
	{
		for (int i = 0; i < 100; i++)
			decide(router, reserve, now + i);
		n += 100;
		now = clock_now();
	}
	return (now - start) * 1000.0 / n;
}

/* One process: waits for the others, and writes what it has measured. */
static void
run(int process, int candidates, const char *strategy)
{
	RouteNeeds	needs = {0};
	Router		router = {0};

	pg_prng_seed(&pg_global_prng_state, process + 1);
	router_start(&router, NULL, make_tier(candidates, strategy), &needs);
	pg_atomic_fetch_add_u32(&shared->ready, 1);
	while (pg_atomic_read_u32(&shared->go) == 0)
		usleep(100);
	shared->pick[process] = measure(&router, false);
	shared->attempt[process] = measure(&router, true);
	_exit(0);
}

/* Measures n processes at once; gives back the mean of theirs. */
static void
measure_processes(int processes, int candidates, const char *strategy,
				  double *pick, double *attempt)
{
	memset(shared, 0, sizeof(Shared));
	for (int i = 0; i < 3 * MAX_CANDIDATES; i++)
		cell_init(&shared->cells[i], 0);
	for (int i = 0; i < processes; i++)
		if (fork() == 0)
			run(i, candidates, strategy);
	while (pg_atomic_read_u32(&shared->ready) < (uint32) processes)
		usleep(100);
	pg_atomic_write_u32(&shared->go, 1);
	while (wait(NULL) > 0)
		;
	*pick = *attempt = 0;
	for (int i = 0; i < processes; i++)
	{
		*pick += shared->pick[i] / processes;
		*attempt += shared->attempt[i] / processes;
	}
}

static int
compare_doubles(const void *a, const void *b)
{
	double		left = *(const double *) a;
	double		right = *(const double *) b;

	return (left > right) - (left < right);
}

/* Prints a line: medians of some rounds. */
static void
report(int processes, int candidates, const char *strategy)
{
	double		pick[ROUNDS];
	double		attempt[ROUNDS];

	for (int i = 0; i < ROUNDS; i++)
		measure_processes(processes, candidates, strategy,
						  &pick[i], &attempt[i]);
	qsort(pick, ROUNDS, sizeof(double), compare_doubles);
	qsort(attempt, ROUNDS, sizeof(double), compare_doubles);
	printf("%-10s %10d %9d %12.0f %15.0f\n", strategy, candidates, processes,
		   pick[ROUNDS / 2], attempt[ROUNDS / 2]);
	fflush(stdout);
}

int
main(void)
{
	static const char *const strategies[] = {"weighted", "latency"};
	static const int counts[] = {4, 32, 256};
	static const int processes[] = {1, 2, 8};

	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		abort();
	printf("%-10s %10s %9s %12s %15s\n", "strategy", "candidates", "processes",
		   "pick, ns", "with attempt");
	for (size_t s = 0; s < lengthof(strategies); s++)
		for (size_t c = 0; c < lengthof(counts); c++)
			for (size_t p = 0; p < lengthof(processes); p++)
				report(processes[p], counts[c], strategies[s]);
	return 0;
}
