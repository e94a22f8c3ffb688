# 021_failover.pl: who is asked, in which order and how often; what is left out
# and why; where a call ends up when nobody answers, and what the user, the log
# and llm_last() say of it. The configuration is that of two tiers, two vendors
# with two regions each, and a server of one's own as the backup.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $sim = LlmSim->new(listeners => [ 'us', 'eu', 'ant', 'glob', 'own' ]);
my $node = llm_node('main', conf => "log_line_prefix = '%m [%p] '\n");
my $keys = PostgreSQL::Test::Utils::tempdir;
my ($us, $eu, $own) = map { $sim->url($_, '/v1') } 'us', 'eu', 'own';
my ($ant, $glob) = map { $sim->url($_) } 'ant', 'glob';

write_key($_, "sk-$_-1") for 'openai_us', 'openai_eu', 'anthropic';
$node->safe_psql(
	'postgres', qq{
SET client_min_messages = warning;
INSERT INTO llm_provider(name, dialect, base_url, secret) VALUES
  ('openai', 'openai', NULL, NULL), ('anthropic', 'anthropic', '$ant', 'file:$keys/anthropic'),
  ('vllm', 'openai', '$own', NULL);
INSERT INTO llm_region(provider, name, base_url, secret, params, residency) VALUES
  ('openai', 'us', '$us', 'file:$keys/openai_us', NULL, '{us}'),
  ('openai', 'eu', '$eu', 'file:$keys/openai_eu', NULL, '{eu}'),
  ('anthropic', 'us', NULL, NULL, '{"inference_geo":"us"}', '{us}'),
  ('anthropic', 'global', '$glob', NULL, NULL, '{}'),
  ('vllm', 'dc1', NULL, NULL, NULL, '{eu}');
INSERT INTO llm_tier(name, fallback) VALUES ('flagship', 'economy'), ('economy', 'offline');
INSERT INTO llm_route(tier, provider, model, position) VALUES
  ('flagship', 'openai', 'gpt-5', 1), ('flagship', 'anthropic', 'claude-opus-4-6', 1), ('flagship', 'vllm', 'qwen3-32b', 2),
  ('economy', 'openai', 'gpt-5-mini', 1), ('economy', 'anthropic', 'claude-haiku-4-5', 1), ('economy', 'vllm', 'qwen3-32b', 2);
-- the same one after the other, for tests that want to know who is next
INSERT INTO llm_tier(name, fallback) VALUES ('steps', 'last'), ('last', 'offline');
INSERT INTO llm_route(tier, provider, model, region, position) VALUES
  ('steps', 'openai', 'gpt-5', 'us', 1), ('steps', 'openai', 'gpt-5', 'eu', 2),
  ('steps', 'anthropic', 'claude-opus-4-6', 'us', 3), ('last', 'vllm', 'qwen3-32b', NULL, 1);
});
$sim->set('own', keys => 'optional');
# Anthropic's inference_geo, and max_tokens, which gpt-5 has by another name.
$sim->set($_, lenient => \1) for 'ant', 'glob', 'us', 'eu';

my $session = llm_session($node);
forget_on_change($node, $sim);

sub write_key
{
	my ($name, $key) = @_;
	append_to_file("$keys/$name.new", $key);
	rename "$keys/$name.new", "$keys/$name" or die "rename: $!";
	return;
}

# Output of SQL in the session; dies on an error.
sub sql
{
	my ($sql) = @_;
	my $result = $session->run($sql);
	die $result->{err} if $result->{sqlstate};
	return $result->{out};
}

# Runs SQL in a transaction that is undone; the output of the last statement.
sub undone
{
	my ($change, $sql) = @_;
	sql("BEGIN; SET LOCAL client_min_messages = error; $change");
	my $out = eval { sql($sql) };
	my $error = $@;
	sql('ROLLBACK');
	return $error ? "error: $error" : $out;
}

# How a call ends and its attempts: "us/gpt-5 ok"; a region's name is unique
# but for that of Anthropic.
sub trace_of
{
	my ($tier, $more) = @_;
	$more = defined $more ? ", $more" : '';
	return <<"END";
		SELECT concat_ws(' ', r.error_code, (SELECT string_agg(concat_ws(' ',
			concat_ws('/', a.region, a.model), a.outcome, a.next), ', ')
			FROM jsonb_to_recordset(r.trace) a(region text, model text, outcome text, next text)))
		FROM llm_respond('Hi', '$tier', on_error => 'null' $more) r
END
}

sub is_trace
{
	my ($tier, $more, $want, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql(trace_of($tier, $more)), $want, $name);
}

sub break_down
{
	my ($what, @listeners) = @_;
	my %behaviour = ref $what ? %$what : (template => $what);
	$behaviour{headers} = { 'retry-after' => '3600' }
	  if ($behaviour{template} // '') eq 'rate_limit';
	$sim->behave({%behaviour}, listener => $_) for @listeners;
	return;
}

# 1. Shares. Two regions do not double a provider's traffic; position 2 has
# none. n calls at a share of p are 5 standard deviations off once in a million.
my $n = 1000;
my $shares = 'SELECT provider, region, share FROM llm_explain(tier => %s)'
  . ' WHERE tier = %1$s ORDER BY step';
is( sql(sprintf $shares, "'flagship'"),
	join("\n", 'anthropic|global|0.25', 'anthropic|us|0.25', 'openai|eu|0.25',
		'openai|us|0.25', 'vllm|dc1|0'),
	'shares of flagship');

sub is_shared
{
	my ($name, %share) = @_;
	my $counts = sql("SELECT concat_ws('/', r.region, r.model), count(*) FROM"
		  . " generate_series(1, $n) g, llm_respond('Hi ' || g, 'flagship') r GROUP BY 1");
	my %count = map { /^(.*)\|(\d+)$/ } split /\n/, $counts;

	foreach my $target (sort keys %share)
	{
		my $p = $share{$target};
		my $count = delete $count{$target} // 0;
		cmp_ok(abs($count - $n * $p), '<=', 5 * sqrt($n * $p * (1 - $p)),
			"$name: $target has a share of $p, and $count calls");
	}
	is_deeply(\%count, {}, "$name: nobody else was asked");
	return;
}

is_shared('evenly', 'us/gpt-5' => .25, 'eu/gpt-5' => .25,
	'us/claude-opus-4-6' => .25, 'global/claude-opus-4-6' => .25);
sql("UPDATE llm_route SET weight = 8 WHERE model = 'gpt-5';"
	  . " UPDATE llm_region SET weight = 0 WHERE name = 'global'");
is_shared('weighted', 'us/gpt-5' => 4 / 9, 'eu/gpt-5' => 4 / 9,
	'us/claude-opus-4-6' => 1 / 9);

# Weight 0 is the last resort of its group, before the next position.
break_down('rate_limit', 'us', 'eu', 'ant');
like(sql(trace_of('flagship')),
	qr{^(\S+ throttled candidate, ){3}global/claude-opus-4-6 ok$},
	'weight 0 comes last in its group');
$sim->clear;
sql("UPDATE llm_route SET weight = 1 WHERE model = 'gpt-5';"
	  . " UPDATE llm_region SET weight = 1 WHERE name = 'global'");

# A canary, in a transaction of its own.
is( undone(
		"INSERT INTO llm_route(tier, provider, model, weight) VALUES ('flagship', 'anthropic', 'claude-sonnet-4-6', 0.1)",
		q{SELECT round(sum(share)::numeric, 4) FROM llm_explain(tier => 'flagship') WHERE model = 'claude-sonnet-4-6'}),
	'0.0476', 'a canary of weight 0.1 beside two models of 1');

# 2. What takes no work is out, in llm_explain with its reason.
foreach my $out (
	[ 'region disabled', "llm_region", "name = 'us' AND provider = 'openai'" ],
	[ 'provider disabled', "llm_provider", "name = 'openai'" ],
	[ 'model disabled', "llm_model", "name = 'gpt-5'" ],
	[ 'route disabled', "llm_route", "tier = 'steps' AND region = 'us'" ],
	[ 'tier disabled', "llm_tier", "name = 'steps'" ])
{
	my ($reason, $table, $where) = @$out;
	my $change = "INSERT INTO llm_model(provider, name) VALUES ('openai', 'gpt-5');"
	  . " UPDATE $table SET enabled = false WHERE $where";
	is( undone($change, q{SELECT step, share, verdict, reason
			FROM llm_explain(tier => 'steps') WHERE region = 'us' AND model = 'gpt-5'}),
		"|0|out|$reason", $reason);
	my $before = $sim->count('us');
	unlike(undone($change, trace_of('steps')),
		qr{us/gpt-5 }, '... and it is not asked');
	is($sim->count('us'), $before, '... not at all');
}
is( undone("UPDATE llm_tier SET enabled = false WHERE name = 'flagship'",
		"SELECT tier, degraded FROM llm_respond('Hi', 'flagship')"),
	'economy|t', 'calls go on from a disabled tier');

# Drained while a call runs: the call ends as if nothing had happened.
$sim->behave({ delay => 1 }, listener => 'us', times => 1);
my $other = llm_session($node);
$other->start(trace_of('steps'));
$sim->wait_for(listener => 'us', in_progress => 1);
sql("UPDATE llm_region SET enabled = false WHERE provider = 'openai' AND name = 'us'");
is($other->finish->{out}, 'us/gpt-5 ok', 'a running call outlives the draining');
is_trace('steps', undef, 'eu/gpt-5 ok', 'the next one goes elsewhere');
is( sql(q{SELECT residency, provider, region, verdict, reason FROM unnest('{eu,us}'::text[]) residency,
		llm_explain('x', 'flagship', residency => residency) e
		WHERE e.tier = 'flagship' AND e.provider = 'openai' ORDER BY 1, 3}),
	join("\n", 'eu|openai|eu|ready|', 'eu|openai|us|out|region disabled',
		'us|openai|eu|out|residency "us" is not satisfied',
		'us|openai|us|out|region disabled'),
	'a drained region and residency in llm_explain');
sql("UPDATE llm_region SET enabled = true");

# 3. Order, retries, and the bounds.
break_down('rate_limit', 'us', 'eu', 'ant', 'own');
is_trace('steps', undef,
	'LL001 us/gpt-5 throttled candidate, eu/gpt-5 throttled candidate,'
	  . ' us/claude-opus-4-6 throttled tier, dc1/qwen3-32b throttled tier,'
	  . ' rule declined candidate, extract declined',
	'down the chain');
is_trace('steps', undef, 'LL001 rule declined candidate, extract declined',
	'the next call asks nobody who is throttled');
like( sql(q{SELECT string_agg(concat_ws(' ', step, model, verdict, reason), ', ')
		FROM llm_explain('Hi', 'steps')}),
	qr{^gpt-5 out throttled until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d, gpt-5 out [^,]*, claude-opus-4-6 out [^,]*, qwen3-32b out [^,]*, 1 rule ready, 2 extract ready$},
	'... as llm_explain says');
forget($node);
sql(trace_of('steps'));
forget($node);
is( sql(q{SELECT string_agg(concat_ws('/', tier, provider, region, model), ' ' ORDER BY step)
		FROM llm_explain('Hi', 'steps')}),
	sql(q{SELECT string_agg(concat_ws('/', a.tier, a.provider, a.region, a.model), ' ' ORDER BY n)
		FROM llm_last() r, ROWS FROM (jsonb_to_recordset(r.trace)
			AS (tier text, provider text, region text, model text)) WITH ORDINALITY a(tier, provider, region, model, n)}),
	'llm_explain names the same candidates in the same order');
is(undone("UPDATE llm_tier SET max_attempts = 2 WHERE name = 'steps'", trace_of('steps')),
	'LL001 us/gpt-5 throttled candidate, eu/gpt-5 throttled tier,'
	  . ' dc1/qwen3-32b throttled tier, rule declined candidate, extract declined',
	'max_attempts counts within a tier');
$sim->clear;
break_down('conflict', 'us', 'eu', 'ant', 'own');
like( undone("UPDATE llm_tier SET max_attempts = 4 WHERE name = 'steps'",
		trace_of('steps', 'allow_degraded => false')),
	qr{^LL001 us/gpt-5 conflict candidate, eu/gpt-5 conflict candidate, us/claude-opus-4-6 conflict (candidate|retry), [^,]*$},
	'max_attempts counts retries');
$sim->clear;
$sim->behave({ template => 'conflict' }, listener => $_, times => 1) for 'us', 'eu', 'ant';
like( sql(trace_of('steps')),
	qr{^us/gpt-5 conflict candidate, eu/gpt-5 conflict candidate, us/claude-opus-4-6 conflict (candidate|retry), \S+ ok$},
	'a retry comes after all others, and before the next tier');
$sim->clear;

# Cycles and loose ends, which only a restore or a replica brings.
foreach my $way ('check_function_bodies = off', 'session_replication_role = replica')
{
	sql("BEGIN; SET LOCAL $way; UPDATE llm_tier SET fallback = 'steps' WHERE name = 'last'; COMMIT");
	is(sql("SELECT fallback FROM llm_tier WHERE name = 'last'"), 'steps',
		"a cycle comes in with $way");
	break_down('rate_limit', 'us', 'eu', 'ant', 'own');
	like(sql(trace_of('steps')),
		qr{^LL001 us/gpt-5 throttled candidate, eu/gpt-5 throttled candidate, us/claude-opus-4-6 throttled tier, dc1/qwen3-32b throttled$},
		'... and nobody is asked twice');
	$sim->clear;
	break_down('conflict', 'us', 'eu', 'ant', 'own');
	my $before = $sim->count(undef);
	sql(trace_of('steps'));
	is($sim->count(undef) - $before, 8, '... more often than the retry that all have');
	is(sql(q{SELECT count(*) FROM llm_explain(tier => 'steps')}), 4, '... nor explained');
	$sim->clear;
	sql("UPDATE llm_tier SET fallback = 'offline' WHERE name = 'last'");
}
sql(q{BEGIN; SET LOCAL session_replication_role = replica;
	INSERT INTO llm_tier(name, fallback) VALUES ('loose', 'nowhere'); COMMIT});
my $loose = psql_error($node, "SELECT llm_complete('Hi', 'loose', on_error => 'null')",
	'LL006', qr/^tier "loose" falls back to "nowhere", which does not exist$/);
sql("DELETE FROM llm_tier WHERE name = 'loose'");

# 4. Degraded answers and their notices.
break_down('rate_limit', 'us', 'eu', 'ant');
my $many = run_sql($node,
	"SELECT llm_complete('Hi ' || g, 'steps') FROM generate_series(1, 3) g");
is(scalar @{ $many->{notices} }, 1, 'one notice a statement');
is($many->{notices}[0]{message},
	'degraded answer: no candidate of tier "steps" was available, so vllm/dc1/qwen3-32b of tier "last" answered',
	'its text');
is($many->{notices}[0]{hint}, q{See llm_last() and SELECT * FROM llm_explain(tier => 'steps').}, 'its hint');
$many = run_sql($node, "SELECT llm_complete('Hi', 'steps');\nSELECT llm_complete('Hi', 'steps')");
is(scalar @{ $many->{notices} }, 2, 'each statement has its own');
my $respond = run_sql($node, "SELECT degraded, tier, source FROM llm_respond('Hi', 'steps')");
is("$respond->{out} @{ $respond->{notices} }", 't|last|model ', 'llm_respond says it without a notice');
break_down('rate_limit', 'own');
is( run_sql($node, "SELECT llm_complete('One is. Two is longer. Three ends it.', 'steps')")->{notices}[0]{message},
	'degraded answer: no candidate of tier "steps" was available, so "extract" of tier "offline" answered',
	'a builtin model is named without its provider');
is( run_sql($node, "SELECT llm_complete('One is. Two is longer. Three ends it.')")->{notices}[0]{message},
	'degraded answer: tier "default" has no model, so "extract" of tier "offline" answered',
	'a tier without a model');

# Not allowed to: by parameter and by setting.
forget($node);
my $strict = 'LL001 us/gpt-5 throttled candidate, eu/gpt-5 throttled candidate, us/claude-opus-4-6 throttled';
is_trace('steps', 'allow_degraded => false', $strict, 'allow_degraded => false');
forget($node);
is(undone('SET LOCAL llm_failover.allow_degraded = off', trace_of('steps')), $strict, 'llm_failover.allow_degraded = off');
is(undone('SET LOCAL llm_failover.allow_degraded = off', trace_of('steps', 'allow_degraded => true')) =~ /extract/,
	1, 'the parameter wins');
is(sql(q{SELECT count(*) FROM llm_explain(tier => 'steps', allow_degraded => false)}), 3, 'llm_explain stays in the tier too');

# 5. The error, in SQL and in llm_last(): of a call that has found out for
# itself, and of one that knows.
forget($node);
my $failed = psql_error($node, "SELECT llm_complete('Hi', 'steps', allow_degraded => false)", 'LL001', qr/^no model could answer$/);
my $throttled = qr/429 throttled after \d+ ms\./;
like( $failed->{detail},
	qr{^1\. openai/us/gpt-5: $throttled 2\. openai/eu/gpt-5: $throttled 3\. anthropic/us/claude-opus-4-6: $throttled The first may be asked again at \d\d:\d\d:\d\d\.$},
	'its detail');
is($failed->{hint}, q{See SELECT * FROM llm_status.}, 'its hint');
$failed = psql_error($node, "SELECT llm_complete('Hi', 'steps', allow_degraded => false)", 'LL001', qr/^no model could answer$/);
my $kept_away = join ' ', map { qr{Not asked: $_: throttled until (?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\.} }
  'openai/us/gpt-5', 'openai/eu/gpt-5', 'anthropic/us/claude-opus-4-6';
like($failed->{detail}, qr{^$kept_away openai/us/gpt-5 may be asked at \d\d:\d\d:\d\d\.$}, 'the detail of the next one');
is($failed->{hint}, q{See SELECT * FROM llm_status.}, 'its hint');
forget($node);
$session->run("SELECT llm_complete('Hi', 'steps', allow_degraded => false)");
is( sql(q{SELECT answer, provider, degraded, attempts, error, error_code, jsonb_array_length(trace), cost FROM llm_last()}),
	'||f|3|no model could answer|LL001|3|0', 'llm_last() after an error');
is(sql(q{SELECT answer, error, error_code FROM llm_respond('FAIL please', 'steps', on_error => 'null', allow_degraded => false)}),
	'|no model could answer|LL001', q{on_error => 'null'});
$sim->clear;
sql("SELECT llm_complete('Hi', 'steps')");
is(sql(q{SELECT answer, tier, provider, region, model, degraded, attempts, error FROM llm_last()}),
	'us/gpt-5: Hi|steps|openai|us|gpt-5|f|1|', 'llm_last() after llm_complete()');

# 6. The log: one line a call that failed over, and never a prompt.
my $mark = -s $node->logfile;
sql("SELECT llm_complete('This is private. It is very private. Nobody may see it.')");
break_down('overloaded', 'us');
break_down('invalid_key', 'own');
sql("SELECT llm_complete('this is private', 'steps')");
break_down('rate_limit', 'eu', 'ant');
sql("SELECT llm_respond('this is private', 'steps', on_error => 'null')");
sql("SET llm_failover.log_failovers = off; SELECT llm_respond('Hi', 'steps', on_error => 'null'); RESET llm_failover.log_failovers");
my $log = slurp_file($node->logfile, $mark);
my @lines = grep { /llm_failover: tier/ } split /\n/, $log;
is(scalar @lines, 2, 'two calls failed over');
like($lines[0],
	qr{\] LOG:  llm_failover: tier "steps" answered by openai/eu/gpt-5 after 2 attempts: openai/us/gpt-5 overloaded 503 \d+ ms$}, 'answered');
my $all = join ', ', map { "$_ \\d+ ms" } 'openai/us/gpt-5 overloaded 503',
  'openai/eu/gpt-5 throttled 429', 'anthropic/us/claude-opus-4-6 throttled 429',
  'openai/us/gpt-5 overloaded 503', 'vllm/dc1/qwen3-32b auth 401',
  'builtin/rule declined', 'builtin/extract declined';
like($lines[1], qr{\] LOG:  llm_failover: tier "steps" not answered after 5 attempts: $all$}, 'not answered');
unlike($log, qr/private/, 'no prompt is logged');
unlike($log, qr/sk-/, 'no key either');
$sim->clear;

# 7. Requests that are refused.
break_down('content_filter', 'us');
my $refused = psql_error($node, "SELECT llm_complete('Hi', 'steps')", 'LL003', qr/^the request was refused: Your request was rejected/);
is($refused->{hint}, q{Rephrase the prompt, or set on_content_filter of tier "steps" to 'next'.}, 'a content filter ends the call');
is(undone("UPDATE llm_tier SET on_content_filter = 'next' WHERE name = 'steps'", trace_of('steps')),
	'us/gpt-5 content_filter candidate, eu/gpt-5 ok', 'or not');
$sim->clear;
break_down('context_length', 'us', 'eu', 'ant', 'own');
my $long = psql_error($node, "SELECT llm_complete('One is. Two is longer. Three ends it.', 'steps')", 'LL003');
is($long->{hint}, 'Shorten the prompt, or route tier "last" to a model with a larger context window.', 'too long for all');
my $windows = q{INSERT INTO llm_model(provider, name, context_window) VALUES
	('openai', 'gpt-5', 100000), ('anthropic', 'claude-opus-4-6', 50000), ('vllm', 'qwen3-32b', 200000)};
is(undone($windows, trace_of('steps')), 'LL003 us/gpt-5 context_length tier, dc1/qwen3-32b context_length',
	'only a larger window is tried');
$sim->clear;
is(undone("$windows; UPDATE llm_model SET context_window = 12 WHERE provider <> 'vllm'",
		"SELECT tier, (SELECT string_agg(DISTINCT reason, ';') FROM llm_explain(p, 'steps')) FROM repeat('x', 104) p, llm_respond(p, 'steps')"),
	'last|the prompt is longer than the context window', 'too long by its size');

break_down('bad_request', 'us');
$refused = psql_error($node, "SELECT llm_complete('Hi', 'steps')", 'LL003',
	qr/^the request was refused: Invalid value for 'temperature'\.$/);
is($refused->{hint}, 'See params of the route, the region and the call.', 'a bad request ends the call');
is_trace('steps', undef, 'LL003 us/gpt-5 bad_request', '... at its first attempt');
$sim->clear;

# 8. What a model must be able to do.
my %messages = (
	images => '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]',
	tools => '[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",'
	  . '"function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c1","content":"5"}]');
foreach my $capability (sort keys %messages)
{
	my $chat = "SELECT region FROM llm_chat('$messages{$capability}', 'steps')";
	is(sql($chat), 'us', "$capability: the first can");
	is(undone("INSERT INTO llm_model(provider, name, capabilities) VALUES ('openai', 'gpt-5',"
			  . " array_remove('{json_schema,tools,images,temperature,system}', '$capability'))", "$chat"),
		'us', '... and so can Anthropic in its region');
	is(sql(q{SELECT provider FROM llm_last()}), 'anthropic', '... which was asked instead');
}

# 9. Residency. Nothing is sent where the labels do not fit.
my %count = map { $_ => $sim->count($_) } $sim->listeners;
is( sql(q{SELECT count(*) FILTER (WHERE region = 'eu'), count(*) FROM generate_series(1, 20) g,
		llm_respond('Hi ' || g, 'flagship', residency => 'eu') r}),
	'20|20', 'residency of a call');
is(join(' ', map { $sim->count($_) - $count{$_} } 'us', 'ant', 'glob'), '0 0 0', 'nobody else has seen it');
is(undone("SET LOCAL llm_failover.residency = 'eu'; UPDATE llm_region SET enabled = false WHERE name = 'eu'", trace_of('steps')),
	'dc1/qwen3-32b ok', 'the setting is a floor');
%count = map { $_ => $sim->count($_) } $sim->listeners;
my $nowhere = psql_error($node,
	"SET llm_failover.residency = 'eu'; SELECT llm_complete('One is. Two is longer. Three ends it.', 'flagship', residency => 'us')",
	'LL004', qr/^no region of tier "flagship" or its fallbacks satisfies residency "eu,us"$/);
is($nowhere->{hint}, q{See SELECT provider, region, residency FROM llm_routing WHERE tier = 'flagship'.}, 'its hint');
is(sql(q{SELECT error_code, attempts, trace FROM llm_respond('Hi', 'steps', residency => 'de', on_error => 'null')}),
	'LL004|0|[]', 'no attempt is made');
is(join(' ', map { $sim->count($_) - $count{$_} } sort keys %count), '0 0 0 0 0', 'no packet has left');
is( undone("SET LOCAL llm_failover.residency = 'eu'",
		q{SELECT DISTINCT verdict, reason FROM llm_explain('x', 'flagship', residency => 'us') WHERE provider <> 'builtin'}),
	'out|residency "eu,us" is not satisfied', 'llm_explain says the same');
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; SELECT llm_grant_usage($$app$$)');
psql_error($node, "SET llm_failover.residency = ''", '42501', undef, 'a user cannot lift the floor', user => 'app');

# 10. The kill switch reaches a statement that is running, at its next call.
$sim->behave({ delay => 2 }, listener => 'us', times => 1);
my $before = $sim->count(undef);
$other->start(q{SELECT g, r.error_code, r.source FROM generate_series(1, 3) g,
	llm_respond('Hi ' || g, 'steps', on_error => 'null') r});
$sim->wait_for(listener => 'us', in_progress => 1);
$node->safe_psql('postgres', 'ALTER SYSTEM SET llm_failover.enabled = off');
$node->reload;
is($other->finish->{out}, "1||model\n2|LL004|\n3|LL004|", 'switched off under a running statement');
is($sim->count(undef) - $before, 1, 'no packet has left since');
psql_error($node, "SELECT llm_complete('Hi', 'steps')", 'LL004', qr/^llm_failover is switched off$/);
is(run_sql($node, "SELECT source, degraded, attempts FROM llm_respond('One is. Two is longer. Three ends it.', 'steps')")->{out},
	'extract|t|0', 'builtin models still answer');
is(run_sql($node, "SELECT ok, error FROM llm_check('vllm')")->{out}, 'f|llm_failover is switched off', 'llm_check sends nothing either');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET llm_failover.enabled');
$node->reload;
$node->poll_query_until('postgres', 'SHOW llm_failover.enabled', 'on');

# 11. A key is rotated by replacing its file.
$sim->set('us', keys => ['sk-openai_us-2']);
is( join('|', row_of($node, q{SELECT ok,
		error LIKE '401 auth after % ms (Incorrect API key provided%', hint FROM llm_check('openai', 'us', 'gpt-5')})),
	"f|t|Replace the secret file:$keys/openai_us.", 'llm_check of an old key');
is_trace('steps', undef, 'eu/gpt-5 ok', 'its region is left alone, one with a key of its own is not');
forget($node);
is_trace('steps', undef, 'us/gpt-5 auth candidate, eu/gpt-5 ok', '... also by a call that has to find out');
is_trace('steps', undef, 'eu/gpt-5 ok', '... and by the next one');
write_key('openai_us', 'sk-openai_us-2');
is_trace('steps', undef, 'us/gpt-5 ok', 'the new key is used at once');
is(sql('SELECT provider, region, model, ok, error, hint FROM llm_check($$openai$$) ORDER BY 2, 3'),
	join("\n", map { "openai|$_|t||" } 'eu|gpt-5', 'eu|gpt-5-mini', 'us|gpt-5', 'us|gpt-5-mini'), 'llm_check asks each target once');

# 12. Errors are caught by class; answers go into columns and histories.
break_down('rate_limit', 'us', 'eu', 'ant', 'own');
my $caught = run_sql($node, q{DO $$ DECLARE a text; d text; BEGIN
  a := llm_complete('FAIL please', 'flagship', timeout => '5 s', residency => 'eu');
EXCEPTION
  WHEN SQLSTATE 'LL004' THEN RAISE NOTICE 'over budget or switched off';
  WHEN SQLSTATE 'LL000' THEN GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL; RAISE NOTICE 'any LL error: % %, %', SQLSTATE, SQLERRM, d;
END $$});
like($caught->{notices}[0]{message}, qr/^any LL error: LL001 no model could answer, 1\. openai/, 'caught in PL\/pgSQL');
$sim->clear;
sql(q{CREATE TABLE invoice(id bigint PRIMARY KEY, body text); INSERT INTO invoice VALUES (1, 'Pay 12.50'), (2, NULL);
	CREATE TABLE chat_message(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, chat_id bigint, message jsonb NOT NULL)});
is(sql(q{SELECT i.id, r.answer, r.model FROM invoice i, llm_respond(i.body, 'last') r ORDER BY 1}),
	"1|own/qwen3-32b: Pay 12.50|qwen3-32b\n2||", 'one call a row, none for a NULL');
sql(q{INSERT INTO chat_message(chat_id, message) VALUES (1, '{"role":"user","content":"Where is my order?"}')});
is(sql(q{INSERT INTO chat_message(chat_id, message) SELECT 1, r.message
		FROM llm_chat((SELECT jsonb_agg(message ORDER BY id) FROM chat_message WHERE chat_id = 1), 'steps') r RETURNING message}),
	'{"role": "assistant", "content": "us/gpt-5: Where is my order?"}', 'a chat in a table');
is(undone(q{INSERT INTO llm_rule(name, pattern, answer) VALUES ('canned summary', '^Summarise', 'A canned summary.');
		INSERT INTO llm_route(provider, model, position) VALUES ('builtin', 'rule', 0), ('builtin', 'echo', 1)},
		q{SELECT answer, source, degraded FROM unnest('{Summarise this,Hello}'::text[]) WITH ORDINALITY p(p, n), llm_respond(p) ORDER BY n}),
	"A canned summary.|rule|f\nHello|model|f", 'an application is tested without a network');

$_->quit for $session, $other;
$node->stop;
done_testing();
