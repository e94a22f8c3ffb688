# 121_journal_trouble.pl: what becomes of the journal when it cannot be stored:
# calls go on, what has no more room is counted, nothing else is lost, and who
# waits for it is told why.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = llm_node('main',
	init => [ allows_streaming => 1 ],
	conf => "llm_failover.journal_size = 64kB\nllm_failover.max_databases = 3\n");
my $CALL = q{SELECT llm_complete('Hello', 'local')};
my $COUNTED = 'SELECT coalesce(sum(calls), 0) FROM llm_usage';
my $DROPPED = 'SELECT journal_dropped FROM llm_health';

prepare('postgres');
locked();
full();
worker_ends();
broken_entry();
prepared_plans();
no_worker();
slots();
standby();
done_testing();

# A tier that answers by itself.
sub prepare
{
	my ($dbname) = @_;

	$node->safe_psql($dbname, q{
		CREATE EXTENSION IF NOT EXISTS llm_failover;
		INSERT INTO llm_tier(name) VALUES ('local');
		INSERT INTO llm_route(tier, provider, model) VALUES ('local', 'builtin', 'echo')});
	return;
}

sub sql
{
	my ($sql, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', $sql);
}

# Makes so many calls in a session of their own.
sub calls
{
	my ($n, $dbname) = @_;
	return sql("SELECT count(llm_complete('Hello ' || g, 'local')) FROM generate_series(1, $n) g", $dbname);
}

sub fresh
{
	sql("$CALL; SELECT llm_flush(); DELETE FROM llm_usage; DELETE FROM llm_event");
	return;
}

# A session that holds a lock which keeps the worker from storing.
sub lock_usage
{
	my $session = llm_session($node);

	$session->run('BEGIN');
	$session->run('LOCK TABLE llm_usage IN SHARE MODE');
	return $session;
}

# Returns when another worker than the one before is there; its pid.
sub worker
{
	my ($before) = @_;
	my $query = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover worker' AND datname = 'postgres'};

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($query AND pid <> $before) w")
	  or die 'no worker';
	return sql($query);
}

# Who waits can be cancelled, and is told after a while what it waits for.
sub locked
{
	fresh();
	my $lock = lock_usage();

	is(calls(3), 3, 'calls do not wait for a lock on llm_usage');
	psql_error($node, "$CALL; SET statement_timeout = '300ms'; SELECT llm_flush()",
		'57014', undef, 'llm_flush() waits, and can be cancelled');
	psql_ok($node, 'SELECT llm_flush()', 'but not for others');
	my $error = psql_error($node, "$CALL; SELECT llm_flush()", '55000',
		qr/^the journal cannot be stored: somebody holds a lock$/, '... and gives up in the end');
	like($error->{hint}, qr/pg_locks/, '... with a hint');
	is(sql($COUNTED), 0, 'nothing is stored');

	my $waiting = llm_session($node);
	$waiting->run($CALL);
	$waiting->start('SELECT llm_flush()');
	$lock->run('COMMIT');
	is($waiting->finish->{sqlstate}, undef, 'when the lock is released, the wait ends');
	is(sql($COUNTED), 6, '... and all is stored');
	is(sql($DROPPED), 0, '... nothing was dropped');

	is(sql("BEGIN; $CALL; SELECT llm_flush(); ROLLBACK; $COUNTED") =~ /(\d+)$/ ? $1 : '', 7,
		'in a transaction, too; a rollback does not undo what was used');
	$_->quit for $lock, $waiting;
	return;
}

sub full
{
	fresh();
	my $lock = lock_usage();
	my $n = 3000;

	is(calls($n), $n, 'a full journal stops no call');
	my $dropped = sql($DROPPED);
	cmp_ok($dropped, '>', 100, '... what has no room is dropped and counted');
	cmp_ok($dropped, '<', $n - 100, '... and only that');
	is(sql($DROPPED), $dropped, '... seen by all');
	$lock->run('COMMIT');
	$lock->quit;
	ok($node->poll_query_until('postgres', "SELECT ($COUNTED) = $n - $dropped"),
		'all the rest is stored')
	  or diag sql($COUNTED), " and $dropped of $n";
	fresh();
	calls(100);
	ok($node->poll_query_until('postgres', "SELECT ($COUNTED) = 100"), 'then there is room again');
	is(sql($DROPPED), $dropped, '... and no more is dropped');
	return;
}

# What is in the journal when the worker ends is stored by the next one.
sub worker_ends
{
	fresh();
	my $lock = lock_usage();
	my $pid = worker(0);

	calls(10);
	sql("SELECT pg_terminate_backend($pid)");
	calls(10);
	worker($pid);
	calls(10);
	$lock->run('COMMIT');
	$lock->quit;
	ok($node->poll_query_until('postgres', "SELECT ($COUNTED) = 30"),
		'a new worker stores what the old one has left')
	  or diag sql($COUNTED);

	# whenever it ends: what it has stored is not stored again
	fresh();
	my $load = llm_load($node, tiers => ['local'], clients => 2, calls => 300);
	for (1, 2)
	{
		$pid = worker(0);
		sql("SELECT pg_terminate_backend($pid)");
		worker($pid);
	}
	$load->finish;
	ok($node->poll_query_until('postgres', "SELECT ($COUNTED) = 600"),
		'each call is counted once, whenever workers end')
	  or diag sql($COUNTED);
	return;
}

# Rows that the table refuses: they are dropped, one by one, and no others.
sub broken_entry
{
	fresh();
	my $before = sql($DROPPED);
	my $lock = lock_usage();

	sql(q{ALTER TABLE llm_event ADD CONSTRAINT refuse CHECK (feature <> 'bad') NOT VALID});
	sql(q{
		INSERT INTO llm_provider(name, dialect, base_url) VALUES ('dead', 'openai', 'http://127.0.0.1:1');
		SET client_min_messages = warning;
		INSERT INTO llm_tier(name) VALUES ('dead');
		INSERT INTO llm_route(tier, provider, model) VALUES ('dead', 'dead', 'm');
		INSERT INTO llm_route(tier, provider, model, position) VALUES ('dead', 'builtin', 'echo', 2)});
	sql(q{SELECT llm_breaker_reset(), llm_complete('Hello', 'dead', feature => CASE g % 20 WHEN 7 THEN 'bad' ELSE 'good' END)
		FROM generate_series(1, 100) g});
	$lock->run('COMMIT');
	$lock->quit;
	sql("$CALL; SELECT llm_flush()");
	is(sql(q{SELECT count(*) FROM llm_event WHERE kind = 'failover'}), 95, 'entries that cannot be stored hold up no other');
	is(sql($COUNTED), 101, '... also of other kinds');
	is(sql($DROPPED) - $before, 5, '... and are counted as dropped');
	is(sql(q{SELECT bool_and(at >= previous) FROM (SELECT at, lag(at, 1, at) OVER (ORDER BY id) AS previous FROM llm_event) e}),
		't', 'events are in order all the same');
	sql('ALTER TABLE llm_event DROP CONSTRAINT refuse');

	# Where it is not the entry's fault, it stays.
	sql('ALTER TABLE llm_event RENAME TO elsewhere');
	my $error = psql_error($node, q{SELECT llm_breaker_open('dead'); SELECT llm_flush()}, '55000',
		qr/^the journal cannot be stored: llm_usage or llm_event cannot be written$/, 'no table');
	sql('ALTER TABLE elsewhere RENAME TO llm_event');
	sql("$CALL; SELECT llm_flush()");
	is(sql(q{SELECT count(*) FROM llm_event WHERE kind = 'breaker_open' AND model IS NULL AND region IS NULL}), 1,
		'once it is back the event is stored');
	return;
}

# A plan is made anew for an extension that has moved, or is another one.
sub prepared_plans
{
	fresh();
	sql('ALTER SCHEMA public RENAME TO "Llm ""s"; CREATE SCHEMA public');
	sql(q{SET search_path = "Llm ""s"; SELECT llm_complete('Hello', 'local'); SELECT llm_flush()});
	is(sql(q{SELECT sum(calls) FROM "Llm ""s".llm_usage}), 1, 'in a schema that was renamed');
	sql('DROP SCHEMA public; ALTER SCHEMA "Llm ""s" RENAME TO public');
	sql('DROP EXTENSION llm_failover');
	prepare('postgres');
	sql($CALL);
	ok($node->poll_query_until('postgres', "SELECT ($COUNTED) = 1"),
		'in an extension that was created anew');
	return;
}

# Nobody is there to store it: that is said, and not waited for.
sub no_worker
{
	$node->safe_psql('postgres', 'CREATE DATABASE unborn');
	psql_error($node,
		qq{BEGIN; CREATE EXTENSION llm_failover; SELECT llm_complete('It is old. It is careful. It keeps data safe.'); SELECT llm_flush()},
		'55000', qr/^the journal cannot be stored: /, 'an extension that is not committed', dbname => 'unborn');
	psql_ok($node,
		q{CREATE EXTENSION llm_failover; SELECT llm_complete('It is old. It is careful. It keeps data safe.'); SELECT llm_flush()},
		'one that has just been', dbname => 'unborn');
	sql('DROP DATABASE unborn');
	return;
}

# A database without a slot has no journal; one that gets the slot of another
# gets nothing of its journal.
sub slots
{
	foreach my $name ('s2', 's3', 's4')
	{
		sql("CREATE DATABASE $name");
		prepare($name);
		calls(3, $name);
	}
	is(sql("$CALL; SELECT llm_flush(); $COUNTED", 's3') =~ /(\d+)$/ ? $1 : '', 4, 'a slot, a journal');
	is(sql($DROPPED, 's4'), 3, 'no slot, no journal: all is dropped and counted');
	psql_ok($node, "$CALL; SELECT llm_flush()", '... and nothing is waited for', dbname => 's4');
	is(sql($COUNTED, 's4'), 0, '... in vain');

	my $session = llm_session($node, dbname => 's3');
	$session->run('BEGIN');
	$session->run('LOCK TABLE llm_usage');
	calls(50, 's3');
	$session->quit;
	sql('DROP DATABASE s3');
	sql('CREATE DATABASE s5');
	prepare('s5');
	calls(2, 's5');
	is(sql("$CALL; SELECT llm_flush(); $COUNTED", 's5') =~ /(\d+)$/ ? $1 : '', 3,
		'the journal of a database that is gone is not read by the next');
	is(sql($DROPPED, 's5'), 0, '... nor what it has dropped');
	sql("DROP DATABASE $_") for 's2', 's4', 's5';
	return;
}

# A standby writes nothing: what its calls leave is stored after a promotion.
sub standby
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	fresh();
	$node->backup('backup');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	psql_error($standby, "$CALL; SELECT llm_flush()", '55000',
		qr/^the journal cannot be stored: this server is a standby$/, 'on a standby nothing is stored');
	psql_ok($standby, 'SELECT llm_flush()', 'who has left nothing waits for nothing');
	$standby->safe_psql('postgres', $CALL);
	is($standby->safe_psql('postgres', $COUNTED), 0, '... indeed');
	$standby->promote;
	ok($standby->poll_query_until('postgres', "SELECT ($COUNTED) = 2"),
		'after a promotion it is')
	  or diag $standby->safe_psql('postgres', $COUNTED);
	return;
}
