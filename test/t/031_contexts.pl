# 031_contexts.pl: wherever SQL lets a function be called, a call works, is made
# as often as the user would think, and goes through one kept connection; where
# it may not be called, the error says why.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
my $node = llm_node(
	'main',
	init => [ allows_streaming => 'logical' ],
	conf => "max_prepared_transactions = 2\nllm_failover.log_failovers = off\n");

add_provider($node, $sim, 'a');
add_tier($node, 'b');
add_provider($node, $sim, 'b', tier => 'b');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE ticket(id int PRIMARY KEY, body text, summary text);
	INSERT INTO ticket SELECT i, 'ticket ' || i FROM generate_series(1, 5) i;
	CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 20000) i;
	ANALYZE big;
	ANALYZE ticket});

# Runs SQL in a session of its own; tests its output, and how many requests it
# led to.
sub asks
{
	my ($requests, $want, $sql, $name, %args) = @_;
	my $before = $sim->count(undef, 'requests');
	my $result = run_sql($args{node} // $node, $sql, %args);
	my $made = $sim->count(undef, 'requests') - $before;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( !defined $result->{sqlstate} && $result->{out} eq $want
		  && $made == $requests,
		$name
	) or diag "wanted $requests requests and\n$want\ngot $made requests and\n",
	  "$result->{out}\n$result->{err}";
	return;
}

# What listener a says to n tickets, a line each.
sub answers { return join "\n", map { "a/model-a: ticket $_" } @_; }

subtest 'transactions' => sub {
	asks(1, answers(1), "BEGIN READ ONLY; $_; COMMIT", "READ ONLY: $_")
	  for q{SELECT llm_complete('ticket 1')},
	  q{SELECT answer FROM llm_respond('ticket 1')},
	  q{SELECT answer FROM llm_chat('[{"role": "user", "content": "ticket 1"}]')};
	asks(1, answers(1), "BEGIN $_; SELECT llm_complete('ticket 1'); COMMIT", $_)
	  for 'ISOLATION LEVEL REPEATABLE READ', 'ISOLATION LEVEL SERIALIZABLE',
	  'ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE';
	asks(1, answers(1),
		q{BEGIN; SELECT llm_complete('ticket 1'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'},
		'two-phase commit');

	# An old snapshot is for data; the configuration is that of now.
	my $session = llm_session($node);
	$session->run('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$session->run('SELECT count(*) FROM llm_provider');
	$node->safe_psql('postgres', q{UPDATE llm_route SET model = 'new' WHERE provider = 'a'});
	is($session->run(q{SELECT llm_complete('Hello')})->{out},
		'a/new: Hello', 'REPEATABLE READ: a change of the configuration counts');
	$session->run('COMMIT');
	$node->safe_psql('postgres', q{UPDATE llm_route SET model = 'model-a' WHERE provider = 'a'});
	$session->quit;
};

subtest 'queries' => sub {
	asks(5, answers(1 .. 5), 'SELECT llm_complete(body) FROM ticket ORDER BY id',
		'once a row');
	asks(2, answers(1, 2), q{
		SELECT llm_complete(body) FROM ticket ORDER BY id LIMIT 2},
		'ORDER BY ... LIMIT: for the rows it returns');
	asks(5, answers(5), q{
		SELECT llm_complete(body) FROM ticket ORDER BY llm_complete(body) DESC LIMIT 1},
		'ORDER BY an answer: once a row');
	asks(1, 2, $_, 'WHERE: the cheap condition first') for q{
		SELECT id FROM ticket
		WHERE llm_complete(body) LIKE 'a/%' AND body LIKE '%2'}, q{
		SELECT t.id FROM ticket t JOIN big USING (id)
		WHERE llm_complete(body) LIKE 'a/%' AND t.body ~ '2$'};
	asks(5, 5, q{
		SELECT count(*) FROM ticket, LATERAL llm_respond(body) r
		WHERE r.source = 'model' AND r.answer LIKE 'a/%'},
		'LATERAL: once a row');
	asks(1, 'a|default|model-a|model|f|1', q{
		SELECT provider, region, model, source, degraded, attempts
		FROM llm_respond('Hello')},
		'FROM: once');
	asks(3, 3, q{
		SELECT count(a) FROM (SELECT llm_complete(body) AS a FROM ticket
			WHERE id <= 3 OFFSET 0) s WHERE a IS NOT NULL},
		'a subquery');
	asks(1, 'none', q{
		SELECT CASE WHEN id > 1 THEN 'none' ELSE llm_complete(body) END
		FROM ticket WHERE id < 3 ORDER BY id OFFSET 1},
		'CASE: for the row that needs it');
	asks(1, answers(1), q{
		SELECT coalesce(llm_complete(body), llm_complete('never'))
		FROM ticket WHERE id = 1},
		'coalesce(): no more than needed');
	asks(0, '', 'SELECT llm_complete(NULL)', 'NULL is no call');
	asks(2, answers(1, 2), q{
		WITH a AS MATERIALIZED
			(SELECT llm_complete(body) AS a FROM ticket WHERE id < 3 ORDER BY id)
		SELECT a FROM a UNION ALL SELECT a FROM a WHERE false},
		'WITH: once');
	asks(1, answers(5), 'SELECT llm_complete(max(body)) FROM ticket',
		'above an aggregate');
	asks(5, answers(5), 'SELECT max(llm_complete(body)) FROM ticket',
		'inside an aggregate');
	asks(5, 5, q{
		SELECT max(r) FROM
			(SELECT rank() OVER (ORDER BY llm_complete(body)) AS r FROM ticket) s},
		'in a window');
};

subtest 'statements' => sub {
	my $select = 'SELECT llm_complete(body) AS a FROM ticket WHERE id < 3 ORDER BY id';

	asks(2, answers(1, 2), "CREATE TEMP TABLE t AS $select; SELECT a FROM t",
		'CREATE TABLE AS');
	asks(2, answers(1, 2), "COPY ($select) TO STDOUT", 'COPY TO');
	asks(4, answers(1, 2), qq{
		CREATE MATERIALIZED VIEW m AS $select;
		REFRESH MATERIALIZED VIEW m;
		SELECT a FROM m ORDER BY a;
		DROP MATERIALIZED VIEW m},
		'REFRESH MATERIALIZED VIEW');
	asks(5, answers(5), q{
		BEGIN;
		UPDATE ticket SET summary = llm_complete(body);
		SELECT summary FROM ticket WHERE id = 5;
		ROLLBACK},
		'UPDATE');
	asks(1, answers(6), q{
		BEGIN;
		INSERT INTO ticket VALUES (6, 'ticket 6') RETURNING llm_complete(body);
		ROLLBACK},
		'RETURNING');
	asks(1, answers(1), q{
		BEGIN;
		INSERT INTO ticket VALUES (1, 'ticket 7')
			ON CONFLICT (id) DO UPDATE SET summary = llm_complete(ticket.body)
			RETURNING summary;
		ROLLBACK},
		'ON CONFLICT DO UPDATE');
	asks(1, answers(8), q{
		CREATE TEMP TABLE t(a text DEFAULT llm_complete('ticket 8'));
		INSERT INTO t DEFAULT VALUES RETURNING a},
		'DEFAULT');
	asks(2, "one\ntwo", q{
		CREATE TEMP TABLE t(a text CHECK (llm_complete(a) LIKE 'a/%'));
		INSERT INTO t VALUES ('one'), ('two') RETURNING a},
		'CHECK');
	asks(1, 'x', q{
		CREATE DOMAIN pg_temp.answered AS text CHECK (llm_complete(VALUE) LIKE 'a/%');
		SELECT 'x'::pg_temp.answered},
		'a domain');
	psql_error($node, "CREATE TEMP TABLE t(a text); $_", '42P17', qr/immutable/i)
	  for 'CREATE INDEX ON t(llm_complete(a))',
	  'ALTER TABLE t ADD g text GENERATED ALWAYS AS (llm_complete(a)) STORED';

	asks(2, answers(1, 2), q{
		SET plan_cache_mode = force_generic_plan;
		PREPARE p(int) AS SELECT llm_complete(body) FROM ticket WHERE id = $1;
		EXECUTE p(1);
		EXECUTE p(2)},
		'a generic plan');
	asks(2, "a/model-a: Hello\nb/model-b: Hello", q{
		SET plan_cache_mode = force_generic_plan;
		PREPARE p AS SELECT llm_complete('Hello');
		EXECUTE p;
		BEGIN;
		UPDATE llm_route SET tier = 'offline' WHERE provider = 'a';
		UPDATE llm_route SET tier = 'default' WHERE provider = 'b';
		EXECUTE p;
		ROLLBACK},
		'a generic plan takes in a change');
	asks(5, 5, q{
		SET jit = on;
		SET jit_above_cost = 0;
		SET jit_inline_above_cost = 0;
		SET jit_optimize_above_cost = 0;
		SELECT count(*) FROM ticket WHERE llm_complete(body) LIKE 'a/%'},
		'JIT');
};

# Planning and defining is not running.
subtest 'EXPLAIN' => sub {
	asks(0, '', $_, "no call: $_")
	  for q{PREPARE p AS SELECT llm_complete('Hello')},
	  q{CREATE VIEW pg_temp.v AS SELECT llm_complete('Hello') AS a},
	  q{CREATE TEMP TABLE t AS SELECT llm_complete('Hello') AS a WITH NO DATA};
	asks(0, 'Result', q{EXPLAIN (COSTS OFF) SELECT llm_complete('Hello')},
		'no call: EXPLAIN');
	asks(0, '', qq{
		DO \$\$BEGIN
			EXECUTE 'EXPLAIN (VERBOSE) SELECT (llm_respond(body)).* FROM ticket
				WHERE llm_complete(''Hello'') > ''x'' AND llm_complete(body) > ''x''
				ORDER BY llm_complete(body)';
		END\$\$},
		'no call: EXPLAIN with calls all over');
	asks(1, '', qq{
		DO \$\$BEGIN
			EXECUTE 'EXPLAIN ANALYZE SELECT llm_complete(''Hello'')';
		END\$\$},
		'EXPLAIN ANALYZE calls');
};

subtest 'cursors' => sub {
	my $session = llm_session($node);
	my $requests = $sim->count('a');
	my $declare = 'CURSOR %s FOR SELECT llm_complete(body) FROM ticket ORDER BY id';

	$session->run('BEGIN');
	$session->run('DECLARE c ' . sprintf $declare, '');
	is($sim->count('a') - $requests, 0, 'DECLARE asks nothing');
	is($session->run('FETCH c')->{out}, answers(1), 'FETCH');
	is($sim->count('a') - $requests, 1, 'FETCH asks for one row');
	is($session->run('FETCH 2 FROM c')->{out}, answers(2, 3), 'FETCH 2');
	$session->run('ROLLBACK');
	is($sim->count('a') - $requests, 3, 'and no more than are fetched');

	$session->run('BEGIN');
	$session->run('DECLARE s SCROLL ' . sprintf $declare, '');
	$session->run('FETCH 3 FROM s');
	is($session->run('FETCH BACKWARD FROM s')->{out}, answers(2), 'SCROLL');
	$session->run('ROLLBACK');

	$session->run('BEGIN');
	$session->run('DECLARE h ' . sprintf $declare, 'WITH HOLD');
	is($session->run('FETCH h')->{out}, answers(1), 'WITH HOLD');
	$session->run('COMMIT');
	is($session->run('FETCH ALL FROM h')->{out}, answers(2 .. 5), 'WITH HOLD: after COMMIT');
	$session->run('CLOSE h');
	$session->quit;
};

subtest 'functions and triggers' => sub {
	asks(2, answers(7, 8), q{
		BEGIN;
		CREATE FUNCTION summarise() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN NEW.summary := llm_complete(NEW.body); RETURN NEW; END$$;
		CREATE TRIGGER summarise BEFORE INSERT ON ticket
			FOR EACH ROW EXECUTE FUNCTION summarise();
		INSERT INTO ticket VALUES (7, 'ticket 7'), (8, 'ticket 8')
			RETURNING summary;
		ROLLBACK},
		'a row trigger');
	asks(1, answers(7), q{
		CREATE TEMP TABLE seen(a text);
		CREATE FUNCTION summarise() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN INSERT INTO seen VALUES (llm_complete(NEW.body)); RETURN NULL; END$$;
		CREATE CONSTRAINT TRIGGER summarise AFTER INSERT ON ticket
			DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION summarise();
		BEGIN;
		INSERT INTO ticket VALUES (7, 'ticket 7');
		DELETE FROM ticket WHERE id = 7;
		SELECT a FROM seen;
		COMMIT;
		SELECT a FROM seen;
		DROP FUNCTION summarise CASCADE},
		'a trigger at COMMIT');
	asks(5, join(', ', split /\n/, answers(1 .. 5)), q{
		CREATE TEMP TABLE seen(a text);
		CREATE FUNCTION summarise() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN
				INSERT INTO seen
					SELECT string_agg(llm_complete(body), ', ' ORDER BY id) FROM new;
				RETURN NULL;
			END$$;
		CREATE TRIGGER summarise AFTER UPDATE ON ticket
			REFERENCING NEW TABLE AS new EXECUTE FUNCTION summarise();
		UPDATE ticket SET id = id;
		SELECT a FROM seen;
		DROP FUNCTION summarise CASCADE},
		'a transition table');

	add_tier($node, 'broken');
	$node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		INSERT INTO llm_route(tier, provider, model) VALUES ('broken', 'a', 'broken')});
	$sim->behave({ template => 'model_not_found' }, model => 'broken');
	asks(6, "LL001 1\nLL001 2\nLL001 3\nLL001 4\nLL001 5", q{
		CREATE TEMP TABLE seen(a text);
		DO $$BEGIN
			FOR i IN 1 .. 5 LOOP
				BEGIN
					INSERT INTO seen VALUES (llm_complete('Hello'));
					INSERT INTO seen VALUES (llm_complete('Hello', 'broken'));
				EXCEPTION WHEN SQLSTATE 'LL001' THEN
					INSERT INTO seen VALUES (SQLSTATE || ' ' || i);
				END;
			END LOOP;
		END$$;
		SELECT a FROM seen ORDER BY a},
		'exception blocks, which do not undo what the server has found out');
	$node->safe_psql('postgres', q{DELETE FROM llm_tier WHERE name = 'broken'});
	$sim->clear;

	asks(3, answers(3), q{
		CREATE TEMP TABLE seen(a text);
		DO $$DECLARE t record; BEGIN
			FOR t IN SELECT body FROM ticket WHERE id <= 3 ORDER BY id LOOP
				INSERT INTO seen VALUES (llm_complete(t.body));
				COMMIT;
			END LOOP;
			ROLLBACK;
		END$$;
		SELECT max(a) FROM seen},
		'a procedure that commits');
	asks(1, 'a/model-a: Hello', q{
		CREATE FUNCTION pg_temp.f(text) RETURNS text LANGUAGE sql
			AS 'SELECT llm_complete($1)';
		SELECT pg_temp.f('Hello')},
		'an SQL function');
	asks(1, 'b/model-b: Hello', q{
		CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql
			SET llm_failover.tier = 'b' AS $$BEGIN RETURN llm_complete('Hello'); END$$;
		SELECT pg_temp.f()},
		'a setting of a function');
};

subtest 'roles' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE ROLE nobody LOGIN;
		CREATE FUNCTION summary(text) RETURNS text LANGUAGE sql SECURITY DEFINER
			SET search_path = public, pg_temp AS 'SELECT llm_complete($1)'});
	psql_error($node, "SELECT $_", '42501',
		qr/^permission denied for (function|view)/, undef, user => 'nobody')
	  for q{llm_complete('Hello')}, q{llm_respond('Hello')}, q{llm_chat('[]')},
	  q{llm_last()}, q{* FROM llm_explain()}, q{* FROM llm_check()},
	  q{* FROM llm_routing};
	asks(1, 'a/model-a: Hello', q{SELECT summary('Hello')},
		'SECURITY DEFINER', user => 'nobody');
	asks(2, "a/model-a: 1\na/model-a: 2", q{
		SELECT llm_complete('1');
		SET ROLE nobody;
		SELECT summary('2')},
		'another role of a session');
};

subtest 'parallel plans' => sub {
	my $parallel = q{
		SET parallel_setup_cost = 0;
		SET parallel_tuple_cost = 0;
		SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 2;
		SET parallel_leader_participation = off;
		DO $$BEGIN
			PERFORM set_config(name, 'on', false) FROM pg_settings
			WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
		END$$;
	};
	my $sql = q{SELECT llm_complete('ticket ' || count(*) - 19999) FROM big WHERE id % 1 = 0};
	my $explain = 'EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF)';
	my ($above, $below) =
	  split /Gather/, run_sql($node, "$parallel $explain $sql")->{out};

	like($below // '', qr/Workers Launched: [12]/, 'workers run');
	like($above, qr/llm_complete/, 'and the call stands above them');
	unlike($below // '', qr/llm_complete/, 'not below');
	asks(1, answers(1), "$parallel $sql", 'above a Gather');
	asks(3, 3, qq{$parallel
		SELECT count(*) FROM big
		WHERE id <= 3 AND llm_complete('ticket ' || id) IS NOT NULL},
		'in WHERE');
	asks(3, answers(3), qq{$parallel
		SELECT llm_complete('ticket ' || id) FROM big
		WHERE id <= 3 ORDER BY id OFFSET 2},
		'above a parallel scan');
	asks(1, 3, qq{$parallel
		SELECT count(*) FROM big
		WHERE id <= 3 AND (SELECT llm_complete('Hello')) LIKE 'a/%'},
		'an InitPlan');
	# a user may label a wrapper what it is not
	asks(1, answers(1), qq{
		CREATE FUNCTION mislabelled() RETURNS text LANGUAGE plpgsql PARALLEL SAFE
			AS \$\$BEGIN RETURN llm_complete('ticket 1'); END\$\$;
		$parallel
		SELECT mislabelled() FROM big WHERE id = 1;
		DROP FUNCTION mislabelled()},
		'in a worker');
};

subtest 'kept connections' => sub {
	$sim->hang_up($_) for 'a', 'b';
	my $session = llm_session($node);
	my $opened = $sim->count('a', 'connections_opened');
	my $requests = $sim->count('a');

	$session->run(qq{SELECT llm_complete('Hello $_')}) for 1 .. 20;
	$session->run(q{SELECT llm_complete('Hello ' || i) FROM generate_series(1, 20) i});
	foreach my $sql ('BEGIN', q{SELECT llm_complete('Hello')}, 'ROLLBACK',
		'BEGIN', 'SAVEPOINT s', q{SELECT llm_complete('Hello')::int},
		'ROLLBACK TO s', q{SELECT llm_complete('Hello')}, 'COMMIT',
		'DISCARD ALL', q{SELECT llm_complete('Hello')},
		'SET SESSION AUTHORIZATION nobody', q{SELECT summary('Hello')},
		'RESET SESSION AUTHORIZATION', 'SET statement_timeout = 60000',
		q{SELECT llm_complete('Hello')},
		q{UPDATE llm_tier SET max_attempts = 5 WHERE name = 'default'},
		q{SELECT llm_complete('Hello')}, q{SELECT llm_complete('Hello')},
		q{SELECT llm_complete('Hello')}, q{SELECT llm_complete('Hello')})
	{
		$session->run($sql);
	}
	is($sim->count('a') - $requests, 50, '50 calls');
	is($sim->count('a', 'connections_opened') - $opened, 1, 'over one connection');
	is($session->run('SELECT answer FROM llm_last()')->{out}, 'a/model-a: Hello', 'llm_last()');
	$session->quit;
	$sim->wait_for(listener => 'a', max_connections_open => 0);
	pass('which ends with the session');
};

subtest 'changes and commands during a call' => sub {
	my $rule = $sim->behave({ hang => \1 }, prompt => '^hang');
	my $session = llm_session($node)->start(q{SELECT llm_complete('hang')});

	$session->wait_in_call;
	$node->safe_psql('postgres', 'CREATE DATABASE doomed');
	$node->safe_psql('postgres', 'DROP DATABASE doomed');
	pass('DROP DATABASE does not wait for a call in another one');
	is($session->cancel->{sqlstate}, '57014', 'which goes on');
	$sim->unbehave($rule);

	$sim->behave({ delay => 1 }, prompt => '^wait');
	$session->start(q{SELECT provider || answer FROM llm_respond('wait', 'b')});
	$sim->wait_for(listener => 'b', in_progress => 1);
	$node->safe_psql('postgres', q{DELETE FROM llm_provider WHERE name = 'b'});
	is($session->finish->{out}, 'bb/model-b: wait', 'a call ends although its provider was deleted');
	is($session->run(q{SELECT provider, trace->0->>'model' FROM llm_last()})->{out},
		'b|model-b', 'llm_last() still knows');
	$sim->clear;
	add_provider($node, $sim, 'b', tier => 'b', key => undef);
	$sim->set(b => keys => 'optional');
	$session->quit;
};

subtest 'databases and schemas' => sub {
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	$node->safe_psql(
		'second', q{
		CREATE SCHEMA "My Schema";
		CREATE EXTENSION llm_failover SCHEMA "My Schema"});
	$node->safe_psql(
		'second', sprintf q{
		SET search_path = "My Schema"; SET client_min_messages = warning;
		INSERT INTO llm_provider(name, dialect, base_url) VALUES ('second', 'openai', '%s');
		INSERT INTO llm_route(provider, model) VALUES ('second', 'model-2');
		INSERT INTO llm_rule(name, pattern, answer) VALUES ('hi', '^hi$', 'ho');
		SELECT llm_grant_usage('nobody')}, $sim->url('b', '/v1'));
	my %second = (dbname => 'second');
	asks(1, 'b/model-2: Hello', qq{
		SET search_path = $_;
		SELECT "My Schema".llm_complete('Hello')},
		"\"My Schema\", search_path = $_", %second)
	  for q{''}, 'pg_catalog', 'public, "My Schema"', 'no_such_schema';
	asks(1, 'b/model-2: Hello|second', q{
		SELECT (r).answer, (r).provider
		FROM (SELECT "My Schema".llm_respond('Hello') AS r OFFSET 0) s},
		'a role that was granted usage', %second, user => 'nobody');
	my $no_path = q{SET search_path = ''};
	asks(0, 'ho', qq{$no_path; SELECT "My Schema".llm_complete('hi', 'offline')},
		'a builtin model', %second);
	asks(1, 't', qq{$no_path; SELECT ok FROM "My Schema".llm_check()},
		'llm_check()', %second);
	asks(0, 'second|default', qq{$no_path;
		SELECT provider, region FROM "My Schema".llm_explain() WHERE step = 1},
		'llm_explain()', %second);
	asks(1, 'a/model-a: Hello', q{SELECT llm_complete('Hello')},
		'the other database is another world');

	asks(1, 'b/model-2: Hello', q{
		CREATE SCHEMA decoy;
		CREATE TABLE decoy.llm_provider(name text);
		CREATE TABLE decoy.llm_route(name text);
		SET search_path = decoy, "My Schema";
		SELECT llm_complete('Hello')},
		'a table of the same name in the path is not believed', %second);
};

# A subscription's worker has no client, an empty search_path and its own role.
subtest 'logical replication' => sub {
	$node->safe_psql('postgres', q{CREATE PUBLICATION p FOR TABLE ticket;
		SELECT pg_create_logical_replication_slot('s', 'pgoutput')});
	$node->safe_psql(
		'second', q{
		CREATE TABLE public.ticket(id int PRIMARY KEY, body text, summary text);
		CREATE FUNCTION public.summarise() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN NEW.summary := "My Schema".llm_complete(NEW.body); RETURN NEW; END$$;
		CREATE TRIGGER summarise BEFORE INSERT ON public.ticket
			FOR EACH ROW EXECUTE FUNCTION public.summarise();
		ALTER TABLE public.ticket ENABLE ALWAYS TRIGGER summarise});
	my $publisher = quote_sql($node->connstr('postgres'));
	$node->safe_psql(
		'second', qq{
		CREATE SUBSCRIPTION s CONNECTION $publisher PUBLICATION p
		WITH (create_slot = false, slot_name = 's', copy_data = false)});
	$node->safe_psql('postgres',
		q{INSERT INTO ticket VALUES (10, 'ticket 10'), (11, 'ticket 11')});
	$node->wait_for_catchup('s');
	asks(0, "b/model-2: ticket 10\nb/model-2: ticket 11",
		'SELECT summary FROM public.ticket ORDER BY id',
		'a trigger in an apply worker', dbname => 'second');
	$node->safe_psql('second', 'DROP SUBSCRIPTION s');
	$node->safe_psql('postgres', 'DELETE FROM ticket WHERE id > 5');
};

subtest 'hot standby' => sub {
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->backup('backup');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	# only for locks
	$standby->append_conf('postgresql.conf',
		"max_standby_streaming_delay = 500ms\nhot_standby_feedback = on\n");
	$standby->start;
	asks(1, answers(1), q{SELECT llm_complete('ticket 1')}, 'a call', node => $standby);
	asks(1, 'a/model-a: Hello|f', q{SELECT answer, degraded FROM llm_respond('Hello')},
		'llm_respond()', node => $standby);
	asks(2, 't', 'SELECT bool_and(ok) FROM llm_check()', 'llm_check()', node => $standby);
	asks(0, 't|t', 'SELECT ok, standby FROM llm_health', 'llm_health', node => $standby);

	# The replay of a DROP TABLE ends a call whose transaction holds a lock on
	# it; PostgreSQL may then end the session as well.
	$node->safe_psql('postgres', 'CREATE TABLE doomed()');
	$node->wait_for_catchup($standby);
	my $rule = $sim->behave({ hang => \1 }, prompt => '^hang');
	my $session = llm_session($standby);
	$session->start(
		q{DO $$BEGIN PERFORM FROM doomed; PERFORM llm_complete('hang'); END$$});
	$session->wait_in_call;
	$node->safe_psql('postgres', 'DROP TABLE doomed');
	my $end = eval { $session->finish };
	like(
		$end ? $end->{sqlstate} : slurp_file($standby->logfile),
		qr/^40|FATAL: .* conflict with recovery/,
		'a recovery conflict ends a call');
	$node->wait_for_catchup($standby);
	$sim->unbehave($rule);

	$session = llm_session($standby);
	is($session->run(q{SELECT llm_complete('Hello')})->{out},
		'a/model-a: Hello', 'before a promotion');
	$standby->promote;
	is($session->run(q{SELECT llm_complete('Hello')})->{out},
		'a/model-a: Hello', 'after it, in the same session');
	is( $session->run(q{
		UPDATE llm_route SET model = 'promoted' WHERE provider = 'a'
		RETURNING model})->{out},
		'promoted', 'the configuration can be changed');
	is($session->run(q{SELECT llm_complete('Hello')})->{out},
		'a/promoted: Hello', 'and counts');
	is($session->run(q{SELECT standby FROM llm_health})->{out}, 'f', 'llm_health says so');
	$session->quit;
	$standby->stop;
};

# The extension goes while calls of others are under way: they end with their
# answer or an error, and the session lives.
subtest 'DROP EXTENSION' => sub {
	my $rule = $sim->behave({ delay => 1 }, prompt => '^wait');
	my %calls = (
		llm_complete => q{SELECT "My Schema".llm_complete('wait')},
		llm_respond => q{SELECT "My Schema".llm_respond('wait')},
		llm_check => q{SELECT * FROM "My Schema".llm_check()},
		rows => q{SELECT "My Schema".llm_complete('wait ' || i) FROM generate_series(1, 3) i});
	$sim->behave({ delay => 1 }, prompt => 'Reply with OK');
	my %session = map { $_ => llm_session($node, dbname => 'second') } keys %calls;

	$session{$_}->start($calls{$_}) for sort keys %calls;
	$sim->wait_for(listener => 'b', in_progress => 4);
	psql_ok($node, 'DROP EXTENSION llm_failover CASCADE', 'DROP EXTENSION', dbname => 'second');
	foreach my $name (sort keys %session)
	{
		my $end = $session{$name}->finish;
		note "$name: ", $end->{sqlstate} // 'answered', ' ', $end->{message} // $end->{out};
		unlike($end->{sqlstate} // '', qr/^(08|57)/, "$name ends properly");
		is($session{$name}->run('SELECT 1')->{out}, 1, "$name: the session lives");
	}
	is($session{llm_complete}->run('CREATE EXTENSION llm_failover')->{sqlstate},
		undef, 'and can create it again');
	is( $session{llm_respond}->run(q{
		SELECT source FROM llm_respond('One is here. Two is there. Three is gone.')})->{out},
		'extract', 'where the others find a new configuration');
	$_->quit for values %session;
	$sim->clear;
};

is($node->safe_psql('postgres', 'SELECT sum(in_flight) FROM llm_status'),
	0, 'nothing is left in flight');
unlike(slurp_file($node->logfile),
	qr/was terminated by signal|PANIC|TRAP|reference leak|still referenced/,
	'nothing crashed or leaked');

# A server that does not preload the library restores and configures, and says
# what is missing when a function is called.
subtest 'not preloaded' => sub {
	my $bare = llm_node('bare', conf => "shared_preload_libraries = ''\n", extension => 0);
	my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';

	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ],
		'pg_dump');
	$bare->command_ok(
		[ 'psql', '-XqvON_ERROR_STOP=1', '-f', $dump, $bare->connstr('postgres') ],
		'restore');
	psql_ok($bare, q{UPDATE llm_tier SET timeout = '1 min'}, 'configuration');
	my @calls = split /\n/, $bare->safe_psql(
		'postgres', q{
		SELECT format('%s(%s)', p.oid::regproc,
			array_to_string(array_fill('NULL'::text, ARRAY[pronargs::int]), ', '))
		FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
			JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE extname = 'llm_failover' AND proname !~ '^llm_(grant|revoke)'
			AND NOT proisstrict AND prorettype <> 'trigger'::regtype
		ORDER BY 1});
	cmp_ok(scalar @calls, '>=', 6, 'there are functions');
	foreach my $call (@calls, 'llm_health', 'llm_routing')
	{
		my $error = psql_error($bare, "SELECT * FROM $call", '55000',
			qr/^llm_failover must be loaded via shared_preload_libraries$/, "55000: $call");
		is( $error->{hint},
			'Add it to shared_preload_libraries in postgresql.conf and restart.',
			'with a hint');
	}
	$bare->stop;
};

subtest 'single-user mode' => sub {
	$node->stop;
	my ($out, $err);
	my $in = "SELECT llm_complete('Hello')\n";
	IPC::Run::run([ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
		'<', \$in, '>', \$out, '2>', \$err);
	like($out, qr/llm_complete = "a\/model-a: Hello"/, 'a call') or diag $err;
};

done_testing();
