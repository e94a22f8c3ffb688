# 020_outcomes.pl: each way in which a provider can fail is put into its class,
# and each class does what its row says: who is asked next, who is not asked
# again in this call, whether the same target is retried, whether the next call
# keeps away from it, and the error that the user sees when nobody answers.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use HTTP::Tiny;
use JSON::PP;
use LlmSim;
use LlmTest;
use Test::More;

my @dialects = qw(openai azure anthropic gemini);

# The classes. scope: whom nobody asks again in this call; next: who may be
# asked instead (larger: only a model with a larger window); retry: whether the
# same target is asked again once nobody else is left; known: whether one such
# failure is enough for the next call.
my %class = (
	billing => { scope => 'provider', next => 'yes', known => 1, error => 'LL001' },
	auth => { scope => 'provider', next => 'yes', known => 1, error => 'LL001' },
	permission => { scope => 'model', next => 'yes', known => 1, error => 'LL001' },
	model_gone => { scope => 'model', next => 'yes', known => 1, error => 'LL001' },
	context_length => { scope => 'none', next => 'larger', error => 'LL003' },
	content_filter => { scope => 'none', next => 'no', error => 'LL003' },
	bad_request => { scope => 'none', next => 'no', error => 'LL003' },
	throttled => { scope => 'target', next => 'yes', known => 1, error => 'LL001' },
	overloaded => { scope => 'target', next => 'yes', retry => 1, error => 'LL001' },
	server => { scope => 'target', next => 'yes', retry => 1, error => 'LL001' },
	network => { scope => 'region', next => 'yes', retry => 1, error => 'LL001' },
	timeout => { scope => 'target', next => 'yes', error => 'LL001' },
	conflict => { scope => 'none', next => 'yes', retry => 1, error => 'LL001' },
	invalid_output =>
	  { scope => 'target', next => 'yes', retry => 1, error => 'LL001' });

# The templates of the simulator: [ class, status ], for all dialects that have
# the template, unless a dialect is named.
my %template = (
	insufficient_quota =>
	  { '*' => [ 'billing', 429 ], anthropic => [ 'billing', 400 ] },
	insufficient_quota_by_type => { '*' => [ 'billing', 429 ] },
	credit_balance_exhausted => { '*' => [ 'billing', 429 ] },
	spend_limit => { '*' => [ 'billing', 429 ] },
	usage_limits => { '*' => [ 'billing', 400 ] },
	payment_required => { '*' => [ 'billing', 402 ] },
	daily_quota => { '*' => [ 'billing', 429 ] },
	moonshot_quota => { '*' => [ 'billing', 429 ] },
	zai_balance => { '*' => [ 'billing', 429 ] },

	invalid_key => { '*' => [ 'auth', 401 ], gemini => [ 'auth', 400 ] },
	unauthenticated => { '*' => [ 'auth', 401 ] },
	echoed_key => { '*' => [ 'auth', 401 ], gemini => [ 'auth', 400 ] },

	forbidden => { '*' => [ 'permission', 403 ] },
	country => { '*' => [ 'permission', 403 ], gemini => [ 'permission', 400 ] },

	model_not_granted => { '*' => [ 'model_gone', 403 ] },
	model_not_found => { '*' => [ 'model_gone', 404 ] },
	ollama_not_found => { '*' => [ 'model_gone', 404 ] },
	vllm_not_found => { '*' => [ 'model_gone', 404 ] },
	resource_not_found => { '*' => [ 'model_gone', 404 ] },

	context_length => { '*' => [ 'context_length', 400 ] },
	vllm_context_length => { '*' => [ 'context_length', 400 ] },
	context_length_413 => { '*' => [ 'context_length', 413 ] },
	window_exceeded => { '*' => [ 'context_length', 200 ] },
	context_words_in_500 => { '*' => [ 'server', 500 ] },

	content_filter => {
		'*' => [ 'content_filter', 400 ],
		anthropic => [ 'content_filter', 200 ],
		gemini => [ 'content_filter', 200 ]
	},
	filtered_answer => { '*' => [ 'content_filter', 200 ] },

	bad_request => { '*' => [ 'bad_request', 400 ] },
	unsupported_parameter => { '*' => [ 'bad_request', 400 ] },
	unprocessable => { '*' => [ 'bad_request', 422 ] },
	too_large => { '*' => [ 'bad_request', 413 ] },
	method_not_allowed => { '*' => [ 'bad_request', 405 ] },
	unsupported_media_type => { '*' => [ 'bad_request', 415 ] },

	rate_limit => { '*' => [ 'throttled', 429 ] },
	rate_limit_silent => { '*' => [ 'throttled', 429 ] },
	rate_limit_ms => { '*' => [ 'throttled', 429 ] },
	rate_limit_reset => { '*' => [ 'throttled', 429 ] },
	slow_down => { '*' => [ 'throttled', 503 ] },
	high_demand => { '*' => [ 'throttled', 429 ] },
	zai_rate_limit => { '*' => [ 'throttled', 429 ] },

	overloaded =>
	  { '*' => [ 'overloaded', 503 ], anthropic => [ 'overloaded', 529 ] },
	engine_overloaded => { '*' => [ 'overloaded', 429 ] },
	loading => { '*' => [ 'overloaded', 503 ] },
	ollama_busy => { '*' => [ 'overloaded', 503 ] },
	unavailable_html => { '*' => [ 'overloaded', 503 ] },

	server_error => { '*' => [ 'server', 500 ] },
	bad_gateway => { '*' => [ 'server', 502 ] },
	gateway_timeout =>
	  { '*' => [ 'server', 504 ], gemini => [ 'timeout', 504 ] },
	cloudflare_520 => { '*' => [ 'server', 520 ] },
	cloudflare_522 => { '*' => [ 'server', 522 ] },
	cancelled => { '*' => [ 'server', 499 ], gemini => [ 'timeout', 499 ] },
	request_timeout => { '*' => [ 'timeout', 408 ] },
	conflict => { '*' => [ 'conflict', 409 ] },

	error_in_200 => {
		'*' => [ 'server', 200 ],
		anthropic => [ 'overloaded', 200 ],
		gemini => [ 'overloaded', 200 ]
	},
	empty_answer => { '*' => [ 'invalid_output', 200 ] },
	null_answer => { '*' => [ 'invalid_output', 200 ] },
	no_choices => { '*' => [ 'invalid_output', 200 ] },
	no_finish => { '*' => [ 'invalid_output', 200 ] },
	not_of_this_dialect => { '*' => [ 'invalid_output', 200 ] });

# What else servers do: behaviour => [ class, status ].
my @others = (
	[ { garbage => 'not_json' }, 'invalid_output', 200 ],
	[ { garbage => 'html' }, 'invalid_output', 200 ],
	[ { garbage => 'deep' }, 'invalid_output', 200 ],
	[ { garbage => 'number' }, 'invalid_output', 200 ],
	[ { garbage => 'empty' }, 'invalid_output', 200 ],
	[ { stream => \1 }, 'invalid_output', 200 ],
	[ { finish => 'no_such_reason' }, 'invalid_output', 200 ],
	[ { redirect => 'http://127.0.0.1:1/' }, 'invalid_output', 302 ],
	[ { raw => "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip" },
		'invalid_output' ],
	[ { reset => 'request' }, 'network' ],
	[ { reset => 'head' }, 'network' ],
	[ { raw => '' }, 'network' ],
	[ { cut => \1 }, 'network' ],
	[ { cut => 0 }, 'network' ]);

# By number, whatever the body is: [ class, statuses ].
my @numbers = (
	[ billing => 402 ],
	[ auth => 401 ],
	[ permission => 403 ],
	[ model_gone => 404, 410 ],
	[ network => 407 ],
	[ content_filter => 498 ],
	[ bad_request => 400, 405, 406, 413, 415, 418, 422, 431, 451 ],
	[ throttled => 429 ],
	[ timeout => 408 ],
	[ conflict => 409 ],
	[ overloaded => 503, 529 ],
	[ server => 424, 499, 500, 501, 502, 504, 520 .. 527, 530, 599, 999 ]);

# What stands in error.code, and the statuses that do not say it.
my @codes = (
	# number, text and nothing at all
	[ 401, { code => 401, message => 'no' }, 'auth' ],
	[ 401, { code => undef, message => 'no' }, 'auth' ],
	[ 429, { code => 'insufficient_quota', message => 'x' }, 'billing' ],
	[ 429, { type => 'insufficient_quota', message => 'x' }, 'billing' ],
	[ 400, { code => 'INSUFFICIENT_QUOTA', message => 'x' }, 'billing' ],
	[ 403, { code => 'model_not_found', message => 'x' }, 'model_gone' ],
	[ 500, { code => 'context_length_exceeded', message => 'x' }, 'server' ],
	[ 400, { code => 'context_length_exceeded', message => 'x' },
		'context_length' ],
	[ 400, { code => 400, message => 'Input is too long for this model' },
		'context_length' ],
	# the error has come with a good status
	[ 200, { code => 429, message => 'x' }, 'throttled' ],
	[ 200, { code => '503', message => 'x' }, 'overloaded' ],
	[ 200, { code => 402, message => 'x' }, 'billing' ],
	[ 200, { code => 400, message => 'x' }, 'bad_request' ],
	[ 200, { code => 'rate_limit_exceeded', message => 'x' }, 'throttled' ],
	[ 200, { message => 'x' }, 'server' ],
	[ 200, { code => 12, message => 'x' }, 'server' ]);

# Codes, with a status that says something else, and words with a bare 400.
my %code_words = (
	billing => [qw(billing_not_active enforced_spend_limit_reached
		  spend_limit_reached organization_spend_limit_exceeded
		  organization_usage_limit_exceeded project_spend_limit_exceeded
		  ServiceQuotaExceededException 1113)],
	auth => [qw(invalid_api_key authentication_error UNAUTHENTICATED
		  UnrecognizedClientException ExpiredTokenException)],
	permission => [qw(permission_error PERMISSION_DENIED AccessDeniedException)],
	model_gone => [qw(DeploymentNotFound ResourceNotFound)],
	content_filter => [qw(ResponsibleAIPolicyViolation content_filter)],
	throttled => [qw(ThrottlingException RESOURCE_EXHAUSTED slow_down 1302)],
	overloaded => [qw(engine_overloaded server_is_overloaded UNAVAILABLE)],
	timeout => [qw(DEADLINE_EXCEEDED timeout_error)]);
my %texts = (
	billing => ['You have reached your specified workspace API usage limits.'],
	context_length => [
		'Input tokens exceed the configured limit of 272000 tokens.',
		'the request exceeds the available context size',
		'The input exceeds the maximum number of tokens', 'too many tokens' ],
	content_filter => ["it triggers Azure OpenAI's content management policy"]);

my $sim = LlmSim->new(listeners => [ 'a', 'b', 'c' ]);
my $node = llm_node('main');

# A tier a dialect, where each candidate is the next one's substitute: two
# models in two regions, then another provider. A second one has the first
# target alone. The second model has the larger window, the other provider's
# is small.
add_provider($node, $sim, 'c', name => 'other', model => undef, path => '/other/v1');
$node->safe_psql('postgres',
	"INSERT INTO llm_model(provider, name, context_window)"
	  . " VALUES ('other', 'm', 50000)");
foreach my $dialect (@dialects)
{
	my $path = { openai => '/v1', gemini => '/v1beta' }->{$dialect} // '';
	add_provider(
		$node, $sim, 'a',
		name => $dialect,
		dialect => $dialect,
		model => undef);
	my @urls = map { $sim->url($_, $path) } 'a', 'b';
	$node->safe_psql(
		'postgres', qq{
		INSERT INTO llm_region(provider, name, base_url, position) VALUES
			('$dialect', 'r1', '$urls[0]', 1), ('$dialect', 'r2', '$urls[1]', 2);
		INSERT INTO llm_model(provider, name, context_window) VALUES
			('$dialect', 'm1', 100000), ('$dialect', 'm2', 200000);
		INSERT INTO llm_tier(name, fallback) VALUES
			('$dialect', NULL), ('$dialect.alone', NULL);
		INSERT INTO llm_route(tier, provider, model, region, position) VALUES
			('$dialect', '$dialect', 'm1', 'r1', 1),
			('$dialect', '$dialect', 'm2', 'r1', 2),
			('$dialect', '$dialect', 'm1', 'r2', 3),
			('$dialect', '$dialect', 'm2', 'r2', 4),
			('$dialect', 'other', 'm', NULL, 5),
			('$dialect.alone', '$dialect', 'm1', 'r1', 1);
	});
}

my $session = llm_session($node);
forget_on_change($node, $sim);

# Calls a tier; returns the SQLSTATE (or nothing) and the attempts, such as
# "|r1/m1 server 500 candidate, default/m ok 200".
sub call
{
	my ($tier) = @_;
	my $result = $session->run(<<"END");
		SELECT r.error_code, (SELECT string_agg(concat_ws(' ',
			a.region || '/' || a.model, a.outcome, a.status, a.next), ', ')
			FROM jsonb_to_recordset(r.trace) a(region text, model text,
				outcome text, status int, next text))
		  FROM llm_respond('Hi', '$tier', on_error => 'null') r
END

	die $result->{err} if $result->{sqlstate};
	return $result->{out};
}

# The attempts of a call in which all targets of the dialect's provider fail
# in this way.
sub expected_attempts
{
	my ($class, $outcome) = @_;
	my %asked = (
		provider => ['r1/m1'],
		region => [ 'r1/m1', 'r2/m1' ],
		model => [ 'r1/m1', 'r1/m2' ]);
	my @asked = @{ $asked{ $class->{scope} }
		  // [ 'r1/m1', 'r1/m2', 'r2/m1', 'r2/m2' ] };

	return "r1/m1 $outcome" if $class->{next} eq 'no';
	return "r1/m1 $outcome candidate, r1/m2 $outcome"
	  if $class->{next} eq 'larger';
	return join('', map { "$_ $outcome candidate, " } @asked)
	  . 'default/m ok 200';
}

# One test: all that follows from this behaviour. What happens when nobody else
# is left, in the next call and in one that knows nothing, is looked at once for
# a class and dialect.
my %seen;

sub check_class
{
	my ($dialect, $behaviour, $name, $what, $status) = @_;
	my $class = $class{$name} // die "there is no class $name";
	my $outcome = defined $status ? "$name $status" : $name;
	my $alone = "$class->{error}|r1/m1 $outcome"
	  . ($class->{retry} ? " retry, r1/m1 $outcome" : '');
	my @want = (($class->{next} eq 'yes' ? '' : $class->{error}) . '|'
		  . expected_attempts($class, $outcome));

	# nobody is waited for here
	$behaviour->{headers}{'retry-after'} = '3600' if $name eq 'throttled';
	# a torn connection that was kept is replaced without a word
	$name eq 'network' && $sim->hang_up($_) for 'a', 'b';
	$sim->behave($behaviour, path => '^(?!/other/)');
	my $before = $sim->count(undef);
	my @got = call($dialect);
	if (!$seen{"$dialect $name"}++)
	{
		push @got, call("$dialect.alone");
		push @want, $class->{known} ? "$class->{error}|" : $alone;
		forget($node);
		push @got, call("$dialect.alone");
		push @want, $alone;
	}
	# the trace hides no request
	push @got, $sim->count(undef) - $before;
	push @want, scalar(() = "@want" =~ m{\w/m}g);
	is(join("\n", @got), join("\n", @want), "$dialect: $what is $outcome");
	$sim->clear;
	return;
}

# Every template in every dialect that has it.
my $templates = decode_json(
	HTTP::Tiny->new->get($sim->admin . '/templates')->{content});
is_deeply([ sort keys %template ],
	[ sort keys %$templates ], 'the templates of the simulator');

foreach my $dialect (@dialects)
{
	foreach my $name (sort keys %template)
	{
		next unless grep { $_ eq '*' || $_ eq $dialect } @{ $templates->{$name} };
		my $want = $template{$name}{$dialect} // $template{$name}{'*'};
		check_class($dialect, { template => $name }, @$want[0], $name,
			@$want[1]);
	}
}

# Garbage and torn connections.
foreach my $dialect (@dialects)
{
	foreach my $other (@others)
	{
		my ($behaviour, $name, $status) = @$other;
		check_class($dialect, {%$behaviour}, $name,
			JSON::PP->new->canonical->encode($behaviour), $status);
	}
}

# By number alone: a body without words, an odd reason phrase, no Content-Type.
foreach my $row (@numbers)
{
	my ($name, @statuses) = @$row;
	foreach my $status (@statuses)
	{
		my %behaviour = (status => $status, reason => 'Because I Say So');
		my $dialect = $dialects[ $status % 4 ];

		check_class($dialect, { %behaviour, body => '', content_type => undef },
			$name, "a bare $status", $status);
		next unless grep { $_ == $status } 401, 429, 529;
		check_class($_,
			{ %behaviour, body => 'sorry', content_type => 'text/plain' },
			$name, "$status in plain text", $status)
		  for @dialects;
	}
}

# Codes of OpenAI's form, on everybody's route.
foreach my $row (@codes)
{
	my ($status, $error, $name) = @$row;
	check_class($_, { status => $status, json => { error => $error } },
		$name, JSON::PP->new->canonical->encode($error) . " with $status",
		$status)
	  for 'openai', 'anthropic';
}

foreach my $name (sort keys %code_words)
{
	check_class('openai', { status => 500, json => { error => { code => $_, message => 'x' } } },
		$name, $_, 500)
	  for @{ $code_words{$name} };
}
foreach my $name (sort keys %texts)
{
	check_class('openai', { status => 400, json => { error => { message => $_ } } },
		$name, $_, 400)
	  for @{ $texts{$name} };
}

# A region whose network fails is left alone in the fallback tier too.
$node->safe_psql(
	'postgres', q{
	INSERT INTO llm_tier(name, fallback) VALUES ('high', 'low'), ('low', NULL);
	INSERT INTO llm_route(tier, provider, model, region, position) VALUES
		('high', 'openai', 'm1', 'r1', 1),
		('low', 'openai', 'm2', 'r1', 1), ('low', 'openai', 'm2', 'r2', 2);
});
$sim->down('a');
is( call('high'),
	'|r1/m1 network retry, r1/m1 network tier, r2/m2 ok 200',
	'a dead region is not asked in the fallback tier');
$sim->up('a');
$sim->behave({ template => 'server_error' }, listener => 'a', model => 'm1');
is( call('high'),
	'|r1/m1 server 500 retry, r1/m1 server 500 tier, r1/m2 ok 200',
	'another model of a region that answered is asked');
$sim->clear;

# A retry is not made where a later failure has put the scope aside.
$sim->behave({ template => 'server_error' }, listener => 'a', model => 'm1');
$sim->behave({ template => 'invalid_key' }, listener => 'a', model => 'm2');
$node->safe_psql('postgres',
	"UPDATE llm_route SET enabled = false WHERE provider = 'other'");
is( call('openai'),
	'LL001|r1/m1 server 500 candidate, r1/m2 auth 401',
	'no retry at a provider that has refused the key');
$sim->clear;
$sim->behave(
	{ template => 'rate_limit', retry_after => 1 },
	listener => 'a',
	model => 'm1');
$sim->behave({ template => 'invalid_key' }, listener => 'a', model => 'm2');
is( call('openai'),
	'LL001|r1/m1 throttled 429 candidate, r1/m2 auth 401',
	'nor is it waited for');
$sim->clear;

# llm_check says what to do.
my %hint = (
	payment_required => qr/^Top up the account at the provider/,
	invalid_key => qr/^Replace the secret llm_secret\.key_openai\.$/,
	forbidden => qr/^Have the model granted/,
	model_not_found => qr/^Look up the model's current name/,
	bad_request => qr/^See params of the route/,
	rate_limit => qr/^Ask again later, or raise the rate limit/,
	overloaded => qr/^Ask again later\.$/,
	server_error => qr/^Ask again later; see the provider's status page/,
	request_timeout => qr/^Check the network, or raise attempt_timeout/,
	conflict => qr/^Ask again later\.$/,
	not_of_this_dialect => qr/^Check that base_url leads to a server/);
foreach my $name (sort keys %hint)
{
	my $status = $template{$name}{'*'}[1];
	$sim->behave({ template => $name }, listener => 'a', model => 'm1');
	my ($ok, $error, $hint) = row_of($node,
		"SELECT ok, error, hint FROM llm_check('openai', 'r1', 'm1')");
	is($ok, 'f', "llm_check: $name");
	like($error, qr/^$status $template{$name}{'*'}[0] after \d+ ms/,
		'... its error');
	like($hint, $hint{$name}, '... its hint');
	$sim->clear;
}
is(join('|', row_of($node, q{SELECT ok, error IS NULL, hint IS NULL
	FROM llm_check('openai', 'r1', 'm1')})),
	't|t|t', 'llm_check: all is well');

$session->quit;
$node->stop;
done_testing();
