# 036_proxy.pl: requests go through the proxy that the setting or the server's
# environment names, and a proxy learns no more of them than it has to.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Open3;
use JSON::PP;
use LlmSim;
use LlmTest;
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $sim = LlmSim->new(listeners => [ 'a', 's:https' ]);
my $node = llm_node('main');
$node->safe_psql('postgres',
	"ALTER SYSTEM SET llm_failover.ca_file = '" . $sim->ca_file . "'");
$node->reload;
my $json = JSON::PP->new->utf8;
my $session;
add_tier($node, 'http', max_attempts => 1);
add_tier($node, 'https', max_attempts => 1);
add_provider($node, $sim, 'a', tier => 'http');
add_provider($node, $sim, 's', tier => 'https');

# One call to a tier, by which the server learns of it: the attempt, with the
# provider that answered.
sub ask
{
	my ($tier) = @_;
	forget($node);
	my $result = $session->run("SELECT jsonb_build_object('answered_by', provider)"
		  . " || (trace -> 0) FROM llm_respond('Hello', '$tier', on_error => 'null')");
	die $result->{err} if defined $result->{sqlstate};
	return $json->decode($result->{out});
}

# One test: the call is answered.
sub is_answered
{
	my ($tier, $name) = @_;
	my $r = ask($tier);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $r->{answered_by}, $name) or diag explain $r;
	return;
}

# One test: it is not, for this reason.
sub is_failed
{
	my ($tier, $outcome, $reason, $name) = @_;
	my $r = ask($tier);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( !defined $r->{answered_by}
		  && $r->{outcome} eq $outcome
		  && ($r->{error} // '') =~ $reason,
		$name) or diag explain $r;
	return $r;
}

my $tmp = PostgreSQL::Test::Utils::tempdir;
my $nproxies = 0;

# Starts one; what it is asked stands in its log.
sub start_proxy
{
	my (@options) = @_;
	my $name = "$tmp/proxy" . $nproxies++;
	open(my $log, '>', $name) or die "open: $!";
	my $pid = open3(
		my $in, '>&' . fileno($log),
		'>&STDERR', $ENV{PYTHON} // 'python3',
		'-B', "$FindBin::RealBin/../sim/proxy.py", @options);
	sleep 0.02 until slurp_file($name) =~ /^(\d+)\n/ || waitpid($pid, WNOHANG) > 0;
	return { pid => $pid, in => $in, log => $name, url => "http://127.0.0.1:$1" };
}

# What it was asked since the last time.
sub proxied
{
	my ($proxy) = @_;
	my (undef, @lines) = split /\n/, slurp_file($proxy->{log});
	my @new = @lines[ $proxy->{seen} // 0 .. $#lines ];
	$proxy->{seen} = @lines;
	return map { $json->decode($_) } @new;
}

sub stop_proxy
{
	my ($proxy) = @_;
	close $proxy->{in};
	waitpid $proxy->{pid}, 0;
	return;
}

$session = llm_session($node);
my $proxy = start_proxy();
my $to_s = 'CONNECT 127.0.0.1:' . $sim->port('s');
my $to_a = 'POST ' . $sim->url('a', '/v1/chat/completions');
$session->run("SET llm_failover.proxy = '$proxy->{url}'");
is_answered('https', 'https through a proxy') foreach 1, 2;
my @asked = proxied($proxy);
is(join(', ', map { "$_->{method} $_->{target}" } @asked), $to_s, 'by one tunnel');
unlike(
	$json->encode(\@asked),
	qr/sk-s-secret|authorization/i,
	'the proxy does not see the key');
is_answered('http', 'http through a proxy');
is(join(', ', map { "$_->{method} $_->{target}" } proxied($proxy)), $to_a, 'by URL');

# A connection that was made through a proxy serves only calls through it.
$session->run("SET llm_failover.proxy = ''");
is_answered('https', 'directly');
is(scalar(my @none = proxied($proxy)), 0, 'without the proxy');
$session->run("SET llm_failover.proxy = '$proxy->{url}'");
stop_proxy($proxy);

# A proxy that is away, refuses, or wants a password.
$session->run("SET llm_failover.proxy = 'http://127.0.0.1:1'");
is_failed('https', 'network', qr/connection refused/, 'no proxy');
$session->run("SET llm_failover.proxy = 'http://no-such-proxy.invalid:3128'");
is_failed('https', 'network', qr/no-such-proxy\.invalid/, 'unknown proxy');
$proxy = start_proxy('--status', 403);
$session->run("SET llm_failover.proxy = '$proxy->{url}'");
is_failed('https', 'network', qr/CONNECT tunnel failed, response 403/, 'the proxy says no');
stop_proxy($proxy);
$proxy = start_proxy('--user', 'joe:proxy-secret');
$session->run("SET llm_failover.proxy = '$proxy->{url}'");
is_failed(
	'https', 'network',
	qr/CONNECT tunnel failed, response 407/, 'the proxy wants a password');
(my $with_user = $proxy->{url}) =~ s{//}{//joe:wrong-secret@};
$session->run("SET llm_failover.proxy = '$with_user'");
unlike($json->encode(is_failed('https', 'network', qr/407/, 'a wrong one')),
	qr/wrong-secret/, 'which is not told');
$with_user =~ s/wrong/proxy/;
$session->run("SET llm_failover.proxy = '$with_user'");
is_answered('https', 'with the password');
stop_proxy($proxy);

# Plain http must not leave this machine by a proxy either.
$session->run("SET llm_failover.proxy = 'http://192.0.2.1:3128'");
is_failed('http', 'own_limit', qr/plain http to 192\.0\.2\.1/, 'http by a proxy elsewhere');

# The environment of the server; what no_proxy names is reached directly.
$session->quit;
$proxy = start_proxy();
{
	local @ENV{qw(https_proxy http_proxy)} = ($proxy->{url}) x 2;
	$node->restart;
	$session = llm_session($node);
	is_answered('https', 'https_proxy');
	is(join(', ', map { "$_->{method} $_->{target}" } proxied($proxy)), $to_s, 'a tunnel');
	is_answered('http', 'http_proxy');
	is(join(', ', map { "$_->{method} $_->{target}" } proxied($proxy)), $to_a, 'by URL');
	$session->quit;

	local $ENV{no_proxy} = '127.0.0.1,localhost';
	$node->restart;
	$session = llm_session($node);
	is_answered('https', 'no_proxy, https');
	is_answered('http', 'no_proxy, http');
	is(scalar(@none = proxied($proxy)), 0, 'directly');
	$session->run("SET llm_failover.proxy = '$proxy->{url}'");
	is_answered('https', 'the setting, and no_proxy');
	is(scalar(@none = proxied($proxy)), 0, 'no_proxy counts for the setting, too');
}
stop_proxy($proxy);
$session->quit;
$node->stop;
done_testing();
