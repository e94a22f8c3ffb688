# 012_secret_files.pl: references to keys in files and in the environment, as
# llm_routing.problem tells: what is refused, and that a change of the file is
# seen at once by a session that has read it before.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(mkfifo);
use Test::More;

my $key = 'sk-file-0123456789';
my $tmp = PostgreSQL::Test::Utils::tempdir;
my $file = "$tmp/key";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'llm_failover'
log_min_messages = debug5
log_statement = all
});
{
	# not the same key: at debug5 the postmaster logs its environment
	local @ENV{qw(LLM_TEST_KEY LLM_TEST_EMPTY LLM_TEST_BAD)} =
	  ('sk-env-0123', '', "sk-env-0123\n");
	$node->start;
}
$node->safe_psql('postgres', qq{
CREATE EXTENSION llm_failover;
INSERT INTO llm_provider(name, dialect, secret) VALUES ('a', 'openai', 'file:$file');
INSERT INTO llm_route(provider, model) VALUES ('a', 'm');
});
my $session = $node->background_psql('postgres', on_error_stop => 1);

# Returns what is wrong with the only candidate, the path shortened.
sub problem
{
	my $problem = $session->query_safe(
		q{SELECT coalesce(problem, 'none') FROM llm_routing WHERE provider = 'a'});

	$problem =~ s/\Q$tmp\E/DIR/;
	return $problem;
}

# Puts a file with this content in the place of the old one.
sub replace_file
{
	my ($content) = @_;

	append_to_file("$file.new", $content);
	rename("$file.new", $file) or die "rename: $!";
	return;
}

# Writes into the same file.
sub rewrite_file
{
	my ($content) = @_;

	open(my $fh, '+<', $file) or die "open: $!";
	print $fh $content;
	close($fh);
	return;
}

# --- the environment

sub check_env
{
	my ($name, $expected) = @_;

	$node->safe_psql('postgres', "UPDATE llm_provider SET secret = 'env:$name'");
	is(problem(), $expected, "env:$name");
	return;
}
check_env('LLM_TEST_KEY', 'none');
check_env('LLM_TEST_NONE', 'environment variable "LLM_TEST_NONE" is not set');
check_env('LLM_TEST_EMPTY', 'environment variable "LLM_TEST_EMPTY" is empty');
check_env('LLM_TEST_BAD',
	'environment variable "LLM_TEST_BAD" contains control characters');

# --- what a file may be

$node->safe_psql('postgres', "UPDATE llm_provider SET secret = 'file:$file'");
is(problem(), 'could not read "DIR/key": No such file or directory', 'no file');

replace_file($key);
is(problem(), 'none', 'a key');
replace_file("$key \t\r\n\n");
is(problem(), 'none', 'white space at the end');
replace_file('');
is(problem(), 'file "DIR/key" is empty', 'an empty file');
replace_file(" \n");
is(problem(), 'file "DIR/key" is empty', 'a blank file');
replace_file("$key\r\nX-Evil: 1");
is(problem(), 'file "DIR/key" contains control characters', 'two lines');
replace_file("$key\0$key");
is(problem(), 'file "DIR/key" contains control characters', 'a zero byte');
replace_file("$key\0");
is(problem(), 'file "DIR/key" contains control characters', 'a zero byte at the end');
replace_file('k' x (64 * 1024));
is(problem(), 'none', '64 kB');
replace_file('k' x (64 * 1024 + 1));
is(problem(), 'could not read "DIR/key": larger than 64 kB', 'more than 64 kB');

unlink $file;
mkdir $file;
is(problem(), 'could not read "DIR/key": not a regular file', 'a directory');
rmdir $file;
mkfifo($file, 0600) or die "mkfifo: $!";
is(problem(), 'could not read "DIR/key": not a regular file', 'a FIFO');
unlink $file;
symlink("$tmp/target", $file) or die "symlink: $!";
is(problem(), 'could not read "DIR/key": No such file or directory', 'a dangling link');
append_to_file("$tmp/target", $key);
is(problem(), 'none', 'a link to a key');
unlink $file;

SKIP:
{
	skip 'root reads everything', 1 if $> == 0;
	replace_file($key);
	chmod 0, $file;
	is(problem(), 'could not read "DIR/key": Permission denied', 'no permission');
	unlink $file;
}

# --- changes are seen, also those that leave size and times alone

my $bad = $key;
substr($bad, 5, 1) = "\t";

my $missed = 0;
replace_file($key);
foreach (1 .. 20)
{
	rewrite_file($bad);
	$missed++ if problem() eq 'none';
	rewrite_file($key);
	$missed++ if problem() ne 'none';
}
is($missed, 0, 'changes in quick succession');

# long enough unchanged to be kept in memory
my $until = time + 3;
while (time < $until)
{
	problem();
	select(undef, undef, undef, 0.2);
}
my @times = (stat $file)[ 8, 9 ];
rewrite_file($bad);
utime(@times, $file) or die "utime: $!";
is(problem(), 'file "DIR/key" contains control characters', 'a change with its time set back');
replace_file($key);
is(problem(), 'none', 'replaced');
unlink $file;
is(problem(), 'could not read "DIR/key": No such file or directory', 'removed');

# --- many files, and no descriptor left open

my $fds = q{SELECT count(*) FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/fd')};

SKIP:
{
	skip 'no /proc', 2 unless -d "/proc/$$/fd";
	append_to_file("$tmp/many$_", "$key$_\n") foreach 1 .. 100;
	$session->query_safe(qq{
		INSERT INTO llm_provider(name, dialect, secret)
			SELECT 'many' || i, 'openai', 'file:$tmp/many' || i FROM generate_series(1, 100) i;
		INSERT INTO llm_model(provider, name) SELECT 'many' || i, 'm' FROM generate_series(1, 100) i;
		INSERT INTO llm_route(provider, model) SELECT 'many' || i, 'm' FROM generate_series(1, 100) i});
	my $read = q{SELECT count(*), count(problem) FROM generate_series(1, 10) i,
		LATERAL (SELECT * FROM llm_routing WHERE provider LIKE 'many%' OFFSET 0 * i) r};

	is($session->query_safe($read), '1000|0', 'a hundred files');
	my $before = $session->query_safe($fds);
	$session->query_safe($read);
	is($session->query_safe($fds), $before, 'no descriptor is left open');
}
$session->quit;

$node->stop;
unlike(slurp_file($node->logfile), qr/\Q$key\E/, 'no key in the log');
done_testing();
