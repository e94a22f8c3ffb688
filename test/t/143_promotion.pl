# 143_promotion.pl: a standby works on no task, and what has arrived there is
# done when it is promoted: each task, each result and each on_finish effect once,
# whether the old primary has died in the middle or lives on, and not before
# llm_resume() if the queue was paused. A promoted queue is no copy.
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
my $primary = llm_node('primary', init => [ allows_streaming => 1 ],
	conf => <<'END');
llm_failover.worker_concurrency = 16
wal_keep_size = '1GB'
END
my $inserted = 0;

add_provider($primary, $sim, 'a');
sql($primary, <<'END');
CREATE TABLE effect(n int, state text, answer text);
CREATE FUNCTION note_effect(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effect VALUES ((t.metadata)::int, t.state, t.answer);
	PERFORM pg_sleep(0.05);
END $$;
END
$primary->backup('backup');

paused();
split_in_two();
$sim->reset;
dead_primary();
done_testing();

sub sql { return $_[0]->safe_psql('postgres', $_[1]) }

# Inserts tasks, every other one with on_finish, as one transaction each.
sub insert
{
	my ($node, $n) = @_;
	my ($first, $last) = ($inserted + 1, $inserted + $n);

	$inserted = $last;
	sql($node, qq{DO \$\$ BEGIN
		FOR n IN $first .. $last LOOP
			INSERT INTO llm_task(prompt, metadata, on_finish)
			VALUES ('task ' || n, to_jsonb(n),
				CASE n % 2 WHEN 1 THEN 'note_effect' END);
			COMMIT;
		END LOOP;
	END \$\$});
	return;
}

# A standby that follows the primary, with all that happened there.
sub standby
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($primary, 'backup', has_streaming => 1);
	$node->start;
	$primary->wait_for_catchup($node);
	return $node;
}

sub is_left_alone
{
	my ($standby) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql($standby, q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type LIKE 'llm_failover%'}),
		'0', 'a standby has no process of ours');
	return;
}

sub count { return sql($_[0], "SELECT count(*) FROM llm_task WHERE $_[1]") }

sub incarnation
{
	return sql($_[0], 'SELECT incarnation FROM llm_queue_state');
}

# All that is in a node's queue is done, once.
sub is_done
{
	my ($node, $which) = @_;
	my %none = (
		'a task that is not done' =>
		  q{SELECT id, state, tries, error FROM llm_task WHERE state <> 'done' OR tries <> 0},
		'a result of another task' =>
		  q{SELECT id, prompt, answer FROM llm_task
			WHERE answer IS DISTINCT FROM 'a/model-a: ' || prompt
			OR response ->> 'answer' IS DISTINCT FROM answer},
		'an effect that is missing' =>
		  q{SELECT metadata::int FROM llm_task WHERE on_finish IS NOT NULL
			EXCEPT SELECT n FROM effect},
		'an effect twice' =>
		  q{SELECT n FROM effect GROUP BY n HAVING count(*) > 1},
		'an effect of nothing' =>
		  q{SELECT n FROM effect EXCEPT SELECT metadata::int FROM llm_task
			WHERE on_finish IS NOT NULL},
		'an effect of something else' =>
		  q{SELECT n FROM effect JOIN llm_task ON metadata::int = n
			WHERE (effect.state, effect.answer) IS DISTINCT FROM (llm_task.state, llm_task.answer)});

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres',
			'SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL'),
		"$which: no task is left")
	  or diag(sql($node, 'SELECT state, count(*) FROM llm_task GROUP BY 1'));
	is(sql($node, "$none{$_} LIMIT 5"), '', "$which: not $_")
	  foreach sort keys %none;
	unlike(slurp_file($node->logfile), qr/PANIC:|was terminated by signal/,
		"$which: no crash");
	return;
}

# Waits until some of the tasks are done that were inserted last.
sub wait_for_done
{
	my ($n) = @_;

	$primary->poll_query_until('postgres',
		"SELECT count(*) >= $n FROM llm_task WHERE state = 'done' AND"
		  . " id > (SELECT max(id) FROM llm_task) - 200")
	  or die 'the primary does nothing';
	return;
}

# It stays paused, and goes on when it is told to.
sub paused
{
	my $standby = standby('paused');
	my $before;

	sql($primary, 'SELECT llm_pause()');
	insert($primary, 20);
	$primary->wait_for_catchup($standby);
	is_left_alone($standby);
	$before = incarnation($standby);
	$standby->promote;
	ok($standby->poll_query_until('postgres',
			"SELECT incarnation > $before FROM llm_queue_state"),
		'paused: a worker has come');
	is(sql($standby, q{SELECT blocked_by ~ '^paused: llm_pause\(\) by ' FROM llm_queue}),
		't', 'paused: the queue is paused as before');
	is(count($standby, q{state = 'queued'}), '20', 'paused: all tasks wait');
	is($sim->count('a'), 0, 'paused: none has been called');
	sql($standby, 'SELECT llm_resume()');
	is_done($standby, 'paused');
	is(incarnation($standby), $before + 1,
		'paused: the same worker goes on: it has never been a copy');
	is($sim->count('a'), 20, 'paused: each was called once');
	is(count($primary, q{state = 'queued'}), '20',
		'paused: those of the primary wait on');
	$standby->stop;
	sql($primary, 'SELECT llm_resume()');
	is_done($primary, 'resumed');
	return;
}

# Both are primaries from then on: each finishes what it has.
sub split_in_two
{
	my $standby = standby('split');
	my $slow = $sim->behave({ delay => 0.3 });
	my $mine = incarnation($primary);

	insert($primary, 200);
	$primary->wait_for_catchup($standby);
	wait_for_done(30);
	is_left_alone($standby);
	is(sql($standby, 'SELECT DISTINCT blocked_by FROM llm_queue'),
		'this server is a standby', 'split: llm_queue says why');
	$standby->promote;
	insert($primary, 20);
	insert($standby, 20);
	$sim->unbehave($slow);
	is_done($standby, 'split, the new one');
	is_done($primary, 'split, the old one');
	is($_->safe_psql('postgres', 'SELECT count(*) FROM llm_task'), '240',
		'split: ' . $_->name . ' has its tasks')
	  foreach $primary, $standby;
	is(incarnation($primary), $mine,
		'split: the worker of the old one has heard of nothing');
	is(incarnation($standby), $mine + 1, 'split: the new one has its own');
	$standby->stop;
	return;
}

# The primary is killed with calls under way.
sub dead_primary
{
	my $standby = standby('standby');
	my ($before, $arrived, %were);

	$sim->behave({ delay => 0.2 });
	insert($primary, 200);
	$sim->wait_for(in_progress => 16, listener => 'a');
	wait_for_done(30);
	is_left_alone($standby);
	$sim->wait_for(in_progress => 16, listener => 'a');
	$primary->kill9;

	# what was sent arrives, and its processes end
	$standby->poll_query_until('postgres',
		q{SELECT count(*) = 0 AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
		FROM pg_stat_wal_receiver WHERE status = 'streaming'})
	  or die 'the standby does not notice';
	$sim->wait_for(in_progress => 0, max_in_progress => 0, listener => 'a');
	%were = map { $_ => count($standby, "state = '$_'") }
	  qw(queued running answered done);
	note(join ', ', map { "$were{$_} $_" } sort keys %were);
	cmp_ok($were{$_}, '>', 0, "dead: when it died some were $_")
	  foreach sort keys %were;
	$arrived = count($standby, 'true');
	$before = incarnation($standby);
	sql($standby, 'SELECT count(*) FROM llm_queue; SELECT count(*) FROM llm_status');
	my $requests = $sim->count('a');
	my $done = sql($standby, done_now());

	$standby->promote;
	is_done($standby, 'dead');
	is(count($standby, 'true'), $arrived, 'dead: all that had arrived, no more');
	cmp_ok(incarnation($standby), '>', $before, 'dead: the incarnation is another');
	is(sql($standby, done_now("WHERE id IN ($1)")), $done,
		'dead: what was done was not done again')
	  if $done =~ /^\d+\|([\d,]+)\|/ or fail('dead: something was done');
	is($sim->count('a') - $requests, $were{queued} + $were{running},
		'dead: each that was not answered was called once by the new one');
	unlike(slurp_file($standby->logfile), qr/queue of this database stands/,
		'dead: it is not taken for a copy');
	$standby->stop;
	return;
}

# How many tasks are done, which ones, and a digest of all about them.
sub done_now
{
	my ($where) = @_;
	$where //= q{WHERE state = 'done'};

	return qq{SELECT count(*), string_agg(id::text, ',' ORDER BY id),
		md5(string_agg(t::text, ',' ORDER BY id)) FROM llm_task t $where};
}
