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

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main', extension => 0, conf => <<'END');
max_worker_processes = 32
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

# What it takes to call a provider; SET ROLE and the like may come before.
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
		CREATE TABLE IF NOT EXISTS effect(n int, answer text);
		CREATE FUNCTION note_effect(t llm_task) RETURNS void LANGUAGE sql AS
			'INSERT INTO effect VALUES (t.metadata::int, t.answer)';};
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
	my ($first, $last, $kind) = @_;

	return qq{
		INSERT INTO llm_task(prompt, metadata, on_finish)
		SELECT '$kind ' || n, to_jsonb(n), CASE n % 2 WHEN 1 THEN 'public.note_effect' END
		FROM generate_series($first, $last) n;};
}

my $ALL_DONE = q{SELECT count(*) = 0 FROM llm_task WHERE finished_at IS NULL};

# All tasks were called once, have the answers to their prompts, and their
# effects.
sub is_done
{
	my ($dbname, $n, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll($dbname, $ALL_DONE, "$name: no task is left");
	is(sql($dbname, q{SELECT count(*) FILTER (WHERE state = 'done' AND tries = 0
			AND answer = 'a/m: ' || prompt AND response ->> 'answer' = answer),
			count(*) FROM llm_task}),
		"$n|$n", "$name: each has its answer")
	  or diag(sql($dbname, q{SELECT id, prompt, state, tries, answer, error FROM llm_task
			WHERE state <> 'done' OR answer <> 'a/m: ' || prompt LIMIT 5}));
	is(sql($dbname, q{SELECT string_agg(n || ' ' || answer, ',' ORDER BY n) IS NOT DISTINCT FROM
			(SELECT string_agg(metadata || ' ' || answer, ',' ORDER BY metadata::int)
			FROM llm_task WHERE on_finish IS NOT NULL) FROM effect}),
		't', "$name: each on_finish has had its effect, once");
	return;
}

# Lines that our processes have written to the log since an offset.
sub log_lines
{
	my ($offset) = @_;
	my @lines = grep { /\[llm_failover|llm_failover:|ERROR:|FATAL:/ }
	  split /\n/, slurp_file($node->logfile, $offset);

	return @lines;
}

sub is_quiet
{
	my ($offset, $most, $name) = @_;
	my @lines = log_lines($offset);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(scalar @lines, '<=', $most, "$name: the log is not flooded")
	  or diag(join "\n", @lines);
	return;
}

# Has all processes read their settings. A session that starts after the server
# has read them starts after it has told the others.
sub reload
{
	my $before = sql('postgres', 'SELECT pg_conf_load_time()');

	sql('postgres', 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', "SELECT pg_conf_load_time() > '$before'")
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
# it has not. What is stored of the usage is the same everywhere.
sub encodings
{
	my $answer = decode('UTF-8', 'é 東京 😀 end');
	my %want = (LATIN1 => 'é ?? ? end', SQL_ASCII => 'é 東京 😀 end');
	my $own = $sim->behave({ text => $answer }, prompt => '^other');

	foreach my $encoding (sort keys %want)
	{
		my $db = lc $encoding;
		my $in_utf8 = $encoding eq 'SQL_ASCII' ? '' : q{SET client_encoding = 'UTF8';};

		database($db, "ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
		sql($db, $in_utf8 . tasks(1, 20, 'Größe ä'));
		is_done($db, 20, $encoding);
		is(decode('UTF-8', $sim->last_request('a')->{prompt}) =~ /^./ ? 1 : 0, 1,
			"$encoding: the provider was asked");
		sql($db, q{INSERT INTO llm_task(prompt, metadata, on_finish)
			VALUES ('other', '21', 'public.note_effect')});
		poll($db, $ALL_DONE, "$encoding: the other one is done");
		is(sql($db, $in_utf8 . q{SELECT t.answer, response ->> 'answer', e.answer
				FROM llm_task t, effect e WHERE prompt = 'other' AND n = 21}),
			join('|', ($want{$encoding}) x 3),
			"$encoding: what the encoding lacks is replaced");
		is(sql($db, q{SELECT llm_flush(); SELECT sum(calls) FROM llm_usage}) =~ /(\d+)$/ && $1,
			21, "$encoding: usage is stored");
	}
	is(sql('sql_ascii', q{SELECT count(*) FROM llm_task WHERE convert_to(prompt, 'SQL_ASCII') = '\xff'}),
		0, 'nothing else is there');
	sql('sql_ascii', q{INSERT INTO llm_task(prompt) VALUES (E'no \xff UTF-8')});
	poll('sql_ascii', q{SELECT state = 'failed' AND error_code = '22021' AND tries = 1
		FROM llm_task WHERE id = (SELECT max(id) FROM llm_task)},
		'SQL_ASCII: what is no UTF-8 fails at once');
	$sim->unbehave($own);
	sql('postgres', "DROP DATABASE $_") foreach map { lc } keys %want;
	return;
}

# The simulator says what it was asked.
sub large
{
	sql('one', q{TRUNCATE llm_task; TRUNCATE effect;
		INSERT INTO llm_task(prompt, metadata, on_finish)
		SELECT string_agg(md5(n::text), '' ORDER BY n) || chr(228), '1', 'public.note_effect'
		FROM generate_series(1, 10 * 1024 * 1024 / 32) n});
	is_done('one', 1, '10 MB');
	is(sql('one', 'SELECT length(answer) > 10 * 1024 * 1024 FROM llm_task'),
		't', '10 MB: there and back');
	sql('one', q{SET client_min_messages = error; ALTER SYSTEM SET llm_failover.max_response_size = '9MB'});
	reload();
	sql('one', q{UPDATE llm_tier SET timeout = '10 s' WHERE name = 'default';
		INSERT INTO llm_task(prompt, max_tries) SELECT prompt, 1 FROM llm_task});
	poll('one', $ALL_DONE, 'too large: it comes to an end');
	is(sql('one', 'SELECT state, answer FROM llm_task ORDER BY id DESC LIMIT 1'),
		'failed|', 'too large: it fails');
	sql('one', 'ALTER SYSTEM RESET llm_failover.max_response_size');
	reload();
	return;
}

# A schema of its own that no search_path names, renamed while tasks run.
sub renamed
{
	my $slow;
	my $requests;

	sql('postgres', 'CREATE DATABASE moved');
	sql('moved', 'CREATE SCHEMA llm; CREATE EXTENSION llm_failover SCHEMA llm;'
		  . 'SET search_path = llm, public; SET check_function_bodies = off;'
		  . configuration() =~ s/(TABLE IF NOT EXISTS|FUNCTION|INTO) (effect|note_effect)/$1 public.$2/gr);
	$requests = $sim->count('a');
	$slow = $sim->behave({ delay => 0.2 });
	sql('moved', tasks(1, 100, 'moved') =~ s/llm_task/llm.llm_task/r);
	poll('moved', q{SELECT count(*) >= 10 FROM llm.llm_task WHERE state = 'done'},
		'renamed: the queue works');
	sql('moved', 'ALTER SCHEMA llm RENAME TO "other Schema"');
	poll('moved', q{SELECT count(*) >= 40 FROM "other Schema".llm_task WHERE state = 'done'},
		'renamed: and goes on');
	sql('moved', 'ALTER SCHEMA "other Schema" RENAME TO third');
	sql('moved', tasks(101, 120, 'moved') =~ s/llm_task/third.llm_task/r);
	$sim->unbehave($slow);
	sql('postgres', 'ALTER DATABASE moved SET search_path = third, public');
	is_done('moved', 120, 'renamed');
	is($sim->count('a') - $requests, 120, 'renamed: each task was called once');
	return;
}

# Dropped in the middle: in one transaction, in two, and by itself.
sub dropped
{
	my $offset = -s $node->logfile;
	my $create = 'CREATE EXTENSION llm_failover;' . configuration();
	my %drop = (
		'dropped' => [ 'DROP EXTENSION llm_failover CASCADE;', $create ],
		'dropped in a transaction' =>
		  ['BEGIN; DROP EXTENSION llm_failover CASCADE;' . $create, 'COMMIT']);

	foreach my $name (sort keys %drop)
	{
		my $slow = $sim->behave({ delay => 0.3 }, prompt => '^old');
		my $session = llm_session($node, dbname => 'two');

		sql('two', 'TRUNCATE llm_task; TRUNCATE effect;' . tasks(1, 100, 'old'));
		poll('two', q{SELECT count(*) >= 10 FROM llm_task WHERE state = 'done'},
			"$name: the queue works");
		foreach my $step (@{ $drop{$name} })
		{
			is($session->run($step)->{sqlstate}, undef, "$name: a step");
		}
		$session->run('TRUNCATE effect;' . tasks(1, 50, 'new'));
		is_done('two', 50, $name);
		$session->quit;
		$sim->unbehave($slow);
	}
	is_quiet($offset, 20, 'dropped');
	return;
}

# --- settings

# What a database or the server may say, and a worker must not mind.
sub odd_settings
{
	my @settings = (
		[ 'default_transaction_read_only', 'on' ],
		[ 'default_transaction_isolation', 'serializable' ],
		[ 'default_transaction_deferrable', 'on' ],
		[ 'row_security', 'off' ],
		[ 'session_replication_role', 'replica' ],
		[ 'statement_timeout', '1ms' ],
		[ 'lock_timeout', '1ms' ],
		[ 'search_path', 'nowhere' ],
		[ 'standard_conforming_strings', 'off' ],
		[ 'backslash_quote', 'off' ],
		[ 'DateStyle', 'SQL, DMY' ],
		[ 'IntervalStyle', 'sql_standard' ],
		[ 'TimeZone', 'Asia/Kathmandu' ],
		[ 'bytea_output', 'escape' ],
		[ 'array_nulls', 'off' ],
		[ 'transform_null_equals', 'on' ],
		[ 'quote_all_identifiers', 'on' ],
		[ 'enable_indexscan', 'off' ],
		[ 'plan_cache_mode', 'force_custom_plan' ],
		[ 'idle_in_transaction_session_timeout', '1ms' ]);
	my $usual = q{SET default_transaction_read_only = off; SET statement_timeout = 0;
		SET lock_timeout = 0; SET row_security = on; SET search_path = public;
		SET session_replication_role = origin; SET standard_conforming_strings = on;
		SET idle_in_transaction_session_timeout = 0;};
	my $offset = -s $node->logfile;

	sql('postgres', 'CREATE DATABASE odd');
	sql('postgres', "ALTER DATABASE odd SET $_->[0] = $_->[1]") foreach @settings;
	sql('odd', $usual . 'CREATE EXTENSION llm_failover;' . configuration());
	sql('odd', $usual . tasks(1, 20, 'odd'));
	sql('odd', $usual . 'SET session_replication_role = replica;' . tasks(21, 40, 'odd'));
	sql('postgres', q{ALTER DATABASE odd RESET ALL});
	is_done('odd', 40, 'settings of the database');

	# while the worker and the settler run
	sql('postgres', join '', map { "ALTER SYSTEM SET $_->[0] = '$_->[1]';\n" }
		  grep { $_->[0] ne 'search_path' } @settings)
	  if 0;
	$node->append_conf('postgresql.conf',
		join '', map { "$_->[0] = '$_->[1]'\n" } @settings);
	$node->reload;
	poll_as($usual, 'odd', q{SELECT pg_conf_load_time() IS NOT NULL});
	is_quiet($offset, 0, 'settings');
	return;
}
