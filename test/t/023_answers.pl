# 023_answers.pl: what goes out and what comes back is the same whoever is asked:
# tokens and cost, finish reasons, tools, content of many parts, params, headers,
# every character, long texts; and databases that are not in UTF-8.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Encode qw(decode encode);
use JSON::PP;
use LlmSim;
use LlmTest;
use Test::More;

my @dialects = qw(openai azure anthropic gemini);
my $sim = LlmSim->new(listeners => ['a']);
my $node = llm_node('main');
my $json = JSON::PP->new->canonical;

# A tier and a provider for each dialect, all of the same name.
sub configure
{
	my ($dbname, @names) = @_;
	foreach my $dialect (@names)
	{
		my $path = { openai => '/v1', gemini => '/v1beta' }->{$dialect} // '';
		my $url = $sim->url('a', $path);
		$node->safe_psql(
			$dbname, qq{
			INSERT INTO llm_secret VALUES ('$dialect', 'sk-$dialect-1');
			INSERT INTO llm_provider(name, dialect, base_url, secret) VALUES ('$dialect', '$dialect', '$url', '$dialect');
			INSERT INTO llm_model(provider, name, input_price, output_price, cached_input_price)
				VALUES ('$dialect', 'm', 1.25, 10, 0.125);
			INSERT INTO llm_tier(name) VALUES ('$dialect');
			INSERT INTO llm_route(tier, provider, model) VALUES ('$dialect', '$dialect', 'm')});
	}
	return;
}
configure('postgres', @dialects);

my $session = llm_session($node);
forget_on_change($node, $sim);

sub sql
{
	my ($sql) = @_;
	my $result = $session->run($sql);
	die $result->{err} if $result->{sqlstate};
	return $result->{out};
}

# What the simulator got last, as a Perl structure of characters.
sub sent
{
	return $sim->last_request('a')->{json};
}

sub is_json
{
	my ($got, $want, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($json->encode($got), $json->encode($want), $name);
}

# 1. Tokens: input with the cached ones, output with the reasoning, whatever
# the vendor's way of counting. (600 x 1.25 + 400 x 0.125 + 200 x 10) / 10^6.
my $tokens = 'input_tokens, output_tokens, cached_tokens, cost';
my %usage = (input => 1000, output => 200, cached => 400, reasoning => 50);
foreach my $dialect (@dialects)
{
	my $told = $dialect eq 'anthropic' ? '' : 50;

	$sim->behave({ usage => \%usage });
	is(sql("SELECT $tokens, trace -> 0 ->> 'reasoning_tokens' FROM llm_respond('Hi', '$dialect')"),
		"1000|200|400|0.0028|$told", "$dialect: tokens and cost");
	$sim->clear;
	$sim->behave({ usage => undef });
	is(sql("SELECT answer IS NOT NULL, $tokens FROM llm_respond('Hi', '$dialect')"),
		't||||', "$dialect: nothing is told");
	$sim->clear;
	# two attempts are paid for, the first of them for nothing
	$sim->behave({ usage => \%usage, finish => undef }, times => 1);
	$sim->behave({ usage => \%usage });
	is(sql("SELECT $tokens, attempts FROM llm_respond('Hi', '$dialect')"),
		'1000|200|400|0.0056|2', "$dialect: cost of all attempts");
	$sim->clear;
}
$sim->behave({ usage => { %usage, cache_write => 300 } });
is(sql("SELECT $tokens FROM llm_respond('Hi', 'anthropic')"),
	'1000|200|400|0.0028', 'what is written into the cache is input');
foreach my $price (
	[ 'cached_input_price = NULL', '0.00325', 'cached at the price of input' ],
	[ 'output_price = NULL', '', 'unknown without a price' ],
	[ 'input_price = 0, output_price = 0, cached_input_price = NULL', '0', "one's own server" ],
	[ 'input_price = 0.000001, output_price = 0, cached_input_price = 0', '0.0000000006', 'exact to the last digit' ])
{
	my ($change, $cost, $name) = @$price;
	is( (   split /\n/,
			sql("BEGIN; UPDATE llm_model SET $change; SELECT cost FROM llm_respond('Hi', 'openai'); ROLLBACK")
		)[0] // '',
		$cost,
		"cost: $name");
}
$sim->clear;

# 2. Finish reasons.
my %finish = (
	openai => { stop => 'stop', length => 'length', model_length => 'length', eos => 'stop' },
	azure => { stop => 'stop', length => 'length' },
	anthropic => { end_turn => 'stop', stop_sequence => 'stop', max_tokens => 'length' },
	gemini => { STOP => 'stop', MAX_TOKENS => 'length' });
foreach my $dialect (@dialects)
{
	foreach my $reason (sort keys %{ $finish{$dialect} })
	{
		$sim->behave({ finish => $reason, text => 'Yes.' });
		is( sql("SELECT answer, finish_reason FROM llm_respond('Hi', '$dialect')"),
			"Yes.|$finish{$dialect}{$reason}",
			"$dialect: $reason");
		$sim->clear;
	}
	is( sql("SELECT answer, finish_reason FROM llm_respond('one two three four', '$dialect', max_tokens => 2)"),
		'a/m: one|length',
		"$dialect: cut by max_tokens");
	# thoughts are not the answer, blanks are none
	$sim->behave({ text => 'Four.', reasoning => 'Two and two...' });
	is(sql("SELECT answer, message ->> 'content' FROM llm_respond('2 + 2?', '$dialect')"),
		'Four.|Four.', "$dialect: reasoning is left out");
	$sim->clear;
	$sim->behave({ text => " \n\t", reasoning => 'Two and two...' });
	is( sql("SELECT answer, error_code, trace -> 0 ->> 'outcome' FROM llm_respond('2 + 2?', '$dialect', on_error => 'null')"
		),
		'|LL001|invalid_output',
		"$dialect: blanks are no answer");
	$sim->clear;
	$sim->behave({ model => 'm-2026-01-01' });
	is(sql("SELECT model, trace -> 0 ->> 'answered_as' FROM llm_respond('Hi', '$dialect')"),
		'm|m-2026-01-01', "$dialect: the model has another name");
	$sim->clear;
	is( sql("SELECT trace -> 0 ->> 'request_id' ~ '^[a-z0-9_-]{9,}', trace -> 0 ? 'answered_as' FROM llm_respond('Hi', '$dialect')"
		),
		't|f',
		"$dialect: its name for the request");
}

# 3. Names on the wire: system, temperature, max_tokens.
my $asked =
  q{SELECT answer FROM llm_respond('Hi', '%s', system => 'Be brief.', max_tokens => 50, temperature => 1.5)};
my @chat = ({ role => 'system', content => 'Be brief.' }, { role => 'user', content => 'Hi' });
my %wire = (
	openai => { model => 'm', messages => \@chat, max_tokens => 50, temperature => 1.5 },
	azure => { messages => \@chat, max_completion_tokens => 50, temperature => 1.5 },
	anthropic => {
		model => 'm',
		system => 'Be brief.',
		max_tokens => 50,
		temperature => 1,
		messages => [ { role => 'user', content => [ { type => 'text', text => 'Hi' } ] } ]
	},
	gemini => {
		systemInstruction => { parts => [ { text => 'Be brief.' } ] },
		contents => [ { role => 'user', parts => [ { text => 'Hi' } ] } ],
		generationConfig => { maxOutputTokens => 50, temperature => 1.5 }
	});
my %credential = (
	openai => [ 'authorization', 'Bearer sk-openai-1' ],
	azure => [ 'api-key', 'sk-azure-1' ],
	anthropic => [ 'x-api-key', 'sk-anthropic-1' ],
	gemini => [ 'x-goog-api-key', 'sk-gemini-1' ]);
foreach my $dialect (@dialects)
{
	my ($header, $value) = @{ $credential{$dialect} };
	is(sql(sprintf $asked, $dialect), 'a/m: Hi', "$dialect: a call with everything");
	is_json(sent(), $wire{$dialect}, '... its body');
	is($sim->last_request('a')->{headers}{$header}, $value, '... its key');
	sql("SELECT llm_respond('Hi', '$dialect')");
	unlike(
		$json->encode(sent()),
		qr/temperature|"system|[mM]ax_?(completion_t|t|OutputT)okens":(?!4096)/,
		'... and nothing unasked');
}

# 4. A content of many parts.
my $png = 'data:image/png;base64,iVBORw0KGgo=';
my $parts =
  qq{[{"role":"user","content":[{"type":"text","text":"What is"},{"type":"image_url","image_url":{"url":"$png"}},{"type":"text","text":"this?"}]}]};
my %many = (
	openai => decode_json($parts)->[0]{content},
	azure => decode_json($parts)->[0]{content},
	anthropic => [
		{ type => 'text', text => 'What is' },
		{ type => 'image', source => { type => 'base64', media_type => 'image/png', data => 'iVBORw0KGgo=' } },
		{ type => 'text', text => 'this?' }
	],
	gemini => [
		{ text => 'What is' },
		{ inlineData => { mimeType => 'image/png', data => 'iVBORw0KGgo=' } },
		{ text => 'this?' }
	]);
foreach my $dialect (@dialects)
{
	sql("SELECT llm_chat('$parts', '$dialect')");
	my $sent = sent();
	my $first = ($sent->{messages} // $sent->{contents})->[0];
	is_json($first->{content} // $first->{parts}, $many{$dialect}, "$dialect: text and image");
}

# 5. Tools. What one vendor has called goes back through any other.
my $question = '{"role":"user","content":"Weather?"}';
foreach my $from (@dialects)
{
	$sim->behave({ tool_calls => \1 });
	my ($message, $finish, $answer) = split /\|/,
	  sql("SELECT message, finish_reason, answer FROM llm_chat('[$question]', '$from')"), -1;
	$sim->clear;
	is("$finish $answer", 'tool_calls ', "$from calls a tool");
	my $call = decode_json($message)->{tool_calls}[0];
	is_json(
		{   %$call,
			id => 1,
			function => { %{ $call->{function} }, arguments => decode_json($call->{function}{arguments}) }
		},
		{ id => 1, type => 'function', function => { name => 'get_weather', arguments => { city => 'Paris' } } },
		'... in the form of OpenAI');

	foreach my $to (@dialects)
	{
		my $result = $json->encode({ role => 'tool', tool_call_id => $call->{id}, content => '18 degrees' });
		is(sql("SELECT answer ~ '^a/m: ' FROM llm_chat('[$question,$message,$result]', '$to')"),
			't', "... and $to accepts it");
		my $sent = sent();
		my ($called, $given) = @{ $sent->{messages} // $sent->{contents} }[ 1, 2 ];
		my @got =
		  $to eq 'anthropic'
		  ? (
			@{ $called->{content}[0] }{ 'name', 'input' },
			0 + ($given->{content}[0]{tool_use_id} eq $called->{content}[0]{id}),
			$given->{content}[0]{content})
		  : $to eq 'gemini' ? (
			@{ $called->{parts}[0]{functionCall} }{ 'name', 'args' },
			0 + ($given->{parts}[0]{functionResponse}{name} eq 'get_weather'),
			$given->{parts}[0]{functionResponse}{response}{result})
		  : (
			$called->{tool_calls}[0]{function}{name},
			decode_json($called->{tool_calls}[0]{function}{arguments}),
			0 + ($given->{tool_call_id} eq $called->{tool_calls}[0]{id}),
			$given->{content});
		is_json(\@got, [ 'get_weather', { city => 'Paris' }, 1, '18 degrees' ],
			'... with name, arguments and result');
	}
}

# 6. Params: the call's over the route's over the region's; a null takes away;
# arguments win. In the dialect's own words.
my %keys = (
	openai => [ 'user', 'safety_identifier', 'prompt_cache_key', 'service_tier' ],
	azure => [ 'user', 'safety_identifier', 'prompt_cache_key', 'service_tier' ],
	anthropic => [ 'service_tier', 'container', 'inference_geo', 'context_management' ],
	gemini => [ 'cachedContent', 'serviceTier', 'labels', 'store' ]);
$sim->set('a', lenient => \1);
foreach my $dialect (@dialects)
{
	my @key = @{ $keys{$dialect} };
	my $path = { openai => '/v1', gemini => '/v1beta' }->{$dialect} // '';
	my $region = $json->encode({ map { $_ => 'region' } @key });
	my $route = $json->encode({ map { $_ => 'route' } @key[ 1 .. 3 ] });
	my $call = $json->encode({ $key[2] => 'call', $key[3] => undef, max_tokens => 7, temperature => 0.3 });
	sql(    "BEGIN; INSERT INTO llm_region(provider, name, params) VALUES ('$dialect', 'r', '$region');"
		  . " UPDATE llm_route SET params = '$route' WHERE tier = '$dialect';"
		  . " SELECT llm_respond('Hi', '$dialect', params => '$call', max_tokens => 9, temperature => 0.5); ROLLBACK"
	);
	my $sent = sent();
	is_json([ @$sent{@key} ], [ 'region', 'route', 'call', undef ], "$dialect: params in their order");
	ok(!exists $sent->{ $key[3] }, "$dialect: a null takes a key away");
	my $config = $dialect eq 'gemini' ? $sent->{generationConfig} : $sent;
	my $name = { azure => 'max_completion_tokens', gemini => 'maxOutputTokens' }->{$dialect} // 'max_tokens';
	is_json([ @$config{ $name, 'temperature' } ], [ 9, 0.5 ], "$dialect: arguments win");
}
$sim->set('a', lenient => \0);

# 7. The provider's own headers, also in place of ours.
sql(q{INSERT INTO llm_secret VALUES ('note', 'Bearer other');
	UPDATE llm_provider SET headers = '{"X-Team": "blue", "authorization": "secret:note"}' WHERE name = 'openai'});
sql("SELECT llm_respond('Hi', 'openai')");
my $request = $sim->last_request('a');
is($request->{headers}{'x-team'}, 'blue', 'a header of the provider');
is(join(',', map { $_->[1] } grep { lc $_->[0] eq 'authorization' } @{ $request->{header_list} }),
	'Bearer other', 'one in place of ours');
sql("UPDATE llm_provider SET headers = NULL");

# 8. Every character, there and back; the simulator echoes.
my $odd = q{"quoted" \\ back/slash é ß 漢字 😀 👩‍👩‍👧 ́ ‮rtl } . "\t\r\n\x01\x1f\x7f \xe2\x80\xa8 end";
my $literal = quote_sql($odd) . '::text';
foreach my $dialect (@dialects)
{
	foreach my $ascii (\0, \1)
	{
		$sim->behave({ ascii => $ascii });
		is( sql("SELECT answer = 'a/m: ' || p, message ->> 'content' = answer, octet_length(answer) FROM (SELECT $literal AS p) s, llm_respond(p, '$dialect')"
			),
			't|t|' . (5 + length $odd),
			"$dialect: every character" . ($$ascii ? ', escaped' : ''));
		$sim->clear;
	}
	is( sql("SELECT answer = 'a/m: ' || p FROM (SELECT $literal AS p) s, llm_chat(jsonb_build_array(jsonb_build_object('role', 'user', 'content', p)), '$dialect')"
		),
		't',
		"$dialect: every character of a message");
}
foreach my $garbage ('nul', 'surrogate', 'invalid_utf8')
{
	$sim->behave({ garbage => $garbage });
	my ($answer, $outcome) = split /\|/,
	  sql("SELECT answer, trace -> 0 ->> 'outcome' FROM llm_respond('Hi', 'openai', on_error => 'null')"), -1;
	like("$outcome $answer", qr/^(invalid_output |ok a.*z$)/, "an answer with $garbage in it does no harm");
	is(sql('SELECT 1'), '1', '... to the session');
	$sim->clear;
}

# 9. Ten megabytes each way.
foreach my $dialect (@dialects)
{
	is( sql("SELECT length(answer), answer = 'a/m: ' || p FROM repeat('0123456789', 1024 * 1024) p, llm_respond(p, '$dialect')"
		),
		10 * 1024 * 1024 + 5 . '|t',
		"$dialect: 10 MB there and back");
}
is( sql(q{BEGIN; SET LOCAL llm_failover.max_response_size = '1MB'; SELECT error_code, trace -> 0 ->> 'outcome', trace -> 0 ->> 'error' ~ 'large|1024'
		FROM repeat('x', 2 * 1024 * 1024) p, llm_respond(p, 'openai', on_error => 'null'); ROLLBACK}),
	'LL001|invalid_output|t',
	'no more than max_response_size is read');

# 10. Databases in other encodings. What they have not is replaced, and said.
my $answer = 'é ñ 日本 😀 end';
my %encoding = (
	LATIN1 => [ 'é ñ ?? ? end', 't', 'ä ö' ],
	EUC_JP => [ 'é ñ 日本 ? end', 't', '東京' ],
	SQL_ASCII => [ $answer, '', 'ä 東京 😀' ]);
foreach my $encoding (sort keys %encoding)
{
	my ($want, $replaced, $prompt) = @{ $encoding{$encoding} };
	my $db = lc $encoding;

	$node->safe_psql('postgres',
		"CREATE DATABASE $db ENCODING '$encoding' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->safe_psql($db, 'CREATE EXTENSION llm_failover');
	configure($db, @dialects);
	foreach my $dialect (@dialects)
	{
		my @in = (dbname => $db);
		my $set = "SET client_encoding = 'UTF8';";

		$sim->behave({ text => decode('UTF-8', $answer) });
		my $result = run_sql(
			$node,
			"$set SELECT answer, trace -> 0 ->> 'replaced_characters', message ->> 'content' = answer FROM llm_respond('$prompt', '$dialect', system => '$prompt')",
			@in);
		my ($got, $flag, $same) = split /\|/, $result->{out}, -1;
		is($got, $want, "$encoding, $dialect: the answer");
		is($flag eq 'true' ? 't' : $flag, $replaced, '... replacements are flagged');
		is($same, 't', '... in the message too');
		my $sent = sent();
		my $body = $json->encode($sent);
		is(scalar(() = $body =~ /\Q${\decode('UTF-8', $prompt)}\E/g),
			2, '... the prompt and system were sent in UTF-8');
		$sim->clear;
		next if $encoding eq 'SQL_ASCII';
		$sim->behave(
			{   status => 400,
				json => { error => { message => decode('UTF-8', "no 😀 here"), type => 'invalid_request_error' } }
			});
		$result = psql_error($node, "$set SELECT llm_complete('$prompt', '$dialect')",
			'LL003', qr/no \? here/, '... an error too', @in);
		$sim->clear;
	}
}
psql_error(
	$node, q{SELECT llm_complete(convert_from('\xff', 'SQL_ASCII'), 'openai')},
	'22021', undef,
	'what is no UTF-8 is not sent from SQL_ASCII',
	dbname => 'sql_ascii');

$session->quit;
$node->stop;
done_testing();
