# 064_storm.pl: all providers fail at once, and 64 sessions go on asking. What
# reaches the providers is counted by the simulator: no more than was under way
# when the breakers opened, then a trickle of trials; and retries never beyond
# their budget, even where no breaker opens.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use LlmSim;
use LlmTest;
use Test::More;
use Time::HiRes qw(time);

my $CLIENTS = 64;

# Each fails in its own way; who resets is blamed as a region, all others as a
# target.
my %failure = (
	overloaded => { template => 'overloaded' },
	server => { template => 'server_error' },
	reset => { reset => 'request' },
	silent => { hang => \1 });
my @providers = sort keys %failure;

# The budget of retries, a provider's: src/health/budget.h.
my ($BUDGET_SHARE, $BUDGET_FLOOR, $BUDGET_WINDOW) = (0.2, 3, 10);

# Breakers as they are set below; open times are give or take a tenth.
my ($CONSECUTIVE, $TRIALS, $OPEN, $OPEN_MAX) = (3, 3, 1, 2);
my ($SHORTEST, $SHORTEST_LATER) = (0.9 * $OPEN, 0.9 * $OPEN_MAX);

my $sim = LlmSim->new(listeners => [@providers]);
my $node =
  llm_node('main', conf => "max_connections = 100\nlog_line_prefix = '%n '\n");
add_tier($node, 'calm');
add_tier($node, 'storm', attempt_timeout => '400 ms');
add_provider($node, $sim, $_, tier => 'storm') foreach @providers;
sql(q{INSERT INTO llm_route(tier, provider, model) VALUES ('calm', 'builtin', 'echo')});

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

# Everybody fails from now on; nobody has a history.
sub all_fail
{
	my (%more) = @_;
	$sim->reset;
	$sim->behave({ %{ $failure{$_} }, %more }, listener => $_) foreach @providers;
	sql('SELECT llm_breaker_reset()');
	return;
}

# Attempts of a load by provider, and those that asked a target once more.
sub attempts_of
{
	my ($load) = @_;
	my %attempts =
	  map { $_ => { requests => 0, retries => 0 } } @providers;

	foreach my $row (split /\n/, $load->value(q{
		SELECT provider, sum(n), sum(n - 1) FROM (
			SELECT load, client, began, a.provider, count(*) AS n
			FROM calls c, jsonb_to_recordset(c.trace) AS a(provider text)
			WHERE a.provider <> 'builtin' GROUP BY 1, 2, 3, 4) t GROUP BY 1}))
	{
		my ($provider, $requests, $retries) = split /\|/, $row;
		$attempts{$provider} = { requests => $requests, retries => $retries };
	}
	return %attempts;
}

subtest 'retries draw on a budget' => sub {
	my $calls = 6;

	# No breaker helps here. Whoever is silent is not asked again anyway.
	sql(q{UPDATE llm_provider SET breaker_consecutive = 1000000, breaker_min_calls = 1000000;
		UPDATE llm_provider SET enabled = false WHERE name = 'silent'});
	all_fail();
	my $began = time;
	my $load =
	  llm_load($node, tiers => ['storm'], clients => $CLIENTS, calls => $calls)->finish;
	my $windows = 1 + (time - $began) / $BUDGET_WINDOW;
	my %attempts = attempts_of($load);
	my $all = 0;

	is($load->value(q{SELECT count(*), count(*) FILTER (WHERE error_code = 'LL001') FROM calls}),
		$CLIENTS * $calls . '|' . $CLIENTS * $calls, 'nobody answered');
	foreach my $provider (grep { $_ ne 'silent' } @providers)
	{
		my ($requests, $retries) = @{ $attempts{$provider} }{ 'requests', 'retries' };

		is($sim->count($provider), $requests, "$provider: every request is in a trace");
		is($requests - $retries, $CLIENTS * $calls, 'each call has asked it');
		cmp_ok($retries, '>', 0, 'some asked it once more');
		cmp_ok($retries, '<=', $BUDGET_FLOOR * $windows + $BUDGET_SHARE * $requests,
			"$retries of $requests requests were retries");
		$all += $retries;
	}
	is(sql(q{SELECT retries FROM llm_stat_tier WHERE tier = 'storm'}), $all,
		'llm_stat_tier has counted them');
	is(sql(q{SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM llm_status}),
		'closed disabled', 'no breaker has opened');
};

subtest 'breakers open, and a trickle is left' => sub {
	sql(qq{UPDATE llm_provider SET enabled = true, breaker_min_calls = 5,
			breaker_consecutive = $CONSECUTIVE, breaker_half_open_calls = $TRIALS,
			breaker_open_time = '$OPEN s', breaker_open_time_max = '$OPEN_MAX s';
		UPDATE llm_tier SET fallback = 'calm' WHERE name = 'storm'});
	# a delay, so that many are under way when the first one fails
	all_fail(delay => 0.2);
	my $offset = -s $node->logfile;
	my $load = llm_load($node, tiers => ['storm'], clients => $CLIENTS);

	# until each has been tried, and has failed, for three times
	foreach my $provider (@providers)
	{
		ok( $node->poll_query_until('postgres',
				"SELECT state <> 'closed' FROM llm_status WHERE provider = '$provider'"),
			"$provider: the breaker opens");
	}
	my %then = map { $_ => $sim->count($_) } @providers;
	$sim->wait_for(listener => $_, requests => $then{$_} + 3 * $TRIALS) foreach @providers;
	$load->stop;

	my %attempts = attempts_of($load);
	my ($calls, $requests, $degraded) = split /\|/,
	  $load->value(q{SELECT count(*), sum(attempts), count(*) FILTER (WHERE tier = 'calm') FROM calls});
	my @opened = grep { $_->{to} eq 'opened' } breaker_log($node, $offset);

	is($degraded, $calls, "each of $calls calls was answered, by the tier below");
	is($sim->count(undef), $requests, 'every request is in a trace');
	cmp_ok($requests, '<=', $calls * @providers, 'at most calls x candidates');
	foreach my $provider (@providers)
	{
		my @arrivals = $sim->arrivals($provider);
		my ($first) = map { $_->{at} } grep { $_->{scope} =~ /^$provider/ } @opened;
		my $seconds = $arrivals[-1] - $first;

		# From one opening to the next round of trials.
		my $rounds = int(1 + max(0, $seconds - $SHORTEST) / $SHORTEST_LATER);
		# A session has at most one request under way when it opens.
		cmp_ok(scalar @arrivals, '<=', $CLIENTS + $CONSECUTIVE + $rounds * $TRIALS,
			sprintf '%s: %d requests, the last %.1f s after the opening', $provider, scalar @arrivals, $seconds);
		cmp_ok($attempts{$provider}{retries}, '<=', $BUDGET_FLOOR * (1 + $seconds / $BUDGET_WINDOW)
			  + $BUDGET_SHARE * @arrivals, "$attempts{$provider}{retries} were retries");
	}
};

subtest 'the storm is over' => sub {
	$sim->clear;
	foreach my $provider (@providers)
	{
		ok( $node->poll_query_until('postgres',
				qq{SELECT llm_complete('Hello', 'storm') IS NOT NULL AND state IN ('ramping', 'closed')
					FROM llm_status WHERE provider = '$provider'}),
			"$provider is asked again");
	}
	is(sql(q{SELECT tier, source FROM llm_respond('Hello', 'storm')}), 'storm|model', 'and answers');
};

done_testing();
