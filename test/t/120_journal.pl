# 120_journal.pl: what calls have used and what has happened, as llm_usage and
# llm_event tell it, and who may see it. Calls write neither: the worker does.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main');

# A token of input costs 0.1 USD at a, 0.5 at b; one of output twice as much.
# What is cached is cheaper at a only. m is priced, free is not.
add_provider($node, $sim, $_, model => undef) for 'a', 'b';
$node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	INSERT INTO llm_model(provider, name, input_price, output_price, cached_input_price) VALUES
		('a', 'm', 100000, 200000, 50000), ('b', 'm', 500000, 1000000, NULL);
	INSERT INTO llm_tier(name, fallback, hedge_after) VALUES
		('one', NULL, NULL), ('two', NULL, NULL), ('down', 'one_b', NULL), ('one_b', NULL, NULL),
		('unpriced', NULL, NULL), ('hedged', NULL, '100 ms'), ('local', NULL, NULL);
	INSERT INTO llm_route(tier, provider, model, position) VALUES
		('one', 'a', 'm', 1), ('two', 'a', 'm', 1), ('two', 'b', 'm', 2),
		('down', 'a', 'm', 1), ('one_b', 'b', 'm', 1), ('unpriced', 'a', 'free', 1),
		('hedged', 'a', 'm', 1), ('hedged', 'b', 'm', 2), ('local', 'builtin', 'echo', 1);
	UPDATE llm_provider SET breaker_open_time = '1 h', breaker_open_time_max = '1 h'});

my $USAGE = q{
	SELECT string_agg(concat_ws(' ', concat_ws('/', coalesce(provider, '-'), region, model),
			tier, feature, role, calls, failed, degraded, attempts, errors,
			input_tokens, output_tokens, cached_tokens, coalesce(cost::text, 'unknown')),
		', ' ORDER BY provider NULLS LAST, model) FROM llm_usage};

answers();
failures();
prices();
hedge();
many();
names();
breakers();
failovers();
dumped();
roles();
done_testing();

# Begins with nothing in the tables, and nothing known of the providers; not
# shortly before a full hour, at which each row begins anew.
sub fresh
{
	my $left = 3600 - time % 3600;

	sleep $left if $left < 20;
	$sim->reset;
	$node->safe_psql('postgres', q{
		SELECT llm_breaker_reset();
		SELECT llm_complete('what came before is stored before', 'local');
		SELECT llm_flush();
		DELETE FROM llm_usage;
		DELETE FROM llm_event});
	return;
}

# Makes calls and returns the output of a query on what they have left.
sub after
{
	my ($calls, $query, %args) = @_;
	my $result = run_sql($node, "$calls; SELECT llm_flush()", %args);

	die $result->{err} if defined $result->{sqlstate};
	return $node->safe_psql('postgres', $query);
}

sub usage_is
{
	my ($calls, $wanted, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(after($calls, $USAGE), $wanted, $name);
	return;
}

# provider/region/model, tier, feature, role: calls failed degraded, attempts
# errors, tokens of input, output, cached, cost
sub answers
{
	fresh();
	$sim->behave({ usage => { input => 10, output => 5, cached => 4 } });
	usage_is(q{SELECT llm_complete('Hello', 'one')},
		'a/default/m one postgres 1 0 0 1 0 10 5 4 1.8', 'an answer');
	usage_is(q{SELECT llm_complete('Hello', 'one') FROM generate_series(1, 3)},
		'a/default/m one postgres 4 0 0 4 0 40 20 16 7.2', '... and three more');
	is($node->safe_psql('postgres',
			q{SELECT hour = date_trunc('hour', hour, 'UTC') AND now() - hour < '1 h 1 min' FROM llm_usage}),
		't', 'in the hour of their end');

	fresh();
	$sim->behave({ usage => undef });
	usage_is(q{SELECT llm_complete('Hello', 'one')},
		'a/default/m one postgres 1 0 0 1 0 0 0 0 unknown',
		'an answer that tells no tokens: nobody knows the cost');

	fresh();
	$sim->behave({ template => 'overloaded' }, listener => 'a');
	$sim->behave({ usage => { input => 1, output => 1 } });
	usage_is(q{SELECT llm_complete('Hello', 'two', feature => 'f')},
		'a/default/m two f postgres 0 0 0 1 1 0 0 0 0, b/default/m two f postgres 1 0 0 1 0 1 1 0 1.5',
		'a failover: each attempt at its target, the call where it ended');

	fresh();
	$sim->down('a');
	$sim->behave({ usage => { input => 1, output => 1 } });
	like(after(q{SELECT llm_complete('Hello', 'down')}, $USAGE),
		qr{^a/default/m down postgres 0 0 0 (\d) \1 0 0 0 0, b/default/m down postgres 1 0 1 1 0 1 1 0 1.5$},
		'a degraded answer, under the tier that was asked for');

	fresh();
	usage_is(q{SELECT llm_complete('Hello', 'local')},
		'builtin/echo local postgres 1 0 0 0 0 0 0 0 0',
		'a builtin model, which makes no attempt and costs nothing');
	return;
}

sub failures
{
	my $refuse = q{SELECT llm_respond('Hello', 'two', on_error => 'null')};

	fresh();
	$sim->behave({ template => 'bad_request' });
	usage_is($refuse,
		'a/default/m two postgres 0 0 0 1 1 0 0 0 0, - two postgres 1 1 0 0 0 0 0 0 0',
		'a refused call: nobody answered');

	fresh();
	$sim->down($_) for 'a', 'b';
	like(after($refuse, $USAGE),
		qr{^a/default/m two postgres 0 0 0 (\d+) \1 0 0 0 0, b/default/m two postgres 0 0 0 (\d+) \2 0 0 0 0, - two postgres 1 1 0 0 0 0 0 0 0$},
		'a call that nobody could answer');
	is(psql_ok($node, q{
			DO $$ BEGIN PERFORM llm_breaker_reset(), llm_respond('Hello', 'one', on_error => 'null'); END $$;
			DO $$ BEGIN PERFORM llm_flush(); END $$;
			SELECT attempts > 1, attempts = (SELECT sum(attempts) FROM llm_usage WHERE tier = 'one') FROM llm_last()}),
		't|t', 'a target that was asked twice has two attempts');
	is( after(
			q{DO $$ BEGIN PERFORM llm_complete('Hello', 'two', allow_degraded => false); EXCEPTION WHEN SQLSTATE 'LL000' THEN NULL; END $$},
			q{SELECT sum(calls), sum(failed) FROM llm_usage WHERE tier = 'two'}),
		'2|2',
		'one whose error rolled its transaction back is counted as well');
	usage_is(q{SELECT 1}, after(q{SELECT llm_respond('', 'two', on_error => 'null')}, $USAGE),
		'one that was refused before it began is not');
	return;
}

# A sum that lacks a price is unknown, and stays so for its hour.
sub prices
{
	fresh();
	$sim->behave({ usage => { input => 3, output => 1 } });
	usage_is(q{SELECT llm_complete('Hello', 'unpriced')},
		'a/default/free unpriced postgres 1 0 0 1 0 3 1 0 unknown', 'no price');
	usage_is(q{INSERT INTO llm_model(provider, name, input_price, output_price) VALUES ('a', 'free', 0, 0);
			SELECT llm_complete('Hello', 'unpriced')},
		'a/default/free unpriced postgres 2 0 0 2 0 6 2 0 unknown',
		'a price later in the hour does not tell what the first one cost');
	fresh();
	$sim->behave({ usage => { input => 3, output => 1 } });
	usage_is(q{SELECT llm_complete('Hello', 'unpriced')},
		'a/default/free unpriced postgres 1 0 0 1 0 3 1 0 0', 'for nothing');
	usage_is(q{UPDATE llm_model SET input_price = NULL WHERE name = 'free'; SELECT llm_complete('Hello', 'unpriced')},
		'a/default/free unpriced postgres 2 0 0 2 0 6 2 0 unknown', 'no price any more');
	return;
}

# The loser has cost what was sent: about a token for four bytes.
sub hedge
{
	fresh();
	$sim->behave({ hang => \1 }, listener => 'a');
	$sim->behave({ usage => { input => 50, output => 1 } });
	usage_is(q{SELECT llm_complete(repeat('word ', 40), 'hedged')},
		'a/default/m hedged postgres 0 0 0 1 0 0 0 0 5, b/default/m hedged postgres 1 0 0 1 0 50 1 0 26',
		'a hedge: the loser is an attempt with a cost, and no error');
	return;
}

# Sessions side by side: nothing is lost, nothing counted twice.
sub many
{
	fresh();
	$sim->behave({ template => 'overloaded' }, listener => 'a', every => 7);
	$sim->behave({ usage => { input => 1, output => 1 } });
	my $load = llm_load($node, tiers => [ 'two', 'local' ], clients => 8, calls => 40)->finish;

	# the load's sessions are gone: the rest comes by itself
	ok( $node->poll_query_until('postgres', 'SELECT sum(calls) = 320 FROM llm_usage'),
		'each call of eight sessions is counted once')
	  or diag $node->safe_psql('postgres', $USAGE);
	is($node->safe_psql('postgres', 'SELECT sum(attempts), sum(errors), sum(cost) FROM llm_usage'),
		$load->value(q{SELECT count(*), count(*) FILTER (WHERE a ->> 'outcome' <> 'ok'), sum(DISTINCT total)
			FROM calls, (SELECT sum(cost) AS total FROM calls) t, jsonb_array_elements(trace) a
			WHERE a ->> 'provider' <> 'builtin'}),
		'... and so is each attempt, with its cost');
	is($node->safe_psql('postgres', 'SELECT sum(attempts) FROM llm_usage'),
		$sim->count(undef), '... as the providers count them');
	return;
}

sub names
{
	fresh();
	usage_is(q{SELECT llm_complete('Hello', 'local', feature => repeat('ä', 100))},
		"builtin/echo local \xc3\xa4" . "\xc3\xa4" x 30 . ' postgres 1 0 0 0 0 0 0 0 0',
		'a long feature is cut, but not in the middle of a character');
	fresh();
	$sim->behave({ usage => { input => 1, output => 1 } });
	usage_is(q{SELECT llm_check('b', model => 'm')},
		'b/default/m postgres 1 0 0 1 0 1 1 0 1.5', 'llm_check() is counted without a tier');
	return;
}

# What is told of a breaker's life, in order, with the numbers and the cause.
sub breakers
{
	my $events = q{SELECT string_agg(concat_ws(' ', kind, provider, region, model, tier), ', ' ORDER BY id) FROM llm_event WHERE kind <> 'failover'};
	my $listener = llm_session($node);

	fresh();
	$listener->run('LISTEN llm_event');
	is(after(q{SELECT llm_breaker_open('a', 'default', 'm', duration => '1 h'); SELECT llm_breaker_reset('a')}, $events),
		'breaker_open a default m, breaker_closed a default m', 'opened and closed by hand');
	is($node->safe_psql('postgres', q{
			SELECT message ~ '^breaker of a/default/m opened until (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d: ', detail ->> 'from', detail ->> 'to',
				(detail ->> 'until')::timestamptz BETWEEN at + '59 min' AND at + '61 min', length(detail ->> 'reason') > 0,
				jsonb_typeof(detail -> 'trips'), at <= now()
			  FROM llm_event WHERE kind = 'breaker_open'}),
		't|closed|open|t|t|number|t', '... with what one wants to know');
	my $told = '';
	for (my $i = 0; $i < 100 && $told !~ /breaker_closed/; $i++)
	{
		$told .= $listener->run('SELECT pg_sleep(0.05)')->{out};
	}
	is(join(' ', $told =~ /notification "llm_event" with payload "(\w+)"/g),
		'breaker_open breaker_closed', 'listeners are told the kinds, each once');

	fresh();
	$sim->down('a');
	is(after(q{SELECT llm_respond('Hello', 'one', on_error => 'null') FROM generate_series(1, 4)}, $events),
		'breaker_open a default', 'opened by failures');
	$sim->up('a');
	after(q{UPDATE llm_provider SET breaker_ramp = '0.1 s'; SELECT llm_check('a', model => 'm')}, 'SELECT 1');
	$node->poll_query_until('postgres', q{SELECT state = 'closed' FROM llm_status WHERE provider = 'a' AND model = 'm'});
	is(after(q{SELECT llm_check('a', model => 'm')}, $events),
		'breaker_open a default, breaker_closed a default',
		'closed by a success: once, though a ramp is between');
	is($node->safe_psql('postgres', q{SELECT detail ->> 'reason' FROM llm_event WHERE kind = 'breaker_open'}),
		'connection refused', 'the cause');

	fresh();
	is(after(q{
			SET client_min_messages = warning;
			CREATE ROLE U&"o""d\005Cd\0009" SUPERUSER;
			SET ROLE U&"o""d\005Cd\0009";
			SELECT llm_breaker_open('a', 'default', 'm')},
			q{SELECT detail ->> 'reason' FROM llm_event}),
		"opened by o\"d\\d\t", 'whatever the reason has, the detail is JSON');
	$listener->quit;
	return;
}

sub failovers
{
	my $events = q{SELECT concat_ws(' ', kind, provider, region, model, tier, feature, role, message, detail ->> 'attempts', detail ->> 'degraded') FROM llm_event WHERE kind = 'failover'};

	fresh();
	$sim->behave({ template => 'overloaded' }, listener => 'a');
	like(after(q{SELECT llm_complete('My secret prompt', 'two', feature => 'f')}, $events),
		qr{^failover b default m two f postgres tier "two" answered by b/default/m after 2 attempts: a/default/m overloaded 503 \d+ ms 2 false$},
		'a failover is an event');
	is(after(q{SET llm_failover.log_failovers = off; SELECT llm_complete('Hello', 'two')},
			'SELECT count(*) FROM llm_event'), 1, '... unless it is switched off');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM llm_event e WHERE e::text ~ 'secret'}),
		0, '... without the prompt');
	fresh();
	is(after(q{SELECT llm_complete('Hello', 'two')}, $events), '', 'an answer at once is none');
	return;
}

# Usage is dumped, events are not.
sub dumped
{
	my $file = PostgreSQL::Test::Utils::tempdir . '/dump.sql';

	fresh();
	$sim->behave({ usage => { input => 10, output => 5 } });
	my $before = after(q{SELECT llm_complete('Hello', 'one'); SELECT llm_breaker_open('b', 'default', 'm')}, $USAGE);
	$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
	$node->safe_psql('postgres', 'CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $file, $node->connstr('copy') ], 'restore');
	is($node->safe_psql('copy', $USAGE), $before, '... has the usage');
	is($node->safe_psql('copy', 'SELECT count(*) FROM llm_event'), 0, '... and no events');
	$node->safe_psql('postgres', 'DROP DATABASE copy');
	return;
}

# A role sees what is its own, its groups' and nobody's.
sub roles
{
	fresh();
	$node->safe_psql('postgres', q{
		CREATE ROLE team NOLOGIN;
		CREATE ROLE anna LOGIN IN ROLE team;
		CREATE ROLE bert LOGIN;
		CREATE ROLE gone LOGIN;
		CREATE ROLE watch LOGIN IN ROLE pg_monitor;
		CREATE ROLE boss LOGIN;
		CREATE ROLE stranger LOGIN;
		SELECT llm_grant_usage(r) FROM unnest('{team, anna, bert, gone}'::name[]) r;
		SELECT llm_grant_admin('boss');
		GRANT team TO postgres});
	$sim->behave({ template => 'overloaded' }, listener => 'a');
	after(q{SELECT llm_complete('Hello', 'two')}, 'SELECT 1', user => $_) for 'anna', 'bert', 'gone';
	after(q{SELECT llm_breaker_reset('a'); SET ROLE team; SELECT llm_complete('Hello', 'two')}, 'SELECT 1');
	after(q{SELECT llm_breaker_reset('a'); SELECT llm_breaker_open('a', 'default', 'm')}, 'SELECT 1');
	$node->safe_psql('postgres', q{SELECT llm_revoke('gone'); DROP ROLE gone});

	my $seen = q{SELECT string_agg(DISTINCT coalesce(role, 'nobody'), ' ' ORDER BY coalesce(role, 'nobody'))};
	foreach my $case (
		[ 'anna', 'anna team', 'anna nobody team' ],
		[ 'bert', 'bert', 'bert nobody' ],
		[ 'watch', 'anna bert gone team', 'anna bert gone nobody team' ],
		[ 'boss', 'anna bert gone team', 'anna bert gone nobody team' ])
	{
		my ($user, $usage, $events) = @$case;

		is(psql_ok($node, "$seen FROM llm_usage", undef, user => $user), $usage, "$user: usage");
		is(psql_ok($node, "$seen FROM llm_event", undef, user => $user), $events, "$user: events");
	}
	psql_error($node, 'SELECT FROM llm_usage', '42501', undef, undef, user => 'stranger');
	psql_error($node, 'DELETE FROM llm_event', '42501', undef, undef, user => 'anna');
	psql_error($node, 'UPDATE llm_usage SET cost = 0', '42501', undef, undef, user => 'boss');
	is(psql_ok($node, q{WITH d AS (DELETE FROM llm_usage WHERE role = 'gone' RETURNING 1) SELECT count(*) > 0 FROM d}, undef, user => 'boss'),
		't', 'an admin may delete');
	return;
}
