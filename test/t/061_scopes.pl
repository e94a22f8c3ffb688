# 061_scopes.pl: a failure puts aside what it speaks of, and nothing else. One
# overloaded model (529) is shut in one region, and its neighbours go on sharing
# as they did; a region that refuses connections is shut for all its models at
# once, its standby takes over, and hands back. All of it under load.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(first sum);
use LlmSim;
use LlmTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $LATENCY = 0.05;
my $GRACE = 0.2;

my $sim = LlmSim->new(listeners => [ 'one', 'two', 'three' ]);
my $node = llm_node('main', conf => "log_line_prefix = '%n [%p] '\n");

overloaded_model();
refused_region();
done_testing();

# Anthropic's overloaded_error, of one model in one region.
sub overloaded_model
{
	configure(q{
		INSERT INTO llm_provider(name, dialect, base_url, secret, breaker_open_time) VALUES
			('ant', 'anthropic', '%two', 'k', '1 min'), ('oai', 'openai', '%three/v1', 'k', '1 min');
		INSERT INTO llm_region(provider, name, base_url) VALUES
			('ant', 'r1', '%one'), ('ant', 'r2', '%two');
		INSERT INTO llm_tier(name) VALUES ('mixed'), ('only');
		INSERT INTO llm_route(tier, provider, model, region, position) VALUES
			('mixed', 'ant', 'm1', NULL, 1), ('mixed', 'ant', 'm2', NULL, 1), ('mixed', 'oai', 'm3', NULL, 1),
			('only', 'ant', 'm1', 'r1', 1), ('only', 'oai', 'm3', NULL, 2)});
	my $offset = -s $node->logfile;
	my $load = llm_load($node, tiers => ['mixed']);
	$load->wait_for('SELECT count(*) > 200 FROM calls');
	$sim->clear;
	$sim->behave({ template => 'overloaded' }, listener => 'one', model => 'm1');
	$sim->behave({ delay => $LATENCY });
	my $opened = wait_for_breaker($offset, 'opened')->{at};
	my $shares = shares_of('mixed');
	$load->wait_for("SELECT count(*) > 1000 FROM calls WHERE began > $opened");
	$load->stop;

	subtest 'one model is overloaded' => sub {
		no_failures($load);
		is(breakers($offset), 'ant/r1/m1 opened', 'one breaker opened, once');
		is( statuses(), <<'END', 'only its target is shut');
ant/r1/m1 open target breaker open: 529 overloaded
ant/r1/m2 closed
ant/r2/m1 closed
ant/r2/m2 closed
oai/default/m3 closed
END
		is($load->value("SELECT count(*) FROM calls WHERE began > $opened"
			  . q{ AND trace @> '[{"region": "r1", "model": "m1"}]'}),
			'0', 'no call comes near it');
		is(scalar(grep { $_ > $opened + $GRACE } $sim->arrivals('one', model => 'm1')),
			0, '... by its own count, too');
		is($shares, <<'END', 'llm_explain: the others share its part as they share theirs');
ant/r1/m2 0.2
ant/r2/m1 0.2
ant/r2/m2 0.2
oai/default/m3 0.4
ant/r1/m1 0
END
		is_shared($load, "began > $opened", $shares);

		# Who has never met the failure knows as well.
		is( $node->safe_psql('postgres', q{SELECT attempts, provider, model FROM llm_respond('Hi', 'only')}),
			'1|oai|m3', 'another tier does not ask it either');
		my $before = $node->safe_psql('postgres', q{SELECT attempts, region FROM llm_respond('Hi', 'mixed')});
		like($before, qr/^1\|/, 'a new session is told');
	};
	return;
}

# A region goes away: three models in three tiers, of which two are in use.
sub refused_region
{
	my $ramp = 2;
	my $half_open = 3;

	configure(qq{
		INSERT INTO llm_provider(name, dialect, base_url, secret,
			breaker_open_time, breaker_half_open_calls, breaker_ramp) VALUES
			('p', 'openai', '%three/v1', 'k', '1 s', $half_open, '$ramp s');
		INSERT INTO llm_region(provider, name, base_url, position) VALUES
			('p', 'main', '%one/v1', 1), ('p', 'standby', '%two/v1', 2);
		INSERT INTO llm_tier(name) VALUES ('t1'), ('t2'), ('t3');
		INSERT INTO llm_route(tier, provider, model) VALUES
			('t1', 'p', 'm1'), ('t2', 'p', 'm2'), ('t3', 'p', 'm3')});
	my $offset = -s $node->logfile;
	my $load = llm_load($node, tiers => [ 't1', 't2' ]);
	$load->wait_for('SELECT count(*) > 200 FROM calls');
	my $died = time;
	$sim->down('one');
	my $opened = wait_for_breaker($offset, 'opened')->{at};
	my $status = statuses();
	my $first = $node->safe_psql('postgres',
		q{SELECT attempts, provider, region, degraded FROM llm_respond('Hi', 't3')});
	my $explained = $node->safe_psql('postgres',
		q{SELECT region, share, verdict, reason FROM llm_explain(tier => 't3') ORDER BY 1});
	$load->wait_for("SELECT count(*) > 700 FROM calls WHERE began > $opened");
	my $back = time;
	$sim->up('one');
	my $ramping = wait_for_breaker($offset, 'ramping')->{at};
	my $closed = wait_for_breaker($offset, 'closed')->{at};
	$load->wait_for("SELECT count(*) > 300 FROM calls WHERE began > $closed");
	$load->stop;
	my @changes = breaker_log($node, $offset);
	my $openings = grep { $_->{to} eq 'opened' } @changes;

	subtest 'a region refuses connections' => sub {
		no_failures($load);
		is_deeply([ grep { $_->{scope} ne 'p/main' } @changes ],
			[], 'only the breaker of the region moved');
		is($status, <<'END', 'all its models are shut at once, and nobody else');
p/main/m1 open region breaker open: connection refused
p/main/m2 open region breaker open: connection refused
p/main/m3 open region breaker open: connection refused
p/standby/m1 closed
p/standby/m2 closed
p/standby/m3 closed
END
		is($first, '1|p|standby|f', 'a model that nobody had called moves with them');
		like($explained,
			qr/\Amain\|0\|out\|region breaker open until [\d:]+: connection refused\nstandby\|1\|ready\|\z/,
			'llm_explain says so');

		my $elsewhere = $load->value("SELECT count(*) FROM calls WHERE region <> 'standby'"
			  . " AND began > $opened AND began + seconds < $back");
		is($elsewhere, '0', 'the standby has taken over');
		my $touched = $load->value("SELECT count(*) FROM calls WHERE attempts > 1"
			  . " AND began > $opened AND began < $back");
		note "$openings openings, $touched calls met a trial";
		cmp_ok($openings, '>=', 2, 'a trial has failed');
		cmp_ok($touched, '<=', $half_open * $openings, 'only trials pay');

		my $seen = grep { $_ > $back && $_ < $ramping } $sim->arrivals('one');
		cmp_ok($seen, '<=', 2 * $half_open, 'only trials see that it is back');
		my @half = map {
			my ($from, $to) = @$_;
			my $main = grep { $_ >= $from && $_ < $to } $sim->arrivals('one');
			my $n = $main + grep { $_ >= $from && $_ < $to } $sim->arrivals('two');
			note sprintf 'ramp: %d of %d', $main, $n;
			$main / $n;
		} [ $ramping, $ramping + $ramp / 2 ], [ $ramping + $ramp / 2, $ramping + $ramp ];
		cmp_ok($half[0], '>', 0.1, 'the ramp begins at a tenth');
		cmp_ok($half[0], '<', 0.55, '... and is below a half at first');
		cmp_ok($half[1], '>', $half[0], '... and grows');
		is(scalar(grep { $_ > $closed + $GRACE } $sim->arrivals('two')), 0,
			'the standby has handed back');
		is( $load->value("SELECT count(*) FROM calls WHERE began > $closed AND (region <> 'main' OR attempts > 1)"),
			'0', '... all calls');
		is($node->safe_psql('postgres', q{SELECT attempts, region FROM llm_respond('Hi', 't3')}),
			'1|main', '... those of the model that nobody had called, too');
		is( $node->safe_psql('postgres', q{SELECT count(*) FROM llm_status WHERE state <> 'closed' OR in_flight <> 0}),
			'0', 'all is well again');
	};
	return;
}

# A configuration anew; %name is the URL of a listener.
sub configure
{
	my ($sql) = @_;

	$sim->reset;
	$sim->set($_, keys => 'optional') for $sim->listeners;
	$sim->behave({ delay => $LATENCY });
	clear_config($node);
	$sql =~ s/%(\w+)/$sim->url($1)/ge;
	$node->safe_psql('postgres', "SET client_min_messages = warning;"
		  . " INSERT INTO llm_secret VALUES ('k', 'sk-secret'); $sql; SELECT llm_stat_reset()");
	return;
}

sub no_failures
{
	my ($load) = @_;

	is( $load->value("SELECT count(*) FROM calls WHERE error_code IS NOT NULL OR tier <> asked"),
		'0', 'no caller saw a failure');
	return;
}

# The first change of a breaker to a state.
sub wait_for_breaker
{
	my ($offset, $to) = @_;
	my $until = time + 60;

	while (time < $until)
	{
		my $change = first { $_->{to} eq $to } breaker_log($node, $offset);
		return $change if defined $change;
		sleep 0.05;
	}
	die "no breaker has $to";
}

sub breakers
{
	my ($offset) = @_;
	return join ' ', map { "$_->{scope} $_->{to}" } breaker_log($node, $offset);
}

# A line a target: its state, and why.
sub statuses
{
	return $node->safe_psql('postgres',
		q{SELECT concat_ws(' ', concat_ws('/', provider, region, model), state, reason)
			FROM llm_status ORDER BY provider, region, model}) . "\n";
}

# A line a target: its share by llm_explain().
sub shares_of
{
	my ($tier) = @_;
	return $node->safe_psql('postgres',
		qq{SELECT concat_ws(' ', concat_ws('/', provider, region, model), share)
			FROM llm_explain(tier => '$tier') WHERE tier = '$tier'
			ORDER BY share = 0, provider, region, model}) . "\n";
}

# Calls were answered in these shares; so many of n at a share of p are 5
# standard deviations off once in a million.
sub is_shared
{
	my ($load, $which, $shares) = @_;
	my %share = map { split ' ' } split /\n/, $shares;
	my %count = map { split /\|/ } split /\n/,
	  $load->value("SELECT concat_ws('/', provider, region, model), count(*)"
		  . " FROM calls WHERE $which GROUP BY 1");
	my $n = sum(values %count);

	foreach my $target (sort keys %share)
	{
		my $p = $share{$target};
		my $count = delete $count{$target} // 0;
		cmp_ok(abs($count - $n * $p), '<=', 5 * sqrt($n * $p * (1 - $p)),
			"$target: $count of $n at a share of $p");
	}
	is_deeply(\%count, {}, 'nobody else answered');
	return;
}
