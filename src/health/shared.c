/*
 * shared.c
 *	  The extension's shared memory: the table of cells, and what belongs to
 *	  the server as a whole.
 *
 * Who may touch what under which lock:
 * - The table lock protects the hash, which key has which place, the number of
 *	 places in use. Shared to look, exclusive to change. Nobody allocates, throws
 *	 or waits under it.
 * - Everything else is atomic, or has a lock of its own (see cell.h).
 *
 * All places are there from the start, but nothing of one is touched before it
 * is used: the memory of a table that is larger than needed is never paid for.
 * They are handed out in order; only when all are in use is one taken from its
 * owner, which must be unwanted and idle. Its generation tells references that
 * the cell is somebody else's by now.
 *
 * An attempt holds a cell by its in-flight count, which it takes without any
 * lock. So who takes a cell away changes the generation first and looks at the
 * count after, and who begins an attempt counts first and looks at the
 * generation after: one of the two sees the other.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

#include "health/shared.h"

#define TRANCHE "llm_failover"

#define SAY_AGAIN (3600 * USEC_SEC)

/* Where a cell lies. */
typedef struct Place
{
	pg_atomic_uint64 wanted_by; /* number of the newest load that found it */
	Cell		cell;
} Place;

/* Of the hash from keys to places. */
typedef struct PlaceEntry
{
	CellKey		key;
	int			place;
} PlaceEntry;

typedef struct Shared
{
	LWLock	   *lock;			/* the table lock */
	uint64		salt;
	Network		network;
	pg_atomic_uint64 loads;		/* numbers the loads of configurations */
	pg_atomic_uint64 reclaimed;
	pg_atomic_uint64 unshared;
	pg_atomic_uint64 warned_at; /* Usec, or 0 */
	int			nplaces;		/* ever used */
} Shared;

/* A cell that found no place. */
typedef struct OwnCell
{
	struct OwnCell *next;
	Cell		cell;
} OwnCell;

static Shared *shared;
static Place *places;
static HTAB *place_hash;

/* A process that cannot share keeps no more than these, at 10 kB each. */
#define MAX_OWN_CELLS 1024

static OwnCell *own_cells;		/* this process's */
static int	own_ncells;

static uint64 this_load;		/* the load that is under way, or the last */
static bool load_found_full;	/* in it no place was to be had */

/* --- the memory --- */

static Size
places_size(void)
{
	return mul_size(llm_max_cells, sizeof(Place));
}

/* Returns how much shared memory is asked for. */
Size
shared_size(void)
{
	Size		size = CACHELINEALIGN(sizeof(Shared));

	size = add_size(size, CACHELINEALIGN(places_size()));
	size = add_size(size, CACHELINEALIGN(slots_size()));
	return add_size(size,
					hash_estimate_size(llm_max_cells, sizeof(PlaceEntry)));
}

void
shared_request(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(TRANCHE, 2);
}

static void
init_shared(void)
{
	memset(shared, 0, sizeof(Shared));
	shared->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
	if (!pg_strong_random(&shared->salt, sizeof(shared->salt)))
		shared->salt = pg_prng_uint64(&pg_global_prng_state);
	network_init(&shared->network);
	pg_atomic_init_u64(&shared->loads, 0);
	pg_atomic_init_u64(&shared->reclaimed, 0);
	pg_atomic_init_u64(&shared->unshared, 0);
	pg_atomic_init_u64(&shared->warned_at, 0);
}

/* Makes what was asked for, or finds it where the postmaster has made it. */
void
shared_startup(void)
{
	HASHCTL		info = {0};
	bool		found;

	info.keysize = sizeof(CellKey);
	info.entrysize = sizeof(PlaceEntry);

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("llm_failover", sizeof(Shared), &found);
	if (!found)
		init_shared();
	places = ShmemInitStruct("llm_failover cells", places_size(), &found);
	place_hash = ShmemInitHash("llm_failover cell hash",
							   llm_max_cells, llm_max_cells,
							   &info, HASH_ELEM | HASH_BLOBS);
	slots_startup(&GetNamedLWLockTranche(TRANCHE)[1].lock);
	LWLockRelease(AddinShmemInitLock);
}

bool
shared_is_ready(void)
{
	return shared != NULL;
}

Network *
shared_network(void)
{
	return shared ? &shared->network : NULL;
}

uint64
shared_salt(void)
{
	return shared ? shared->salt : 0;
}

bool
shared_should_say(pg_atomic_uint64 *said_at, Usec now)
{
	uint64		last = pg_atomic_read_u64(said_at);

	if (last != 0 && now - (Usec) last < SAY_AGAIN)
		return false;
	return pg_atomic_compare_exchange_u64(said_at, &last, now);
}

/* --- the cells --- */

/* Notes that this load has found a cell, unless a newer one has already. */
static void
want(Place *place, Usec now)
{
	uint64		newest = pg_atomic_read_u64(&place->wanted_by);

	while (newest < this_load &&
		   !pg_atomic_compare_exchange_u64(&place->wanted_by, &newest,
										   this_load))
		;
	pg_atomic_write_u32(&place->cell.unwanted, 0);
	pg_atomic_write_u64(&place->cell.last_used, now);
}

/* Finds a key's cell and marks it as wanted. */
static bool
find_place(const CellKey *key, Usec now, CellRef *ref)
{
	PlaceEntry *entry = hash_search(place_hash, key, HASH_FIND, NULL);

	if (entry == NULL)
		return false;
	want(&places[entry->place], now);
	ref->cell = &places[entry->place].cell;
	ref->generation = pg_atomic_read_u32(&ref->cell->generation);
	return true;
}

/* Nobody wants it, asks it, or is kept away by it for a time that is told. */
static bool
is_idle(Cell *cell, Usec now)
{
	return pg_atomic_read_u32(&cell->unwanted) != 0 &&
		pg_atomic_read_u32(&cell->in_flight) == 0 &&
		breaker_view(&cell->breaker, &breaker_defaults, now).state !=
		BREAKER_OPEN;
}

/* Returns a free place, else the idle one unused for longest, or NULL. */
static Place *
longest_unused(Usec now)
{
	Place	   *found = NULL;

	for (int i = 0; i < shared->nplaces; i++)
	{
		Cell	   *cell = &places[i].cell;

		if (cell->key.database == InvalidOid)
			return &places[i];
		if (is_idle(cell, now) &&
			(found == NULL || pg_atomic_read_u64(&cell->last_used) <
			 pg_atomic_read_u64(&found->cell.last_used)))
			found = &places[i];
	}
	return found;
}

/* Takes a cell from its owner, unless an attempt has just begun in it. */
static bool
take_away(Place *place)
{
	Cell	   *cell = &place->cell;

	pg_atomic_fetch_add_u32(&cell->generation, 1);
	if (pg_atomic_read_u32(&cell->in_flight) != 0)
	{
		pg_atomic_fetch_sub_u32(&cell->generation, 1);
		return false;
	}
	hash_search(place_hash, &cell->key, HASH_REMOVE, NULL);
	cell->key.database = InvalidOid;
	pg_atomic_fetch_add_u64(&shared->reclaimed, 1);
	return true;
}

/* Returns a place without an owner, whose generation is a new one, or NULL. */
static Place *
empty_place(Usec now)
{
	Place	   *place;

	if (shared->nplaces < llm_max_cells)
	{
		place = &places[shared->nplaces++];
		pg_atomic_init_u64(&place->wanted_by, 0);
		pg_atomic_init_u32(&place->cell.generation, 1);
		pg_atomic_init_u32(&place->cell.in_flight, 0);
		return place;
	}
	place = longest_unused(now);
	if (place == NULL || place->cell.key.database == InvalidOid)
		return place;
	return take_away(place) ? place : NULL;
}

/* Gives a key a place; false when there is none. */
static bool
make_place(const CellKey *key, TimestampTz wall, Usec now)
{
	Place	   *place = empty_place(now);
	PlaceEntry *entry;

	if (place == NULL)
		return false;
	entry = hash_search(place_hash, key, HASH_ENTER_NULL, NULL);
	if (entry == NULL)
		return false;
	entry->place = (int) (place - places);
	cell_init(&place->cell, wall);
	place->cell.key = *key;
	return true;
}

/*
 * Once a load has found the table full it does not search it again for each of
 * its other cells.
 */
CellRef
cells_find(const CellKey *key, TimestampTz wall, Usec now, bool *unshared)
{
	CellRef		ref = {NULL, 0};
	bool		found;

	*unshared = false;
	if (shared == NULL)
		return ref;

	LWLockAcquire(shared->lock, LW_SHARED);
	found = find_place(key, now, &ref);
	LWLockRelease(shared->lock);

	if (!found && !load_found_full)
	{
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		found = find_place(key, now, &ref) ||
			(make_place(key, wall, now) && find_place(key, now, &ref));
		LWLockRelease(shared->lock);
		load_found_full = !found;
	}
	*unshared = !found;
	return ref;
}

CellRef
cells_find_own(const CellKey *key, TimestampTz wall)
{
	CellRef		none = {NULL, 0};
	OwnCell    *own;

	pg_atomic_fetch_add_u64(&shared->unshared, 1);
	for (own = own_cells; own; own = own->next)
		if (memcmp(&own->cell.key, key, sizeof(CellKey)) == 0)
			return (CellRef) {&own->cell, 1};

	if (own_ncells >= MAX_OWN_CELLS)
		return none;
	own = calloc(1, sizeof(OwnCell));
	if (own == NULL)
		return none;
	pg_atomic_init_u32(&own->cell.generation, 1);
	pg_atomic_init_u32(&own->cell.in_flight, 0);
	cell_init(&own->cell, wall);
	own->cell.key = *key;
	own->next = own_cells;
	own_cells = own;
	own_ncells++;
	return (CellRef) {&own->cell, 1};
}

void
cells_load_begin(void)
{
	if (shared == NULL)
		return;
	this_load = pg_atomic_add_fetch_u64(&shared->loads, 1);
	load_found_full = false;
}

void
cells_load_end(Oid database)
{
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nplaces; i++)
		if (places[i].cell.key.database == database &&
			pg_atomic_read_u64(&places[i].wanted_by) < this_load)
		{
			pg_atomic_write_u32(&places[i].cell.unwanted, 1);
			/* a newer load may have wanted it meanwhile */
			if (pg_atomic_read_u64(&places[i].wanted_by) >= this_load)
				pg_atomic_write_u32(&places[i].cell.unwanted, 0);
		}
	LWLockRelease(shared->lock);
}

bool
cell_is_shared(CellRef ref)
{
	return shared && (Place *) ref.cell >= places &&
		(Place *) ref.cell < places + llm_max_cells;
}

uint64
cells_reclaimed(void)
{
	return shared ? pg_atomic_read_u64(&shared->reclaimed) : 0;
}

uint64
cells_unshared(void)
{
	return shared ? pg_atomic_read_u64(&shared->unshared) : 0;
}

bool
cells_should_warn(Usec now)
{
	return shared_should_say(&shared->warned_at, now);
}

void
cells_visit(Oid database, CellVisitor visit, void *arg)
{
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nplaces; i++)
		if (places[i].cell.key.database == database)
			visit(&places[i].cell, arg);
	LWLockRelease(shared->lock);
	for (OwnCell *own = own_cells; own; own = own->next)
		if (own->cell.key.database == database)
			visit(&own->cell, arg);
}

int
cells_most(void)
{
	return llm_max_cells + own_ncells;
}

/* --- the databases --- */

/* Takes the cells of a database away, under the table lock. */
static void
take_cells_away(Oid database)
{
	for (int i = 0; i < shared->nplaces; i++)
		if (places[i].cell.key.database == database)
			take_away(&places[i]);
}

/* Nobody is connected to the database, so nothing can be under way in it. */
void
shared_forget_database(Oid database)
{
	slot_forget(database);
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	take_cells_away(database);
	LWLockRelease(shared->lock);
}

void
shared_forget_cells(Oid database)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	take_cells_away(database);
	LWLockRelease(shared->lock);
}

/* Adds one to a list, if it is none yet; returns the list's new length. */
static int
add_database(Oid *databases, int n, int max, Oid database)
{
	if (database == InvalidOid || n >= max)
		return n;
	for (int i = 0; i < n; i++)
		if (databases[i] == database)
			return n;
	databases[n] = database;
	return n + 1;
}

int
shared_databases(Oid *databases, int max)
{
	int			n = 0;

	if (shared == NULL)
		return 0;
	for (int i = 0; i < llm_max_databases; i++)
		n = add_database(databases, n, max, slot_number(i)->database);
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nplaces; i++)
		n = add_database(databases, n, max, places[i].cell.key.database);
	LWLockRelease(shared->lock);
	return n;
}
