/*
 * unit.h
 *	  A harness of a few lines, and memory that is given back between tests.
 */
#ifndef LLM_UNIT_H
#define LLM_UNIT_H

#include "postgres.h"

#include "dialect/dialect.h"

/* Counts a check; one that fails says where, and what was there instead. */
extern void unit_check(bool good, const char *file, int line,
					   const char *format,...)
			__attribute__((format(printf, 4, 5)));
extern void unit_check_text(const char *got, const char *want,
							const char *file, int line, const char *what);

#define CHECK(good, ...) unit_check(good, __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_TEXT(got, want, what) \
	unit_check_text(got, want, __FILE__, __LINE__, what)

/* Makes a whole request. NULL, or why it cannot be made. */
extern const char *build(const Dialect *dialect, const ChatRequest *chat,
						 const Endpoint *endpoint, HttpRequest *req);

/* Gives all palloc'd memory back. */
extern void unit_forget(void);

/* A copy without a terminating zero, so that reading behind it is caught. */
extern char *unit_exact_copy(const char *bytes, size_t len);

extern void test_json(void);
extern void test_request(void);
extern void test_chat(void);
extern void test_reply(void);
extern void test_hostile(void);
extern void test_breaker(void);
extern void test_latency(void);
extern void test_limits(void);
extern void test_health(void);
extern void test_schedule(void);
extern void test_ring(void);

#endif							/* LLM_UNIT_H */
