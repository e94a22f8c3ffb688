# 068_network.pl: is it them or us? Where several hosts cannot be reached and
# nobody answers, our own network is at fault: no breaker opens for it, the words
# say so, and there is a short pause. One host alone that cannot be reached, or
# hosts that refuse connections, are at fault themselves.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Nobody answers there: a SYN into the void, as when the uplink is gone.
my @away = ('a', 'b', 'c');
my $sim = LlmSim->new(listeners => [ @away, 'good' ]);
my $node = llm_node('main', conf => "log_line_prefix = '%n '\nmax_connections = 100\n");
my $CLIENTS = 16;
my $OURS = 'no provider can be reached from this server';

# So long a connection may take; so long it is remembered that one failed, and
# a little longer (src/health/network.h).
my $CONNECT = '150 ms';
my $MEMORY = 2.1;
my $last_failure = 0;

add_provider($node, $sim, $_, model => undef) foreach @away, 'good';
add_provider($node, $sim, 'a', name => 'also-a', model => undef);
sql(q{UPDATE llm_tier SET fallback = NULL WHERE name = 'default';
	INSERT INTO llm_tier(name) VALUES ('calm');
	INSERT INTO llm_route(tier, provider, model) VALUES ('calm', 'builtin', 'echo')});
tier('all', undef, @away);
tier('a', undef, 'a');
tier('b', undef, 'b');
tier('calmed', 'calm', 'a', 'b');
tier('one-host', undef, 'a', 'also-a');
tier('backed', undef, 'a', 'b', 'good');
tier('good', undef, 'good');

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

# A tier whose candidates are asked one after the other.
sub tier
{
	my ($name, $fallback, @providers) = @_;
	my $position = 0;

	add_tier($node, $name, fallback => $fallback, connect_timeout => $CONNECT);
	sql("INSERT INTO llm_route(tier, provider, model, position) VALUES ('$name', '$_', 'm', " . ++$position . ')')
	  foreach @providers;
	return;
}

# Everybody is as they should be, nobody has a history, and no pause is left.
sub begin
{
	my ($consecutive) = @_;

	$sim->reset;
	sql("UPDATE llm_provider SET breaker_consecutive = $consecutive");
	call('good');
	ok( $node->poll_query_until('postgres',
			q{SELECT answer IS NOT NULL FROM llm_respond('Hello', 'good', on_error => 'null')}),
		'the network works');
	# what failed before is forgotten after two seconds
	sleep 0.05 until time > $last_failure + $MEMORY;
	sql('SELECT llm_breaker_reset()');
	return -s $node->logfile;
}

sub away { $sim->mode($_, 'blackhole') foreach @_; return; }

# A query for a call's error and its attempts, each with its outcome.
sub call_sql
{
	my ($tier) = @_;
	return qq{SELECT concat_ws(' ', r.error_code, r.tier, (SELECT string_agg(a.provider || ' ' || a.outcome, ', ')
			FROM jsonb_to_recordset(r.trace) a(provider text, outcome text) WHERE provider <> 'builtin'))
		FROM llm_respond('Hello', '$tier', on_error => 'null') r;\n};
}

sub call
{
	my ($tier) = @_;
	my $end = sql(call_sql($tier));
	$last_failure = time if $end =~ /timeout|network/;
	return $end;
}

my $OPEN = q{SELECT string_agg(DISTINCT provider, ' ' ORDER BY provider) FROM llm_status WHERE state <> 'closed'};

sub open_breakers { return sql($OPEN); }

# What happens right after the network has failed, within the pause: all of it in
# one session, and once more where that took longer than the pause lasts.
sub during_pause
{
	my %end;

	foreach my $try (1 .. 10)
	{
		my $clock = 'SELECT extract(epoch FROM clock_timestamp());';
		my $result = run_sql($node,
			    call_sql('all') . "$clock $OPEN;" . call_sql('all') . call_sql('calmed')
			  . q{SELECT string_agg(DISTINCT concat_ws(' ', share, verdict, reason), ', ') FROM llm_explain(tier => 'all');}
			  . $clock
			  . q{SELECT concat_ws(' ', ok, substr(error, 1, 13)) FROM llm_check('a');
				SELECT llm_complete('Hello', 'all')});
		my ($began, $ended);
		(@end{qw(call)}, $began, @end{qw(open next calmed explain)}, $ended, $end{check}) = split /\n/, $result->{out};
		@end{qw(sqlstate detail)} = @$result{qw(sqlstate detail)};
		$last_failure = time;
		last if $ended - $began < 0.5 && $result->{seconds} < 0.8;
		sleep $MEMORY;
	}
	return %end;
}

# Returns when the pause is over and somebody may be asked again.
sub after_pause
{
	return $node->poll_query_until('postgres',
		q{SELECT answer IS NOT NULL FROM llm_respond('Hello', 'all', on_error => 'null')});
}

subtest 'nobody can be reached' => sub {
	# one failure that counts would open
	my $offset = begin(1);

	away(@away);
	my %end = during_pause();
	like($end{call}, qr/^LL001 a timeout, b timeout(?:, c timeout)?$/, 'nobody can be reached');
	is($end{open}, '', 'no breaker stays open, not that of the first one either');
	is($end{next}, 'LL001', 'the next call asks nobody');
	is($end{calmed}, 'calm', 'the tier below answers at once');
	is($end{explain}, "0 out $OURS", 'llm_explain() says why');
	is($end{sqlstate}, 'LL001', 'a call fails');
	like($end{detail}, qr/$OURS/i, '... and its error says why');
	like(slurp_file($node->logfile, $offset),
		qr/llm_failover: no provider can be reached: the network of this server is taken for the cause/, 'so does the log');
	is($end{check}, 'f no connection', 'llm_check() does not pause');
	is(sql(q{SELECT bool_and(failures = 0) FROM llm_status WHERE provider <> 'a'}), 't', 'nobody else has failed');
};

subtest 'for as long as it takes' => sub {
	begin(3);
	away(@away);
	my $load = llm_load($node, clients => $CLIENTS, tiers => ['all']);
	# many more than would open any of them, were they to count
	$load->wait_for(q{SELECT coalesce(sum(attempts), 0) > 60 FROM calls});
	is(open_breakers(), '', 'no breaker opens in the middle of it');
	$load->stop;
	$last_failure = time;
	is(open_breakers(), '', '... nor later');
	my ($calls, $made) = split /\|/, $load->value('SELECT count(*), sum(attempts) FROM calls');
	cmp_ok($made, '<', $calls, "$made attempts by $calls calls");

	# the network is back
	$sim->mode($_, 'up') foreach @away;
	ok(after_pause(), 'the pause is short');
	is(call('all'), 'all a ok', 'and with the first call all is well');
	is(open_breakers(), '', 'there is no ramp either');
};

subtest 'a single host' => sub {
	begin(3);
	away('a');
	is(call('a'), 'LL001 a timeout', "failure $_") foreach 1 .. 3;
	is(open_breakers(), 'a', 'opens');
	is(call('a'), 'LL001', 'and is not asked any more');
	like(sql(q{SELECT reason FROM llm_status WHERE provider = 'a'}), qr/^region breaker open: no connection after \d+ ms$/, 'for a reason');

	# two providers there are still one host
	begin(3);
	away('a');
	is(call('one-host'), 'LL001 a timeout, also-a timeout', "failure $_") foreach 1 .. 3;
	is(open_breakers(), 'a also-a', 'two providers at one host open both');
};

subtest 'somebody answers' => sub {
	begin(3);
	away('a', 'b');
	# once the third has answered, it was not our network; the first failures may
	# have been forgiven by then
	like(call('backed'), qr/^backed (?:a timeout, )?(?:b timeout, )?good ok$/, "two are away, a third one answers: call $_") foreach 1 .. 5;
	is(open_breakers(), 'a b', 'so it is their fault');
	is(call('backed'), 'backed good ok', 'and nobody waits for them any more');

	# the same when it answers between their failures
	begin(3);
	away('a', 'b');
	foreach my $i (1 .. 3)
	{
		is(call($_), "LL001 $_ timeout", "$_ is away") && is(call('good'), 'good good ok', '... but somebody answers')
		  foreach 'a', 'b';
	}
	is(open_breakers(), 'a b', 'it is their fault again');
};

subtest 'refused' => sub {
	begin(3);
	$sim->down($_) foreach @away;
	like(call('all'), qr/^LL001 a network, b network, c network/, 'all refuse');
	call('all') foreach 1 .. 2;
	is(open_breakers(), 'a b c', 'who refuses connections is there, and opens');
};

# Other ways not to get there, on machines where these fail at once.
subtest 'names and routes' => sub {
	my %url = (
		'no-name' => 'https://no-such-host.invalid',
		'no-name-2' => 'https://neither.invalid',
		'no-route' => 'https://255.255.255.255',
		'no-route-2' => 'https://255.255.255.255:444');
	sql("INSERT INTO llm_provider(name, dialect, base_url, breaker_consecutive) VALUES ('$_', 'openai', '$url{$_}/v1', 1)") foreach keys %url;
	foreach my $what ('no-name', 'no-route')
	{
		add_tier($node, $what);
		sql("INSERT INTO llm_route(tier, provider, model, position) VALUES ('$what', '$what', 'm', 1), ('$what', '$what-2', 'm', 2)");
		begin(1);
		my $end = call($what);
	  SKIP:
		{
			skip "$what: this machine says \"$end\"", 1 unless $end =~ /^LL001 $what network, $what-2 network/;
			is(open_breakers(), '', "$what: no breaker opens");
		}
	}
};

done_testing();
