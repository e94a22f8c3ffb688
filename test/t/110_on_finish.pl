# 110_on_finish.pl: the function on_finish of a task is run once, as the task's
# role, with the row as it is stored, in the transaction that finishes the task;
# what it raises is its own task's failure and nothing else's.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = llm_node('main', conf => "restart_after_crash = on\n");

# The answer of each task is its prompt. What a function was given is in the
# table given.
$node->safe_psql(
	'postgres', q{
	INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'echo', 0);
	CREATE ROLE alice;
	SELECT llm_grant_usage('alice');
	CREATE SCHEMA app AUTHORIZATION alice;
	CREATE TABLE app.given(n serial, id bigint, state text, answer text,
		finished_at timestamptz, final_state text, error_code text,
		by name DEFAULT current_user, path text DEFAULT current_setting('search_path'));
	ALTER TABLE app.given OWNER TO alice;
	SET search_path = app, public;
	CREATE FUNCTION app.note(t llm_task) RETURNS void LANGUAGE sql AS $$
		INSERT INTO given(id, state, answer, finished_at, final_state, error_code)
		VALUES (t.id, t.state, t.answer, t.finished_at, t.final_state, t.error_code) $$;
	-- others of the same name, which are not meant
	CREATE FUNCTION app.note(t anyelement) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
	CREATE FUNCTION app.note(t jsonb) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
	CREATE FUNCTION app.note(t text) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
	CREATE FUNCTION app.note(t llm_task, u int) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
});

# Inserts a task as alice; returns its id.
sub task
{
	my ($on_finish, %columns) = @_;
	my @names = sort keys %columns;

	return $node->safe_psql(
		'postgres', "SET ROLE alice; INSERT INTO llm_task("
		  . join(', ', 'on_finish', 'prompt', @names)
		  . ') VALUES ('
		  . join(', ',
			map { quote_sql($_) } $on_finish, 'Hello', @columns{@names})
		  . ') RETURNING id');
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

sub settlers
{
	return $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'llm_failover settler'}
	);
}

# --- what it is given ---

my $id = task('app.note');
is( outcome($id,
		'state, answer, final_state IS NULL, error IS NULL, on_finish'),
	'done|Hello|t|t|app.note',
	'a task is finished once its function has run');
is( $node->safe_psql(
		'postgres', qq{
		SELECT g.state, g.answer, g.finished_at = t.finished_at,
			g.final_state IS NULL, g.by
		FROM app.given g JOIN llm_task t USING (id) WHERE id = $id}),
	'done|Hello|t|t|alice',
	'the function runs as the role, with the row as it is stored');
is( $node->safe_psql('postgres',
		"SELECT path FROM app.given WHERE id = $id"),
	'pg_catalog, app, public, pg_temp',
	q{names are looked up where the function is});

$id = task('app.note', expires_at => '2020-01-01');
is(outcome($id, 'state, error_code'), 'expired|LL002', 'an expired task');
is( $node->safe_psql('postgres',
		"SELECT state, error_code FROM app.given WHERE id = $id"),
	'expired|LL002',
	'its function runs as well');

$id = task('app.note', not_before => '2100-01-01');
$node->safe_psql('postgres', "SET ROLE alice; SELECT llm_cancel($id)");
is(outcome($id, 'state'), 'cancelled', 'a cancelled task');
is( $node->safe_psql(
		'postgres', "SELECT state FROM app.given WHERE id = $id"),
	'cancelled',
	'its function runs as well');

# --- which function ---

$node->safe_psql(
	'postgres', q{
	CREATE SCHEMA "Odd ""one" AUTHORIZATION alice;
	CREATE FUNCTION "Odd ""one"."Fin.ish"(t llm_task) RETURNS SETOF int LANGUAGE sql AS $$
		INSERT INTO app.given(id) VALUES (t.id) RETURNING 1 $$;
	CREATE FUNCTION app.composite(t llm_task, OUT a int, OUT b text) LANGUAGE plpgsql AS $$
	BEGIN PERFORM app.note(t); a := 1; END $$;
});
foreach my $function ('"Odd ""one"."Fin.ish"', 'app.composite')
{
	$id = task($function);
	is(outcome($id, 'state'), 'done', "$function returns what it likes");
	is( $node->safe_psql(
			'postgres', "SELECT count(*) FROM app.given WHERE id = $id"),
		1,
		'it has run once');
}

# --- what it raises ---

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION app.fails(t llm_task) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM app.note(t);
		RAISE EXCEPTION 'no such %', repeat('ticket ', 1000) USING ERRCODE = 'P0002';
	END $$;
});
$id = task('app.fails');
is( outcome($id,
		q{state, left(error, 26), length(error) < 2100, error_code, answer, response ->> 'source'}
	),
	'failed|on_finish: no such ticket |t|P0002|Hello|model',
	'a function that raises: the task has failed, and keeps its answer');
is( $node->safe_psql(
		'postgres', "SELECT count(*) FROM app.given WHERE id = $id"),
	0,
	'what it did is undone');

my $called = outcome($id, 'started_at');
$node->safe_psql(
	'postgres', q{
	CREATE OR REPLACE FUNCTION app.fails(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT app.note(t)';
});
is( $node->safe_psql('postgres', "SET ROLE alice; SELECT llm_requeue($id)"),
	't', 'llm_requeue() has it run again');
is(outcome($id, 'state, answer, error IS NULL, error_code IS NULL'),
	'done|Hello|t|t', 'it is looked up anew');
is(outcome($id, 'started_at'), $called, 'without another call');

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION app.goes(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT 1';
	CREATE FUNCTION app.closed(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT 1';
	CREATE SCHEMA other;
	CREATE FUNCTION other.hidden(t llm_task) RETURNS void LANGUAGE sql AS 'SELECT 1';
	GRANT USAGE ON SCHEMA other TO alice;
	CREATE ROLE bob;
	SELECT llm_grant_usage('bob');
	GRANT USAGE ON SCHEMA app TO bob;
	SELECT llm_pause();
});
my $gone = task('app.goes');
my $closed = task('app.closed');
my $hidden = task('other.hidden');
my $bobs = $node->safe_psql('postgres',
	q{SET ROLE bob; INSERT INTO llm_task(prompt, on_finish) VALUES ('Hello', 'app.goes') RETURNING id}
);
$node->safe_psql(
	'postgres', q{
	DROP FUNCTION app.goes(llm_task);
	REVOKE EXECUTE ON FUNCTION app.closed(llm_task) FROM PUBLIC;
	REVOKE USAGE ON SCHEMA other FROM alice;
	SELECT llm_revoke('bob');
	DROP OWNED BY bob;
	DROP ROLE bob;
	SELECT llm_resume();
});
is( outcome($gone, 'state, error, error_code'),
	'failed|on_finish: function app.goes(llm_task) does not exist|42883',
	'a function that is there no more');
is( outcome($closed, 'state, error, error_code'),
	'failed|on_finish: permission denied for function closed|42501',
	'a function that the role may not execute any more');
is( outcome($hidden, 'state, error, error_code'),
	'failed|on_finish: permission denied for schema other|42501',
	'a schema that it may not use any more');
is( outcome($bobs, 'state, error, error_code'),
	'failed|on_finish: role "bob" does not exist|42704',
	'a role that is there no more');

# --- what it does to tasks ---

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION app.deletes(t llm_task) RETURNS void LANGUAGE sql AS $$
		SELECT app.note(t); DELETE FROM llm_task WHERE id = t.id $$;
	CREATE FUNCTION app.marks(t llm_task) RETURNS void LANGUAGE sql AS $$
		UPDATE llm_task SET metadata = '{"seen": true}' WHERE id = t.id $$;
	CREATE FUNCTION app.goes_on(t llm_task) RETURNS void LANGUAGE sql AS $$
		INSERT INTO llm_task(prompt, on_finish, metadata) VALUES (t.answer || ' again', 'app.note', '{"chain": 1}') $$;
	SET search_path = app, public;
	CREATE FUNCTION app.cancels(t llm_task) RETURNS void LANGUAGE sql AS $$
		INSERT INTO given(id, answer) VALUES (t.id, (llm_cancel(t.id), llm_requeue(t.id))::text) $$;
});
$id = task('app.deletes');
ok( $node->poll_query_until(
		'postgres', "SELECT count(*) = 1 FROM app.given WHERE id = $id"),
	'a function may delete its task');
is( $node->safe_psql(
		'postgres', "SELECT count(*) FROM llm_task WHERE id = $id"),
	0,
	'which is gone then');
is(outcome(task('app.marks'), 'state, metadata'),
	'done|{"seen": true}', 'it may write metadata');
is(outcome(task('app.goes_on'), 'state'),
	'done', 'it may insert tasks');
ok( $node->poll_query_until('postgres',
		q{SELECT state = 'done' AND answer = 'Hello again' FROM llm_task WHERE metadata ? 'chain'}
	),
	'which are called');
$id = task('app.cancels');
is(outcome($id, 'state'), 'done', 'it can neither cancel nor requeue it');
is( $node->safe_psql(
		'postgres', "SELECT answer FROM app.given WHERE id = $id"),
	'(f,f)',
	'and is told so');

# --- locks, listeners ---

my $session = llm_session($node);
$session->run('LISTEN llm_task');
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION app.waits(t llm_task) RETURNS void LANGUAGE sql AS $$
		SELECT pg_advisory_xact_lock(17) $$;
});
$session->run('SELECT pg_advisory_lock(17)');
my $waits = task('app.waits');
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}
) or die 'the function does not wait';
my $behind = task('app.note');
$node->poll_query_until('postgres',
	"SELECT state = 'answered' FROM llm_task WHERE id = $behind")
  or die 'no answer';
my $locker = llm_session($node);
$locker->run("BEGIN; SELECT FROM llm_task WHERE id = $behind FOR UPDATE");
my $free = task('app.note');
$session->run('SELECT pg_advisory_unlock(17)');
is(outcome($waits, 'state'), 'done', 'a function may wait for a lock');
is(outcome($free, 'state'),
	'done', 'a locked row does not keep others from being settled');
is( $node->safe_psql(
		'postgres', "SELECT state FROM llm_task WHERE id = $behind"),
	'answered',
	'it waits itself');
$locker->run('COMMIT');
is(outcome($behind, 'state'), 'done', 'until the lock is gone');
$locker->quit;

my $heard = $session->run('SELECT 1');
like($heard->{out}, qr/Asynchronous notification "llm_task" received/,
	'listeners are told');
$session->quit;

# --- the process ---

ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_failover settler'}
	),
	'it leaves when there is nothing to do');
is(outcome(task('app.note'), 'state'), 'done', 'and comes back');

# Killed in the middle of a function: neither half of it is there twice.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION app.gated(t llm_task) RETURNS void LANGUAGE sql AS $$
		SELECT app.note(t); SELECT pg_advisory_xact_lock(18) $$;
});
foreach my $signal ('TERM', 'KILL')
{
	my $gate = llm_session($node);
	$gate->run('SELECT pg_advisory_lock(18)');
	$id = task('app.gated');
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}
	) or die 'the function does not wait';
	my $pid = settlers();
	kill $signal, $pid or die "kill $pid: $!";
	if ($signal eq 'KILL')
	{
		eval { $gate->{psql}{run}->finish };
		$node->poll_query_until('postgres', 'SELECT true')
		  or die 'no restart';
	}
	else
	{
		$node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
		  or die 'the settler does not end';
		is( $node->safe_psql(
				'postgres', "SELECT state FROM llm_task WHERE id = $id"),
			'answered',
			'SIGTERM ends it, and fails no task');
		$gate->quit;
	}
	is(outcome($id, 'state'), 'done', "the function runs again after $signal");
	is( $node->safe_psql(
			'postgres', "SELECT count(*) FROM app.given WHERE id = $id"),
		1,
		'what it does is there once');
}

# --- a copy ---

$node->safe_psql('postgres', 'SELECT llm_pause()');
$id = task('app.note');
$node->safe_psql(
	'postgres', qq{
	UPDATE llm_task SET state = 'answered', final_state = 'done', response = '{}', answer = 'x' WHERE id = $id;
	UPDATE llm_queue_state SET database = 0, paused = NULL;
});
my $fresh = task('app.note', not_before => '2100-01-01');
$node->restart;
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'llm_failover settler'}
) or die 'the worker does not send it to tidy';
$node->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'llm_failover settler'}
) or die 'the settler does not leave';
is($node->safe_psql('postgres', "SELECT state FROM llm_task WHERE id = $id"),
	'answered', 'a copied queue runs no function');
$node->safe_psql('postgres', 'SELECT llm_resume()');
is(outcome($id, 'state'), 'done', 'until llm_resume()');

$node->stop;
done_testing();
