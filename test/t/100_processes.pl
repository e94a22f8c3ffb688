# 100_processes.pl: the life of the background processes. They are there when
# there is something for them to do, come back when they are killed, go when the
# extension goes, and harm nobody when they cannot be had.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $LAUNCHER = 'llm_failover launcher';
my $WORKER = 'llm_failover worker';

# A query for the processes of a kind, in a database.
sub those
{
	my ($what, $kind, $dbname) = @_;
	return "SELECT $what FROM pg_stat_activity WHERE backend_type = '$kind'"
	  . (defined $dbname ? " AND datname = '$dbname'" : '');
}

# Waits for a process other than the one before; returns its pid.
sub comes
{
	my ($node, $kind, $dbname, $before, $name) = @_;
	my $query =
	  those('count(*) = 1 AND bool_and(pid <> ' . ($before // 0) . ')',
		$kind, $dbname);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', $query), $name);
	return pid_of($node, $kind, $dbname);
}

sub goes
{
	my ($node, $kind, $dbname, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->poll_query_until('postgres',
			those('count(*) = 0', $kind, $dbname)),
		$name);
	return;
}

sub pid_of
{
	my ($node, $kind, $dbname) = @_;
	return $node->safe_psql('postgres', those('pid', $kind, $dbname));
}

# Returns when the launcher has done all that it was asked for before: it has
# started a worker in a database that is made for that, and gone again.
sub launcher_is_through
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'CREATE DATABASE canary');
	$node->safe_psql('canary', 'CREATE EXTENSION llm_failover');
	$node->poll_query_until('postgres',
		those('count(*) = 1', $WORKER, 'canary'))
	  or die 'the launcher does not answer';
	$node->safe_psql('postgres', 'DROP DATABASE canary');
	return;
}

sub lines_in_log
{
	my ($node, $pattern) = @_;
	return scalar grep { /$pattern/ } split /\n/,
	  slurp_file($node->logfile);
}

my $node = llm_node(
	'main',
	extension => 0,
	conf => "restart_after_crash = on\nmax_prepared_transactions = 5\n");

# --- they come with the extension

my $launcher = comes($node, $LAUNCHER, undef, undef,
	'the launcher is there before any extension');
is(pid_of($node, $WORKER), '', 'and nobody else');

my $session = llm_session($node);
$session->run('BEGIN; CREATE EXTENSION llm_failover; SELECT FROM llm_status');
launcher_is_through($node);
is(pid_of($node, $WORKER), '', 'CREATE EXTENSION starts none before it commits');
$session->run('ROLLBACK');
launcher_is_through($node);
is(pid_of($node, $WORKER), '', 'nor after it is rolled back');

$session->run('BEGIN; CREATE EXTENSION llm_failover; COMMIT');
my $worker = comes($node, $WORKER, 'postgres', undef, 'but when it commits');
ok( $node->poll_query_until(
		'postgres',
		those(
			q{state = 'idle' AND xact_start IS NULL AND wait_event_type = 'Extension'},
			$WORKER)),
	'the worker waits outside of a transaction');
ok( $node->poll_query_until(
		'postgres',
		those(
			q{xact_start IS NULL AND wait_event_type = 'Extension'},
			$LAUNCHER)),
	'and so does the launcher');

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION llm_failover');
my $other = comes($node, $WORKER, 'other', undef, 'each database has its own');
is(pid_of($node, $WORKER, 'postgres'), $worker, 'beside the others');

# --- they come back

# A process of the launcher's doing is ended again and again. It rests for a
# second before the first restart, twice that before the next.
sub seconds_until_restart
{
	my ($kind) = @_;
	my $before = pid_of($node, $kind, 'postgres');

	$node->safe_psql('postgres', qq{
		DROP TABLE IF EXISTS ended;
		CREATE TABLE ended AS
		  SELECT clock_timestamp() AS at, pg_terminate_backend($before, 60000)});
	comes($node, $kind, 'postgres', $before, 'it comes back when it is ended');
	return $node->safe_psql('postgres',
		those('extract(epoch FROM backend_start - (SELECT at FROM ended))',
			$kind, 'postgres'));
}

cmp_ok(seconds_until_restart($WORKER), '>=', 1, 'after a second');
cmp_ok(seconds_until_restart($WORKER), '>=', 2, 'then after two');
is(pid_of($node, $WORKER, 'other'), $other, "another database's goes on");

$worker = pid_of($node, $WORKER, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
$launcher = comes($node, $LAUNCHER, undef, $launcher,
	'the launcher comes back, too');
launcher_is_through($node);
is(pid_of($node, $WORKER, 'postgres'), $worker,
	'and takes care of those who are there');
seconds_until_restart($WORKER);

$worker = pid_of($node, $WORKER, 'postgres');
my $log = -s $node->logfile;
kill 'KILL', $worker or die "kill: $!";
$node->wait_for_log(qr/ready to accept connections/, $log);
$launcher = comes($node, $LAUNCHER, undef, $launcher,
	'kill -9 ends all of them: the launcher is back');
$worker = comes($node, $WORKER, 'postgres', $worker, 'and starts a worker');
$other = comes($node, $WORKER, 'other', $other, 'in each database');

# --- with the server

foreach my $mode ('fast', 'immediate')
{
	$node->stop($mode);
	$node->start;
	$worker = comes($node, $WORKER, 'postgres', $worker,
		"$mode shutdown: a worker is there after it");
	$other = comes($node, $WORKER, 'other', $other, 'in each database');
}
is(pid_of($node, $WORKER, 'template1'), '', 'but in no template');

# --- settings are read again

$node->append_conf('postgresql.conf', 'log_min_messages = debug2');
$node->reload;
seconds_until_restart($WORKER);
ok(lines_in_log($node, qr/worker of database \d+: present -> resting/),
	'SIGHUP: the launcher logs as it is told now');
$node->append_conf('postgresql.conf', 'log_min_messages = log');
$node->reload;

# --- they go with the extension

$worker = pid_of($node, $WORKER, 'postgres');
$session = llm_session($node);
$session->run('BEGIN; DROP EXTENSION llm_failover; ROLLBACK');
launcher_is_through($node);
is(pid_of($node, $WORKER, 'postgres'),
	$worker, 'DROP EXTENSION ends none when it is rolled back');

$node->safe_psql('postgres', 'DROP EXTENSION llm_failover');
goes($node, $WORKER, 'postgres', 'the worker goes when it is dropped');

$node->safe_psql('postgres', 'CREATE ROLE its_owner SUPERUSER');
foreach my $drop (
	'DROP EXTENSION llm_failover',
	'DROP SCHEMA its CASCADE',
	'DROP OWNED BY its_owner CASCADE')
{
	$node->safe_psql(
		'postgres', q{
		GRANT CREATE ON DATABASE postgres TO its_owner;
		SET ROLE its_owner;
		CREATE SCHEMA IF NOT EXISTS its;
		CREATE EXTENSION llm_failover SCHEMA its;});
	comes($node, $WORKER, 'postgres', undef, "$drop: there is a worker");
	psql_ok($node, "SET client_min_messages = error; $drop",
		"$drop: nobody is in its way");
	goes($node, $WORKER, 'postgres', "$drop: the worker goes");
}

# Nobody can know what a prepared transaction has done.
$session->run(
	q{BEGIN; CREATE EXTENSION llm_failover; PREPARE TRANSACTION 'create'});
launcher_is_through($node);
is(pid_of($node, $WORKER, 'postgres'), '', 'PREPARE TRANSACTION starts none');
$session->run(q{COMMIT PREPARED 'create'});
$worker = comes($node, $WORKER, 'postgres', undef, 'COMMIT PREPARED does');
$session->run(
	q{BEGIN; DROP EXTENSION llm_failover; PREPARE TRANSACTION 'drop'});
launcher_is_through($node);
is(pid_of($node, $WORKER, 'postgres'), $worker, 'PREPARE TRANSACTION ends none');
$session->run(q{COMMIT PREPARED 'drop'});
goes($node, $WORKER, 'postgres', 'COMMIT PREPARED does');
$session->quit;

# --- the first use

$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE other');
comes($node, $WORKER, 'other', undef, 'a copied database keeps its worker');
launcher_is_through($node);
is(pid_of($node, $WORKER, 'copy'), '', 'of the copy nobody knows');
$node->safe_psql('copy', 'SELECT FROM llm_status');
comes($node, $WORKER, 'copy', undef, 'until it is used');
$node->stop;
is(lines_in_log($node, qr/ERROR:|PANIC:/), 0, 'and all that without an error');

# --- no background worker is free

# One is the launcher of logical replication, one is ours, and one is for
# parallel queries and for us.
my $full =
  llm_node('full', extension => 0, conf => "max_worker_processes = 3\n");
my $parallel = llm_session($full);
# the setting has another name from 16 on
$parallel->run(
	q{SELECT set_config(name, 'on', false) FROM pg_settings
	   WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
$full->poll_query_until('postgres', those('count(*) = 1', $LAUNCHER));
# the launcher may just be looking into database postgres, and be faster
do
{
	$parallel->cancel if defined $parallel->{began};
	$parallel->start('SELECT pg_sleep(1000)');
	$full->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}
	);
} until $full->safe_psql('postgres', those('count(*)', 'parallel worker'));
$full->safe_psql('postgres', 'CREATE EXTENSION llm_failover');
psql_ok($full, q{SELECT llm_complete('Hello. It is me. Bye')},
	'full: calls go on');
is(pid_of($full, $WORKER), '', 'full: without a worker');
$full->wait_for_log(qr/no background worker is free/);
$full->safe_psql('postgres', 'DROP EXTENSION llm_failover');
$full->safe_psql('postgres', 'CREATE EXTENSION llm_failover');
$full->safe_psql('postgres', q{SELECT llm_complete('Hello. It is me. Bye')})
  for 1 .. 3;
is(lines_in_log($full, qr/no background worker is free/),
	1, 'full: it is said once');
like(
	slurp_file($full->logfile),
	qr/HINT:  Increase "max_worker_processes" and restart/,
	'full: with what to do');
$parallel->cancel;
comes($full, $WORKER, 'postgres', undef, 'full: it comes when one is free');
$full->stop;

# --- no slot is free

my $slots = llm_node(
	'slots',
	extension => 0,
	conf => "llm_failover.max_databases = 1\nlog_min_messages = warning\n");
$slots->safe_psql('postgres', "CREATE DATABASE $_")
  foreach 'without', 'first', 'second';
$slots->restart;
$slots->safe_psql('first', 'CREATE EXTENSION llm_failover');
comes($slots, $WORKER, 'first', undef,
	'slots: databases without the extension need none');
psql_ok($slots, 'CREATE EXTENSION llm_failover',
	'slots: beyond them, the extension can be created', dbname => 'second');
psql_ok(
	$slots, q{SELECT llm_complete('Hello. It is me. Bye')},
	'slots: and calls go on', dbname => 'second') for 1 .. 3;
is( lines_in_log(
		$slots, qr/llm_failover has no shared memory left for another database/),
	1,
	'slots: it is said once');
is(pid_of($slots, $WORKER, 'second'), '', 'slots: there is no worker');
$slots->safe_psql('postgres', 'DROP DATABASE first');
$slots->safe_psql('without', 'CREATE EXTENSION llm_failover');
comes($slots, $WORKER, 'without', undef,
	'slots: a dropped database leaves its own to others');
$slots->stop;

done_testing();
