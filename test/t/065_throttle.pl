# 065_throttle.pl: a provider says "later", in one of the many ways there are to
# say so, and until then nothing reaches that target from any session. Callers
# ask somebody else, or wait if there is nobody and their time allows it. When
# requests arrive is the simulator's word.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use LlmSim;
use LlmTest;
use POSIX qw(strftime);
use Test::More;
use Time::HiRes qw(time);

# For how long they are told to wait: longer than it takes to ask them all.
my $HOLD = 6;
# A call with so much time does not wait for that.
my $SHORT = "timeout => '3 s'";
# Two clocks are compared, and one of them is only good for milliseconds.
my $GRAIN = 0.01;

# As headers say it; these two stand for the date that it will be then.
my ($HTTP, $RFC_3339) = ('%a, %d %b %Y %H:%M:%S GMT', '%Y-%m-%dT%H:%M:%SZ');

sub headers
{
	my (%headers) = @_;
	$_ = "$_" foreach grep { defined } values %headers;
	return { headers => \%headers };
}

# Name, dialect, and what is said the first time, with one hint only.
my $later = { template => 'rate_limit_silent' };
my @cases = (
	[ 'seconds', 'openai', { %$later, %{ headers('retry-after' => $HOLD) } } ],
	[ 'date', 'openai', { %$later, %{ headers('retry-after' => $HTTP) } } ],
	[ 'ms', 'openai', { %$later, %{ headers('retry-after-ms' => 1000 * $HOLD) } } ],
	[ 'azure', 'azure', { %$later, %{ headers('x-ms-retry-after-ms' => 1000 * $HOLD) } } ],
	[ 'anthropic', 'anthropic', { %$later, %{ headers('retry-after' => $HOLD) } } ],
	[ 'reset', 'openai', { %$later, %{ headers('x-ratelimit-remaining-tokens' => 0, 'x-ratelimit-reset-tokens' => "${HOLD}s") } } ],
	[ 'google', 'gemini', { template => 'rate_limit', retry_after => $HOLD } ],
	[ 'words', 'openai', { status => 429, json => { error => { message => "Please try again in ${HOLD}s.", code => 'rate_limit_exceeded' } } } ],
	[ 'overloaded', 'openai', { template => 'overloaded', %{ headers('retry-after' => $HOLD) } } ],
	[ 'unavailable', 'gemini', { status => 503, %{ headers('retry-after' => $HOLD) } } ],
	[ 'server', 'anthropic', { template => 'server_error', %{ headers('retry-after' => $HOLD) } } ],
	# answers that tell what is left; where they do not tell of how much, nothing
	# is to be had before all is
	[ 'no-requests', 'openai', headers('x-ratelimit-limit-requests' => undef, 'x-ratelimit-remaining-requests' => 0, 'x-ratelimit-reset-requests' => "${HOLD}s") ],
	[ 'one-of-two', 'openai', headers('x-ratelimit-limit-requests' => 2, 'x-ratelimit-remaining-requests' => 0, 'x-ratelimit-reset-requests' => 2 * $HOLD . 's') ],
	[ 'no-tokens', 'openai', headers('x-ratelimit-limit-tokens' => undef, 'x-ratelimit-remaining-tokens' => 0, 'x-ratelimit-reset-tokens' => "${HOLD}s") ],
	[ 'no-claude', 'anthropic', headers('anthropic-ratelimit-requests-limit' => undef, 'anthropic-ratelimit-requests-remaining' => 0, 'anthropic-ratelimit-requests-reset' => $RFC_3339) ],
	[ 'no-claude-tokens', 'anthropic', headers('anthropic-ratelimit-tokens-limit' => undef, 'anthropic-ratelimit-tokens-remaining' => 0, 'anthropic-ratelimit-tokens-reset' => $RFC_3339) ]);

# Nothing is asked for sooner than after a second, whatever is said.
my @floors = (
	[ 'silent', $later ],
	[ 'none', { %$later, %{ headers('retry-after' => 0) } } ],
	[ 'negative', { %$later, %{ headers('retry-after' => -$HOLD) } } ],
	[ 'yesterday', { %$later, %{ headers('retry-after' => strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time - 86400))) } } ],
	[ 'no-number', { %$later, %{ headers('retry-after' => 'soon') } } ]);

# What is left is no reason to wait.
my @plenty = (
	[ 'left', headers('x-ratelimit-limit-requests' => undef, 'x-ratelimit-remaining-requests' => 1, 'x-ratelimit-reset-requests' => "${HOLD}s") ],
	[ 'nothing-said', headers('x-ratelimit-limit-requests' => undef, 'x-ratelimit-reset-requests' => undef, 'x-ratelimit-remaining-requests' => 0) ],
	[ 'at-once', headers('x-ratelimit-limit-requests' => undef, 'x-ratelimit-remaining-requests' => 0, 'x-ratelimit-reset-requests' => '0s') ]);

my @all = ((map { $_->[0] } @cases, @floors, @plenty), 'burst', 'first', 'second');
my $sim = LlmSim->new(listeners => [@all]);
my $node = llm_node('main', conf => "max_connections = 100\n");
my %dialect = map { $_->[0] => $_->[1] } @cases;
foreach my $name (@all)
{
	add_tier($node, $name);
	add_provider($node, $sim, $name, tier => $name, dialect => $dialect{$name} // 'openai', model => 'm');
}

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

sub status
{
	my ($provider, $columns) = @_;
	return sql("SELECT $columns FROM llm_status WHERE provider = '$provider' AND model = 'm'");
}

# A call's error and its attempts, each with its outcome.
sub call
{
	my ($tier, $more) = @_;
	$more = defined $more ? ", $more" : '';
	return sql(qq{SELECT concat_ws(' ', r.error_code, r.source, (SELECT string_agg(a.provider || ' ' || a.outcome, ', ')
			FROM jsonb_to_recordset(r.trace) a(provider text, outcome text)))
		FROM llm_respond('Hello', '$tier', on_error => 'null' $more) r});
}

# Tests that nobody came between a time and another one.
sub is_left_alone
{
	my ($listener, $from, $until, $name) = @_;
	my @early = grep { $_ > $from && $_ < $until - $GRAIN } $sim->arrivals($listener);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("@early", '', $name);
}

# Each says it once. The time runs from when the request came: they cannot
# have said it before.
my (%from, %until);
foreach my $case (@cases)
{
	my ($name, undef, $behaviour) = @$case;
	my $date = int(time) + $HOLD + 1;
	my $dated = 0;

	foreach my $value (values %{ $behaviour->{headers} // {} })
	{
		next unless defined $value && ($value eq $HTTP || $value eq $RFC_3339);
		$value = strftime($value, gmtime $date);
		$dated = 1;
	}
	$sim->behave($behaviour, listener => $name, times => 1);
	my $end = call($name, $SHORT);
	($from{$name}) = $sim->arrivals($name);
	$until{$name} = $dated ? $date : $from{$name} + $HOLD;
	like($end, $behaviour->{template} || $behaviour->{status} ? qr/^LL001 $name \w+$/ : qr/^model $name ok$/,
		"$name: is told so, and does not wait for that long");
	is(status($name, "state, reason, abs(extract(epoch FROM until) - $until{$name}) < 3"),
		'throttled|target throttled|t', 'all can see it');
}

# 64 sessions want them all at once, some of them before they may.
sql(q{UPDATE llm_tier SET timeout = '3 min'});
my $load = llm_load($node, clients => 4 * @cases, calls => 2, tiers => [ map { $_->[0] } @cases ]);

# Meanwhile: many requests are under way together, and the first is told to wait
# for longer than the others.
my $brief = $HOLD - 2;
$sim->behave({ %$later, delay => 0.5, %{ headers('retry-after' => $HOLD) } }, listener => 'burst', times => 1);
$sim->behave({ %$later, delay => 0.5, %{ headers('retry-after' => $brief) } }, listener => 'burst', times => 15);
my $burst = llm_load($node, clients => 16, calls => 1, tiers => ['burst']);

subtest 'nobody else is concerned' => sub {
	sql(q{INSERT INTO llm_tier(name) VALUES ('beside');
		INSERT INTO llm_route(tier, provider, model) VALUES ('beside', 'seconds', 'other')});
	is(call('beside'), 'model seconds ok', 'another model of the same provider');
	foreach my $case (@plenty)
	{
		my ($name, $behaviour) = @$case;

		$sim->behave($behaviour, listener => $name, times => 1);
		is(call($name), "model $name ok", "$name: an answer");
		is(status($name, 'state'), 'closed', '... after which all is well');
	}
};

subtest 'a floor' => sub {
	foreach my $case (@floors)
	{
		my ($name, $behaviour) = @$case;

		$sim->behave($behaviour, listener => $name, times => 1);
		is(call($name), "model $name throttled, $name ok", "$name: asked again in the same call");
		my ($first, $again) = $sim->arrivals($name);
		cmp_ok($again - $first, '>=', 1 - $GRAIN, '... but not before a second has passed');
	}
};

subtest 'the next candidate, at once' => sub {
	sql(q{INSERT INTO llm_route(tier, provider, model, position) VALUES ('first', 'second', 'm', 2)});
	$sim->behave({ %$later, %{ headers('retry-after' => 3600) } }, listener => 'first', times => 1);
	is(call('first'), 'model first throttled, second ok', 'in the same call');
	is(call('first'), 'model second ok', 'the next call does not even try');
	like( sql(q{SELECT string_agg(concat_ws(' ', provider, share, verdict, reason), ', ' ORDER BY provider) FROM llm_explain(tier => 'first')}),
		qr/^first 0 \w+ throttled until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d, second 1 ready$/, 'as llm_explain() says');
	sql(q{DELETE FROM llm_route WHERE tier = 'first' AND provider = 'second';
		UPDATE llm_tier SET fallback = 'second' WHERE name = 'first'});
	is(call('first'), 'model second ok', 'or the next tier');
	is($sim->count('first'), 1, 'and nobody else has asked');
	my $end = run_sql($node, q{SELECT llm_complete('Hello', 'first', allow_degraded => false)});
	is($end->{sqlstate}, 'LL001', 'without one there is no answer');
	like($end->{detail}, qr{^Not asked: first/default/m: throttled until ((?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d)\. first/default/m may be asked at \1\.$},
		'... and the error says when there might be');
	is(status('first', q{state, until > now() + interval '50 min'}), 'throttled|t', 'it is still so');
};

subtest 'an answer does not lift it' => sub {
	my $session = llm_session($node);

	$sim->behave({ delay => 2 }, listener => 'second', prompt => 'slow');
	$sim->behave({ %$later, %{ headers('retry-after' => 3600) } }, listener => 'second', times => 1);
	$session->start(q{SELECT llm_complete('slow', 'second')});
	$sim->wait_for(listener => 'second', in_progress => 1);
	is(call('second', $SHORT), 'LL001 second throttled', 'one is told to wait');
	is($session->finish->{out}, 'second/m: slow', 'another one had been asked before');
	is(status('second', 'state'), 'throttled', 'and still nobody may ask');
	$session->quit;
};

subtest 'a hedge obeys, too' => sub {
	sql(q{INSERT INTO llm_tier(name, hedge_after) VALUES ('hedged', '50 ms');
		INSERT INTO llm_route(tier, provider, model, position) VALUES ('hedged', 'left', 'm', 1), ('hedged', 'second', 'm', 2)});
	my $before = $sim->count('second');
	$sim->behave({ delay => 0.5 }, listener => 'left', times => 1);
	is(call('hedged'), 'model left ok', 'nobody to ask beside it');
	is($sim->count('second'), $before, 'was asked');
};

subtest 'a day at most' => sub {
	sql(q{SELECT llm_breaker_reset('second')});
	$sim->clear;
	$sim->behave({ %$later, %{ headers('retry-after' => 30 * 86400) } }, listener => 'second', times => 1);
	is(call('second'), 'LL001 second throttled', 'told to wait for a month');
	is(status('second', q{until BETWEEN now() + interval '23 hours' AND now() + interval '24 hours'}), 't',
		'a stranger cannot put a target to sleep');
};

$_->finish foreach $burst, $load;

subtest 'nothing reaches a target before its time' => sub {
	foreach my $name (map { $_->[0] } @cases)
	{
		my ($first_call, $calls, $failed, $attempts) = split /\|/, $load->value(
			qq{SELECT min(began), count(*), count(error_code), sum(attempts) FROM calls WHERE asked = '$name'});
		my @others = $name eq 'seconds' ? (model => 'm') : ();
		my @arrivals = $sim->arrivals($name, @others);
		my ($next) = grep { $_ > $from{$name} } @arrivals;

		cmp_ok($first_call, '<', $until{$name}, "$name: somebody wanted to");
		cmp_ok($next, '>=', $until{$name} - $GRAIN, sprintf '... and waited until %.2f s after', $next - $until{$name});
		is("$calls $failed $attempts", '8 0 8', '... and so did all others, for an answer');
		is(scalar @arrivals, 9, '... without asking twice');
	}
};

subtest 'the longest wait counts' => sub {
	my ($first) = $sim->arrivals('burst');

	is($burst->value('SELECT count(*), count(error_code) FROM calls'), '16|0', 'all were answered');
	cmp_ok($sim->count('burst'), '>', 20, 'many had been under way together');
	is_left_alone('burst', $first + $brief - 1, $first + $HOLD, 'nobody came back before the longest wait was over');
};

done_testing();
