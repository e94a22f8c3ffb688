# 145_attack.pl: what a user's transaction may keep waiting: the tasks whose rows
# or keys it holds, and no others; and what must not end the worker, or must.
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
my $node = llm_node('main');

configure();

uncommitted_keys();
restart_beside_uncommitted_keys();
restart_beside_a_locked_row();
cancelled_worker();
dropped_extension();

$node->stop('fast');
done_testing();

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub poll { return $node->poll_query_until('postgres', $_[0]) }

sub configure
{
	add_tier($node, 'slow', attempt_timeout => '2 min', timeout => '2 min');
	add_provider($node, $sim, 'a');
	add_provider($node, $sim, 'b', tier => 'slow');
	return;
}

sub worker_pid
{
	poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'});
	return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'});
}

# Queues good tasks; true when all are done, whatever else stands in the queue.
my $batch = 0;

sub others_are_called
{
	$batch++;
	sql("INSERT INTO llm_task(prompt) SELECT 'other $batch' FROM generate_series(1, 1000)");
	return poll("SELECT count(*) = 1000 FROM llm_task WHERE prompt = 'other $batch' AND state = 'done'");
}

# Starts tasks with keys, takes the keys in a transaction that stays open, and
# returns its session.
sub take_keys
{
	my ($name) = @_;
	my $session = llm_session($node);

	sql("INSERT INTO llm_task(prompt, tier, dedupe_key) SELECT '$name', 'slow', '$name' || g FROM generate_series(1, 30) g");
	poll("SELECT count(*) = 30 FROM llm_task WHERE prompt = '$name' AND state = 'running'")
	  or die "$name: no task runs";
	$session->run("BEGIN; INSERT INTO llm_task(prompt, dedupe_key) SELECT '$name newer', '$name' || g FROM generate_series(1, 30) g");
	return $session;
}

# Tasks that are to be tried again want their keys back, which are taken by an
# uncommitted transaction.
sub uncommitted_keys
{
	my $rule = $sim->behave({ delay => 1, status => 500 },
		prompt => '^retried$');
	my $session = take_keys('retried');

	ok($sim->wait_for(in_progress => 0, max_in_progress => 0, listener => 'b'),
		'calls have failed whose tasks cannot have their keys back');
	ok(others_are_called(), 'others are called meanwhile');
	is(sql(q{SELECT count(*) FROM llm_task WHERE prompt = 'retried' AND state = 'running'}),
		'30', 'while these wait');
	$session->run('COMMIT');
	ok(poll(q{SELECT count(*) = 0 FROM llm_task WHERE prompt = 'retried' AND state = 'running'}),
		'they go on when the keys are free or lost');
	$session->quit;
	$sim->unbehave($rule);
	sql(q{DELETE FROM llm_task; SELECT llm_breaker_reset()});
	return;
}

sub restart_beside_uncommitted_keys
{
	my $rule = $sim->behave({ hang => \1 }, prompt => '^left$');
	my $session = take_keys('left');
	my $worker = worker_pid();

	sql(q{INSERT INTO llm_task(prompt, tier) VALUES ('left', 'slow')});
	poll(q{SELECT count(*) = 31 FROM llm_task WHERE prompt = 'left' AND state = 'running'});
	sql("SELECT pg_terminate_backend($worker)");
	ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_failover worker' AND pid <> }
			  . $worker),
		'another worker has come while keys are taken');
	ok(others_are_called(), 'and calls tasks');
	$session->run('ROLLBACK');
	ok(poll(q{SELECT count(*) = 0 FROM llm_task WHERE prompt = 'left' AND lease < (SELECT incarnation FROM llm_queue_state)}),
		'tasks of the last one are taken back when the keys are free');
	$session->quit;
	$sim->unbehave($rule);
	sql(q{DELETE FROM llm_task; SELECT llm_breaker_reset()});
	return;
}

sub restart_beside_a_locked_row
{
	my $rule = $sim->behave({ hang => \1 }, prompt => '^held$');
	my $session = llm_session($node);
	my $worker = worker_pid();

	sql(q{INSERT INTO llm_task(prompt, tier) VALUES ('held', 'slow')});
	poll(q{SELECT state = 'running' FROM llm_task WHERE prompt = 'held'});
	$session->run(q{BEGIN; SELECT 1 FROM llm_task WHERE prompt = 'held' FOR UPDATE});
	sql("SELECT pg_terminate_backend($worker)");
	ok(poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_failover worker' AND pid <> }
			  . $worker),
		'another worker has come while a running row is locked');
	ok(others_are_called(), 'and calls tasks');
	$session->run('COMMIT');
	ok(poll(q{SELECT coalesce(lease, incarnation) = incarnation FROM llm_task, llm_queue_state WHERE prompt = 'held'}),
		'the row is taken back when it is free');
	$session->quit;
	$sim->unbehave($rule);
	sql(q{DELETE FROM llm_task; SELECT llm_breaker_reset()});
	return;
}

# pg_cancel_backend() cancels a piece of work at most.
sub cancelled_worker
{
	my $worker = worker_pid();

	sql("SELECT pg_cancel_backend($worker)") foreach 1 .. 20;
	ok(others_are_called(), 'a cancelled worker calls tasks');
	is(worker_pid(), $worker, 'and is the same as before');
	return;
}

sub dropped_extension
{
	foreach my $round (1 .. 5)
	{
		worker_pid();
		sql('SET client_min_messages = error; DROP EXTENSION llm_failover CASCADE');
		ok(poll(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'}),
			"round $round: the worker leaves a database without the extension");
		sql('CREATE EXTENSION llm_failover');
	}
	ok(worker_pid(), 'and comes again with it');
	return;
}
