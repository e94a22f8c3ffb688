# 112_retention.pl: rows that are past their retention go, and nothing but them;
# a row that cannot go keeps no other.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# llm_usage is kept for ever.
my $node = llm_node('main', conf => <<'END');
llm_failover.task_retention = 1h
llm_failover.event_retention = 2h
llm_failover.usage_retention = -1
log_min_messages = error
END

# Has the worker begin anew, which then sends the settler to tidy; waits until
# that has left nothing that a condition is true of. A restart is quickest, as
# the launcher takes its time with a worker that ends too often; but sessions do
# not outlive it.
sub tidy
{
	my ($none_of, $name, %args) = @_;

	if ($args{gently})
	{
		$node->safe_psql('postgres',
			q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'llm_failover worker'}
		);
	}
	else { $node->restart; }
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(
		$node->poll_query_until(
			'postgres', "SELECT NOT EXISTS (SELECT FROM $none_of)"),
		$name);
}

sub value
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Finished tasks, so many minutes ago.
sub tasks
{
	my ($minutes, $n) = @_;
	return value(
		qq{WITH t AS (INSERT INTO llm_task(prompt, state, answer, finished_at)
			SELECT 'Hello', 'done', 'x', now() - interval '$minutes min' FROM generate_series(1, $n) RETURNING id)
		SELECT min(id) FROM t});
}

# --- what goes ---

tasks(61, 5001);
tasks(59, 10);
$node->safe_psql(
	'postgres', q{
	SELECT llm_pause();
	INSERT INTO llm_task(prompt, created_at) VALUES ('waits', now() - interval '2 days');
	DELETE FROM llm_event;
	INSERT INTO llm_event(at, kind, message) SELECT now() - interval '121 min', 'failover', 'old' FROM generate_series(1, 4001);
	INSERT INTO llm_event(at, kind, message) VALUES (now() - interval '119 min', 'failover', 'new');
	INSERT INTO llm_usage(hour) VALUES (now() - interval '10 years');
});
my $old_tasks = q{llm_task WHERE finished_at < now() - interval '1 h'};
tidy($old_tasks, 'old tasks are deleted');
is(value('SELECT state, count(*) FROM llm_task GROUP BY 1 ORDER BY 1'),
	"done|10\nqueued|1", 'younger and waiting ones are not');
ok( $node->poll_query_until(
		'postgres', q{SELECT NOT EXISTS (SELECT FROM llm_event WHERE message = 'old')}
	),
	'so are old events');
is( value(q{SELECT count(*) FROM llm_event WHERE message = 'new'}),
	1, 'younger ones are not');
is( value(q{SELECT count(*) FROM llm_usage WHERE hour < now() - interval '1 year'}),
	1, 'with -1 rows are kept for ever');
$node->append_conf('postgresql.conf', "llm_failover.usage_retention = 1000d\n");
tidy(q{llm_usage WHERE hour < now() - interval '1001 days'},
	'old usage is deleted');

# --- what cannot go ---

# References: one that refuses, one that goes along, and one of a composite key
# of a partitioned table.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE refuses(task bigint REFERENCES llm_task);
	CREATE TABLE cascades(task bigint REFERENCES llm_task ON DELETE CASCADE);
	CREATE TABLE "In parts"(k int, "Task" bigint REFERENCES llm_task ON DELETE RESTRICT) PARTITION BY LIST (k);
	CREATE TABLE part PARTITION OF "In parts" DEFAULT;
});
my $first = tasks(90, 3000);
my ($refused, $parted) = ($first + 10, $first + 20);
$node->safe_psql(
	'postgres', qq{
	INSERT INTO refuses SELECT id FROM llm_task WHERE id BETWEEN $first AND $refused;
	INSERT INTO "In parts" VALUES (1, $parted);
	INSERT INTO cascades VALUES ($first + 30), ($first + 31);
});
my $offset = -s $node->logfile;
tidy("$old_tasks AND id > $refused AND id <> $parted",
	'tasks that are referred to keep no others');
is(value("SELECT count(*) FROM llm_task WHERE id BETWEEN $first AND $refused OR id = $parted"),
	12, 'they stay themselves');
is(value('SELECT count(*) FROM cascades'), 0, 'who goes along goes along');
unlike(
	slurp_file($node->logfile, $offset),
	qr/violates foreign key/,
	'and nobody complains');
$node->safe_psql('postgres',
	'DROP TABLE refuses, "In parts"; TRUNCATE cascades');
tidy($old_tasks, 'they go when nobody refers to them any more');

# A trigger of somebody's, which refuses some rows.
$first = tasks(90, 4000);
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
	CREATE TRIGGER refuse BEFORE DELETE ON llm_task FOR EACH ROW
		WHEN (OLD.id IN ($first, $first + 7, $first + 3999)) EXECUTE FUNCTION refuse();
});
tidy("$old_tasks AND id NOT IN ($first, $first + 7, $first + 3999)",
	'rows that a trigger refuses to delete keep no others');
is(value("SELECT count(*) FROM $old_tasks"), 3, 'they stay');
$node->safe_psql('postgres', 'DROP FUNCTION refuse CASCADE');
tidy($old_tasks, 'until they may go');

# Locks: of a task, and of a row that would be deleted with one.
$first = tasks(90, 3000);
my ($locked, $along) = ($first + 1, $first + 2);
$node->safe_psql('postgres', "INSERT INTO cascades VALUES ($along)");
my $locker = llm_session($node);
$locker->run("BEGIN; SELECT FROM llm_task WHERE id = $locked FOR KEY SHARE");
$locker->run("SELECT FROM cascades WHERE task = $along FOR KEY SHARE");
tidy("$old_tasks AND id NOT IN ($locked, $along)",
	'rows that somebody has locked keep no others', gently => 1);
is(value("SELECT count(*) FROM $old_tasks"), 2, 'they stay');
$locker->run('COMMIT; BEGIN; LOCK TABLE cascades');
$node->safe_psql('postgres',
	q{INSERT INTO llm_event(at, kind, message) VALUES (now() - interval '121 min', 'failover', 'old')}
);
tidy(q{llm_event WHERE message = 'old'},
	'a table that somebody has locked keeps no other', gently => 1);
is(value("SELECT count(*) FROM $old_tasks AND id = $along"),
	1, 'what is in it stays');
$locker->run('COMMIT');
tidy($old_tasks, 'until the locks are gone', gently => 1);
$locker->quit;

$node->stop;
done_testing();
