# 067_leak.pl: whatever a call has reserved in shared memory it gives back,
# however it ends: cancels, errors, subtransactions that are rolled back,
# timeouts, sessions that are terminated, a backend that is killed; with one
# attempt under way, with a hedge beside it, with a trial of a breaker; and while
# the configuration changes. 32 sessions at a time, each in a loop.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run ();
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $CLIENTS = 32;
my $ROUNDS = 3;

# Who is told to hang is asked forever: by one attempt in these tiers, by two in
# that one.
my %requests = (hang => 1, sub => 1, hedge => 2);
my $HANG = '^hang';

my $sim = LlmSim->new(listeners => [ 'east', 'west', 'trial', 'fail' ]);
my $node = llm_node('main',
	conf => "max_connections = 100\nrestart_after_crash = on\nlog_line_prefix = '%n [%p] '\n");
my $swarms = 0;
configure();

# Where clients meet that are to stay in their transactions.
my $GATE = 4711;
my $MEET = "SELECT pg_advisory_xact_lock_shared($GATE)";

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

sub configure
{
	my ($east, $west) = map { $sim->url($_, '/v1') } 'east', 'west';

	$sim->set($_, keys => 'optional') foreach $sim->listeners;
	$sim->behave({ hang => \1 }, prompt => $HANG);
	add_provider($node, $sim, $_, model => undef) foreach 'trial', 'fail';
	# breakers are not the matter here, but for one
	sql(qq{
		INSERT INTO llm_provider(name, dialect) VALUES ('p', 'openai');
		INSERT INTO llm_region(provider, name, base_url) VALUES ('p', 'east', '$east'), ('p', 'west', '$west');
		UPDATE llm_provider SET breaker_consecutive = 1000000, breaker_min_calls = 1000000, breaker_ramp = '0';
		INSERT INTO llm_tier(name, timeout, attempt_timeout, connect_timeout, hedge_after)
		SELECT name, '1 hour', '1 hour', '1 hour', CASE name WHEN 'hedge' THEN interval '10 ms' END
		FROM unnest('{hang,hedge,east,west,trial,fail}'::text[]) name;
		INSERT INTO llm_route(tier, provider, model, region) VALUES ('hang', 'p', 'm', NULL), ('hedge', 'p', 'm', NULL),
			('east', 'p', 'm', 'east'), ('west', 'p', 'm', 'west'), ('trial', 'trial', 'm', NULL), ('fail', 'fail', 'm', NULL)});
	return;
}

# Starts a swarm: a psql for each client that goes on after errors. Its script
# comes from a function of the client's number.
sub swarm
{
	my ($script) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $self = { name => 'swarm ' . ++$swarms, dir => $dir };

	foreach my $i (0 .. $CLIENTS - 1)
	{
		append_to_file("$dir/$i.sql", "SET application_name = '$self->{name}';\n" . $script->($i));
		push @{ $self->{runs} },
		  IPC::Run::start(
			[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-f', "$dir/$i.sql" ],
			'<', '/dev/null', '>', "$dir/$i.out", '2>', "$dir/$i.err");
	}
	return $self;
}

# Cancels or terminates all of it.
sub signal
{
	my ($self, $how) = @_;
	return sql("SELECT count(pg_${how}_backend(pid)) FROM pg_stat_activity WHERE application_name = '$self->{name}'");
}

# How often each SQLSTATE was met so far.
sub errors
{
	my ($self) = @_;
	my %met;

	foreach my $i (0 .. $CLIENTS - 1)
	{
		$met{$_}++ foreach slurp_file("$self->{dir}/$i.err") =~ /^psql\S* (?:ERROR|FATAL):  (\w{5}):/mg;
	}
	return %met;
}

# Returns when so many calls of it had no answer.
sub wait_for_ends
{
	my ($self, $n) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	while (({ errors($self) }->{LL001} // 0) < $n)
	{
		die 'the others did not end' if time > $until;
		sleep 0.02;
	}
	return;
}

# Waits for its end; how often each SQLSTATE was met.
sub finish
{
	my ($self) = @_;

	eval { $_->finish } foreach @{ $self->{runs} };
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '$self->{name}'");
	return { errors($self) };
}

# Nobody is under way, at targets and at regions: with a limit of one there is
# room for a call.
sub is_clean
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql(q{SELECT string_agg(concat_ws('/', provider, region, model, in_flight), ' ') FROM llm_status WHERE in_flight <> 0}),
		'', "$name: no target has an attempt under way");
	sql('UPDATE llm_region SET max_inflight = 1');
	is(sql(qq{SELECT string_agg(coalesce(answer, error), ' ' ORDER BY tier)
			FROM unnest('{east,west}'::text[]) t, llm_respond('Hello', t, timeout => '10 s', on_error => 'null') r}),
		'east/m: Hello west/m: Hello', '... nor has a region');
	sql('UPDATE llm_region SET max_inflight = NULL');
	return;
}

# The statement that hangs, in one of the tiers.
sub tier_of { return (sort keys %requests)[ $_[0] % keys %requests ]; }

sub call { return "llm_complete('hang', '" . (tier_of($_[0]) =~ s/sub/hang/r) . "')"; }

my $A_WAVE = 0;
$A_WAVE += $requests{ tier_of($_) } foreach 0 .. $CLIENTS - 1;

# Makes calls enough for the retry budget to have all the hedges that follow.
# Returns how many requests there have been.
sub warm_up
{
	sql(q{SELECT count(llm_complete('Hello', CASE g % 2 WHEN 0 THEN 'east' ELSE 'west' END)) FROM generate_series(1, 300) g});
	return $sim->count(undef);
}

# Returns when all requests of n waves have come to hang.
sub wait_for_waves
{
	my ($before, $n) = @_;
	$sim->wait_for(requests => $before + $n * $A_WAVE, timeout => 60);
	return;
}

# Has a swarm start its calls and ends all of them at a time, over and over.
sub in_waves
{
	my ($rounds, $script, $end) = @_;
	my $before = warm_up();
	my $self = swarm($script);

	foreach my $round (1 .. $rounds)
	{
		wait_for_waves($before, $round);
		$end->($self);
	}
	return $self;
}

sub statements { return join '', map { "SELECT $_[0];\n" } 1 .. $ROUNDS; }

subtest 'cancelled' => sub {
	my $met = finish(in_waves($ROUNDS, sub { statements(call($_[0])) }, sub { signal($_[0], 'cancel') }));
	is($met->{57014}, $CLIENTS * $ROUNDS, 'all calls');
	is_clean('by pg_cancel_backend()');
};

subtest 'within a transaction that goes on' => sub {
	my $gate = llm_session($node);

	$gate->run("SELECT pg_advisory_lock($GATE)");
	my $swarm = in_waves($ROUNDS,
		sub {
			my ($i) = @_;
			my $call = call($i);
			# a PL/pgSQL block; a savepoint; a savepoint whose cursor keeps its
			# memory for as long as the transaction
			return "BEGIN;\n" . join('', map { "DO \$\$ BEGIN PERFORM $call; EXCEPTION WHEN query_canceled THEN NULL; END \$\$;\n" } 1 .. $ROUNDS) . "$MEET;\nCOMMIT;\n"
			  if $i % 4 < 2;
			return "BEGIN;\n" . join('', map { "SAVEPOINT s; SELECT $call;\nROLLBACK TO s;\n" } 1 .. $ROUNDS) . "$MEET;\nCOMMIT;\n"
			  if $i % 4 == 2;
			return "BEGIN;\n" . join('', map { "DECLARE c$_ CURSOR FOR SELECT $call; SAVEPOINT s; FETCH c$_;\nROLLBACK TO s;\n" } 1 .. $ROUNDS) . "$MEET;\nCOMMIT;\n";
		},
		sub { signal($_[0], 'cancel') });
	ok( $node->poll_query_until('postgres',
			"SELECT count(*) = $CLIENTS FROM pg_stat_activity WHERE application_name = '$swarm->{name}' AND wait_event = 'advisory'"),
		'all were cancelled, and no transaction has ended');
	is_clean('by subtransactions');
	$gate->run("SELECT pg_advisory_unlock($GATE)");
	my $met = finish($swarm);
	is($met->{'25P02'}, undef, 'no transaction had failed');
	$gate->quit;
};

subtest 'out of time' => sub {
	my $met = finish(swarm(sub { "SET statement_timeout = '100 ms';\n" . statements(call($_[0])) }));
	is(($met->{LL002} // 0) + ($met->{57014} // 0), $CLIENTS * $ROUNDS, 'all calls');
	is_clean('by statement_timeout');
};

subtest 'failed' => sub {
	my @failures = ({ template => 'server_error' }, { template => 'bad_request' },
		{ reset => 'request' }, { garbage => 'not_json' }, { template => 'content_filter' }, { cut => \1 });
	$sim->behave($_, listener => 'fail', probability => 1 / 3) foreach @failures;
	my $met = finish(swarm(sub { "SET client_min_messages = error;\n" . statements("llm_complete('Hello', 'fail', timeout => '300 ms')") }));
	cmp_ok(($met->{LL001} // 0) + ($met->{LL002} // 0), '>', 0, 'some calls');
	cmp_ok($met->{LL003} // 0, '>', 0, '... and some were refused');
	is_clean('by errors');
};

subtest 'terminated' => sub {
	foreach my $round (1 .. 2)
	{
		my $met = finish(in_waves(1, sub { 'SELECT ' . call($_[0]) . ";\n" }, sub { signal($_[0], 'terminate') }));
		is($met->{'57P01'}, $CLIENTS, 'all sessions');
		is_clean('by pg_terminate_backend()');
	}
};

subtest 'under way as the configuration goes' => sub {
	my $before = warm_up();
	my $swarm = swarm(sub { statements(call($_[0])) });
	my $session = llm_session($node);

	# gone and back, renamed and back: the same names are the same targets
	wait_for_waves($before, 1);
	$session->run(q{CREATE TABLE kept AS TABLE llm_region; CREATE TABLE kept_route AS SELECT * FROM llm_route WHERE provider = 'p';
		DELETE FROM llm_provider WHERE name = 'p'});
	is(sql(q{SELECT count(*) FROM llm_explain(tier => 'hang')}), 0, 'their provider is gone');
	signal($swarm, 'cancel');
	$session->run(q{INSERT INTO llm_provider(name, dialect, breaker_consecutive, breaker_min_calls) VALUES ('p', 'openai', 1000000, 1000000)});
	$session->run(q{INSERT INTO llm_region SELECT * FROM kept; INSERT INTO llm_route SELECT * FROM kept_route});
	signal($swarm, 'cancel');
	finish_by_cancel($swarm);
	is_clean('by DELETE');

	$before = warm_up();
	$swarm = swarm(sub { 'SELECT ' . call($_[0]) . ";\n" });
	wait_for_waves($before, 1);
	$session->run(q{UPDATE llm_region SET name = 'far-' || name});
	is(sql(q{SELECT count(*) FROM llm_explain(tier => 'hang') WHERE region LIKE 'far-%'}), 2, 'their regions are called otherwise');
	signal($swarm, 'cancel');
	finish($swarm);
	is(sql(q{SELECT count(*) FROM llm_status WHERE in_flight <> 0}), 0, 'by UPDATE: none is under way');
	$session->run(q{UPDATE llm_region SET name = substr(name, 5)});
	is_clean('by UPDATE');

	$before = warm_up();
	$swarm = swarm(sub { 'SELECT ' . call($_[0]) . ";\n" });
	wait_for_waves($before, 1);
	my $end = $session->run('DROP EXTENSION llm_failover CASCADE');
	is($end->{sqlstate}, undef, 'the extension is dropped');
	signal($swarm, 'cancel');
	finish($swarm);
	$session->run('CREATE EXTENSION llm_failover');
	configure();
	is_clean('by DROP EXTENSION');
	$session->quit;
};

# Of a breaker that is half open, whatever its scope, so many may try at once.
subtest 'trials' => sub {
	my $explain = q{SELECT reason FROM llm_explain(tier => 'trial')};

	foreach my $scope ([ 'provider', q{'trial'} ], [ 'region', q{'trial', 'default'} ], [ 'target', q{'trial', 'default', 'm'} ])
	{
		my ($name, $arguments) = @$scope;

		sql("SELECT llm_breaker_open($arguments, duration => '1 ms')");
		$node->poll_query_until('postgres', q{SELECT state = 'half_open' FROM llm_status WHERE provider = 'trial'})
		  or die 'not half open';
		foreach my $how ('cancel', 'cancel', 'terminate')
		{
			my $before = $sim->count('trial');
			# those without a permit fail, and try no more
			my $swarm = swarm(sub { "SELECT llm_complete('hang', 'trial');\n" });
			wait_for_ends($swarm, $CLIENTS - 3);
			$sim->wait_for(listener => 'trial', requests => $before + 3);
			is(sql($explain), "$name breaker half-open, 3 of 3 trials under way", "$name: trials");
			signal($swarm, $how);
			finish_by_cancel($swarm);
			is($sim->count('trial'), $before + 3, '... and no others');
			is(sql($explain), "$name breaker half-open, 0 of 3 trials under way", "... have left no trace, by $how");
		}
		is(sql(q{SELECT llm_complete('Hello', 'trial')}), 'trial/m: Hello', 'one that succeeds');
		is(sql(q{SELECT state, in_flight FROM llm_status WHERE provider = 'trial'}), 'closed|0', '... closes it');
	}
};

# All of it at random: whatever is hit, wherever it is.
subtest 'at random' => sub {
	sql(q{CREATE TABLE over(yes boolean)});
	my $seconds = 5;
	my $swarm = swarm(
		sub {
			return <<'END' x 300;
SET statement_timeout = '150 ms';
DO $$
DECLARE
	tiers text[] := '{hang,hedge,east,west,trial,fail,hang,hedge}';
	tier text;
BEGIN
	WHILE NOT EXISTS (SELECT FROM over) LOOP
		tier := tiers[1 + floor(random() * 8)];
		BEGIN
			PERFORM llm_complete(CASE WHEN random() < 0.7 THEN 'hang' ELSE 'Hello' END, tier,
				timeout => random() * interval '300 ms' + interval '1 ms', on_error => 'null');
		EXCEPTION
			WHEN query_canceled THEN IF random() < 0.3 THEN RAISE; END IF;
			WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
END
		});
	my $until = time + $seconds;
	my ($hits, $changes) = (0, 0);

	while (time < $until)
	{
		my @pids = split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE application_name = '$swarm->{name}'");
		foreach my $i (1 .. 50)
		{
			$hits += kill 'INT', $pids[ rand @pids ] if @pids;
			sleep 0.002;
		}
		sql(q{UPDATE llm_region SET weight = 1 + random(); SELECT llm_breaker_open('trial', duration => '1 ms');
			DELETE FROM llm_route WHERE tier = 'east'; INSERT INTO llm_route(tier, provider, model, region) VALUES ('east', 'p', 'm', 'east')});
		$changes++;
	}
	sql('INSERT INTO over VALUES (true)');
	finish_by_cancel($swarm);
	cmp_ok($hits, '>', 100, "$hits cancels, and $changes changes of the configuration");
	is_clean('by chance');
	ok( $node->poll_query_until('postgres', q{SELECT llm_complete('Hello', 'trial', on_error => 'null') IS NOT NULL}),
		'no permit is lost');
};

subtest 'killed' => sub {
	foreach my $round (1 .. 2)
	{
		my $before = warm_up();
		my $swarm = swarm(sub { 'SELECT ' . call($_[0]) . ";\n" });

		wait_for_waves($before, 1);
		sql(q{SELECT llm_breaker_open('trial', duration => '1 ms')});
		my $offset = -s $node->logfile;
		my $pid = sql("SELECT pid FROM pg_stat_activity WHERE application_name = '$swarm->{name}' LIMIT 1");
		kill 'KILL', $pid or die "kill: $!";
		eval { $_->finish } foreach @{ $swarm->{runs} };
		$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
		$sim->wait_for(max_in_progress => 0);
		is_clean('by kill -9');
		is(sql(q{SELECT llm_complete('Hello', 'trial')}), 'trial/m: Hello', 'no permit is lost');
	}
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11|signal 6/, 'no other process has crashed');
};

done_testing();

# Cancels whatever a swarm still does until it has ended.
sub finish_by_cancel
{
	my ($self) = @_;

	sleep 0.05 while signal($self, 'cancel') > 0;
	return finish($self);
}
