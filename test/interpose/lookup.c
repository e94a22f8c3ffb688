/*
 * lookup.c
 *	  A getaddrinfo() that does what the name says, for tests.
 *
 * Preloaded into a server under test. Names that end in ".test" are its own
 * (RFC 6761 reserves them), label by label:
 *
 *	  hang-250.test				 no such name, after 250 ms
 *	  hang-250.to-127-0-0-1.test 127.0.0.1, after 250 ms
 *	  to-192-0-2-1.test			 192.0.2.1, at once
 *	  none.test					 no such name, at once
 *
 * All other names go to the C library. Build and use:
 *
 *	  cc -O2 -shared -fPIC -o lookup.so lookup.c -ldl
 *	  LD_PRELOAD=lookup.so pg_ctl start ...
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

typedef int (*Lookup) (const char *, const char *, const struct addrinfo *,
					   struct addrinfo **);

/* Says whether a name is one of ours. */
static int
is_ours(const char *name)
{
	size_t		len = name ? strlen(name) : 0;

	return len > 5 && strcasecmp(name + len - 5, ".test") == 0;
}

/* Sleeps for that many milliseconds, whatever signals come. */
static void
hang(int ms)
{
	struct timespec left = {ms / 1000, ms % 1000 * 1000000L};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

/* Returns the label of a name that begins with `prefix`, or NULL. */
static const char *
find_label(const char *name, const char *prefix)
{
	for (; name; name = strchr(name, '.'), name = name ? name + 1 : NULL)
		if (strncasecmp(name, prefix, strlen(prefix)) == 0)
			return name + strlen(prefix);
	return NULL;
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	Lookup		next = (Lookup) dlsym(RTLD_NEXT, "getaddrinfo");
	const char *label;
	char		address[16];
	int			ms;
	int			a,
				b,
				c,
				d;

	if (!is_ours(name))
		return next(name, service, hints, result);
	if ((label = find_label(name, "hang-")) != NULL &&
		sscanf(label, "%d", &ms) == 1)
		hang(ms);
	if ((label = find_label(name, "to-")) == NULL ||
		sscanf(label, "%d-%d-%d-%d", &a, &b, &c, &d) != 4)
		return EAI_NONAME;
	snprintf(address, sizeof(address), "%d.%d.%d.%d", a & 255, b & 255,
			 c & 255, d & 255);
	return next(address, service, hints, result);
}
