/*
 * config.c
 *	  The cache of the configuration: when a snapshot is built, used and freed.
 *
 * A row trigger on each table registers a relcache message for it, so that
 * PostgreSQL itself delivers the news: to the own transaction at the end of
 * the command (and once more when a savepoint or the transaction is rolled
 * back), to others at commit, on a standby at replay. The callback may not
 * touch any catalog; it only counts. A snapshot is current as long as nothing
 * was counted since its load began, so a message that arrives during the load
 * leads to another load at the next call, and an error in the middle leaves
 * the old snapshot outdated and nothing else behind.
 *
 * A snapshot refers to cells in shared memory, which can be given to others:
 * then it is current as before, and only its references are found anew.
 */
#include "postgres.h"

#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "breaker_store.h"
#include "config_internal.h"
#include "health/shared.h"

static Config *current;			/* the newest snapshot, or NULL */
static uint64 current_as_of;	/* ninvalidations when its load began */
static uint64 ninvalidations;	/* messages about the watched tables */
static Oid	watched[CONFIG_NTABLES];

static void watch_tables(void);
static void note_invalidation(Datum arg, Oid relid);
static Config *load_config(Oid any_own_function);
static Config *make_config(Oid schema);
static void publish(Config *config, uint64 as_of);
static void free_if_unused(Config *config);
static void wipe_secrets(void *arg);

/*
 * Returns the configuration as it is now: with the own transaction's changes
 * so far and what others have committed, whatever the isolation level. The
 * function's OID tells the schema of the extension. Must be called inside a
 * transaction; good until the next call, unless pinned.
 */
Config *
config_get(Oid any_own_function)
{
	watch_tables();

	/* so that a change is seen within a long statement too */
	AcceptInvalidationMessages();

	if (unlikely(current == NULL || current_as_of != ninvalidations))
	{
		uint64		as_of = ninvalidations;

		publish(load_config(any_own_function), as_of);
		breaker_store_restore(current);
	}
	else if (unlikely(current->cells_as_of != cells_reclaimed()))
		config_find_cells(current);
	return current;
}

/* Says which snapshot is current; see the header. */
uint64
config_version(void)
{
	return current && current_as_of == ninvalidations ? current->version : 0;
}

/* Keeps a snapshot alive until config_unpin(). */
void
config_pin(Config *config)
{
	config->pins++;
}

/* Gives a pin back; frees the snapshot when it was outdated meanwhile. */
void
config_unpin(Config *config)
{
	Assert(config->pins > 0);
	config->pins--;
	free_if_unused(config);
}

/* Registers the callback, once a process: it cannot be taken back. */
static void
watch_tables(void)
{
	static bool registered = false;

	if (likely(registered))
		return;
	CacheRegisterRelcacheCallback(note_invalidation, (Datum) 0);
	registered = true;
}

/* Counts a message about one of our tables, or about all of them. */
static void
note_invalidation(Datum arg pg_attribute_unused(), Oid relid)
{
	if (!OidIsValid(relid))
	{
		ninvalidations++;
		return;
	}
	for (int i = 0; i < CONFIG_NTABLES; i++)
		if (watched[i] == relid)
			ninvalidations++;
}

/*
 * Builds a snapshot. Until it is whole its memory belongs to the transaction,
 * so that an error frees it.
 */
static Config *
load_config(Oid any_own_function)
{
	Config	   *config = make_config(get_func_namespace(any_own_function));
	MemoryContext caller = MemoryContextSwitchTo(config->context);

	/* watched first: nothing that happens from here on may be missed */
	config_tables_find(config->schema, watched);
	config_tables_read(config, watched);
	config_link(config);

	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(config->context, TopMemoryContext);
	return config;
}

/* Makes an empty snapshot in a context of its own. */
static Config *
make_config(Oid schema)
{
	static uint64 version = 0;
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "llm_failover configuration",
												  ALLOCSET_SMALL_SIZES);
	Config	   *config = MemoryContextAllocZero(context, sizeof(Config));
	MemoryContextCallback *callback =
		MemoryContextAlloc(context, sizeof(MemoryContextCallback));

	config->context = context;
	config->version = ++version;
	config->schema = schema;

	callback->func = wipe_secrets;
	callback->arg = config;
	MemoryContextRegisterResetCallback(context, callback);
	return config;
}

/* Puts a new snapshot in the place of the old one. */
static void
publish(Config *config, uint64 as_of)
{
	Config	   *old = current;

	current = config;
	current_as_of = as_of;
	if (old)
		free_if_unused(old);
}

/* Frees a snapshot that is neither current nor pinned. */
static void
free_if_unused(Config *config)
{
	if (config != current && config->pins == 0)
		MemoryContextDelete(config->context);
}

/* Leaves no key behind in memory that is about to be freed. */
static void
wipe_secrets(void *arg)
{
	Config	   *config = arg;

	for (int i = 0; i < config->nsecrets; i++)
		if (config->secrets[i].value)
			explicit_bzero(config->secrets[i].value,
						   strlen(config->secrets[i].value));
}
