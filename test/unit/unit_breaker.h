/*
 * unit_breaker.h
 *	  Parts of the suite `breaker`.
 */
#ifndef LLM_UNIT_BREAKER_H
#define LLM_UNIT_BREAKER_H

extern void test_window(void);

/* Every event in every state. */
extern void test_breaker_diagram(void);

/* Random events against a model of the breaker, and against its rules. */
extern void test_breaker_random(void);

/* Many threads at one breaker. */
extern void test_breaker_threads(void);

#endif							/* LLM_UNIT_BREAKER_H */
