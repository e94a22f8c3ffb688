# 070_reserve.pl: tasks leave a share of each limit to the calls of sessions, and
# wait in the queue while nobody of their tier is admitted: llm_queue says why.
# Their trials find out when somebody is back.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use LlmSim;
use LlmTest;
use Test::More;

# For Perl and for PostgreSQL.
my $TIME = '(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d';

my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main');
my $url = $sim->url('a', '/v1');
$sim->set('a', keys => 'optional');
sql(qq{
	INSERT INTO llm_provider(name, dialect, base_url) VALUES ('a', 'openai', '$url');
	INSERT INTO llm_region(provider, name) VALUES ('a', 'main');
	INSERT INTO llm_tier(name) VALUES ('tasks'), ('callers');
	INSERT INTO llm_route(tier, provider, model) VALUES
	  ('tasks', 'a', 'm1'), ('callers', 'a', 'm1'), ('callers', 'a', 'm2');
	UPDATE llm_route SET enabled = false WHERE tier = 'callers' AND model = 'm1'});

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

sub add_tasks
{
	my ($n) = @_;
	sql("INSERT INTO llm_task(prompt, tier) SELECT 'task', 'tasks' FROM generate_series(1, $n)");
	return;
}

sub wait_until
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', "SELECT $condition"), $name)
	  or diag sql('SELECT * FROM llm_queue; SELECT * FROM llm_status');
	return;
}

sub tasks_done
{
	my ($n, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until("count(*) = $n FROM llm_task WHERE state = 'done'", $name);
	return;
}

# Why the tasks of a tier wait, as the view says it of its tasks.
sub blocked_by
{
	my ($tier) = @_;
	return sql(sprintf q{SELECT llm_queue_blocked_by(%s, system_identifier, database, '')
		FROM llm_queue_state}, quote_sql($tier // 'tasks'));
}

sub wait_until_blocked
{
	my ($pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until("blocked_by ~ '^no candidate admitted: $pattern\$' FROM llm_queue WHERE tier = 'tasks'", $name);
	return;
}

# The most requests that a listener had in progress at a time.
sub most_at_once
{
	my @changes = map { ([ $_->{received}, 1 ], [ $_->{ended}, -1 ]) } $sim->log(@_);
	my ($now, $most) = (0, 0);

	# of two at the same time an end comes first
	foreach my $change (sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] } @changes)
	{
		$now += $change->[1];
		$most = max($most, $now);
	}
	return $most;
}

# No tasks, no health, no limits.
sub begin_anew
{
	sql(q{DELETE FROM llm_task; SELECT llm_breaker_reset();
		UPDATE llm_region SET max_inflight = NULL; DELETE FROM llm_model;
		UPDATE llm_provider SET enabled = true});
	$sim->reset;
	$sim->set('a', keys => 'optional');
	return;
}

subtest 'requests at once' => sub {
	sql('UPDATE llm_region SET max_inflight = 5');
	$sim->behave({ delay => 1.5 }, prompt => '^task$');
	add_tasks(9);
	$sim->wait_for(listener => 'a', in_progress => 4);
	wait_until_blocked('a/main \(region is at max_inflight 5, less sync_reserve\)', 'the fifth task waits');
	is(sql(q{SELECT llm_complete('Hello', 'callers', timeout => '1 s')}), 'a/m2: Hello', 'a call does not');
	tasks_done(9, 'all are done');
	is(most_at_once('a', model => 'm1'), 4, 'four at a time');
	cmp_ok(most_at_once('a'), '<=', 5, 'and a call beside them');
	begin_anew();
};

subtest 'requests a minute' => sub {
	sql(q{INSERT INTO llm_model(provider, name, rpm) VALUES ('a', 'm1', 10);
		UPDATE llm_route SET enabled = model = 'm1' WHERE tier = 'callers'});
	add_tasks(9);
	tasks_done(8, 'eight tasks at once');
	wait_until_blocked("a/main/m1 \\(rpm 10, less sync_reserve, is reached until $TIME\\)", 'the ninth waits');
	is(sql(q{SELECT llm_complete('Hello', 'callers', timeout => '1 s')}), 'a/m1: Hello', "call $_") for 1 .. 2;
	is(sql(q{SELECT error_code FROM llm_respond('Hello', 'callers', timeout => '0.1 s', on_error => 'null')}),
		'LL001', 'a third one finds it used up');
	is($sim->model_count('a', 'm1'), 10, 'that is what was asked');
	sql(q{UPDATE llm_route SET enabled = model = 'm2' WHERE tier = 'callers'});
	begin_anew();
};

subtest 'a limit of one' => sub {
	sql('UPDATE llm_region SET max_inflight = 1');
	add_tasks(3);
	tasks_done(3, 'lets tasks through while nobody else uses it');
	$node->append_conf('postgresql.conf', 'llm_failover.sync_reserve = 1');
	$node->reload;
	wait_until(q{current_setting('llm_failover.sync_reserve') = '1'}, 'all of it is left to callers');
	add_tasks(1);
	wait_until_blocked('a/main \(max_inflight 1 is all left to callers by sync_reserve\)', 'tasks wait');
	is(sql(q{SELECT llm_complete('Hello', 'callers')}), 'a/m2: Hello', 'callers do not');
	sql('UPDATE llm_region SET max_inflight = NULL');
	tasks_done(4, 'what has no limit has nothing to leave');
	$node->append_conf('postgresql.conf', 'llm_failover.sync_reserve = 0.2');
	$node->reload;
	begin_anew();
};

subtest 'why tasks wait' => sub {
	add_tier($node, 'off', enabled => 'false');
	add_tier($node, 'empty');
	add_tier($node, 'ruled');
	add_tier($node, 'many');
	sql(qq{INSERT INTO llm_provider(name, dialect, base_url, secret, enabled) VALUES
		  ('b', 'openai', '$url', 'none', true), ('c', 'openai', '$url', NULL, false);
		INSERT INTO llm_region(provider, name) VALUES ('b', 'us'), ('b', 'eu');
		INSERT INTO llm_route(tier, provider, model) VALUES ('ruled', 'builtin', 'rule'),
		  ('many', 'b', 'm'), ('many', 'b', 'n'), ('many', 'c', 'm'), ('many', 'builtin', 'rule')});
	is(blocked_by('tasks'), '', 'they do not');
	is(blocked_by('off'), 'tier "off" is disabled', 'a tier is disabled');
	is(blocked_by('empty'), 'tier "empty" has no route', 'has no route');
	is(blocked_by('ruled'), '', 'builtin models need nobody');
	is(blocked_by('many'), 'no candidate admitted: b/eu/m (secret "none" does not exist), '
		  . 'b/us/m (secret "none" does not exist), b/eu/n (secret "none" does not exist), '
		  . 'b/us/n (secret "none" does not exist) and 1 more', 'cannot work as it is configured');
	sql(q{UPDATE llm_provider SET secret = NULL});
	is(blocked_by('many'), '', 'one is enough');
	sql(q{SELECT llm_breaker_open('b', duration => '1 hour')});
	like(blocked_by('many'), qr{^no candidate admitted: b \(opened by \w+, until $TIME\), c/default/m \(provider disabled\)$},
		'a scope is named once');
	is(blocked_by('tasks'), '', 'another tier goes on');
	$node->append_conf('postgresql.conf', 'llm_failover.enabled = off');
	$node->reload;
	wait_until(q{current_setting('llm_failover.enabled') = 'off'}, 'off');
	is(blocked_by($_), 'llm_failover is switched off', "switched off: $_") for 'tasks', 'many';
	is(blocked_by('ruled'), '', 'but builtin models answer');
	$node->append_conf('postgresql.conf', 'llm_failover.enabled = on');
	$node->reload;
	wait_until(q{current_setting('llm_failover.enabled') = 'on'}, 'on');
	begin_anew();
};

subtest 'a key is replaced' => sub {
	sql(q{UPDATE llm_provider SET secret = 'k' WHERE name = 'a';
		INSERT INTO llm_secret VALUES ('k', 'revoked')});
	$sim->behave({ status => 401 }, listener => 'a');
	add_tasks(2);
	wait_until_blocked("a \\(401 \\w+, until $TIME\\)", 'tasks wait for the key');
	$sim->clear;
	sql(q{UPDATE llm_secret SET value = 'good' WHERE name = 'k'});
	tasks_done(2, 'and no longer');
	begin_anew();
};

subtest 'an outage' => sub {
	my $offset = -s $node->logfile;

	sql(q{UPDATE llm_provider SET breaker_open_time = '0.3 s', breaker_ramp = '0.5 s' WHERE name = 'a'});
	$sim->behave({ status => 500 }, listener => 'a');
	add_tasks(40);
	$node->wait_for_log(qr/breaker of a\/main\/m1 half-open/, $offset);
	wait_until_blocked("a/main/m1 \\(open, until $TIME\\)", 'tasks wait');
	$sim->clear;
	tasks_done(40, 'and are done when it is over');
	is(sql('SELECT max(tries) <= 1, count(*) FROM llm_task'), 't|40', 'it has cost them nothing');
	like(join(' ', map { $_->{to} } breaker_log_of('a/main/m1', $offset)),
		qr/^opened (?:half-open opened )*half-open ramping(?: closed)?$/, 'step by step');
};

# The changes of one breaker; all of them made by the worker.
sub breaker_log_of
{
	my ($scope, $offset) = @_;
	my @changes;

	foreach my $line (split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset))
	{
		push @changes, { to => $1 } if $line =~ /llm_failover: breaker of \Q$scope\E (opened|half-open|ramping|closed)/;
	}
	return @changes;
}

done_testing();
