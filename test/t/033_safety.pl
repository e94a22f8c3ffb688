# 033_safety.pl: what must not happen, whatever a row, a key, a certificate or
# a provider says: no unverified TLS, no plain http beyond this machine, no
# redirect, no other protocol, no request that somebody else's text has shaped,
# and no setting in the wrong hands.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(
	listeners => [
		'a', 'b',
		'good:https', 'wrong_host:https:wrong_host',
		'expired:https:expired', 'unknown_ca:https:unknown_ca'
	]);
my $tmp = PostgreSQL::Test::Utils::tempdir;
my $lookup = build_lookup();
my $ca = $sim->ca_file;
(my $other_ca = $ca) =~ s/[^\/]*$/unknown.pem/;
my $node = llm_node(
	'main',
	conf => "max_connections = 20\n",
	env =>
	  { EVIL => "sk-evil\r\nX-Evil: 1", defined $lookup ? (LD_PRELOAD => $lookup) : () });
my $session = llm_session($node);
my $json = JSON::PP->new->utf8;

# Adds a provider to a tier of its own, both of that name.
sub add_alone
{
	my ($name, $listener, %args) = @_;
	add_tier($node, $name, max_attempts => 1);
	add_provider($node, $sim, $listener, name => $name, tier => $name, %args);
	return;
}

# A call to that tier, by which the server learns of it: the one attempt, with
# provider and error of the call.
sub ask
{
	my ($tier) = @_;
	forget($node);
	my $result = $session->run(
		"SELECT json_build_object('provider', provider, 'error', error, 'code', error_code,"
		  . " 'attempt', trace -> 0) FROM llm_respond('Hello', '$tier', on_error => 'null')"
	);
	return {
		provider => undef,
		error => $result->{message},
		code => $result->{sqlstate},
		hint => $result->{hint}
	  }
	  if defined $result->{sqlstate};
	return $json->decode($result->{out});
}

# One test: the call is answered.
sub is_answered
{
	my ($tier, $name) = @_;
	my $r = ask($tier);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $r->{provider}, $name) or diag explain $r;
	return;
}

# One test: the call's attempt fails with this outcome, for this reason.
sub is_failed
{
	my ($tier, $outcome, $reason, $name) = @_;
	my $r = ask($tier);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( !defined $r->{provider}
		  && ($r->{attempt}{outcome} // '') eq $outcome
		  && ($r->{attempt}{error}   // '') =~ $reason,
		$name) or diag explain $r;
	return;
}

# One test: the call fails without an attempt, for this reason.
sub is_misconfigured
{
	my ($tier, $reason, $name) = @_;
	my $r = ask($tier);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!defined $r->{provider} && $r->{code} eq 'LL006' && $r->{error} =~ $reason, $name)
	  or diag explain $r;
	return;
}

# Changes configuration as a superuser, past triggers and constraints.
sub force
{
	my ($sql) = @_;
	$node->safe_psql('postgres', "SET session_replication_role = replica; $sql");
	return;
}

# --- 1. TLS is verified.

my %untrusted = (
	wrong_host => qr/does not match|no alternative certificate subject name/,
	expired => qr/certificate.*expired/,
	unknown_ca => qr/unable to get (local )?issuer certificate|self[- ]signed/);
add_alone('good', 'good');
add_alone($_, $_) foreach sort keys %untrusted;

is_failed(
	'good', 'network',
	qr/issuer certificate|self[- ]signed/, 'a private CA is not trusted by itself');
$session->run("SET llm_failover.ca_file = '$ca'");
is_answered('good', 'its certificate is, with ca_file');
is_failed($_, 'network', $untrusted{$_}, "https: $_") foreach sort keys %untrusted;
is($sim->count($_), 0, "$_: no request was sent") foreach sort keys %untrusted;

# The connection that was verified by one CA is none of another's.
is_answered('good', 'on a kept connection');
is($sim->count('good', 'connections_opened'), 2, 'one refused and one kept connection');
$session->run("SET llm_failover.ca_file = '$other_ca'");
is_failed(
	'good', 'network',
	qr/issuer certificate|self[- ]signed/, 'another ca_file: not trusted, kept or not');
is_answered('unknown_ca', 'but what that one has signed');
$session->run("SET llm_failover.ca_file = ''");
is_failed('good', 'network', qr/issuer certificate|self[- ]signed/,
	'without ca_file again');
is_failed('unknown_ca', 'network', qr/issuer certificate|self[- ]signed/, 'this one too');
$session->run("SET llm_failover.ca_file = '$ca'");
is($sim->count('good'), 2, 'nothing was sent meanwhile');
is_answered('good', 'with the right one again');

# A ca_file that is none is our own fault, and says which file.
append_to_file("$tmp/empty.pem", '');
append_to_file("$tmp/none.pem", "no certificate\n");
foreach my $file ("$tmp/missing.pem", "$tmp/empty.pem", "$tmp/none.pem", $tmp)
{
	(my $name = $file) =~ s/.*\///;
	$session->run("SET llm_failover.ca_file = '$file'");
	is_failed('good', 'own_limit', qr/\Q$file\E/, "ca_file $name");
}
$session->run("SET llm_failover.ca_file = '$ca'");
is_answered('good', 'after all that');

# --- 2. Plain http stays on this machine.

$session->run("SET llm_failover.allow_insecure_http = off");
add_alone('plain', 'a');
is_answered('plain', 'plain http to loopback');
my $port = $sim->port('a');

# The row came while it was allowed, or past the checks.
sub plain_at
{
	my ($url) = @_;
	force("UPDATE llm_provider SET base_url = '$url' WHERE name = 'plain'");
	return;
}
my $before = $sim->count('a');
foreach my $host (
	'0.0.0.0', '192.0.2.1',
	'[::]', '127.0.0.1.example.com',
	'localhost.example.com', '2130706434.example.com',
	'example.com')
{
	plain_at("http://$host:$port/v1");
	is_failed(
		'plain', 'own_limit',
		qr/plain http to a host that is not loopback/,
		"plain http to $host, at call time");
}
is($sim->count('a'), $before, 'nothing was sent');
foreach my $host ('localhost', '127.0.0.1', 'LOCALHOST')
{
	plain_at("http://$host:$port/v1");
	is_answered('plain', "plain http to $host");
}
psql_error(
	$node,
	"INSERT INTO llm_provider(name, dialect, base_url) VALUES ('x', 'openai', 'http://example.com/v1')",
	'23514',
	qr/^llm_provider\.base_url uses plain http to "example\.com"$/);

SKIP:
{
	skip 'needs Linux and a C compiler', 7 unless defined $lookup;
	# allowed: it goes out; forbidden again: not even on the connection that is kept
	$session->run('SET llm_failover.allow_insecure_http = on');
	psql_ok(
		$node, "SET llm_failover.allow_insecure_http = on;
		UPDATE llm_provider SET base_url = 'http://to-127-0-0-1.test:$port/v1' WHERE name = 'plain'",
		'plain http to another name, allowed at UPDATE');
	is_answered('plain', 'and at call time');
	$before = $sim->count('a');
	$session->run('SET llm_failover.allow_insecure_http = off');
	is_failed(
		'plain', 'own_limit',
		qr/plain http to a host that is not loopback/, 'forbidden later');
	is($sim->count('a'), $before, 'not even on a kept connection');
	# a name that claims to be this machine and is not: /etc/hosts may say so
	plain_at("http://to-192-0-2-1.test:$port/v1");
	is_failed('plain', 'own_limit', qr/not loopback/, 'a name that leads elsewhere');
	# https to a name is judged by the certificate
	$node->safe_psql('postgres',
			"UPDATE llm_provider SET base_url = 'https://to-127-0-0-1.test:"
		  . $sim->port('good')
		  . "/v1' WHERE name = 'good'");
	$before = $sim->count('good');
	is_failed('good', 'network', $untrusted{wrong_host},
		'a name that leads to a server of another name');
	is($sim->count('good'), $before, 'nothing was sent');
}

# --- 3. No redirect is followed, and no other protocol spoken.

add_alone('moved', 'a');
foreach my $status (300, 301, 302, 303, 307, 308)
{
	foreach my $to (
		$sim->url('b', '/v1/chat/completions'),
		$sim->url('a', '/v1/chat/completions'),
		'//127.0.0.1:' . $sim->port('b') . '/',
		'file:///etc/passwd')
	{
		$before = $sim->count('a');
		$sim->behave({ redirect => $to, status => $status }, listener => 'a', times => 1);
		is_failed('moved', 'invalid_output', qr/./,
			"$status to " . ($to =~ s/:\d+/:PORT/r));
		is($sim->count('a'), $before + 1, 'asked once');
	}
}
is($sim->count('b'), 0, 'nobody else was asked');
is($sim->count('b', 'connections_opened'), 0, 'nor connected to');

# The row's checks refuse these; a superuser who drops all of them, triggers
# and constraints, meets the last wall.
$node->safe_psql(
	'postgres', q{DO $$ DECLARE c record; BEGIN
	FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
		WHERE conrelid IN ('llm_provider'::regclass, 'llm_region'::regclass, 'llm_model'::regclass, 'llm_route'::regclass)
		  AND contype = 'c'
	LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); END LOOP; END $$}
);
append_to_file("$tmp/answer",
	'{"choices":[{"message":{"content":"Gotcha"},"finish_reason":"stop"}]}');
foreach my $url (
	"file://$tmp/answer", "FILE://$tmp/answer#",
	"ftp://127.0.0.1:$port/v1", "gopher://127.0.0.1:$port/_x",
	"dict://127.0.0.1:$port/x", "telnet://127.0.0.1:$port",
	"ws://127.0.0.1:$port/", "smtp://127.0.0.1:$port",
	"javascript:alert(1)", 'x',
	'', 'http://',
	"http://[::1", "http://127.0.0.1:99999/")
{
	plain_at($url);
	my $r = ask('plain');
	ok( !defined $r->{provider}
		  && ($r->{attempt}{outcome} // $r->{code}) =~ /^(own_limit|LL006)$/,
		"base_url $url leads nowhere") or diag explain $r;
}

# --- 4. No text of a row or a key shapes a request but by its value.

plain_at($sim->url('a', '/v1'));
is_answered('plain', 'set right');
my $evil = "x\r\nX-Evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n\r\n";
my $literal = "E'x\\r\\nX-Evil: 1\\r\\n\\r\\n'";

# Sends, and returns the request as it came, or undef.
sub sent
{
	my ($tier) = @_;
	my $requests = $sim->count('a');

	ask($tier);
	return if $sim->count('a') == $requests;
	is($sim->count('a'), $requests + 1, 'one request');
	return $sim->last_request('a');
}

# One test: nothing was sent.
sub is_not_sent
{
	my ($tier, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $requests = $sim->count('a');
	my $r = ask($tier);
	ok(!defined $r->{provider} && $sim->count('a') == $requests, $name) or diag explain $r;
	note $r->{error};
	return;
}

# keys
append_to_file("$tmp/key", $evil);
append_to_file("$tmp/key_zero", "sk-x\0y");
foreach my $reference ("file:$tmp/key", "file:$tmp/key_zero", 'env:EVIL')
{
	force("UPDATE llm_provider SET secret = '$reference' WHERE name = 'plain'");
	is_misconfigured(
		'plain',
		qr/contains control characters/,
		"a key of two lines in $reference");
	force(
		"UPDATE llm_provider SET secret = NULL, headers = '{\"X-Key\": \"$reference\"}' WHERE name = 'plain'"
	);
	is_misconfigured('plain', qr/contains control characters/, "... for a header");
	force("UPDATE llm_provider SET headers = NULL WHERE name = 'plain'");
}
force(
	"UPDATE llm_provider SET secret = 'evil' WHERE name = 'plain'; INSERT INTO llm_secret VALUES ('evil', $literal)"
);
is_misconfigured(
	'plain',
	qr/contains control characters/,
	'a key of two lines in llm_secret');
force("UPDATE llm_provider SET secret = 'key_plain' WHERE name = 'plain'");

# headers: names, values
foreach my $headers (
	'{"X-A": "b\r\nX-Evil: 1"}',
	'{"X-A\r\nX-Evil": "1"}',
	'{"X-A: 1\r\nX-Evil": "1"}',
	'{"X-A": "b\nX-Evil: 1"}',
	'{"X-A": "\u007f"}')
{
	psql_error($node, "UPDATE llm_provider SET headers = '$headers' WHERE name = 'plain'",
		'23514', qr/^llm_provider\.headers must/);
	force("UPDATE llm_provider SET headers = '$headers' WHERE name = 'plain'");
	is_not_sent('plain', "headers $headers");
}
foreach my $headers ('{"X-A": "b", "x-b": "c;d=\"e\"", "X-C": "", "X-D": "é"}',
	'{"Accept": "x/y", "User-Agent": "me"}')
{
	psql_ok(
		$node,
		"UPDATE llm_provider SET headers = '$headers' WHERE name = 'plain'",
		"headers $headers");
	my $request = sent('plain');
	my $want = $json->decode($headers);
	foreach my $name (sort keys %$want)
	{
		my @values =
		  map { $_->[1] } grep { lc $_->[0] eq lc $name } @{ $request->{header_list} };
		is(scalar @values, length $want->{$name} ? 1 : scalar @values,
			"header $name: once");
	}
}
force("UPDATE llm_provider SET headers = NULL WHERE name = 'plain'");

# models: in a path they are encoded, in a body quoted
my %odd = (
	'a/b' => 'a%2Fb',
	'../../evil' => '..%2F..%2Fevil',
	'a?key=1&b#c' => 'a%3Fkey%3D1%26b%23c',
	'a%0d%0aX-Evil:1' => 'a%250d%250aX-Evil%3A1',
	'a:b@c' => 'a%3Ab%40c',
	"\xc3\xa9" => '%C3%A9',
	'a\\"b' => 'a%5C%22b');
add_alone('gem', 'a', dialect => 'gemini');
add_alone('az', 'a', dialect => 'azure');
add_alone('quoted', 'a');
foreach my $model (sort keys %odd)
{
	$node->safe_psql('postgres',
			'SET client_min_messages = warning; UPDATE llm_route SET model = '
		  . quote_sql($model)
		  . " WHERE tier IN ('gem', 'az', 'quoted')");
	my $encoded = $odd{$model};
	is( sent('gem')->{target},
		"/v1beta/models/$encoded:generateContent",
		"model $model for gemini");
	like(
		sent('az')->{target},
		qr{^/openai/deployments/\Q$encoded\E/chat/completions\?api-version=[\w-]+$},
		"model $model for azure");
	my $request = sent('quoted');
	is( $json->decode($request->{body})->{model},
		JSON::PP->new->utf8->allow_nonref->decode(
			JSON::PP->new->allow_nonref->encode($model)),
		"model $model in a body") if $model !~ /[^\x20-\x7e]/;
	is($request->{target}, '/v1/chat/completions', 'to the same path');
}
psql_error($node, "UPDATE llm_route SET model = $literal WHERE tier = 'gem'",
	'23514', qr/^llm_route\.model must/);
force("UPDATE llm_route SET model = $literal WHERE tier IN ('gem', 'az', 'quoted')");
foreach my $tier ('gem', 'az', 'quoted')
{
	my $request = sent($tier);
	ok(!defined $request || !exists $request->{headers}{'x-evil'},
		"a model of two lines, $tier: no header");
}

# regions: their names are limited, and cannot move a host
$node->safe_psql(
	'postgres', "SET client_min_messages = warning;
	UPDATE llm_route SET model = 'm' WHERE tier = 'gem';
	UPDATE llm_provider SET base_url = 'https://{region}.example.com/v1' WHERE name = 'gem'");
foreach my $name (
	'evil.com/', 'evil.com#', 'evil.com?', 'evil.com\\', 'x@evil.com', 'a:80',
	':80', '../x', '.', '..', '', ' ',
	'a b', '[::1]', '%2e', '{region}', "\xc3\xa9", '-x')
{
	psql_error(
		$node,
		'INSERT INTO llm_region(provider, name) VALUES (\'gem\', ' . quote_sql($name) . ')',
		'23514',
		qr/^llm_region\.name must be 1 to 63 letters/,
		"region \"$name\"");
}
psql_error(
	$node, "INSERT INTO llm_region(provider, name) VALUES ('gem', E'x\\r\\nX-Evil: 1')",
	'23514',
	qr/^llm_region\.name must be/,
	'a region of two lines');
$node->safe_psql('postgres',
	"INSERT INTO llm_region(provider, name) VALUES ('gem', 'eu'), ('gem', 'a.b'), ('gem', 'localhost')"
);
is( $node->safe_psql(
		'postgres',
		"SELECT string_agg(base_url, ' ' ORDER BY region) FROM llm_routing WHERE provider = 'gem'"
	),
	'https://a.b.example.com/v1 https://eu.example.com/v1 https://localhost.example.com/v1',
	'regions below the same domain');
psql_error(
	$node,
	"INSERT INTO llm_provider(name, dialect, base_url) VALUES ('t', 'openai', 'http://{region}:$port/v1')",
	'23514',
	qr/uses plain http to "region"/,
	'no host is loopback by a region\'s name');

# --- 5. Settings and functions in the wrong hands.

$node->safe_psql(
	'postgres', q{CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN; CREATE ROLE nobody LOGIN;
	SELECT llm_grant_usage('app'); SELECT llm_grant_admin('boss')});
foreach my $role ('app', 'boss')
{
	psql_error(
		$node, "SET llm_failover.$_ = DEFAULT",
		'42501',
		qr/^permission denied to set parameter/,
		"$role may not set $_",
		user => $role)
	  foreach 'enabled', 'residency', 'log_failovers', 'proxy', 'ca_file',
	  'allow_insecure_http', 'max_response_size';
	psql_error(
		$node, 'SHOW llm_failover.proxy',
		'42501', qr/./,
		"$role does not see the proxy, nor its password",
		user => $role);
	psql_error(
		$node, "SELECT set_config('llm_failover.allow_insecure_http', 'on', true)",
		'42501', undef,
		"$role: set_config()",
		user => $role);
	psql_error(
		$node, "ALTER ROLE $role SET llm_failover.ca_file = '/x.pem'",
		'42501', undef,
		"$role: ALTER ROLE",
		user => $role);
	psql_ok($node, "SET llm_failover.$_ = DEFAULT", "$role may set $_", user => $role)
	  foreach 'tier', 'feature', 'on_error', 'allow_degraded';
}
psql_error($node, "SET llm_failover.residncy = 'eu'",
	'42602', qr/^invalid configuration parameter name "llm_failover\.residncy"$/);
psql_error($node, "ALTER SYSTEM SET llm_failover.residncy = 'eu'", $_, undef)
  foreach ($node->pg_version < 16 ? '42704' : '42602');
psql_error($node, "ALTER ROLE app SET llm_failover.residncy = 'eu'", '42602', undef);
psql_error($node, $_, '42501', undef, undef, user => 'nobody')
  foreach "SELECT llm_complete('x')", 'SELECT * FROM llm_routing',
  'SELECT * FROM llm_health', 'TABLE llm_provider',
  'SELECT name FROM llm_secret';
psql_error($node, $_, '42501', undef, undef, user => 'app')
  foreach 'SELECT * FROM llm_check()', 'SELECT * FROM llm_routing', 'TABLE llm_provider',
  'SELECT name FROM llm_secret',
  "SELECT llm_grant_admin('app')";
psql_error($node, 'SELECT value FROM llm_secret', '42501', undef, undef, user => 'boss');
psql_error(
	$node,
	"INSERT INTO llm_provider(name, dialect, secret) VALUES ('x', 'openai', 'file:/etc/passwd')",
	'42501',
	qr/^permission denied to use env: and file: references$/,
	'an admin cannot send a file',
	user => 'boss');

# What a region's name decides, who may not write file: may not decide either.
$node->safe_psql(
	'postgres', "INSERT INTO llm_provider(name, dialect, base_url, secret)
	VALUES ('filed', 'openai', 'https://{region}', 'file:$tmp/key')");
psql_error(
	$node, "INSERT INTO llm_region(provider, name) VALUES ('filed', 'evil.example.com')",
	'42501', undef,
	'an admin cannot send a file by a region\'s name',
	user => 'boss');
psql_error(
	$node,
	"UPDATE llm_provider SET base_url = 'https://evil.example.com' WHERE name = 'filed'",
	'42501', undef,
	'nor by the host',
	user => 'boss');

$session->quit;
$node->stop;
done_testing();

# Compiles the resolver of our own. undef where it cannot be had.
sub build_lookup
{
	my $cc = $ENV{CC} // 'cc';
	my $library = "$tmp/lookup.so";

	return if $^O ne 'linux' || system("command -v $cc >/dev/null 2>&1") != 0;
	system($cc, '-O2', '-shared', '-fPIC', '-o', $library,
		"$FindBin::RealBin/../interpose/lookup.c", '-ldl') == 0
	  or BAIL_OUT('could not compile lookup.c');
	return $library;
}
