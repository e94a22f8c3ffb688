
=pod

=head1 NAME

LlmTest - a server with llm_failover, and questions to it, for TAP tests

=head1 SYNOPSIS

  use FindBin;
  use lib "$FindBin::RealBin/../lib";
  use LlmSim;
  use LlmTest;
  use PostgreSQL::Test::Utils;
  use Test::More;

  my $sim = LlmSim->new(listeners => [ 'a', 'b' ]);
  my $node = llm_node('main');
  add_provider($node, $sim, 'a', model => 'gpt-5');
  add_provider($node, $sim, 'b', dialect => 'anthropic', position => 2);

  my $answer = psql_ok($node, "SELECT llm_complete('Hello')");
  psql_error($node, "SELECT llm_complete('Hello', 'no such tier')",
      'LL006', qr/tier "no such tier" does not exist/);

  $sim->behave({ hang => \1 });
  my $session = llm_session($node);
  $session->start("SELECT llm_complete('Hello')");
  $session->wait_in_call;
  my $ended = $session->cancel;
  is($ended->{sqlstate}, '57014');

=cut

package LlmTest;

use strict;
use warnings FATAL => 'all';

use Carp;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  llm_node
  add_provider
  add_tier
  clear_config
  psql_ok
  psql_error
  run_sql
  row_of
  llm_session
  quote_sql
);

# What follows the host in a provider's base_url.
my %BASE_PATH = (openai => '/v1', azure => '', anthropic => '', gemini => '');

# No test goes through the proxy of whoever runs it.
delete @ENV{ map { $_, uc } qw(http_proxy https_proxy all_proxy no_proxy) };

# What each test would write into postgresql.conf.
my $CONF = <<'END';
shared_preload_libraries = 'llm_failover'
log_min_messages = log
log_statement = none
END

=pod

=head1 FUNCTIONS

=over

=item llm_node(name, conf => '...', env => {...}, init => [...], extension => 1)

A running server of its own that has llm_failover in database postgres. C<env>
is the environment it is started with, C<init> goes to initdb's wrapper, e.g.
C<[ extra =E<gt> [ '-E', 'LATIN1', '--locale=C' ] ]>.

=cut

sub llm_node
{
	my ($name, %args) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@{ $args{init} // [] });
	$node->append_conf('postgresql.conf', $CONF . ($args{conf} // ''));
	{
		local @ENV{ keys %{ $args{env} // {} } } = values %{ $args{env} // {} };
		$node->start;
	}
	$node->safe_psql('postgres', 'CREATE EXTENSION llm_failover')
	  unless defined $args{extension} && !$args{extension};
	return $node;
}

=pod

=item quote_sql(value)

An SQL literal; NULL for undef.

=cut

sub quote_sql
{
	my ($value) = @_;
	return 'NULL' unless defined $value;
	$value =~ s/'/''/g;
	return $value =~ /\\/ ? do { $value =~ s/\\/\\\\/g; "E'$value'" }
	  : "'$value'";
}

=pod

=item add_provider(node, sim, listener, name => ..., dialect => ..., ...)

Inserts a provider that leads to a listener of the simulator, with a key in
llm_secret, and a route to a model. C<name> is the listener's if not given,
C<dialect> openai, C<model> C<model-NAME> (undef: no route), C<tier> default,
C<position> 1, C<weight> 1, C<key> C<sk-NAME-secret> (undef: none), C<path>
what follows the host in base_url.

=cut

sub add_provider
{
	my ($node, $sim, $listener, %args) = @_;
	my $name = $args{name} // $listener;
	my $dialect = $args{dialect} // 'openai';
	my $key = exists $args{key} ? $args{key} : "sk-$name-secret";
	my $model = exists $args{model} ? $args{model} : "model-$name";
	my $path = $args{path} // $BASE_PATH{$dialect};
	(my $secret = "key_$name") =~ s/[^a-z0-9_]/_/g;

	my $sql = sprintf "SET client_min_messages = warning;\n"
	  . "INSERT INTO llm_provider(name, dialect, base_url, secret)"
	  . " VALUES (%s, %s, %s, %s);\n",
	  map { quote_sql($_) } $name, $dialect, $sim->url($listener, $path),
	  defined $key ? $secret : undef;
	$sql = sprintf("INSERT INTO llm_secret(name, value) VALUES (%s, %s);\n",
		quote_sql($secret), quote_sql($key))
	  . $sql
	  if defined $key;
	$sql .=
	  sprintf "INSERT INTO llm_route(tier, provider, model, position, weight)"
	  . " VALUES (%s, %s, %s, %s, %s);\n",
	  map { quote_sql($_) } $args{tier} // 'default', $name, $model,
	  $args{position} // 1, $args{weight} // 1
	  if defined $model;
	$node->safe_psql('postgres', $sql);
	return;
}

=pod

=item add_tier(node, name, column => value, ...)

Inserts a tier.

=cut

sub add_tier
{
	my ($node, $name, %columns) = @_;
	my @names = sort keys %columns;

	$node->safe_psql('postgres',
		    'INSERT INTO llm_tier('
		  . join(', ', 'name', @names)
		  . ') VALUES ('
		  . join(', ', map { quote_sql($_) } $name, @columns{@names})
		  . ')');
	return;
}

=pod

=item clear_config(node)

Deletes all configuration that is not the extension's own.

=cut

sub clear_config
{
	my ($node) = @_;

	$node->safe_psql(
		'postgres', q{
		SET client_min_messages = warning;
		DELETE FROM llm_route
		 WHERE NOT (tier = 'offline' AND provider = 'builtin');
		DELETE FROM llm_provider;
		DELETE FROM llm_secret;
		DELETE FROM llm_rule;
		UPDATE llm_tier SET fallback = NULL
		 WHERE name NOT IN ('default', 'offline');
		UPDATE llm_tier SET fallback = 'offline', enabled = true
		 WHERE name = 'default';
		DELETE FROM llm_tier WHERE name NOT IN ('default', 'offline');
	});
	return;
}

# Takes apart what psql writes to standard error at VERBOSITY verbose: the
# error, as a hash of severity, sqlstate, message, detail and hint, and an
# array of such hashes for the notices.
sub _parse_messages
{
	my ($text) = @_;
	my ($error, @notices, $current, $field);

	foreach my $line (split /\n/, $text)
	{
		if ($line =~
			/^(?:psql:\S*:\d+: )?([A-Z]+):  ([0-9A-Z]{5}): (.*)$/)
		{
			$current =
			  { severity => $1, sqlstate => $2, message => $3 };
			$field = 'message';
			if ($1 =~ /^(ERROR|FATAL|PANIC)$/) { $error //= $current; }
			else { push @notices, $current; }
		}
		elsif ($line =~
			/^(DETAIL|HINT|CONTEXT|LOCATION|QUERY|STATEMENT|LINE \d+):\s+(.*)$/
		  )
		{
			$field = lc $1;
			$current->{$field} = $2 if defined $current;
		}
		elsif (defined $current) { $current->{$field} .= "\n$line"; }
	}
	return ($error, \@notices);
}

=pod

=item run_sql(node, sql, dbname => 'postgres', user => role, init => sql)

Runs SQL in a session of its own, to the first error. A hash: C<out>, C<err>
(as psql wrote them), C<sqlstate>, C<message>, C<detail>, C<hint> of the error
(undef without one), C<notices> (of hashes with the same keys), C<seconds>.

=cut

sub run_sql
{
	my ($node, $sql, %args) = @_;
	my @extra = ('-v', 'VERBOSITY=verbose');
	my ($out, $err) = ('', '');

	push @extra, '-U', $args{user} if defined $args{user};
	my $began = time;
	$node->psql(
		$args{dbname} // 'postgres', $sql,
		stdout => \$out,
		stderr => \$err,
		extra_params => \@extra);
	my ($error, $notices) = _parse_messages($err);
	return {
		out => $out,
		err => $err,
		seconds => time - $began,
		notices => $notices,
		%{ $error // { sqlstate => undef } }
	};
}

=pod

=item psql_ok(node, sql, test name, run_sql's arguments)

One test: the SQL raises no error. Returns its output.

=cut

sub psql_ok
{
	my ($node, $sql, $name, %args) = @_;
	my $result = run_sql($node, $sql, %args);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!defined $result->{sqlstate} && $result->{err} !~ /^psql: error/m,
		$name // _short($sql))
	  or diag $result->{err};
	return $result->{out};
}

=pod

=item psql_error(node, sql, sqlstate, qr/message/, test name, ...)

One test: the SQL fails with this SQLSTATE, and the message matches, if a
pattern is given. Returns run_sql's hash.

=cut

sub psql_error
{
	my ($node, $sql, $sqlstate, $pattern, $name, %args) = @_;
	my $result = run_sql($node, $sql, %args);
	my $got = $result->{sqlstate} // 'no error';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $got eq $sqlstate
		  && (!defined $pattern || ($result->{message} // '') =~ $pattern),
		$name // "$sqlstate: " . _short($sql)
	) or diag "wanted $sqlstate", defined $pattern ? " $pattern" : '',
	  ", got $got: $result->{err}$result->{out}";
	return $result;
}

=pod

=item row_of(node, sql, run_sql's arguments)

The columns of the first row, as a list. Dies on an error.

=cut

sub row_of
{
	my ($node, $sql, %args) = @_;
	my $result = run_sql($node, $sql, %args);

	croak "row_of: $result->{err}" if defined $result->{sqlstate};
	my ($row) = split /\n/, $result->{out};
	return split /\|/, $row // '', -1;
}

sub _short
{
	my ($sql) = @_;
	$sql =~ s/\s+/ /g;
	return length $sql > 60 ? substr($sql, 0, 57) . '...' : $sql;
}

=pod

=item llm_session(node, dbname => 'postgres', user => role)

A session in the background: an LlmTest::Session.

=back

=cut

sub llm_session
{
	return LlmTest::Session->new(@_);
}

package LlmTest::Session;

use strict;
use warnings FATAL => 'all';

use Carp;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

# A session that stays in a call goes on polling for so long at most.
my $PATIENCE = $PostgreSQL::Test::Utils::timeout_default;

=pod

=head1 LlmTest::Session

=over

=item $session->run(sql)

Runs SQL to its end: run_sql's hash.

=item $session->start(sql), $session->finish

Sends SQL without waiting; waits for its end and returns the hash, where
C<seconds> is counted from the start, or from cancel() or terminate().

=cut

sub new
{
	my ($class, $node, %args) = @_;
	my $self = bless { node => $node }, $class;
	my @extra = ('-v', 'VERBOSITY=verbose');

	push @extra, '-U', $args{user} if defined $args{user};
	$self->{psql} = $node->background_psql(
		$args{dbname} // 'postgres',
		on_error_stop => 0,
		extra_params => \@extra);
	$self->{psql}->set_query_timer_restart;
	$self->{pid} = $self->run('SELECT pg_backend_pid()')->{out};
	return $self;
}

sub pid { return $_[0]->{pid}; }

sub run
{
	my ($self, $sql) = @_;
	return $self->start($sql)->finish;
}

sub start
{
	my ($self, $sql) = @_;

	croak 'a statement is still running' if defined $self->{began};
	$self->{psql}{stderr} = '';
	$self->{began} = time;
	my $seen = $self->{psql}->query_until(qr/^llm_started\r?\n/m,
		"\\echo llm_started\n$sql\n;\n");
	# What came after the mark in the same gulp is the statement's.
	$seen =~ s/^.*?llm_started\r?\n//s;
	$self->{psql}{stdout} = $seen . $self->{psql}{stdout};
	return $self;
}

sub finish
{
	my ($self) = @_;
	my ($out) = $self->{psql}->query('');
	my $err = $self->{psql}{stderr};
	my $seconds = time - $self->{began};
	my ($error, $notices) = LlmTest::_parse_messages($err);

	$self->{began} = undef;
	return {
		out => $out,
		err => $err,
		seconds => $seconds,
		notices => $notices,
		%{ $error // { sqlstate => undef } }
	};
}

=pod

=item $session->wait_in_call

Returns when the backend waits for a provider.

=item $session->in_call

Whether it does so now.

=cut

sub in_call
{
	my ($self) = @_;
	return $self->{node}->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $self->{pid}"
		  . " AND state = 'active' AND wait_event_type = 'Extension'");
}

sub wait_in_call
{
	my ($self) = @_;
	my $until = time + $PATIENCE;

	until ($self->in_call)
	{
		croak 'the backend does not wait for a provider' if time > $until;
		sleep 0.02;
	}
	return $self;
}

=pod

=item $session->cancel, $session->terminate

Signals the backend (pg_cancel_backend, pg_terminate_backend) and returns what
finish() does, with C<seconds> counted from the signal. A terminated session is
of no more use.

=cut

sub cancel
{
	my ($self) = @_;

	$self->_signal('INT');
	return $self->finish;
}

# psql says the message, and ends by itself as its connection is lost.
sub terminate
{
	my ($self) = @_;

	$self->_signal('TERM');
	my $psql = $self->{psql};
	eval { $psql->{run}->finish };
	my $seconds = time - $self->{began};
	my ($error, $notices) = LlmTest::_parse_messages($psql->{stderr});
	$self->{psql} = undef;
	return {
		out => $psql->{stdout},
		err => $psql->{stderr},
		seconds => $seconds,
		notices => $notices,
		%{ $error // { sqlstate => undef } }
	};
}

# Sends the signal itself: pg_cancel_backend() would cost a connection, and
# that time is not the backend's.
sub _signal
{
	my ($self, $signal) = @_;

	$self->{began} = time;
	kill $signal, $self->{pid} or croak "kill $self->{pid}: $!";
	return;
}

=pod

=item $session->descriptors, $session->threads, $session->memory

What the backend holds now, by /proc: open file descriptors, threads, resident
kB that are not shared. undef where there is no /proc.

=item $session->quit

Ends the session.

=back

=cut

sub descriptors
{
	my ($self) = @_;
	my @fds = glob "/proc/$self->{pid}/fd/*";
	return @fds ? scalar @fds : undef;
}

sub threads
{
	my ($self) = @_;
	my @threads = glob "/proc/$self->{pid}/task/*";
	return @threads ? scalar @threads : undef;
}

sub memory
{
	my ($self) = @_;
	open my $file, '<', "/proc/$self->{pid}/status" or return;
	my ($kilobytes) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$file>;
	close $file;
	return $kilobytes;
}

sub quit
{
	my ($self) = @_;
	$self->{psql}->quit if defined $self->{psql};
	$self->{psql} = undef;
	return;
}

package LlmTest;

push @EXPORT, qw(llm_load breaker_log);

# A change of a breaker in the log: when, of whom, to what and why.
my $BREAKER_LINE =
  qr/^(\d+\.\d+) .*llm_failover: breaker of (\S+) (opened|half-open|ramping|closed)(?: until [^:]+:\d\d:\d\d)?(?:: (.*))?$/;

=pod

=head1 LOAD

=over

=item llm_load(node, tiers => [...], clients => 16, calls => n)

Sessions that call without a pause: an LlmTest::Load. Each has one of the tiers,
in turn, and makes C<calls> calls, or goes on until stop().

=item breaker_log(node, offset)

What the log says of breakers from an offset on: hashes with C<at> (seconds
since 1970, not earlier than it was), C<scope>, C<to>, C<reason>. The node's
log_line_prefix must begin with C<%n>.

=cut

sub llm_load
{
	return LlmTest::Load->new(@_);
}

sub breaker_log
{
	my ($node, $offset) = @_;
	my @changes;

	foreach my $line (split /\n/, slurp_file($node->logfile, $offset // 0))
	{
		# the log cuts to milliseconds
		push @changes, { at => $1 + 0.001, scope => $2, to => $3, reason => $4 }
		  if $line =~ $BREAKER_LINE;
	}
	return @changes;
}

package LlmTest::Load;

use strict;
use warnings FATAL => 'all';

use Carp;
use IPC::Run ();
use PostgreSQL::Test::Utils;

# Each call is a transaction of its own, and a row. Times are seconds since
# 1970, as the simulator's are.
my $LOAD_SQL = <<'END';
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS load(
	id int GENERATED ALWAYS AS IDENTITY, running boolean NOT NULL DEFAULT true);
CREATE UNLOGGED TABLE IF NOT EXISTS load_call(
	load int, client int, asked text, began float8, seconds float8,
	tier text, provider text, region text, model text, attempts int,
	cost numeric, error_code text, trace jsonb);
CREATE OR REPLACE PROCEDURE load_calls(this int, client int, tiers text[], calls int)
LANGUAGE plpgsql AS $$
DECLARE
	asked text := tiers[1 + client % cardinality(tiers)];
	began timestamptz;
	r llm_response;
BEGIN
	FOR i IN 1 .. calls LOOP
		EXIT WHEN NOT (SELECT running FROM load WHERE id = this);
		began := clock_timestamp();
		r := llm_respond('Hello ' || i, asked, on_error => 'null');
		INSERT INTO load_call VALUES (this, client, asked,
			extract(epoch FROM began),
			extract(epoch FROM clock_timestamp() - began),
			r.tier, r.provider, r.region, r.model, r.attempts, r.cost,
			r.error_code, r.trace);
		COMMIT;
	END LOOP;
END $$;
INSERT INTO load DEFAULT VALUES RETURNING id;
END

sub new
{
	my ($class, $node, %args) = @_;
	my $clients = $args{clients} // 16;
	my $calls = $args{calls} // 1_000_000;
	my $tiers = join ',', @{ $args{tiers} // ['default'] };
	my $self = bless { node => $node, owner => $$, out => '', err => '' },
	  $class;

	$self->{id} = $node->safe_psql('postgres', $LOAD_SQL);
	my $script = PostgreSQL::Test::Utils::tempdir . "/load_$self->{id}.sql";
	PostgreSQL::Test::Utils::append_to_file($script,
		"CALL load_calls($self->{id}, :client_id, '{$tiers}', $calls);\n");
	$self->{run} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n',
			'-h', $node->host, '-p', $node->port,
			'-c', $clients, '-t', '1', '-f', $script, 'postgres'
		],
		'<', \undef, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $self;
}

=pod

=item $load->stop, $load->finish

Lets each session end its call, or all its calls, and returns when they have.
Dies unless all have ended well.

=item $load->value(sql)

The output of a query on C<calls>, the load's rows of load_call.

=item $load->wait_for(condition)

Returns when a query on C<calls> says true.

=back

=cut

sub stop
{
	my ($self) = @_;

	$self->{node}->safe_psql('postgres',
		"UPDATE load SET running = false WHERE id = $self->{id}");
	return $self->finish;
}

sub finish
{
	my ($self) = @_;
	my $run = delete $self->{run} // croak 'the load has ended';

	$run->finish;
	croak "pgbench: $self->{err}" if $run->result(0);
	return $self;
}

sub _sql
{
	my ($self, $sql) = @_;
	return
	  "WITH calls AS (SELECT * FROM load_call WHERE load = $self->{id}) $sql";
}

sub value
{
	my ($self, $sql) = @_;
	return $self->{node}->safe_psql('postgres', $self->_sql($sql));
}

sub wait_for
{
	my ($self, $sql) = @_;

	$self->{node}->poll_query_until('postgres', $self->_sql($sql))
	  or croak "still not so: $sql";
	return $self;
}

# A test that dies leaves no load behind.
sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->{run}->kill_kill
	  if defined $self->{run} && $self->{owner} == $$;
	return;
}

package LlmTest;

push @EXPORT, qw(forget forget_on_change);

# The session of each node, by its name, that forget() keeps.
my %forgetting;

=pod

=head1 FORGETTING

The server remembers what calls have found out, and spares the next ones that.
A test of single calls begins each with nothing remembered.

=over

=item forget(node)

Has the server forget what it knows of providers in database postgres: breakers
are closed, nobody is throttled, no retry is spent.

=item forget_on_change(node, sim)

Does so from now on whenever the simulator's providers change: each behave(),
clear(), down() and so on begins a new situation.

=back

=cut

sub forget
{
	my ($node) = @_;
	my $sql = 'SELECT llm_breaker_reset()';
	my $kept = $forgetting{ $node->name };
	# one that was kept has ended with the server, if that has
	my $result = defined $kept ? eval { $kept->run($sql) } : undef;

	$result //= ($forgetting{ $node->name } = llm_session($node))->run($sql);
	croak "forget: $result->{err}" if defined $result->{sqlstate};
	return;
}

sub forget_on_change
{
	my ($node, $sim) = @_;

	$sim->on_change(sub { forget($node) });
	return;
}

1;
