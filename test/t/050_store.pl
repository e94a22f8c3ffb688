# 050_store.pl: the state of breakers outlives restarts and crashes, and storing
# it never stands in the way: not of calls, of a full server, of DROP DATABASE or
# of DROP EXTENSION.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node(
	'main',
	init => [ allows_streaming => 1 ],
	conf => "max_prepared_transactions = 1\n");
my $workers =
  q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'};

configure($node);

# Two providers, of which the first is asked; what opens stays open for long.
sub configure
{
	my ($server) = @_;

	add_provider($server, $sim, 'a', position => 1);
	add_provider($server, $sim, 'b', position => 2);
	$server->safe_psql('postgres',
		q{UPDATE llm_provider SET breaker_open_time = '1 h', breaker_open_time_max = '1 h'}
	);
	return;
}

sub call
{
	my ($server) = @_;
	return $server->safe_psql('postgres',
		q{SELECT provider FROM llm_respond('Hello')});
}

# State of a provider's only target.
sub state_of
{
	my ($server, $provider) = @_;
	return $server->safe_psql('postgres',
		"SELECT state FROM llm_status WHERE provider = '$provider'");
}

# When it ends, in seconds.
sub end_of
{
	my ($server, $provider) = @_;
	return $server->safe_psql('postgres',
		"SELECT extract(epoch FROM until) FROM llm_status WHERE provider = '$provider'"
	);
}

sub near
{
	my ($got, $wanted, $name) = @_;

	ok(abs($got - $wanted) < 5, $name) or diag "$got is not near $wanted";
	return;
}

my $stored =
  q{SELECT string_agg(concat_ws('/', provider, region, model) || ' ' || state, ', ' ORDER BY provider, region) FROM llm_breaker};

# Waits until the table holds what is wanted; '' is none.
sub stored_is
{
	my ($server, $wanted, $name, $dbname) = @_;

	ok( $server->poll_query_until(
			$dbname // 'postgres',
			"SELECT coalesce(($stored), '') = '$wanted'"),
		$name)
	  or diag $server->safe_psql($dbname // 'postgres', $stored);
	return;
}

sub worker_pid
{
	my ($server) = @_;
	return $server->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'}
	);
}

sub lines_in_log
{
	my ($server, $pattern) = @_;
	return scalar grep { /$pattern/ } split /\n/,
	  slurp_file($server->logfile);
}

# --- what opens is logged and stored

$sim->down('a');
is(call($node), 'b', 'the second answers for the first');
call($node) for 1 .. 3;
is(state_of($node, 'a'), 'open', 'the breaker has opened');
is( lines_in_log(
		$node,
		qr/LOG:  llm_failover: breaker of a\/default opened until (?:\S+ )?\d\d:\d\d:\d\d: connection refused$/
	),
	1,
	'one line in the log says so');
stored_is($node, 'a/default open', 'it is stored');
is( $node->safe_psql('postgres', q{
	SELECT forced, sticky, trips, reason, until BETWEEN now() + '50 min' AND now() + '70 min', changed_at <= now()
	  FROM llm_breaker}),
	'f|f|1|connection refused|t|t',
	'with all that is known of it');

# --- it outlives the server

my $end = end_of($node, 'a');
$sim->up('a');
$node->restart;
is(state_of($node, 'a'), 'open', 'restart: it is open as before');
near(end_of($node, 'a'), $end, 'restart: until the same time');
is( $node->safe_psql('postgres',
		q{SELECT reason FROM llm_status WHERE provider = 'a'}),
	'region breaker open: connection refused',
	'restart: for the same reason');
is(call($node), 'b', 'restart: it is not asked');
is($sim->count('a', 'requests'), 0, 'restart: it really was not');

$node->stop('immediate');
$node->start;
is(state_of($node, 'a'), 'open', 'immediate shutdown: open');

# A crash of one process takes all memory with it.
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
my $session = llm_session($node);
my $log = -s $node->logfile;
kill 'KILL', $session->pid or die "kill: $!";
$node->wait_for_log(qr/ready to accept connections/, $log);
ok( $node->poll_query_until('postgres',
		q{SELECT state = 'open' FROM llm_status WHERE provider = 'a'}),
	'kill -9: open');
is($sim->count('a', 'requests'), 0, 'nobody has asked it in all that time');
near(end_of($node, 'a'), $end, 'and it ends when it was to end');

# --- what closes is forgotten

$node->safe_psql('postgres', q{SELECT llm_breaker_reset('a')});
stored_is($node, '', 'a closed breaker has no row');
is(lines_in_log($node, qr/breaker of a\/default closed/), 1,
	'its closing is logged');
$node->restart;
is(state_of($node, 'a'), 'closed', 'it is not resurrected');
is(call($node), 'a', 'it is asked again');

# --- opened by hand

$node->safe_psql('postgres',
	q{SELECT llm_breaker_open('b', duration => '20 min')});
$end = end_of($node, 'b');
stored_is($node, 'b open', 'an opening by hand is stored');
$node->restart;
is(state_of($node, 'b'), 'open', 'and restored');
near(end_of($node, 'b'), $end, 'it keeps its end');
is( $node->safe_psql('postgres', q{SELECT forced FROM llm_breaker}),
	't', 'it is known as that');

# --- what is not restored

$node->safe_psql('postgres', q{SELECT llm_breaker_reset()});
stored_is($node, '', 'nothing is open');
$node->safe_psql('postgres', q{
INSERT INTO llm_breaker(provider, region, model, state, forced, sticky, trips, until) VALUES
  ('a', NULL, NULL, 'open', true, false, 1, now() - interval '1 s'),
  ('a', 'default', NULL, 'open', false, true, 1, now() + interval '1 h'),
  ('b', 'default', 'model-b', 'open', false, false, 1, 'infinity'),
  ('c', NULL, NULL, 'open', false, false, 1, now() + interval '1 h'),
  ('b', 'other', NULL, 'open', false, false, 1, now() + interval '1 h');
});
$node->restart;
is(state_of($node, 'a'), 'closed', 'neither what has passed nor a trip');
is(state_of($node, 'b'), 'closed', 'nor what has no end');

# --- nor over live state, and nobody waits for the table

$node->safe_psql('postgres', q{
DELETE FROM llm_breaker;
INSERT INTO llm_breaker(provider, state, forced, sticky, trips, until) VALUES
  ('a', 'open', true, false, 1, now() + interval '1 h'),
  ('b', 'open', true, false, 1, now() + interval '1 h');
BEGIN;
LOCK TABLE llm_breaker;
PREPARE TRANSACTION 'lock';
});
$node->restart;
is(call($node), 'a', 'a locked table stops no call');
$node->safe_psql('postgres', q{COMMIT PREPARED 'lock'});
is(state_of($node, 'a'), 'closed', 'what was used since stays as it is');
is(state_of($node, 'b'), 'open', 'what was not is restored later');

# A table in another shape is no reason not to answer.
$node->safe_psql('postgres', q{
ALTER TABLE llm_breaker ALTER COLUMN until TYPE text, ALTER COLUMN trips TYPE bigint});
$node->restart;
is(call($node), 'a', 'nor does one with other columns');
$node->safe_psql('postgres', q{
DELETE FROM llm_breaker;
ALTER TABLE llm_breaker ALTER COLUMN until TYPE timestamptz USING until::timestamptz,
  ALTER COLUMN trips TYPE int});

# --- the worker does not wait either, and writes whatever the settings are

my $holder = llm_session($node);
$node->safe_psql('postgres', q{
CREATE ROLE nobody IN ROLE pg_monitor;
ALTER DATABASE postgres SET search_path = nowhere;
ALTER DATABASE postgres SET role = nobody;
ALTER DATABASE postgres SET default_transaction_read_only = on});
my $worker = worker_pid($node);
kill 'TERM', $worker or die "kill: $!";
ok($node->poll_query_until('postgres', "$workers AND pid <> $worker", '1'),
	'a worker comes to whom these settings apply');
$holder->run('BEGIN; SELECT FROM llm_breaker FOR UPDATE');
$node->safe_psql('postgres',
	q{SET ROLE none; SELECT public.llm_breaker_open('a', duration => '20 min')});
ok( $node->poll_query_until('postgres',
		q{SELECT state = 'idle' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'}
	),
	'it finds the table locked and waits outside of a transaction');
is( $node->safe_psql('postgres',
		'SET ROLE none; SELECT count(*) FROM public.llm_breaker'),
	0, 'it could not write');
$holder->run('COMMIT');
$node->safe_psql('postgres',
	q{SET ROLE none; SET default_transaction_read_only = off; ALTER DATABASE postgres RESET ALL});
stored_is($node, 'a open', 'it writes when it can');

# --- an extension comes and goes

foreach my $round (1 .. 3)
{
	psql_ok(
		$node, qq{
		SELECT llm_breaker_open('b', duration => '$round min');
		DROP EXTENSION llm_failover;},
		"DROP EXTENSION right after a change: $round");
	$node->safe_psql('postgres',
		'CREATE SCHEMA IF NOT EXISTS "My Schema"; CREATE EXTENSION llm_failover');
	configure($node);
}
$node->safe_psql('postgres', q{SELECT llm_breaker_reset()});
stored_is($node, '', 'a new one goes on');
$node->safe_psql('postgres',
	q{SELECT llm_breaker_open('b', duration => '20 min')});
stored_is($node, 'b open', 'and stores as the old one did');
$node->safe_psql('postgres',
	'DROP EXTENSION llm_failover; CREATE EXTENSION llm_failover SCHEMA "My Schema"; ALTER DATABASE postgres SET search_path = "My Schema"'
);
configure($node);
$node->safe_psql('postgres',
	q{SELECT llm_breaker_open('a', 'default', duration => '20 min')});
is(state_of($node, 'b'), 'closed', 'the next one begins anew');
stored_is($node, 'a/default open', 'and stores in whatever schema');

# --- a database is dropped

foreach my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CREATE DATABASE gone');
	$node->safe_psql('gone', q{
		CREATE EXTENSION llm_failover;
		INSERT INTO llm_provider(name, dialect) VALUES ('x', 'openai');
		INSERT INTO llm_route(provider, model) VALUES ('x', 'm');
		SELECT llm_breaker_open('x');});
	psql_ok($node, 'DROP DATABASE gone',
		"DROP DATABASE right after a change: $round");
}

# --- a standby

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
is( $standby->safe_psql('postgres', $stored),
	'a/default open', 'standby: it has the rows of its primary');
is(state_of($standby, 'a'), 'closed', 'standby: but does not restore them');
is(call($standby), 'a', 'standby: and asks whom it will');
psql_ok($standby, q{SELECT llm_breaker_open('a', duration => '20 min')},
	'standby: breakers can be opened by hand');
is(call($standby), 'b', 'standby: with effect');
is($standby->safe_psql('postgres', $workers),
	0, 'standby: nobody tries to write');
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is(state_of($standby, 'b'),
	'closed', 'promoted: does not restore them later either');
is(call($standby), 'b', 'promoted: it goes on');
stored_is($standby, 'a open', 'promoted: it stores its own');
$standby->stop;
is(lines_in_log($standby, qr/ERROR:|PANIC:/), 0, 'standby: no error');
is(lines_in_log($node, qr/ERROR:|PANIC:/), 0, 'and none on the primary');
$node->stop;

# --- no worker is to be had

# One is the launcher of logical replication, and one is ours.
my $full = llm_node('full', conf => "max_worker_processes = 2\n");
configure($full);
$full->safe_psql('postgres',
	q{SELECT llm_breaker_open('a', duration => '20 min')});
is(call($full), 'b', 'full: calls go on') for 1 .. 3;
is($full->safe_psql('postgres', 'SELECT count(*) FROM llm_breaker'),
	0, 'full: nothing is stored');
$full->stop;

done_testing();
