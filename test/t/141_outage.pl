# 141_outage.pl: tasks sit an outage out. They wait in the table without using up
# tries, keep no other tier waiting, say why they wait, expire on time, go down
# the chain where they may, and are called when somebody answers again.
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

add_tier($node, 'well');
add_tier($node, 'sick', fallback => 'well');
add_tier($node, 'strict', queue_timeout => '1 s');
add_tier($node, 'lenient', queue_timeout => '1 s', fallback => 'well');
add_provider($node, $sim, 'a', tier => 'sick');
add_provider($node, $sim, 'b', tier => 'well');
sql(q{INSERT INTO llm_route(tier, provider, model) VALUES
	('strict', 'a', 'model-a'), ('lenient', 'a', 'model-a');
	UPDATE llm_provider SET breaker_open_time = '300 ms',
	breaker_open_time_max = '300 ms', breaker_ramp = '0'});

outage();
waiting();
switched_off();

$node->stop('fast');
done_testing();

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub states
{
	my ($where) = @_;
	return sql("SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM"
		  . " (SELECT state, count(*) AS n FROM llm_task WHERE $where GROUP BY 1) s");
}

sub until_states
{
	my ($where, $states, $name) = @_;
	my $ok = $node->poll_query_until('postgres', <<"END", $states);
SELECT string_agg(state || ' ' || n, ', ' ORDER BY state)
  FROM (SELECT state, count(*) AS n FROM llm_task WHERE $where GROUP BY 1) s
END
	ok($ok, $name) or diag(sql("SELECT * FROM llm_queue"),
		sql("SELECT id, state, tries, error FROM llm_task WHERE $where"));
	return;
}

# Has all processes read their settings. A session that starts after the server
# has read them starts after it has told the others.
sub reload
{
	my $before = sql('SELECT pg_conf_load_time()');

	sql('SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', "SELECT pg_conf_load_time() > '$before'")
	  or die 'the server does not read its settings';
	return;
}

# A provider dies under many tasks, each of which has one try only.
sub outage
{
	my $slow = $sim->behave({ delay => 0.3 }, listener => 'a');

	sql(q{INSERT INTO llm_task(prompt, tier, max_tries)
		SELECT 'sick ' || g, 'sick', 1 FROM generate_series(1, 100) g});
	ok($sim->wait_for(in_progress => 50, listener => 'a'),
		'many calls are under way');
	$sim->down('a');
	until_states(q{tier = 'sick'}, 'queued 100',
		'the provider dies: all of them go back to the queue');
	is(sql(q{SELECT sum(tries) FROM llm_task WHERE tier = 'sick'}), '0',
		'without having used up a try');
	# between two trials
	ok($node->poll_query_until('postgres',
			q{SELECT running = 0 AND blocked_by ~ '^no candidate admitted: a' FROM llm_queue WHERE tier = 'sick'}),
		'llm_queue says why they wait');

	sql(q{INSERT INTO llm_task(prompt, tier)
		SELECT 'well ' || g, 'well' FROM generate_series(1, 100) g});
	until_states(q{tier = 'well'}, 'done 100', 'another tier goes on');
	is(states(q{tier = 'sick'}), 'queued 100', 'while this one waits');

	$sim->unbehave($slow);
	$sim->up('a');
	until_states(q{tier = 'sick'}, 'done 100',
		'the provider is back: all are answered');
	is(sql(q{SELECT max(tries) FROM llm_task WHERE tier = 'sick'}), '0',
		'and no trial has cost a try');
	is(sql(q{SELECT count(*) FROM llm_task WHERE (response ->> 'degraded')::bool}),
		'0', 'none is degraded');
	return;
}

# How long a task waits, and what ends that.
sub waiting
{
	my $begun = sql('SELECT now()');

	sql(q{SELECT llm_breaker_open('a', duration => '1 h')});
	sql(q{INSERT INTO llm_task(prompt, tier, expires_at, allow_degraded, metadata)
		VALUES ('1', 'sick', now() + interval '1 s', false, '"expires"'),
		('2', 'strict', NULL, false, '"timeout"'),
		('3', 'lenient', NULL, false, '"timeout"'),
		('4', 'lenient', NULL, true, '"degraded"'),
		('5', 'sick', NULL, true, '"degraded at once"'),
		('6', 'sick', NULL, false, '"waits"'),
		('7', 'strict', now() - interval '1 s', false, '"too late"')});
	until_states(q{metadata = '"degraded at once"'}, 'done 1',
		'without queue_timeout a task that may be degraded is so at once');
	until_states(q{metadata IN ('"expires"', '"timeout"', '"too late"')},
		'expired 4', 'tasks expire while they wait');
	until_states(q{metadata = '"degraded"'}, 'done 1',
		'after queue_timeout a task goes down the chain if it may');
	is(sql(q{SELECT string_agg(DISTINCT error_code, ',') FROM llm_task WHERE state = 'expired'}),
		'LL002', 'an expired task has LL002');
	is(sql(q{SELECT count(*) FROM llm_task WHERE state = 'expired' AND response IS NOT NULL}),
		'0', 'and was never called');
	is(sql(q{SELECT string_agg(response ->> 'tier', ',') FROM llm_task
		WHERE (response ->> 'degraded')::bool}), 'well,well',
		'a degraded answer says so');
	is(sql(qq{SELECT bool_and(finished_at >= created_at + interval '1 s')
		FROM llm_task WHERE metadata IN ('"timeout"', '"degraded"', '"expires"')
		AND created_at > '$begun'}), 't', 'none of them too early');
	is(states(q{metadata = '"waits"'}), 'queued 1', 'others wait on');
	sql(q{SELECT llm_breaker_reset('a')});
	until_states(q{metadata = '"waits"'}, 'done 1',
		'until the breaker is closed');
	return;
}

# The kill switch, a disabled tier, a key that does not exist: tasks wait.
sub switched_off
{
	my %off = (
		'llm_failover.enabled = off' => [
			'ALTER SYSTEM SET llm_failover.enabled = off',
			'ALTER SYSTEM RESET llm_failover.enabled' ],
		'a disabled tier' => [
			q{UPDATE llm_tier SET enabled = false WHERE name = 'well'},
			q{UPDATE llm_tier SET enabled = true WHERE name = 'well'} ],
		'a disabled provider' => [
			q{UPDATE llm_provider SET enabled = false WHERE name = 'b'},
			q{UPDATE llm_provider SET enabled = true WHERE name = 'b'} ],
		'a missing key' => [
			q{UPDATE llm_provider SET secret = 'nowhere' WHERE name = 'b'},
			q{UPDATE llm_provider SET secret = 'key_b' WHERE name = 'b'} ],
		'llm_failover.worker_concurrency = 0' => [
			'ALTER SYSTEM SET llm_failover.worker_concurrency = 0',
			'ALTER SYSTEM RESET llm_failover.worker_concurrency' ],
		'llm_pause()' => [ 'SELECT llm_pause()', 'SELECT llm_resume()' ]);

	foreach my $what (sort keys %off)
	{
		my ($off, $on) = @{ $off{$what} };
		my $requests = $sim->count('b');

		sql($off);
		reload();
		sql(qq{INSERT INTO llm_task(prompt, tier, metadata)
			VALUES ('x', 'well', to_jsonb('$what'::text))});
		ok($node->poll_query_until('postgres',
				q{SELECT blocked_by IS NOT NULL FROM llm_queue WHERE tier = 'well'}),
			"$what: llm_queue says so");
		is(states("metadata = to_jsonb('$what'::text)"), 'queued 1',
			"$what: a task waits");
		sql($on);
		reload();
		until_states("metadata = to_jsonb('$what'::text)", 'done 1',
			"$what: and is called after that");
		is($sim->count('b'), $requests + 1, "$what: once");
		is(sql("SELECT tries FROM llm_task WHERE metadata = to_jsonb('$what'::text)"),
			'0', "$what: without having used up a try");
	}
	return;
}
