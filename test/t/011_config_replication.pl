# 011_config_replication.pl: sessions see configuration changes that nobody
# made by SQL on their server: applied by logical replication, and replayed on
# a hot standby.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = q{
shared_preload_libraries = 'llm_failover'
max_prepared_transactions = 10
};
my $seen = q{SELECT provider, region, model, base_url, enabled FROM llm_routing WHERE tier = 'default'};

# A session that is kept: only in one can a cache be outdated.
sub session_of
{
	my ($node) = @_;

	return $node->background_psql('postgres', on_error_stop => 1);
}

my $main = PostgreSQL::Test::Cluster->new('main');
$main->init(allows_streaming => 'logical');
$main->append_conf('postgresql.conf', $conf);
$main->start;
$main->safe_psql('postgres', 'CREATE EXTENSION llm_failover');

# --- a hot standby

$main->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($main, 'backup', has_streaming => 1);
$standby->start;

my $session = session_of($standby);
is($session->query_safe($seen), '', 'standby: seeds only');

$main->safe_psql('postgres', q{
INSERT INTO llm_provider(name, dialect) VALUES ('a', 'openai');
INSERT INTO llm_route(provider, model) VALUES ('a', 'm');
});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|t',
	'standby: sees an insert');

# in the middle of a transaction with an old snapshot
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($session->query_safe('SELECT count(*) FROM llm_provider'), '1',
	'standby: takes a snapshot');
$main->safe_psql('postgres', q{UPDATE llm_provider SET enabled = false});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|f',
	'standby: sees an update under REPEATABLE READ');
$session->query_safe('COMMIT');

$main->safe_psql('postgres', q{
BEGIN;
UPDATE llm_provider SET enabled = true;
PREPARE TRANSACTION 'p';
});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|f',
	'standby: does not see a prepared change');
$main->safe_psql('postgres', q{COMMIT PREPARED 'p'});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|t',
	'standby: sees it committed');

$main->safe_psql('postgres', q{BEGIN; DELETE FROM llm_provider; ROLLBACK});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|t',
	'standby: sees nothing of a rollback');

# the extension comes back with other OIDs
$main->safe_psql('postgres', q{
DROP EXTENSION llm_failover;
CREATE EXTENSION llm_failover;
});
$main->wait_for_catchup($standby);
is($session->query_safe($seen), '', 'standby: sees the extension made anew');
$session->quit;

# --- promotion: the session stays, and goes on seeing changes

$session = session_of($standby);
is($session->query_safe($seen), '', 'promotion: before');
$standby->promote;
is($session->query_safe('SELECT pg_is_in_recovery()'), 'f',
	'promotion: the same session');
$standby->safe_psql('postgres', q{
INSERT INTO llm_provider(name, dialect) VALUES ('b', 'openai');
INSERT INTO llm_route(provider, model) VALUES ('b', 'm');
});
is($session->query_safe($seen), 'b|default|m|https://api.openai.com/v1|t',
	'promotion: after');
$session->quit;
$standby->stop;

# --- logical replication

my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', $conf);
$subscriber->start;
$subscriber->safe_psql('postgres', 'CREATE EXTENSION llm_failover');

# The seeds are on both sides: copy_data would collide with them.
my $connection = $main->connstr . ' dbname=postgres';
$main->safe_psql('postgres', q{
CREATE PUBLICATION config FOR TABLE llm_provider, llm_region, llm_model, llm_tier, llm_route, llm_rule, llm_probe});
$subscriber->safe_psql('postgres', qq{
CREATE SUBSCRIPTION config CONNECTION '$connection' PUBLICATION config WITH (copy_data = false)});
$subscriber->wait_for_subscription_sync($main, 'config');

$session = session_of($subscriber);
is($session->query_safe($seen), '', 'subscriber: seeds only');

$main->safe_psql('postgres', q{
INSERT INTO llm_provider(name, dialect) VALUES ('a', 'openai');
INSERT INTO llm_route(provider, model) VALUES ('a', 'm');
});
$main->wait_for_catchup('config');
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|t',
	'subscriber: sees an insert');

$main->safe_psql('postgres', q{
INSERT INTO llm_region(provider, name, base_url) VALUES ('a', 'eu', 'https://eu.example.com/')});
$main->wait_for_catchup('config');
is($session->query_safe($seen), 'a|eu|m|https://eu.example.com|t',
	'subscriber: sees a row of another table');

$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($session->query_safe('SELECT count(*) FROM llm_provider'), '1',
	'subscriber: takes a snapshot');
$main->safe_psql('postgres', q{UPDATE llm_route SET enabled = false WHERE provider = 'a'});
$main->wait_for_catchup('config');
is($session->query_safe($seen), 'a|eu|m|https://eu.example.com|f',
	'subscriber: sees an update under REPEATABLE READ');
$session->query_safe('COMMIT');

$main->safe_psql('postgres', 'TRUNCATE llm_region');
$main->wait_for_catchup('config');
is($session->query_safe($seen), 'a|default|m|https://api.openai.com/v1|f',
	'subscriber: sees a TRUNCATE');

$main->safe_psql('postgres', q{DELETE FROM llm_route WHERE provider = 'a'});
$main->wait_for_catchup('config');
is($session->query_safe($seen), '', 'subscriber: sees a delete');
$session->quit;

$subscriber->stop;
$main->stop;
done_testing();
