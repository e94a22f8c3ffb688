
=pod

=head1 NAME

LlmSim - runs the provider simulator of test/sim for a test

=head1 SYNOPSIS

  use LlmSim;

  my $sim = LlmSim->new(listeners => [ 'a', 'b', 's:https' ]);
  $sim->url('a');                  # http://127.0.0.1:23456
  $sim->url('a', '/v1');           # http://127.0.0.1:23456/v1

  my $id = $sim->behave({ template => 'overloaded' },
      listener => 'a', times => 2);
  $sim->down('b');
  ...                              # make calls
  is($sim->count('a', 'requests'), 2, 'a was asked twice');
  my @log = $sim->log('a');
  like($log[0]{headers}{authorization}, qr/^Bearer /);

  $sim->reset;                     # between tests: no rules, all up
  $sim->stop;                      # or leave it to the end of the test

What a rule may hold is told in test/sim/README.md; JSON's true is C<\1> in
Perl, as in C<{ hang =E<gt> \1 }>, and null is undef. Everything dies with a
message when the simulator says no, so that a misspelt rule is no passed test.
The simulator ends when this process does, however that ends.

=cut

package LlmSim;

use strict;
use warnings FATAL => 'all';

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Open3;
use JSON::PP;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

my $PROGRAM = abs_path(dirname(__FILE__) . '/../sim/llm_sim.py');

# The parts of a rule that behave() takes beside the behaviour: these of the
# rule itself, all others of its match.
my %RULE_KEY = map { $_ => 1 } qw(times after every probability);

=pod

=head1 METHODS

=over

=item LlmSim->new(listeners => [...], seed => 0, certs => $dir)

Starts a simulator and returns when it listens. A listener is C<name>,
C<name:https> or C<name:https:CERT>, with C<=PORT> after the name for a port
of your choice.

=cut

sub new
{
	my ($class, %args) = @_;
	my @command = ($ENV{PYTHON} // 'python3', '-B', $PROGRAM);
	my @listeners = @{ $args{listeners} // ['a'] };

	foreach my $spec (@listeners)
	{
		my ($name, $rest) = $spec =~ /^([^:=]+)(.*)$/
		  or croak "LlmSim: \"$spec\" is no listener";
		push @command, '--listen',
		  $name . ($rest =~ /^=/ ? $rest : "=0$rest");
	}
	push @command, '--seed', $args{seed} if defined $args{seed};
	push @command, '--certs', $args{certs} if defined $args{certs};

	my $self = bless {
		owner => $$,
		on_change => sub { },
		http => HTTP::Tiny->new(
			timeout => 200,
			proxy => undef,
			http_proxy => undef),
		json => JSON::PP->new->utf8->canonical->allow_nonref
	}, $class;
	$self->_start(@command);
	return $self;
}

# Starts the program and reads its line. Standard input is a pipe whose other
# end only this process holds: the simulator ends with us. Errors go to ours.
sub _start
{
	my ($self, @command) = @_;

	open(my $err, '>&', \*STDERR) or croak "LlmSim: dup: $!";
	$self->{pid} =
	  open3($self->{in}, $self->{out}, '>&' . fileno($err), @command);
	close $err;
	my $line = readline $self->{out};
	croak "LlmSim: the simulator did not start" unless defined $line;
	$self->{ready} = $self->{json}->decode($line);
	return;
}

=pod

=item $sim->url(name, path), $sim->port(name), $sim->ca_file, $sim->admin

Where things are. C<path> is added to the URL.

=cut

sub url
{
	my ($self, $name, $path) = @_;
	return $self->_listener($name)->{url} . ($path // '');
}

sub port
{
	my ($self, $name) = @_;
	return $self->_listener($name)->{port};
}

sub ca_file { return $_[0]->{ready}{ca_file}; }

sub admin { return $_[0]->{ready}{admin}; }

sub pid { return $_[0]->{pid}; }

sub listeners { return sort keys %{ $_[0]->{ready}{listeners} }; }

sub _listener
{
	my ($self, $name) = @_;
	return $self->{ready}{listeners}{$name}
	  // croak "LlmSim: there is no listener \"$name\"";
}

=pod

=item $sim->behave({ behaviour }, match and limits) => id of the rule

Adds a rule: C<listener>, C<model>, C<path>, C<prompt>, C<header>, C<method>,
C<dialect>, C<reused> say which requests, C<times>, C<after>, C<every>,
C<probability> how often. The first rule that matches wins.

=item $sim->unbehave(id), $sim->clear, $sim->rules

Takes one rule back, or all; what rules there are.

=cut

sub behave
{
	my ($self, $behaviour, %rest) = @_;
	my %rule = (behaviour => $behaviour, match => {});

	foreach my $key (keys %rest)
	{
		if ($RULE_KEY{$key}) { $rule{$key} = $rest{$key}; }
		else { $rule{match}{$key} = $rest{$key}; }
	}
	my $answer = $self->_call('POST', '/rules', \%rule);
	$self->{on_change}->();
	return $answer->{ids}[0];
}

sub unbehave
{
	my ($self, $id) = @_;
	$self->_call('DELETE', "/rules/$id");
	$self->{on_change}->();
	return;
}

sub clear
{
	my ($self) = @_;
	$self->_call('DELETE', '/rules');
	$self->{on_change}->();
	return;
}

sub rules
{
	my ($self) = @_;
	return @{ $self->_call('GET', '/rules') };
}

=pod

=item $sim->log(listener, since => id, model => ..., limit => n)

The log's entries as hashes, oldest first; without a listener those of all.

=item $sim->last_request(listener)

The newest entry, with its body parsed in C<json>.

=item $sim->count(listener, what), $sim->counts(listener)

One counter (C<requests> if none is named) or all of them as a hash; a
listener of undef means the sum.

=item $sim->model_count(listener, model)

How many requests a model of a listener got.

=cut

sub log    ## no critic (it is a method)
{
	my ($self, $listener, %query) = @_;
	$query{listener} = $listener if defined $listener;
	return @{ $self->_call('GET', '/log' . _query(%query)) };
}

sub last_request
{
	my ($self, $listener) = @_;
	my ($entry) = $self->log($listener, limit => 1);
	croak "LlmSim: no request was logged" unless defined $entry;
	$entry->{json} = eval { JSON::PP->new->decode($entry->{body}) };
	return $entry;
}

sub counts
{
	my ($self, $listener) = @_;
	my $counts = $self->_call('GET',
		'/counts' . (defined $listener ? _query(listener => $listener) : ''));
	return defined $listener ? $counts : $counts->{total};
}

sub count
{
	my ($self, $listener, $what) = @_;
	$what //= 'requests';
	return $self->counts($listener)->{$what}
	  // croak "LlmSim: there is no counter \"$what\"";
}

sub model_count
{
	my ($self, $listener, $model) = @_;
	return $self->counts($listener)->{models}{$model} // 0;
}

=pod

=item $sim->wait_for(requests => 3, listener => 'a', timeout => 30)

Returns when counters have reached what is asked: C<name =E<gt> n> is at least
n (0: none), C<max_name =E<gt> n> at most. With C<model>, requests of that
model. Dies when the time is over, with the counters.

=cut

sub wait_for
{
	my ($self, %query) = @_;
	$query{timeout} //= 30;
	return $self->_call('GET', '/wait' . _query(%query));
}

=pod

=item $sim->down(name), $sim->up(name), $sim->mode(name, mode)

Closes a listener and resets its connections, as when a server is killed;
opens it again on the same port; sets another mode (C<blackhole>, C<silent>,
C<reset>, C<close>, C<garbage>).

=item $sim->set(name, option => value, ...)

Sets options of a listener: C<keys>, C<lenient>, C<max_requests>, ...

=item $sim->hang_up(name, reset => 1)

Closes the connections of a listener on which no request is in progress, by
FIN, or RST; returns how many there were.

=item $sim->reset

No rules, an empty log, counters at 0, options as they were, everything up.

=item $sim->stop

Ends the simulator.

=back

=cut

sub down { my ($self, $name) = @_; return $self->mode($name, 'down'); }

sub up { my ($self, $name) = @_; return $self->mode($name, 'up'); }

sub mode
{
	my ($self, $name, $mode) = @_;
	return $self->set($name, mode => $mode);
}

sub set
{
	my ($self, $name, %options) = @_;
	$self->_call('POST', "/listener/$name", \%options);
	$self->{on_change}->();
	return;
}

sub hang_up
{
	my ($self, $name, %options) = @_;
	return $self->_call('POST', "/hangup/$name",
		{ reset => $options{reset} ? JSON::PP::true : JSON::PP::false })
	  ->{closed};
}

sub reset    ## no critic (it is a method)
{
	my ($self) = @_;
	$self->_call('POST', '/reset');
	$self->{on_change}->();
	return;
}

sub stop
{
	my ($self) = @_;
	return unless defined $self->{pid};
	close $self->{in};    # the simulator ends at this
	my $until = time + 10;
	while (waitpid($self->{pid}, WNOHANG) == 0)
	{
		kill 'KILL', $self->{pid} if time > $until;
		sleep 0.01;
	}
	$self->{pid} = undef;
	return;
}

# A forked child (of a test that forks) leaves the simulator alone.
sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->stop if $self->{owner} == $$;
	return;
}

sub _query
{
	my (%query) = @_;
	return '?' . HTTP::Tiny->new->www_form_urlencode(\%query);
}

# Asks the admin interface; the decoded answer.
sub _call
{
	my ($self, $method, $path, $value) = @_;
	my %options;

	croak "LlmSim: the simulator is stopped" unless defined $self->{pid};
	$options{content} = $self->{json}->encode($value) if defined $value;
	my $response =
	  $self->{http}->request($method, $self->admin . $path, \%options);
	return $self->{json}->decode($response->{content})
	  if $response->{success};
	croak "LlmSim: $method $path: $response->{status} $response->{content}";
}

=pod

=head1 MORE METHODS

=over

=item $sim->arrivals(listener, model => ..., since => id)

When its requests came, oldest first, in seconds since 1970.

=back

=cut

sub arrivals
{
	my ($self, $listener, %query) = @_;
	$query{listener} = $listener if defined $listener;
	return @{ $self->_call('GET', '/times' . _query(%query)) };
}

=pod

=over

=item $sim->on_change(sub { ... })

Has this run after each change of what the providers do: rules, modes, options
and reset().

=back

=cut

sub on_change
{
	my ($self, $code) = @_;
	$self->{on_change} = $code;
	return;
}

1;
