# 140_crash_proof.pl: whatever is killed, whenever, every task that was committed
# is done exactly once, and none that was not.
#
# Eight writers insert tasks in transactions that are committed, rolled back, in
# savepoints, or prepared, while workers, settlers, sessions and the whole server
# are killed with SIGKILL, and the providers go away and come back. What a
# transaction has inserted it notes in a table of its own, so that the two can
# be compared in the end: nobody needs to know which commits a kill has hit.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use constant {
	WRITERS => 8,
	KILLS => 24,
};

my $seed = $ENV{LLM_TEST_SEED} // time;
srand($seed);
note("LLM_TEST_SEED=$seed");

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main', conf => <<'END');
max_prepared_transactions = 100
max_worker_processes = 16
restart_after_crash = on
llm_failover.worker_concurrency = 32
END

add_provider($node, $sim, 'a');
add_provider($node, $sim, 'b');
$node->safe_psql('postgres', <<'END');
UPDATE llm_provider SET breaker_open_time = '100 ms',
	breaker_open_time_max = '500 ms', breaker_ramp = '0';
CREATE TABLE written(n int, callback bool);
CREATE TABLE effect(n int, state text, answer text);
CREATE FUNCTION note_effect(t llm_task) RETURNS void LANGUAGE sql AS $$
	INSERT INTO effect VALUES ((t.metadata ->> 'n')::int, t.state, t.answer) $$;
END

my @writers = map { start_writer($_) } 1 .. WRITERS;
my %killed = kill_at_random(KILLS);
end_writers(@writers);
is($killed{all}, KILLS, 'so many kills: ' .
	  join(', ', map { "$killed{$_} $_" } sort grep { $_ ne 'all' } keys %killed));

cmp_ok($killed{server} // 0, '>=', 1, 'the server was killed');
cmp_ok($killed{worker} // 0, '>=', 1, 'a worker was killed');
resolve_prepared();
wait_until_done();
check_all();

$node->stop('fast');
done_testing();

# --- writing ---

# The SQL of a transaction that inserts tasks first to last, one kind or another.
sub insert
{
	my ($first, $last, $kind) = @_;
	my $callback = $first % 2 ? q{'note_effect'} : 'NULL';

	return <<"END";
INSERT INTO written SELECT g, $callback IS NOT NULL
  FROM generate_series($first, $last) g;
INSERT INTO llm_task(prompt, on_finish, dedupe_key, metadata, priority)
  SELECT 'task ' || g, $callback, CASE WHEN g % 3 = 0 THEN 'key ' || g END,
	jsonb_build_object('n', g, 'kind', '$kind'), g % 2
  FROM generate_series($first, $last) g;
END
}

sub transaction
{
	my ($n) = @_;
	my ($a, $b, $c, $d) = ($n, $n + 4, $n + 5, $n + 9);
	my @kinds = (
		'BEGIN;' . insert($a, $d, 'committed') . 'COMMIT;',
		'BEGIN;' . insert($a, $d, 'rolled back') . 'ROLLBACK;',
		'BEGIN;' . insert($a, $b, 'committed') . 'SAVEPOINT s;'
		  . insert($c, $d, 'rolled back') . 'ROLLBACK TO s; COMMIT;',
		'BEGIN; SAVEPOINT s;' . insert($a, $d, 'committed')
		  . 'RELEASE s; COMMIT;',
		'BEGIN;' . insert($a, $d, 'committed')
		  . "PREPARE TRANSACTION 'p$n'; COMMIT PREPARED 'p$n';",
		'BEGIN;' . insert($a, $d, 'rolled back')
		  . "PREPARE TRANSACTION 'r$n'; ROLLBACK PREPARED 'r$n';");
	return $kinds[ rand @kinds ];
}

# A process that writes until it is told to stop, whatever becomes of the server.
sub start_writer
{
	my ($number) = @_;
	my $pid = fork // die "could not fork: $!";

	if ($pid == 0)
	{
		my $stop = 0;
		my $n = $number * 1_000_000;

		local $SIG{TERM} = sub { $stop = 1 };
		srand($seed + $number);
		until ($stop)
		{
			# psql may be gone before it has read all
			query(transaction($n));
			$n += 10;
			usleep(50_000);
		}
		# not exit(): the server and the simulator are the parent's to stop
		require POSIX;
		POSIX::_exit(0);
	}
	return $pid;
}

sub end_writers
{
	kill 'TERM', @_;
	waitpid $_, 0 for @_;
	return;
}

# --- killing ---

# Kills something, so many times, and returns what and how often.
sub kill_at_random
{
	my ($kills) = @_;
	my %count = (all => 0);
	my @victims = ('worker', 'worker', 'settler', 'session', 'server');

	while ($count{all} < $kills)
	{
		my $what = $victims[ rand @victims ];

		disturb_providers();
		wait_for_progress();
		next unless kill_one($what);
		$count{$what}++;
		$count{all}++;
		ensure_server();
	}
	$sim->up($_) for 'a', 'b';
	return %count;
}

# Takes providers away and brings them back.
sub disturb_providers
{
	my $name = ('a', 'b')[ rand 2 ];

	if (rand() < 0.3) { $sim->down($_) for 'a', 'b' }
	elsif (rand() < 0.5) { $sim->hang_up($name, reset => 1) }
	$sim->up($_) for 'a', 'b';
	return;
}

# Waits until something was done since the last kill, or for a moment that is
# somewhere in the middle of the next thing.
sub wait_for_progress
{
	my $until = time + 2;
	my $before = query('SELECT count(*) FROM effect') // 0;

	while (time < $until)
	{
		my $now = query('SELECT count(*) FROM effect');
		last if defined $now && $now > $before;
		usleep(20_000);
	}
	usleep(rand 200_000);
	return;
}

# The result of a query, or undef if the server could not be asked.
sub query
{
	my ($sql) = @_;
	my ($out, $err);
	my $code = eval {
		$node->psql('postgres', $sql, stdout => \$out, stderr => \$err,
			timeout => 60);
	};

	return defined $code && $code == 0 ? $out : undef;
}

# Kills one of a kind with SIGKILL. False when there is none.
sub kill_one
{
	my ($what) = @_;
	my $type = $what eq 'session' ? 'client backend' : "llm_failover $what";
	my $pid;

	if ($what eq 'server')
	{
		$node->kill9;
		return 1;
	}
	$pid = query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'"
		  . ' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1');
	return 0 unless $pid;
	return kill('KILL', $pid) == 1;
}

# Has the server answer again, whoever was killed.
sub ensure_server
{
	my $until = time + 120;

	while (time < $until)
	{
		return if defined query('SELECT 1');
		usleep(100_000);
		next if postmaster_lives();
		delete $node->{_pid};    # a start that failed leaves the old one
		$node->start(fail_ok => 1);
	}
	die 'the server does not come back';
}

sub postmaster_lives
{
	my $pid = eval { (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] };

	return $pid && kill(0, $pid);
}

# --- the end ---

# Ends what was prepared and lost its session, one way or the other.
sub resolve_prepared
{
	for my $gid (split /\n/, $node->safe_psql('postgres',
			'SELECT gid FROM pg_prepared_xacts'))
	{
		my $how = $gid =~ /^p/ ? 'COMMIT' : 'ROLLBACK';
		$node->safe_psql('postgres', "$how PREPARED '$gid'");
	}
	return;
}

sub wait_until_done
{
	my $done = $node->poll_query_until('postgres',
		'SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL');

	ok($done, 'no task is left')
	  or diag($node->safe_psql('postgres', <<'END'));
SELECT state, count(*), min(id), max(tries), max(error) FROM llm_task
 WHERE finished_at IS NULL GROUP BY state;
SELECT * FROM llm_queue; SELECT * FROM llm_status;
END
	return;
}

sub check_all
{
	my %none = (
		'a task without its commit' =>
		  q{SELECT metadata ->> 'n' FROM llm_task EXCEPT SELECT n::text FROM written},
		'a commit without its task' =>
		  q{SELECT n::text FROM written EXCEPT SELECT metadata ->> 'n' FROM llm_task},
		'a task of a transaction that was rolled back' =>
		  q{SELECT id FROM llm_task WHERE metadata ->> 'kind' = 'rolled back'},
		'a task twice' =>
		  q{SELECT metadata ->> 'n' FROM llm_task GROUP BY 1 HAVING count(*) > 1},
		'a task that is not done' =>
		  q{SELECT id, state, tries, error_code, error FROM llm_task WHERE state <> 'done'},
		'a result of another task' =>
		  q{SELECT id, prompt, answer FROM llm_task
			WHERE answer IS NULL OR answer NOT LIKE '%: ' || prompt},
		'a response that is none' =>
		  q{SELECT id FROM llm_task WHERE response ->> 'answer' IS DISTINCT FROM answer},
		'an effect that is missing' =>
		  q{SELECT n FROM written WHERE callback EXCEPT SELECT n FROM effect},
		'an effect twice' =>
		  q{SELECT n FROM effect GROUP BY n HAVING count(*) > 1},
		'an effect of nothing' =>
		  q{SELECT n FROM effect EXCEPT SELECT n FROM written WHERE callback},
		'an effect with another answer' =>
		  q{SELECT e.n FROM effect e JOIN llm_task t ON t.metadata ->> 'n' = e.n::text
			WHERE e.state <> t.state OR e.answer IS DISTINCT FROM t.answer});

	note($node->safe_psql('postgres',
		q{SELECT count(*) || ' tasks, ' || count(on_finish) || ' with on_finish, incarnation ' || max(lease) FROM llm_task}));
	is($node->safe_psql('postgres', $none{$_} . ' LIMIT 5'), '', "not $_")
	  for sort keys %none;
	cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM llm_task'),
		'>', 100, 'and there was something to do');
	return;
}
