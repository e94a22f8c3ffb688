# 030_cancel.pl: whatever a call is waiting for, Ctrl-C, statement_timeout and
# pg_terminate_backend() end it at once; the session goes on as if nothing had
# been, and nothing is left behind: no descriptor, thread, memory or request, in
# shared memory no place in flight, and no blame.
#
# How long it took is printed, the aim being 50 ms. What is demanded is a bound
# that a busy machine keeps.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use LlmSim;
use LlmTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $PATIENCE = 2;      # seconds in which a call must have ended
my $ROUNDS = 3;        # measures of each kind
my $CANCELS = 1000;    # calls that are cancelled while counting

my $lookup = build_lookup();
my $sim = LlmSim->new(listeners => [ 'good', 'a', 'up', 'hole', 'tls:https' ]);
my $node = llm_node(
	'main',
	conf => "llm_failover.log_failovers = off\nmax_connections = 40\n",
	env => defined $lookup ? { LD_PRELOAD => $lookup } : {});

# Where a call can be. Each phase is a tier without fallback, whose only route
# leads to what stalls there: a model on listener a, or a URL of its own.
my @phases = (
	{ tier => 'look-up', url => 'https://hang-20000.test/v1', threads => 2 },
	{ tier => 'connect', listener => 'hole' },
	{ tier => 'handshake', listener => 'tls' },
	{
		tier => 'upload',
		listener => 'up',
		behaviour => { hang => 'early' },
		prompt => "repeat('Is anybody there? ', 500000)"
	},
	{ tier => 'first-byte', behaviour => { hang => \1 } },
	{ tier => 'head', behaviour => { hang => 20 } },
	{ tier => 'body', behaviour => { hang => 'head' } },
	{ tier => 'drip', behaviour => { drip => { bytes => 1, every => 0.01 } } },
	{
		tier => 'retry-after',
		behaviour => { template => 'rate_limit', retry_after => 600 },
		at_timeout => 'LL001|57014'
	},
	{
		tier => 'rule',
		builtin => 'rule',
		prompt => "repeat('the quick fox ', 30)",
		at_timeout => '57014'
	},
	{
		tier => 'extract',
		builtin => 'extract',
		prompt => '(SELECT text FROM long_text)',
		at_timeout => '57014'
	});
@phases = grep { defined $lookup || $_->{tier} ne 'look-up' } @phases;
configure();

my $ALIVE = 'good/model-good: Hello';
my %took;
my $victim = new_session();

foreach my $phase (@phases)
{
	subtest $phase->{tier} => sub {
		try_cancel($phase) for 1 .. $ROUNDS;
		try_timeout($phase) for 1 .. $ROUNDS;
		try_terminate($phase) for 1 .. $ROUNDS;
	};
}
foreach my $phase (map { $_->{tier} } @phases)
{
	note sprintf '%-12s %s', $phase, join ', ',
	  map { describe($_, $took{$phase}{$_}) } qw(cancel timeout terminate);
}
no_request_left();
is_not_in_flight();

# A thread that resolves cannot be ended, but there are few of them.
SKIP:
{
	skip 'no resolver that hangs', 2 unless defined $lookup;
	$victim->run('SET statement_timeout = 20');
	my @errors = map { $victim->run(call($phases[0]))->{err} } 1 .. 20;
	$victim->run('RESET statement_timeout');
	like($errors[-1], qr/too many unfinished name look-ups \(16\)/,
		'look-ups that hang are bounded');
	# libcurl 7.88 has a thread a look-up, 8.2x a pool with some of its own
	cmp_ok($victim->threads, '<=', 32, 'and so are their threads');
	is_alive($victim, 'while literal addresses work');
}
$victim->quit;

# 1,000 calls are cancelled in a PL/pgSQL loop, and 100 more end by their
# statement's timeout. These look-ups end soon, so that they can be waited for.
{
	my $session = new_session();
	$session->run(q{CREATE TEMP SEQUENCE cancelled});
	cancel_calls($session, 150);
	is_alive($session, 'after a warm-up');
	forget($node);
	$session->run('SELECT llm_stat_reset()');
	my %before = holdings($session);
	my $began = time;
	my $cancelled = cancel_calls($session, $CANCELS);
	note sprintf '%d calls cancelled in %.1f s', $cancelled, time - $began;
	cmp_ok($cancelled, '>=', $CANCELS, "$CANCELS calls were cancelled");
	is_not_in_flight();
	# look-ups may fail when they are not cancelled in time
	is( $session->run(q{SELECT string_agg(concat_ws(' ', provider, state, calls), ', ')
			FROM llm_status WHERE (state <> 'closed' OR failures > 0)
			AND provider <> 'p-brief'})->{out},
		'p-retry-after throttled 1', 'nobody is blamed, and who throttles was asked once');
	is_alive($session, "after $CANCELS cancelled calls");
	my %after = holdings($session);
	cmp_ok($after{$_}, '<=', $before{$_}, "no $_ leaked")
	  for grep { defined $before{$_} } 'descriptors', 'threads', 'contexts';
	foreach my $what (grep { defined $before{$_} } 'memory', 'context_kb')
	{
		note "$what: $before{$what} kB before, $after{$what} kB after";
		cmp_ok($after{$what} - $before{$what}, '<', 2048, "no $what leaked");
	}
	$session->quit;
	no_request_left();
}

# A trial of a half-open breaker is cancelled: that blames nobody, and leaves its
# place to the next one.
{
	add_phase_tier('trial');
	add_phase_provider({}, 'trial');
	$node->safe_psql(
		'postgres', q{
		UPDATE llm_provider SET breaker_half_open_calls = 1 WHERE name = 'p-trial';
		SELECT llm_breaker_open('p-trial', duration => '1 ms')});
	my $rule = $sim->behave({ hang => \1 }, model => 'trial');
	my $call = q{SELECT llm_complete('Hello', 'trial')};
	my $reason = q{SELECT reason FROM llm_explain(tier => 'trial')};
	my $trials = 'provider breaker half-open, %d of 1 trials under way';

	$node->poll_query_until('postgres', $reason, sprintf $trials, 0)
	  or die 'the breaker is not half-open';
	foreach my $how ('cancel', 'terminate', 'finish')
	{
		my $session = new_session();
		my $requests = $sim->count('a');
		$session->run("SET statement_timeout = '1 s'") if $how eq 'finish';
		$session->start($call);
		$sim->wait_for(requests => $requests + 1, listener => 'a');
		is($node->safe_psql('postgres', $reason), sprintf($trials, 1), 'a trial')
		  unless $how eq 'finish';
		$session->$how;
		is_gone($session->pid) if $how eq 'terminate';
		is($node->safe_psql('postgres', $reason),
			sprintf($trials, 0), "$how: its place is free");
		$session->quit;
	}
	$sim->unbehave($rule);
	is($node->safe_psql('postgres', $call), 'a/trial: Hello', 'the next one answers');
	like($node->safe_psql('postgres', $reason), qr/ramping/, 'and ends the opening');
	$node->safe_psql('postgres', q{DELETE FROM llm_provider WHERE name = 'p-trial'});
}

# A cancel is an error like others: it can be caught, and undoes a savepoint.
{
	my $session = new_session();
	$session->start(
		q{DO $$
		BEGIN
			BEGIN
				CREATE TEMP TABLE undone();
				PERFORM llm_complete('Hello', 'first-byte');
			EXCEPTION WHEN query_canceled THEN
				RAISE NOTICE 'caught, %', llm_complete('Hello', 'good');
			END;
		END $$});
	$session->wait_in_call;
	my $end = $session->cancel;
	is($end->{notices}[0]{message}, "caught, $ALIVE",
		'a cancel is caught, and the handler may call');
	is($session->run("SELECT to_regclass('undone') IS NULL")->{out},
		't', 'the savepoint was rolled back');

	# A cursor's executor outlives the savepoint in which it failed, and with
	# it all memory of the call. What its provider says later is nobody's.
	my $id = $sim->behave({ delay => 1 }, model => 'slow');
	my $gone = $sim->count('a', 'gone');
	$session->run(q{BEGIN; DECLARE c CURSOR FOR SELECT llm_complete('Hello', 'slow'); SAVEPOINT s});
	$session->start('FETCH c');
	$session->wait_in_call;
	is($session->cancel->{sqlstate}, '57014', 'a FETCH is cancelled');
	ok($sim->wait_for(gone => $gone + 1, listener => 'a'),
		'and its request with it, though the cursor stays');
	$session->run('ROLLBACK TO s');
	is($session->run(q{SELECT llm_complete('Hello', 'slow')})->{out},
		'a/slow: Hello', 'the next call of the transaction gets its own answer');
	is($session->run('FETCH c')->{sqlstate}, '55000', 'the cursor has failed');
	$session->run('COMMIT');
	$sim->unbehave($id);

	# llm_last() is the last call that ended; a cancelled one did not.
	is_alive($session, 'after that');
	$session->run('BEGIN');
	$session->run(q{SELECT llm_complete('Hello', 'slow')});
	$session->start(q{SELECT llm_complete('Hello', 'body')});
	$session->wait_in_call;
	$session->cancel;
	$session->run('ROLLBACK');
	is($session->run('SELECT answer FROM llm_last()')->{out},
		'a/slow: Hello', 'llm_last() is kept over a cancel and a rollback');
	$session->quit;
}

# Many calls of one statement.
{
	my $check = q{SELECT count(*) FROM llm_check() WHERE NOT ok};
	my $session = new_session();
	is_alive($session, 'before llm_check()');
	my $descriptors = $session->descriptors;
	# those that answer, and the thread, would blur the count
	$node->safe_psql(
		'postgres', q{
		UPDATE llm_provider SET enabled = false
		 WHERE name IN ('p-look-up', 'p-brief', 'p-drip', 'p-retry-after', 'a')});
	foreach my $round (1 .. $ROUNDS)
	{
		$session->start($check);
		$sim->wait_for(in_progress => 3, listener => 'a');
		my $end = $session->cancel;
		is_ended($end, '57014', 'cancel', 'llm_check');
		is_alive($session, 'after llm_check() was cancelled');
		is($session->descriptors, $descriptors, 'no descriptor leaked');
	}
	$session->start($check);
	$sim->wait_for(in_progress => 3, listener => 'a');
	is_ended($session->terminate, '57P01', 'terminate', 'llm_check');
	no_request_left();
	is_not_in_flight();
	$node->safe_psql('postgres', 'UPDATE llm_provider SET enabled = true');
	note 'llm_check    ', join ', ',
	  map { describe($_, $took{llm_check}{$_}) } qw(cancel terminate);
}

# The provider's process is killed in the middle of a call.
{
	my $other = LlmSim->new(listeners => ['mortal']);
	add_provider($node, $other, 'mortal', tier => add_phase_tier('mortal'));
	$other->behave({ hang => 'head' });
	my $session = new_session();
	$session->start(q{SELECT llm_complete('Hello', 'mortal', on_error => 'null') IS NULL});
	$other->wait_for(requests => 1);
	kill 'KILL', $other->pid;
	my $end = $session->finish;
	is($end->{out}, 't', 'kill -9 of a provider ends the call');
	like($session->run(q{SELECT trace FROM llm_last()})->{out},
		qr/"network".*"network"/, 'after another attempt');
	is_alive($session, 'after kill -9 of a provider');
	$session->quit;
}

# The server is stopped, and killed, while calls are under way.
{
	my @sessions = map { new_session()->start(call($_)) }
	  grep { !$_->{builtin} } @phases;
	$_->wait_in_call for @sessions;
	my $began = time;
	$node->stop('fast');
	my $took = time - $began;
	note sprintf 'fast shutdown amid calls: %.0f ms', $took * 1000;
	cmp_ok($took, '<', 30, 'a fast shutdown does not wait for calls');
	no_request_left();

	unlike(slurp_file($node->logfile),
		qr/was terminated by signal|PANIC|TRAP|reference leak|still referenced/,
		'no backend crashed or leaked');
	{
		local $ENV{LD_PRELOAD} = $lookup if defined $lookup;
		$node->start;
	}
	@sessions = map { new_session()->start(call($_)) }
	  grep { !$_->{builtin} } @phases;
	$_->wait_in_call for @sessions;
	$node->kill9;
	ok(is_gone($_->pid), 'a backend in a call notices the death of the postmaster')
	  for @sessions;
	no_request_left();
}

done_testing();

# Compiles the resolver that hangs. undef where it cannot be had.
sub build_lookup
{
	my $cc = $ENV{CC} // 'cc';
	my $library = PostgreSQL::Test::Utils::tempdir . '/lookup.so';

	if ($^O ne 'linux' || system("command -v $cc >/dev/null 2>&1") != 0)
	{
		diag 'no resolver that hangs: this needs Linux and a C compiler';
		return;
	}
	system($cc, '-O2', '-shared', '-fPIC', '-o', $library,
		"$FindBin::RealBin/../interpose/lookup.c", '-ldl') == 0
	  or BAIL_OUT('could not compile lookup.c');
	return $library;
}

# A tier of its own that has all the time in the world.
sub add_phase_tier
{
	my ($name) = @_;
	add_tier(
		$node, $name,
		timeout => '1 hour',
		attempt_timeout => '1 hour',
		connect_timeout => '1 hour');
	return $name;
}

# One tier and route a phase, and the providers behind them.
sub configure
{
	add_provider($node, $sim, 'good', tier => add_phase_tier('good'));
	add_provider($node, $sim, 'a',
		tier => add_phase_tier('slow'), model => 'slow');
	$sim->set(a => keys => 'optional');
	$sim->mode(hole => 'blackhole');
	$sim->mode(tls => 'silent');
	$node->safe_psql(
		'postgres', q{
		INSERT INTO llm_rule(name, pattern, answer)
			VALUES ('forever', '^(.+)(.+)(.+)(.+)\4\3\2\1!?$', '');
		CREATE TABLE long_text AS SELECT string_agg(
			'Sentence ' || g || ' is on ' || md5(g::text) || ' and '
			|| md5((7 * g)::text) || '.', ' ') AS text
		FROM generate_series(1, 100000) g});
	foreach my $phase (@phases)
	{
		add_phase_tier($phase->{tier});
		add_phase_provider($phase, $phase->{tier});
	}
	if (defined $lookup)
	{
		add_phase_tier('brief');
		add_phase_provider({ url => 'https://hang-60.test/v1' }, 'brief');
	}
	return;
}

sub add_phase_provider
{
	my ($phase, $tier) = @_;
	my $provider = $phase->{builtin} // "p-$tier";
	my $url = $phase->{url}
	  // $sim->url($phase->{listener} // 'a', '/v1');

	$node->safe_psql('postgres',
		    'SET client_min_messages = warning; '
		  . "INSERT INTO llm_provider(name, dialect, base_url) VALUES ('$provider', 'openai', '$url');"
		  . "INSERT INTO llm_route(tier, provider, model) VALUES ('$tier', '$provider', '$tier')")
	  unless $phase->{builtin};
	$node->safe_psql('postgres',
		"INSERT INTO llm_route(tier, provider, model) VALUES ('$tier', 'builtin', '$phase->{builtin}')")
	  if $phase->{builtin};
	$sim->behave($phase->{behaviour},
		$phase->{listener} ? (listener => $phase->{listener}) : (model => $tier))
	  if defined $phase->{behaviour};
	return;
}

sub new_session { return llm_session($node); }

# The statement that stays in a phase.
sub call
{
	my ($phase) = @_;
	my $prompt = $phase->{prompt} // q{'Hello'};
	return "SELECT llm_complete($prompt, '$phase->{tier}')";
}

# Starts a call, as if it was the first, and returns when it is in its phase.
sub start_call
{
	my ($session, $phase) = @_;
	my $requests = $sim->count('a');

	forget($node);
	$session->start(call($phase));
	if ($phase->{builtin})
	{
		$node->poll_query_until('postgres',
			    'SELECT state = \'active\' FROM pg_stat_activity'
			  . ' WHERE pid = '
			  . $session->pid) or die 'the statement does not run';
		sleep 0.1;
		return;
	}
	$session->wait_in_call;
	$sim->wait_for(requests => $requests + 1, listener => 'a')
	  if defined $phase->{behaviour} && !defined $phase->{listener};
	sleep 0.02;
	return;
}

# Tests that a call ended as it should, and remembers how long that took.
sub is_ended
{
	my ($end, $sqlstate, $how, $tier) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	push @{ $took{$tier}{$how} }, $end->{seconds};
	like($end->{sqlstate} // '', qr/^(?:$sqlstate)$/, "$how: $sqlstate");
	cmp_ok($end->{seconds}, '<', $PATIENCE, "$how: at once");
	return;
}

sub is_alive
{
	my ($session, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($session->run(q{SELECT llm_complete('Hello', 'good')})->{out},
		$ALIVE, "a call works, $name");
}

# What does not read does not see the end either: listener "up" is left out.
sub no_request_left
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $counts = eval {
		$sim->wait_for(listener => 'a', max_in_progress => 0, timeout => 10);
	} // $sim->counts('a');
	return is($counts->{in_progress}, 0, 'no request is left with a provider');
}

# Nor is one still counted.
sub is_not_in_flight
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', 'SELECT sum(in_flight) FROM llm_status'),
		0, 'nothing is left in flight');
}

# Says whether a process ends within our patience.
sub is_gone
{
	my ($pid) = @_;
	my $until = time + 10 * $PATIENCE;

	while (kill 0, $pid)
	{
		return 0 if time > $until;
		sleep 0.005;
	}
	return 1;
}

sub try_cancel
{
	my ($phase) = @_;

	start_call($victim, $phase);
	cmp_ok($victim->threads, '>=', $phase->{threads}, 'a thread resolves')
	  if $phase->{threads} && defined $victim->threads;
	is_ended($victim->cancel, '57014', 'cancel', $phase->{tier});
	is_alive($victim, 'after a cancel');
	return;
}

# A call that waits ends a little before its statement does, with a proper
# error; one that computes is cancelled, and so may others be when the machine
# is too busy for that.
sub try_timeout
{
	my ($phase) = @_;
	my $timeout = 0.2;

	$victim->run('SET statement_timeout = ' . 1000 * $timeout);
	my $end = $victim->run(call($phase));
	$victim->run('RESET statement_timeout');
	$end->{seconds} = max($end->{seconds} - $timeout, 0);
	is_ended($end, $phase->{at_timeout} // 'LL002|57014', 'timeout',
		$phase->{tier});
	is_alive($victim, 'after statement_timeout');
	return;
}

sub try_terminate
{
	my ($phase) = @_;
	my $session = new_session();

	start_call($session, $phase);
	is_ended($session->terminate, '57P01', 'terminate', $phase->{tier});
	ok(is_gone($session->pid), 'terminate: the process has ended');
	return;
}

sub describe
{
	my ($how, $seconds) = @_;
	my @sorted = sort { $a <=> $b } @$seconds;

	return sprintf '%s %.1f ms (%.1f at most)', $how,
	  1000 * $sorted[ @sorted / 2 ], 1000 * $sorted[-1];
}

# Has n calls of a session cancelled, in all phases in turn and after some
# milliseconds each, and some more end by timeout. Returns how many were
# cancelled.
sub cancel_calls
{
	my ($session, $n) = @_;
	my @tiers = map { $_->{tier} eq 'look-up' ? 'brief' : $_->{tier} } @phases;
	my $tiers = join ',', @tiers;
	my $count = 'SELECT last_value FROM cancelled';
	# prompts of 10 MB would leave malloc's heap larger by chance
	my @timed = grep { $_->{tier} !~ /^(look-up|upload|extract)$/ } @phases;

	# a cancel that hits the loop itself ends it; on a slow machine many do
	my $pause = 0.009;

	$session->run(q{ALTER SEQUENCE cancelled RESTART});
	do
	{
		$session->start(
			qq{DO \$\$
			DECLARE
				tiers text[] := '{$tiers}';
				short text := repeat('the quick fox ', 30);
				long text := (SELECT left(text, 200000) FROM long_text);
				tier text;
			BEGIN
				FOR i IN ($count) .. $n LOOP
					tier := tiers[1 + i % $#tiers];
					BEGIN
						PERFORM llm_complete(CASE tier WHEN 'extract'
							THEN long ELSE short END, tier);
					EXCEPTION
						WHEN query_canceled THEN
							PERFORM nextval('cancelled');
						WHEN SQLSTATE 'LL001' THEN
							NULL;    -- a look-up has failed: there is none for a while
					END;
				END LOOP;
			END \$\$});
		my $pest = start_pest($session->pid, $pause);
		$session->finish;
		kill 'KILL', $pest;
		waitpid $pest, 0;
		$pause *= 1.2;
	} until $session->run($count)->{out} >= $n;
	$session->run(join ';', 'SET statement_timeout = 15',
		(map { call($_) } @timed) x ($n / 10 / @timed),
		'RESET statement_timeout');
	return $session->run($count)->{out};
}

# A process that cancels whatever a backend does, over and over, after a pause.
sub start_pest
{
	my ($pid, $pause) = @_;
	my $pest = fork // die "fork: $!";

	return $pest if $pest;
	while (getppid() != 1)
	{
		sleep 0.003 + rand $pause;
		kill 'INT', $pid;
	}
	POSIX::_exit(0);
}

# What a session holds, once the look-ups that were given up on are over.
sub holdings
{
	my ($session) = @_;
	my ($contexts, $kilobytes) = split /\|/, $session->run(
		q{SELECT count(*) FILTER (WHERE name LIKE 'llm_failover%'),
			sum(total_bytes) / 1024 FROM pg_backend_memory_contexts})->{out};
	my $until = time + 30;

	while (($session->threads // 1) > 1 && time < $until) { sleep 0.02; }
	return (
		descriptors => $session->descriptors,
		threads => $session->threads,
		memory => $session->memory,
		contexts => $contexts,
		context_kb => int $kilobytes);
}
