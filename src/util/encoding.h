/*
 * encoding.h
 *	  Between the database's encoding and the wire's UTF-8.
 */
#ifndef LLM_ENCODING_H
#define LLM_ENCODING_H

#include "postgres.h"

/*
 * To UTF-8; the text itself when the database is UTF-8 already. Raises what
 * PostgreSQL raises for text that has no UTF-8 form.
 */
extern const char *text_to_utf8(const char *text, size_t *len);

/*
 * From valid UTF-8, without NUL, to the database's encoding. Never fails: a
 * character that the encoding lacks becomes "?" and sets *replaced.
 */
extern const char *utf8_to_text(const char *utf8, size_t len, size_t *out_len,
								bool *replaced);

/* The longest prefix of UTF-8 of at most `max` bytes that cuts no character. */
extern size_t utf8_clip(const char *text, size_t len, size_t max);

#endif							/* LLM_ENCODING_H */
