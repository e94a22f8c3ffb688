# 069_slow_trial.pl: a provider that comes back slower than it ever was is found
# to be back, hedges do not hide one that hangs, and a lost attempt goes on
# looking for somebody else to ask.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b', 'c' ]);
my $node = llm_node('main');

# Asks once; returns who answered, or the error's code.
sub ask
{
	my ($tier, $timeout) = @_;
	return $node->safe_psql('postgres', sprintf q{
		SELECT coalesce(provider, error_code)
		  FROM llm_respond('Hello', '%s', on_error => 'null', allow_degraded => false, timeout => '%s')},
		$tier, $timeout // '10 s');
}

sub state
{
	my ($provider) = @_;
	return $node->safe_psql('postgres', "SELECT state FROM llm_status WHERE provider = '$provider'");
}

# So many answers that their usual duration is known.
sub learn
{
	my ($tier) = @_;
	is($node->safe_psql('postgres', "SELECT count(llm_complete('x', '$tier')) FROM generate_series(1, 40)"), 40, "$tier: is known");
}

add_tier($node, $_, attempt_timeout => '6 s', timeout => '20 s', connect_timeout => '100 ms')
  foreach qw(alone hedged three);
add_provider($node, $sim, 'a', name => 'a', tier => 'alone');
$node->safe_psql('postgres', q{UPDATE llm_provider SET breaker_open_time = '200 ms', breaker_open_time_max = '1 s', breaker_ramp = '0'});

subtest 'nothing is known of it' => sub {
	my $rule = $sim->behave({ status => 503 }, listener => 'a');
	ask('alone', '300 ms') foreach 1 .. 3;
	like(state('a'), qr/open/, 'it fails');    # or half_open by now
	$sim->unbehave($rule);
	# longer than connect_timeout, which is all that a first trial may take
	$rule = $sim->behave({ delay => 0.7 }, listener => 'a');
	ok($node->poll_query_until('postgres', q{
		SELECT provider IS NOT NULL FROM llm_respond('Hello', 'alone', on_error => 'null', allow_degraded => false)}),
		'it answers in the end');
	ok($node->poll_query_until('postgres', q{
		SELECT state = 'closed' FROM llm_status, llm_respond('Hello', 'alone', on_error => 'null') WHERE llm_status.provider = 'a'}),
		'and is back');
	$sim->unbehave($rule);
};

subtest 'slower than it ever was, with a fallback' => sub {
	add_tier($node, 'below');
	$node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		INSERT INTO llm_route(tier, provider, model) VALUES ('below', 'builtin', 'echo');
		UPDATE llm_tier SET fallback = 'below' WHERE name = 'alone';
		SELECT llm_breaker_reset()});
	learn('alone');
	my $rule = $sim->behave({ status => 503 }, listener => 'a');
	ask('alone', '300 ms') foreach 1 .. 3;
	like(state('a'), qr/open/, 'it fails');    # or half_open by now
	$sim->unbehave($rule);
	$rule = $sim->behave({ delay => 0.4 }, listener => 'a');
	ok($node->poll_query_until('postgres', q{
		SELECT provider = 'a' FROM llm_respond('Hello', 'alone')}),
		'a later trial has the time it needs');
	$sim->unbehave($rule);
};

subtest 'hedged away' => sub {
	add_provider($node, $sim, 'b', name => 'b1', tier => 'hedged');
	add_provider($node, $sim, 'c', name => 'c1', tier => 'hedged', position => 2);
	learn('hedged');
	$node->safe_psql('postgres', q{UPDATE llm_tier SET hedge_after = '50 ms' WHERE name = 'hedged'});
	my @rules = ($sim->behave({ hang => \1 }, listener => 'b'),
		$sim->behave({ delay => 0.4 }, listener => 'c'));
	is(join(' ', map { ask('hedged') } 1 .. 4), 'c1 c1 c1 c1', 'somebody else answers each time');
	is(state('b1'), 'open', 'and the one that hangs is found out');
	$sim->unbehave($_) foreach @rules;
};

subtest 'a second one that fails' => sub {
	add_provider($node, $sim, 'a', name => 'a3', tier => 'three');
	add_provider($node, $sim, 'b', name => 'b3', tier => 'three', position => 2);
	add_provider($node, $sim, 'c', name => 'c3', tier => 'three', position => 3);
	$node->safe_psql('postgres', q{UPDATE llm_provider SET breaker_consecutive = 1 WHERE name = 'a3'});
	learn('three');
	$sim->behave({ hang => \1 }, listener => 'a');
	$sim->behave({ status => 500 }, listener => 'b');
	is($node->safe_psql('postgres', q{
		SELECT provider, latency < '5 s' FROM llm_respond('Hello', 'three')}),
		'c3|t', 'a third one is asked before the first has timed out');
};

done_testing();
