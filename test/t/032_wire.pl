# 032_wire.pl: what may happen between us and a server that speaks HTTP, nearly
# HTTP, or something else. A good answer is taken however it is framed; a
# connection that has died while it was kept is nobody's failure; anything less
# than a whole answer fails its attempt, with a reason, and the next candidate
# answers. One backend goes through all of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Encode qw(encode_utf8);
use JSON::PP;
use LlmSim;
use LlmTest;
use MIME::Base64;
use Test::More;
use Time::HiRes qw(sleep time);

my $sim = LlmSim->new(listeners => [ 'a', 'b', 's:https' ]);
my $node = llm_node('main');
$node->safe_psql('postgres',
	"ALTER SYSTEM SET llm_failover.ca_file = '" . $sim->ca_file . "'");
$node->reload;
add_provider($node, $sim, 'a');
add_provider($node, $sim, 'b', position => 2);
add_tier($node, 'tls');
add_provider($node, $sim, 's', tier => 'tls');
add_provider($node, $sim, 'b', name => 'b2', tier => 'tls', position => 2);
my $session = llm_session($node);
forget_on_change($node, $sim);
my $json = JSON::PP->new->utf8;

# What a prompt of this size is in SQL.
my %prompt = (
	small => "'Hello'",
	large => "repeat('Hello world. ', 20000)",    # 260 kB
	huge => "repeat('Hello world. ', 800000)");    # 10 MB

# One call: who answered after how many attempts, and the first attempt.
sub ask
{
	my (%args) = @_;
	my $prompt = $prompt{ $args{size} // 'small' };
	my $tier = $args{tier} // 'default';
	my $result = $session->run(
			"SELECT json_build_object('provider', provider, 'attempts', attempts,"
		  . " 'answer', left(answer, 1000), 'first', trace -> 0, 'trace', trace,"
		  . " 'input', input_tokens, 'error', error, 'code', error_code)"
		  . " FROM llm_respond($prompt, '$tier', on_error => 'null')");
	die $result->{err} if defined $result->{sqlstate};
	return $json->decode($result->{out});
}

# One test: the call is answered by the first candidate at its first attempt.
sub is_answered
{
	my ($name, %args) = @_;
	my $r = ask(%args);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( ($r->{provider} // '') eq (($args{tier} // '') eq 'tls' ? 's' : 'a')
		  && $r->{attempts} == 1
		  && (!defined $args{answer} || $r->{answer} eq $args{answer}),
		"$name: one attempt, answered") or diag explain $r;
	return $r;
}

# One test: the first candidate fails with this outcome and a reason, and the
# second one answers.
sub is_failed
{
	my ($name, $outcome, $reason, %args) = @_;
	my $r = ask(%args);
	my $next = ($args{tier} // '') eq 'tls' ? 'b2' : 'b';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( ($r->{provider} // '') eq $next
		  && $r->{attempts} == 2
		  && $r->{first}{outcome} eq $outcome
		  && ($r->{first}{error} // '') =~ $reason,
		"$name: $outcome, and the next one answers") or diag explain $r;
	return $r;
}

# The sockets of the backend.
sub sockets
{
	my $pid = $session->pid;
	return scalar grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

sub opened { return $sim->count($_[0], 'connections_opened'); }

# Waits until a listener has no connection left.
sub wait_closed
{
	$sim->wait_for(listener => $_[0], max_connections_open => 0);
	return;
}

# --- 1. Connections are kept, across calls, statements and transactions.

is_answered('the first call');
is_answered('the second call');
$session->run("SELECT count(llm_complete('Hello ' || i)) FROM generate_series(1, 5) i");
$session->run("BEGIN; SELECT llm_complete('in a transaction'); ROLLBACK");
$session->run("SELECT llm_complete('before an error'), 1 / 0");
is_answered('after an error');
is(opened('a'), 1, 'one connection for all calls');
is($sim->count('a'), 9, 'of nine requests');

# An error that leaves the connection in order does not cost it.
$sim->behave({ template => 'server_error' }, listener => 'a', times => 1);
is_failed('an error with keep-alive', 'server', qr/./);
is_answered('afterwards');
is(opened('a'), 1, 'on the same connection');

# Calls at the same time have connections of their own, and keep them.
$session->run("SELECT * FROM llm_check()");
is_answered('after llm_check()');
is(opened('a'), 1, 'llm_check() uses kept connections');

# --- 2. A kept connection that the server has closed meanwhile.

foreach my $how ('FIN', 'RST')
{
	foreach my $size (sort keys %prompt)
	{
		is_answered("before $how", size => 'small');
		my $before = opened('a');
		is($sim->hang_up('a', reset => $how eq 'RST'), 1, 'one kept connection');
		wait_closed('a');
		my $requests = $sim->count('a');
		is_answered("$how while idle, $size", size => $size);
		is(opened('a'), $before + 1, 'on a new connection');
		is($sim->count('a'), $requests + 1, 'sent once');
	}
}

# It dies under the request: sent again, once, on a new connection.
my %dying = (
	'closed without a word' => { raw => '' },
	'reset without a word' => { reset => 'request' },
	'reset before the body is read' => { reset => 'early' });
foreach my $name (sort keys %dying)
{
	foreach my $size ('small', 'huge')
	{
		is_answered('a connection to keep');
		my $rule = $sim->behave($dying{$name}, listener => 'a', reused => \1);
		my $r = is_answered("kept, then $name, $size", size => $size);
		ok($r->{first}{reconnected}, 'the trace says so');
		$sim->unbehave($rule);
	}
}

# As often as one likes: libcurl counts its own such retries of a handle.
$sim->behave({ raw => '' }, listener => 'a', reused => \1);
is( $session->run(
			"SELECT count(*), sum(r.attempts), count(DISTINCT r.provider)"
		  . " FROM generate_series(1, 25) i, llm_respond('Hello ' || i) r")->{out},
	'25|25|1',
	'a server that closes after each answer, unannounced');
$sim->reset;

# The same on a fresh connection is a failure; never sent three times.
foreach my $name (sort keys %dying)
{
	$sim->behave($dying{$name}, listener => 'a');
	my $before = $sim->count('a');
	$sim->hang_up('a');
	wait_closed('a');
	is_failed("fresh, and $name", 'network', qr/connection (closed|reset)/);
	is($sim->count('a'), $before + 1, 'not sent again');
	is_failed("fresh again, and $name", 'network', qr/connection (closed|reset)/);
	$sim->reset;
}

# Servers that close idle connections after a while: the race is ours to win.
$sim->set('a', idle_timeout => 0.05);
is( $session->run(
			"SELECT count(*), sum(r.attempts), count(DISTINCT r.provider) FROM"
		  . " generate_series(1, 40) i, LATERAL (SELECT pg_sleep(0.046 + 0.0002 * i)) p,"
		  . " llm_respond('Hello' || i || p) r")->{out},
	'40|40|1',
	'a server that closes idle connections, 40 times');
$sim->reset;

# Ends of connections that are told, and that are not.
foreach my $how ('header', 'silent', 'reset')
{
	$sim->behave({ close => $how }, listener => 'a');
	my $before = opened('a');
	is_answered("close: $how") foreach 1 .. 3;
	cmp_ok(opened('a') - $before, '>=', 2, 'new connections');
	$sim->reset;
}
foreach my $silent (0, 1)
{
	$sim->set('a', max_requests => 3, max_requests_silent => $silent ? \1 : \0);
	my $before = opened('a');
	is_answered("three requests a connection, silent $silent") foreach 1 .. 9;
	cmp_ok(opened('a') - $before, '>=', 2, 'new connections');
	cmp_ok(opened('a') - $before, '<=', 4, 'but not for each request');
	$sim->set('a', max_requests => undef, max_requests_silent => \0);
}
$sim->reset;

# The same with TLS.
# (It waits for our good-bye before the FIN, so there is no end to wait for.)
$sim->hang_up('s', reset => 1);
wait_closed('s');
is_answered('https', tier => 'tls') foreach 1, 2;
is(opened('s'), 1, 'https connections are kept');
foreach my $reset (0, 1)
{
	foreach my $size ('small', 'huge')
	{
		my $before = opened('s');
		is($sim->hang_up('s', reset => $reset), 1, 'one kept connection');
		wait_closed('s') if $reset;
		is_answered(
			"https, ended while idle, RST $reset, $size",
			tier => 'tls',
			size => $size);
		is(opened('s'), $before + 1, 'on a new connection');
	}
}
foreach my $name (sort keys %dying)
{
	is_answered('https, to be kept', tier => 'tls');
	my $rule = $sim->behave($dying{$name}, listener => 's', reused => \1);
	is_answered(
		"https, kept, then $name",
		tier => 'tls',
		size => $name =~ /before/ ? 'huge' : 'small');
	$sim->unbehave($rule);
}
$sim->behave({ close => 'abrupt' }, listener => 's');
is_answered('https, closed without a good-bye', tier => 'tls') foreach 1 .. 3;
$sim->reset;

# --- 3. Good answers, however they come.

my $text = "na\x{ef}ve \x{4f60}\x{597d} \x{1f600}";
my $bytes = encode_utf8($text);
my @good = (
	{ transfer => 'chunked' },
	{ transfer => 'chunked', chunk_size => 1 },
	{ transfer => 'chunked', chunk_size => 7 },
	{ transfer => 'close' },
	{ encoding => 'gzip' },
	{ encoding => 'deflate' },
	{ encoding => 'raw-deflate' },
	{ encoding => 'gzip', transfer => 'chunked', chunk_size => 3 },
	{ encoding => 'gzip', transfer => 'close' },
	{ http => '1.0' },
	{ http => '1.0', encoding => 'gzip' },
	{ http => '1.0', transfer => 'close' },
	{ interim => [100] },
	{ interim => [103] },
	{ interim => [ 100, 102, 103, 103, 100 ], transfer => 'chunked' },
	{ body_delay => 0.2 },
	{ drip => { bytes => 100, every => 0.01 } },
	{ drip => { bytes => 50, every => 0.01 }, transfer => 'chunked', encoding => 'gzip' },
	{ ascii => \1 },
	{ reason => '' },
	{ reason => 'Fine, thank you' },
	{ content_type => undef },
	{ content_type => 'text/html' },
	{ status => 201 },
	{ headers => { 'X-Nothing' => '' } });
foreach my $how (@good)
{
	my %how = (text => $text, %$how);
	my $name = $json->canonical->encode($how);
	$sim->behave(\%how, listener => 'a');
	my $result =
	  $session->run("SELECT count(*), sum(r.attempts), min(r.answer), max(r.answer)"
		  . " FROM generate_series(1, 3) i, llm_respond('Hello' || i) r");
	is($result->{out}, "3|3|$bytes|$bytes", "$name: letter by letter, three times")
	  or diag $result->{err};
	$sim->reset;
}

# What comes behind an answer is not the beginning of the next one.
foreach my $transfer ('length', 'chunked')
{
	my $evil = 'HTTP/1.1 200 OK' . "\r\n" . 'Content-Length: 2' . "\r\n\r\n{}";
	$sim->behave({ trailing => $_, transfer => $transfer }, listener => 'a', times => 1),
	  is_answered("trailing garbage, $transfer"),
	  is_answered("the call after trailing garbage, $transfer")
	  foreach "\r\n", 'garbage', $evil, 'x' x 100000;
}

# A large answer within the limit.
$sim->behave({ garbage => 'huge', size => 5_000_000 }, listener => 'a', times => 1);
is($session->run("SELECT length(llm_complete('Hello'))")->{out},
	5_000_000, 'an answer of 5 MB');

# --- 4. Answers before the request is through.

$sim->behave({ early => \1, template => 'too_large', close => 'header' }, listener => 'a');
my $r = ask(size => 'huge');
is($r->{code}, 'LL003', '413 while 10 MB go out: refused');
is($r->{first}{status}, 413, 'with its status');
is($r->{attempts}, 1, 'once');
$sim->reset;
foreach my $close (undef, 'header')
{
	my %close = defined $close ? (close => $close) : ();
	my $name = $close // 'kept';
	$sim->behave({ early => \1, status => 503, %close }, listener => 'a', times => 1);
	is_failed("503 while 10 MB go out, $name", 'overloaded', qr/./, size => 'huge');
	is_answered("the call after that, $name", size => 'huge');
	$sim->behave({ early => \1, text => 'so soon', %close }, listener => 'a', times => 1);
	is_answered("an answer while 10 MB go out, $name", size => 'huge', answer => 'so soon');
	is_answered("the call after that, $name");
}

# --- 5. What is cut short is never an answer, wherever it was cut.

my %framing = (
	'by length' => {},
	'chunked' => { transfer => 'chunked', chunk_size => 10 },
	'to the end' => { transfer => 'close' },
	'HTTP/1.0' => { http => '1.0' },
	'gzip' => { encoding => 'gzip' },
	'gzip to the end' => { encoding => 'gzip', transfer => 'close' });
$sim->clear;
foreach my $name (sort keys %framing)
{
	my @places = map { 9 * $_ } 0 .. 20;
	my %outcomes;
	foreach my $place (@places)
	{
		$sim->behave({ cut => $place, %{ $framing{$name} } }, listener => 'a', times => 1);
		my $r = ask();
		$outcomes{"$r->{provider} $r->{first}{outcome}"} = 1;
	}
	my $rest = join ', ', grep { !/^b (network|invalid_output)$/ } keys %outcomes;
	is($rest, '', "$name, cut at each place: never an answer");
	is_deeply(
		[ map { $_->{uses} } $sim->rules ],
		[ (1) x @places ],
		'each place was cut at');
	$sim->clear;
}
$sim->behave({ cut => \1 }, listener => 'a', times => 1);
is_failed('half a body', 'network', qr/./);
$sim->behave({ cut => \1, transfer => 'chunked' }, listener => 'a', times => 1);
is_failed('no last chunk', 'network', qr/./);
$sim->behave({ cut => \1, http => '1.0' }, listener => 'a', times => 1);
is_failed('HTTP/1.0, closed in the middle', 'invalid_output', qr/./);
$sim->behave({ reset => $_ }, listener => 'a', times => 1),
  is_failed("reset after $_", 'network', qr/connection reset/)
  foreach 'head', 5, 100, 300;

# --- 6. Other protocols, and bad HTTP. Each of these has a good answer in it.

my $answer =
	'{"id":"x","object":"chat.completion","created":1,"model":"m",'
  . '"choices":[{"index":0,"message":{"role":"assistant","content":"Gotcha"},'
  . '"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,'
  . '"total_tokens":2}}';
my $length = length $answer;
my $ok = "HTTP/1.1 200 OK\r\n";
my $type = "Content-Type: application/json\r\n";
my @bad = (
	[ 'HTTP/0.9', $answer, 'invalid_output' ],
	[ 'SSH', "SSH-2.0-OpenSSH_9.2\r\n$answer", 'invalid_output' ],
	[ 'SMTP', "220 mail ESMTP\r\n$answer", 'invalid_output' ],
	[ 'ICY', "ICY 200 OK\r\n\r\n$answer", 'invalid_output' ],
	[ 'RTSP', "RTSP/1.0 200 OK\r\n\r\n$answer", 'invalid_output' ],
	[ 'HTTP/7.3', "HTTP/7.3 200 OK\r\n\r\n$answer", 'invalid_output' ],
	[ 'zeros', "\0" x 1000, 'invalid_output' ],
	[ 'TLS alert', "\x15\x03\x01\x00\x02\x02\x0a", 'invalid_output' ],
	[ 'no status', "HTTP/1.1 OK\r\n\r\n$answer", 'invalid_output' ],
	[ 'a status of words', "HTTP/1.1 abc OK\r\n\r\n$answer", 'invalid_output' ],
	[ 'half a head', $ok . "Content-Type: appl", 'network' ],
	[ 'a head alone', $ok . "Content-Length: $length\r\n\r\n", 'network' ],
	[ 'no body', $ok . "Content-Length: 0\r\n\r\n", 'invalid_output' ],
	[ 'a length too small', $ok . "Content-Length: 20\r\n\r\n$answer", 'invalid_output' ],
	[ 'a length too large', $ok . "Content-Length: 100000\r\n\r\n$answer", 'network' ],
	[
		'a length beyond all bounds',
		$ok . "Content-Length: 99999999999999999999999\r\n\r\n" . substr($answer, 0, -1),
		'invalid_output'
	],
	[
		'a negative length',
		$ok . "Content-Length: -5\r\n\r\n$answer",
		qr/^(network|invalid_output)$/
	],
	[
		'no chunk',
		$ok . "Transfer-Encoding: chunked\r\n\r\n$answer",
		qr/^(network|invalid_output)$/
	],
	[
		'a chunk too long',
		$ok . "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n$answer\r\n0\r\n\r\n",
		'network'
	],
	[
		'a chunk too short',
		$ok . "Transfer-Encoding: chunked\r\n\r\n5\r\n$answer\r\n0\r\n\r\n",
		qr/^(network|invalid_output)$/
	],
	[
		'no gzip', $ok . "Content-Encoding: gzip\r\nContent-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[
		'an unknown encoding',
		$ok . "Content-Encoding: rot13\r\nContent-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[
		'a redirect',
		"HTTP/1.1 302 Found\r\nLocation: "
		  . $sim->url('b', '/v1/chat/completions')
		  . "\r\nContent-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[ 'not modified', "HTTP/1.1 304 Not Modified\r\n\r\n", 'invalid_output' ],
	[ 'no content', "HTTP/1.1 204 No Content\r\n\r\n", 'invalid_output' ],
	[
		'switching protocols',
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n$answer",
		'server'
	],
	[ 'interim only', "HTTP/1.1 100 Continue\r\n\r\n", 'network' ],
	[
		'a status of 600',
		"HTTP/1.1 600 Odd\r\nContent-Length: $length\r\n\r\n$answer", 'server'
	],
	[
		'an error with an answer',
		"HTTP/1.1 500 Oops\r\nContent-Length: $length\r\n\r\n$answer", 'server'
	],
	[
		'a million interims',
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" x 20000
		  . $ok
		  . "Content-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[
		'a long header',
		$ok . 'X-Bomb: ' . 'x' x 2_000_000 . "\r\nContent-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[
		'a long status line',
		'HTTP/1.1 200 ' . 'x' x 2_000_000 . "\r\nContent-Length: $length\r\n\r\n$answer",
		'invalid_output'
	],
	[
		'many headers',
		$ok
		  . join('', map { "X-Bomb-$_: x\r\n" } 1 .. 50000)
		  . "Content-Length: $length\r\n\r\n$answer",
		'invalid_output'
	]);

is_answered('before the bad ones');
my $sockets = sockets();
my $memory = $session->memory;
foreach my $bad (@bad)
{
	my ($name, $raw, $outcome) = @$bad;
	$sim->behave({ raw => $raw }, listener => 'a', times => 1, reused => \0);
	$sim->hang_up('a');
	wait_closed('a');
	my $r = ask();
	ok( ($r->{provider} // '') eq 'b'
		  && $r->{attempts} == 2
		  && (
			ref $outcome
			? $r->{first}{outcome} =~ $outcome
			: $r->{first}{outcome} eq $outcome)
		  && length($r->{first}{error} // ''),
		"$name: refused, and the next one answers") or diag explain $r;
	note "$name: $r->{first}{outcome}, " . ($r->{first}{error} // '');
	$sim->clear;
}
foreach
  my $mode ([ reset => 'network' ], [ close => 'network' ], [ garbage => 'invalid_output' ])
{
	$sim->mode('a', $mode->[0]);
	is_failed("a server that is $mode->[0]", $mode->[1], qr/./);
	$sim->mode('a', 'up');
}

# --- 7. Bodies that are no answer, or hard to read.

my $deep = 100_000;
my @bodies = (
	[ 'HTML with 200', { garbage => 'html' }, 'invalid_output' ],
	[ 'HTML with 502', { garbage => 'html', status => 502 }, 'server' ],
	[ 'HTML with 503', { template => 'unavailable_html' }, 'overloaded' ],
	[ 'an error with 200', { template => 'error_in_200' }, 'server' ],
	[ 'a stream', { stream => \1 }, 'invalid_output' ],
	[ 'a stream with an error', { stream => 'error' }, 'invalid_output' ],
	[ 'a stream that is cut', { stream => 'cut' }, 'invalid_output' ],
	[ 'a number', { garbage => 'number' }, 'invalid_output' ],
	[ 'a number beyond all bounds', { body => '1e999999' }, 'invalid_output' ],
	[ 'a string', { body => '"Gotcha"' }, 'invalid_output' ],
	[ 'null', { body => 'null' }, 'invalid_output' ],
	[ 'blanks', { body => "  \n " }, 'invalid_output' ],
	[ 'zeros', { body => "\0" x 5000 }, 'invalid_output' ],
	[ 'an answer and a zero', { body => "$answer\0" }, 'invalid_output' ],
	[ 'two answers', { body => "$answer$answer" }, 'invalid_output' ],
	[ 'a list of answers', { body => "[$answer]" }, 'invalid_output' ],
	[ 'deep', { garbage => 'deep', size => 1_000_000 }, 'invalid_output' ],
	[ 'deep and open', { body => '[' x $deep }, 'invalid_output' ],
	[ 'deep objects', { body => '{"choices":' x $deep }, 'invalid_output' ],
	[
		'deep beside an answer',
		{ body => $answer =~ s/"id"/'"y":' . '[' x $deep . ']' x $deep . ',"id"'/er },
		'invalid_output'
	],
	[
		'bad UTF-8 beside an answer',
		{ body_base64 => encode_base64($answer =~ s/"x"/"\xff\xfe"/r, '') }, undef
	],
	[
		'UTF-16',
		{ body_base64 => encode_base64(join('', map { "$_\0" } split //, $answer), '') },
		'invalid_output'
	],
	[
		'a lone surrogate in an error',
		{ status => 500, body => '{"error":{"message":"a\ud800z\u0000y"}}' }, 'server'
	],
	[
		'an error of 1 MB',
		{ status => 500, json => { error => { message => 'long ' x 200_000 } } }, 'server'
	],
	[
		'an error of bad UTF-8',
		{ status => 500, body_base64 => encode_base64("\xff\xfe\x80 oops \xc3", '') },
		'server'
	],
	[
		'an error of types unexpected',
		{
			status => 500,
			json => {
				error => {
					message => { a => [ 1, undef ] },
					code => [],
					type => 7
				}
			}
		},
		'server'
	],
	[ 'choices of a wrong type', { set => { choices => 'none' } }, 'invalid_output' ],
	[
		'a message of a wrong type',
		{ set => { 'choices.0.message' => [1] } },
		'invalid_output'
	],
	[
		'a text of a wrong type',
		{ set => { 'choices.0.message.content' => 7 } },
		'invalid_output'
	]);
foreach my $body (@bodies)
{
	my ($name, $how, $outcome) = @$body;
	$sim->behave($how, listener => 'a', times => 1);
	my $r = ask();
	if (defined $outcome)
	{
		ok( ($r->{provider} // '') eq 'b'
			  && $r->{attempts} == 2
			  && $r->{first}{outcome} eq $outcome
			  && length($r->{first}{error} // ''),
			"$name: $outcome, and the next one answers") or diag explain $r;
		cmp_ok(length($r->{first}{error} // ''), '<=', 500, 'the reason is short');
	}
	note "$name: $r->{first}{outcome}, " . ($r->{first}{error} // $r->{answer});
}

# Odd numbers and keys beside a good text do not spoil it.
foreach
  my $number ('1e999999', '-1e999999', '1e400', '-5', '1.5', '99999999999999999999999',
	'1' x 100_000,
	'"12"', 'null', '[]', '{"a":1}', 'true')
{
	my $odd = $answer =~ s/"prompt_tokens":1/"prompt_tokens":$number/r;
	$sim->behave({ body => $odd }, listener => 'a', times => 1);
	my $r = is_answered('prompt_tokens of ' . substr($number, 0, 30), answer => 'Gotcha');
	note $r->{input} // 'NULL';
}

# --- 8. More than is wanted: only that attempt fails, and memory is bounded.

$session->run("SET llm_failover.max_response_size = '64kB'");
foreach my $how (
	{},
	{ transfer => 'chunked' },
	{ encoding => 'gzip' },
	{ transfer => 'close' },
	{ encoding => 'deflate', transfer => 'chunked' })
{
	my $name = $json->canonical->encode($how);
	$sim->behave(
		{ garbage => 'huge', size => 8 << 20, %$how },
		listener => 'a',
		times => 1);
	is_failed("8 MB, $name", 'invalid_output', qr/response larger than 64 kB/);
	is_answered("afterwards, $name");
}
$session->run("RESET llm_failover.max_response_size");
$sim->behave(
	{ garbage => 'huge', size => 64 << 20, encoding => 'gzip' },
	listener => 'a',
	times => 1);
is_failed('64 MB from 64 kB of gzip', 'invalid_output', qr/response larger than 16384 kB/);

# --- 9. Slowly.

$session->run("UPDATE llm_tier SET attempt_timeout = '700 ms' WHERE name = 'default'");
$sim->behave({ drip => { bytes => 1, every => 0.1 } }, listener => 'a', times => 1);
is_failed('a byte now and then', 'timeout', qr/no whole answer after 700 ms/);
$sim->behave({ hang => $_ }, listener => 'a', times => 1),
  is_failed("hangs at $_", 'timeout', qr/700 ms/)
  foreach 'head', 20;
$session->run("UPDATE llm_tier SET attempt_timeout = DEFAULT WHERE name = 'default'");

is_answered('after all that');
is($session->run('SELECT pg_backend_pid()')->{out},
	$session->pid, 'one backend went through all of it');
SKIP:
{
	skip 'no /proc', 2 unless defined $memory;
	is(sockets(), $sockets, 'no socket is lost');
	cmp_ok($session->memory - $memory, '<', 40_000, 'memory is bounded');
	note "$memory kB before, " . $session->memory . ' kB after';
}
$session->quit;
$node->stop;
done_testing();
