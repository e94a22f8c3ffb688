/*
 * slow.c
 *	  The roles whose on_finish functions are slow: see slow.h.
 *
 * There are few. When there are too many, the one that was added first passes
 * for quick until it is found out again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "slow.h"

#define MAX_SLOW 32

static SlowRole slow[MAX_SLOW];
static int	nslow = 0;

/* Returns where a role is, or -1. */
static int
find(const NameData *role)
{
	for (int i = 0; i < nslow; i++)
		if (namestrcmp(&slow[i].role, NameStr(*role)) == 0)
			return i;
	return -1;
}

static void
remove_at(int i)
{
	nslow--;
	memmove(&slow[i], &slow[i + 1], (nslow - i) * sizeof(SlowRole));
}

bool
slow_has(const NameData *role)
{
	return find(role) >= 0;
}

void
slow_add(const NameData *role, int64 task)
{
	SlowRole	it = {.role = *role, .after = task};

	slow_remove(&it.role);
	if (nslow == MAX_SLOW)
		remove_at(0);
	slow[nslow++] = it;
}

void
slow_remove(const NameData *role)
{
	int			i = find(role);

	if (i >= 0)
		remove_at(i);
}

const SlowRole *
slow_first(void)
{
	return nslow > 0 ? &slow[0] : NULL;
}

Datum
slow_names(bool first)
{
	Datum		names[MAX_SLOW];
	int			n = first ? Min(nslow, 1) : nslow;

	for (int i = 0; i < n; i++)
		names[i] = NameGetDatum(&slow[i].role);
	return PointerGetDatum(construct_array(names, n, NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}
