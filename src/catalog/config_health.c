/*
 * config_health.c
 *	  Ties a snapshot of the configuration to its cells in shared memory.
 *
 * Calls follow what is found here by pointer, without a look-up and without a
 * lock. Cells that are not in the snapshot may be given to others when the
 * table is full; who held references to one finds them again, see
 * config_get().
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "breaker_store.h"
#include "config_internal.h"
#include "health/shared.h"

/* What a search for cells carries along. */
typedef struct CellSearch
{
	TimestampTz wall;
	Usec		now;
	bool		last;			/* what has no place is kept unshared */
	bool		full;			/* some had no place */
} CellSearch;

static int	list_candidates(const Config *config, Candidate ***list);
static int	drop_repeated_targets(Target *targets, int n);
static void link_models(Config *config);
static void link_candidates(Config *config, Candidate **candidates, int n);
static int	compare_targets(const void *a, const void *b);
static void release_at_exit(void);
static void release_reservations(int code, Datum arg);
static bool find_all(Config *config, bool last);
static void note_use(const Config *config, Usec now);
static void find_target(Target *target, const Target *previous,
						CellSearch *search);
static CellRef find_cell(CellScope scope, const char *provider,
						 const char *region, const char *model,
						 CellSearch *search);
static bool fill_key(CellKey *key, CellScope scope, const char *provider,
					 const char *region, const char *model);
static void forget_dropped_databases(void);
static void warn_of_full_table(void);

/*
 * Gives the snapshot a target for each model at each region that a route or a
 * probe leads to, whether it is enabled or not.
 */
void
config_add_targets(Config *config)
{
	Candidate **candidates;
	int			n = list_candidates(config, &candidates);
	Target	   *targets = palloc0((n + 1) * sizeof(Target));

	for (int i = 0; i < n; i++)
		targets[i] = (Target) {
			.region = candidates[i]->region,
			.model = candidates[i]->route->model
		};
	qsort(targets, n, sizeof(Target), compare_targets);
	config->targets = targets;
	config->ntargets = drop_repeated_targets(targets, n);
	link_models(config);
	link_candidates(config, candidates, n);
	pfree(candidates);
}

/* Lists the candidates of tiers and probes that have a region; counts them. */
static int
list_candidates(const Config *config, Candidate ***list)
{
	int			most = 0;
	int			n = 0;

	for (int t = 0; t < config->ntiers; t++)
		most += config->tiers[t].ncandidates;
	for (int p = 0; p < config->nprobes; p++)
		most += config->probes[p].ntargets;
	*list = palloc((most + 1) * sizeof(Candidate *));

	for (int t = 0; t < config->ntiers; t++)
		for (int i = 0; i < config->tiers[t].ncandidates; i++)
			if (config->tiers[t].candidates[i].region)
				(*list)[n++] = &config->tiers[t].candidates[i];
	for (int p = 0; p < config->nprobes; p++)
		for (int i = 0; i < config->probes[p].ntargets; i++)
			if (config->probes[p].targets[i].candidate.region)
				(*list)[n++] = &config->probes[p].targets[i].candidate;
	return n;
}

/* Keeps one of each run of equals; returns how many are left. */
static int
drop_repeated_targets(Target *targets, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (kept == 0 || compare_targets(&targets[kept - 1], &targets[i]) != 0)
			targets[kept++] = targets[i];
	return kept;
}

/* Leads models to their targets. */
static void
link_models(Config *config)
{
	Target	  **next = palloc((config->ntargets + 1) * sizeof(Target *));

	for (int i = 0; i < config->ntargets; i++)
		config->targets[i].model->ntargets++;
	for (int i = 0; i < config->nmodels; i++)
	{
		config->models[i].targets = next;
		next += config->models[i].ntargets;
		config->models[i].ntargets = 0;
	}
	for (int i = 0; i < config->ntargets; i++)
	{
		Model	   *model = config->targets[i].model;

		model->targets[model->ntargets++] = &config->targets[i];
	}
}

/* Leads candidates to their targets. */
static void
link_candidates(Config *config, Candidate **candidates, int n)
{
	for (int i = 0; i < n; i++)
	{
		Target		key = {
			.region = candidates[i]->region,
			.model = candidates[i]->route->model
		};

		candidates[i]->target = bsearch(&key, config->targets,
										config->ntargets, sizeof(Target),
										compare_targets);
	}
}

static int
compare_targets(const void *a, const void *b)
{
	const Target *left = a;
	const Target *right = b;
	int			order = strcmp(left->region->provider_name,
							   right->region->provider_name);

	if (order == 0)
		order = strcmp(left->region->name, right->region->name);
	return order ? order : strcmp(left->model->name, right->model->name);
}

/*
 * Finds, or makes, the cells of all targets and tiers. When they do not find
 * room, databases that are no more leave theirs, and so do, after the first
 * search, cells that this configuration does not want any more. What has none
 * all the same is known to this process alone, and that is said once an hour.
 */
void
config_find_cells(Config *config)
{
	/* read before: what is taken away meanwhile is looked for again */
	uint64		as_of = cells_reclaimed();
	bool		found;

	if (!shared_is_ready())
		return;
	release_at_exit();
	if (breaker_store_find_slot())
		breaker_store_forget_predecessor(config);
	found = find_all(config, false);
	if (!found)
	{
		forget_dropped_databases();
		found = find_all(config, true);
	}
	config->cells_as_of = as_of;
	if (!found && cells_should_warn(clock_now()))
		warn_of_full_table();
}

/*
 * Sees to it that what this process's attempts hold in shared memory is
 * returned even when it exits without unwinding, as FATAL does.
 */
static void
release_at_exit(void)
{
	static bool registered = false;

	if (registered)
		return;
	before_shmem_exit(release_reservations, (Datum) 0);
	registered = true;
}

static void
release_reservations(int code pg_attribute_unused(),
					 Datum arg pg_attribute_unused())
{
	health_release_all();
}

/* Finds everything once; false when something had no place. */
static bool
find_all(Config *config, bool last)
{
	CellSearch	search = {GetCurrentTimestamp(), clock_now(), last, false};

	cells_load_begin();
	for (int i = 0; i < config->ntargets; i++)
		find_target(&config->targets[i],
					i > 0 ? &config->targets[i - 1] : NULL, &search);
	for (int i = 0; i < config->ntiers; i++)
		config->tiers[i].cell = find_cell(CELL_TIER, config->tiers[i].name,
										  "", "", &search);
	cells_load_end(MyDatabaseId);
	note_use(config, search.now);
	return breaker_store_find_slot() && !search.full;
}

/*
 * Notes which targets are in use: one that was drained comes back by the ramp.
 * What a transaction has written itself others do not see, and it may be rolled
 * back, so only one that has written nothing tells.
 */
static void
note_use(const Config *config, Usec now)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	for (int i = 0; i < config->ntargets; i++)
	{
		const Target *target = &config->targets[i];
		const Region *region = target->region;

		health_note_use(&target->health, region->provider->enabled &&
						region->enabled && target->model->enabled, now);
	}
}

/*
 * Fills what the health of one target depends on. Targets are sorted: wider
 * scopes are often those of the one before.
 */
static void
find_target(Target *target, const Target *previous, CellSearch *search)
{
	const Region *region = target->region;
	const char *provider = region->provider_name;
	HealthTarget *health = &target->health;

	health->breaker = &region->provider->breaker;
	health->max_inflight = region->max_inflight;
	health->rpm = target->model->rpm;
	health->tpm = target->model->tpm;

	health->cells[CELL_PROVIDER] =
		previous && previous->region->provider == region->provider ?
		previous->health.cells[CELL_PROVIDER] :
		find_cell(CELL_PROVIDER, provider, "", "", search);
	health->cells[CELL_REGION] =
		previous && previous->region == region ?
		previous->health.cells[CELL_REGION] :
		find_cell(CELL_REGION, provider, region->name, "", search);
	health->cells[CELL_TARGET] =
		find_cell(CELL_TARGET, provider, region->name, target->model->name,
				  search);
}

/* Finds one cell. */
static CellRef
find_cell(CellScope scope, const char *provider, const char *region,
		  const char *model, CellSearch *search)
{
	CellRef		ref = {NULL, 0};
	CellKey		key;
	bool		unshared;

	if (!fill_key(&key, scope, provider, region, model))
		return ref;
	ref = cells_find(&key, search->wall, search->now, &unshared);
	search->full |= unshared;
	if (unshared && search->last)
		ref = cells_find_own(&key, search->wall);
	return ref;
}

/*
 * Fills a key; false when a name does not fit, which the tables refuse. Two
 * names that differ behind the cut must not share a breaker.
 */
static bool
fill_key(CellKey *key, CellScope scope, const char *provider,
		 const char *region, const char *model)
{
	memset(key, 0, sizeof(*key));
	key->database = MyDatabaseId;
	key->scope = scope;
	return
		strlcpy(key->provider, provider, CELL_NAME_LEN) < CELL_NAME_LEN &&
		strlcpy(key->region, region, CELL_NAME_LEN) < CELL_NAME_LEN &&
		strlcpy(key->model, model, CELL_MODEL_LEN) < CELL_MODEL_LEN;
}

/*
 * Gives back what belongs to databases that do not exist any more. Nothing
 * tells us of DROP DATABASE, so this is when we look.
 */
static void
forget_dropped_databases(void)
{
	int			max = llm_max_databases + llm_max_cells;
	Oid		   *databases = palloc(max * sizeof(Oid));
	int			n = shared_databases(databases, max);

	for (int i = 0; i < n; i++)
		if (!SearchSysCacheExists1(DATABASEOID,
								   ObjectIdGetDatum(databases[i])))
			shared_forget_database(databases[i]);
	pfree(databases);
}

/* Says what is full, and what to do. */
static void
warn_of_full_table(void)
{
	if (breaker_store_find_slot())
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("llm_failover has no shared memory left for the health of some targets"),
				 errdetail("All %d cells are in use. What is beyond is known to each session alone.",
						   llm_max_cells),
				 errhint("Increase llm_failover.max_cells and restart.")));
	else
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("llm_failover has no shared memory left for another database"),
				 errdetail("All %d are in use. Breakers of this database are not kept over a restart.",
						   llm_max_databases),
				 errhint("Increase llm_failover.max_databases and restart.")));
}
