# 063_strategies.pl: who gets how much of a tier's calls: by weight, latency,
# load and price, with warm_share, while a provider ramps, and while one is out.
# llm_explain() says what a call's share will be, and observed traffic is
# measured against just that: a count that is off by more than 5 standard
# deviations is so once in a million.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(sum);
use LlmSim;
use LlmTest;
use Test::More;

my $CLIENTS = 16;
my $CALLS = 1200;

my $sim = LlmSim->new(listeners => [ 'a', 'b', 'c' ]);
my $node = llm_node('main');
add_provider($node, $sim, $_, model => undef) for 'a', 'b', 'c';
$node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	UPDATE llm_provider SET breaker_ramp = '1 day', breaker_open_time = '100 ms',
		breaker_half_open_calls = 1;
	INSERT INTO llm_tier(name, strategy, warm_share) VALUES
		('weighted', 'weighted', 0), ('warm', 'weighted', 0.1), ('latency', 'latency', 0),
		('busy', 'least_busy', 0), ('cost', 'cost', 0), ('even', 'weighted', 0), ('steps', 'weighted', 0);
	INSERT INTO llm_model(provider, name, input_price, output_price) VALUES
		('a', 'm', 10, 10), ('b', 'm', 1, 2), ('c', 'm', 2, 1);
	INSERT INTO llm_route(tier, provider, model, position, weight)
		SELECT t, p, 'm', 1, CASE WHEN t = 'weighted' THEN w ELSE 1 END
		  FROM unnest('{weighted,cost,even}'::text[]) t,
			(VALUES ('a', 5), ('b', 3), ('c', 2)) AS p(p, w);
	INSERT INTO llm_route(tier, provider, model, position) VALUES
		('warm', 'a', 'm', 1), ('warm', 'b', 'm', 2), ('warm', 'c', 'm', 3),
		('steps', 'a', 'm', 1), ('steps', 'b', 'm', 2),
		('latency', 'a', 'm', 1), ('latency', 'b', 'm', 1),
		('busy', 'a', 'm', 1), ('busy', 'b', 'm', 1);
});

subtest 'weighted' => \&weighted;
subtest 'warm_share' => \&warm_share;
subtest 'ramp' => \&ramp;
subtest 'cost' => \&cost;
subtest 'latency' => \&latency;
subtest 'least_busy' => \&least_busy;
done_testing();

sub sql { return $node->safe_psql('postgres', $_[0]); }

# All is well, and nobody has called.
sub fresh
{
	$sim->reset;
	sql('SELECT llm_breaker_reset(), llm_stat_reset()');
	return;
}

# Shares of a tier by llm_explain(): "a 0.5, b 0.3, c 0.2".
sub explained
{
	my ($tier) = @_;
	return sql(qq{SELECT string_agg(provider || ' ' || round(share::numeric, 3)::real, ', ' ORDER BY provider)
		FROM llm_explain('Hello', '$tier') WHERE tier = '$tier'});
}

# Makes calls from many sessions; who answered how many.
sub observe
{
	my ($tier, $calls) = @_;
	my $load = llm_load($node, tiers => [$tier], clients => $CLIENTS,
		calls => ($calls // $CALLS) / $CLIENTS)->finish;

	is($load->value('SELECT count(*) FROM calls WHERE error_code IS NOT NULL OR attempts <> 1'),
		'0', "$tier: all calls were answered at once");
	return map { split /\|/ } split /\n/,
	  $load->value('SELECT provider, count(*) FROM calls GROUP BY 1');
}

# Traffic agrees with what llm_explain() says of it, before and after.
sub is_as_explained
{
	my ($tier, $want, $name) = @_;

	is(explained($tier), $want, "$name: llm_explain()");
	my %count = observe($tier);
	my $n = sum(values %count);
	my %share = map { split ' ' } split /, /, $want;
	foreach my $provider (sort keys %share)
	{
		my $p = $share{$provider};
		my $count = delete $count{$provider} // 0;
		cmp_ok(abs($count - $n * $p), '<=', 5 * sqrt($n * $p * (1 - $p)),
			"$name: $provider has $count of $n at a share of $p");
	}
	is_deeply(\%count, {}, "$name: nobody else answered");
	return;
}

sub weighted
{
	fresh();
	is_as_explained('weighted', 'a 0.5, b 0.3, c 0.2', 'by weight');
	sql(q{SELECT llm_breaker_open('a')});
	is_as_explained('weighted', 'a 0, b 0.6, c 0.4', 'one is out');
	is(sql(q{SELECT verdict, reason ~ '^provider breaker open until' FROM llm_explain(tier => 'weighted') WHERE provider = 'a'}),
		'out|t', 'llm_explain says why');
	return;
}

# A tenth of the calls goes to those that would get none.
sub warm_share
{
	fresh();
	is_as_explained('warm', 'a 0.9, b 0.05, c 0.05', 'warm_share');
	sql(q{SELECT llm_breaker_open('b')});
	is_as_explained('warm', 'a 0.9, b 0, c 0.1', 'warm_share without one that is out');
	sql(q{SELECT llm_breaker_open('a')});
	is(explained('warm'), 'a 0, b 0, c 1', 'the last one has all');

	# Only a call's first attempt is for warming.
	fresh();
	$sim->behave({ template => 'rate_limit', headers => { 'retry-after' => '3600' } }, listener => 'c');
	my %count = map { split /\|/ } split /\n/, sql(q{SELECT provider, count(*)
		FROM generate_series(1, 100) g, llm_respond('Hi ' || g, 'warm') GROUP BY 1});
	ok(!exists $count{c}, 'a cold one that refuses costs no answer');
	is(sql(q{SELECT verdict, reason ~ '^throttled until' FROM llm_explain(tier => 'warm') WHERE provider = 'c'}),
		'out|t', 'it is throttled, now or never asked')
	  if $sim->count('c');
	return;
}

# A ramp that takes a day stands still at a tenth. Whatever it does not get goes
# to the others as they share, and to the next group where there are none.
sub ramp
{
	fresh();
	ramp_up('a');
	is_as_explained('even', 'a 0.033, b 0.483, c 0.483', 'one ramps');
	is_as_explained('steps', 'a 0.1, b 0.9', 'its backup has the rest');
	is(sql(q{SELECT verdict, reason FROM llm_explain(tier => 'steps') WHERE provider = 'a'}),
		'limited|target breaker ramping, at 10 %', 'llm_explain says why');
	is(sql(q{SELECT state, reason ~ '^target breaker ramping' FROM llm_status WHERE provider = 'a'}),
		'ramping|t', 'llm_status, too');

	# An answer of the tier is worth more than a gentle ramp.
	sql(q{SELECT llm_breaker_open('b'), llm_breaker_open('c')});
	is_as_explained('steps', 'a 1, b 0', 'nobody else is there');
	is_as_explained('even', 'a 1, b 0, c 0', 'nobody else is there, in one group');
	return;
}

# Breaks a provider's target, and lets it come back.
sub ramp_up
{
	my ($listener) = @_;
	my $id = $sim->behave({ status => 500 }, listener => $listener);

	sql("UPDATE llm_provider SET breaker_consecutive = 1 WHERE name = '$listener'");
	sql(q{SELECT llm_complete('Hi', 'steps', timeout => '10 s')});
	sql("UPDATE llm_provider SET breaker_consecutive = DEFAULT WHERE name = '$listener'");
	$sim->unbehave($id);
	$node->poll_query_until('postgres',
		"SELECT state = 'half_open' FROM llm_status WHERE provider = '$listener'")
	  or die 'it does not open';
	sql(q{SELECT llm_complete('Hi', 'steps', timeout => '10 s')});
	return;
}

# The cheapest for this request has all; output counts as well as input.
sub cost
{
	fresh();
	is_as_explained('cost', 'a 0, b 0, c 1', 'long answers');
	is(sql(q{SELECT string_agg(provider || ' ' || share, ', ' ORDER BY provider)
		FROM llm_explain(repeat('word ', 2000), 'cost', max_tokens => 10) WHERE tier = 'cost'}),
		'a 0, b 1, c 0', 'long prompts');
	is(sql(q{SELECT count(DISTINCT provider) || min(provider) FROM generate_series(1, 20) g,
		llm_respond(repeat('word ', 2000), 'cost', max_tokens => 10)}), '1b', 'which is who gets them');
	sql(q{SELECT llm_breaker_open('c')});
	is_as_explained('cost', 'a 0, b 1, c 0', 'the cheapest is out');
	sql(q{UPDATE llm_model SET input_price = NULL WHERE provider = 'b'});
	is(explained('cost'), 'a 1, b 0, c 0', 'who has no price is the dearest');
	sql(q{UPDATE llm_model SET input_price = 10, output_price = 10 WHERE provider IN ('b', 'c')});
	sql('SELECT llm_breaker_reset()');
	is_as_explained('cost', 'a 0.333, b 0.333, c 0.333', 'equals share');
	return;
}

# Calls go where they are answered sooner, until it is busier than it is faster.
sub latency
{
	# less than 250 ms: nobody is suspect by silence
	fresh();
	$sim->behave({ delay => 0.02 }, listener => 'a');
	$sim->behave({ delay => 0.15 }, listener => 'b');
	my %count = observe('latency', 800);
	cmp_ok($count{a} // 0, '>', 0.8 * 800, "the faster one has $count{a} of 800");
	cmp_ok($sim->count('b'), '>=', 1, 'the other one was tried');

	# At rest the faster one is better, and llm_explain() knows.
	is(explained('latency'), 'a 1, b 0', 'llm_explain() at rest');

	# Who was slow once is tried again after some time, though one alone always
	# has a better choice, and found to be the better one now.
	$sim->clear;
	$sim->behave({ delay => 0.08 }, listener => 'a');
	my $asked = $sim->count('b');
	my $load = llm_load($node, tiers => ['latency'], clients => 1);
	ok(eval { $sim->wait_for(listener => 'b', requests => $asked + 50, timeout => 60) },
		'who has become fast is found out');
	$load->stop;
	return;
}

# Calls go where fewer are under way, so that five times as fast is five times
# as many.
sub least_busy
{
	fresh();
	$sim->behave({ delay => 0.03 }, listener => 'a');
	$sim->behave({ delay => 0.15 }, listener => 'b');
	my %count = observe('busy', 800);
	cmp_ok($count{a}, '>', 0.7 * 800, "the faster one has $count{a} of 800");
	cmp_ok($count{b}, '>', 0.05 * 800, "... and the other one $count{b}");
	is(explained('busy'), 'a 0.5, b 0.5', 'llm_explain() at rest: equals share');

	# While one is busy the other one has all.
	$sim->clear;
	$sim->behave({ hang => \1 }, listener => 'a');
	sql(q{SELECT llm_breaker_open('b')});
	my $session = llm_session($node);
	$session->start(q{SELECT llm_complete('Hi', 'busy')});
	$session->wait_in_call;
	sql(q{SELECT llm_breaker_reset('b')});
	is(sql(q{SELECT in_flight FROM llm_status WHERE provider = 'a'}), '1', 'one is busy');
	sql(q{SELECT llm_complete('Hi', 'busy')}) for 1 .. 2;
	is(explained('busy'), 'a 0, b 1', 'the other one has all');
	is(sql(q{SELECT count(DISTINCT provider) || min(provider)
		FROM generate_series(1, 10) g, llm_respond('Hi ' || g, 'busy')}), '1b', '... indeed');
	$session->cancel;
	is(explained('busy'), 'a 0.5, b 0.5', 'until it is free');
	$session->quit;
	return;
}
