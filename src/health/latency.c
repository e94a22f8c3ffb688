/*
 * latency.c
 *	  How long attempts take: see latency.h.
 *
 * The peak-EWMA and the time of its last change share one atomic word: the
 * upper half is a float, in microseconds, the lower half the time in
 * milliseconds. 0 = no sample yet. The time wraps after 49 days; what is
 * older than half of that looks fresh once, until the next sample.
 *
 * The EWMA decays when it is read, too, as Finagle's does: a target that was
 * slow once and lost all its calls for it must not look slow forever, because
 * nobody would ever find out. But it decays to EWMA_FLOOR at most, so that
 * not everybody rushes at once to one that was away for long.
 */
#include "postgres.h"

#include <math.h>

#include "health/latency.h"
#include "port/pg_bitutils.h"

#define EWMA_TAU		10000.0	/* ms */
#define EWMA_FLOOR		0.01	/* of its value, when read */

/* When p99 is recomputed: each so many samples while there are few … */
#define REFRESH_SAMPLES	16
#define REFRESH_FEW		256
/* … and at the first sample of each so many milliseconds. */
#define REFRESH_TIME	1000

/* The EWMA's word, unpacked. */
typedef struct Ewma
{
	float		value;			/* µs; 0 = no sample */
	uint32		at;				/* ms */
} Ewma;

/* Counts of a histogram, or of several, at a moment. */
typedef struct Sums
{
	uint64		n;
	uint64		counts[HISTOGRAM_BUCKETS];
} Sums;

/*
 * Returns the bucket of a duration: the position of its leading bit says which
 * power of two, the four bits behind it say which step.
 */
int
histogram_bucket(Usec duration)
{
	uint64		units = duration > 0 ? duration / HISTOGRAM_UNIT : 0;
	int			octave;

	if (units < HISTOGRAM_STEPS)
		return (int) units;
	octave = pg_leftmost_one_pos64(units / HISTOGRAM_STEPS);
	if (octave >= HISTOGRAM_OCTAVES)
		return HISTOGRAM_BUCKETS - 1;
	return octave * HISTOGRAM_STEPS + (int) (units >> octave);
}

/* Returns the middle of a bucket; see histogram_bucket(). */
Usec
histogram_value(int bucket)
{
	int			octave = Max(bucket / HISTOGRAM_STEPS - 1, 0);
	Usec		units = bucket - octave * HISTOGRAM_STEPS;

	return ((units * HISTOGRAM_UNIT) << octave) +
		((HISTOGRAM_UNIT / 2) << octave);
}

static void
histogram_init(Histogram *histogram)
{
	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
		pg_atomic_init_u32(&histogram->counts[i], 0);
}

static void
histogram_clear(Histogram *histogram)
{
	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
		pg_atomic_write_u32(&histogram->counts[i], 0);
}

static void
histogram_add(Histogram *histogram, int bucket)
{
	pg_atomic_fetch_add_u32(&histogram->counts[bucket], 1);
}

static void
sums_add(Sums *sums, const Histogram *histogram)
{
	Histogram  *counts = unconstify(Histogram *, histogram);

	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
	{
		uint32		count = pg_atomic_read_u32(&counts->counts[i]);

		sums->counts[i] += count;
		sums->n += count;
	}
}

/* Returns a percentile by nearest rank; there must be a sample. */
static Usec
sums_percentile(const Sums *sums, double p)
{
	double		rank = Max(ceil(p * (double) sums->n), 1);
	uint64		seen = 0;
	int			last = 0;

	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
	{
		if (sums->counts[i] == 0)
			continue;
		seen += sums->counts[i];
		last = i;
		if ((double) seen >= rank)
			break;
	}
	return histogram_value(last);
}

void
latency_init(Latency *latency)
{
	histogram_init(&latency->total);
	for (int i = 0; i < LATENCY_SLICES; i++)
	{
		histogram_init(&latency->slices[i]);
		pg_atomic_init_u64(&latency->slice_number[i], 0);
	}
	pg_atomic_init_u64(&latency->ewma, 0);
	pg_atomic_init_u32(&latency->p99, 0);
	pg_atomic_init_u32(&latency->samples, 0);
}

/*
 * Returns the slice that `now` falls into. The first to come in a new one takes
 * the place of the oldest and clears it; what others add before it has finished
 * is lost. A clock that went back takes places in the same way.
 */
static Histogram *
current_slice(Latency *latency, Usec now)
{
	uint64		number = (uint64) (now / LATENCY_SLICE);
	int			place = number % LATENCY_SLICES;
	uint64		old = pg_atomic_read_u64(&latency->slice_number[place]);

	if (unlikely(old != number) &&
		pg_atomic_compare_exchange_u64(&latency->slice_number[place], &old,
									   number))
		histogram_clear(&latency->slices[place]);
	return &latency->slices[place];
}

/* Adds up the slice of `now` and those before it that are still kept. */
static void
sum_recent(const Latency *latency, Usec now, Sums *sums)
{
	Latency    *slices = unconstify(Latency *, latency);
	uint64		current = (uint64) (now / LATENCY_SLICE);

	for (int i = 0; i < LATENCY_SLICES; i++)
	{
		uint64		number = pg_atomic_read_u64(&slices->slice_number[i]);

		/* Unsigned: one from the future is far away as well. */
		if (current - number < LATENCY_SLICES)
			sums_add(sums, &latency->slices[i]);
	}
}

/* Recomputes the usual longest, of recent samples if these are enough. */
static void
refresh_p99(Latency *latency, Usec now)
{
	Sums		sums = {0};
	uint64		ms = 0;

	sum_recent(latency, now, &sums);
	if (sums.n < LATENCY_MIN_SAMPLES)
	{
		memset(&sums, 0, sizeof(sums));
		sums_add(&sums, &latency->total);
	}
	if (sums.n >= LATENCY_MIN_SAMPLES)
		ms = (sums_percentile(&sums, 0.99) + USEC_MSEC - 1) / USEC_MSEC;
	pg_atomic_write_u32(&latency->p99, (uint32) ms);
}

static Ewma
ewma_unpack(uint64 word)
{
	uint32		bits = (uint32) (word >> 32);
	Ewma		ewma = {.at = (uint32) word};

	memcpy(&ewma.value, &bits, sizeof(bits));
	return ewma;
}

static uint64
ewma_pack(double value, uint32 at)
{
	float		rounded = (float) value;
	uint32		bits;

	StaticAssertStmt(sizeof(rounded) == sizeof(bits), "float has 32 bits");
	memcpy(&bits, &rounded, sizeof(bits));
	return (uint64) bits << 32 | at;
}

/* Returns what is left of an old value, 0-1; all when the clock went back. */
static double
ewma_decay(Ewma ewma, uint32 at)
{
	int32		elapsed = (int32) (at - ewma.at);

	return elapsed > 0 ? exp(-elapsed / EWMA_TAU) : 1;
}

/* Returns the value as it is read at a time. */
static double
ewma_read(Ewma ewma, uint32 at)
{
	return ewma.value * Max(ewma_decay(ewma, at), EWMA_FLOOR);
}

/*
 * Brings a sample into the EWMA. True when it is the first one in its
 * REFRESH_TIME: since the time moves on by compare-and-swap, one recorder alone
 * is told so.
 */
static bool
ewma_record(Latency *latency, double duration, uint32 at)
{
	uint64		old = pg_atomic_read_u64(&latency->ewma);
	Ewma		ewma;
	double		value;

	do
	{
		ewma = ewma_unpack(old);
		value = duration;
		if (duration < ewma.value)
			value += (ewma.value - duration) * ewma_decay(ewma, at);
	} while (!pg_atomic_compare_exchange_u64(&latency->ewma, &old,
											 ewma_pack(value, at)));
	return at / REFRESH_TIME != ewma.at / REFRESH_TIME;
}

void
latency_record(Latency *latency, Usec duration, Usec now)
{
	int			bucket = histogram_bucket(duration);
	uint32		n;
	bool		refresh;

	histogram_add(&latency->total, bucket);
	histogram_add(current_slice(latency, now), bucket);
	n = pg_atomic_fetch_add_u32(&latency->samples, 1) + 1;
	refresh = ewma_record(latency, (double) Max(duration, 1),
						  (uint32) (now / USEC_MSEC));

	/* The first time counts most: when there are just enough samples. */
	if (n < REFRESH_FEW &&
		n % REFRESH_SAMPLES == LATENCY_MIN_SAMPLES % REFRESH_SAMPLES)
		refresh = true;
	if (refresh)
		refresh_p99(latency, now);
}

/*
 * Lets the EWMA jump up to a longer duration. What nobody knows yet stays
 * unknown: one that refuses at once must not look like a fast one.
 */
void
latency_note_failure(Latency *latency, Usec duration, Usec now)
{
	uint32		at = (uint32) (now / USEC_MSEC);
	uint64		old = pg_atomic_read_u64(&latency->ewma);

	for (;;)
	{
		Ewma		ewma = ewma_unpack(old);

		if (ewma.value == 0 || (double) duration <= ewma_read(ewma, at) ||
			pg_atomic_compare_exchange_u64(&latency->ewma, &old,
										   ewma_pack((double) duration, at)))
			return;
	}
}

void
latency_reset(Latency *latency)
{
	histogram_clear(&latency->total);
	pg_atomic_write_u32(&latency->samples, 0);
}

bool
latency_percentiles(const Latency *latency, bool recent, const double *p,
					int n, Usec *out, Usec now)
{
	Sums		sums = {0};

	if (recent)
		sum_recent(latency, now, &sums);
	else
		sums_add(&sums, &latency->total);
	if (sums.n == 0)
		return false;
	for (int i = 0; i < n; i++)
		out[i] = sums_percentile(&sums, p[i]);
	return true;
}

Usec
latency_p99(const Latency *latency)
{
	Latency    *cache = unconstify(Latency *, latency);

	return pg_atomic_read_u32(&cache->p99) * USEC_MSEC;
}

Usec
latency_ewma(const Latency *latency, Usec now)
{
	Latency    *word = unconstify(Latency *, latency);
	Ewma		ewma = ewma_unpack(pg_atomic_read_u64(&word->ewma));

	if (ewma.value == 0)
		return 0;
	return (Usec) Max(ewma_read(ewma, (uint32) (now / USEC_MSEC)), 1);
}
