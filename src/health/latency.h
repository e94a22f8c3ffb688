/*
 * latency.h
 *	  How long attempts take: log-linear histograms and a peak-EWMA, all of
 *	  atomic counters, so that neither writer nor reader takes a lock.
 *
 * Percentiles are within 5 % from 100 µs to an hour and a half; longer ones
 * count as the longest. Recent ones cover the last minute, in slices that are
 * reused; a reader beside the writer who clears one may miss a few samples.
 */
#ifndef LLM_LATENCY_H
#define LLM_LATENCY_H

#include "postgres.h"

#include "port/atomics.h"

#include "util/clock.h"

/*
 * The first HISTOGRAM_STEPS buckets are HISTOGRAM_UNIT wide; from there on each
 * power of two has HISTOGRAM_STEPS of equal width.
 */
#define HISTOGRAM_UNIT		((Usec) 4)	/* µs */
#define HISTOGRAM_STEPS		16
#define HISTOGRAM_OCTAVES	27
#define HISTOGRAM_BUCKETS	(HISTOGRAM_STEPS * (HISTOGRAM_OCTAVES + 1))

typedef struct Histogram
{
	pg_atomic_uint32 counts[HISTOGRAM_BUCKETS];
} Histogram;

#define LATENCY_SLICES		4
#define LATENCY_SLICE		(20 * USEC_SEC)	/* three whole ones: a minute */

typedef struct Latency
{
	Histogram	total;
	Histogram	slices[LATENCY_SLICES];
	pg_atomic_uint64 slice_number[LATENCY_SLICES];	/* time / LATENCY_SLICE */
	pg_atomic_uint64 ewma;		/* and its time: see latency.c */
	pg_atomic_uint32 p99;		/* ms, rounded up, recomputed now and then */
	pg_atomic_uint32 samples;	/* since the last reset */
} Latency;

/* With fewer samples than these nobody says what is usual. */
#define LATENCY_MIN_SAMPLES 20

extern int	histogram_bucket(Usec duration);
extern Usec histogram_value(int bucket);

extern void latency_init(Latency *latency);

/* Records the duration of an attempt that succeeded. */
extern void latency_record(Latency *latency, Usec duration, Usec now);

/* Notes one that failed: it may look slower for that, never faster. */
extern void latency_note_failure(Latency *latency, Usec duration, Usec now);

/* Forgets the total; the recent slices, the EWMA and the p99 stay. */
extern void latency_reset(Latency *latency);

/*
 * Fills out[i] with the percentile p[i] (0–1), of the last minute or since the
 * last reset; false when there is no sample.
 */
extern bool latency_percentiles(const Latency *latency, bool recent,
								const double *p, int n, Usec *out, Usec now);

/* Returns the usual longest: p99, or 0 when there are too few samples. */
extern Usec latency_p99(const Latency *latency);

/*
 * Returns the peak-EWMA, 0 when there is no sample: jumps up to a longer
 * duration, decays towards shorter ones with a time constant of 10 s, and
 * without any sample, too (Finagle's PeakEwma).
 */
extern Usec latency_ewma(const Latency *latency, Usec now);

#endif							/* LLM_LATENCY_H */
