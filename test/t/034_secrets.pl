# 034_secrets.pl: keys come from where they are kept, go to whom they belong,
# and to nobody else: not into the log at its most talkative, an error, a
# trace, a view or a dump, not even when a provider says them to our face.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use LlmSim;
use LlmTest;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $tmp = PostgreSQL::Test::Utils::tempdir;
my %dialect = (env => 'azure', file => 'anthropic', stored => 'openai', header => 'gemini');
my @kinds = sort keys %dialect;

# Keys with all that a text may be quoted for.
my %key = map {
		$_ => "sk-$_-" . 'Zq7/'
	  . (join '', map { chr(65 + (7 * $_) % 26) } 1 .. 12)
	  . '+"\\<&>='
	  . "-$_-T9x2Lw8Rk5Vp3Ns"
} @kinds, 'extra', 'region';

my $sim = LlmSim->new(listeners => [@kinds]);
my $node = llm_node('main', env => { LLM_KEY => $key{env}, LLM_EXTRA => $key{extra} });
my $json = JSON::PP->new->utf8->allow_nonref;

# Puts a file with this content in the place of the old one, as one should.
sub replace_file
{
	my ($name, $content) = @_;
	append_to_file("$tmp/$name.new", $content);
	rename "$tmp/$name.new", "$tmp/$name" or die "rename: $!";
	return;
}

# Each provider in a tier of its own, and one tier of all of them.
replace_file('key', "$key{file}\n");
replace_file('region', $key{region});
foreach my $kind (@kinds)
{
	add_tier($node, $kind, max_attempts => 1);
	add_provider(
		$node, $sim, $kind,
		dialect => $dialect{$kind},
		key => undef,
		tier => $kind);
}
add_tier($node, 'all');
$node->safe_psql(
	'postgres', qq{
SET client_min_messages = warning;
INSERT INTO llm_route(tier, provider, model, position) SELECT 'all', name, 'm-' || name,
	array_position('{env,file,header,stored}'::text[], name) FROM llm_provider;
INSERT INTO llm_secret VALUES ('stored', }
	  . quote_sql($key{stored}) . qq{), ('header', } . quote_sql($key{header}) . qq{);
UPDATE llm_provider SET secret = 'env:LLM_KEY', headers = '{"X-Extra": "env:LLM_EXTRA"}' WHERE name = 'env';
UPDATE llm_provider SET secret = 'file:$tmp/key' WHERE name = 'file';
UPDATE llm_provider SET secret = 'stored' WHERE name = 'stored';
UPDATE llm_provider SET headers = '{"x-goog-api-key": "secret:header"}' WHERE name = 'header';
});
$sim->set('header', keys => 'optional');

# From here on the server tells all that it can.
$node->append_conf(
	'postgresql.conf', q{
log_statement = all
log_min_messages = debug5
log_min_error_statement = debug5
log_error_verbosity = verbose
log_duration = on
debug_print_plan = on
track_activity_query_size = 100kB
});
$node->reload;
my $session = llm_session($node);
forget_on_change($node, $sim);
$session->run("SET client_min_messages = debug5");
my $said = '';    # all that a client was told
my $pieces;       # of keys

# Runs SQL and keeps what was said.
sub ask
{
	my ($sql) = @_;
	my $result = $session->run($sql);
	$said .= "$result->{out}\n$result->{err}\n";
	return $result;
}

# How a key may be written in a text.
sub spellings
{
	my ($key) = @_;
	my $in_json = $json->encode($key) =~ s/^"|"$//gr;
	my %html = ('<' => '&lt;', '>' => '&gt;', '&' => '&amp;', '"' => '&quot;');
	return (
		plain => $key,
		json => $in_json,
		'json of PHP' => $in_json =~ s{/}{\\/}gr,
		'json in json' => $json->encode($in_json) =~ s/^"|"$//gr,
		'u escapes' => join('', map { sprintf '\\u%04x', ord } split //, $key),
		'U escapes' => join('', map { sprintf '\\u%04X', ord } split //, $key),
		percent => join('', map { /[\w.~-]/ ? $_ : sprintf '%%%02X', ord } split //, $key),
		html => $key =~ s/([<>&"])/$html{$1}/gr,
		'numeric html' => join('', map { sprintf '&#%d;', ord } split //, $key));
}

# All pieces of all spellings of the keys, as one pattern. Long enough not to be
# found by chance.
sub pieces
{
	my %piece;
	foreach my $key (values %key)
	{
		my %spelt = spellings($key);
		foreach my $spelling (sort keys %spelt)
		{
			my $width = $spelling =~ /escapes|numeric/ ? 60 : 12;
			$piece{ substr($spelt{$spelling}, $_, $width) } = 1
			  foreach 0 .. length($spelt{$spelling}) - $width;
		}
	}
	my $pattern = join '|', map { quotemeta } sort keys %piece;
	return qr/$pattern/;
}

# The first piece of a key in a text; '' is good.
sub find_leak
{
	my ($text) = @_;
	$pieces //= pieces();
	return $text =~ /($pieces)/ ? $1 : '';
}

# One test: the call fails, and nothing of its key is said.
sub is_hushed
{
	my ($tier, $name) = @_;
	my $r = ask("SELECT llm_complete('Hello', '$tier', allow_degraded => false)");
	my $last = ask("SELECT error, error_code, trace, message FROM llm_last()");
	my $text = "$r->{err}\n$last->{out}";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $r->{sqlstate}, "$name: fails") or diag $r->{out};
	is(find_leak($text), '', "$name: no piece of a key");
	return $text;
}

# --- 1. Each key goes to whom it belongs.

foreach my $kind (@kinds)
{
	my $r = ask("SELECT llm_complete('Hello', '$kind')");
	is($r->{sqlstate}, undef, "$kind: answered") or diag $r->{err};
}

# Which keys a provider was told in all its requests.
sub keys_at
{
	my ($listener) = @_;
	my $log = join "\n", map {
		$_->{target}, $_->{body} // '',
		  map { @$_ }
		  @{ $_->{header_list} }
	} $sim->log($listener);
	return join ' ', grep { index($log, $key{$_}) >= 0 } sort keys %key;
}
is(keys_at('env'), 'env extra', 'env: and the header from the environment');
is(keys_at('file'), 'file', 'file:');
is(keys_at('stored'), 'stored', 'llm_secret');
is(keys_at('header'), 'header', 'secret: in a header');

# Failing over takes no key along, nor does a redirect.
$sim->behave({ template => 'overloaded' }, listener => $_, times => 1)
  foreach 'env', 'file';
$sim->behave(
	{ redirect => $sim->url('stored', '/v1/chat/completions'), status => 307 },
	listener => 'header',
	times => 1);
is(ask("SELECT provider, attempts FROM llm_respond('Hello', 'all')")->{out},
	'stored|4', 'the fourth one answers');
is(keys_at('env'), 'env extra', 'failover: env has only its own');
is(keys_at('file'), 'file', 'failover: file');
is(keys_at('header'), 'header', 'failover: header');
is(keys_at('stored'), 'stored', 'failover: stored');

# A region's key in the place of the provider's.
ask("BEGIN; INSERT INTO llm_region(provider, name, secret) VALUES ('file', 'eu', 'file:$tmp/region')"
);
my $since = ($sim->log('file'))[-1]{id};
ask("SELECT llm_complete('Hello', 'file')");
ask('ROLLBACK');
my ($request) = $sim->log('file', since => $since);
is($request->{headers}{'x-api-key'}, $key{region}, "a region's own key");
ask("SELECT llm_complete('Hello', 'file')");
is($sim->last_request('file')->{headers}{'x-api-key'}, $key{file}, "then the provider's");

# --- 2. Rotation.

$sim->set($_, keys => [ $key{$_} ]) foreach 'file', 'stored';
my %old = map { $_ => $key{$_} } 'file', 'stored';
$_ =~ s/Zq7/Zr8/ foreach @key{ keys %old };
$pieces = undef;
$sim->set($_, keys => [ $key{$_} ]) foreach 'file', 'stored';
like(is_hushed('file', 'the old key'), qr/401 auth/, 'is refused');
replace_file('key', $key{file});
is(ask("SELECT llm_complete('Hello', 'file')")->{sqlstate}, undef, 'a file is read again');
like(is_hushed('stored', 'the old key'), qr/401 auth/, 'is refused');
$node->safe_psql('postgres',
	'SET log_statement = none; SET log_min_error_statement = panic; SET log_min_messages = panic;'
	  . ' SET debug_print_plan = off; SET log_duration = off;'
	  . " SELECT 1; UPDATE llm_secret SET value = "
	  . quote_sql($key{stored})
	  . " WHERE name = 'stored'");
is(ask("SELECT llm_complete('Hello', 'stored')")->{sqlstate},
	undef, 'a new value is seen at once');
replace_file('key', $old{file});
like(is_hushed('file', 'the old file'), qr/401 auth/, 'is refused');
%key = (%key, map { ("old_$_" => $old{$_}) } keys %old);
$pieces = undef;
replace_file('key', "$key{file}\r\n");
is(ask("SELECT llm_complete('Hello', 'file')")->{sqlstate},
	undef, 'a line end is none of the key');

# --- 3. A key that cannot be had puts its candidate out, and says why.

my %broken = (
	missing => [ sub { unlink "$tmp/key" }, qr/could not read ".*key": No such file/ ],
	empty => [ sub { replace_file('key', '') }, qr/file ".*key" is empty/ ],
	blank => [ sub { replace_file('key', " \n\n") }, qr/file ".*key" is empty/ ],
	'of two lines' => [
		sub { replace_file('key', "$key{file}\n$key{file}\n") },
		qr/file ".*key" contains control characters/
	],
	'too large' => [
		sub { replace_file('key', 'k' x 65537) },
		qr/could not read ".*key": larger than 64 kB/
	],
	'a directory' =>
	  [ sub { mkdir "$tmp/key" }, qr/could not read ".*key": not a regular file/ ],
	'a FIFO' =>
	  [ sub { mkfifo("$tmp/key", 0600) }, qr/could not read ".*key": not a regular file/ ]);
$broken{unreadable} = [
	sub { replace_file('key', $key{file}); chmod 0, "$tmp/key" },
	qr/could not read ".*key": Permission denied/
  ]
  if $> != 0;
foreach my $name (sort keys %broken)
{
	my ($break, $reason) = @{ $broken{$name} };
	-d "$tmp/key" ? rmdir "$tmp/key" : unlink "$tmp/key";
	$break->();
	my $requests = $sim->count('file');
	my $began = time;
	my $text = is_hushed('file', "a key file that is $name");
	like($text, $reason, 'says why');
	like($text, qr/LL006/, 'LL006');
	cmp_ok(time - $began, '<', 5, 'at once');
	is($sim->count('file'), $requests, 'nothing was sent');
	$sim->behave({ status => 503 }, listener => 'env', times => 1);
	is(ask("SELECT provider, attempts FROM llm_respond('Hello', 'all')")->{out},
		'header|2', 'the next one answers');
	my $check = ask("SELECT ok, error FROM llm_check('file')")->{out};
	like($check, $reason, 'llm_check() says so');
	like($check, qr/^f/, 'and that it is not ok');
}
-d "$tmp/key" ? rmdir "$tmp/key" : unlink "$tmp/key";
replace_file('key', $key{file});
is(ask("SELECT llm_complete('Hello', 'file')")->{sqlstate}, undef, 'set right');

# --- 4. A provider says the key.

# Each way to say it, of a key in some spelling: a behaviour.
my %saying = (
	'in an error' => sub {
		{
			status => 500,
			json =>
			  { error => { message => "bad key $_[0] given", type => 'x', code => 'y' } }
		}
	},
	'in code, type and param' => sub {
		{
			status => 400,
			json => {
				error => { message => 'no', type => $_[0], code => $_[0], param => $_[0] }
			}
		}
	},
	'in an error of words' => sub { { status => 401, json => { error => "key $_[0]" } } },
	'in detail' =>
	  sub { { status => 422, json => { detail => [ { msg => "key $_[0]", loc => [] } ] } } }
	,
	'in an error with 200' => sub { { json => { error => { message => "key $_[0]" } } } },
	'in HTML' => sub {
		{ status => 502, body => "<html><h1>502</h1>Authorization: Bearer $_[0]</html>" }
	},
	'in words' => sub { { body => "Your request with $_[0] failed" } },
	'alone' => sub { { status => 403, body => $_[0] } },
	'in a stream' =>
	  sub { { body => "event: error\ndata: {\"error\":{\"message\":\"$_[0]\"}}\n\n" } },
	'in half a body' =>
	  sub { { transfer => 'close', body => "{\"error\":{\"message\":\"key $_[0] is" } },
	'in headers' => sub {
		my $k = $_[0] =~ s/[^\x20-\x7e]//gr;
		{
			status => 500,
			headers => {
				'x-request-id' => $k,
				'request-id' => $k,
				'apim-request-id' => $k,
				'retry-after' => $k,
				'Location' => $k,
				'Content-Type' => $k
			}
		};
	},
	'in a status line' =>
	  sub { { raw => "HTTP/1.1 500 $_[0]\r\nContent-Length: 0\r\n\r\n" } },
	'in another protocol' => sub { { raw => "$_[0]\r\n$_[0]\r\n" } },
	'in an encoding' => sub {
		{ raw =>
			  "HTTP/1.1 200 OK\r\nContent-Encoding: $_[0]\r\nContent-Length: 2\r\n\r\n{}" }
	},
	'in a version' => sub { { raw => "HTTP/$_[0] 200 OK\r\n\r\n{}" } },
	'in a length' =>
	  sub { { raw => "HTTP/1.1 200 OK\r\nContent-Length: -$_[0]\r\n\r\n{}" } },
	'behind many others' => sub {
		{
			status => 500,
			json => {
				error =>
				  { message => "$_[0] " x 100, metadata => { raw => "$_[0] " x 100 } }
			}
		}
	});
foreach my $kind (@kinds)
{
	my %spelt = spellings($key{$kind});
	foreach my $saying (sort keys %saying)
	{
		foreach my $spelling ($kind eq 'stored'
			|| $saying eq 'in words' ? sort keys %spelt : ('plain', 'json'))
		{
			next if $saying eq 'in headers' && $spelling ne 'plain';
			$sim->behave(
				$saying{$saying}->($spelt{$spelling}),
				listener => $kind,
				times => 1);
			is_hushed($kind, "$kind, $saying, $spelling");
			$sim->clear;
		}
	}
}
# an extra header's key is one, too
$sim->behave($saying{'in an error'}->($key{extra}), listener => 'env', times => 1);
is_hushed('env', 'the key of an additional header');

# The text may end, or be cut, within the key.
foreach my $limit (200, 500, 2000, 100)
{
	foreach my $inside (6, 12, 25, length($key{stored}) - 1)
	{
		my $lead = 'x' x ($limit - $inside - 1) . ' ';
		my @ways = (
			[ 'plain', { status => 500, body => "$lead$key{stored} and more" } ],
			[
				'JSON',
				{
					status => 500,
					json => {
						error => {
							message => "$lead$key{stored} and more",
							type => "$lead$key{stored}"
						}
					}
				}
			],
			[ 'no answer', { body => "$lead$key{stored} and more" } ],
			[
				'header',
				{
					status => 500,
					headers => { 'x-request-id' => "$lead$key{stored} and more" }
				}
			]);
		foreach my $way (@ways)
		{
			$sim->behave($way->[1], listener => 'stored', times => 1);
			my $text =
			  is_hushed('stored', "$way->[0], cut at $limit, $inside bytes within the key");
			unlike($text, qr/x sk-stored-/, 'nor its beginning') if $inside < 12;
		}
	}
}

# A model of the provider's choosing, in an answer that is good.
$sim->behave({ model => $key{stored} }, listener => 'stored', times => 1);
ask("SELECT * FROM llm_respond('Hello', 'stored')");
$sim->behave({ template => 'echoed_key' }, listener => $_, times => 1),
  is_hushed($_, "$_ echoes the key")
  foreach @kinds;

# --- 5. Nothing is left anywhere.

$sim->behave({ template => 'echoed_key' }, listener => 'all');
ask($_)
  foreach 'SELECT * FROM llm_check()', 'SELECT * FROM llm_routing',
  'SELECT * FROM llm_health',
  "SELECT * FROM llm_explain('Hello', 'all')", 'SELECT * FROM llm_last()',
  'SELECT * FROM pg_stat_activity',
  'TABLE llm_provider', 'TABLE llm_region', 'SELECT name FROM llm_secret', 'ANALYZE',
  'SELECT * FROM pg_stats',
  "SELECT * FROM pg_settings WHERE name LIKE 'llm%'";
ask("INSERT INTO llm_secret VALUES ('stored', 'x')");
ask("INSERT INTO llm_secret VALUES ('Bad Name', 'y')");
ask("UPDATE llm_provider SET secret = value FROM llm_secret s WHERE s.name = 'stored' AND llm_provider.name = 'stored'"
);
ask("UPDATE llm_provider SET headers = jsonb_build_object('authorization', value) FROM llm_secret s WHERE s.name = 'stored'"
);
ask("UPDATE llm_secret SET value = value || E'\\n' WHERE name = 'stored'");
ask("UPDATE llm_secret SET name = upper(name)");
ask("UPDATE llm_secret SET value = 'env:' || value");
ask("SELECT * FROM llm_check('no such provider')");
is(find_leak($said), '', 'in all that a client was told');

my ($dump) = run_command([ 'pg_dump', '-p', $node->port, '-h', $node->host, 'postgres' ]);
like($dump, qr/COPY public\.llm_provider/, 'a dump has the configuration');
is(find_leak($dump), '', 'and no key');
$session->quit;
$node->stop;
my $log = slurp_file($node->logfile);
cmp_ok(length $log, '>', 1_000_000, 'the log is talkative');
is(find_leak($log), '', 'and has no key');
done_testing();
