/*
 * secret.h
 *	  From a reference to the key itself.
 *
 * A key exists here, in the header list of a request, and nowhere else: not in
 * an error, a log line, a view, a trace or a dump.
 */
#ifndef LLM_SECRET_H
#define LLM_SECRET_H

#include "postgres.h"

#include "catalog/config.h"

/*
 * Resolves env:NAME, file:/path, secret:NAME or NAME. Returns the key, good
 * until the next call that reads the same reference (copy it), or NULL and
 * says why in *problem (palloc'd, LL006's errmsg) and *hint (or NULL). A file
 * is read again when its mtime, size or inode changed.
 */
extern const char *secret_resolve(const Config *config, const char *reference,
								  const char **problem, const char **hint);

/*
 * Says why a candidate's key or one of its headers cannot be had, or NULL. A
 * builtin model needs none.
 */
extern const char *secret_problem(const Config *config,
								  const Candidate *candidate);

/*
 * Returns a number, never 0, for the keys and the address that a scope of a
 * region's stands for: another one when any of them changes. Salted, so that it
 * tells nothing about them.
 */
extern uint64 secret_fingerprint(const Config *config, const Region *region,
								 CellScope scope);

/* Whether a header's value is env:, file: or secret:, and not a literal. */
extern bool secret_is_reference(const char *value);

/* What llm_routing.credential shows: none, the reference, llm_secret.NAME. */
extern char *secret_describe(const char *reference);

/* Replaces a key in a text by "***"; returns the text if it is not in there. */
extern const char *secret_scrub(const char *text, size_t *len,
								const char *key);

#endif							/* LLM_SECRET_H */
