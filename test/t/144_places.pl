# 144_places.pl: the queue works wherever it is, whatever is done around it: in
# several databases at once, in other encodings, in a schema that is renamed, with
# settings that make transactions read-only or switch triggers off, with tasks and
# answers of 10 MB, while the extension is dropped and created again, while the
# table is locked or rewritten, and while its concurrency is changed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Encode qw(decode);
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant ALL_DONE =>
  'SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL';

# What a database or the server may say, and our processes must not mind.
my %setting = (
	default_transaction_read_only => 'on',
	default_transaction_isolation => 'serializable',
	default_transaction_deferrable => 'on',
	row_security => 'off',
	session_replication_role => 'replica',
	statement_timeout => '1ms',
	lock_timeout => '1ms',
	idle_in_transaction_session_timeout => '1ms',
	search_path => 'nowhere',
	standard_conforming_strings => 'off',
	backslash_quote => 'off',
	array_nulls => 'off',
	transform_null_equals => 'on',
	quote_all_identifiers => 'on',
	DateStyle => 'SQL, DMY',
	IntervalStyle => 'sql_standard',
	TimeZone => 'Asia/Kathmandu',
	bytea_output => 'escape',
	enable_indexscan => 'off',
	plan_cache_mode => 'force_custom_plan');

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main', extension => 0, conf => <<'END');
max_worker_processes = 32
log_min_messages = warning
llm_failover.worker_concurrency = 8
END

two_databases();
encodings();
large();
renamed();
dropped();
odd_settings();
concurrency();
locked();

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC:|was terminated by signal/,
	'no crash');
done_testing();

sub sql { return $node->safe_psql($_[0], $_[1]) }

sub poll
{
	my ($dbname, $condition, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until($dbname, $condition), $name)
	  or diag(run_sql($node, 'SELECT id, state, tries, error FROM '
		  . schema($dbname) . '.llm_task WHERE finished_at IS NULL LIMIT 5',
			dbname => $dbname)->{out});
	return;
}

# Where the extension of a database is.
sub schema
{
	my ($dbname) = @_;
	return sql($dbname, q{SELECT extnamespace::regnamespace FROM pg_extension
		WHERE extname = 'llm_failover'});
}

# What it takes to call a provider. The function goes with the extension.
sub configuration
{
	my $url = $sim->url('a', '/v1');

	return qq{
		SET client_min_messages = error;
		INSERT INTO llm_secret VALUES ('key', 'sk-1');
		INSERT INTO llm_provider(name, dialect, base_url, secret)
			VALUES ('a', 'openai', '$url', 'key');
		INSERT INTO llm_route(provider, model) VALUES ('a', 'm');
		UPDATE llm_tier SET fallback = NULL WHERE name = 'default';
		CREATE TABLE IF NOT EXISTS public.effect(n int, answer text);
		CREATE FUNCTION public.note_effect(t llm_task) RETURNS void LANGUAGE sql AS
			'INSERT INTO public.effect VALUES (t.metadata::int, t.answer)';};
}

sub database
{
	my ($dbname, $options) = @_;

	sql('postgres', "CREATE DATABASE $dbname " . ($options // ''));
	sql($dbname, 'CREATE EXTENSION llm_failover;' . configuration());
	return;
}

# Tasks first to last of a kind, every other one with on_finish.
sub tasks
{
	my ($first, $last, $kind, $table) = @_;

	$table //= 'llm_task';
	return qq{
		INSERT INTO $table(prompt, metadata, on_finish)
		SELECT '$kind ' || n, to_jsonb(n), CASE n % 2 WHEN 1 THEN 'public.note_effect' END
		FROM generate_series($first, $last) n;};
}

# Does away with what was done before.
sub begin_anew
{
	my ($dbname) = @_;

	sql($dbname, 'TRUNCATE llm_task, effect');
	$sim->reset;
	return;
}

# All tasks were called once, have the answers to their prompts, and their
# effects.
sub is_done
{
	my ($dbname, $n, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll($dbname, ALL_DONE, "$name: no task is left");
	is(sql($dbname, q{SELECT count(*) FILTER (WHERE state = 'done' AND tries = 0
			AND answer = 'a/m: ' || prompt AND response ->> 'answer' = answer),
			count(*) FROM llm_task}),
		"$n|$n", "$name: each has its answer")
	  or diag(sql($dbname, q{SELECT id, prompt, state, tries, answer, error FROM llm_task
			WHERE state <> 'done' OR answer <> 'a/m: ' || prompt LIMIT 5}));
	is(sql($dbname, q{SELECT string_agg(n || ' ' || answer, ',' ORDER BY n) IS NOT DISTINCT FROM
			(SELECT string_agg(metadata::text || ' ' || answer, ',' ORDER BY metadata::int)
			FROM llm_task WHERE on_finish IS NOT NULL) FROM effect}),
		't', "$name: each on_finish has had its effect, once");
	return;
}

# Counts lines in the log since an offset, without those of our sessions and
# what is said of the server and of providers anyway.
sub is_quiet
{
	my ($offset, $most, $name) = @_;
	my @lines = grep { /(LOG|WARNING|ERROR|FATAL|PANIC):  / &&
		  !/144_places|checkpoint|SIGHUP|parameter "|automatic |breaker of/ }
	  split /\n/, slurp_file($node->logfile, $offset);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(scalar @lines, '<=', $most, "$name: the log is not flooded")
	  or diag(join "\n", @lines);
	return;
}

# Has all processes read their settings. A session that starts after the server
# has read them starts after it has told the others.
sub reload
{
	my $loaded = 'extract(epoch FROM pg_conf_load_time())';
	my $before = sql('postgres', "SELECT $loaded");

	sql('postgres', 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', "SELECT $loaded > $before")
	  or die 'the server does not read its settings';
	return;
}

# --- places

sub two_databases
{
	my $slow = $sim->behave({ delay => 0.3 });

	database($_) foreach 'one', 'two';
	sql('one', tasks(1, 60, 'one'));
	sql('two', tasks(1, 60, 'two'));
	ok($sim->wait_for(in_progress => 16, listener => 'a'),
		'two databases: both are worked on at a time');
	is_done($_, 60, "two databases: $_") foreach 'one', 'two';
	is($sim->count('a'), 120, 'two databases: each task was called once');
	$sim->reset;
	return;
}

# A prompt with characters that the database has, and an answer with such that
# it has not.
sub encodings
{
	my %want = (LATIN1 => 'é ?? ? end', SQL_ASCII => 'é 東京 😀 end');

	foreach my $encoding (sort keys %want)
	{
		my $db = lc $encoding;
		my $client = $encoding eq 'SQL_ASCII' ? '' : q{SET client_encoding = 'UTF8';};

		$sim->reset;
		$sim->behave({ text => decode('UTF-8', 'é 東京 😀 end') }, prompt => '^other');
		database($db, "ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
		sql($db, $client . tasks(1, 20, 'Größe ä'));
		is_done($db, 20, $encoding);
		is($sim->last_request('a')->{prompt} =~ s/\d+$//r, decode('UTF-8', 'Größe ä '),
			"$encoding: the provider was asked in UTF-8");
		sql($db, q{INSERT INTO llm_task(prompt, metadata, on_finish)
			VALUES ('other', '21', 'public.note_effect')});
		poll($db, ALL_DONE, "$encoding: the other one is done");
		is(sql($db, $client . q{SELECT t.answer, response ->> 'answer', e.answer
				FROM llm_task t, effect e WHERE prompt = 'other' AND n = 21}),
			join('|', ($want{$encoding}) x 3),
			"$encoding: what the encoding lacks is replaced");
		poll($db, 'SELECT sum(calls) = 21 FROM llm_usage',
			"$encoding: usage is stored");
	}
	sql('sql_ascii', q{INSERT INTO llm_task(prompt) VALUES (E'no \xff UTF-8')});
	poll('sql_ascii', q{SELECT state = 'failed' AND error_code = '22021' AND tries = 1
		FROM llm_task ORDER BY id DESC LIMIT 1},
		'SQL_ASCII: what is no UTF-8 fails at once');
	sql('postgres', "DROP DATABASE $_") foreach map { lc } keys %want;
	return;
}

# The simulator says what it was asked.
sub large
{
	begin_anew('one');
	sql('one', q{
		INSERT INTO llm_task(prompt, metadata, on_finish)
		SELECT string_agg(md5(n::text), '' ORDER BY n) || chr(228), '1', 'public.note_effect'
		FROM generate_series(1, 10 * 1024 * 1024 / 32) n});
	is_done('one', 1, '10 MB');
	is(sql('one', 'SELECT length(answer) > 10 * 1024 * 1024 FROM llm_task'),
		't', '10 MB: there and back');
	is($sim->count('a'), 1, '10 MB: in one call');

	sql('one', q{ALTER SYSTEM SET llm_failover.max_response_size = '9MB'});
	reload();
	sql('one', 'INSERT INTO llm_task(prompt, max_tries) SELECT prompt, 1 FROM llm_task');
	poll('one', ALL_DONE, 'beyond max_response_size: it comes to an end');
	is(sql('one', q{SELECT state, answer, response -> 'trace' -> 0 ->> 'outcome' FROM llm_task
		ORDER BY id DESC LIMIT 1}),
		'failed||invalid_output', 'beyond max_response_size: it fails, and says why');
	sql('one', 'ALTER SYSTEM RESET llm_failover.max_response_size');
	reload();
	return;
}

# A schema of its own that no search_path names, renamed while tasks run.
sub renamed
{
	my $slow = $sim->behave({ delay => 0.2 }, prompt => '^moved');
	my $requests = $sim->count('a');
	my $offset = -s $node->logfile;

	sql('postgres', 'CREATE DATABASE moved');
	sql('moved', 'CREATE SCHEMA llm; CREATE EXTENSION llm_failover SCHEMA llm;'
		  . 'SET search_path = llm;' . configuration());
	sql('moved', tasks(1, 100, 'moved', 'llm.llm_task'));
	poll('moved', q{SELECT count(*) >= 10 FROM llm.llm_task WHERE state = 'done'},
		'renamed: the queue works in a schema of its own');
	sql('moved', 'ALTER SCHEMA llm RENAME TO "other Schema"');
	poll('moved', q{SELECT count(*) >= 40 FROM "other Schema".llm_task WHERE state = 'done'},
		'renamed: and goes on in another one');
	sql('moved', 'ALTER SCHEMA "other Schema" RENAME TO third');
	sql('moved', tasks(101, 120, 'moved', 'third.llm_task'));
	$sim->unbehave($slow);
	sql('postgres', 'ALTER DATABASE moved SET search_path = third, public');
	is_done('moved', 120, 'renamed');
	is($sim->count('a') - $requests, 120, 'renamed: each task was called once');
	is_quiet($offset, 2, 'renamed');
	return;
}

# The extension is dropped in the middle, and created again: the new queue knows
# nothing of the old one's calls, whose tasks had the same numbers.
sub dropped
{
	my $drop = 'DROP EXTENSION llm_failover CASCADE;';
	my $create = 'CREATE EXTENSION llm_failover;' . configuration();
	my $tasks = tasks(1, 20, 'new');
	my %steps = (
		'dropped' => [ $drop, $create, $tasks ],
		'dropped in a transaction' => [ "BEGIN; $drop $create COMMIT", $tasks ],
		'dropped in a transaction with tasks' =>
		  ["BEGIN; $drop $create $tasks COMMIT"]);

	foreach my $name (sort keys %steps)
	{
		my $offset = -s $node->logfile;
		my $session = llm_session($node, dbname => 'two');

		begin_anew('two');
		$sim->behave({ delay => 0.3 }, prompt => '^old');
		sql('two', tasks(1, 100, 'old'));
		poll('two', q{SELECT count(*) >= 10 FROM llm_task WHERE state = 'done'},
			"$name: the queue works");
		is($session->run($_)->{sqlstate}, undef, "$name: a step")
		  foreach 'SET client_min_messages = error', @{ $steps{$name} },
		  q{DELETE FROM effect WHERE answer ~ 'old'}, tasks(21, 50, 'new');
		is_done('two', 50, $name);
		is_quiet($offset, 0, $name);
		$session->quit;
	}
	return;
}

# --- settings

sub odd_settings
{
	my $offset = -s $node->logfile;

	# for us they are as usual
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_" }
	  qw(default_transaction_read_only=off statement_timeout=0 lock_timeout=0
	  row_security=on session_replication_role=origin search_path=public
	  idle_in_transaction_session_timeout=0 standard_conforming_strings=on);

	sql('postgres', 'CREATE DATABASE odd');
	sql('postgres', "ALTER DATABASE odd SET $_ = '$setting{$_}'")
	  foreach sort keys %setting;
	sql('odd', 'CREATE EXTENSION llm_failover;' . configuration());
	sql('odd', tasks(1, 20, 'odd'));
	sql('odd', 'SET session_replication_role = replica;' . tasks(21, 40, 'odd'));
	is_done('odd', 40, 'settings of the database');

	# and now while they are running
	sql('postgres', "ALTER SYSTEM SET $_ = '$setting{$_}'")
	  foreach sort keys %setting;
	reload();
	begin_anew('one');
	sql('one', tasks(1, 40, 'odd'));
	is_done('one', 40, 'settings of the server');
	sql('postgres', "ALTER SYSTEM RESET $_") foreach sort keys %setting;
	reload();
	is_quiet($offset, 0, 'settings');
	return;
}

# --- changes while it works

sub set_concurrency
{
	sql('postgres', "ALTER SYSTEM SET llm_failover.worker_concurrency = $_[0]");
	reload();
	return;
}

sub concurrency
{
	my $slow;

	begin_anew('one');
	$slow = $sim->behave({ delay => 0.2 });
	sql('one', tasks(1, 400, 'many'));
	ok($sim->wait_for(in_progress => 8, listener => 'a'), '8 at once');
	set_concurrency(64);
	ok($sim->wait_for(in_progress => 64, listener => 'a'), '64 at once');
	set_concurrency(1);
	ok($sim->wait_for(max_in_progress => 1, listener => 'a'), '1 at once');
	$sim->unbehave($slow);
	set_concurrency(8);
	is_done('one', 400, 'concurrency');
	is($sim->count('a'), 400, 'concurrency: each task was called once');
	return;
}

# Somebody wants the whole table for himself for a while.
sub locked
{
	my %meanwhile = (
		'LOCK TABLE' => 'BEGIN; LOCK TABLE llm_task IN ACCESS EXCLUSIVE MODE;'
		  . 'SELECT pg_sleep(2); COMMIT',
		'LOCK TABLE of the state' =>
		  'BEGIN; LOCK TABLE llm_queue_state IN ACCESS EXCLUSIVE MODE;'
		  . 'SELECT pg_sleep(2); COMMIT',
		'VACUUM FULL' => 'VACUUM FULL llm_task; VACUUM FULL llm_task',
		'CLUSTER' => 'CLUSTER llm_task USING llm_task_pkey',
		'REINDEX' => 'REINDEX TABLE llm_task; REINDEX TABLE CONCURRENTLY llm_task',
		'ALTER TABLE' => 'ALTER TABLE llm_task SET (fillfactor = 51)',
		'ANALYZE' => 'ANALYZE llm_task; VACUUM (FREEZE) llm_task');

	foreach my $name (sort keys %meanwhile)
	{
		my $offset = -s $node->logfile;
		my $session = llm_session($node, dbname => 'one');

		begin_anew('one');
		$sim->behave({ delay => 0.1 });
		sql('one', tasks(1, 120, 'locked'));
		poll('one', q{SELECT count(*) >= 20 FROM llm_task WHERE state = 'done'},
			"$name: the queue works");
		is($session->run($meanwhile{$name})->{sqlstate}, undef,
			"$name: is not in the way");
		is_done('one', 120, $name);
		is($sim->count('a'), 120, "$name: each task was called once");
		is_quiet($offset, 2, $name);
		$session->quit;
	}
	return;
}
