# 101_ddl.pl: statements that want a database without connections are blocked by
# no background process, whatever that is doing, and stop none for those who may
# not do what they ask for.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main', extension => 0,
	conf => "max_worker_processes = 20\n");
my $tablespace = PostgreSQL::Test::Utils::tempdir;

mkdir "$tablespace/elsewhere" or die "mkdir: $!";
$node->safe_psql('postgres', qq{
	CREATE TABLESPACE elsewhere LOCATION '$tablespace/elsewhere'});
$sim->set('a', keys => 'optional');

sub worker_of
{
	my ($dbname) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT pid FROM pg_stat_activity
		 WHERE backend_type = 'llm_failover worker' AND datname = '$dbname'});
}

# Waits for a worker other than the one before.
sub worker_comes
{
	my ($dbname, $before, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->poll_query_until(
			'postgres', sprintf q{
		SELECT count(*) = 1 AND bool_and(pid <> %d) FROM pg_stat_activity
		 WHERE backend_type = 'llm_failover worker' AND datname = '%s'},
			$before // 0, $dbname),
		$name);
	return worker_of($dbname);
}

# What the processes of a database may be doing.
my %begin = (
	idle => sub { },

	# calls that are never answered
	calling => sub {
		my ($dbname) = @_;
		my $url = $sim->url('a', '/v1');

		$sim->reset;
		$sim->set('a', keys => 'optional');
		$sim->behave({ hang => \1 });
		$node->safe_psql(
			$dbname, qq{
			SET client_min_messages = error;
			INSERT INTO llm_provider(name, dialect, base_url) VALUES ('a', 'openai', '$url');
			INSERT INTO llm_route(provider, model) VALUES ('a', 'm');
			INSERT INTO llm_task(prompt) SELECT 'Hello ' || n FROM generate_series(1, 20) n;});
		$sim->wait_for(requests => 20, listener => 'a');
	},

	# a user's function that does not return
	settling => sub {
		my ($dbname) = @_;

		$node->safe_psql(
			$dbname, q{
			CREATE FUNCTION dawdle(llm_task) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(1000)';
			INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'echo', 0);
			INSERT INTO llm_task(prompt, on_finish) VALUES ('Hello', 'dawdle');});
		$node->poll_query_until(
			'postgres', qq{
			SELECT count(*) = 1 FROM pg_stat_activity
			 WHERE backend_type = 'llm_failover settler' AND datname = '$dbname' AND wait_event = 'PgSleep'}
		) or die 'the function is not run';
	});

# Creates a database with a worker that does something.
sub database
{
	my ($dbname, $doing) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, 'CREATE EXTENSION llm_failover');
	worker_comes($dbname, undef, "$dbname: has a worker");
	$begin{ $doing // 'idle' }->($dbname);
	return;
}

# --- never in the way

foreach my $state (sort keys %begin)
{
	database('one', $state);
	my $worker = worker_of('one');
	psql_ok($node, 'ALTER DATABASE one RENAME TO two', "$state: RENAME");
	$worker = worker_comes('two', $worker, "$state: RENAME: it comes back");

	psql_ok(
		$node,
		'ALTER DATABASE two SET TABLESPACE elsewhere',
		"$state: SET TABLESPACE");
	$worker =
	  worker_comes('two', $worker, "$state: SET TABLESPACE: it comes back");

	foreach my $strategy ('', 'STRATEGY file_copy', 'STRATEGY wal_log')
	{
		psql_ok($node, "CREATE DATABASE copy TEMPLATE two $strategy",
			"$state: TEMPLATE $strategy");
		$worker = worker_comes('two', $worker,
			"$state: TEMPLATE $strategy: it comes back");
		psql_ok($node, 'DROP DATABASE copy', "$state: the copy is dropped");
	}
	psql_ok($node, "DROP DATABASE two", "$state: DROP DATABASE");
}

database('one', 'calling');
psql_ok($node, 'DROP DATABASE one WITH (FORCE)', 'DROP DATABASE FORCE');

# The default template, too.
$node->safe_psql('template1', 'CREATE EXTENSION llm_failover');
psql_ok($node, 'CREATE DATABASE one', 'CREATE DATABASE from template1');
psql_ok($node, 'DROP DATABASE one', 'that is dropped');
$node->safe_psql('template1', 'DROP EXTENSION llm_failover');

# Many at a time, in databases that come and go.
foreach my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CREATE DATABASE one');
	$node->safe_psql('one', 'CREATE EXTENSION llm_failover');
	psql_ok($node, 'DROP DATABASE one',
		"DROP DATABASE right after CREATE EXTENSION: $round");
}

# --- of another database

database('busy', 'calling');
my $busy = worker_of('busy');
psql_ok($node, 'CREATE DATABASE plain', 'CREATE DATABASE of another');
psql_ok($node, 'DROP DATABASE plain', 'DROP DATABASE of another');
is(worker_of('busy'), $busy, 'the worker goes on');
is($sim->count('a', 'requests'), 20, 'with its calls');

# --- what is refused

database('one');
my $worker = worker_of('one');
$node->safe_psql('postgres', q{
	CREATE ROLE nobody LOGIN;
	CREATE ROLE creator LOGIN CREATEDB;
	CREATE ROLE owner LOGIN;
	CREATE DATABASE owned OWNER owner});
foreach my $sql (
	'DROP DATABASE one',
	'DROP DATABASE one WITH (FORCE)',
	'ALTER DATABASE one RENAME TO two',
	'ALTER DATABASE one SET TABLESPACE pg_default',
	'CREATE DATABASE copy TEMPLATE one')
{
	psql_error($node, $sql, '42501', undef, "$_: refused: $sql", user => $_)
	  foreach 'nobody', 'creator';
}
psql_error($node, 'BEGIN; DROP DATABASE one',
	'25001', undef, 'DROP DATABASE in a transaction block');
psql_error(
	$node,
	q{DO $$ BEGIN EXECUTE 'CREATE DATABASE copy TEMPLATE one'; END $$},
	'25001', undef, 'CREATE DATABASE in a function');
psql_error($node, 'DROP DATABASE one', '55006', undef,
	'DROP DATABASE of the current one', dbname => 'one');
psql_error($node, 'DROP DATABASE nowhere',
	'3D000', undef, 'DROP DATABASE of none');
psql_ok($node, 'DROP DATABASE IF EXISTS nowhere', 'and that may be so');
is(worker_of('one'), $worker, 'none of these has stopped the worker');

# Not everything can be known before.
$node->safe_psql('owned', 'CREATE EXTENSION llm_failover');
my $owned = worker_comes('owned', undef, 'an owner has a worker');
psql_error($node, 'ALTER DATABASE owned RENAME TO renamed', '42501', undef,
	'an owner without CREATEDB is refused', user => 'owner');
is(worker_of('owned'), $owned, 'and stops nothing');
psql_ok($node, 'DROP DATABASE owned', 'an owner may drop', user => 'owner');
psql_error($node, 'ALTER DATABASE one RENAME TO postgres',
	'42P04', undef, 'RENAME to a name that there is');
$worker = worker_comes('one', $worker, 'the worker comes back');

my $guest = llm_session($node, dbname => 'one');
psql_error($node, 'DROP DATABASE one', '55006', undef,
	'DROP DATABASE while a session is connected');
$worker = worker_comes('one', $worker, 'the worker comes back');
$guest->quit;

# --- in a transaction block

my $session = llm_session($node);
$session->run('BEGIN; ALTER DATABASE one RENAME TO two');
is($session->run('SELECT 1')->{out}, '1', 'RENAME in a transaction block');
is(worker_of('one'), '', 'the worker has ended');
$session->run('ROLLBACK');
$worker = worker_comes('one', undef, 'it comes back after ROLLBACK');
$session->run(
	'BEGIN; SAVEPOINT a; ALTER DATABASE one RENAME TO two; ROLLBACK TO a; ALTER DATABASE one RENAME TO three; COMMIT'
);
$worker = worker_comes('three', $worker, 'and after COMMIT');
$session->run('BEGIN; ALTER DATABASE three RENAME TO one');
kill 'TERM', $session->pid or die "kill: $!";
$worker = worker_comes('three', undef, 'and when the session is terminated');

# --- two at a time

my @copying = map { llm_session($node) } 1 .. 2;
$copying[$_]->start("CREATE DATABASE copy_$_ TEMPLATE three") foreach 0, 1;
is($_->finish->{sqlstate}, undef, 'two copies at a time') foreach @copying;
$_->quit foreach @copying;
$worker = worker_comes('three', $worker, 'the worker comes back after both');

# --- right after the start, when the launcher looks into all of them

foreach my $round (1 .. 3)
{
	$node->restart;
	psql_ok($node, "CREATE DATABASE early_$round TEMPLATE three",
		"CREATE DATABASE right after the start: $round");
	$node->restart;
	psql_ok($node, "DROP DATABASE early_$round",
		"DROP DATABASE right after the start: $round");
}
worker_comes('three', undef, 'there is a worker');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC:/, 'no crash');

done_testing();
