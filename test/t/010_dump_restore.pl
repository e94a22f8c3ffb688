# 010_dump_restore.pl: a dump carries the whole configuration, changed seeds
# included, and no key; a restore gives no error and no warning, whatever the
# order of the rows, and may be dumped again.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'sk-this-must-not-be-dumped';
my $tmp = PostgreSQL::Test::Utils::tempdir;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'llm_failover'
});
$node->start;

# Everything that a user has configured, in an order of its own.
my @tables = qw(llm_provider llm_region llm_model llm_tier llm_route llm_rule llm_probe);
my $whole = join(' UNION ALL ',
	map { "SELECT '$_', to_jsonb(t)::text FROM llm.$_ t" } @tables)
  . ' ORDER BY 1, 2';
my $routing = q{SELECT tier, provider, region, model, dialect, base_url, credential, residency,
	route_position, region_position, share FROM llm.llm_routing};

$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', qq{
SET client_min_messages = warning;
CREATE SCHEMA llm;
CREATE EXTENSION llm_failover SCHEMA llm;
SET search_path = llm;
INSERT INTO llm_secret VALUES ('openai', '$key');
-- names that sort against the order in which rows depend on each other
INSERT INTO llm_provider(name, dialect, base_url, secret, headers) VALUES
	('openai', 'openai', NULL, 'openai', '{"x-team": "secret:openai", "x-note": "it''s a \\\\ \\"note\\""}'),
	('zeta', 'anthropic', 'https://{region}.example.com', 'env:ZETA_KEY', NULL),
	('alpha', 'gemini', NULL, 'file:/etc/pgllm/alpha', NULL);
UPDATE llm_provider SET breaker_window = '1 min', breaker_min_calls = 9, breaker_failure_rate = 0.7, breaker_consecutive = 4,
	breaker_slow_call = '12.5 s', breaker_slow_rate = 0.3, breaker_open_time = '10 min', breaker_open_time_max = '1 day',
	breaker_half_open_calls = 1, breaker_ramp = '0' WHERE name = 'zeta';
INSERT INTO llm_region(provider, name, params, residency, position, weight, max_inflight) VALUES
	('zeta', 'eu', '{"a": [1, {"b": null}]}', '{eu,de}', 1, 0.1, 8),
	('zeta', 'us', NULL, '{us}', 2, 3, NULL);
INSERT INTO llm_model VALUES
	('openai', 'gpt-5', 400000, 128000, 1.25, 10, 0.125, '{tools,images}', 5000, 2000000, true),
	('zeta', 'm', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false);
INSERT INTO llm_tier(name, fallback, timeout, max_attempts, strategy, hedge_after, warm_share, queue_timeout) VALUES
	('a', 'z', '90 s', 3, 'latency', '2 s', 0.02, '7 days'), ('z', 'offline', '1 min', 2, 'cost', NULL, 0, NULL),
	('m', 'a', '1 hour', 1, 'least_busy', NULL, 0.5, '00:00:00.5');
INSERT INTO llm_route(tier, provider, model, region, position, weight, params) VALUES
	('a', 'zeta', 'm', 'eu', 1, 0.3, '{"top_p": 0.5}'), ('a', 'zeta', 'm', NULL, 2, 1, NULL),
	('z', 'openai', 'gpt-5', NULL, 1, 1, NULL), ('default', 'alpha', 'flash', NULL, 1, 0, NULL),
	('default', 'builtin', 'echo', NULL, 9, 1, NULL);
INSERT INTO llm_rule(name, feature, pattern, answer, position, enabled) VALUES
	('hello', NULL, '(?i)^hello', 'Hi \\&', 1, true), ('off', 'f', 'x', E'two\\nlines\\t', 2, false);
INSERT INTO llm_probe(provider, region, model, every, prompt, expect, enabled) VALUES
	('zeta', 'eu', 'm', '90 s', E'two\\nlines', '(?i)^\\s*ok', false), ('zeta', NULL, 'm', '1 day', 'Say OK.', NULL, false),
	('alpha', 'default', 'unrouted', '1 s', 'x', NULL, false);
-- seeds are rows that may be changed
UPDATE llm_tier SET fallback = 'z', timeout = '7 s' WHERE name = 'default';
UPDATE llm_tier SET enabled = false WHERE name = 'offline';
UPDATE llm_route SET enabled = false WHERE provider = 'builtin' AND model = 'extract';
UPDATE llm_route SET position = 5, params = '{}' WHERE provider = 'builtin' AND model = 'rule';
});

my $expected = $node->safe_psql('shop', $whole);
my $expected_routing = $node->safe_psql('shop', $routing);
isnt($expected, '', 'there is a configuration');

# Compares a restored database with the first one.
sub check_copy
{
	my ($db, $how) = @_;

	is($node->safe_psql($db, $whole), $expected, "$how: same rows");
	is($node->safe_psql($db, $routing), $expected_routing,
		"$how: same routing");
	is($node->safe_psql($db, 'SELECT count(*) FROM llm.llm_secret'),
		'0', "$how: no secret");
	return;
}

# Runs a client program; no complaint, on either output, is acceptable.
sub runs_silently
{
	my ($how, @command) = @_;
	my ($stdout, $stderr);

	my $ok = IPC::Run::run([ @command, '-h', $node->host, '-p', $node->port ],
		'<', \undef, '>', \$stdout, '2>', \$stderr);
	ok($ok, "$how: exit status");
	is($stderr, '', "$how: nothing on stderr");
	return;
}

# Dumps to plain SQL and restores it with psql, stopping at the first error.
sub dump_and_psql
{
	my ($from, $to, $how, @options) = @_;
	my $file = "$tmp/$to.sql";

	runs_silently("$how, pg_dump", 'pg_dump', @options, '-f', $file, '-d', $from);
	unlike(slurp_file($file), qr/\Q$key\E/, "$how: no key in the dump");
	$node->safe_psql('postgres', "CREATE DATABASE $to");
	runs_silently("$how, psql", 'psql', '-X', '-q', '-o', "$tmp/$to.out",
		'-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $to);
	check_copy($to, $how);
	return;
}

dump_and_psql('shop', 'plain', 'plain');
dump_and_psql('shop', 'inserts', '--inserts', '--inserts');
dump_and_psql('shop', 'columns', '--column-inserts', '--column-inserts');
dump_and_psql('plain', 'second', 'second generation');

# A custom dump, restored by one job and by four
runs_silently('custom, pg_dump', 'pg_dump', '-Fc', '-f', "$tmp/custom", '-d', 'shop');
foreach my $jobs (1, 4)
{
	my $db = "custom$jobs";

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	runs_silently("custom, $jobs jobs", 'pg_restore', '-j', $jobs,
		'--exit-on-error', '-d', $db, "$tmp/custom");
	check_copy($db, "custom, $jobs jobs");
}

# Parallel jobs copy the tables in whatever order: also the worst one
my ($list) = run_command([ 'pg_restore', '-l', "$tmp/custom" ]);
my @entries = grep { !/^;/ } split(/\n/, $list);
my @data = grep { /TABLE DATA/ } @entries;
my @others = grep { !/TABLE DATA/ } @entries;
is(scalar @data, $node->safe_psql('shop', q{
	SELECT count(*) FROM pg_extension, unnest(extconfig) t JOIN pg_class c ON c.oid = t
	 WHERE extname = 'llm_failover' AND c.relkind = 'r'}), 'an entry a table');
foreach my $order ([ 'forward', @data ], [ 'backward', reverse @data ])
{
	my ($db, @ordered) = @$order;

	unlink "$tmp/list";
	append_to_file("$tmp/list", join("\n", @others, @ordered, ''));
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	runs_silently("$db order", 'pg_restore', '--exit-on-error', '-L',
		"$tmp/list", '-d', $db, "$tmp/custom");
	check_copy($db, "$db order");
}

# In one transaction
$node->safe_psql('postgres', 'CREATE DATABASE single');
runs_silently('single transaction', 'pg_restore', '--single-transaction', '-d',
	'single', "$tmp/custom");
check_copy('single', 'single transaction');

# Routes before the providers that they name, in separate statements
$node->safe_psql('postgres', 'CREATE DATABASE disorder');
my (undef, undef, $stderr) = $node->psql('disorder', q{
CREATE SCHEMA llm;
CREATE EXTENSION llm_failover SCHEMA llm;
SET check_function_bodies = off;
INSERT INTO llm.llm_tier(name, fallback) VALUES ('a', 'b');
INSERT INTO llm.llm_route(tier, provider, model, region) VALUES ('a', 'late', 'm', 'eu');
});
is($stderr, '', 'disorder: routes before providers, a fallback before its tier');
is($node->safe_psql('disorder', q{SELECT enabled, problem FROM llm.llm_routing WHERE tier = 'a'}),
	'f|provider "late" does not exist', 'disorder: says what is missing');
$node->safe_psql('disorder', q{
INSERT INTO llm.llm_tier(name) VALUES ('b');
INSERT INTO llm.llm_provider(name, dialect) VALUES ('late', 'openai');
INSERT INTO llm.llm_region(provider, name) VALUES ('late', 'eu');
});
is($node->safe_psql('disorder', q{SELECT enabled, problem FROM llm.llm_routing WHERE tier = 'a'}),
	't|', 'disorder: whole in the end');

# The data alone, into a database that has the extension and its seeds
$node->safe_psql('postgres', 'CREATE DATABASE data');
$node->safe_psql('data', 'CREATE SCHEMA llm; CREATE EXTENSION llm_failover SCHEMA llm');
runs_silently('data only', 'pg_restore', '--data-only', '--exit-on-error',
	'-d', 'data', "$tmp/custom");
check_copy('data', 'data only');

# A copy of the files is a copy of the keys, as it has to be
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE shop');
is($node->safe_psql('clone', $whole), $expected, 'template: same rows');

$node->stop;
unlike(slurp_file($node->logfile), qr/WARNING|FATAL|PANIC/,
	'the server had nothing to complain about');

done_testing();
