# 102_standby.pl: a standby has no background processes of ours; they come by
# themselves when it is promoted.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub ours
{
	my ($node, $dbname) = @_;
	return $node->safe_psql('postgres', q{
		SELECT string_agg(backend_type || coalesce(' ' || datname, ''), ', ' ORDER BY backend_type, datname)
		  FROM pg_stat_activity WHERE backend_type IN ('llm_failover launcher', 'llm_failover worker')}
	);
}

sub ours_become
{
	my ($node, $wanted, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->poll_query_until(
			'postgres', qq{
		SELECT string_agg(backend_type || coalesce(' ' || datname, ''), ', ' ORDER BY backend_type, datname) = '$wanted'
		  FROM pg_stat_activity WHERE backend_type IN ('llm_failover launcher', 'llm_failover worker')}
		),
		$name)
	  or diag ours($node);
	return;
}

my $primary = llm_node('primary', init => [ allows_streaming => 1 ]);
my $all =
  'llm_failover launcher, llm_failover worker other, llm_failover worker postgres';

$primary->safe_psql('postgres', 'CREATE DATABASE other');
$primary->safe_psql('other', 'CREATE EXTENSION llm_failover');
ours_become($primary, $all, 'the primary has its processes');

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
is(ours($standby), '', 'the standby has none');
psql_ok($standby, q{SELECT llm_complete('Hello. It is me. Bye')},
	'calls work there');
psql_ok($standby, q{SELECT count(*) FROM llm_status}, 'and views');

# A database that is dropped on the primary has no slot on the standby then.
$primary->safe_psql('postgres', 'CREATE DATABASE gone');
$primary->safe_psql('gone', 'CREATE EXTENSION llm_failover');
$primary->wait_for_catchup($standby);
$standby->safe_psql('gone', q{SELECT llm_complete('Hello. It is me. Bye')});
psql_ok($primary, 'DROP DATABASE gone', 'DROP DATABASE is not held up');
$primary->wait_for_catchup($standby);
is(ours($standby), '', 'used or not, the standby has none');

$standby->promote;
ours_become($standby, $all, 'promoted: they come by themselves');
psql_ok($standby, q{SELECT llm_complete('Hello. It is me. Bye')},
	'promoted: calls work as before');
$standby->restart;
ours_become($standby, $all, 'promoted: and after a restart');
$standby->stop;
$primary->stop;
unlike(slurp_file($_->logfile), qr/PANIC:/, $_->name . ': no crash')
  foreach $primary, $standby;

done_testing();
