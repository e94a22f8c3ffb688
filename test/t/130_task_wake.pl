# 130_task_wake.pl: the worker hears of every change when it commits, whichever
# way it was made; a running task that is cancelled or deleted has its request
# ended at once; and llm_queue says why a queue stands.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main', conf => "max_prepared_transactions = 5\n");
$node->safe_psql('postgres', q{
INSERT INTO llm_tier(name) VALUES ('echo');
INSERT INTO llm_route(tier, provider, model) VALUES ('echo', 'builtin', 'echo');
});
$node->poll_query_until('postgres', 'SELECT worker_running FROM llm_health') or die 'no worker';

# Ways of changing the queue, each ending with a task that is to be called. The
# queue stands where that is the change.
my @ways = (
	[ 'INSERT', q{INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo');} ],
	[ 'COPY', qq{COPY llm_task(prompt, tier) FROM stdin;\nx\techo\n\\.\n} ],
	[ 'INSERT in a savepoint', q{BEGIN; SAVEPOINT s; INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo'); RELEASE s; COMMIT;} ],
	[ 'INSERT in a function', q{SELECT enqueue();} ],
	[ 'COMMIT PREPARED', q{BEGIN; INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p';} ],
	[ 'INSERT ON CONFLICT', q{INSERT INTO llm_task(prompt, tier, dedupe_key) VALUES ('x', 'echo', 'k') ON CONFLICT (role, dedupe_key) DO UPDATE SET prompt = 'y';} ],
	[ 'a replica session', q{SET session_replication_role = replica; INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo');} ],
	[ 'UPDATE', q{UPDATE llm_task SET tier = 'echo' WHERE id = (SELECT max(id) FROM llm_task);},
		q{UPDATE llm_tier SET enabled = false WHERE name = 'default'; INSERT INTO llm_task(prompt, tier) VALUES ('x', 'default');} ],
	[ 'llm_requeue', q{SELECT llm_requeue(max(id)) FROM llm_task;},
		q{SELECT llm_pause(); INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo'); SELECT llm_cancel(max(id)) FROM llm_task; SELECT llm_resume();} ],
	[ 'llm_resume', q{SELECT llm_resume();},
		q{SELECT llm_pause(); INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo');} ],
);
$node->safe_psql('postgres', q{CREATE FUNCTION enqueue() RETURNS void LANGUAGE sql AS
	$$INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo')$$});

# Without being told the worker looks every few seconds: ten tasks, one after
# the other, would take minutes.
foreach my $way (@ways)
{
	my ($name, $sql, $before) = @$way;
	my $seconds = 0;

	foreach my $round (1 .. 10)
	{
		$node->safe_psql('postgres', $before) if defined $before;
		my $began = time;
		$node->safe_psql('postgres', $sql);
		$node->safe_psql('postgres', q{
			DO $$ BEGIN
				WHILE EXISTS (SELECT FROM llm_task WHERE finished_at IS NULL) LOOP PERFORM pg_sleep(0.01); END LOOP;
			END $$});
		$seconds += time - $began;
		$node->safe_psql('postgres', 'DELETE FROM llm_task');
	}
	cmp_ok($seconds, '<', 15, "$name wakes the worker at commit");
	note "$name: $seconds s";
}

# A transaction that is rolled back, or is not committed yet, does not
my $looks = q{SELECT count(*) FROM llm_task};
my $session = llm_session($node);
$session->run(q{BEGIN});
$session->run(q{INSERT INTO llm_task(prompt, tier) VALUES ('not yet', 'echo')});
$node->safe_psql('postgres', q{INSERT INTO llm_task(prompt, tier) VALUES ('another', 'echo')});
$node->poll_query_until('postgres', q{SELECT state = 'done' FROM llm_task WHERE prompt = 'another'}) or die;
is($session->run(q{SELECT state FROM llm_task WHERE prompt = 'not yet'})->{out}, 'queued', 'nothing is called before its commit');
$session->run('ROLLBACK');
is($node->safe_psql('postgres', $looks), '1', 'nor after a rollback');

# Requests of running tasks end with them
add_provider($node, $sim, 'a', tier => 'echo', position => 0);
foreach my $way (
	[ 'llm_cancel', 'SELECT llm_cancel(max(id)) FROM llm_task' ],
	[ 'DELETE', 'DELETE FROM llm_task' ],
	[ 'TRUNCATE', 'TRUNCATE llm_task' ])
{
	my ($name, $sql) = @$way;

	$sim->reset;
	$sim->behave({ hang => \1 });
	$node->safe_psql('postgres', q{DELETE FROM llm_task; INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo')});
	$sim->wait_for(requests => 1);
	is($node->safe_psql('postgres', 'SELECT running FROM llm_queue'), '1', "$name: a task is running");
	$session->run('BEGIN');
	$session->run($sql);
	$session->run('ROLLBACK');
	is($sim->count('a', 'in_progress'), 1, "$name: a rollback changes nothing");
	$node->safe_psql('postgres', $sql);
	$sim->wait_for(max_in_progress => 0, timeout => 20);
	pass("$name: the request has ended");
}

# Why a queue stands
sub blocked_by_is
{
	my ($words, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', q{SELECT blocked_by FROM llm_queue}, $words), $name // $words);
	return;
}
$sim->reset;
$node->safe_psql('postgres', q{DELETE FROM llm_task; DELETE FROM llm_route WHERE tier = 'echo' AND provider = 'builtin'});
$node->append_conf('postgresql.conf', "llm_failover.enabled = off\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT NOT enabled FROM llm_health}) or die 'no reload';
$node->safe_psql('postgres', q{INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo')});
blocked_by_is('llm_failover is switched off');
$node->append_conf('postgresql.conf', "llm_failover.worker_concurrency = 0\n");
$node->reload;
blocked_by_is('llm_failover.worker_concurrency is 0');
is($sim->count('a'), 0, 'and nobody is asked');
$node->append_conf('postgresql.conf', "llm_failover.enabled = on\nllm_failover.worker_concurrency = 5\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT state = 'done' FROM llm_task}) or die 'the queue does not go on';

done_testing();
