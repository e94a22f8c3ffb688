/*
 * secret.c
 *	  From a reference to the key itself.
 *
 * env: is the environment that the postmaster was started with. A name is a
 * row of llm_secret, already in the snapshot. A file is read when it is first
 * needed and again when it has changed; its key is kept for the life of the
 * process, for as long as it is among the last MAX_FILES that were used.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "health/shared.h"
#include "secret.h"

#define MAX_FILES 64
#define MAX_KEY_SIZE (64 * 1024)

/*
 * A file's times come from a coarse clock, so that it may change twice and look
 * the same. What was read so long after it was first seen like that is final.
 */
#define SETTLE_TIME (2 * USEC_SEC)

typedef const char *(*Resolver) (const Config *config, const char *name,
								 const char **problem, const char **hint);

/* A key file that was read. */
typedef struct KeyFile
{
	dlist_node	node;
	char	   *path;
	char	   *key;
	struct stat st;				/* when it was read */
	Usec		since;			/* when it was first seen like that */
	bool		settled;		/* read SETTLE_TIME after that */
} KeyFile;

static dlist_head files = DLIST_STATIC_INIT(files); /* last used first */
static int	nfiles = 0;

static const char *resolve_env(const Config *config, const char *name,
							   const char **problem, const char **hint);
static const char *resolve_file(const Config *config, const char *path,
								const char **problem, const char **hint);
static const char *resolve_stored(const Config *config, const char *name,
								  const char **problem, const char **hint);
static const char *check_key(const char *key, const char *where,
							 const char **problem, const char **hint);
static KeyFile *find_file(const char *path);
static bool is_same(const struct stat *a, const struct stat *b);
static char *read_file(const char *path, struct stat *st, const char **why);
static char *read_key(int fd, const struct stat *st, const char **why);
static KeyFile *keep_file(const char *path, char *key, const struct stat *st,
						  Usec since);
static void forget_file(KeyFile *file);
static void free_key(char *key);

/* The prefixes of a reference. One without is a name in llm_secret. */
static const struct
{
	const char *prefix;
	Resolver	resolve;
}			kinds[] =
{
	{"env:", resolve_env},
	{"file:", resolve_file},
	{"secret:", resolve_stored},
};

/* Finds the kind of a reference and the name behind the prefix. */
static Resolver
kind_of(const char *reference, const char **name)
{
	for (size_t i = 0; i < lengthof(kinds); i++)
	{
		size_t		len = strlen(kinds[i].prefix);

		if (strncmp(reference, kinds[i].prefix, len) == 0)
		{
			*name = reference + len;
			return kinds[i].resolve;
		}
	}
	*name = reference;
	return NULL;
}

/* Resolves a reference; see the header. */
const char *
secret_resolve(const Config *config, const char *reference,
			   const char **problem, const char **hint)
{
	const char *name;
	Resolver	resolve = kind_of(reference, &name);

	*problem = NULL;
	*hint = NULL;
	if (resolve == NULL)
		resolve = resolve_stored;
	return resolve(config, name, problem, hint);
}

/* Says why a reference has no value, or NULL when it has one. */
static const char *
why_unresolved(const Config *config, const char *reference)
{
	const char *problem;
	const char *hint;

	(void) secret_resolve(config, reference, &problem, &hint);
	return problem;
}

/* Says what a candidate's call would find missing; see the header. */
const char *
secret_problem(const Config *config, const Candidate *candidate)
{
	const Provider *provider = candidate->route->provider;
	const char *problem = NULL;

	if (candidate->region == NULL)
		return NULL;
	if (candidate->region->secret)
		problem = why_unresolved(config, candidate->region->secret);
	for (int i = 0; i < provider->nheaders && problem == NULL; i++)
		if (secret_is_reference(provider->headers[i].value))
			problem = why_unresolved(config, provider->headers[i].value);
	return problem;
}

/* Adds a text to a fingerprint. */
static uint64
add_to_fingerprint(uint64 fingerprint, const char *text)
{
	return hash_bytes_extended((const unsigned char *) text,
							   (int) strlen(text), fingerprint);
}

/* Adds what a reference leads to; one that leads nowhere is itself. */
static uint64
add_reference(uint64 fingerprint, const Config *config, const char *reference)
{
	const char *problem;
	const char *hint;
	const char *key = secret_resolve(config, reference, &problem, &hint);

	return add_to_fingerprint(fingerprint, key ? key : reference);
}

/* Returns a number for a scope's keys and address; see the header. */
uint64
secret_fingerprint(const Config *config, const Region *region, CellScope scope)
{
	const Provider *provider = region->provider;
	bool		common = scope == CELL_PROVIDER;
	const char *base_url = common ? provider->base_url : region->base_url;
	const char *secret = common ? provider->secret : region->secret;
	uint64		fingerprint = shared_salt();

	if (base_url)
		fingerprint = add_to_fingerprint(fingerprint, base_url);
	if (secret)
		fingerprint = add_reference(fingerprint, config, secret);
	for (int i = 0; i < provider->nheaders; i++)
		fingerprint = secret_is_reference(provider->headers[i].value) ?
			add_reference(fingerprint, config, provider->headers[i].value) :
			add_to_fingerprint(fingerprint, provider->headers[i].value);
	return fingerprint ? fingerprint : 1;
}

/* Says whether a header's value is a reference. */
bool
secret_is_reference(const char *value)
{
	const char *name;

	return kind_of(value, &name) != NULL;
}

/* Describes a credential without its value; palloc'd. */
char *
secret_describe(const char *reference)
{
	const char *name;
	Resolver	resolve;

	if (reference == NULL)
		return pstrdup("none");
	resolve = kind_of(reference, &name);
	if (resolve == NULL || resolve == resolve_stored)
		return psprintf("llm_secret.%s", name);
	return pstrdup(reference);
}

/* Looks into the environment. */
static const char *
resolve_env(const Config *config pg_attribute_unused(), const char *name,
			const char **problem, const char **hint)
{
	const char *value = getenv(name);

	if (value == NULL)
	{
		*problem = psprintf("environment variable \"%s\" is not set", name);
		*hint = "env: is the environment the postmaster was started with. Use file:/path, or llm_secret.";
		return NULL;
	}
	return check_key(value, psprintf("environment variable \"%s\"", name),
					 problem, hint);
}

/* Looks into llm_secret. */
static const char *
resolve_stored(const Config *config, const char *name,
			   const char **problem, const char **hint)
{
	for (int i = 0; i < config->nsecrets; i++)
		if (strcmp(config->secrets[i].name, name) == 0)
			return check_key(config->secrets[i].value,
							 psprintf("secret \"%s\"", name), problem, hint);
	*problem = psprintf("secret \"%s\" does not exist", name);
	*hint = psprintf("INSERT INTO llm_secret(name, value) VALUES ('%s', '...'). A dump has no secrets: after a restore they are set by hand.",
					 name);
	return NULL;
}

/*
 * Returns a file's key, from memory as long as the file has not changed. It is
 * good while fewer than MAX_FILES others are read.
 */
static const char *
resolve_file(const Config *config pg_attribute_unused(), const char *path,
			 const char **problem, const char **hint)
{
	KeyFile    *file = find_file(path);
	Usec		since = clock_now();
	struct stat st;
	const char *why = NULL;
	char	   *key;

	if (file && stat(path, &st) == 0 && is_same(&file->st, &st))
	{
		since = file->since;
		if (file->settled)
		{
			dlist_move_head(&files, &file->node);
			return file->key;
		}
	}
	if (file)
		forget_file(file);

	key = read_file(path, &st, &why);
	if (key == NULL)
	{
		*problem = psprintf("could not read \"%s\": %s", path, why);
		*hint = "The file must exist and be readable by the operating system user that runs the server.";
		return NULL;
	}
	if (check_key(key, psprintf("file \"%s\"", path), problem, hint) == NULL)
	{
		free_key(key);
		return NULL;
	}
	return keep_file(path, key, &st, since)->key;
}

/*
 * Refuses what cannot be a key, and what could break out of its header line.
 * Returns the key.
 */
static const char *
check_key(const char *key, const char *where,
		  const char **problem, const char **hint)
{
	const char *what = NULL;

	if (key[0] == '\0')
		what = "is empty";
	for (const char *p = key; *p && what == NULL; p++)
		if ((unsigned char) *p < 0x20 || *p == 0x7f)
			what = "contains control characters";
	if (what == NULL)
		return key;
	*problem = psprintf("%s %s", where, what);
	*hint = "It must hold the key and nothing else.";
	return NULL;
}

/* Finds a file that was read before. */
static KeyFile *
find_file(const char *path)
{
	dlist_iter	iter;

	dlist_foreach(iter, &files)
	{
		KeyFile    *file = dlist_container(KeyFile, node, iter.cur);

		if (strcmp(file->path, path) == 0)
			return file;
	}
	return NULL;
}

/* Says whether a file is still the one that it was. */
static bool
is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev &&
		a->st_ino == b->st_ino &&
		a->st_size == b->st_size &&
		a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
		a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
		a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
		a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/*
 * Reads a key file. NULL, and why, when there is none that we may read. It is
 * opened without blocking, so that a FIFO or a device cannot hang us.
 */
static char *
read_file(const char *path, struct stat *st, const char **why)
{
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC |
									   O_NOCTTY | PG_BINARY);
	char	   *key = NULL;

	if (fd < 0 || fstat(fd, st) != 0)
		*why = psprintf("%m");
	else if (!S_ISREG(st->st_mode))
		*why = "not a regular file";
	else if (st->st_size > MAX_KEY_SIZE)
		*why = "larger than 64 kB";
	else
		key = read_key(fd, st, why);
	if (fd >= 0)
		CloseTransientFile(fd);
	return key;
}

/*
 * Reads an open file to its end, without the white space there. The key lives
 * in TopMemoryContext.
 */
static char *
read_key(int fd, const struct stat *st, const char **why)
{
	size_t		size = st->st_size;
	char	   *key = MemoryContextAllocZero(TopMemoryContext, size + 1);
	size_t		len = 0;
	ssize_t		n;

	while (len < size && (n = read(fd, key + len, size - len)) != 0)
	{
		if (n > 0)
			len += n;
		else if (errno != EINTR)
		{
			*why = psprintf("%m");
			explicit_bzero(key, size);
			pfree(key);
			return NULL;
		}
	}
	if (memchr(key, '\0', len) != NULL)
		key[0] = '\1';			/* refused as the control character it is */
	while (len > 0 && strchr(" \t\r\n\v\f", key[len - 1]) != NULL)
		key[--len] = '\0';
	return key;
}

/* Keeps a key that was read, at the price of the one not used for longest. */
static KeyFile *
keep_file(const char *path, char *key, const struct stat *st, Usec since)
{
	KeyFile    *file = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(KeyFile));

	file->path = MemoryContextStrdup(TopMemoryContext, path);
	file->key = key;
	file->st = *st;
	file->since = since;
	file->settled = clock_now() - since >= SETTLE_TIME;
	dlist_push_head(&files, &file->node);
	if (++nfiles > MAX_FILES)
		forget_file(dlist_tail_element(KeyFile, node, &files));
	return file;
}

/* Drops a file's key. */
static void
forget_file(KeyFile *file)
{
	dlist_delete(&file->node);
	nfiles--;
	free_key(file->key);
	pfree(file->path);
	pfree(file);
}

/* Frees a key and leaves nothing of it in memory. */
static void
free_key(char *key)
{
	explicit_bzero(key, strlen(key));
	pfree(key);
}
