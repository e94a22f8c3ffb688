# 040_attack.pl: what a hostile or careless user, admin, provider or schema does
# to the server: it must not crash, hang, bloat, nor run anybody's code with
# another's rights.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node('main', conf => <<'END');
max_connections = 80
max_prepared_transactions = 10
deadlock_timeout = 100ms
restart_after_crash = on
log_min_error_statement = panic
llm_failover.log_failovers = off
END
add_provider($node, $sim, 'a');
add_provider($node, $sim, 'b', dialect => 'anthropic', position => 2);
$node->safe_psql('postgres', 'CREATE ROLE visitor; CREATE ROLE manager;'
	  . q{SELECT llm_grant_usage('visitor'), llm_grant_admin('manager')});

sub seconds_of
{
	my ($code) = @_;
	my $began = time;
	my $result = $code->();
	return (time - $began, $result);
}

# More transfers at once than handles are kept, and than descriptors there are.
subtest 'many targets' => sub {
	$node->safe_psql('postgres', q{
		INSERT INTO llm_region(provider, name)
		SELECT 'a', 'r' || i FROM generate_series(1, 400) i});
	is( run_sql($node, q{SET statement_timeout = '60 s';
		SELECT count(*) FROM llm_check('a') WHERE ok})->{out},
		400, 'llm_check() of 400 regions');
	$node->safe_psql('postgres', 'DELETE FROM llm_region');
};

# What ALTER TYPE makes of llm_response is refused, not filled with garbage.
subtest 'llm_response of another shape' => sub {
	foreach my $change (
		'ALTER ATTRIBUTE attempts TYPE text', 'ALTER ATTRIBUTE answer TYPE int',
		'ALTER ATTRIBUTE cost TYPE float8', 'ADD ATTRIBUTE more text',
		'DROP ATTRIBUTE answer')
	{
		foreach my $call (q{llm_respond('Hello')}, 'llm_last()',
			q{llm_chat('[{"role": "user", "content": "Hello"}]')})
		{
			psql_error($node,
				"SELECT llm_complete('x'); BEGIN;"
				  . " ALTER TYPE llm_response $change CASCADE; SELECT * FROM $call",
				'55000', qr/^type llm_response is of another version/,
				"$call after $change");
		}
	}
	psql_ok($node, q{SELECT llm_respond('Hello')}, 'as before after ROLLBACK');
};

# Twelve responses, each as large and with as many values as may be.
subtest 'memory of attempts' => sub {
	plan skip_all => 'no /proc' unless -r '/proc/self/status';
	my $body = '[' . ('[],' x 999_990) . '"' . ('x' x 13_000_000) . '"]';
	my $rule = $sim->behave({ status => 500, body => $body }, listener => 'a');
	my $session = llm_session($node);

	$session->run(q{SET client_min_messages = warning; BEGIN;
		DELETE FROM llm_route WHERE provider = 'b';
		UPDATE llm_tier SET max_attempts = 12 WHERE name = 'default';
		INSERT INTO llm_region(provider, name) SELECT 'a', 'r' || i FROM generate_series(1, 12) i});
	is( $session->run(q{SELECT attempts FROM llm_respond('Hello', on_error => 'null')})->{out},
		12, 'twelve attempts');
	my ($kb) = $session->run(q{
		SELECT substring(pg_read_file('/proc/' || pg_backend_pid() || '/status')
			FROM 'VmHWM:\s*(\d+)')})->{out};
	cmp_ok($kb, '<', 400 * 1024, "take less than 400 MB ($kb kB)");
	$session->run('ROLLBACK');
	$session->quit;
	$sim->unbehave($rule);
};

# What a caller can make long can be ended.
subtest 'requests of many parts' => sub {
	add_provider($node, $sim, 'b', name => 'google', dialect => 'gemini', tier => 'offline', position => 1);
	$node->safe_psql('postgres', q{
		CREATE TABLE long AS SELECT
			(SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 100000) i) AS object,
			(SELECT jsonb_agg(CASE i % 2
				WHEN 1 THEN jsonb_build_object('role', 'assistant', 'tool_calls',
					jsonb_build_array(jsonb_build_object('id', 'i' || i, 'type', 'function',
						'function', '{"name": "f", "arguments": "{}"}'::jsonb)))
				ELSE jsonb_build_object('role', 'tool', 'tool_call_id', 'i' || i - 1, 'content', 'x') END)
				FROM generate_series(1, 100000) i) AS talk});
	my %calls = (
		params => q{SELECT llm_complete('Hello', params => object) FROM long},
		'members of a message' => q{SELECT llm_chat(jsonb_build_array(
			object || '{"role": "user", "content": "x"}')) FROM long},
		'results of tools' => q{SELECT llm_chat(talk, 'offline') FROM long});

	foreach my $what (sort keys %calls)
	{
		my ($took, $result) = seconds_of(
			sub { run_sql($node, "SET statement_timeout = '1 s'; $calls{$what}") });
		# the call's own deadline is a little earlier
		like($result->{sqlstate}, qr/^(57014|LL002)$/, "$what: statement_timeout");
		cmp_ok($took, '<', 4, "$what: in time");
	}
	$node->safe_psql('postgres', q{DROP TABLE long; DELETE FROM llm_provider WHERE name = 'google'});
};

# A price beyond all reason is an unknown one.
subtest 'prices' => sub {
	my $absurd = q{BEGIN; INSERT INTO llm_model(provider, name, input_price, output_price)
		VALUES ('a', 'model-a', 1e15, 1e15);};
	my $cost = q{SELECT coalesce(cost::text, 'unknown') FROM llm_explain(%s) WHERE provider = 'a'};

	is($node->safe_psql('postgres', $absurd . sprintf $cost, $_->[0]), $_->[1], $_->[0])
	  for [ q{'Hello', max_tokens => 10}, '11' ],
	  [ q{'Hello', max_tokens => 2147483647}, 'unknown' ],
	  [ q{repeat('x', 100000000), max_tokens => 1}, 'unknown' ];
};

# Names of pg_catalog and of ours, planted where an unwary search_path finds
# them, are nobody's way to the owner's rights.
subtest 'hijacking' => sub {
	my @operators = map { my $op = $_; map { [ $op, $_ ] } 'text', 'varchar' } '=', '<>', '~';
	my $planted = join "\n", map {
		"CREATE OPERATOR public.$_->[0] (leftarg = text, rightarg = $_->[1], function = public.evil)"
		  . ';' } @operators;
	$node->safe_psql('postgres', qq{
		GRANT CREATE ON SCHEMA public TO visitor, manager;
		CREATE TABLE caught(who text); GRANT INSERT ON caught TO PUBLIC;
		SET SESSION AUTHORIZATION visitor;
		CREATE FUNCTION public.evil(text, text) RETURNS boolean LANGUAGE plpgsql AS
			'BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END';
		CREATE FUNCTION public.evil(text, varchar) RETURNS boolean LANGUAGE plpgsql AS
			'BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END';
		CREATE FUNCTION public.strpos(text, varchar) RETURNS int LANGUAGE plpgsql AS
			'BEGIN INSERT INTO public.caught VALUES (current_user); RETURN 0; END';
		CREATE FUNCTION public.jsonb_each_text(jsonb) RETURNS TABLE (key text, value text)
			LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.caught VALUES (current_user); END';
		$planted});
	my $path = q{SET search_path = pg_temp, public, pg_catalog; SET client_min_messages = warning;
		CREATE TEMP TABLE changed(name text, tier text, enabled bool, provider text, model text, fallback text);
		CREATE TEMP TABLE llm_provider(name text, secret text, base_url text, headers jsonb);
		CREATE TEMP TABLE llm_region(provider text, name text, secret text, position int);
		CREATE TEMP TABLE llm_tier(name text, fallback text);
		CREATE TEMP TABLE llm_route(tier text, provider text, model text, enabled bool);};

	psql_ok($node, qq{SET SESSION AUTHORIZATION manager; $path
		INSERT INTO public.llm_provider(name, dialect, base_url, headers)
			VALUES ('z', 'openai', 'http://127.0.0.1:1', '{"x-a": "b"}');
		INSERT INTO public.llm_region(provider, name) VALUES ('z', 'r');
		INSERT INTO public.llm_tier(name, fallback) VALUES ('zt', 'offline'), ('default', 'offline');
		INSERT INTO public.llm_route(tier, provider, model) VALUES ('zt', 'z', 'm');
		UPDATE public.llm_provider SET base_url = 'http://127.0.0.1:2', name = 'zz'
			WHERE name OPERATOR(pg_catalog.=) 'z'::pg_catalog.text;
		SELECT public.llm_complete('Hello', 'zt', on_error => 'null')}, 'an admin configures');
	psql_ok($node, qq{SET SESSION AUTHORIZATION visitor; $path
		SELECT public.llm_complete('Hello'), (SELECT count(*) FROM public.llm_explain())}, 'a user calls');
	psql_error($node, qq{SET SESSION AUTHORIZATION manager; $path
		UPDATE public.llm_provider SET secret = 'env:PATH'
			WHERE name OPERATOR(pg_catalog.=) 'zz'::pg_catalog.text}, '42501',
		qr/permission denied to use env: and file: references/, 'no reference either');
	is($node->safe_psql('postgres', 'SELECT string_agg(who, $$,$$) FROM caught'),
		'', 'no planted code ran');
	$node->safe_psql('postgres', q{SET client_min_messages = warning;
		DROP FUNCTION public.evil(text, text), public.evil(text, varchar) CASCADE;
		DELETE FROM llm_tier WHERE name = 'zt'; DELETE FROM llm_provider WHERE name = 'zz'});
};

# Calls, errors, savepoints, changes of the configuration and DDL on its tables
# side by side. What it finds is a crash, an assertion, a leak or a hang.
subtest 'storm' => sub {
	my %scripts = (
		call => [ 20, q{
			SELECT llm_complete('x', timeout => '2 s', on_error => 'null');
			SELECT attempts FROM llm_respond('y', timeout => '20 ms', on_error => 'null');
			SELECT answer FROM llm_last();
		} ],
		savepoint => [ 12, q{
			BEGIN;
			SAVEPOINT a;
			SELECT llm_complete('x', on_error => 'null');
			ROLLBACK TO a;
			DO $$BEGIN PERFORM llm_complete('x', 'nosuch'); EXCEPTION WHEN SQLSTATE 'LL000' THEN NULL; END$$;
			DECLARE c CURSOR FOR SELECT llm_complete('c', on_error => 'null') FROM generate_series(1, 5);
			FETCH 2 FROM c;
			COMMIT;
		} ],
		look => [ 8, q{
			SELECT count(*) FROM llm_explain('x');
			SELECT count(*) FROM llm_routing, llm_health;
			SELECT count(*) FROM llm_check('b');
		} ],
		configure => [ 8, q{
			\set p random(1, 9)
			SET client_min_messages = error;
			BEGIN;
			INSERT INTO llm_route(provider, model, position) VALUES ('b', 'm:client_id', :p);
			SAVEPOINT s;
			UPDATE llm_route SET weight = :p WHERE model = 'm:client_id';
			SELECT llm_complete('x', on_error => 'null', timeout => '1 s');
			ROLLBACK TO s;
			COMMIT;
			SELECT llm_complete('x', on_error => 'null', timeout => '1 s');
			DELETE FROM llm_route WHERE model = 'm:client_id';
		} ],
		rewrite => [ 1, q{
			SET client_min_messages = error;
			VACUUM FULL llm_rule;
			BEGIN; TRUNCATE llm_rule; SELECT llm_complete('x', on_error => 'null'); ROLLBACK;
			BEGIN; ALTER TABLE llm_model ADD COLUMN more int; SELECT llm_complete('x', on_error => 'null'); ROLLBACK;
			BEGIN; INSERT INTO llm_rule(name, pattern, answer) VALUES ('p', 'p', 'p'); PREPARE TRANSACTION 'p';
			SELECT llm_complete('x', on_error => 'null');
			ROLLBACK PREPARED 'p';
		} ]);
	my @rules = map { $sim->behave($_->[1], listener => $_->[0], probability => 0.1) }
	  [ a => { status => 500 } ], [ a => { reset => 'head' } ], [ a => { close => 'silent' } ],
	  [ b => { cut => \1 } ], [ b => { delay => 0.2 } ];
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my @running;

	foreach my $name (sort keys %scripts)
	{
		my ($clients, $sql) = @{ $scripts{$name} };
		append_to_file("$dir/$name.sql", $sql);
		my $out = '';
		push @running, { name => $name, out => \$out, run => IPC::Run::start(
			[ 'pgbench', '-n', '-c', $clients, '-T', 6, '-f', "$dir/$name.sql",
			  $node->connstr('postgres') ], '>', \$out, '2>&1', IPC::Run::timeout(60)) };
	}
	foreach my $one (@running)
	{
		ok(IPC::Run::finish($one->{run}), $one->{name}) or diag ${ $one->{out} };
	}
	$sim->unbehave($_) for @rules;
	is($node->safe_psql('postgres', 'SELECT sum(in_flight) FROM llm_status'),
		0, 'nothing is left in flight');
	forget($node);
	is($node->safe_psql('postgres', q{SELECT answer FROM llm_respond('Hello')}),
		'a/model-a: Hello', 'a call afterwards');
};

# One caller's own doing is no reason to keep all others away from a model.
subtest 'shutting a model for others' => sub {
	my $ask = sub {
		my ($args) = @_;
		return $node->safe_psql('postgres', qq{
			SET ROLE visitor;
			SELECT llm_complete('Hello'$args, on_error => 'null') FROM generate_series(1, 6);
			RESET ROLE;
			SELECT string_agg(DISTINCT state, '') FROM llm_status WHERE provider = 'a' AND state <> 'disabled'}) =~ /(\w+)$/ ? $1 : '';
	};

	forget($node);
	my $rule = $sim->behave({ text => '', finish => 'length' }, listener => 'a');
	is($ask->(', max_tokens => 5'), 'closed', 'too few tokens for an answer');
	$sim->unbehave($rule);

	forget($node);
	$rule = $sim->behave({ template => 'model_not_found' }, listener => 'a');
	is($ask->(q{, params => '{"user": "nobody"}'}), 'closed', 'parameters that may be what is not found');
	is($ask->(''), 'open', 'without them it is the model');
	$sim->unbehave($rule);
	forget($node);
};

unlike(slurp_file($node->logfile),
	qr/was terminated by signal|PANIC|TRAP|reference leak|still referenced/,
	'nothing crashed or leaked');

# kill -9 in mid-call is a crash of the server's own making; it comes back.
subtest 'kill -9' => sub {
	my $rule = $sim->behave({ hang => \1 }, prompt => '^hang');
	my $session = llm_session($node);

	$session->start(q{SELECT llm_complete('hang')});
	$session->wait_in_call;
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
		WHERE query LIKE '%(''hang'')%' AND pid <> pg_backend_pid()});
	kill 'KILL', $pid;
	eval { $session->finish };
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
	forget($node);    # what was stored may be a second old
	is($node->safe_psql('postgres', q{SELECT llm_complete('Hello')}),
		'a/model-a: Hello', 'the server answers again');
	is($node->safe_psql('postgres', 'SELECT sum(in_flight) FROM llm_status'),
		0, 'and nothing is left in flight');
	$sim->unbehave($rule);
};

done_testing();
