# 014_health_columns.pl: each column of the configuration that health depends on
# does what it says. One after the other is set, so that a value that went to
# another's place is noticed. The prompt tells the simulator what to do.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main');
$sim->behave({ template => 'overloaded' }, prompt => '^fail');
$sim->behave({ delay => 0.3 }, prompt => '^slow');
$sim->behave({ hang => \1 }, prompt => '^hang', listener => 'a');

# A provider whose breakers nothing opens, but for what a test sets.
sub breaker
{
	my ($name, %columns) = @_;
	%columns = (min_calls => 1000, consecutive => 1000, %columns);
	add_tier($node, $name, max_attempts => 1);
	add_provider($node, $sim, 'a', name => $name, tier => $name, model => 'm');
	$node->safe_psql('postgres', "UPDATE llm_provider SET "
		  . join(', ', map { "breaker_$_ = '$columns{$_}'" } sort keys %columns)
		  . " WHERE name = '$name'");
	return;
}

sub call
{
	my ($tier, @prompts) = @_;
	$node->safe_psql('postgres',
		"SELECT llm_complete('$_', '$tier', on_error => 'null', allow_degraded => false)")
	  foreach @prompts;
	return;
}

sub status
{
	my ($name, $columns) = @_;
	return $node->safe_psql('postgres', "SELECT $columns FROM llm_status WHERE provider = '$name'");
}

sub explained
{
	my ($tier, $columns) = @_;
	return $node->safe_psql('postgres',
		"SELECT $columns FROM llm_explain('x', '$tier', allow_degraded => false)");
}

subtest 'breakers' => sub {
	breaker('window', window => '1 s');
	breaker('window_long', window => '10 min');
	call($_, 'fail') foreach 'window', 'window_long';
	ok($node->poll_query_until('postgres',
			q{SELECT error_rate IS NULL FROM llm_status WHERE provider = 'window'}),
		'breaker_window: forgotten after it');
	is(status('window_long', 'error_rate'), '1', 'breaker_window: not before');

	breaker('consecutive', consecutive => 2);
	call('consecutive', 'fail', 'ok', 'fail');
	is(status('consecutive', 'state'), 'closed', 'breaker_consecutive: fewer in a row');
	call('consecutive', 'fail');
	is(status('consecutive', 'state'), 'open', 'breaker_consecutive: so many');

	breaker('rate', min_calls => 3, failure_rate => 0.6);
	call('rate', 'fail', 'fail');
	is(status('rate', 'state'), 'closed', 'breaker_min_calls: too few calls');
	call('rate', 'ok');
	is(status('rate', 'state'), 'open', 'breaker_failure_rate: enough, and 2 of 3 failed');
	breaker('rate_high', min_calls => 3, failure_rate => 0.7);
	call('rate_high', 'fail', 'fail', 'ok');
	is(status('rate_high', 'state'), 'closed', 'breaker_failure_rate: 2 of 3 are not enough');

	breaker('slow', min_calls => 2, slow_call => '200 ms', slow_rate => 0.4);
	call('slow', 'slow', 'ok');
	is(status('slow', 'state'), 'open', 'breaker_slow_call, breaker_slow_rate: 1 of 2 is slow');
	breaker('slow_rate', min_calls => 2, slow_call => '200 ms', slow_rate => 0.9);
	call('slow_rate', 'slow', 'ok');
	is(status('slow_rate', 'state'), 'closed', 'breaker_slow_rate: 1 of 2 is not enough');
	breaker('slow_call', min_calls => 2, slow_call => '1 day', slow_rate => 0.1);
	call('slow_call', 'slow', 'slow');
	is(status('slow_call', 'state'), 'closed', 'breaker_slow_call: nothing is slow');

	breaker('open_time', consecutive => 1, open_time => '2 h', open_time_max => '4 h');
	call('open_time', 'fail');
	is(status('open_time', q{until - now() BETWEEN '1 h 40 min' AND '2 h 20 min'}),
		't', 'breaker_open_time: open for so long');
	breaker('open_longer', consecutive => 1, open_time => '20 ms');
	my $longer = 'f';
	foreach (1 .. 12)
	{
		call('open_longer', 'fail');
		$longer = status('open_longer', q{coalesce(until > now() + interval '1 s', false)});
		last if $longer eq 't';
		$node->poll_query_until('postgres',
			q{SELECT state <> 'open' FROM llm_status WHERE provider = 'open_longer'});
	}
	is($longer, 't', 'breaker_open_time doubles');
	breaker('open_max', consecutive => 1, open_time => '20 ms', open_time_max => '40 ms');
	foreach (1 .. 5)
	{
		call('open_max', 'fail');
		$node->poll_query_until('postgres',
			q{SELECT state <> 'open' FROM llm_status WHERE provider = 'open_max'});
	}
	call('open_max', 'fail');
	is(status('open_max', q{coalesce(until, now()) < now() + interval '100 ms'}),
		't', 'breaker_open_time_max: never longer');

	ok($node->poll_query_until('postgres',
			q{SELECT state = 'half_open' FROM llm_status WHERE provider = 'open_max'}),
		'its time is up');
	is(explained('open_max', q{verdict, reason ~ 'half-open, 0 of 3 trials'}),
		'limited|t', 'breaker_half_open_calls: the default');
	$node->safe_psql('postgres', q{UPDATE llm_provider SET breaker_half_open_calls = 7 WHERE name = 'open_max'});
	is(explained('open_max', q{reason ~ 'half-open, 0 of 7 trials'}),
		't', 'breaker_half_open_calls: as it is set');

	$node->safe_psql('postgres', q{UPDATE llm_provider SET breaker_ramp = '10 h' WHERE name = 'open_max'});
	call('open_max', 'ok');
	is(status('open_max', q{state, until - now() BETWEEN '9 h' AND '10 h'}),
		'ramping|t', 'breaker_ramp: so long');
	breaker('no_ramp', consecutive => 1, open_time => '20 ms', ramp => '0');
	call('no_ramp', 'fail');
	$node->poll_query_until('postgres',
		q{SELECT state <> 'open' FROM llm_status WHERE provider = 'no_ramp'});
	call('no_ramp', 'ok');
	is(status('no_ramp', 'state'), 'closed', 'breaker_ramp: none');
};

subtest 'limits' => sub {
	breaker($_) foreach 'rpm', 'tpm', 'max_inflight';
	$node->safe_psql('postgres', q{
		INSERT INTO llm_model(provider, name, rpm) VALUES ('rpm', 'm', 1);
		INSERT INTO llm_model(provider, name, tpm) VALUES ('tpm', 'm', 1);
		INSERT INTO llm_region(provider, name, max_inflight) VALUES ('max_inflight', 'r', 1)});
	foreach my $name ('rpm', 'tpm', 'max_inflight')
	{
		is(explained($name, 'verdict'), 'ready', "$name: there is room");
	}
	call('rpm', 'ok');
	like(explained('rpm', 'verdict, reason'), qr/^(limited|out)\|rpm 1 is reached/, 'rpm');
	call('tpm', 'ok');
	like(explained('tpm', 'verdict, reason'), qr/^(limited|out)\|tpm 1 is reached/, 'tpm');

	my $session = llm_session($node);
	$session->start(q{SELECT llm_complete('hang', 'max_inflight')});
	$sim->wait_for(listener => 'a', in_progress => 1);
	like(explained('max_inflight', 'verdict, reason'),
		qr/^(limited|out)\|region is at max_inflight 1/, 'max_inflight');
	$session->cancel;
	is(explained('max_inflight', 'verdict'), 'ready', 'max_inflight: there is room again');
};

subtest 'tiers' => sub {
	add_tier($node, 'tier', warm_share => 0.25);
	add_provider($node, $sim, 'a', tier => 'tier', model => 'm', position => 1);
	add_provider($node, $sim, 'b', tier => 'tier', model => 'm', position => 2);
	is(explained('tier', 'provider, share'), "a|0.75\nb|0.25", 'warm_share');

	$node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		UPDATE llm_tier SET warm_share = 0, strategy = 'cost' WHERE name = 'tier';
		UPDATE llm_route SET position = 1 WHERE tier = 'tier';
		INSERT INTO llm_model(provider, name, input_price, output_price) VALUES ('a', 'm', 1, 1), ('b', 'm', 1, 2)});
	is(explained('tier', 'provider, share'), "a|1\nb|0", 'strategy: the cheaper one');

	is(run_sql($node, q{SELECT llm_complete('hang', 'tier', timeout => '500 ms')})->{sqlstate},
		'LL002', 'hedge_after: NULL, nobody else is asked');
	$node->safe_psql('postgres', q{UPDATE llm_tier SET hedge_after = '10 ms' WHERE name = 'tier'});
	is($node->safe_psql('postgres', q{SELECT provider, attempts FROM llm_respond('hang', 'tier')}),
		'b|2', 'hedge_after: another one is asked');
};

$node->stop;
done_testing();
