# 035_real_servers.pl: servers that are not the simulator: nginx with HTTP/1.1
# and HTTP/2, as the provider and in front of one, with its own ideas about
# connections and errors; and Python's http.server with HTTP/1.0.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Basename qw(dirname);
use IO::Socket::INET;
use IPC::Open3;
use JSON::PP;
use LlmSim;
use LlmTest;
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

$ENV{PATH} = "$ENV{PATH}:/usr/sbin:/usr/local/sbin";
plan skip_all => 'there is no nginx (Debian: nginx-light)'
  if system('nginx -v >/dev/null 2>&1') != 0;
my $has_http2 = `nginx -V 2>&1` =~ /http_v2_module/;

my $tmp = PostgreSQL::Test::Utils::tempdir_short;
my $sim = LlmSim->new(listeners => [ 'up', 's:https' ]);
my $certs = dirname($sim->ca_file);
my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() }
  qw(h1 h2 h1_brief h2_brief h1_once h2_once inner dead python);
my $answer =
	'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
  . '"message":{"role":"assistant","content":"from nginx"},"finish_reason":"stop"}],'
  . '"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}';
my $large = $answer =~ s/from nginx/'nginx ' x 100_000/er;
my $nginx;

END
{
	local $?;
	stop_nginx() if defined $nginx;
}

# Most places lead to a server behind, so that the request is read before it is
# answered. A file that is asked for by POST needs the detour of 405.
sub configure_nginx
{
	my $http2 = $has_http2 ? ' http2' : '';
	mkdir "$tmp/www";
	append_to_file("$tmp/www/large", $large);
	append_to_file("$tmp/nginx.conf", <<"END");
daemon off;
worker_processes 1;
pid $tmp/pid;
error_log $tmp/error.log notice;
events { worker_connections 256; }
http {
	log_format test '\$server_protocol \$connection \$status \$uri';
	access_log $tmp/access.log test;
	default_type application/json;
	client_body_temp_path $tmp/body;
	proxy_temp_path $tmp/proxy;
	fastcgi_temp_path $tmp/fastcgi;
	uwsgi_temp_path $tmp/uwsgi;
	scgi_temp_path $tmp/scgi;
	client_max_body_size 20m;
	ssl_certificate $certs/good.pem;
	ssl_certificate_key $certs/good.key;
	gzip_types application/json;
	gzip_min_length 10;
	server {
		listen 127.0.0.1:$port{inner};
		access_log off;
		location /plain { return 200 '$answer'; }
		location /large { root $tmp/www; error_page 405 =200 \$uri; try_files /large =404; }
		location /moved { return 301 http://127.0.0.1:$port{inner}/plain; }
	}
	server {
		listen 127.0.0.1:$port{h1};
		listen 127.0.0.1:$port{h2} ssl$http2;
		proxy_http_version 1.1;
		proxy_read_timeout 1s;
		location /plain { proxy_pass http://127.0.0.1:$port{inner}/plain; }
		location /gzip { gzip on; proxy_pass http://127.0.0.1:$port{inner}/plain; }
		location /large { proxy_pass http://127.0.0.1:$port{inner}/large; }
		location /large_gzip { gzip on; proxy_pass http://127.0.0.1:$port{inner}/large; }
		location /upstream/ { proxy_pass http://127.0.0.1:@{[ $sim->port('up') ]}/; }
		location /early { return 200 '$answer'; }
		location /dead { proxy_pass http://127.0.0.1:$port{dead}; }
		location /small { client_max_body_size 1k; proxy_pass http://127.0.0.1:$port{dead}; }
		location /refused { return 403; }
		location /moved { proxy_pass http://127.0.0.1:$port{inner}/moved; }
		location /dropped { return 444; }
	}
	server {
		listen 127.0.0.1:$port{h1_brief};
		listen 127.0.0.1:$port{h2_brief} ssl$http2;
		keepalive_timeout 1s;
		keepalive_requests 3;
		location / { proxy_pass http://127.0.0.1:$port{inner}/plain; }
	}
	server {
		listen 127.0.0.1:$port{h1_once};
		listen 127.0.0.1:$port{h2_once} ssl$http2;
		keepalive_timeout 0;
		location / { proxy_pass http://127.0.0.1:$port{inner}/plain; }
	}
}
END
	return;
}

sub start_nginx
{
	open(my $log, '>>', "$tmp/nginx.log") or die "open: $!";
	$nginx = open3(
		my $in, '>&' . fileno($log), undef, 'nginx',
		'-p', $tmp, '-e', "$tmp/error.log",
		'-c', "$tmp/nginx.conf");
	my $until = time + 30;
	until (IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port{h1}"))
	{
		die 'nginx does not start: ' . slurp_file("$tmp/nginx.log")
		  if time > $until || waitpid($nginx, WNOHANG) != 0;
		sleep 0.02;
	}
	return;
}

sub stop_nginx
{
	kill 'TERM', $nginx;
	waitpid $nginx, 0;
	$nginx = undef;
	return;
}

# How many worker processes of nginx have ended.
sub worker_exits
{
	my @exits = slurp_file("$tmp/error.log") =~ /worker process \d+ exited/g;
	return scalar @exits;
}

# The lines of the access log since the last time: [protocol, connection,
# status, path]. It is written a moment after the answer, so a number to wait
# for is given.
my $lines_seen = 0;

sub accessed
{
	my ($n) = @_;
	my $until = time + 30;
	my @lines;
	do { sleep 0.01; @lines = split /\n/, slurp_file("$tmp/access.log") }
	  until @lines >= $lines_seen + $n || time > $until;
	my @new = @lines[ $lines_seen .. $#lines ];
	$lines_seen = @lines;
	return map { [split] } @new;
}

# How many different connections there are in such lines.
sub connections
{
	my %seen = map { $_->[1] => 1 } @_;
	return scalar keys %seen;
}

configure_nginx();
start_nginx();
my $node = llm_node('main');
$node->safe_psql('postgres',
	"ALTER SYSTEM SET llm_failover.ca_file = '" . $sim->ca_file . "'");
$node->reload;
my $session = llm_session($node);
forget_on_change($node, $sim);

# Where a place is, by either protocol.
sub base_url
{
	my ($protocol, $place) = @_;
	my $port = $port{"${protocol}_$place"} // $port{$protocol};
	return ($protocol eq 'h1' ? 'http' : 'https') . "://127.0.0.1:$port/$place";
}

# A tier for each place: the path of nginx, by either protocol.
my @places =
  qw(plain gzip large large_gzip brief once upstream early dead small refused moved dropped);
foreach my $protocol ('h1', 'h2')
{
	foreach my $place (@places)
	{
		my $name = "$protocol-$place";
		my $url = base_url($protocol, $place);
		add_tier($node, $name, max_attempts => 1);
		$node->safe_psql(
			'postgres', "SET client_min_messages = warning;
			INSERT INTO llm_secret VALUES ('${protocol}_$place', 'sk-$name');
			INSERT INTO llm_provider(name, dialect, base_url, secret) VALUES ('$name', 'openai', '$url', '${protocol}_$place');
			INSERT INTO llm_route(tier, provider, model) VALUES ('$name', '$name', 'm')");
	}
}

# Calls to a place: how many, and their attempts and answers summed up.
sub ask
{
	my ($tier, $calls, $prompt) = @_;
	$prompt //= "'Hello ' || i";
	my $r = $session->run(
		"SELECT concat_ws(' ', count(r.answer), sum(r.attempts), min(left(r.answer, 10)), min(length(r.answer)))"
		  . " FROM generate_series(1, $calls) i, llm_respond($prompt, '$tier') r");
	return $r->{out} || $r->{err};
}

# One test: the only attempt fails like this.
sub is_failed
{
	my ($tier, $outcome, $status, $reason, $prompt) = @_;
	$prompt //= "'Hello'";
	my $r = $session->run(
		"SELECT trace -> 0 FROM llm_respond($prompt, '$tier', on_error => 'null', allow_degraded => false)"
	);
	my $attempt = decode_json($r->{out} || '{}');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( ($attempt->{outcome} // '') eq $outcome
		  && ($attempt->{status} // 0) == ($status // 0)
		  && ($attempt->{error} // '') =~ $reason,
		"$tier: $outcome") or diag explain $r->{err}, $attempt;
	return;
}

foreach my $protocol ('h1', 'h2')
{
	my $version = $protocol eq 'h1' ? 'HTTP/1.1' : 'HTTP/2.0';
	my @lines;

  SKIP:
	{
		skip 'nginx without HTTP/2', 1 if $protocol eq 'h2' && !$has_http2;

		# kept connections
		accessed(0);
		is(ask("$protocol-plain", 5), '5 5 from nginx 10', "$protocol: five calls");
		@lines = accessed(5);
		is(join(' ', map { $_->[0] } @lines), join(' ', ($version) x 5), "by $version");
		is(connections(@lines), 1, 'over one connection');
		is(ask("$protocol-gzip", 2), '2 2 from nginx 10', "$protocol: gzip, chunked");
		is(ask("$protocol-large", 2), '2 2 nginx ngin 600000', "$protocol: a large answer");
		is( ask("$protocol-large_gzip", 2),
			'2 2 nginx ngin 600000',
			"$protocol: a large one, gzip");
		is(connections(@lines, accessed(6)), 1, 'over the same connection');
		is( ask("$protocol-early", 1, "repeat('Hello world. ', 800000)"),
			'1 1 from nginx 10',
			"$protocol: a prompt of 10 MB that nobody reads");
		is( ask("$protocol-plain", 1, "repeat('Hello world. ', 800000)"),
			'1 1 from nginx 10',
			"$protocol: one that is read");
		is(ask("$protocol-plain", 2), '2 2 from nginx 10', "$protocol: and afterwards");
		accessed(4);

		# nginx ends connections as it likes
		is( ask("$protocol-brief", 10),
			'10 10 from nginx 10',
			"$protocol: three requests a connection");
		@lines = accessed(10);
		cmp_ok(connections(@lines), '>=', 3, 'several connections');
		sleep 1.3;
		is( ask("$protocol-brief", 1),
			'1 1 from nginx 10',
			"$protocol: idle for longer than nginx waits");
		is(ask("$protocol-once", 4), '4 4 from nginx 10', "$protocol: no keep-alive");
		accessed(5);

		# a server in front of another
		is( ask("$protocol-upstream", 3),
			'3 3 up/m: Hell 13',
			"$protocol: a provider behind nginx");
		is( ask("$protocol-upstream", 1, "repeat('Hello ', 100000)"),
			'1 1 up/m: Hell 600006',
			"$protocol: much text both ways");
		is( $sim->last_request('up')->{headers}{authorization},
			"Bearer sk-$protocol-upstream",
			'the key gets through');
		$sim->behave({ template => 'rate_limit' }, listener => 'up', times => 1);
		is_failed("$protocol-upstream", 'throttled', 429, qr/./);
		$sim->behave({ hang => \1 }, listener => 'up', times => 1);
		is_failed("$protocol-upstream", 'server', 504, qr/504 Gateway Time-out/);
		$sim->behave({ cut => \1 }, listener => 'up', times => 1);
		is_failed("$protocol-upstream", 'network', undef, qr/./);
		$sim->behave({ reset => 'request' }, listener => 'up', times => 1);
		is_failed("$protocol-upstream", 'server', 502, qr/502 Bad Gateway/);
		is_failed("$protocol-dead", 'server', 502, qr/502 Bad Gateway/);
		is_failed(
			"$protocol-small", 'bad_request', 413,
			qr/413 Request Entity Too Large/,
			"repeat('Hello ', 1000)");
		is_failed(
			"$protocol-small", 'bad_request', 413,
			qr/413 Request Entity Too Large/,
			"repeat('Hello ', 1000000)");
		is_failed("$protocol-refused", 'permission', 403, qr/403 Forbidden/);
		is_failed("$protocol-moved", 'invalid_output', 301, qr/301 Moved/);
		is_failed("$protocol-dropped", 'network', undef, qr/./);
		is(ask("$protocol-plain", 2), '2 2 from nginx 10', "$protocol: after all these");

		# nginx is restarted under us
		stop_nginx();
		is_failed("$protocol-plain", 'network', undef, qr/connection refused/);
		start_nginx();
		is(ask("$protocol-plain", 2), '2 2 from nginx 10', "$protocol: started again");
		my $exits = worker_exits();
		kill 'HUP', $nginx;
		is( ask("$protocol-plain", 50),
			'50 50 from nginx 10',
			"$protocol: while its configuration is read again");
		my $until = time + 30;
		sleep 0.02 until worker_exits() > $exits || time > $until;
		is(ask("$protocol-plain", 2), '2 2 from nginx 10', "$protocol: by the new worker");
	}
}

# Many targets at once.
my @good = qw(plain gzip large large_gzip brief once upstream);
$node->safe_psql('postgres',
		"UPDATE llm_provider SET enabled = regexp_replace(name, '^h[12]-', '') IN ('"
	  . join("', '", @good)
	  . "')");
accessed(0);
foreach my $time ('first', 'second')
{
	is( $session->run('SELECT count(*), count(*) FILTER (WHERE ok) FROM llm_check()')
		  ->{out},
		2 * @good . '|' . 2 * @good,
		"llm_check() of all targets at once, the $time time");
}
my @lines = accessed(4 * @good);
is(scalar(grep { $_->[0] eq 'HTTP/2.0' } @lines), 2 * @good, 'half of them by HTTP/2')
  if $has_http2;
my (%seen, @new);
foreach my $line (grep { $_->[3] !~ /brief|once/ } @lines)
{
	$seen{ $line->[1] }++;
	push @new, $line->[1] if keys %seen > 2 * (@good - 2);
}
is("@new", '', 'the second time by kept connections');

# --- Python's http.server: HTTP/1.0, a connection each, headers of its own.

my $server = <<'END';
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
END
my $python = open3(my $in, '>&STDERR', undef, $ENV{PYTHON} // 'python3',
	'-c', $server, $port{python}, $answer);
sleep 0.02
  until IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port{python}")
  || waitpid($python, WNOHANG) != 0;
foreach my $path ('v1', 'v2')
{
	add_tier($node, "python-$path", max_attempts => 1);
	$node->safe_psql(
		'postgres', "SET client_min_messages = warning;
		INSERT INTO llm_provider(name, dialect, base_url) VALUES ('python-$path', 'openai', 'http://127.0.0.1:$port{python}/$path');
		INSERT INTO llm_route(tier, provider, model) VALUES ('python-$path', 'python-$path', 'm')"
	);
}
is(ask('python-v1', 5), '5 5 from nginx 10', 'http.server: five calls');
is( ask('python-v1', 1, "repeat('Hello ', 1000000)"),
	'1 1 from nginx 10',
	'http.server: a large prompt');
is_failed('python-v2', 'model_gone', 404, qr/Error code: 404/);
kill 'TERM', $python;
waitpid $python, 0;
is_failed('python-v1', 'network', undef, qr/connection refused/);

$session->quit;
$node->stop;
done_testing();
