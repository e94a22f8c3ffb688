# 066_limits.pl: the limits of our own hold over all sessions: requests at once
# at a region, requests and tokens a minute at each target. Who finds one
# reached asks somebody else, or waits for the next slot. What is sent and when
# is the simulator's word.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use LlmSim;
use LlmTest;
use Test::More;

my $CLIENTS = 32;

# A request arrives a little after its slot was taken, the first one, too.
my $GRAIN = 0.25;

my $sim = LlmSim->new(listeners => [ 'east', 'west', 'spare', 'rated' ]);
my $node = llm_node('main', conf => "max_connections = 100\n");
my ($east, $west, $spare, $rated) = map { $sim->url($_, '/v1') } 'east', 'west', 'spare', 'rated';
$sim->set($_, keys => 'optional') foreach $sim->listeners;
sql(qq{
	INSERT INTO llm_provider(name, dialect, base_url) VALUES
	  ('p', 'openai', NULL), ('spare', 'openai', '$spare'), ('rated', 'openai', '$rated');
	INSERT INTO llm_region(provider, name, base_url, residency, max_inflight) VALUES
	  ('p', 'east', '$east', '{us}', 4), ('p', 'west', '$west', '{eu}', 2);
	INSERT INTO llm_region(provider, name, residency) VALUES ('spare', 'home', '{us}');
	INSERT INTO llm_tier(name) VALUES ('calm');
	INSERT INTO llm_route(tier, provider, model) VALUES ('calm', 'builtin', 'echo')});

sub sql
{
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $_[0]");
}

# A tier of routes to models of providers, first come first served.
sub tier
{
	my ($name, $fallback, @routes) = @_;
	my $position = 0;

	add_tier($node, $name, fallback => $fallback, timeout => '2 min');
	foreach my $route (@routes)
	{
		my ($provider, $model, $region) = split '/', $route;
		$position++;
		sql(sprintf q{INSERT INTO llm_route(tier, provider, model, region, position) VALUES (%s, %s, %s, %s, %d)},
			(map { quote_sql($_) } $name, $provider, $model, $region), $position);
	}
	return $name;
}

sub limit
{
	my ($model, %limits) = @_;
	my ($column, $value) = %limits;
	sql("INSERT INTO llm_model(provider, name, $column) VALUES ('rated', '$model', $value)");
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

# Tests that the arrivals at a model are those of a limit a minute: all of it at
# once, then one after the other.
sub is_rated
{
	my ($model, $rpm, $name) = @_;
	my @arrivals = $sim->arrivals('rated', model => $model);
	my @early = grep { $arrivals[$_] - $arrivals[0] < ($_ + 1 - $rpm) * 60 / $rpm - $GRAIN } $rpm .. $#arrivals;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(scalar @arrivals, '>=', $rpm, "$name: a minute's worth at once");
	return is("@early", '', sprintf '%s: %d in %.1f s, none of them early', $name,
		scalar @arrivals, $arrivals[-1] - $arrivals[0]);
}

sub explained
{
	my ($tier, $provider) = @_;
	return sql("SELECT verdict, reason FROM llm_explain('Hello', '$tier') WHERE provider = '$provider'"
		  . " AND tier = '$tier'");
}

subtest 'requests at once' => sub {
	# limits are a region's, whatever the model and the tier
	sql(q{INSERT INTO llm_tier(name) VALUES ('one'), ('two'), ('only-west');
		INSERT INTO llm_route(tier, provider, model, region) VALUES ('one', 'p', 'm1', NULL), ('one', 'p', 'm2', NULL),
		  ('two', 'p', 'm3', NULL), ('only-west', 'p', 'm1', 'west')});
	$sim->behave({ delay => 0.05 });
	my $load = llm_load($node, clients => $CLIENTS, calls => 8, tiers => [ 'one', 'two', 'only-west' ])->finish;

	is($load->value('SELECT count(*), count(error_code), sum(attempts) FROM calls'),
		join('|', 8 * $CLIENTS, 0, 8 * $CLIENTS), 'all calls were answered');
	is(most_at_once('east'), 4, 'as many as are allowed in the one region');
	is(most_at_once('west'), 2, '... and in the other one');
	is(sql(q{SELECT sum(in_flight) FROM llm_status}), 0, 'none is left');
	$sim->reset;
};

subtest 'a region is full' => sub {
	tier('alone', undef, 'p/m1/west');
	tier('backed', undef, 'p/m1/west', 'spare/m');
	tier('calmed', 'calm', 'p/m1/west');
	tier('hedged', undef, 'p/m1/east', 'p/m1/west');
	$sim->set($_, keys => 'optional') foreach $sim->listeners;
	$sim->behave({ hang => \1 }, prompt => '^hang$');
	my @holders = map { llm_session($node) } 1 .. 2;
	$_->start(q{SELECT llm_complete('hang', 'alone')}) foreach @holders;
	$sim->wait_for(listener => 'west', in_progress => 2);

	is(sql(q{SELECT in_flight FROM llm_status WHERE region = 'west' AND model = 'm1'}), 2, 'all can see it');
	is(explained('alone', 'p'), 'limited|region is at max_inflight 2', '... and are told why');
	is(sql(q{SELECT state FROM llm_status WHERE region = 'west' AND model = 'm1'}), 'closed', 'that is no illness');
	is(sql(q{SELECT llm_complete('Hello', 'backed')}), 'spare/m: Hello', 'the next candidate is asked');
	is(sql(q{SELECT tier, degraded FROM llm_respond('Hello', 'calmed', timeout => '2 s')}), 'calm|t',
		'or the next tier, in time');
	is(sql(q{SELECT error_code ~ 'LL00[12]', attempts FROM llm_respond('Hello', 'alone', timeout => '1 s', on_error => 'null')}),
		't|0', 'or nobody');

	sql(q{UPDATE llm_tier SET hedge_after = '20 ms' WHERE name = 'hedged'});
	$sim->behave({ delay => 0.5 }, listener => 'east', times => 1);
	is(sql(q{SELECT answer, attempts FROM llm_respond('Hello', 'hedged')}), 'east/m1: Hello|1', 'a hedge has no slot');

	# residency: nobody else may be asked, and the caller waits
	my $waiter = llm_session($node);
	$waiter->start(q{SELECT llm_complete('Hello', 'backed', residency => 'eu')});
	$waiter->wait_in_call;
	is($sim->count('west'), 2, 'nobody has been let in');
	is($sim->count('spare'), 1, 'nor sent to where the data may not go');

	is(sql(q{SELECT ok FROM llm_check('p', 'west', 'm1')}), 't', 'llm_check() goes past the limit');
	is($holders[0]->cancel->{sqlstate}, '57014', 'one of them is cancelled');
	is($waiter->finish->{out}, 'west/m1: Hello', 'and the one who waits gets the slot');
	$holders[1]->cancel;
	is(sql(q{SELECT sum(in_flight) FROM llm_status}), 0, 'none is left');
	sql(q{UPDATE llm_region SET max_inflight = NULL});
	is(explained('alone', 'p'), 'ready|', 'no limit');
	$_->quit foreach @holders, $waiter;
	$sim->reset;
};

$sim->set($_, keys => 'optional') foreach $sim->listeners;

subtest 'requests a minute' => sub {
	limit('backed', rpm => 120);
	limit('alone', rpm => 280);
	limit('few', rpm => 3);
	my ($backed, $alone) = (tier('rpm-backed', undef, 'rated/backed', 'spare/m'), tier('rpm-alone', undef, 'rated/alone'));
	tier('few', 'calm', 'rated/few');

	my $load = llm_load($node, clients => $CLIENTS, calls => 10, tiers => [ $backed, $alone, $alone ])->finish;
	is($load->value(q{SELECT count(*), count(error_code), sum(attempts) FROM calls}),
		join('|', 10 * $CLIENTS, 0, 10 * $CLIENTS), 'all calls were answered');
	$load = llm_load($node, clients => $CLIENTS, calls => 4, tiers => [ $backed, $alone, $alone ])->finish;
	is($load->value(q{SELECT count(error_code) FROM calls}), 0, '... and these');
	is_rated('backed', 120, 'with somebody else to ask');
	is($sim->count('spare') + $sim->model_count('rated', 'backed'),
		14 * 11, '... who is asked');
	is_rated('alone', 280, 'with nobody else, after a wait');
	is($sim->model_count('rated', 'alone'), 14 * 21, '... by all');

	my $calls = q{SELECT count(*) FILTER (WHERE tier = 'few'), count(*) FILTER (WHERE degraded)
		FROM generate_series(1, 2) g, llm_respond('Hello ' || g, 'few', timeout => '10 s')};
	is(sql($calls), '2|0', 'two of three');
	is(explained('few', 'rated'), 'ready|', 'one is left');
	is(sql($calls), '1|1', 'the fourth is not asked: its turn would come too late');
	like(explained('few', 'rated'), qr/^limited\|rpm 3 is reached until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d$/, '... as is told');
	is(sql(q{SELECT ok FROM llm_check('rated', NULL, 'few')}), 't', 'llm_check() goes past the limit');
	is($sim->model_count('rated', 'few'), 4, 'and nobody else has');
};

subtest 'tokens a minute' => sub {
	# 500 for an answer, 1 for "Hello n": twenty of them
	limit('cheap', tpm => 20 * 501);
	limit('dear', tpm => 10000);
	limit('long', tpm => 1000);
	my $cheap = tier('cheap', undef, 'rated/cheap');
	sql(q{UPDATE llm_tier SET timeout = '10 s' WHERE name = 'cheap'});
	tier('dear', undef, 'rated/dear', 'spare/m');
	tier('long', undef, 'rated/long');
	$sim->behave({ delay => 0.05, usage => { input => 2, output => 3 } }, model => 'cheap');
	$sim->behave({ usage => { input => 1000, output => 4000 } }, model => 'dear');

	# much less than estimated, which is given back
	my $load = llm_load($node, clients => $CLIENTS, calls => 8, tiers => [$cheap])->finish;
	is($load->value(q{SELECT count(*), count(error_code) FROM calls}), 8 * $CLIENTS . '|0', 'all calls were answered');
	is($sim->model_count('rated', 'cheap'), 8 * $CLIENTS, '... at once, with what others had not used');
	my $most = most_at_once('rated', model => 'cheap');
	cmp_ok($most, '<=', 20, 'what is under way is reserved by estimate');
	cmp_ok($most, '>=', 15, "... and $most at once are nearly all");

	# much more, which is charged, to all sessions
	is(sql(q{SELECT llm_complete('Hello', 'dear')}), 'rated/dear: Hello', '5000 of 10000') foreach 1 .. 2;
	is(sql(q{SELECT llm_complete('Hello', 'dear')}), 'spare/m: Hello', 'then there is nothing left');
	like(explained('dear', 'rated'), qr/^limited\|tpm 10000 is reached until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d$/, '... as is told');
	is(sql(q{SELECT ok FROM llm_check('rated', NULL, 'dear')}), 't', 'llm_check() goes past the limit');

	is(sql(q{SELECT attempts FROM llm_respond(repeat('long ', 5000), 'long')}), 1,
		"what is longer than a minute's worth is not kept waiting for ever");
	my $until = sql(q{SELECT reason FROM llm_explain('Hello', 'long')});
	like($until, qr/^tpm 1000 is reached/, '... but all that there was is gone');
};

done_testing();
