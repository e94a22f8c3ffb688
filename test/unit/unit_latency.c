/*
 * unit_latency.c
 *	  Histograms against exact percentiles, the last minute, the peak-EWMA.
 */
#include "postgres.h"

#include <math.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "health/latency.h"

#include "unit.h"

#define MS		USEC_MSEC
#define SEC		USEC_SEC
#define NOW		(100 * LATENCY_SLICE)	/* the first moment of a slice */
#define ERROR_MAX 0.05

static pg_prng_state prng;

static Latency *
fresh(void)
{
	Latency    *latency = palloc(sizeof(Latency));

	memset(latency, 0x7f, sizeof(Latency));
	latency_init(latency);
	return latency;
}

static void
record(Latency *latency, int n, Usec duration, Usec now)
{
	while (n-- > 0)
		latency_record(latency, duration, now);
}

static double
error_of(Usec got, Usec want)
{
	return fabs((double) (got - want)) / (double) want;
}

/* Returns a duration within the promised range, all magnitudes alike. */
static Usec
any_duration(void)
{
	return (Usec) (100 * exp(pg_prng_double(&prng) * log(5400.0 * SEC / 100)));
}

static void
check_bucket(Usec duration)
{
	int			bucket = histogram_bucket(duration);

	CHECK(bucket >= 0 && bucket < HISTOGRAM_BUCKETS, "%lld: bucket %d",
		  (long long) duration, bucket);
	CHECK(histogram_bucket(duration + 1) - bucket <= 1 &&
		  histogram_bucket(duration + 1) >= bucket,
		  "%lld: a step of more than one", (long long) duration);
	CHECK(error_of(histogram_value(bucket), duration) <= ERROR_MAX,
		  "%lld is %lld", (long long) duration,
		  (long long) histogram_value(bucket));
}

/* Every bucket's borders, and what lies between them. */
static void
test_buckets(void)
{
	for (Usec duration = 100; duration < 3000; duration++)
		check_bucket(duration);
	for (Usec power = 64; power < 5400 * SEC; power *= 2)
		for (int step = 0; step < 16; step++)
			for (int off = -1; off <= 1; off++)
			{
				Usec		duration = power + power / 16 * step + off;

				if (duration >= 100)
					check_bucket(duration);
			}
	for (int i = 0; i < 20000; i++)
		check_bucket(any_duration());
	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
		CHECK(histogram_bucket(histogram_value(i)) == i,
			  "bucket %d does not hold its value", i);
	CHECK(histogram_bucket(0) == 0 && histogram_bucket(-5) == 0 &&
		  histogram_bucket(PG_INT64_MIN) == 0, "no time at all");
	CHECK(histogram_bucket(PG_INT64_MAX) == HISTOGRAM_BUCKETS - 1 &&
		  histogram_bucket(24 * 3600 * SEC) == HISTOGRAM_BUCKETS - 1,
		  "longer ones count as the longest");
}

/* Shapes of latency; `i` of `n`. */
static Usec
uniform(int i pg_attribute_unused(), int n pg_attribute_unused())
{
	return 100 + (Usec) (pg_prng_double(&prng) * 10 * SEC);
}

static Usec
log_uniform(int i pg_attribute_unused(), int n pg_attribute_unused())
{
	return any_duration();
}

static Usec
exponential(int i pg_attribute_unused(), int n pg_attribute_unused())
{
	return 100 + (Usec) (-log(1 - pg_prng_double(&prng)) * 800 * MS);
}

/* A few hang: just as many as p99 has to find, or one less. */
static Usec
bimodal(int i, int n)
{
	return i < n / 100 ? 60 * SEC : 10 * MS + i;
}

static Usec
bimodal_more(int i, int n)
{
	return i <= n / 100 ? 60 * SEC : 10 * MS + i;
}

static Usec
constant(int i pg_attribute_unused(), int n pg_attribute_unused())
{
	return 1234567;
}

/* Always at the border that is furthest from its bucket's value. */
static Usec
lower_border(int i, int n pg_attribute_unused())
{
	return (Usec) 128 << (i % 25);
}

static Usec
upper_border(int i, int n pg_attribute_unused())
{
	return ((Usec) 128 << (i % 25)) - 1;
}

static int
compare_usec(const void *a, const void *b)
{
	Usec		x = *(const Usec *) a;
	Usec		y = *(const Usec *) b;

	return (x > y) - (x < y);
}

static void
check_shape(const char *name, Usec (*shape) (int i, int n), int n)
{
	static const double p[] = {0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1};
	Latency    *latency = fresh();
	Usec	   *exact = palloc(n * sizeof(Usec));
	Usec		recent[lengthof(p)];
	Usec		total[lengthof(p)];

	for (int i = 0; i < n; i++)
	{
		exact[i] = shape(i, n);
		latency_record(latency, exact[i], NOW + i);
	}
	qsort(exact, n, sizeof(Usec), compare_usec);
	CHECK(latency_percentiles(latency, true, p, lengthof(p), recent, NOW) &&
		  latency_percentiles(latency, false, p, lengthof(p), total, NOW),
		  "%s: no samples", name);
	for (size_t i = 0; i < lengthof(p); i++)
	{
		int			rank = (int) ceil(p[i] * n);
		Usec		want = exact[Max(rank, 1) - 1];

		CHECK(error_of(total[i], want) <= ERROR_MAX && recent[i] == total[i],
			  "%s of %d: p%g is %lld, %lld, not %lld", name, n, 100 * p[i],
			  (long long) total[i], (long long) recent[i], (long long) want);
	}
	pfree(exact);
	pfree(latency);
}

static void
test_percentiles(void)
{
	static const struct
	{
		const char *name;
		Usec		(*shape) (int i, int n);
	}			shapes[] =
	{
		{"uniform", uniform},
		{"all magnitudes", log_uniform},
		{"exponential", exponential},
		{"bimodal", bimodal},
		{"bimodal, one more", bimodal_more},
		{"constant", constant},
		{"lower borders", lower_border},
		{"upper borders", upper_border},
	};
	static const int sizes[] = {1, 2, 3, 19, 20, 100, 101, 1000, 7919};

	for (size_t i = 0; i < lengthof(shapes); i++)
		for (size_t j = 0; j < lengthof(sizes); j++)
			check_shape(shapes[i].name, shapes[i].shape, sizes[j]);
}

/* Returns the median in ms, 0 when there is no sample. */
static int
median(const Latency *latency, bool recent, Usec now)
{
	const double half = 0.5;
	Usec		value;

	if (!latency_percentiles(latency, recent, &half, 1, &value, now))
		return 0;
	return (int) rint((double) value / MS);
}

static void
test_recent(void)
{
	Latency    *latency = fresh();
	Usec		last = NOW + LATENCY_SLICE - 1;

	CHECK(median(latency, true, NOW) == 0 && median(latency, false, NOW) == 0,
		  "no samples yet");

	/* The first and the last moment of a slice. */
	record(latency, 1, 10 * MS, NOW);
	CHECK(median(latency, true, NOW + 4 * LATENCY_SLICE - 1) == 10, "kept");
	CHECK(median(latency, true, NOW + 4 * LATENCY_SLICE) == 0, "forgotten");
	record(latency, 10, 20 * MS, last);
	CHECK(median(latency, true, last + 60 * SEC) == 20, "kept for a minute");
	CHECK(median(latency, true, last + 60 * SEC + 1) == 0, "and no longer");
	CHECK(median(latency, false, last + 60 * SEC + 1) == 20, "but in total");

	/* A slice that is used again begins empty, its neighbours stay. */
	record(latency, 20, 30 * MS, NOW + LATENCY_SLICE);
	record(latency, 5, 40 * MS, NOW + 4 * LATENCY_SLICE);
	CHECK(median(latency, true, NOW + 4 * LATENCY_SLICE) == 30, "neighbour");
	CHECK(median(latency, true, NOW + 5 * LATENCY_SLICE) == 40, "used again");

	/* After a long time. */
	CHECK(median(latency, true, NOW + 24 * 3600 * SEC) == 0, "a day later");
	record(latency, 1, 50 * MS, NOW + 24 * 3600 * SEC);
	CHECK(median(latency, true, NOW + 24 * 3600 * SEC) == 50, "a new one");
}

static void
test_recent_clock_back(void)
{
	Latency    *latency = fresh();

	/* To the slice before: both are there again when it comes back. */
	record(latency, 3, 10 * MS, NOW);
	record(latency, 1, 20 * MS, NOW - 1);
	CHECK(median(latency, true, NOW) == 10, "a little back");
	CHECK(median(latency, true, NOW - 1) == 20, "the future is not seen");

	/* Far back: places are taken over, nothing is lost but the future. */
	record(latency, 30, 30 * MS, NOW - 40 * LATENCY_SLICE);
	CHECK(median(latency, true, NOW - 40 * LATENCY_SLICE) == 30, "far back");
	CHECK(median(latency, true, NOW) == 20, "its place was taken");
	record(latency, 1, 40 * MS, NOW + 40 * LATENCY_SLICE);
	CHECK(median(latency, true, NOW + 40 * LATENCY_SLICE) == 40, "and on");
}

static void
test_reset(void)
{
	Latency    *latency = fresh();
	Usec		ewma;

	record(latency, 50, 10 * MS, NOW);
	ewma = latency_ewma(latency, NOW);
	latency_reset(latency);
	CHECK(median(latency, false, NOW) == 0, "the total is forgotten");
	CHECK(pg_atomic_read_u32(&latency->samples) == 0, "and its number");
	CHECK(median(latency, true, NOW) == 10, "the last minute stays");
	CHECK(latency_ewma(latency, NOW) == ewma && ewma > 0, "the EWMA stays");
	CHECK(latency_p99(latency) > 0, "what is usual stays");
}

/* Returns p99 in ms, and checks that it is rounded up to one. */
static int
p99_ms(const Latency *latency)
{
	Usec		p99 = latency_p99(latency);

	CHECK(p99 % MS == 0, "p99 is not in milliseconds");
	return (int) (p99 / MS);
}

static void
test_p99(void)
{
	Latency    *latency = fresh();
	Usec		later = NOW + 3600 * SEC;

	record(latency, LATENCY_MIN_SAMPLES - 1, 300, NOW);
	CHECK(p99_ms(latency) == 0, "too few to know");
	record(latency, 1, 300, NOW);
	CHECK(p99_ms(latency) == 1, "rounded up, so never unknown");

	/* Few recent ones: all together tell, as 5 in 1000 are less than 1 %. */
	record(latency, 1000, 300, NOW);
	record(latency, 5, 2 * SEC, later);
	CHECK(p99_ms(latency) == 1, "few recent ones: %d", p99_ms(latency));

	/* Enough recent ones: they alone tell. */
	record(latency, LATENCY_MIN_SAMPLES - 6, 2 * SEC, later);
	record(latency, 1, 2 * SEC, later + SEC);
	CHECK(error_of(latency_p99(latency), 2 * SEC) < ERROR_MAX, "recent: %d",
		  p99_ms(latency));

	/* They have gone: it is as if there had been none. */
	later += 3600 * SEC;
	record(latency, 1000, 300, later);
	record(latency, 1, 300, later + SEC);
	CHECK(p99_ms(latency) == 1, "fast again: %d", p99_ms(latency));
}

/* While there are few it follows at once, later once a second. */
static void
test_p99_refresh(void)
{
	Latency    *latency = fresh();

	record(latency, 100, 10 * MS, NOW);
	record(latency, 16, SEC, NOW);
	CHECK(p99_ms(latency) > 900, "few: follows within 16 samples");
	record(latency, 1000, 10 * MS, NOW + SEC);
	record(latency, 1000, 10 * SEC, NOW + 2 * SEC - 1);
	CHECK(p99_ms(latency) < 2000, "many: not within the same second");
	record(latency, 1, 10 * SEC, NOW + 2 * SEC);
	CHECK(p99_ms(latency) > 9000, "but in the next one");
}

/* Compares the EWMA within a thousandth. */
static void
check_ewma(const Latency *latency, Usec now, double want, const char *what)
{
	Usec		got = latency_ewma(latency, now);

	CHECK(fabs((double) got - want) <= want / 1000 + 1, "%s: %lld, not %.0f",
		  what, (long long) got, want);
}

static void
test_ewma(void)
{
	Latency    *latency = fresh();
	Usec		now = NOW;
	double		part = exp(-1);

	CHECK(latency_ewma(latency, now) == 0, "no sample");
	latency_record(latency, 0, now);
	CHECK(latency_ewma(latency, now) == 1, "a sample of no time is one");
	latency_record(latency, 500 * MS, now);
	check_ewma(latency, now, 500 * MS, "jumps up");
	latency_record(latency, 2 * SEC, now);
	check_ewma(latency, now, 2 * SEC, "and further");
	latency_record(latency, 500 * MS, now);
	check_ewma(latency, now, 2 * SEC, "no time, no decay");

	now += 10 * SEC;
	check_ewma(latency, now, 2 * SEC * part, "decays when read");
	check_ewma(latency, now, 2 * SEC * part, "reading changes nothing");
	latency_record(latency, 500 * MS, now);
	check_ewma(latency, now, 500 * MS + 1500 * MS * part, "towards shorter");

	now += 3600 * SEC;
	check_ewma(latency, now, 0.01 * (500 * MS + 1500 * MS * part), "floor");
	latency_record(latency, 300 * MS, now);
	check_ewma(latency, now, 300 * MS, "after an hour the new one counts");
	latency_record(latency, 5400 * SEC, now);
	check_ewma(latency, now, 5400.0 * SEC, "the longest");

	/* Backwards: no decay, and no jump later. */
	check_ewma(latency, now - 60 * SEC, 5400.0 * SEC, "clock back");
	latency_record(latency, SEC, now - 60 * SEC);
	check_ewma(latency, now - 60 * SEC, 5400.0 * SEC, "clock back, a sample");
	check_ewma(latency, now - 50 * SEC, 5400.0 * SEC * part, "and on");
}

/* Many samples a second must not lose the decay to rounding. */
static void
test_ewma_many(void)
{
	Latency    *latency = fresh();

	latency_record(latency, 31 * MS, NOW);
	for (int i = 1; i <= 20000; i++)
		latency_record(latency, 30 * MS, NOW + i * MS / 2);
	check_ewma(latency, NOW + 10 * SEC, 30 * MS + MS * exp(-1), "by halves");
}

/* The time in the word wraps. */
static void
test_ewma_wrap(void)
{
	Latency    *latency = fresh();
	Usec		wrap = ((Usec) 1 << 32) * MS;

	latency_record(latency, SEC, wrap - 5 * SEC);
	check_ewma(latency, wrap + 5 * SEC, SEC * exp(-1), "over the wrap");
}

static void
test_failures(void)
{
	Latency    *latency = fresh();
	Usec		now = NOW;

	latency_note_failure(latency, 30 * SEC, now);
	CHECK(latency_ewma(latency, now) == 0, "unknown stays unknown");
	latency_record(latency, SEC, now);
	latency_note_failure(latency, 10 * MS, now + 5 * SEC);
	check_ewma(latency, now + 5 * SEC, SEC * exp(-0.5), "never faster");
	latency_note_failure(latency, 700 * MS, now + 10 * SEC);
	check_ewma(latency, now + 10 * SEC, 700 * MS, "slower than it looks");
	latency_note_failure(latency, 30 * SEC, now + 10 * SEC);
	check_ewma(latency, now + 10 * SEC, 30 * SEC, "slower");
	CHECK(pg_atomic_read_u32(&latency->samples) == 1 &&
		  median(latency, false, now) == median(latency, true, now),
		  "a failure is no sample");

	for (int i = 0; i < 5000; i++)
	{
		Usec		before;

		now += (Usec) (pg_prng_double(&prng) * 3 * SEC);
		if (pg_prng_bool(&prng))
			latency_record(latency, any_duration(), now);
		before = latency_ewma(latency, now);
		latency_note_failure(latency, any_duration(), now);
		CHECK(latency_ewma(latency, now) >= before, "a failure made it faster");
	}
}

/* Processes record at the same time: nothing of it is lost. */
static void
test_processes(void)
{
	enum
	{
		PROCESSES = 4, EACH = 150000
	};
	struct
	{
		Latency		latency;
		pg_atomic_uint32 ready;
	}		   *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	Latency    *latency = &shared->latency;
	uint64		total = 0;
	uint64		recent = 0;

	latency_init(latency);
	pg_atomic_init_u32(&shared->ready, 0);
	latency_record(latency, 100, NOW);	/* takes the slice */
	fflush(stdout);
	for (int i = 0; i < PROCESSES; i++)
		if (fork() == 0)
		{
			pg_atomic_fetch_add_u32(&shared->ready, 1);
			while (pg_atomic_read_u32(&shared->ready) < PROCESSES)
				sched_yield();
			for (int j = 1; j <= EACH; j++)
				latency_record(latency, j < EACH ? MS : SEC, NOW + j);
			_exit(0);
		}
	for (int i = 0; i < PROCESSES; i++)
		wait(NULL);

	for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
	{
		total += pg_atomic_read_u32(&latency->total.counts[i]);
		for (int j = 0; j < LATENCY_SLICES; j++)
			recent += pg_atomic_read_u32(&latency->slices[j].counts[i]);
	}
	CHECK(total == PROCESSES * EACH + 1 && recent == total &&
		  pg_atomic_read_u32(&latency->samples) == total,
		  "%d samples, %d recent ones", (int) total, (int) recent);
	check_ewma(latency, NOW + EACH, SEC, "the peak");
	munmap(shared, sizeof(*shared));
}

void
test_latency(void)
{
	pg_prng_seed(&prng, 42);
	test_buckets();
	test_percentiles();
	test_recent();
	test_recent_clock_back();
	test_reset();
	test_p99();
	test_p99_refresh();
	test_ewma();
	test_ewma_many();
	test_ewma_wrap();
	test_failures();
	test_processes();
}
