# 037_crowd.pl: many calls at once that need the same name. It is looked up by
# one thread, for all of them; they share what comes of it; and when it was
# given up on for one, another tries anew.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $CROWD = 50;    # calls at once

my $lookup = build_lookup();
plan skip_all => 'needs Linux and a C compiler' unless defined $lookup;

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node(
	'main',
	conf =>
	  "llm_failover.allow_insecure_http = on\nllm_failover.log_failovers = off\n",
	env => { LD_PRELOAD => $lookup });
my $session = llm_session($node);
my $port = $sim->port('a');
my @counts;

$sim->set(a => keys => 'optional');

# --- 1. A name that takes its time.

add_crowd('slow', "http://hang-1000.to-127-0-0-1.test:$port/v1");
$session->start(check('slow'))->wait_in_call;
is_one_lookup('while the name is looked up');
my $r = $session->finish;
is($r->{out}, "$CROWD|0|", 'all go on when it is known') or diag $r->{err};
cmp_ok($r->{seconds}, '>=', 1, 'which took a second');
is($sim->count('a'), $CROWD, 'each was sent once');
is($session->run(check('slow'))->{out}, "$CROWD|0|", 'once more');

# --- 2. A name that does not resolve.

add_crowd('nobody', 'http://hang-1000.test/v1');
$session->start(check('nobody'))->wait_in_call;
is_one_lookup('while it is looked up in vain');
@counts = split /\|/, ($r = $session->finish)->{out};
is_deeply([ @counts[ 0, 1 ] ], [ 0, $CROWD ], 'none is answered');
like($counts[2], qr/^could not resolve host: hang-1000\.test after \d+ ms$/,
	'and it says why');
cmp_ok($r->{seconds}, '<', 10, 'and they did not ask one after the other');

# --- 3. A look-up that hangs: for longer than a call may take to connect.

$node->safe_psql('postgres',
	"UPDATE llm_tier SET connect_timeout = '1 s' WHERE name = 'default'");
add_crowd('stuck', 'http://hang-15000.test/v1');
$r = $session->run(check('stuck'));
@counts = split /\|/, $r->{out};
is_deeply([ @counts[ 0, 1 ] ], [ 0, $CROWD ], 'none waits for ever');
like($counts[2], qr/no connection after \d+ ms/, 'all give up on connecting');
cmp_ok($r->{seconds}, '<', 10, 'at about the same time');
cmp_ok($session->threads, '<=', 17, 'few look-ups are left behind');
$node->safe_psql('postgres',
	"UPDATE llm_tier SET connect_timeout = '30 s' WHERE name = 'default'");

# --- 4. The one whose look-up it was is not there any more.

is($session->run(check('slow'))->{out}, "$CROWD|0|", 'other names do as before');
$session->start(check('nobody'))->wait_in_call;
is($session->cancel->{sqlstate}, '57014', 'a crowd is cancelled');
is(($session->run(check('nobody'))->{out} =~ /^0\|(\d+)/)[0],
	$CROWD, 'and the next one looks up the name itself');
is($session->run(check('slow'))->{out}, "$CROWD|0|", 'the session is as it was');

$session->quit;
$node->stop;
done_testing();

# A provider with a crowd of models.
sub add_crowd
{
	my ($name, $url) = @_;

	$node->safe_psql(
		'postgres', qq{
		SET client_min_messages = warning;
		INSERT INTO llm_provider(name, dialect, base_url) VALUES ('$name', 'openai', '$url');
		INSERT INTO llm_route(tier, provider, model)
			SELECT 'default', '$name', 'm' || i FROM generate_series(1, $CROWD) i});
	return;
}

# A question to all of them: how many answer, how many do not, and why.
sub check
{
	my ($provider) = @_;

	return
	  "SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE NOT ok), min(error)"
	  . " FROM llm_check('$provider')";
}

# One test: the session has one thread besides its own.
sub is_one_lookup
{
	my ($name) = @_;
	my $threads = $session->threads;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# libcurl 7.88 has a thread a look-up, 8.2x a pool with some of its own
	cmp_ok($threads, '<=', 8, "$name: one thread does so");
	return;
}

# Compiles the resolver of our own. undef where it cannot be had.
sub build_lookup
{
	my $cc = $ENV{CC} // 'cc';
	my $library = PostgreSQL::Test::Utils::tempdir . '/lookup.so';

	return if $^O ne 'linux' || system("command -v $cc >/dev/null 2>&1") != 0;
	system($cc, '-O2', '-shared', '-fPIC', '-o', $library,
		"$FindBin::RealBin/../interpose/lookup.c", '-ldl') == 0
	  or BAIL_OUT('could not compile lookup.c');
	return $library;
}
