# 142_poison.pl: a task that cannot be answered harms itself and nobody else:
# responses that break the parser, that are too large or never end, requests
# that are refused, a user who keeps a running task's row locked, a residency that
# nobody can serve, tiers without number, and prompts that are small only as long
# as they are packed.
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
my $node = llm_node('main', conf => "llm_failover.worker_concurrency = 8\n");

add_provider($node, $sim, 'a');
sql(q{UPDATE llm_provider SET breaker_open_time = '200 ms',
	breaker_open_time_max = '200 ms', breaker_ramp = '0';
	UPDATE llm_tier SET attempt_timeout = '1 s', timeout = '2 s' WHERE name = 'default'});

$sim->behave({ garbage => 'not_json' }, prompt => '^poison: not json');
$sim->behave({ garbage => 'deep' }, prompt => '^poison: deep');
$sim->behave({ garbage => 'huge', size => 100 * 1024 * 1024 },
	prompt => '^poison: huge');
$sim->behave({ status => 500 }, prompt => '^poison: 500');
$sim->behave({ hang => 1 }, prompt => '^poison: hang');
$sim->behave({ template => 'bad_request' }, prompt => '^poison: refused');

my @poisons = ('not json', 'deep', 'huge', '500', 'hang');
my $worker = worker_pid();

sql(q{INSERT INTO llm_task(prompt, priority) VALUES }
	  . join(', ', map { "('poison: $_', 1)" } @poisons, 'refused'));
sql(q{INSERT INTO llm_task(prompt) SELECT 'good ' || g FROM generate_series(1, 300) g});
# so that somebody is answered while the poisoned ones are tried again
my $more = 0;
ok(poll(q{SELECT count(*) = 300 FROM llm_task WHERE prompt LIKE 'good%' AND state = 'done'}),
	'all good tasks are answered');
ok(poll_with_traffic(q{SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL}),
	'and the others come to an end');
foreach my $poison (@poisons)
{
	is(sql("SELECT state || ' ' || tries FROM llm_task WHERE prompt = 'poison: $poison'"),
		'failed 3', "$poison: failed after max_tries");
	is(sql("SELECT error_code ~ '^LL00[12]\$' AND response ->> 'error_code' = error_code FROM llm_task WHERE prompt = 'poison: $poison'"),
		't', "$poison: with its error");
}
is(sql(q{SELECT state || ' ' || tries || ' ' || error_code FROM llm_task WHERE prompt = 'poison: refused'}),
	'failed 1 LL003', 'a refused request is not tried again');
is(worker_pid(), $worker, 'the worker is the same as before');
cmp_ok(memory_of($worker), '<', 400_000, 'and has not grown by the large answers');

locked_row();
shut_residency();
many_tiers();
large_prompts();
unstorable();

$node->stop('fast');
done_testing();

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub poll { return $node->poll_query_until('postgres', $_[0]) }

sub worker_pid
{
	poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'});
	return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'});
}

# Polls while good tasks go on coming.
sub poll_with_traffic
{
	my ($condition) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $until)
	{
		sql('INSERT INTO llm_task(prompt) VALUES (\'more ' . ++$more . '\')')
		  if sql(q{SELECT count(*) = 0 FROM llm_task WHERE prompt LIKE 'more%' AND finished_at IS NULL}) eq 't';
		return 1 if sql(q{SELECT count(*) = 0 FROM llm_task
			WHERE prompt NOT LIKE 'more%' AND finished_at IS NULL}) eq 't';
	}
	diag(sql('SELECT id, prompt, state, tries, error FROM llm_task WHERE finished_at IS NULL'));
	return 0;
}

# Memory of a process that is its own, in kB.
sub memory_of
{
	my ($pid) = @_;
	my $status = slurp_file("/proc/$pid/status");
	return $status =~ /^RssAnon:\s+(\d+)/m ? $1 : 0;
}

# A user's transaction that holds the row of a running task.
sub locked_row
{
	my $slow = $sim->behave({ delay => 0.5 }, prompt => '^locked');
	my $holder = llm_session($node);

	sql(q{INSERT INTO llm_task(prompt) VALUES ('locked')});
	ok(poll(q{SELECT state = 'running' FROM llm_task WHERE prompt = 'locked'}),
		'a task runs');
	$holder->run(q{BEGIN; SELECT 1 FROM llm_task WHERE prompt = 'locked' FOR UPDATE});
	ok($sim->wait_for(in_progress => 0, max_in_progress => 0, listener => 'a'),
		'its call has ended while a user has its row locked');
	sql(q{INSERT INTO llm_task(prompt) SELECT 'beside ' || g FROM generate_series(1, 100) g});
	ok(poll(q{SELECT count(*) = 100 FROM llm_task WHERE prompt LIKE 'beside%' AND state = 'done'}),
		'the others are not held up');
	is(sql(q{SELECT state FROM llm_task WHERE prompt = 'locked'}), 'running',
		'its result waits');
	$holder->run('COMMIT');
	ok(poll(q{SELECT state = 'done' FROM llm_task WHERE prompt = 'locked'}),
		'and is stored when the row is free');
	is(sql(q{SELECT count(*) FROM llm_task WHERE prompt = 'locked' AND tries = 0}),
		'1', 'without another call');
	$sim->unbehave($slow);
	$holder->quit;
	return;
}

# Many tasks that only one region may see, which is out, before a few others of
# the same tier.
sub shut_residency
{
	add_tier($node, 'mixed');
	add_provider($node, $sim, 'b', tier => 'mixed');
	sql(q{INSERT INTO llm_route(tier, provider, model) VALUES ('mixed', 'a', 'model-a');
		INSERT INTO llm_region(provider, name, residency) VALUES ('a', 'r', '{eu}');
		SELECT llm_breaker_open('a', duration => '1 h');
		INSERT INTO llm_task(prompt, tier, residency)
			SELECT 'kept ' || g, 'mixed', 'eu' FROM generate_series(1, 3000) g;
		INSERT INTO llm_task(prompt, tier)
			SELECT 'free ' || g, 'mixed' FROM generate_series(1, 50) g});
	ok(poll(q{SELECT count(*) = 50 FROM llm_task WHERE prompt LIKE 'free%' AND state = 'done'}),
		'tasks whose residency nobody can serve keep no others waiting');
	is(sql(q{SELECT count(*) FILTER (WHERE state IN ('queued', 'running')) || ' ' || sum(tries)
		FROM llm_task WHERE residency = 'eu'}), '3000 0', 'and wait themselves');
	sql(q{DELETE FROM llm_task WHERE residency = 'eu'; SELECT llm_breaker_reset('a')});
	return;
}

# A task for each of very many tiers, which there are not.
sub many_tiers
{
	sql(q{INSERT INTO llm_task(prompt, tier, not_before)
		SELECT 'x', 'tier' || g, now() + interval '1 day' FROM generate_series(1, 20000) g});
	sql(q{INSERT INTO llm_task(prompt, tier) VALUES ('beside many tiers', 'mixed')});
	ok(poll(q{SELECT state = 'done' FROM llm_task WHERE prompt = 'beside many tiers'}),
		'a task is called beside 20,000 tiers that do not exist');
	cmp_ok(memory_of(worker_pid()), '<', 400_000, 'which the worker does not remember');
	sql(q{DELETE FROM llm_task WHERE tier LIKE 'tier%'});
	return;
}

sub large_prompts
{
	sql(q{INSERT INTO llm_tier(name) VALUES ('echo');
		INSERT INTO llm_route(tier, provider, model) VALUES ('echo', 'builtin', 'echo');
		INSERT INTO llm_task(prompt, tier) SELECT repeat('x', 10000000), 'echo' FROM generate_series(1, 30);
		INSERT INTO llm_task(prompt, tier) VALUES (repeat('y', 100000000), 'echo')});
	ok(poll(q{SELECT count(*) = 0 FROM llm_task WHERE tier = 'echo' AND finished_at IS NULL}),
		'large prompts come to an end');
	is(sql(q{SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM
		(SELECT state, count(*) AS n FROM llm_task WHERE tier = 'echo' GROUP BY 1) s}),
		'done 30, failed 1', 'all but one that is too large');
	is(sql(q{SELECT error_code || ' ' || error FROM llm_task WHERE tier = 'echo' AND state = 'failed'}),
		'LL003 the prompt is longer than 16 MB', 'which says so');
	is(worker_pid(), $worker, 'and it is still the same worker');
	return;
}

# A result that the table does not take.
sub unstorable
{
	sql(q{ALTER TABLE llm_task ADD CHECK (answer IS DISTINCT FROM 'bad');
		INSERT INTO llm_task(prompt, tier) SELECT CASE WHEN g = 7 THEN 'bad' ELSE 'fine ' || g END, 'echo'
			FROM generate_series(1, 20) g});
	ok(poll(q{SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL}),
		'tasks come to an end beside one whose result cannot be stored');
	is(sql(q{SELECT state || ' ' || error_code || ' ' || error FROM llm_task WHERE prompt = 'bad'}),
		'failed 23514 its result could not be stored', 'which fails');
	is(sql(q{SELECT count(*) FROM llm_task WHERE prompt LIKE 'fine%' AND state = 'done'}),
		'19', 'and the others are done');
	return;
}
