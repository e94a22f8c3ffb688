# 060_outage.pl: a provider dies and comes back under load. It hangs, refuses
# connections or answers 500: no caller sees a failure, and once the breaker has
# opened nobody pays for it any more but a few trials. When it is back, its
# share grows with the ramp.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(first max);
use LlmSim;
use LlmTest;
use Test::More;
use Time::HiRes qw(sleep time);

# An answer takes so long that the scheduling of a busy machine hardly counts.
my $LATENCY = 0.2;
my $CLIENTS = 48;
my $OPEN_TIME = 1;
my $RAMP = 4;
my $TRIALS = 2;
my $ATTEMPT_TIMEOUT = 3;
my $MIN_CALLS = 5;

# Requests may still be on their way when a breaker opens.
my $GRACE = 0.1;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main', conf => "log_line_prefix = '%n [%p] '\n");
add_provider($node, $sim, $_) for 'a', 'b';
$node->safe_psql('postgres', qq{
	UPDATE llm_provider SET breaker_open_time = '$OPEN_TIME s',
		breaker_half_open_calls = $TRIALS, breaker_min_calls = $MIN_CALLS,
		breaker_ramp = '$RAMP s';
	UPDATE llm_tier SET fallback = NULL, attempt_timeout = '$ATTEMPT_TIMEOUT s'
	 WHERE name = 'default'});

outage('hangs', sub { $sim->behave({ hang => \1 }, listener => 'a') });
outage('refuses connections', sub { $sim->down('a') });
outage('answers 500', sub { $sim->behave({ status => 500 }, listener => 'a') },
	returns => 1);
done_testing();

# Provider a dies of something amid sessions that call, and may come back.
sub outage
{
	my ($how, $break, %args) = @_;

	$sim->reset;
	$sim->behave({ delay => $LATENCY });
	$node->safe_psql('postgres', 'SELECT llm_breaker_reset()');
	my $offset = -s $node->logfile;
	my $load = llm_load($node, clients => $CLIENTS);
	# the first call of a session is slower than others
	$load->wait_for('SELECT count(*) > 100 FROM calls');
	my $warm = time;
	$load->wait_for("SELECT count(*) > 400 FROM calls WHERE began > $warm");
	$sim->clear;
	my $died = time;
	$break->();
	$sim->behave({ delay => $LATENCY });
	my $opened = wait_for_breaker($offset, 'opened')->{at};
	$load->wait_for("SELECT count(*) > 600 FROM calls WHERE began > $opened");
	my $back = time;
	come_back($load, $offset, $back) if $args{returns};
	$load->stop;
	my @changes = breaker_log($node, $offset);

	subtest "a provider that $how" => sub {
		no_failures($load);
		is(join(' ', sort keys %{ { map { $_->{scope} => 1 } @changes } }),
			$how =~ /^refuses/ ? 'a/default' : 'a/default/model-a',
			'only the breaker of the scope at fault moved');
		cmp_ok($opened - $died, '<', $ATTEMPT_TIMEOUT,
			'it was seen before the first timeout');
		nobody_pays($load, $warm, $died, $opened, $back);
		only_trials($load, $how, $opened, $back,
			grep { $_->{to} eq 'opened' && $_->{at} <= $back } @changes);
		all_returned();
	};
	return;
}

# The first change of a's breaker to a state.
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
	die "the breaker has not $to";
}

sub no_failures
{
	my ($load) = @_;

	is( $load->value(q{SELECT count(*) FROM calls
		WHERE error_code IS NOT NULL OR tier IS DISTINCT FROM 'default'}),
		'0', 'no caller saw a failure');
	return;
}

# 99th percentile of what some calls took, in seconds.
sub p99
{
	my ($load, $seconds, $which) = @_;
	return $load->value(
		"SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY $seconds)"
		  . " FROM calls WHERE $which");
}

# After the breaker has opened calls take as long as they did before; should the
# machine be busier by then, no longer than the attempts that answered them.
# Before that only those pay that were under way, and as many as it takes to see
# it.
sub nobody_pays
{
	my ($load, $warm, $died, $opened, $back) = @_;
	my $before = p99($load, 'seconds', "began > $warm AND began + seconds < $died");
	my $after = "began > $opened AND began < $back";
	my $during = p99($load, 'seconds', $after);
	my $answer = p99($load, q{(trace -> -1 ->> 'ms')::int / 1000.0}, $after);
	my $paid = $load->value('SELECT count(*) FROM calls WHERE seconds >'
		  . " 2 * $before AND began < $opened AND began + seconds > $died");

	note sprintf 'opened after %.0f ms; p99 %.0f ms before, %.0f ms after'
	  . ' (answers %.0f ms); '
	  . '%d calls paid', 1000 * ($opened - $died),
	  1000 * $before, 1000 * $during, 1000 * $answer, $paid;
	cmp_ok($during, '<=', 1.5 * max($before, $answer),
		'nobody pays for it any more: p99');
	cmp_ok($paid, '<=', $CLIENTS + $MIN_CALLS, 'few had paid before');
	is($load->value("SELECT count(*) FROM calls WHERE seconds > $ATTEMPT_TIMEOUT"),
		'0', '... and nobody a whole timeout');
	return;
}

# Trials alone reach it, by what the server says of its calls and by what the
# simulator saw; none of them before the breaker's time.
sub only_trials
{
	my ($load, $how, $opened, $back, @openings) = @_;
	my $most = $TRIALS * @openings;
	my $touched = $load->value(
		"SELECT count(*) FROM calls WHERE began > $opened AND began < $back"
		  . q{ AND trace @> '[{"provider": "a"}]'});
	my @arrivals =
	  grep { $_ > $opened + $GRACE && $_ < $back } $sim->arrivals('a');
	my $early = grep {
		my $at = $_;
		grep { $at > $_->{at} + $GRACE && $at < $_->{at} + 0.9 * $OPEN_TIME }
		  @openings;
	} @arrivals;

	note scalar(@openings), " openings, $touched calls touched it, ",
	  scalar(@arrivals), ' requests arrived';
	cmp_ok(scalar @openings, '>=', 2, 'a trial has failed');
	cmp_ok($touched, '>=', 1, 'there were trials');
	cmp_ok($touched, '<=', $most, 'there were only trials');
	cmp_ok(scalar @arrivals, '<=', $most, '... by its own count, too')
	  unless $how =~ /^refuses/;
	is($early, 0, '... and none before its time') unless $how =~ /^refuses/;
	return;
}

# Nothing is left of it.
sub all_returned
{
	is( $node->safe_psql('postgres', 'SELECT sum(in_flight) FROM llm_status'),
		'0', 'no attempt is in flight');
	return;
}

# The provider returns. A trial finds out, and its share grows along the ramp;
# in each quarter it gets half of what the ramp admits.
sub come_back
{
	my ($load, $offset, $back) = @_;

	$sim->clear;
	$sim->behave({ delay => $LATENCY });
	my $began = wait_for_breaker($offset, 'ramping')->{at};
	my $ended = $began + $RAMP;
	sleep max($ended + 2 - time, 0);
	subtest 'a provider that returns' => sub {
		my %at = map { $_ => [ $sim->arrivals($_) ] } 'a', 'b';
		my $between = sub {
			my ($listener, $from, $to) = @_;
			return scalar grep { $_ >= $from && $_ < $to } @{ $at{$listener} };
		};
		my @share;

		cmp_ok($between->('a', $back + $GRACE, $began), '<=', 2 * $TRIALS,
			'only trials see it first');
		note join ' ', 'requests a second:', map {
			join '/', $between->('a', $_, $_ + 1), $between->('b', $_, $_ + 1)
		} map { $began - 1 + $_ } 0 .. $RAMP + 2;
		foreach my $quarter (0 .. 3)
		{
			my $from = $began + $quarter * $RAMP / 4;
			my $a = $between->('a', $from, $from + $RAMP / 4);
			my $n = $a + $between->('b', $from, $from + $RAMP / 4);
			my $p = (0.1 + 0.9 * ($quarter + 0.5) / 4) / 2;

			is_binomial($a, $n, $p, "quarter $quarter of the ramp");
			push @share, $a / $n;
		}
		cmp_ok($share[2], '>', $share[0], 'its share grows');
		cmp_ok($share[3], '>', $share[1], '... and grows');
		my $a = $between->('a', $ended, $ended + 2);
		is_binomial($a, $a + $between->('b', $ended, $ended + 2), 0.5,
			'after the ramp');
		is( $node->safe_psql('postgres',
				q{SELECT string_agg(state, ' ') FROM llm_status}),
			'closed closed', 'all is well again');
	};
	return;
}

# So many of n at a share of p are 5 standard deviations off once in a million.
# The requests of a session come one after the other, and not at random times:
# another request more or less of each at the edges is no error.
sub is_binomial
{
	my ($count, $n, $p, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return cmp_ok(abs($count - $n * $p), '<=',
		5 * sqrt($n * $p * (1 - $p)) + 1,
		sprintf '%s: %d of %d at a share of %.3f', $name, $count, $n, $p);
}
