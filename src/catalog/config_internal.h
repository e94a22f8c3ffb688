/*
 * config_internal.h
 *	  Between the files that build a configuration snapshot; for them only.
 *
 * config.c decides when, config_tables.c reads the rows as they are stored,
 * config_values.c turns a column's value into C, config_link.c ties the rows
 * together, config_candidates.c lays out the candidates of each tier,
 * config_probes.c the targets of each probe, and config_health.c finds their
 * cells in shared memory. All of them allocate in the snapshot's context, which
 * is current.
 */
#ifndef LLM_CONFIG_INTERNAL_H
#define LLM_CONFIG_INTERNAL_H

#include "postgres.h"

#include "catalog/config.h"

#define CONFIG_NTABLES 8

/*
 * Turns one value, never NULL, into the struct member at `field`. `aside` is a
 * second member of the same struct: the count of an array, the problem of a
 * JSON value, or NULL.
 */
typedef void (*ConfigReader) (Datum value, char *field, char *aside);

extern void read_text(Datum value, char *field, char *aside);
extern void read_secret(Datum value, char *field, char *aside);
extern void read_boolean(Datum value, char *field, char *aside);
extern void read_integer(Datum value, char *field, char *aside);
extern void read_limit(Datum value, char *field, char *aside);
extern void read_weight(Datum value, char *field, char *aside);
extern void read_share(Datum value, char *field, char *aside);
extern void read_duration(Datum value, char *field, char *aside);
extern void read_price(Datum value, char *field, char *aside);
extern void read_labels(Datum value, char *field, char *aside);
extern void read_capabilities(Datum value, char *field, char *aside);
extern void read_params(Datum value, char *field, char *aside);
extern void read_headers(Datum value, char *field, char *aside);

extern void clamp_breaker(BreakerConfig *breaker);
extern char *try_to_utf8(const char *text);

extern void config_tables_find(Oid schema, Oid relids[CONFIG_NTABLES]);
extern void config_tables_read(Config *config,
							   const Oid relids[CONFIG_NTABLES]);
extern void config_link(Config *config);
extern void config_finish_route(Config *config, Route *route);
extern int	config_route_regions(const Route *route, Region **first);
extern void config_fill_candidate(Candidate *candidate, Route *route,
								  Region *region);
extern void config_add_candidates(Config *config, Tier *tier,
								  Route *routes, int nroutes);
extern void config_add_targets(Config *config);
extern void config_keep_probes(Config *config);
extern void config_add_probes(Config *config);
extern void config_find_cells(Config *config);

#endif							/* LLM_CONFIG_INTERNAL_H */
