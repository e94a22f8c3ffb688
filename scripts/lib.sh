# lib.sh: what scripts/test and scripts/demo share: the packages, a private
# copy of PostgreSQL with the extension in it, and leaving nothing behind.
# shellcheck shell=bash
#
# Rules: the checkout is only read, and the system gets packages, nothing else.
# All work is done in $WORK by an ordinary user, because initdb refuses root:
# by `postgres` when root calls, else by the caller.

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # some are for the scripts
{
	KEEP=0				# leave $WORK for people to look into
	WORK=				# everything we make is in here
	GROUP=				# process group that in_group waits for
	AS_USER=()			# see choose_user
	OLDEST=15			# version of PostgreSQL
}

say() { printf '%s\n' "$*"; }
die() {
	printf '%s\n' "$*" >&2
	exit 1
}

# --- packages ---------------------------------------------------------------

# Whether a package is needed: prints its name when its probe fails.
unless() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || say "$package"
}

# Finds the newest complete PostgreSQL: server and what extensions are built
# with. Sets PG_CONFIG, or fails.
find_postgres() {
	local candidate
	if [ -n "${PG_CONFIG:-}" ]; then
		is_complete "$PG_CONFIG" && return
		die "PG_CONFIG=$PG_CONFIG is no PostgreSQL $OLDEST or later with server and development files."
	fi
	for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -rV) \
		pg_config /usr/pgsql-*/bin/pg_config /usr/local/pgsql/bin/pg_config; do
		if is_complete "$candidate"; then
			PG_CONFIG=$(command -v "$candidate")
			return
		fi
	done
	return 1
}

# Whether all that we use of a PostgreSQL is there.
is_complete() {
	local version bindir pgxs
	version=$("$1" --version 2>/dev/null | grep -oE '[0-9]+' | head -n 1) || return
	bindir=$("$1" --bindir) && pgxs=$(dirname "$("$1" --pgxs)") || return
	[ "${version:-0}" -ge "$OLDEST" ] && [ -x "$bindir/postgres" ] &&
		[ -x "$bindir/initdb" ] && [ -e "$pgxs/pgxs.mk" ] &&
		[ -x "$pgxs/../test/regress/pg_regress" ] &&
		[ -e "$("$1" --includedir-server)/postgres.h" ]
}

# Prints the packages that the distribution would give us a PostgreSQL by.
postgres_packages() {
	local server
	server=$(apt-cache depends postgresql 2>/dev/null |
		grep -oE 'postgresql-[0-9]+' | head -n 1)
	say "${server:-postgresql-$OLDEST}"
	say "postgresql-server-dev-${server#postgresql-}"
}

# Prints what is missing to build and run the extension, and with the argument
# "test" to run its tests, as packages of Debian.
missing_packages() {
	unless gcc gcc --version
	unless libc6-dev test -e /usr/include/stdio.h
	unless make make --version
	unless libcurl4-openssl-dev curl-config --version
	unless ca-certificates grep -qs BEGIN /etc/ssl/certs/ca-certificates.crt \
		/etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem
	unless python3 python3 -c 'import asyncio, ssl, json'
	unless openssl openssl version
	if [ "${1:-}" = test ]; then
		unless perl perl -MTest::More -MTime::HiRes -e 1
		unless perl prove --version
		unless libipc-run-perl perl -MIPC::Run -e 1
		unless curl curl --version
		unless nginx-light env PATH="$PATH:/usr/sbin" nginx -v
	fi
	find_postgres || postgres_packages
}

# Gets what is missing by apt; elsewhere names it and stops.
need_packages() {
	local missing
	missing=$(missing_packages "${1:-}" | sort -u | tr '\n' ' ')
	if [ -n "${missing% }" ]; then
		apt_install "$missing"
		missing=$(missing_packages "${1:-}" | sort -u | tr '\n' ' ')
		[ -z "$missing" ] || die "Installed, but still not found: $missing"
	fi
	find_postgres
}

# Installs packages, without the services that Debian would start with them.
apt_install() {
	local missing=$1 root=()
	if ! command -v apt-get >/dev/null; then
		die "These are missing, by the names that Debian gives them: $missing
Install what your system calls them (PostgreSQL $OLDEST or later with its server and
development files) and run this again. PG_CONFIG=/path/to/pg_config names a
PostgreSQL that is not found by itself."
	fi
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null ||
			die "Missing packages, and no sudo. As root: apt-get install $missing"
		root=(sudo)
	fi
	say "installing: $missing"
	# shellcheck disable=SC2086 # a list of names
	"${root[@]}" bash "$SOURCE/scripts/apt-install" $missing ||
		die "Could not install them. By hand: apt-get install $missing"
}

# --- the place to work in ---------------------------------------------------

# Makes $WORK and sees to it that it goes away, whatever happens.
make_work() {
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/llm_failover.XXXXXX")
	chmod 755 "$WORK"
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	quiet_environment
	choose_user
	mkdir "$WORK/home" "$WORK/log" "$WORK/tmp"
	own "$WORK"
}

# Keeps what the caller has set for PostgreSQL, or for tests, away from ours.
quiet_environment() {
	local name
	for name in "${!PG@}" PERL5LIB LANGUAGE MAKEFLAGS MAKELEVEL; do
		[ "$name" = PG_CONFIG ] || unset "$name"
	done
	export LANG=C.UTF-8 LC_ALL=C.UTF-8
	export no_proxy=127.0.0.1,::1,localhost NO_PROXY=127.0.0.1,::1,localhost
}

# Gives files to the user who does the work.
own() {
	if [ "$(id -u)" = 0 ]; then
		chown -R "$(worker)": "$@"
	fi
}

worker() {
	if id postgres >/dev/null 2>&1; then say postgres; else say nobody; fi
}

# Sets AS_USER, the words before a command that make it run as that user.
choose_user() {
	AS_USER=(env HOME="$WORK/home" TMPDIR="$WORK/tmp")
	if [ "$(id -u)" = 0 ]; then
		AS_USER=(setpriv --reuid="$(worker)" --regid="$(id -g "$(worker)")"
			--init-groups "${AS_USER[@]}")
	fi
}

# Ends what runs and removes what was made.
clean_up() {
	local status=$? pidfile
	trap - EXIT INT TERM HUP
	set +e
	[ -z "$GROUP" ] || kill -TERM -- "-$GROUP"
	while read -r pidfile; do
		end_process "$(head -n 1 "$pidfile")" "$pidfile"
	done < <(find "$WORK" -name '*.pid')
	[ -z "$GROUP" ] || kill -KILL -- "-$GROUP"
	if [ "$KEEP" = 1 ]; then
		say "kept: $WORK"
	else
		rm -rf "$WORK"
	fi
	exit "$status"
} 2>/dev/null

# Ends a server at once and waits until it is gone. What was killed leaves a
# file behind that may name a stranger by now: ours work in $WORK.
# ARGUMENTS: process id, the file that names it.
end_process() {
	local i
	is_ours "$1" || return 0
	if [[ $2 == */postmaster.pid ]]; then kill -QUIT "$1"; else kill -TERM "$1"; fi
	for ((i = 0; i < 100; i++)); do
		is_ours "$1" || return 0
		sleep 0.1
	done
	kill -KILL "$1"
}

is_ours() {
	kill -0 "$1" || return 1	# in a trap, "return" alone is another status
	[ ! -d /proc/self ] || [[ $(readlink "/proc/$1/cwd") == "$WORK"* ]]
}

# Runs a command in a process group of its own, so that all that it started
# can be ended when we are interrupted.
in_group() {
	local status=0
	set -m
	"$@" </dev/null &
	GROUP=$!
	set +m
	wait "$GROUP" || status=$?
	GROUP=
	return "$status"
}

# Runs a command as the working user, says what it is and how it went; on
# failure shows the end of its output and gives up.
step() {
	local text=$1 began=$SECONDS status=0
	shift
	printf '%-52s' "$text ..."
	in_group "${AS_USER[@]}" "$@" >"$WORK/log/step" 2>&1 || status=$?
	if [ "$status" != 0 ]; then
		printf 'FAILED\n\n'
		tail -qn 50 "$WORK"/log/{step,server} 2>/dev/null
		exit 1
	fi
	printf 'ok %4d s\n' $((SECONDS - began))
}

# --- PostgreSQL and the extension -------------------------------------------

# Copies the checkout to $WORK/src, without what was built in it.
copy_source() {
	mkdir "$WORK/src"
	tar -C "$SOURCE" -cf - --exclude=./.git --exclude='*.o' --exclude='*.bc' \
		--exclude='*.so' --exclude='./tmp_check*' --exclude=./results \
		--exclude='./llm_failover--*.sql' --exclude='./test/unit/build' . |
		tar -C "$WORK/src" -xf -
	own "$WORK/src"
}

# Copies PostgreSQL to $WORK/pg. It finds its files relative to its programs,
# so the copy is a private installation. Sets PG_CONFIG and PATH to it.
copy_postgres() {
	local dir bindir
	bindir=$(copy_of --bindir)
	mkdir -p "$bindir"
	cp -a "$("$PG_CONFIG" --bindir)"/{pg_*,postgres,initdb,psql} \
		"$("$PG_CONFIG" --bindir)"/{createdb,createuser,dropdb,dropuser,vacuumdb} \
		"$bindir"
	for dir in --pkglibdir --sharedir; do
		mkdir -p "$(copy_of $dir)"
		cp -a "$("$PG_CONFIG" $dir)/." "$(copy_of $dir)"
	done
	for dir in --includedir --pkgincludedir --includedir-server; do
		[ -e "$(copy_of $dir)" ] && continue
		mkdir -p "$(dirname "$(copy_of $dir)")"
		ln -s "$("$PG_CONFIG" $dir)" "$(copy_of $dir)"
	done
	rm -rf "$(copy_of --pkglibdir)"/llm_failover.so \
		"$(copy_of --pkglibdir)"/bitcode/llm_failover* \
		"$(copy_of --sharedir)"/extension/llm_failover*
	own "$WORK/pg"
	PG_CONFIG=$bindir/pg_config
	export PATH=$bindir:$PATH
}

copy_of() { say "$WORK/pg$("$PG_CONFIG" "$1")"; }

# Prints "with_llvm=no" when the compiler for bitcode is not there.
make_options() {
	local clang
	clang=$(sed -n 's/^CLANG *= *//p' \
		"$(dirname "$("$PG_CONFIG" --pgxs)")/../Makefile.global")
	if [ -z "$clang" ] || ! command -v "$clang" >/dev/null; then
		say with_llvm=no
	fi
}
