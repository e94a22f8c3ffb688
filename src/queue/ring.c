/*
 * ring.c
 *	  A bounded queue of entries of any length in a piece of memory: see ring.h.
 */
#include "postgres.h"

#include "queue/ring.h"

/* What stands before the bytes of an entry. */
typedef struct Header
{
	uint32		kind;
	uint32		len;
} Header;

static void put(Ring *ring, const void *bytes, size_t len);

void
ring_init(Ring *ring, char *data, uint64 size)
{
	*ring = (Ring) {.data = data, .size = size};
}

bool
ring_append(Ring *ring, uint32 kind, const char *bytes, uint32 len)
{
	Header		header = {kind, len};

	if (sizeof(Header) + len > ring->size - ring_used(ring))
	{
		ring->dropped++;
		return false;
	}
	put(ring, &header, sizeof(Header));
	put(ring, bytes, len);
	return true;
}

/* Puts bytes behind the end, for which there is room. */
static void
put(Ring *ring, const void *bytes, size_t len)
{
	size_t		at = ring->end % ring->size;
	size_t		first = Min(len, ring->size - at);

	memcpy(ring->data + at, bytes, first);
	memcpy(ring->data, (const char *) bytes + first, len - first);
	ring->end += len;
}

size_t
ring_copy(const Ring *ring, uint64 from, uint64 to, char *buffer, size_t room)
{
	size_t		len = Min(to - from, room);
	size_t		at = from % ring->size;
	size_t		first = Min(len, ring->size - at);

	Assert(from <= to);
	memcpy(buffer, ring->data + at, first);
	memcpy(buffer + first, ring->data, len - first);
	return len;
}

bool
ring_next(const char *copy, size_t len, size_t *offset, RingEntry *entry)
{
	Header		header;
	size_t		left = len - *offset;

	if (left < sizeof(Header))
		return false;
	memcpy(&header, copy + *offset, sizeof(Header));
	if (left - sizeof(Header) < header.len)
		return false;
	entry->kind = header.kind;
	entry->len = header.len;
	entry->bytes = copy + *offset + sizeof(Header);
	*offset += sizeof(Header) + header.len;
	return true;
}

void
ring_release(Ring *ring, uint64 position)
{
	Assert(position >= ring->start && position <= ring->end);
	ring->start = position;
}
