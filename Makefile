# llm_failover: builds with PGXS (make PG_CONFIG=...).

EXTENSION = llm_failover
EXTVERSION = 0.1.0
MODULE_big = llm_failover
PGFILEDESC = "llm_failover - language model calls that fail over"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

# The install script is put together from one file a concern, in this order.
SQL_PARTS = sql/header.sql \
	sql/tables.sql \
	sql/seeds.sql \
	sql/triggers.sql \
	sql/breaker.sql \
	sql/comments.sql \
	sql/functions.sql \
	sql/queue.sql \
	sql/journal.sql \
	sql/views.sql \
	sql/privileges.sql
DATA_built = $(EXTENSION)--$(EXTVERSION).sql

PG_CPPFLAGS = -I$(srcdir)/src \
	-DLLM_VERSION='"$(EXTVERSION)"' \
	$(shell curl-config --cflags)
PG_CFLAGS = -std=gnu99 -Wno-declaration-after-statement
# WERROR=1 is for us and CI. PostgreSQL's own headers do not pass -Wextra, so
# they count as system headers there.
ifdef WERROR
PG_CFLAGS += -Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Werror
PG_CPPFLAGS += -isystem $(shell $(PG_CONFIG) --includedir-server)
# PostgreSQL was configured for gcc; clang remarks on its flags and attributes.
ifneq ($(findstring clang,$(CC)),)
PG_CFLAGS += -Wno-ignored-optimization-argument -Wno-unknown-warning-option \
	-Wno-ignored-attributes
endif
endif
# Only what PostgreSQL calls is visible outside the library.
EXPORTS = $(if $(filter darwin,$(PORTNAME)),, \
	-Wl,--version-script=$(srcdir)/src/exports.map)
SHLIB_LINK = $(shell curl-config --libs) $(EXPORTS)

# Tests need nothing prepared: each suite starts a server of its own, as an
# ordinary user. `make install` first, or let scripts/test do all of it.
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort \
	$(wildcard test/isolation/specs/*.spec)))
TAP_TESTS = 1
PROVE_TESTS = $(sort $(wildcard test/t/*.pl))
export PERL5LIB := $(CURDIR)/test/lib:$(PERL5LIB)

# pg_regress 15 looks for expected/ in the input directory, later ones do not.
test_opts = --inputdir=$(1) $(if $(filter 15,$(MAJORVERSION)),,--expecteddir=$(1)) \
	--temp-config=test/conf/llm_failover.conf --no-locale --encoding=UTF8
REGRESS_OPTS = $(call test_opts,test) --temp-instance=./tmp_check
ISOLATION_OPTS = $(call test_opts,test/isolation) \
	--temp-instance=./tmp_check_iso --outputdir=output_iso

EXTRA_CLEAN = $(DATA_built) output_iso tmp_check tmp_check_iso \
	results regression.diffs regression.out

ifndef PG_CONFIG
PG_CONFIG = pg_config
endif
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# What every object depends on: headers are few and change together.
$(OBJS): $(wildcard src/*.h src/*/*.h)

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS)
	cat $^ > $@

# Tests of what needs no server: make UNIT= installcheck leaves them out.
UNIT = unitcheck
installcheck: $(UNIT)
.PHONY: unitcheck
unitcheck:
	$(MAKE) -C test/unit check PG_CONFIG=$(PG_CONFIG)
