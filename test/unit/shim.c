/*
 * shim.c
 *	  What the server would have brought: palloc, on top of malloc, and the wait
 *	  for a spinlock.
 *
 * Each palloc is a malloc of its own, so that the address sanitizer sees its
 * bounds. All are chained, and unit_forget() frees them as the end of a call
 * would.
 */
#include "postgres.h"

#include <sched.h>

#include "miscadmin.h"
#include "storage/s_lock.h"

#include "unit.h"

/* Nobody interrupts a unit test. */
volatile sig_atomic_t InterruptPending = false;

void
ProcessInterrupts(void)
{
}

typedef struct Block
{
	struct Block *prev;
	struct Block *next;
} Block;

static Block blocks = {&blocks, &blocks};

static void *
chain(Block *block)
{
	if (block == NULL)
		abort();
	block->next = blocks.next;
	block->prev = &blocks;
	block->next->prev = block;
	blocks.next = block;
	return block + 1;
}

static Block *
unchain(void *pointer)
{
	Block	   *block = (Block *) pointer - 1;

	block->prev->next = block->next;
	block->next->prev = block->prev;
	return block;
}

void *
palloc(Size size)
{
	return chain(malloc(sizeof(Block) + size));
}

void *
palloc0(Size size)
{
	return chain(calloc(1, sizeof(Block) + size));
}

void *
repalloc(void *pointer, Size size)
{
	return chain(realloc(unchain(pointer), sizeof(Block) + size));
}

void
pfree(void *pointer)
{
	free(unchain(pointer));
}

char *
pnstrdup(const char *text, Size len)
{
	size_t		found = strnlen(text, len);
	char	   *copy = palloc(found + 1);

	memcpy(copy, text, found);
	copy[found] = '\0';
	return copy;
}

char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

/* What a failed Assert() calls; its arguments differ between versions. */
void
#if PG_VERSION_NUM >= 160000
ExceptionalCondition(const char *condition, const char *file, int line)
#else
ExceptionalCondition(const char *condition,
					 const char *kind pg_attribute_unused(),
					 const char *file, int line)
#endif
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
	abort();
}

/* Waits for a spinlock that was not free; its holder may need our core. */
int
s_lock(volatile slock_t *lock, const char *file pg_attribute_unused(),
	   int line pg_attribute_unused(),
	   const char *func pg_attribute_unused())
{
	while (TAS_SPIN(lock))
		sched_yield();
	return 0;
}

void
unit_forget(void)
{
	while (blocks.next != &blocks)
		free(unchain(blocks.next + 1));
}

char *
unit_exact_copy(const char *bytes, size_t len)
{
	char	   *copy = palloc(len);

	memcpy(copy, bytes, len);
	return copy;
}

const char *
build(const Dialect *dialect, const ChatRequest *chat, const Endpoint *endpoint,
	  HttpRequest *req)
{
	const char *why;

	http_request_init(req);
	why = dialect->address(chat, endpoint, req);
	return why ? why : dialect->compose(chat, endpoint, &req->body);
}
