# 125_probe.pl: probes keep breakers up to date without a user's call: they
# close those of whoever is back, open those of whoever is gone, expect what
# they were told to, on a schedule that others do not keep step with.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max min sum);
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b', 'c' ]);
my $node = llm_node('main', conf => "autovacuum = off\nlog_min_messages = warning\n");
my $first_event = 0;    # of a subtest's

# What was asked in an earlier subtest has a row in llm_status, too.
$node->safe_psql('postgres', q{
	CREATE VIEW probed AS SELECT * FROM llm_status WHERE reason IS DISTINCT FROM 'no route leads to it'});

# Makes a row of llm_probe, and has the worker look at once.
sub add_probe
{
	my (%columns) = @_;
	my @names = sort keys %columns;

	$node->safe_psql('postgres',
		    'INSERT INTO llm_probe(' . join(', ', @names) . ') VALUES ('
		  . join(', ', map { quote_sql($_) } @columns{@names}) . ')');
	look();
	return;
}

# The worker hears of changes in any transaction of its own: that of a task.
sub look
{
	$node->safe_psql('postgres', q{INSERT INTO llm_task(prompt, tier) VALUES ('x', 'echo')});
	$node->poll_query_until('postgres', q{SELECT bool_and(state = 'done') FROM llm_task})
	  or die 'the worker does not work';
	return;
}

sub wait_for
{
	my ($condition, $name) = @_;
	ok($node->poll_query_until('postgres', $condition), $name);
	return;
}

# What the log of the simulator says after an entry of it.
sub requests_since
{
	my ($listener, $id) = @_;
	return scalar $sim->log($listener, defined $id ? (since => $id) : ());
}

sub last_id
{
	my ($listener) = @_;
	return max(0, map { $_->{id} } $sim->log($listener));
}

# Events of a provider's probes, once there are so many.
sub events
{
	my ($provider, $least, $columns) = @_;
	my $from = "FROM (SELECT * FROM llm_event WHERE kind = 'probe_failed' AND provider = '$provider' AND id > $first_event ORDER BY id) e";

	$node->poll_query_until('postgres', "SELECT count(*) >= $least $from") or return "fewer than $least";
	return $node->safe_psql('postgres', sprintf "SELECT %s $from", $columns // 'message');
}

sub state
{
	my ($provider) = @_;
	return $node->safe_psql('postgres', "SELECT state FROM probed WHERE provider = '$provider'");
}

# Nobody is asked any more.
sub begin_anew
{
	clear_config($node);
	$sim->reset;
	$node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		INSERT INTO llm_tier(name, attempt_timeout, timeout) VALUES ('echo', '5 s', '5 s');
		INSERT INTO llm_route(tier, provider, model) VALUES ('echo', 'builtin', 'echo');
		SELECT llm_breaker_reset()});
	look();
	$sim->wait_for(max_in_progress => 0);
	$node->safe_psql('postgres', 'SELECT llm_stat_reset()');
	$first_event = $node->safe_psql('postgres', 'SELECT coalesce(max(id), 0) FROM llm_event');
	return;
}

subtest 'an open breaker closes, and no user has called' => sub {
	begin_anew();
	add_provider($node, $sim, 'a');
	$node->safe_psql('postgres', q{
		UPDATE llm_provider SET breaker_open_time = '1 day', breaker_open_time_max = '1 day', breaker_ramp = '0'});
	my $rule = $sim->behave({ status => 503 }, listener => 'a');
	$node->safe_psql('postgres', q{SELECT llm_complete('x', on_error => 'null', allow_degraded => false) FROM generate_series(1, 3)});
	is(state('a'), 'open', 'it fails, and is out for a day');
	my $asked = last_id('a');

	add_probe(provider => 'a', model => 'model-a', every => '200 ms');
	$sim->wait_for(listener => 'a', requests => 3 + 3);
	is(state('a'), 'open', 'as long as probes fail it stays out');
	$sim->unbehave($rule);
	wait_for(q{SELECT state = 'closed' FROM probed WHERE provider = 'a'}, 'one that succeeds lets it back in');
	my @prompts = map { $_->{prompt} } $sim->log('a', since => $asked);
	is_deeply([ grep { $_ ne 'Reply with OK.' } @prompts ], [], 'they ask what is in the table');
	is($node->safe_psql('postgres', q{SELECT calls FROM llm_stat_tier WHERE tier = 'default'}), 3,
		'and are no calls of a tier');
	like(events('a', 1), qr{^probe of a/default/model-a failed: 503 \w+ after \d+ ms$}, 'one event, though many have failed');
	like(events('a', 1, 'region, model, tier IS NULL, role IS NULL, detail'),
		qr/^default\|model-a\|t\|t\|\{"ms": \d+, "status": 503, "outcome": "\w+"\}$/, 'with the facts');
	wait_for(q{SELECT bool_or(calls > 0 AND attempts > errors AND errors > 2) FROM llm_usage
		WHERE provider = 'a' AND tier IS NULL AND role IS NULL}, 'they are in llm_usage, as of no tier and no role');
};

subtest 'a region without traffic' => sub {
	begin_anew();
	add_provider($node, $sim, 'a', key => undef);
	$sim->set($_, keys => 'optional') foreach 'a', 'b';
	$node->safe_psql('postgres', sprintf q{
		INSERT INTO llm_region(provider, name, base_url, position) VALUES ('a', 'active', '%s', 1), ('a', 'standby', '%s', 2)},
		$sim->url('a', '/v1'), $sim->url('b', '/v1'));
	$sim->behave({ status => 500 }, listener => 'b');
	add_probe(provider => 'a', model => 'model-a', every => '150 ms');
	wait_for(q{SELECT state = 'open' FROM probed WHERE region = 'standby'}, 'the one that is broken is known to be');
	is($node->safe_psql('postgres', q{SELECT state FROM probed WHERE region = 'active'}), 'closed', 'the other one is well');
	is(events('a', 1, 'string_agg(DISTINCT region, $$ $$)'), 'standby', 'there are events of the one');
	$sim->wait_for(listener => 'a', requests => 2);
	is($node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		UPDATE llm_region SET enabled = false WHERE name = 'active';
		SELECT error_code, attempts FROM llm_respond('x', on_error => 'null', allow_degraded => false)}),
		'LL001|0', 'a call need not find out');
};

subtest 'a model that no route leads to' => sub {
	begin_anew();
	add_provider($node, $sim, 'a', model => undef);
	add_probe(provider => 'a', model => 'unrouted', every => '150 ms', prompt => 'Who?');
	$sim->wait_for(listener => 'a', model => 'unrouted', requests => 2);
	wait_for(q{SELECT calls > 1 AND state = 'closed' FROM probed WHERE model = 'unrouted'}, 'it is in llm_status');
	is($sim->last_request('a')->{prompt}, 'Who?', 'it is asked its own prompt');
	is(events('a', 0), '', 'it is well: no event');
};

subtest 'the answer that is expected' => sub {
	begin_anew();
	add_provider($node, $sim, $_) foreach 'a', 'b';
	$node->safe_psql('postgres', q{
		UPDATE llm_provider SET breaker_open_time = '1 day', breaker_open_time_max = '1 day', breaker_ramp = '0'});
	# the simulator answers "LISTENER/MODEL: PROMPT"
	add_probe(provider => 'b', model => 'model-b', every => '150 ms', prompt => 'Grüße', expect => '^b/model-b: Gr.ße$');
	add_probe(provider => 'a', model => 'model-a', every => '150 ms', expect => '^OK$');
	wait_for(q{SELECT state = 'open' FROM probed WHERE provider = 'a'}, 'another one is a failure');
	is(events('a', 1), 'probe of a/default/model-a failed: the answer does not match "^OK$"', 'which is told');
	is(events('a', 1, q{detail ->> 'outcome', detail ->> 'status'}), 'invalid_output|200', 'in detail');
	my $changes = () = slurp_file($node->logfile) =~ /breaker of a\/default\/model-a (?!opened)/g;
	my $asked = $sim->count('a');
	$sim->wait_for(listener => 'a', requests => $asked + 3);
	is(state('a'), 'open', 'it stays out');
	my $now = () = slurp_file($node->logfile) =~ /breaker of a\/default\/model-a (?!opened)/g;
	is($now, $changes, 'without closing in between');
	$sim->wait_for(listener => 'b', requests => 3);
	is(state('b'), 'closed', 'the one that is expected is not');

	$sim->behave({ text => 'OK' }, listener => 'a');
	wait_for(q{SELECT state = 'closed' FROM probed WHERE provider = 'a'}, 'the expected answer lets it back in');
	is(events('a', 1, 'count(*)'), 1, 'that was one event');
	$node->safe_psql('postgres', q{UPDATE llm_probe SET expect = '^NO$' WHERE provider = 'a'});
	wait_for(q{SELECT state = 'open' FROM probed WHERE provider = 'a'}, 'another expression holds at once');
	like(events('a', 2), qr/\n.*does not match "\^NO\$"$/, 'and is told anew');
};

subtest 'an expression that takes for ever' => sub {
	begin_anew();
	add_provider($node, $sim, 'a');
	$sim->behave({ text => 'ab' x 100_000 }, listener => 'a');
	my $log = -s $node->logfile;
	add_probe(provider => 'a', model => 'model-a', every => '150 ms', expect => '(a.*)(b.*)(a.*)\1\2\3$');
	wait_for(q{SELECT calls > 1 AND failures = 0 AND state = 'closed' FROM probed WHERE provider = 'a'},
		'the answer counts as good');
	like(slurp_file($node->logfile, $log), qr/WARNING:  .*a\/default\/model-a.*could not be matched/, 'which is said');
	look();
	unlike(slurp_file($node->logfile, $log), qr/ERROR|FATAL|PANIC/, 'and the worker goes on');
};

subtest 'no two keep step' => sub {
	begin_anew();
	add_provider($node, $sim, $_) foreach 'a', 'b', 'c';
	$node->safe_psql('postgres', q{
		INSERT INTO llm_probe(provider, model, every) SELECT p, 'm' || n, '1 s' FROM unnest('{a,b,c}'::text[]) p, generate_series(1, 5) n});
	look();
	$sim->wait_for(listener => $_, requests => 25) foreach 'a', 'b', 'c';
	my %times;
	foreach my $listener ('a', 'b', 'c')
	{
		foreach my $n (1 .. 5)
		{
			my @at = $sim->arrivals($listener, model => "m$n");
			$times{"$listener$n"} = \@at;
		}
	}
	my @first = sort { $a <=> $b } map { $_->[0] } values %times;
	# were they sent at once, that would take some milliseconds
	cmp_ok($first[-1] - $first[0], '>', 0.3, 'the first ones are spread');
	my @pauses = map { my $at = $_; map { $at->[$_] - $at->[ $_ - 1 ] } 1 .. $#$at } values %times;
	cmp_ok(min(@pauses), '>', 0.5, 'none is much too early');
	cmp_ok(max(@pauses) - min(@pauses), '>', 0.05, 'and the pauses are not all the same');
};

subtest 'one at a time, and no more than its time' => sub {
	begin_anew();
	add_provider($node, $sim, 'a');
	# a call has less time than an attempt: nobody would be to blame
	$node->safe_psql('postgres', q{UPDATE llm_tier SET attempt_timeout = '500 ms', timeout = '100 ms' WHERE name = 'default'});
	$sim->behave({ hang => \1 }, listener => 'a');
	add_probe(provider => 'a', model => 'model-a', every => '20 ms');
	wait_for(q{SELECT failures >= 2 FROM probed WHERE provider = 'a'}, 'a hanging one fails');
	my @at = $sim->arrivals('a');
	cmp_ok(min(map { $at[$_] - $at[ $_ - 1 ] } 1 .. $#at), '>', 0.4, 'and is not asked again before that');
	like(events('a', 1), qr/^probe of a\/default\/model-a failed: \S/, 'which is told');
	$node->safe_psql('postgres', q{UPDATE llm_tier SET attempt_timeout = '1 min', timeout = '2 min' WHERE name = 'default'});
};

subtest 'what cannot work as it is configured' => sub {
	begin_anew();
	add_provider($node, $sim, 'a', model => undef, key => undef);
	$node->safe_psql('postgres', q{UPDATE llm_provider SET secret = 'gone'});
	add_probe(provider => 'a', model => 'm', every => '150 ms');
	wait_for(q{SELECT count(*) > 0 FROM llm_event WHERE provider = 'a' AND message LIKE '%secret "gone" does not exist'},
		'is told');
	is($sim->count('a'), 0, 'nothing is sent');
};

subtest 'switches' => sub {
	begin_anew();
	add_provider($node, $sim, 'a');
	add_probe(provider => 'a', model => 'model-a', every => '100 ms');

	# Whether nothing comes any more, once it was switched off, while another
	# goes on; and comes again when it is on.
	add_provider($node, $sim, 'b');
	add_probe(provider => 'b', model => 'model-b', every => '100 ms');
	foreach my $switch (
		[ 'probe', q{UPDATE llm_probe SET enabled = %s WHERE provider = 'a'} ],
		[ 'provider', q{UPDATE llm_provider SET enabled = %s WHERE name = 'a'} ],
		[ 'model', q{INSERT INTO llm_model(provider, name, enabled) VALUES ('a', 'model-a', %s)
			ON CONFLICT (provider, name) DO UPDATE SET enabled = excluded.enabled} ],
		[ 'region', q{INSERT INTO llm_region(provider, name, enabled) VALUES ('a', 'default', %s)
			ON CONFLICT (provider, name) DO UPDATE SET enabled = excluded.enabled} ])
	{
		my ($name, $sql) = @$switch;

		$sim->wait_for(listener => 'a', requests => $sim->count('a') + 1);
		$node->safe_psql('postgres', sprintf $sql, 'false');
		$sim->wait_for(listener => 'b', requests => $sim->count('b') + 2);
		my $id = last_id('a');
		$sim->wait_for(listener => 'b', requests => $sim->count('b') + 5);
		is(requests_since('a', $id), 0, "$name off: nothing is sent");
		$node->safe_psql('postgres', sprintf $sql, 'true');
		look();
		$sim->wait_for(listener => 'a', requests => $sim->count('a') + 1);
		pass("$name on: it is");
	}

	$node->safe_psql('postgres', q{DELETE FROM llm_probe WHERE provider = 'a'});
	$sim->wait_for(listener => 'b', requests => $sim->count('b') + 2);
	my $id = last_id('a');
	$sim->wait_for(listener => 'b', requests => $sim->count('b') + 5);
	is(requests_since('a', $id), 0, 'deleted: nothing is sent');

	# the whole of it
	$node->safe_psql('postgres', 'ALTER SYSTEM SET llm_failover.enabled = off');
	$node->reload;
	wait_for(q{SHOW llm_failover.enabled} =~ s/SHOW (.*)/SELECT current_setting('$1') = 'off'/r, 'switched off');
	look();
	$id = last_id('b');
	look() foreach 1 .. 10;
	is(requests_since('b', $id), 0, 'llm_failover.enabled off: nothing is sent');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET llm_failover.enabled');
	$node->reload;
	$sim->wait_for(listener => 'b', requests => $sim->count('b') + 3);
	pass('llm_failover.enabled on: it is');
	is(events('b', 0), '', 'that was no failure');
};

subtest 'noticed without a hint' => sub {
	begin_anew();
	add_provider($node, $sim, 'a', model => undef);
	$node->safe_psql('postgres', q{INSERT INTO llm_probe(provider, model) VALUES ('a', 'm')});
	$sim->wait_for(listener => 'a', requests => 1, timeout => 100);
	pass('a new row is noticed by an idle worker');
};

$node->stop;
unlike(slurp_file($node->logfile), qr/ERROR|PANIC/, 'no error in the log');

done_testing();
