# 022_deadlines.pl: every clock. What ends an attempt, what ends a call, whom
# that blames, and who is waited for. Only lower bounds and orders are asserted,
# so that a slow machine cannot fail: limits that must fire are short against
# a server that never answers, limits that must not are minutes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b', 'tls:https' ]);
my $node = llm_node('main', conf => "llm_failover.ca_file = '" . $sim->ca_file . "'\n");

# Two models in two regions of one provider, then another provider.
add_provider($node, $sim, 'a', name => 'p', model => undef);
add_provider($node, $sim, 'b', name => 'q', model => undef);
my ($a, $b, $tls) = map { $sim->url($_, '/v1') } 'a', 'b', 'tls';
$node->safe_psql(
	'postgres', qq{
	SET client_min_messages = warning;
	INSERT INTO llm_region(provider, name, base_url) VALUES
		('p', 'r1', '$a'), ('p', 'r2', '$b'), ('p', 'r3', '$tls');
	INSERT INTO llm_tier(name, fallback) VALUES
		('alone', NULL), ('chain', 'offline'), ('scopes', NULL), ('tls', NULL);
	INSERT INTO llm_route(tier, provider, model, region, position) VALUES
		('alone', 'p', 'm1', 'r1', 1),
		('chain', 'p', 'm1', 'r1', 1), ('chain', 'p', 'm1', 'r2', 2),
		('scopes', 'p', 'm1', 'r1', 1), ('scopes', 'p', 'm2', 'r1', 2), ('scopes', 'p', 'm1', 'r2', 3),
		('tls', 'p', 'm1', 'r3', 1), ('tls', 'p', 'm2', 'r3', 2), ('tls', 'p', 'm1', 'r2', 3);
});

my $session = llm_session($node);
forget_on_change($node, $sim);
my $text = 'One is short. Two is longer. Three ends it.';

# How a call ends: its SQLSTATE or who answered, then its attempts with their
# words. What is run before it is undone.
sub call
{
	my ($tier, %args) = @_;
	my $before = $args{before} // 'SELECT 1 WHERE false';
	my $more = defined $args{timeout} ? ", timeout => '$args{timeout}'" : '';
	my $result = $session->run(<<"END");
		BEGIN; $before;
		SELECT concat_ws(' ', coalesce(r.error_code, r.model), (SELECT string_agg(concat_ws(' ',
			concat_ws('/', a.region, a.model), a.outcome, a.status, '(' || a.error || ')', a.next), ', ')
			FROM jsonb_to_recordset(r.trace) a(region text, model text, outcome text, status int, error text, next text)))
		FROM llm_respond('$text', '$tier', on_error => 'null' $more) r;
		ROLLBACK
END
	die $result->{err} if $result->{sqlstate};
	return wantarray ? ($result->{out}, $result->{seconds}) : $result->{out};
}

# The tier's own limits for one call.
sub limits
{
	my ($tier, %limits) = @_;
	return
		"UPDATE llm_tier SET "
	  . join(', ', map { "$_ = '$limits{$_}'" } sort keys %limits)
	  . " WHERE name = '$tier'";
}

# 1. The whole call. The attempt that is cut is cancelled and blames nobody;
# the words tell how long it had.
$sim->behave({ hang => \1 });
my ($out, $seconds) = call('alone', timeout => '300 ms');
is($out, 'LL002 r1/m1 cancelled (no whole answer after 300 ms)', 'the parameter timeout');
cmp_ok($seconds, '>=', 0.3, '... is waited for');
($out, $seconds) = call('alone', before => limits('alone', timeout => '200 ms'));
is($out, 'LL002 r1/m1 cancelled (no whole answer after 200 ms)', 'timeout of the tier');
is( call('alone', timeout => '100 ms', before => limits('alone', timeout => '1 h')),
	'LL002 r1/m1 cancelled (no whole answer after 100 ms)',
	'the parameter comes before the tier');
is( call('alone', timeout => '150 ms', before => limits('alone', timeout => '50 ms')),
	'LL002 r1/m1 cancelled (no whole answer after 150 ms)',
	'... when it is longer too');

# Nobody else is asked, but a builtin model answers.
my $before = $sim->count('b');
is( call('chain', timeout => '200 ms'),
	'extract r1/m1 cancelled (no whole answer after 200 ms) tier, rule declined (no rule matches) candidate, extract ok',
	'a degraded answer at the deadline');
is($sim->count('b'), $before, '... without another provider');

# statement_timeout is a deadline too, and an answer comes before it fires. The
# margin is 50 ms, which a busy machine may need more than once.
my $answer;
foreach my $try (1 .. 5)
{
	$answer = run_sql(
		$node, qq{SET statement_timeout = '600 ms';
		SELECT model, degraded, trace -> 0 ->> 'outcome' FROM llm_respond('$text', 'chain')});
	last unless defined $answer->{sqlstate};
}
is($answer->{out}, 'extract|t|cancelled', 'answered before statement_timeout');
my $error = psql_error(
	$node, qq{SET statement_timeout = '500 ms';
	SELECT llm_complete('$text', 'alone', timeout => '1 h')}, 'LL002', qr/^no answer within 0\.4\d* s$/);
is($error->{hint}, 'Raise statement_timeout.', '... the hint of an error at that deadline');
psql_error(
	$node, qq{SET statement_timeout = '10 min'; SELECT llm_complete('$text', 'alone', timeout => '200 ms')},
	'LL002',
	qr/^no answer within 0\.2 s$/,
	'the shorter one counts');

# The words of LL002.
$error = psql_error($node, "SELECT llm_complete('Hi', 'chain', timeout => '0.25 s')",
	'LL002', qr/^no answer within 0\.25 s$/);
like(
	$error->{detail},
	qr{^1\. p/r1/m1: no whole answer after 250 ms\. 2\. builtin/rule: no rule matches\. 3\. builtin/extract: needs three sentences to choose from\.$},
	'LL002: detail');
is($error->{hint}, 'Raise timeout of tier "chain", or the parameter timeout.', 'LL002: hint');
is( run_sql($node,
		q{SELECT error, error_code FROM llm_respond('Hi', 'alone', timeout => '0.1 s', on_error => 'null')})->{out},
	'no answer within 0.1 s|LL002',
	q{LL002: on_error => 'null'});
$sim->clear;

# 2. The attempt: attempt_timeout and first_byte_timeout blame the target,
# connect_timeout the region.
$sim->behave({ hang => \1 }, listener => 'a');
is( call('scopes', before => limits('scopes', attempt_timeout => '200 ms')),
	'm1 r1/m1 timeout (no whole answer after 200 ms) candidate, r1/m2 timeout (no whole answer after 200 ms) candidate, r2/m1 ok 200',
	'attempt_timeout: the region goes on');
is( call('scopes', before => limits('scopes', first_byte_timeout => '200 ms')),
	'm1 r1/m1 timeout (no byte of an answer after 200 ms) candidate, r1/m2 timeout (no byte of an answer after 200 ms) candidate, r2/m1 ok 200',
	'first_byte_timeout: the region goes on');
is( call('alone', before => limits('alone', attempt_timeout => '100 ms')),
	'LL001 r1/m1 timeout (no whole answer after 100 ms)',
	'a timeout is not retried');
$sim->clear;
$sim->behave({ hang => 'head' }, listener => 'a', model => 'm1');
is( call('scopes', before => limits('scopes', first_byte_timeout => '200 ms', attempt_timeout => '700 ms')),
	'm2 r1/m1 timeout (no whole answer after 700 ms) candidate, r1/m2 ok 200',
	'the clock of the first byte stops at the head');
$sim->clear;
$sim->behave({ drip => { bytes => 40, every => 0.05 } }, listener => 'a', model => 'm1');
is( call('scopes', before => limits('scopes', first_byte_timeout => '300 ms')),
	'm1 r1/m1 ok 200',
	'an answer that is slow after its first byte is one');
$sim->clear;
$sim->mode('tls', 'silent');    # accepts, and never says a word of TLS
like(
	call('tls', before => limits('tls', connect_timeout => '200 ms')),
	qr{^m1 r3/m1 timeout \(no connection after 200 ms[^)]*\) candidate, r2/m1 ok 200$},
	'connect_timeout: its region is left alone');
$sim->up('tls');
$sim->behave({ delay => 0.4 }, listener => 'tls');
is( call('tls', before => limits('tls', connect_timeout => '200 ms')),
	'm1 r3/m1 ok 200',
	'connect_timeout ends with the connection');
$sim->clear;

# The shortest clock has its say: cut by the call's own deadline is cancelled,
# whatever else was about to end.
$sim->behave({ hang => \1 });
is( call(
		'scopes',
		timeout => '200 ms',
		before => limits('scopes', attempt_timeout => '1 min', first_byte_timeout => '50 s')),
	'LL002 r1/m1 cancelled (no whole answer after 200 ms)',
	'nobody is blamed for our own deadline');
like(
	call('scopes', timeout => '1200 ms', before => limits('scopes', attempt_timeout => '400 ms')),
	qr{^LL002 r1/m1 timeout \(no whole answer after 400 ms\) candidate, r1/m2 timeout \(no whole answer after 400 ms\) candidate, r2/m1 cancelled \(no whole answer after \d+ ms\)$},
	'the last of three attempts has what is left');
$sim->clear;

# 3. Retries. One a target, after a pause of full jitter; a hint is its floor.
my %status = (overloaded => 503, server_error => 500, conflict => 409, not_of_this_dialect => 200);
foreach my $template (sort keys %status)
{
	$before = $sim->count('a');
	$sim->behave({ template => $template });
	like(
		call('alone'),
		qr{^LL001 r1/m1 \w+ $status{$template} \(.*\) retry, r1/m1 \w+ $status{$template} \([^,]*\)$},
		"$template: one retry");
	is($sim->count('a') - $before, 2, '... and no more');
	$sim->clear;
}

# Of all calls together: a fifth of the requests of ten seconds, and three.
$before = $sim->count('a');
$sim->behave({ template => 'conflict' });
my $many = $session->run(q{SELECT sum(r.attempts)
	FROM generate_series(1, 20) g, llm_respond('Hi ' || g, 'alone', on_error => 'null') r});
is($sim->count('a') - $before, $many->{out}, 'the trace of 20 calls hides no request');
cmp_ok($many->{out}, '>=', 20 + 3, '... there are retries');
cmp_ok($many->{out} - 20, '<=', (3 + 0.2 * $many->{out}) * (1 + int($many->{seconds} / 10)),
	'... as far as the budget goes');
$sim->clear;
$sim->behave({ template => 'overloaded', headers => { 'retry-after' => '1' } }, times => 1);
like(call('alone'), qr{^m1 r1/m1 overloaded 503 .* retry, r1/m1 ok 200$}, 'a retry with a hint');
cmp_ok(gap('a'), '>=', 1, '... comes no earlier than that');
$sim->clear;
$sim->behave({ template => 'overloaded', headers => { 'retry-after' => '60' } });
$before = $sim->count('a');
like(
	call('alone', timeout => '20 s'),
	qr{^LL001 r1/m1 overloaded 503 \([^,]*\)$},
	'no retry that the deadline does not allow');
is($sim->count('a') - $before, 1, '... none at all');
$sim->clear;

# Seconds between the last two requests: from the moment that the first one was
# read, as its answer cannot have been earlier.
sub gap
{
	my ($listener) = @_;
	my @log = ($sim->log($listener))[ -2, -1 ];
	return $log[1]{received} - $log[0]{read} + 0.005;
}

# 4. Retry-After. Others answer at once; it is waited for when there is nobody.
$sim->behave({ template => 'rate_limit', retry_after => 1 }, listener => 'a', times => 1);
like(
	call('scopes'),
	qr{^m2 r1/m1 throttled 429 \(.*\) candidate, r1/m2 ok 200$},
	'nobody waits while others can answer');
$sim->clear;

foreach my $hint (
	[ 'Retry-After', { template => 'rate_limit', retry_after => 1.2 }, 1.2 ],
	[ 'retry-after-ms', { template => 'rate_limit_ms', retry_after => 1.3 }, 1.3 ],
	[ 'a reset of the limit', { template => 'rate_limit_reset', retry_after => 1.1 }, 1.1 ],
	[
		'the longest of two',
		{   template => 'rate_limit_ms',
			retry_after => 0.2,
			headers => { 'retry-after' => '1.4' }
		},
		1.4
	],
	[ 'the floor', { template => 'rate_limit', retry_after => 0.1 }, 1 ],
	[ 'no hint', { template => 'rate_limit_silent' }, 1 ])
{
	my ($name, $behaviour, $wait) = @$hint;
	$sim->behave($behaviour, listener => 'a', times => 1);
	$before = $sim->count('a');
	like(call('alone'), qr{^m1 r1/m1 throttled 429 \(.*\) retry, r1/m1 ok 200$}, "$name: waited for");
	is($sim->count('a') - $before, 2, '... and asked again once');
	cmp_ok(gap('a'), '>=', $wait, "... nothing reaches the target before $wait s");
	$sim->clear;
}

# So does the next call, which knows it: nothing is sent before.
$sim->behave({ template => 'rate_limit', retry_after => 2 }, listener => 'a', times => 1);
$before = $sim->count('a');
like(call('alone', timeout => '1 s'), qr{^LL001 r1/m1 throttled 429 \(.* in 2s\.\)$},
	'a call that has no time to wait');
is(call('alone'), 'm1 r1/m1 ok 200', 'the next one waits, and asks once');
is($sim->count('a') - $before, 2, '... in all');
cmp_ok(gap('a'), '>=', 2, '... not before its time');
$sim->clear;

# The chain is used up first, and not walked again.
$sim->behave({ template => 'rate_limit', retry_after => 1 }, times => 4);
$sim->behave({ template => 'invalid_key' });
is( run_sql(
		$node, q{SELECT string_agg(concat_ws(' ', a.region, a.model, a.outcome), ', ')
	FROM llm_respond('Hi', 'chain', on_error => 'null') r,
		jsonb_to_recordset(r.trace) a(region text, model text, outcome text)})->{out},
	'r1 m1 throttled, r2 m1 throttled, rule declined, extract declined, r1 m1 throttled, r1 m1 throttled, r1 m1 auth',
	'who asked for patience is asked again after all others have declined');
$sim->clear;

# The deadline does not allow it: at once, and the error says when.
$sim->behave({ template => 'rate_limit', retry_after => 600 }, listener => 'a');
$before = $sim->count('a');
$error = psql_error($node, "SELECT llm_complete('Hi', 'alone')", 'LL001');
like(
	$error->{detail},
	qr{ The first may be asked again at (\d\d):(\d\d):(\d\d)\.$},
	'the error says when to ask again');
is($sim->count('a') - $before, 1, 'no request before that');
$sim->clear;
$sim->behave({ template => 'rate_limit', retry_after => 1 });
$before = $sim->count('a');
call('alone', before => limits('alone', max_attempts => 2));
is($sim->count('a') - $before, 2, 'waiting is bounded by max_attempts');
$sim->clear;

# 5. A pause ends for a cancel.
$sim->behave({ template => 'rate_limit', retry_after => 60 });
my $other = llm_session($node);
$other->start("SELECT llm_complete('Hi', 'alone', timeout => '1 h')");
$sim->wait_for(listener => 'a', requests => 1, max_in_progress => 0);
$other->wait_in_call;
is($other->cancel->{sqlstate}, '57014', 'cancelled while waiting for a Retry-After');
is($other->run('SELECT 1')->{out}, '1', '... and the session goes on');
$other->quit;

$session->quit;
$node->stop;
done_testing();
