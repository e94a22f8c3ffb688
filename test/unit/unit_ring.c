/*
 * unit_ring.c
 *	  The journal's ring: against a model, over its end, full, and with several
 *	  processes that append while one reads.
 */
#include "postgres.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg_prng.h"

#include "queue/ring.h"

#include "unit.h"

/* What an entry takes beside its bytes. */
#define OVERHEAD 8

/* ---- Against a model ---- */

#define ROUNDS		300			/* rings, each of another size */
#define STEPS		400
#define MOST		(STEPS + 1)
#define LARGEST		1500

/* What should be in the ring, oldest first. */
typedef struct Model
{
	int			first;
	int			n;				/* ever appended */
	uint32		kinds[MOST];
	uint32		lens[MOST];
	uint64		used;
	uint64		refused;
} Model;

static pg_prng_state dice;

/* The bytes of an entry follow from its number. */
static void
fill(char *bytes, uint32 len, int number)
{
	for (uint32 i = 0; i < len; i++)
		bytes[i] = (char) (number * 31 + i);
}

static bool
is_filled(const char *bytes, uint32 len, int number)
{
	for (uint32 i = 0; i < len; i++)
		if (bytes[i] != (char) (number * 31 + i))
			return false;
	return true;
}

static void
append_one(Ring *ring, Model *model)
{
	uint32		len = (uint32) pg_prng_uint64_range(&dice, 0, ring->size / 3);
	uint32		kind = (uint32) pg_prng_uint64_range(&dice, 0, 9);
	char	   *bytes = palloc(len + 1);
	bool		fits = model->used + OVERHEAD + len <= ring->size;
	uint64		end = ring->end;

	fill(bytes, len, model->n);
	CHECK(ring_append(ring, kind, bytes, len) == fits, "%u bytes, %d in use",
		  len, (int) model->used);
	CHECK(ring->end == end + (fits ? OVERHEAD + len : 0), "the end");
	if (fits)
	{
		model->kinds[model->n] = kind;
		model->lens[model->n++] = len;
		model->used += OVERHEAD + len;
	}
	else
		model->refused++;
}

/* Reads with so much room and checks each entry; returns how many are whole. */
static int
read_some(const Ring *ring, const Model *model, size_t room)
{
	char	   *copy = palloc(room);
	size_t		len = ring_copy(ring, ring->start, ring->end, copy, room);
	size_t		offset = 0;
	RingEntry	entry;
	int			number = model->first;

	CHECK(len == Min(room, model->used), "%zu bytes were copied", len);
	while (ring_next(copy, len, &offset, &entry))
	{
		CHECK(entry.kind == model->kinds[number] &&
			  entry.len == model->lens[number] &&
			  is_filled(entry.bytes, entry.len, number), "entry %d", number);
		number++;
	}
	CHECK(number == model->n || room < model->used, "%d of %d", number,
		  model->n);
	return number - model->first;
}

/* Releases so many entries, as after storing them. */
static void
release_some(Ring *ring, Model *model, int n)
{
	uint64		position = ring->start;

	for (int i = 0; i < n; i++)
	{
		position += OVERHEAD + model->lens[model->first];
		model->used -= OVERHEAD + model->lens[model->first++];
	}
	ring_release(ring, position);
}

static void
play_model(uint64 size)
{
	Ring		ring;
	Model		model = {0};

	ring_init(&ring, palloc(size), size);
	for (int step = 0; step < STEPS; step++)
	{
		if (pg_prng_uint64_range(&dice, 0, 2) > 0)
			append_one(&ring, &model);
		else
		{
			size_t		room = pg_prng_uint64_range(&dice, 0, 2 * size);
			int			whole = read_some(&ring, &model, room);

			release_some(&ring, &model,
						 (int) pg_prng_uint64_range(&dice, 0, whole));
		}
		CHECK(ring_used(&ring) == model.used, "%d in use",
			  (int) ring_used(&ring));
	}
	CHECK(ring.dropped == model.refused, "%d dropped", (int) ring.dropped);
	CHECK(ring.end > 3 * size, "it went round %d times only",
		  (int) (ring.end / size));
}

/* ---- Full to the last byte ---- */

static void
play_full(void)
{
	Ring		ring;
	char		bytes[32] = "";

	ring_init(&ring, palloc(64), 64);
	CHECK(!ring_append(&ring, 1, bytes, 64), "longer than the ring");
	CHECK(ring_append(&ring, 1, bytes, 24), "half");
	CHECK(ring_append(&ring, 1, bytes, 24), "the other half");
	CHECK(!ring_append(&ring, 1, bytes, 0), "not even an empty one");
	CHECK(ring.dropped == 2 && ring_used(&ring) == 64, "full");
	ring_release(&ring, 32);
	CHECK(!ring_append(&ring, 1, bytes, 25), "a byte too many");
	CHECK(ring_append(&ring, 1, bytes, 24), "and again");
	ring_release(&ring, ring.end);
	CHECK(ring_used(&ring) == 0, "empty");
}

/* ---- Several processes ---- */

#define WRITERS		4
#define ENTRIES		20000		/* of each */
#define SHARED_SIZE	4099		/* odd, and small enough to be full often */
#define COPY_SIZE	1024

typedef struct Shared
{
	pthread_mutex_t lock;
	Ring		ring;
	int			done;			/* writers that are */
	char		data[SHARED_SIZE];
} Shared;

typedef struct Note
{
	int			writer;
	int			number;
} Note;

/* Appends its entries; those that are refused are lost. */
static void
write_entries(Shared *shared, int writer)
{
	char		bytes[sizeof(Note) + 100];

	for (int i = 0; i < ENTRIES; i++)
	{
		Note		note = {writer, i};
		uint32		len = (uint32) (sizeof(Note) + (i * 7 + writer) % 100);

		fill(bytes, len, i);
		memcpy(bytes, &note, sizeof(Note));
		pthread_mutex_lock(&shared->lock);
		(void) ring_append(&shared->ring, writer, bytes, len);
		pthread_mutex_unlock(&shared->lock);
	}
	pthread_mutex_lock(&shared->lock);
	shared->done++;
	pthread_mutex_unlock(&shared->lock);
}

/* Checks an entry: whose it is, and that it comes after the one before. */
static void
check_note(const RingEntry *entry, int *last)
{
	Note		note;
	char		bytes[sizeof(Note) + 100];

	memcpy(&note, entry->bytes, sizeof(Note));
	CHECK(note.writer == (int) entry->kind && note.number > last[note.writer],
		  "%d after %d of %d", note.number, last[note.writer], note.writer);
	last[note.writer] = note.number;
	fill(bytes, entry->len, note.number);
	CHECK(memcmp(entry->bytes + sizeof(Note), bytes + sizeof(Note),
				 entry->len - sizeof(Note)) == 0, "bytes of %d", note.number);
}

/* Reads until all have written; the copy is made without the lock. */
static int
read_entries(Shared *shared, int *last)
{
	char		copy[COPY_SIZE];
	int			n = 0;

	for (;;)
	{
		Ring		ring;
		RingEntry	entry;
		size_t		len;
		size_t		offset = 0;
		bool		over;

		pthread_mutex_lock(&shared->lock);
		ring = shared->ring;
		over = shared->done == WRITERS;
		pthread_mutex_unlock(&shared->lock);
		if (over && ring_used(&ring) == 0)
			return n;
		len = ring_copy(&ring, ring.start, ring.end, copy, sizeof(copy));
		while (ring_next(copy, len, &offset, &entry))
		{
			check_note(&entry, last);
			n++;
		}
		pthread_mutex_lock(&shared->lock);
		ring_release(&shared->ring, ring.start + offset);
		pthread_mutex_unlock(&shared->lock);
	}
}

static void
play_processes(void)
{
	Shared	   *shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t attributes;
	int			last[WRITERS] = {-1, -1, -1, -1};
	int			n;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->lock, &attributes);
	ring_init(&shared->ring, shared->data, SHARED_SIZE);
	for (int i = 0; i < WRITERS; i++)
		if (fork() == 0)
		{
			write_entries(shared, i);
			_exit(0);
		}
	n = read_entries(shared, last);
	for (int i = 0; i < WRITERS; i++)
		wait(NULL);
	CHECK(n + (int) shared->ring.dropped == WRITERS * ENTRIES,
		  "%d were read, %d dropped", n, (int) shared->ring.dropped);
	CHECK(n > 0, "nothing was read");
	munmap(shared, sizeof(Shared));
}

void
test_ring(void)
{
	pg_prng_seed(&dice, 1);
	play_full();
	for (int i = 0; i < ROUNDS; i++)
	{
		play_model(pg_prng_uint64_range(&dice, 40, LARGEST));
		unit_forget();
	}
	play_processes();
}
