# 111_on_finish_safety.pl: a function on_finish that wants to be superuser, to
# leave something behind for others' functions, or never to end: none of it
# works, and none of it stops others' tasks.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = llm_node('main', conf => "llm_failover.on_finish_timeout = 1s\n");
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');

# mallory writes the functions that are tried; bob is somebody else.
$node->safe_psql(
	'postgres', q{
	INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'echo', 0);
	CREATE ROLE mallory;
	CREATE ROLE bob;
	SELECT llm_grant_usage(r) FROM unnest('{mallory,bob}'::name[]) r;
	CREATE SCHEMA m AUTHORIZATION mallory;
	CREATE TABLE m.log(n serial, what text, result text, by name DEFAULT current_user);
	CREATE FUNCTION m.fine(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT 1';
	CREATE FUNCTION m.raises(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
	GRANT USAGE ON SCHEMA m TO bob;
	ALTER TABLE m.log OWNER TO mallory;
	GRANT INSERT ON m.log TO bob;
	GRANT USAGE ON SEQUENCE m.log_n_seq TO bob;
});

# Inserts a task with a function; returns its id.
sub task
{
	my ($role, $function) = @_;
	return $node->safe_psql('postgres',
		"SET ROLE $role; INSERT INTO llm_task(prompt, on_finish) VALUES ('Hello', '$function') RETURNING id"
	);
}

# Waits until a task is finished; returns what an expression says of it.
sub outcome
{
	my ($id, $expression) = @_;

	$node->poll_query_until('postgres',
		"SELECT finished_at IS NOT NULL FROM llm_task WHERE id = $id")
	  or die "task $id is not finished";
	return $node->safe_psql('postgres',
		"SELECT $expression FROM llm_task WHERE id = $id");
}

# Has a role's task run a function; returns its state and error code.
sub run
{
	my ($role, $function) = @_;
	return outcome(task($role, $function), q{state || coalesce(' ' || error_code, '')});
}

# Creates functions as mallory.
sub mallory
{
	my ($sql) = @_;
	$node->safe_psql('postgres', "SET ROLE mallory; SET search_path = m, public; $sql");
	return;
}

# What was logged, and by whom.
sub logged
{
	my ($what) = @_;
	return $node->safe_psql('postgres',
		"SELECT DISTINCT result || ' by ' || by FROM m.log WHERE what = "
		  . quote_sql($what)
		  . ' ORDER BY 1');
}

sub settler
{
	return $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover settler'}
	);
}

# --- to become superuser ---

my %attempts = (
	"SET ROLE $superuser" => '42501',
	"SET LOCAL ROLE $superuser" => '42501',
	'RESET ROLE' => '42501',
	'SET ROLE none' => '42501',
	"SET SESSION AUTHORIZATION $superuser" => '42501',
	'SET SESSION AUTHORIZATION DEFAULT' => '42501',
	'RESET SESSION AUTHORIZATION' => '42501',
	"SELECT set_config('role', '$superuser', false)" => '42501',
	'SELECT m.as_superuser()' => '42501',
	'ALTER ROLE mallory SUPERUSER' => '42501',
	"COPY m.log TO PROGRAM 'true'" => '42501',
	'DISCARD ALL' => '25001',
	'LISTEN llm_task' => '0A000',
	'COMMIT' => '0A000',
	'UPDATE llm_task SET prompt = NULL WHERE id = $1' => '55000',
	"UPDATE llm_task SET state = 'done'" => '42501',
	"UPDATE llm_task SET role = '$superuser'" => '42501');

$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION m.as_superuser() RETURNS void LANGUAGE sql SET role = $superuser AS 'SELECT 1';
});
mallory(
	q{CREATE FUNCTION tries(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE what text;
	BEGIN
		FOREACH what IN ARRAY ARRAY[} . join(', ', map { quote_sql($_) } sort keys %attempts) . q{]
		LOOP
			BEGIN
				EXECUTE what USING t.id;
				INSERT INTO m.log(what, result) VALUES (what, 'done');
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO m.log(what, result) VALUES (what, SQLSTATE);
			END;
		END LOOP;
	END $$});
is(run('mallory', 'm.tries'), 'done', 'a function tries this and that');
is(logged($_), "$attempts{$_} by mallory", $_) foreach sort keys %attempts;

# At the end of the transaction: a deferred trigger, which causes another one
# and a cursor, whose rest is fetched then and causes triggers again.
mallory(
	q{
	CREATE TABLE chain(depth int);
	CREATE FUNCTION climbs(what text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		ALTER ROLE mallory SUPERUSER;
		INSERT INTO log(what, result) VALUES (what, 'climbed');
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO log(what, result) VALUES (what, SQLSTATE);
	END $$;
	CREATE FUNCTION fetched(depth int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM climbs('cursor');
		INSERT INTO chain VALUES (depth + 1);
		RETURN depth;
	END $$;
	CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM climbs('trigger');
		IF NEW.depth < 4 THEN
			INSERT INTO chain VALUES (NEW.depth + 1);
			EXECUTE format('DECLARE c%s CURSOR WITH HOLD FOR SELECT m.fetched(%s)',
				nextval('log_n_seq'), NEW.depth);
		END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON chain DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION deferred();
	CREATE FUNCTION defers(t llm_task) RETURNS void LANGUAGE sql AS $$
		SELECT m.climbs('function'); INSERT INTO chain VALUES (1) $$;
});
is(run('mallory', 'm.defers'), 'done', 'deferred triggers and cursors');
is(logged($_), '42501 by mallory', "a $_ is no superuser's")
  foreach 'function', 'trigger', 'cursor';
is($node->safe_psql('postgres', 'SELECT count(*) FROM m.chain'),
	15, 'all of them have run');
is( $node->safe_psql(
		'postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}
	),
	'f',
	'mallory is no superuser');

mallory(
	q{
	CREATE TABLE parent(id int PRIMARY KEY);
	CREATE TABLE child(id int REFERENCES parent DEFERRABLE);
	CREATE FUNCTION orphans(t llm_task) RETURNS void LANGUAGE sql AS $$
		SET CONSTRAINTS ALL DEFERRED; INSERT INTO child VALUES (1) $$;
});
is(run('mallory', 'm.orphans'),
	'failed 23503', 'a constraint that is deferred fails its own task');

# An index of a temporary table that is emptied or dropped at commit.
mallory(
	q{
	CREATE SEQUENCE evaluated_by_another;
	CREATE FUNCTION expression(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF current_user <> 'mallory' THEN PERFORM nextval('m.evaluated_by_another'); END IF;
		RETURN a;
	END $$;
	CREATE FUNCTION empties(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		CREATE TEMP TABLE emptied(a int) ON COMMIT DELETE ROWS;
		CREATE INDEX ON emptied((m.expression(a))) WHERE m.expression(1) = 1;
		INSERT INTO emptied VALUES (1), (2);
		CREATE TEMP TABLE dropped ON COMMIT DROP AS SELECT 1;
	END $$;
});
is(run('mallory', 'm.empties'), 'done', 'temporary tables with ON COMMIT');
is( $node->safe_psql(
		'postgres', 'SELECT is_called FROM m.evaluated_by_another'),
	'f',
	'no expression of theirs is evaluated by a superuser');

# What a role may execute is not decided by another role's plan.
$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA shared;
	GRANT USAGE ON SCHEMA shared TO bob, mallory;
	CREATE FUNCTION shared.secret(a int) RETURNS int STABLE LANGUAGE sql AS 'SELECT a + 1';
	REVOKE EXECUTE ON FUNCTION shared.secret FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION shared.secret TO bob;
	CREATE FUNCTION shared.uses(t llm_task) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN RETURN shared.secret(1); END $$;
});
is(run('bob', 'shared.uses'), 'done', 'bob may') foreach 1 .. 2;
is(run('mallory', 'shared.uses'), 'failed 42501', 'mallory may not');

# --- to leave something behind ---

mallory(
	q{
	CREATE SEQUENCE seq;
	CREATE FUNCTION leaves(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO m.log(what, result) VALUES ('left', pg_backend_pid());
		PERFORM pg_advisory_lock(99);
		RESET ALL;
		CREATE TEMP TABLE log(what text);
		PREPARE prepared AS SELECT 1;
		EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
		PERFORM nextval('m.seq');
		SET work_mem = '77MB';
		SET search_path = m;
		PERFORM set_config('mallory.mark', 'here', false);
		SET lock_timeout = 1;
		SET TRANSACTION READ ONLY;
	END $$;
	CREATE FUNCTION leaves_and_raises(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN PERFORM m.leaves(t); PERFORM 1/0; END $$;
});
$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA b AUTHORIZATION bob;
	CREATE FUNCTION b.looks(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE seen text;
	BEGIN
		SELECT concat_ws(' ', to_regclass('log'),
			(SELECT count(*) FROM pg_prepared_statements),
			(SELECT count(*) FROM pg_cursors WHERE name = 'held'),
			current_setting('work_mem'), current_setting('search_path'),
			nullif(current_setting('mallory.mark', true), ''),
			current_user, pg_backend_pid())
		INTO seen;
		BEGIN
			seen := seen || ' ' || lastval();
		EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
		END;
		INSERT INTO m.log(what, result) VALUES (t.id, seen);
	END $$;
});
foreach my $case ([ 'm.leaves', 'done' ], [ 'm.leaves_and_raises', 'failed 22012' ])
{
	my ($function, $end) = @$case;

	task('bob', 'b.looks');
	my $before = settler();
	is(run('mallory', $function), $end, $function);
	my $locks = $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 99});
	my $id = task('bob', 'b.looks');
	is(outcome($id, 'state'), 'done', 'then somebody else looks around');
	my $pid = settler();
	is($pid, $before, 'in the same session');
	is(logged($id), "0 0 4MB pg_catalog, b, public, pg_temp bob $pid by bob",
		'nothing is left behind');
	ok($locks, 'no lock either');
}

# --- never to end ---

mallory(
	q{
	CREATE SEQUENCE stubborn_runs;
	CREATE FUNCTION loops(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
	CREATE TABLE later(a int);
	CREATE FUNCTION loops_later() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN SET statement_timeout = 0; LOOP PERFORM 1; END LOOP; END $$;
	CREATE CONSTRAINT TRIGGER loops AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION loops_later();
	CREATE FUNCTION defers_loop(t llm_task) RETURNS void LANGUAGE sql AS $$
		INSERT INTO later VALUES (1) $$;
	CREATE FUNCTION stubborn(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nextval('m.stubborn_runs');
		LOOP
			BEGIN
				LOOP PERFORM pg_sleep(0.01); END LOOP;
			EXCEPTION WHEN query_canceled THEN NULL;
			END;
		END LOOP;
	END $$;
});
my $id = task('mallory', 'm.loops');
is( outcome($id, 'state, error, error_code, answer'),
	'failed|on_finish: canceling statement due to statement timeout|57014|Hello',
	'a function that does not end is cancelled');
is(run('mallory', 'm.defers_loop'),
	'failed 57014', 'a deferred trigger is, too');

# All tasks are answered at once, mallory's before bob's.
$node->safe_psql(
	'postgres', q{
	SELECT llm_pause();
	SET ROLE mallory;
	INSERT INTO llm_task(prompt, on_finish, metadata) SELECT 'Hello', 'm.loops', '1' FROM generate_series(1, 3);
	SET ROLE bob;
	INSERT INTO llm_task(prompt, on_finish, metadata)
		SELECT 'Hello', CASE WHEN g % 2 = 0 THEN 'm.fine' ELSE 'm.raises' END, '1' FROM generate_series(1, 250) g;
	RESET ROLE;
	UPDATE llm_task SET state = 'answered', final_state = 'done', response = '{}', answer = 'x' WHERE metadata = '1';
	SELECT llm_resume();
});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 253 FROM llm_task WHERE metadata = '1' AND finished_at IS NOT NULL}
	),
	'all tasks come to an end');
is( $node->safe_psql(
		'postgres',
		q{SELECT string_agg(concat_ws(' ', role, state, error_code, n), ', ' ORDER BY role, state)
		FROM (SELECT role, state, error_code, count(*) AS n FROM llm_task WHERE metadata = '1' GROUP BY 1, 2, 3) t}
	),
	'bob done 125, bob failed 22012 125, mallory failed 57014 3',
	'each to its own');
is( $node->safe_psql(
		'postgres',
		q{SELECT (SELECT max(finished_at) FROM llm_task WHERE metadata = '1' AND role = 'bob') <
		(SELECT finished_at FROM llm_task WHERE metadata = '1' AND role = 'mallory' ORDER BY 1 OFFSET 1 LIMIT 1)}
	),
	't',
	'who is slow goes behind');

# One that does not let itself be cancelled comes first.
my $pid = settler();
$node->safe_psql(
	'postgres', q{
	SELECT llm_pause();
	SET ROLE mallory;
	INSERT INTO llm_task(prompt, on_finish, metadata) VALUES ('Hello', 'm.stubborn', '2');
	INSERT INTO llm_task(prompt, on_finish, metadata) SELECT 'Hello', 'm.loops', '3' FROM generate_series(1, 2);
	SET ROLE bob;
	INSERT INTO llm_task(prompt, on_finish, metadata) VALUES ('Hello', 'm.fine', '4');
	RESET ROLE;
	UPDATE llm_task SET state = 'answered', final_state = 'done', response = '{}', answer = 'x' WHERE metadata IN ('2', '3', '4');
	SELECT llm_resume();
});
is( outcome(
		q{(SELECT id FROM llm_task WHERE metadata = '2')},
		'state, error, error_code, answer'),
	'failed|on_finish: did not end within llm_failover.on_finish_timeout, and its process was ended|57014|x',
	'a function that does not let itself be cancelled is ended with its process');
is($node->safe_psql('postgres', 'SELECT last_value FROM m.stubborn_runs'),
	1, 'and does not run again');
is(outcome(q{(SELECT id FROM llm_task WHERE metadata = '4')}, 'state'),
	'done', 'others go on');
isnt(settler(), $pid, 'in another process');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(finished_at) = 2 FROM llm_task WHERE metadata = '3'}),
	'the rest comes to its end');
is( $node->safe_psql(
		'postgres',
		q{SELECT max(finished_at) FILTER (WHERE metadata = '4') < min(finished_at) FILTER (WHERE metadata = '3')
		FROM llm_task}),
	't',
	'which knows who was slow');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM llm_task WHERE finished_at IS NULL OR state NOT IN ('done', 'failed')}
	),
	0,
	'no task is stuck');

$node->stop;
done_testing();
