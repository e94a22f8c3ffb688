# 041_status.pl: what the views tell of a target that answers, is slow,
# throttles and comes back; what an operator changes by hand, and on a standby;
# what happens when shared memory has no place. Durations are compared with
# lower bounds only, so that a slow machine cannot fail.
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
my $node = llm_node('main', init => [ allows_streaming => 1 ]);
add_tier($node, 't', max_attempts => 1);
add_provider($node, $sim, 'a', tier => 't', model => 'm');
$node->safe_psql('postgres', q{UPDATE llm_provider SET breaker_window = '10 min'});

my $call = q{SELECT llm_complete('Hello', 't', on_error => 'null')};

# What llm_status tells of a provider's target.
sub status
{
	my ($columns, %args) = @_;
	return psql_ok($args{node} // $node,
		    "SELECT concat_ws('|', $columns) FROM llm_status"
		  . " WHERE provider = '" . ($args{provider} // 'a') . "'",
		"$columns is told");
}

subtest 'what is counted and measured' => sub {
	my $rule = $sim->behave({ delay => 0.2 }, times => 2);

	psql_ok($node, $call, 'a slow call') for 1 .. 2;
	is(status('calls, failures, error_rate, in_flight, state'), '2|0|0|0|closed', 'two calls');
	is(status(q{p50 >= '190 ms', p50 <= p95, p95 <= p99, p50 = total_p50, p99 = total_p99}),
		't|t|t|t|t', 'as long as they took');

	$sim->behave({ hang => \1 });
	my $session = llm_session($node);
	$session->start($call);
	$sim->wait_for(listener => 'a', in_progress => 1);
	is(status('calls, in_flight'), '2|1', 'one is under way');
	$session->cancel;
	is(status('in_flight, state'), '0|closed', 'and was cancelled: nobody is to blame');
	$sim->clear;

	$sim->behave({ template => 'server_error' }, times => 1);
	psql_ok($node, $call, 'a failure');
	is(status('failures, round(error_rate::numeric, 2)'), '1|0.33', 'one in three failed');
	is( psql_ok($node, q{SELECT llm_breaker_reset('a'); SELECT error_rate IS NULL, failures FROM llm_status}),
		"\nt|1", 'a reset forgets the rate, not the count');
	is( psql_ok($node, q{SELECT llm_stat_reset(); SELECT calls, failures, total_p50 IS NULL, p50 IS NULL FROM llm_status}),
		"\n0|0|t|f", 'the other one the counts, not the last minute');
	is( psql_ok($node, q{SELECT calls, attempts FROM llm_stat_tier WHERE tier = 't'}),
		'0|0', 'of tiers as well');
};

subtest 'throttled' => sub {
	$sim->behave({ template => 'rate_limit', retry_after => 3600 }, times => 1);
	psql_ok($node, $call, 'is told to wait');
	is(status(q{state, reason, until > now() + '50 min'}),
		'throttled|target throttled|t', 'until it may be asked again');
	like(
		psql_ok($node, 'SELECT ok, targets_open, reason FROM llm_health'),
		qr{^f\|0\|no provider of tier "t" is admitted: a/default/m \(throttled until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\)$},
		'the tier is unwell, though no breaker is open');
	my $before = $sim->count('a');
	psql_ok($node, $call, 'another call');
	is($sim->count('a'), $before, 'is not made');
	psql_ok($node, q{SELECT llm_breaker_reset('a', 'default', 'm')}, 'a reset');
	is(status('state, until, reason'), 'closed', 'forgets it');
	is(psql_ok($node, $call), 'a/m: Hello', 'and it answers');
};

subtest 'half open, ramping' => sub {
	psql_ok($node, q{UPDATE llm_provider SET breaker_ramp = '1 day'}, 'a long ramp');
	psql_ok($node, q{SELECT llm_breaker_open('a', duration => '1 ms')}, 'opened for a moment');
	ok( $node->poll_query_until('postgres', q{SELECT state = 'half_open' FROM llm_status}),
		'it is half open when the time has passed');
	is(psql_ok($node, $call), 'a/m: Hello', 'a trial');
	is(status(q{state, until > now() + '23 hours', reason ~ '^provider breaker ramping'}),
		'ramping|t|t', 'begins the ramp');
	is(psql_ok($node, 'SELECT ok, targets_open FROM llm_health'), 't|0', 'and is admitted');
	psql_ok($node, q{SELECT llm_breaker_reset()}, 'a reset');
	is(status('state'), 'closed', 'ends it');
};

subtest 'limits are forgotten' => sub {
	psql_ok($node, q{INSERT INTO llm_model(provider, name, rpm) VALUES ('a', 'm', 1)}, 'one a minute');
	psql_ok($node, q{SELECT llm_breaker_reset('a')}, 'from now on');
	is(psql_ok($node, $call), 'a/m: Hello', 'the first');
	my $short = q{SELECT llm_complete('Hello', 't', on_error => 'null', timeout => '100 ms')};
	is(psql_ok($node, $short), '', 'no second');
	is(status('state'), 'closed', 'that is no illness');
	is(psql_ok($node, 'SELECT ok FROM llm_health'), 't', 'nor one of the tier');
	psql_ok($node, q{SELECT llm_breaker_reset('a', 'default', 'm')}, 'a reset');
	is(psql_ok($node, $call), 'a/m: Hello', 'and one more');
	psql_ok($node, q{DELETE FROM llm_model; SELECT llm_breaker_reset()}, 'no limit');
};

subtest 'the log' => sub {
	my $from = -s $node->logfile;

	psql_ok($node, q{CREATE ROLE "the operator"; GRANT USAGE ON SCHEMA public TO "the operator";
		SELECT llm_grant_admin('the operator')}, 'a role');
	psql_ok($node, q{SET ROLE "the operator";
		SELECT llm_breaker_open('a', 'default'); SELECT llm_breaker_reset('a')}, 'opens and closes');
	my $log = slurp_file($node->logfile, $from);
	like($log, qr/a\/default.* opened .*: opened by the operator/, 'who opened');
	like($log, qr/a\/default.* closed.*: reset by the operator/, 'and who closed');
};

subtest 'a standby has its own' => sub {
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->backup('backup');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	psql_ok($standby, q{SELECT llm_breaker_open('a', 'default', 'm')}, 'opened there');
	is(status('state', node => $standby), 'open', 'is open there');
	is(status('state'), 'closed', 'and not on the primary');
	is(psql_ok($node, $call), 'a/m: Hello', '... which asks');
	psql_ok($standby, q{SELECT llm_breaker_reset(); SELECT llm_stat_reset()}, 'resets');
	is(psql_ok($standby, $call), 'a/m: Hello', 'then the standby asks, too');
	is(status('calls', node => $standby), '1', 'and counts');
	is( psql_ok($standby, q{SELECT calls FROM llm_stat_tier WHERE tier = 't'}),
		'1', '... by tier as well');
	$standby->stop;
};

subtest 'no place in shared memory' => sub {
	$node->append_conf('postgresql.conf', 'llm_failover.max_cells = 2');
	$node->restart;
	is(psql_ok($node, $call), 'a/m: Hello', 'calls are made');
	is(psql_ok($node, 'SELECT ok, cells_unshared > 0 FROM llm_health'), 't|t', 'and it is told');
	is(status('state, calls', provider => 'a'), 'closed|0', 'each session has its own figures');
	# of provider, region and target at most two have a place
	my @ends = map { run_sql($node, "SELECT llm_breaker_open($_)")->{sqlstate} }
	  q{'a'}, q{'a', 'default'}, q{'a', 'default', 'm'};
	ok((grep { $_ eq '53400' } @ends), 'what nobody would see is not opened');
	is(psql_ok($node, 'SELECT llm_breaker_reset(); SELECT llm_stat_reset()'), "\n", 'resets do no harm');
};

done_testing();
