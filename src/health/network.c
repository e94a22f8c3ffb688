/*
 * network.c
 *	  Is it them or us? See network.h.
 *
 * Ours it is when at least two hosts have failed within NETWORK_WINDOW, and
 * nobody has answered since the first of these failures. So one host that
 * fails for long proves nothing, and neither do two when a third one answers
 * in between. Of failures that go on for longer than the window, those inside
 * it count.
 *
 * A clock that went back makes this blind until somebody answers again later
 * than the last answer; then breakers judge alone.
 */
#include "postgres.h"

#include "health/network.h"
#include "storage/spin.h"

/* An answer so soon after a noted one is not noted. */
#define REACHED_GRAIN	(1 * USEC_MSEC)

void
network_init(Network *network)
{
	pg_atomic_init_u64(&network->reached_at, 0);
	pg_atomic_init_u64(&network->pause_until, 0);
	pg_atomic_init_u64(&network->said_at, 0);
	SpinLockInit(&network->lock);
	memset(network->failures, 0, sizeof(network->failures));
}

void
network_reached(Network *network, Usec now)
{
	Usec		noted = (Usec) pg_atomic_read_u64(&network->reached_at);

	if (now >= noted + REACHED_GRAIN)
		pg_atomic_write_u64(&network->reached_at, (uint64) now);
	if (unlikely(pg_atomic_read_u64(&network->pause_until) != 0))
		network_end_pause(network);
}

static bool
is_recent(const NetworkFailure *failure, Usec now)
{
	return failure->at > 0 && failure->at >= now - NETWORK_WINDOW;
}

/*
 * Finds the entry of a host and cell, or else the one to forget for it. That
 * keeps its beginning while it is recent: an answer since then still counts.
 */
static NetworkFailure *
find_entry(Network *network, uint32 host, CellRef cell)
{
	NetworkFailure *oldest = &network->failures[0];

	for (int i = 0; i < NETWORK_MEMORY; i++)
	{
		NetworkFailure *failure = &network->failures[i];

		if (failure->host == host && failure->cell.cell == cell.cell &&
			failure->cell.generation == cell.generation)
			return failure;
		if (failure->at < oldest->at)
			oldest = failure;
	}
	return oldest;
}

static void
remember(Network *network, uint32 host, CellRef cell, Usec now)
{
	NetworkFailure *failure = find_entry(network, host, cell);

	if (!is_recent(failure, now))
		failure->since = now;
	failure->host = host;
	failure->cell = cell;
	failure->at = now;
}

/* Judges, by what is remembered, when a host has just failed. */
static bool
fault_is_ours(const Network *network, uint32 host, Usec reached, Usec now)
{
	Usec		first = now;
	bool		others = false;

	for (int i = 0; i < NETWORK_MEMORY; i++)
	{
		const NetworkFailure *failure = &network->failures[i];

		if (!is_recent(failure, now))
			continue;
		first = Min(first, Max(failure->since, now - NETWORK_WINDOW));
		if (failure->host != host)
			others = true;
	}
	return others && reached < first;
}

bool
network_failed(Network *network, uint32 host, CellRef cell, Usec now,
			   CellRef *mine, int *nmine)
{
	Usec		reached = (Usec) pg_atomic_read_u64(&network->reached_at);
	bool		ours;

	*nmine = 0;
	SpinLockAcquire(&network->lock);
	remember(network, host, cell, now);
	ours = fault_is_ours(network, host, reached, now);
	for (int i = 0; ours && i < NETWORK_MEMORY; i++)
		if (is_recent(&network->failures[i], now))
			mine[(*nmine)++] = network->failures[i].cell;
	SpinLockRelease(&network->lock);

	if (ours)
		pg_atomic_write_u64(&network->pause_until,
							(uint64) (now + NETWORK_PAUSE));
	return ours;
}

Usec
network_pause(Network *network, uint32 host, Usec now)
{
	Usec		until = (Usec) pg_atomic_read_u64(&network->pause_until);
	bool		down = false;

	if (likely(until <= now))
		return 0;
	SpinLockAcquire(&network->lock);
	for (int i = 0; i < NETWORK_MEMORY && !down; i++)
		down = network->failures[i].host == host &&
			is_recent(&network->failures[i], now);
	SpinLockRelease(&network->lock);
	return down ? until : 0;
}

void
network_end_pause(Network *network)
{
	pg_atomic_write_u64(&network->pause_until, 0);
}

bool
network_should_say(Network *network, Usec now)
{
	uint64		said = pg_atomic_read_u64(&network->said_at);

	return (said == 0 || now - (Usec) said >= NETWORK_SAY_EVERY) &&
		pg_atomic_compare_exchange_u64(&network->said_at, &said, now);
}
