# 051_cells.pl: the table of cells. Databases have their own; a full table costs
# the sharing and nothing else; what nobody wants any more is given to others.
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

# llm_node's log_min_messages leaves warnings out.
my $log = "log_min_messages = warning\n";

# A database's only provider and its model; routes that others had are gone.
sub only_provider
{
	my ($node, $name, $listener, $dbname) = @_;
	my $url = $sim->url($listener // $name, '/v1');

	$node->safe_psql(
		$dbname // 'postgres', qq{
		SET client_min_messages = error;
		DELETE FROM llm_provider;
		DELETE FROM llm_route WHERE tier = 'default';
		INSERT INTO llm_provider(name, dialect, base_url, breaker_open_time, breaker_open_time_max)
		  VALUES ('$name', 'openai', '$url', '1 h', '1 h');
		INSERT INTO llm_route(provider, model) VALUES ('$name', 'm');});
	$sim->set($listener // $name, keys => 'optional');
	return;
}

# Who answers; in a session of its own, which reads the configuration anew.
sub call
{
	my ($node, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres',
		q{SET client_min_messages = error; SELECT provider FROM llm_respond('One. Two is it. Three')});
}

sub status
{
	my ($node, $column, $provider, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres',
		"SELECT $column FROM llm_status WHERE provider = '$provider'");
}

sub unshared
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT cells_unshared FROM llm_health');
}

sub warnings_in_log
{
	my ($node, $pattern) = @_;
	return scalar grep { /WARNING:  $pattern/ } split /\n/,
	  slurp_file($node->logfile);
}

# --- two databases

my $node = llm_node('main', conf => $log);
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION llm_failover');
only_provider($node, 'a', 'a', $_) for 'postgres', 'other';
is(call($node, $_), 'a', "$_: the provider answers") for 'postgres', 'other';
$sim->down('a');
call($node, 'other') for 1 .. 4;
is(status($node, 'state', 'a', 'other'), 'open', 'one has had failures');
is(status($node, 'state', 'a'), 'closed', 'the other one has not');
is(status($node, 'calls, failures', 'a'), '1|0', 'nor are they counted there');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM llm_breaker'),
	0, 'nor stored there');
$sim->up('a');
my $session = llm_session($node);
$sim->behave({ hang => \1 });
$session->start(q{SELECT llm_complete('Hello')});
$sim->wait_for(requests => 2, listener => 'a');
is(status($node, 'in_flight', 'a'), 1, 'a call is under way in one');
is(status($node, 'in_flight', 'a', 'other'), 0, 'not in the other');
$session->cancel;
is(status($node, 'in_flight', 'a'), 0, 'and it was');
$sim->clear;
$node->safe_psql('postgres', q{SELECT llm_breaker_reset()});
is(status($node, 'state', 'a', 'other'), 'open',
	'what is done by hand is done to one');
is(warnings_in_log($node, 'llm_failover'), 0, 'there was room for all');
is(unshared($node), 0, 'and that is seen');
$session->quit;
$node->stop;

# --- a table that is too small

# Two tiers and a provider, a region and a target are five cells; two more
# providers of one region each are eleven.
my $small = llm_node('small', conf => $log . "llm_failover.max_cells = 6\n");
only_provider($small, 'a');
is(call($small), 'a', 'small: one provider has room');
is(unshared($small), 0, 'small: for all of its cells');
$small->safe_psql(
	'postgres', sprintf q{
	SET client_min_messages = error;
	INSERT INTO llm_provider(name, dialect, base_url) SELECT n, 'openai', '%s' FROM unnest('{b,c}'::text[]) n;
	INSERT INTO llm_route(provider, model, position) VALUES ('b', 'm', 2), ('c', 'm', 3)},
	$sim->url('b', '/v1'));
$sim->set('b', keys => 'optional');
is(call($small), 'a', 'small: calls go on');
ok(unshared($small) > 0, 'small: it is told that some cells are not shared');
$sim->down('a');
is(call($small), 'b', 'small: to those without a place, too') for 1 .. 4;
is( warnings_in_log($small,
		'llm_failover has no shared memory left for the health of some targets'
	),
	1,
	'small: one warning');
like(
	slurp_file($small->logfile),
	qr/HINT:  Increase llm_failover\.max_cells and restart\./,
	'small: with a hint');

# One cell is of a, one is whoever came first, and one breaker is a session's.
my $alone = llm_session($small);
$alone->run('SET client_min_messages = error');
$sim->down('b');
$alone->run(q{SELECT llm_complete('One. Two is it. Three')}) for 1 .. 4;
my $before = $sim->count(undef, 'requests');
$sim->up('b');
is( $alone->run(q{SELECT source FROM llm_respond('One. Two is it. Three')})
	  ->{out},
	'extract',
	'small: a breaker that is not shared opens for its session');
is(call($small), 'b', 'small: and for no other');
$alone->quit;
$sim->up('a');
$small->stop;

# --- what nobody wants is given to others

my $exact = llm_node('exact', conf => $log . "llm_failover.max_cells = 5\n");
only_provider($exact, 'a');
my $old = llm_session($exact);
is($old->run(q{SELECT provider FROM llm_respond('Hello')})->{out},
	'a', 'exact: the table is full to the last cell');
only_provider($exact, 'b');
is(call($exact), 'b', 'exact: another provider takes the place of one');
is(unshared($exact), 0, 'exact: as the removed one is not wanted');
is(status($exact, 'calls, failures, state', 'b'),
	'1|0|closed', 'exact: it begins with nothing');
is($old->run(q{SELECT provider FROM llm_respond('Hello')})->{out},
	'b', 'exact: a session that knew the old one goes on');
is(status($exact, 'calls', 'b'), 2, 'exact: and counts in the new one');

# Not while an attempt is under way ...
$old->run('SET statement_timeout = 0');
my $busy = $sim->behave({ hang => \1 }, listener => 'b');
$old->start(q{SELECT llm_complete('Hello')});
$sim->wait_for(requests => 3, listener => 'b');
only_provider($exact, 'a');
is(call($exact), 'a', 'exact: calls go to the next provider');
ok(unshared($exact) > 0, 'exact: a cell in use is not taken away');
$old->cancel;
$sim->unbehave($busy);
my $seen = unshared($exact);
$exact->safe_psql('postgres', q{UPDATE llm_tier SET enabled = enabled});
is(call($exact), 'a', 'exact: it ends');
is(status($exact, 'in_flight', 'a'), 0, 'exact: and leaves nothing behind');
is(unshared($exact), $seen, 'exact: then it is');

# ... nor while its breaker is open, which somebody may want to know later.
$exact->safe_psql('postgres', q{SELECT llm_breaker_open('a')});
only_provider($exact, 'b');
call($exact);
only_provider($exact, 'a');
is(status($exact, 'state', 'a'), 'open',
	'exact: an open breaker waits for its owner');
$exact->safe_psql('postgres', q{SELECT llm_breaker_reset()});
$old->quit;
$exact->stop;

# --- databases come and go

my $many = llm_node('many',
	conf => $log
	  . "llm_failover.max_cells = 10\nllm_failover.max_databases = 2\n");
only_provider($many, 'a');
foreach my $round (1 .. 3)
{
	my $dbname = "db$round";

	$many->safe_psql('postgres', "CREATE DATABASE $dbname");
	$many->safe_psql($dbname, 'CREATE EXTENSION llm_failover');
	only_provider($many, 'a', 'a', $dbname);
	is(call($many, $dbname), 'a', "many: database $round works");
	$many->safe_psql($dbname, q{SELECT llm_breaker_open('a', 'default')});
	ok( $many->poll_query_until($dbname,
			q{SELECT count(*) = 1 FROM llm_breaker}),
		'many: and has a slot');
	$many->safe_psql('postgres', "DROP DATABASE $dbname");
}
is(unshared($many), 0, 'many: those that are gone make room');
is(warnings_in_log($many, 'llm_failover'), 0, 'many: without a warning');

# One too many, while the others are still there.
foreach my $dbname ('here', 'there')
{
	$many->safe_psql('postgres', "CREATE DATABASE $dbname");
	$many->safe_psql($dbname, 'CREATE EXTENSION llm_failover');
	is(call($many, $dbname), 'builtin', "many: database $dbname answers");
}
is( warnings_in_log($many,
		'llm_failover has no shared memory left for another database'),
	1,
	'many: no slot is left');
like(
	slurp_file($many->logfile),
	qr/HINT:  Increase llm_failover\.max_databases and restart\./,
	'many: with a hint');
$many->stop;

# --- neither a server without postmaster nor one without the library minds

my $single = llm_node('single');
only_provider($single, 'a');
$single->stop;
my $out = '';
run_log(
	[
		'postgres', '--single', '-D', $single->data_dir, 'postgres'
	],
	'<',
	\"SELECT provider FROM llm_respond('Hello')\nSELECT llm_breaker_open('a')\nSELECT state FROM llm_status\n",
	'>',
	\$out);
like($out, qr/provider = "a"/, 'single: a call');
like($out, qr/state = "open"/, 'single: a breaker');
$single->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$single->start;
psql_error($single, 'SELECT * FROM llm_status', '55000',
	qr/must be loaded via shared_preload_libraries/,
	'not preloaded: it is said');
psql_error($single, q{SELECT llm_complete('Hello')},
	'55000', qr/must be loaded via shared_preload_libraries/);
psql_ok($single, q{UPDATE llm_provider SET enabled = enabled},
	'not preloaded: configuration can be changed');
$single->stop;

done_testing();
