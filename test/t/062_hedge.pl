# 062_hedge.pl: a second candidate is asked beside one that is silent. Where 2 %
# of responses hang, hedging cuts the 99th percentile and costs at most 5 % more
# requests; the loser is cancelled, gives its slot back, is counted in the cost,
# and stands in the trace. What hedges cost is bounded by the retry budget.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use Test::More;

# An answer takes LATENCY, a hang ATTEMPT_TIMEOUT, and hedging is in between,
# far enough from both for a busy machine.
my $LATENCY = 0.04;
my $HEDGE_AFTER = 0.3;
my $ATTEMPT_TIMEOUT = 1.5;
my $CLIENTS = 16;
my $CALLS = 960;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main', conf => "log_line_prefix = '%n [%p] '\n");
add_provider($node, $sim, $_, model => undef) for 'a', 'b';
$node->safe_psql('postgres', qq{
	SET client_min_messages = warning;
	INSERT INTO llm_tier(name, hedge_after, attempt_timeout) VALUES
		('plain', NULL, '$ATTEMPT_TIMEOUT s'), ('hedged', '$HEDGE_AFTER s', '$ATTEMPT_TIMEOUT s'),
		('standby', '$HEDGE_AFTER s', '$ATTEMPT_TIMEOUT s'), ('eager', '50 ms', '$ATTEMPT_TIMEOUT s'),
		('single', '100 ms', '1 min');
	INSERT INTO llm_model(provider, name, input_price, output_price) VALUES
		('a', 'm', 1000000, 0), ('b', 'm', 1000000, 0);
	INSERT INTO llm_route(tier, provider, model, position) VALUES
		('plain', 'a', 'm', 1), ('plain', 'b', 'm', 1),
		('hedged', 'a', 'm', 1), ('hedged', 'b', 'm', 1),
		('standby', 'a', 'm', 1), ('standby', 'b', 'm', 2),
		('eager', 'a', 'm', 1), ('eager', 'b', 'm', 1),
		('single', 'a', 'm', 1), ('single', 'b', 'm', 2)});

# The attempts of the session's last call.
my $TRACE = q{SELECT string_agg(concat_ws(' ', a.provider, a.outcome, a.next, CASE WHEN a.hedge THEN 'hedge' END), ', ')
	FROM llm_last() r, jsonb_to_recordset(r.trace) AS a(provider text, outcome text, next text, hedge boolean)};

tail_is_cut();
loser_is_cancelled();
hedge_loses();
budget_bounds();
outage_is_seen();
done_testing();

sub fresh
{
	$sim->reset;
	$node->safe_psql('postgres', 'SELECT llm_breaker_reset(), llm_stat_reset()');
	return;
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Each so many requests of a hang, which is 2 % of all; b always answers.
sub run_tail
{
	my ($tier, $every) = @_;

	fresh();
	$sim->behave({ hang => \1 }, listener => 'a', every => $every);
	$sim->behave({ delay => $LATENCY });
	my $offset = -s $node->logfile;
	my $load = llm_load($node, tiers => [$tier], clients => $CLIENTS,
		calls => $CALLS / $CLIENTS)->finish;
	my $p99 = $load->value(
		'SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds) FROM calls');
	my $p50 = $load->value(
		'SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) FROM calls');

	note sprintf '%s: p50 %.0f ms, p99 %.0f ms, %d requests', $tier,
	  1000 * $p50, 1000 * $p99, $sim->count(undef);
	is( $load->value(q{SELECT concat_ws(' ', error_code, tier, count(*)) FROM calls GROUP BY error_code, tier}),
		"$tier $CALLS", "$tier: all calls were answered");
	# a breaker opens at a failure rate of 50 %, or 3 failures in a row
	is(join("\n", map { "$_->{scope} $_->{to} $_->{reason}" } breaker_log($node, $offset)),
		'', '... and 2 % of failures open no breaker');
	return ($p99, $load);
}

sub tail_is_cut
{
	my ($plain) = run_tail('plain', 25);
	cmp_ok($plain, '>=', $ATTEMPT_TIMEOUT, 'without hedging p99 is the timeout');

	my ($hedged, $load) = run_tail('hedged', 25);
	cmp_ok($hedged, '<', $plain / 2, 'hedging cuts p99');
	cmp_ok($sim->count(undef), '<=', 1.05 * $CALLS, '... at 5 % more requests');
	cmp_ok($sim->count(undef), '>=', 1.01 * $CALLS, '... and not by luck');
	my $hedges = sql(q{SELECT hedges FROM llm_stat_tier WHERE tier = 'hedged'});
	is($hedges, $load->value(
		q{SELECT count(*) FROM calls, jsonb_array_elements(trace) a WHERE (a ->> 'hedge')::boolean}),
		'llm_stat_tier counts the hedges in the traces');
	is($hedges + $CALLS, $sim->count(undef), '... which are all the additional requests');
	cmp_ok($sim->count(undef, 'gone'), '>=', 0.01 * $CALLS, 'the losers were cancelled');
	is(sql('SELECT sum(in_flight) FROM llm_status'), '0', '... and gave their slots back');

	# A backup in the next position serves as well.
	($hedged) = run_tail('standby', 50);
	cmp_ok($hedged, '<', $plain / 2, 'hedging to a standby cuts p99');
	cmp_ok($sim->count(undef), '<=', 1.05 * $CALLS, '... at 5 % more requests');
	return;
}

# One call, whose first attempt hangs for longer than anybody waits.
sub loser_is_cancelled
{
	fresh();
	sql(q{UPDATE llm_provider SET enabled = true});
	$sim->behave({ hang => \1 }, listener => 'a', times => 1);
	$sim->behave({ usage => { input => 7, output => 5 } });
	my $session = llm_session($node);
	my $prompt = 'word ' x 40;    # 200 bytes: about 50 tokens
	my $out = $session->run("SELECT provider, attempts, degraded, cost FROM llm_respond('$prompt', 'single')")->{out};
	# Before anything else: the slot is free as soon as the answer is there.
	my $flight = sql('SELECT sum(in_flight) FROM llm_status');

	is($flight, '0', 'the slot of the loser is free at once');
	is($session->run($TRACE)->{out},
		'a cancelled candidate, b ok hedge', 'the trace says hedge');
	ok($sim->wait_for(listener => 'a', gone => 1), 'the request of the loser was aborted');
	like($out, qr/^b\|2\|f\|/, 'the second one answered');
	# USD 1 a token: 7 of the winner, by its own word; 50 of the loser, estimated
	is($out =~ s/.*\|//r, '57', 'the loser is in the cost');
	is(sql(q{SELECT attempts, hedges, failovers, failed FROM llm_stat_tier WHERE tier = 'single'}),
		'2|1|0|0', 'llm_stat_tier');
	is(sql(q{SELECT string_agg(concat_ws(' ', provider, calls, failures, state), ', ' ORDER BY provider)
		FROM llm_status}), 'a 1 0 closed, b 1 0 closed', 'llm_status blames nobody');
	$session->quit;
	return;
}

# The first one answers after all, while the hedge is under way.
sub hedge_loses
{
	fresh();
	$sim->behave({ delay => 0.6 }, listener => 'a');
	$sim->behave({ hang => \1 }, listener => 'b');
	my $session = llm_session($node);
	is($session->run(q{SELECT provider, attempts FROM llm_respond('Hello', 'single')})->{out},
		'a|2', 'the first one may win');
	is($session->run($TRACE)->{out},
		'b cancelled candidate hedge, a ok', '... and the hedge is cancelled');
	ok($sim->wait_for(listener => 'b', gone => 1), '... its request aborted');
	is(sql('SELECT sum(in_flight) FROM llm_status'), '0', '... and its slot returned');

	# A hedge that fails leaves the first one alone.
	$sim->clear;
	$sim->behave({ delay => 0.6 }, listener => 'a');
	$sim->behave({ template => 'overloaded' }, listener => 'b');
	is($session->run(q{SELECT provider FROM llm_respond('Hello', 'single')})->{out},
		'a', 'a hedge that fails costs no answer');
	is($session->run($TRACE)->{out},
		'b overloaded candidate hedge, a ok', '... and stands in the trace');

	# Nobody is asked beside an attempt that is not silent for so long.
	fresh();
	my $before = $sim->count('b');
	$session->run(q{SELECT llm_complete('Hello', 'single')});
	is($sim->count('b'), $before, 'who answers in time needs no hedge');
	$session->quit;
	return;
}

# All are slower than hedge_after: a fifth of the requests at most are hedges,
# and a few.
sub budget_bounds
{
	fresh();
	$sim->behave({ delay => 0.2 });
	my $calls = 320;
	my $load = llm_load($node, tiers => ['eager'], clients => $CLIENTS,
		calls => $calls / $CLIENTS)->finish;
	my $hedges = sql(q{SELECT hedges FROM llm_stat_tier WHERE tier = 'eager'});

	note "$hedges hedges of $calls calls";
	is($load->value('SELECT count(*) FROM calls WHERE error_code IS NOT NULL'), '0',
		'a spent budget costs no answer');
	cmp_ok($hedges, '>=', 0.1 * $calls, 'hedges draw on the budget');
	# two providers, with 3 that are always there, and hedges are requests too
	cmp_ok($hedges, '<=', 0.2 * ($calls + $hedges) + 2 * 3, '... and end with it');
	return;
}

# Whom hedges relieve of all its silent calls is found to be dead all the same.
sub outage_is_seen
{
	fresh();
	$sim->behave({ hang => \1 }, listener => 'a');
	$sim->behave({ delay => $LATENCY });
	my $offset = -s $node->logfile;
	my $load = llm_load($node, tiers => ['hedged'], clients => $CLIENTS,
		calls => 320 / $CLIENTS)->finish;
	my ($change) = breaker_log($node, $offset);

	is($load->value('SELECT count(*) FROM calls WHERE error_code IS NOT NULL'), '0',
		'no caller notices that one of two hangs');
	is("$change->{scope} $change->{to}", 'a/default/m opened', '... but its breaker does')
	  if ok(defined $change, 'a breaker moves');
	return;
}
