/*
 * operate.c
 *	  What an operator does by hand: llm_breaker_open(), llm_breaker_reset()
 *	  and llm_stat_reset().
 *
 * All of it happens in shared memory, at once and for good: no transaction
 * undoes it, and it works in one that is read only and on a standby.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "cells.h"
#include "driver.h"
#include "health/shared.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(llm_breaker_open);
PG_FUNCTION_INFO_V1(llm_breaker_reset);
PG_FUNCTION_INFO_V1(llm_stat_reset);

/* For how long a breaker is opened when nobody says. */
#define DEFAULT_OPENING		(10 * 60 * USEC_SEC)

/* And at most: what is out for longer is disabled in the configuration. */
#define MAX_OPENING_DAYS	30

static Usec opening_of(FunctionCallInfo fcinfo, int arg);
static void open_scope(const Names *names, Usec duration);
static char *names_in_words(const Names *names);
static void reset_scope(CellRef ref, Usec now, const char *reason);
static void forget_counts(Cell *cell, TimestampTz wall);

/*
 * llm_breaker_open(provider, region, model, duration): keeps calls away from a
 * provider, a region, a target, or with a model alone from all its targets.
 */
Datum
llm_breaker_open(PG_FUNCTION_ARGS)
{
	Names		names = names_of_args(fcinfo);
	Usec		duration;
	const Config *config;
	const Provider *provider;

	require_preload();
	duration = opening_of(fcinfo, 3);
	if (names.provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("provider must not be NULL")));
	config = config_get(fcinfo->flinfo->fn_oid);
	names_check(&names, config);
	provider = config_provider(config, names.provider);
	if (names.model == NULL || names.region)
		open_scope(&names, duration);
	else
		for (int i = 0; i < provider->nregions; i++)
		{
			names.region = provider->regions[i].name;
			open_scope(&names, duration);
		}
	PG_RETURN_VOID();
}

/*
 * llm_breaker_reset(provider, region, model): closes what is named and all
 * below it, and forgets what spoke against it: failures, an opening by hand,
 * throttling, what the limits have counted, spent retries. NULL = any.
 */
Datum
llm_breaker_reset(PG_FUNCTION_ARGS)
{
	Names		names = names_of_args(fcinfo);
	char	   *reason = psprintf("reset by %s",
								  GetUserNameFromId(GetUserId(), false));
	Usec		now = clock_now();
	KnownCells	known;

	require_preload();
	names_check(&names, config_get(fcinfo->flinfo->fn_oid));
	known = cells_known();
	for (int i = 0; i < known.n; i++)
		if (names_cover(&names, &known.cells[i].key))
			reset_scope(known.cells[i].ref, now, reason);
	network_end_pause(shared_network());
	PG_RETURN_VOID();
}

/* llm_stat_reset(): begins anew with what this database's views count. */
Datum
llm_stat_reset(PG_FUNCTION_ARGS pg_attribute_unused())
{
	KnownCells	known;
	TimestampTz wall = GetCurrentTimestamp();

	require_preload();
	known = cells_known();
	for (int i = 0; i < known.n; i++)
	{
		Cell	   *cell = cell_of(known.cells[i].ref);

		if (cell)
			forget_counts(cell, wall);
	}
	PG_RETURN_VOID();
}

/* Reads the argument that says for how long; NULL is the default. */
static Usec
opening_of(FunctionCallInfo fcinfo, int arg)
{
	const Interval *given;
	double		days;
	double		usec;

	if (PG_ARGISNULL(arg))
		return DEFAULT_OPENING;
	given = PG_GETARG_INTERVAL_P(arg);
	days = given->day + (double) given->month * DAYS_PER_MONTH;
	usec = given->time + days * (double) USECS_PER_DAY;
	if (usec <= 0 || usec > MAX_OPENING_DAYS * (double) USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("duration must be above 0 and up to %d days, not %s",
						MAX_OPENING_DAYS,
						DatumGetCString(DirectFunctionCall1(interval_out,
															PG_GETARG_DATUM(arg)))),
				 errhint("To take it out for good, set enabled to false in the configuration.")));
	return (Usec) usec;
}

/*
 * Opens the breaker of exactly what is named. Where nothing routes to it yet,
 * it is kept for when something does.
 */
static void
open_scope(const Names *names, Usec duration)
{
	char	   *reason = psprintf("opened by %s",
								  GetUserNameFromId(GetUserId(), false));
	Usec		now = clock_now();
	CellKey		key = {0};
	bool		unshared = false;
	Cell	   *cell;
	BreakerChange change;

	key.database = MyDatabaseId;
	key.scope = names->model ? CELL_TARGET :
		names->region ? CELL_REGION : CELL_PROVIDER;
	strlcpy(key.provider, names->provider, sizeof(key.provider));
	if (names->region)
		strlcpy(key.region, names->region, sizeof(key.region));
	if (names->model)
		strlcpy(key.model, names->model, sizeof(key.model));
	cell = cell_hold(cells_find(&key, GetCurrentTimestamp(), now, &unshared));
	if (cell == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("shared memory has no place for the breaker of %s",
						names_in_words(names)),
				 errhint("Increase llm_failover.max_cells and restart.")));
	change = breaker_force_open(&cell->breaker, now + duration, now);
	health_changed(cell, &change, reason);
	cell_drop(cell);
}

/* Returns names as they are printed: openai/us/gpt-5. */
static char *
names_in_words(const Names *names)
{
	return psprintf("%s%s%s%s%s", names->provider,
					names->region ? "/" : "",
					names->region ? names->region : "",
					names->model ? "/" : "",
					names->model ? names->model : "");
}

/* Closes a scope and forgets what spoke against it. */
static void
reset_scope(CellRef ref, Usec now, const char *reason)
{
	Cell	   *cell = cell_hold(ref);

	if (cell == NULL)
		return;
	health_reset(ref, reason, now);
	pg_atomic_write_u64(&cell->throttled_until, 0);
	pg_atomic_write_u32(&cell->throttles, 0);
	pg_atomic_write_u64(&cell->requests.full_at, 0);
	pg_atomic_write_u64(&cell->tokens.full_at, 0);
	SpinLockAcquire(&cell->budget.lock);
	window_clear(&cell->budget.window);
	SpinLockRelease(&cell->budget.lock);
	cell_drop(cell);
}

/* Sets the counts to zero. */
static void
forget_counts(Cell *cell, TimestampTz wall)
{
	for (int i = 0; i < NUM_CELL_COUNTS; i++)
		pg_atomic_write_u64(&cell->counts[i], 0);
	latency_reset(&cell->latency);
	pg_atomic_write_u64(&cell->stats_reset, (uint64) wall);
}
