# 131_task_dump.pl: a queue that was dumped and restored, or cloned, is known as
# a copy in whatever way it came: none of its tasks is called before
# llm_resume(), and then all are, those too that were running when it was copied.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tmp = PostgreSQL::Test::Utils::tempdir;
my $node = llm_node('main', extension => 0,
	conf => "llm_failover.worker_concurrency = 0\nllm_failover.on_finish_timeout = '10 min'\nmax_worker_processes = 50\n");

# A queue with tasks in every state, whose calls cost nothing and leave a mark.
# A worker that starts takes back what was running.
my $tasks = q{SELECT to_jsonb(t) - 'lease' - CASE WHEN prompt IN ('running', 'superseded')
	THEN '{state,final_state,dedupe_key,claimed_key,error,error_code}'::text[] ELSE '{}' END
	FROM llm.llm_task t ORDER BY id};
$node->safe_psql('postgres', 'CREATE ROLE app');
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{
CREATE SCHEMA llm;
CREATE EXTENSION llm_failover SCHEMA llm;
INSERT INTO llm.llm_tier(name) VALUES ('echo');
INSERT INTO llm.llm_route(tier, provider, model) VALUES ('echo', 'builtin', 'echo');
SELECT llm.llm_grant_usage('app');
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE public.mark(prompt text, state text);
CREATE FUNCTION public.finished(t llm.llm_task) RETURNS void LANGUAGE sql AS
	'SELECT pg_advisory_xact_lock_shared(1); INSERT INTO public.mark VALUES (t.prompt, t.state)';
RESET ROLE;
});
# What is answered stays so in the original, whose callbacks wait for this.
my $holder = llm_session($node, dbname => 'shop');
$holder->run('SELECT pg_advisory_lock(1)');
$node->safe_psql('shop', q{
SET ROLE app;
INSERT INTO llm.llm_task(prompt, tier, dedupe_key, on_finish, metadata)
	SELECT s, 'echo', 'key of ' || s, 'public.finished', to_jsonb(n)
	FROM unnest('{queued,running,superseded,answered,done,failed,expired,cancelled}'::text[]) WITH ORDINALITY x(s, n);
INSERT INTO llm.llm_task(messages, system, tier, max_tokens, temperature, params, feature, residency, allow_degraded, priority, not_before, expires_at, max_tries)
	VALUES ('[{"role": "user", "content": "all columns"}]', E'two\nlines', 'echo', 10, 0.5, '{"top_p": 1}', 'f', 'eu', true, 7, '2020-01-01', '2100-01-01', 9);
RESET ROLE;
UPDATE llm.llm_task SET claimed_key = dedupe_key, dedupe_key = NULL, lease = 1, tries = 1, started_at = now(),
	state = CASE prompt WHEN 'superseded' THEN 'running' ELSE prompt END,
	final_state = CASE WHEN prompt = 'answered' THEN 'done' END,
	answer = CASE WHEN prompt IN ('answered', 'done') THEN 'paid for' END,
	response = CASE WHEN prompt IN ('answered', 'done') THEN '{"answer": "paid for"}'::jsonb END,
	error = CASE WHEN prompt IN ('failed', 'expired', 'cancelled') THEN 'no luck' END,
	error_code = CASE WHEN prompt IN ('failed', 'expired', 'cancelled') THEN 'LL001' END,
	finished_at = CASE WHEN prompt IN ('done', 'failed', 'expired', 'cancelled') THEN now() END
 WHERE id BETWEEN 2 AND 8;
SET ROLE app;
INSERT INTO llm.llm_task(prompt, tier, dedupe_key, on_finish) VALUES ('newer', 'echo', 'key of superseded', 'public.finished');
});

my $expected = $node->safe_psql('shop', $tasks);
my $last = $node->safe_psql('shop', 'SELECT max(id) FROM llm.llm_task');
like($node->safe_psql('shop', q{SELECT blocked_by FROM llm.llm_queue WHERE tier = 'echo'}),
	qr/^llm_failover\.worker_concurrency is 0$/, 'the original stands for another reason');
is($node->safe_psql('shop', 'SELECT queue_paused IS NULL FROM llm.llm_health'), 't',
	'and is not paused');

# Runs a client program; no complaint is acceptable.
sub runs_silently
{
	my ($how, @command) = @_;
	my ($stdout, $stderr);
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$stdout, '2>', \$stderr);

	ok($ok, "$how: exit status");
	is($stderr, '', "$how: nothing on stderr");
	return;
}

sub at { my ($server) = @_; return ('-h', $server->host, '-p', $server->port); }

foreach my $format ([ 'plain' ], [ 'inserts', '--inserts' ], [ 'custom', '-Fc' ], [ 'dir', '-Fd' ])
{
	my ($name, @options) = @$format;

	runs_silently("pg_dump, $name", 'pg_dump', at($node), @options, '-f', "$tmp/$name", '-d', 'shop');
}

# From now on tasks are called, where they are not kept from it.
$node->append_conf('postgresql.conf', "llm_failover.worker_concurrency = 10\n");
$node->reload;
$holder->quit;
$node->poll_query_until('shop', q{SELECT count(*) = 4 FROM llm.llm_task WHERE state = 'done' AND (answer = 'paid for' OR error IS NULL)
	AND prompt IS DISTINCT FROM 'done'}) or die 'the original does not go on';

# Waits until the worker of a database has looked at its tasks: it expires what
# is late, also where the queue stands.
sub wait_for_look
{
	my ($server, $db) = @_;

	$server->safe_psql($db, q{INSERT INTO llm.llm_task(prompt, tier, expires_at) VALUES ('late', 'echo', now() - interval '1 s')});
	$server->poll_query_until($db, q{SELECT state = 'expired' FROM llm.llm_task WHERE prompt = 'late'})
	  or die "the worker of $db does not look";
	$server->safe_psql($db, q{DELETE FROM llm.llm_task WHERE prompt = 'late'});
	return;
}

# A copy has all tasks, and calls none.
sub is_copy
{
	my ($server, $db, $how, $why) = @_;

	is($server->safe_psql($db, 'SELECT queue_paused FROM llm.llm_health'), $why, "$how: $why");
	is($server->safe_psql($db, 'SELECT ok, reason FROM llm.llm_health'),
		"f|the queue stands: $why; llm_resume() starts it", "$how: not well");
	is($server->safe_psql($db, q{SELECT blocked_by FROM llm.llm_queue WHERE tier = 'echo'}),
		"paused: $why; llm_resume() starts it", "$how: blocked");
	wait_for_look($server, $db);
	is($server->safe_psql($db, $tasks), $expected, "$how: same tasks");
	is($server->safe_psql($db, 'SELECT count(*) FROM public.mark'), '0', "$how: no on_finish was run");
	return;
}

sub restore_sql
{
	my ($server, $db, $file) = @_;

	$server->safe_psql('postgres', "CREATE DATABASE $db");
	runs_silently("$db, psql", 'psql', '-X', '-q', '-o', "$tmp/$db.out", '-v', 'ON_ERROR_STOP=1',
		at($server), '-f', "$tmp/$file", '-d', $db);
	return;
}

restore_sql($node, 'plain', 'plain');
is_copy($node, 'plain', 'plain', 'copied from another database');
restore_sql($node, 'inserts', 'inserts');
is_copy($node, 'inserts', 'inserts', 'copied from another database');
foreach my $args ([ 'one', 'custom', '-j1' ], [ 'four', 'custom', '-j4' ], [ 'fourdir', 'dir', '-j4' ],
	[ 'single', 'custom', '--single-transaction' ])
{
	my ($db, $file, @options) = @$args;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	runs_silently($db, 'pg_restore', at($node), '--exit-on-error', @options, '-d', $db, "$tmp/$file");
	is_copy($node, $db, $db, 'copied from another database');
}

# A second generation
runs_silently('second', 'pg_dump', at($node), '-f', "$tmp/second", '-d', 'four');
restore_sql($node, 'second', 'second');
is_copy($node, 'second', 'second generation', 'copied from another database');

# Many jobs may bring the tasks first, while the worker is at work already
my ($list) = run_command([ 'pg_restore', '-l', "$tmp/custom" ]);
my @entries = grep { !/^;/ } split(/\n/, $list);
my @state = grep { /TABLE DATA.* llm_queue_state / } @entries;
is(@state, 1, 'the state of the queue is dumped');
my @others = grep { !/TABLE DATA.* llm_queue_state / } @entries;
$node->safe_psql('postgres', 'CREATE DATABASE backward');
append_to_file("$tmp/others", join("\n", @others, ''));
append_to_file("$tmp/state", join("\n", @state, ''));
runs_silently('tasks first', 'pg_restore', at($node), '--exit-on-error', '-L', "$tmp/others", '-d', 'backward', "$tmp/custom");
is_copy($node, 'backward', 'tasks first', 'restored from a dump');
runs_silently('state last', 'pg_restore', at($node), '--exit-on-error', '-L', "$tmp/state", '-d', 'backward', "$tmp/custom");
is_copy($node, 'backward', 'state last', 'copied from another database');

# The data alone, into a database whose worker is there
$node->safe_psql('postgres', 'CREATE DATABASE data');
$node->safe_psql('data', 'CREATE SCHEMA llm; CREATE EXTENSION llm_failover SCHEMA llm;
	CREATE TABLE public.mark(prompt text, state text); GRANT ALL ON public.mark TO app;
	CREATE FUNCTION public.finished(t llm.llm_task) RETURNS void LANGUAGE sql AS $$INSERT INTO public.mark VALUES (t.prompt, t.state)$$;
	ALTER TABLE public.mark OWNER TO app; ALTER FUNCTION public.finished OWNER TO app');
$node->poll_query_until('data', 'SELECT worker_running FROM llm.llm_health') or die 'no worker';
runs_silently('data only', 'pg_restore', at($node), '--exit-on-error', '--data-only', '-d', 'data', "$tmp/custom");
is_copy($node, 'data', 'data only', 'copied from another database');

# llm_resume: each task is called, each on_finish run once, new tasks get new
# numbers, and a task that ran while a newer one had its key is superseded
foreach my $db ('plain', 'four', 'backward', 'data')
{
	$node->safe_psql($db, 'SELECT llm.llm_resume()');
	$node->poll_query_until($db, 'SELECT count(*) = 0 FROM llm.llm_task WHERE finished_at IS NULL')
	  or die "$db does not go on";
	is($node->safe_psql($db, 'SELECT ok, queue_paused FROM llm.llm_health'), 't|', "$db resumed: well");
	is($node->safe_psql($db, q{SELECT prompt, state, count(*) FROM public.mark GROUP BY 1, 2 ORDER BY 1}),
		"answered|done|1\nnewer|done|1\nqueued|done|1\nrunning|done|1\nsuperseded|cancelled|1",
		"$db resumed: each on_finish has run once");
	is($node->safe_psql($db, q{SELECT count(*) FROM llm.llm_task WHERE messages IS NOT NULL AND state = 'done' AND answer = 'all columns'}),
		'1', "$db resumed: the task with all columns");
	is($node->safe_psql($db, q{INSERT INTO llm.llm_task(prompt, tier) VALUES ('next', 'echo') RETURNING id}) > $last, 1,
		"$db resumed: new numbers");
	$node->poll_query_until($db, q{SELECT state = 'done' FROM llm.llm_task WHERE prompt = 'next'}) or die "$db: next";
	is($node->safe_psql($db, q{SELECT kind FROM llm.llm_event WHERE kind LIKE 'queue%'}), 'queue_resumed', "$db resumed: an event");
}

# It stays so after a restart, and a copy stays a copy
$node->restart;
is($node->safe_psql('plain', 'SELECT queue_paused IS NULL FROM llm.llm_health'), 't', 'resumed for good');
$node->poll_query_until('single', 'SELECT worker_running FROM llm.llm_health') or die 'no worker';
is_copy($node, 'single', 'after a restart', 'copied from another database');

# A clone of a database whose queue runs
$node->safe_psql('plain', q{
UPDATE llm.llm_tier SET enabled = false WHERE name = 'echo';
INSERT INTO llm.llm_task(prompt, tier) VALUES ('in a template', 'echo');
});
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE plain');
$node->safe_psql('clone', q{UPDATE llm.llm_tier SET enabled = true WHERE name = 'echo'});
is($node->safe_psql('clone', 'SELECT queue_paused FROM llm.llm_health'), 'copied from another database', 'template: a copy');
wait_for_look($node, 'clone');
is($node->safe_psql('clone', q{SELECT state FROM llm.llm_task WHERE prompt = 'in a template'}), 'queued', 'template: calls nothing');
$node->safe_psql('clone', 'SELECT llm.llm_resume()');
$node->poll_query_until('clone', q{SELECT state = 'done' FROM llm.llm_task WHERE prompt = 'in a template'})
  or die 'the clone does not go on';
is($node->safe_psql('plain', 'SELECT queue_paused IS NULL FROM llm.llm_health'), 't', 'template: the original runs');

# A dump of a database restored in the same is of the past: what was queued then
# has been called since
runs_silently('in place, pg_dump', 'pg_dump', at($node), '-Fc', '-f', "$tmp/own", '-d', 'plain');
$node->safe_psql('plain', 'TRUNCATE llm.llm_task');
($list) = run_command([ 'pg_restore', '-l', "$tmp/own" ]);
append_to_file("$tmp/queue", join("\n", (grep { /TABLE DATA.* llm_(queue_state|task) / } split(/\n/, $list)), ''));
runs_silently('in place, pg_restore', 'pg_restore', at($node), '--exit-on-error', '-L', "$tmp/queue", '-d', 'plain', "$tmp/own");
is($node->safe_psql('plain', 'SELECT queue_paused FROM llm.llm_health'), 'restored from a dump', 'in place: a copy');

# Into another cluster
my $other = llm_node('other', extension => 0);
$other->safe_psql('postgres', 'CREATE ROLE app');
restore_sql($other, 'shop', 'plain');
is_copy($other, 'shop', 'another cluster', 'copied from another cluster');
$other->safe_psql('shop', 'SELECT llm.llm_resume()');
$other->poll_query_until('shop', 'SELECT count(*) = 0 FROM llm.llm_task WHERE finished_at IS NULL')
  or die 'the other cluster does not go on';

# A server without the library restores it as well
my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->start;
$bare->safe_psql('postgres', 'CREATE ROLE app');
restore_sql($bare, 'shop', 'plain');
is($bare->safe_psql('shop', $tasks), $expected, 'without the library: same tasks');

done_testing();
