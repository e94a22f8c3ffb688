# 001_readme.pl: what README.md says is so.
#
# All ```sql blocks are run from top to bottom, in one session. A statement
# that is followed by lines "-- => fragment" must print these fragments, in
# whatever spacing; only one with the fragment "ERROR" may fail. Between blocks
# "<!-- test: stop NAME -->" and "start NAME" do to a simulator what the text
# tells the reader to do, and "wait CONDITION" lets pass the moment that it takes
# a reader to go on. Vendors' public URLs lead to a simulator here.
#
# Then every table, column, function and setting has to be in README.md, and
# what README.md calls so has to exist.
use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run;
use LlmSim;
use LlmTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $readme = slurp_file("$top/README.md");
my $tmp = PostgreSQL::Test::Utils::tempdir;

my $sim = LlmSim->new(listeners => [ 'alpha', 'beta', 'vendor' ]);

# Where the text says one thing and the test must have another.
my %instead = (
	'http://127.0.0.1:8001' => $sim->url('alpha'),
	'http://127.0.0.1:8002' => $sim->url('beta'),
	'/etc/pgllm' => $tmp);

# --- the text

# Splits README.md into steps: [line, 'sql', text] and [line, 'test', words].
sub steps_of
{
	my ($text) = @_;
	my (@steps, $block);
	my $number = 0;
	foreach my $line (split /\n/, $text)
	{
		$number++;
		if ($block && $line eq '```')
		{
			push @steps, $block;
			$block = undef;
		}
		elsif ($block) { $block->[2] .= "$line\n" }
		elsif ($line eq '```sql') { $block = [ $number + 1, 'sql', '' ] }
		elsif ($line =~ /^<!-- test: (.*) -->$/)
		{
			push @steps, [ $number, 'test', $1 ];
		}
	}
	return @steps;
}

# Splits a block into statements: [line, text, fragment...]. A statement ends
# with a line that ends in ";" outside of $$, or is a line of a backslash.
sub statements_of
{
	my ($number, $text) = @_;
	my ($current, @statements) = ('');
	foreach my $line (split /\n/, $text)
	{
		if ($line =~ /^-- => (.*)/)
		{
			push @{ $statements[-1] }, $1;
		}
		elsif ($line =~ /\S/)
		{
			push @statements, [ $number, '' ] if $current eq '';
			$statements[-1][1] = $current .= "$line\n";
			my $dollars = () = $current =~ /\$\$/g;
			my $ends = $line =~ /^\\/ || $line =~ /(;|\\gx)\s*(--.*)?$/;
			$current = '' if $ends && $dollars % 2 == 0;
		}
		$number++;
	}
	die "README.md:$number: a statement without end" if $current ne '';
	return @statements;
}

# --- the session

foreach my $key (qw(openai_us openai_eu anthropic))
{
	append_to_file("$tmp/$key", "test-key-$key\n");
}
$ENV{OPENAI_API_KEY} = 'test-key-openai';    # the server's, and psql's
$ENV{ANTHROPIC_API_KEY} = 'test-key-anthropic';
my $node = llm_node('readme', extension => 0);

my ($in, $out, $err) = ('', '', '');
my $psql = IPC::Run::start(
	[ 'psql', '-X', '-q', '-A', '-F', ' | ', '-d', $node->connstr('postgres') ],
	'<', \$in, '>', \$out, '2>', \$err,
	IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));

# Runs SQL in the session and returns all that it printed.
sub say_sql
{
	my ($sql) = @_;
	my $mark = '--- done ---';
	($out, $err) = ('', '');
	$in .= "$sql\n\\echo $mark\n\\warn $mark\n";
	$psql->pump until $out =~ /^$mark/m && $err =~ /^$mark/m;
	s/^$mark\n//m foreach $out, $err;
	return $err . $out;
}

# Sends what would go to vendors, and to a host of the reader's, to a simulator.
sub divert
{
	my $url = $sim->url('vendor');
	say_sql(qq{
		UPDATE llm_region SET base_url = '$url/v1'
		 WHERE base_url IS NOT NULL AND base_url NOT LIKE 'http://127.0.0.1%';
		UPDATE llm_provider
		   SET base_url = '$url' || CASE dialect WHEN 'openai' THEN '/v1' ELSE '' END
		 WHERE coalesce(base_url, '') NOT LIKE 'http://127.0.0.1%';});
}

# Spaces, and the "psql:<stdin>:1: " of messages, are not worth comparing.
sub plain
{
	my ($text) = @_;
	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/\s+/ /g;
	return $text;
}

sub run_statement
{
	my ($line, $sql, @fragments) = @_;
	my $test = "README.md:$line";
	foreach my $text (keys %instead)
	{
		s/\Q$text\E/$instead{$text}/g foreach $sql, @fragments;
	}
	my $got = plain(say_sql($sql));
	ok($got !~ /ERROR:/, "$test works") || diag "$sql$got"
	  unless grep { /^ERROR/ } @fragments;
	foreach my $fragment (@fragments)
	{
		ok(index($got, plain($fragment)) >= 0, "$test prints: $fragment")
		  || diag "$sql$got";
	}
	divert() if $sql =~ /(INSERT INTO|UPDATE) llm_(provider|region)\b/;
}

# What stands between blocks, and has no text of its own.
my %test_can = (
	start => sub { $sim->mode($_, 'up') foreach split / /, $_[0] },
	stop => sub { $sim->mode($_, 'down') foreach split / /, $_[0] },
	wait => sub {
		my ($condition, $test) = @_;
		ok($node->poll_query_until('postgres', "SELECT $condition"),
			"$test comes true: $condition");
	});

my @steps = steps_of($readme);
foreach my $step (@steps)
{
	my ($line, $kind, $text) = @$step;
	if ($kind eq 'test')
	{
		my ($verb, $what) = split / /, $text, 2;
		my $can = $test_can{$verb} or die "README.md:$line: cannot $verb";
		$can->($what, "README.md:$line");
		next;
	}
	look_around() if $text =~ /^DROP EXTENSION/;
	run_statement(@$_) foreach statements_of($line, $text);
}
cmp_ok(scalar @steps, '>', 20, 'README.md has SQL');

# --- the reference

# Compares what there is with what a pattern finds in README.md.
sub same_names
{
	my ($what, $there, $text, $pattern) = @_;
	my %said = map { $_ => 1 } $text =~ /$pattern/g;
	my %is = map { $_ => 1 } @$there;
	cmp_ok(scalar keys %is, '>', 0, "there are ${what}s");
	is_deeply([ grep { !$said{$_} } sort keys %is ],
		[], "each $what is in README.md");
	is_deeply([ grep { !$is{$_} } sort keys %said ],
		[], "each $what of README.md exists");
}

sub rows { return split /\n/, $node->safe_psql('postgres', shift) }

# The part of README.md from a heading to the next one of its rank.
sub section
{
	my ($heading) = @_;
	$readme =~ /^\Q$heading\E\n(.*?)(?=^## )/ms or die "no section $heading";
	return $1;
}

sub look_around
{
	my $member = q{(SELECT objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'llm_failover'
		AND d.classid = '%s'::regclass)};
	my ($relation, $function) = map { sprintf $member, $_ } qw(pg_class pg_proc);
	my $settings = join '|', rows("SELECT name FROM pg_settings WHERE name LIKE 'llm\\_failover.%'");

	same_names('setting', [ split /\|/, $settings ],
		section('## Settings'), qr/^\| `(llm_failover\.\w+)`/m);
	same_names('setting, anywhere,', [ split /\|/, $settings ],
		$readme, qr/\b(llm_failover\.(?!control|so\b|c\b)[a-z_]+)/);
	same_names('table', [ rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND oid IN $relation") ],
		section('## Tables'), qr/^`(llm_\w+)`:/m);
	same_names('view', [ rows("SELECT relname FROM pg_class WHERE relkind = 'v' AND oid IN $relation") ],
		section('## Tables'), qr/view `(llm_\w+)`/);
	# those of triggers and inside of views are nobody's to call
	same_names('function', [ rows(qq{SELECT proname FROM pg_proc p WHERE oid IN $function
			AND prorettype <> 'trigger'::regtype AND NOT EXISTS (SELECT FROM pg_depend v
				WHERE v.classid = 'pg_rewrite'::regclass AND v.refclassid = 'pg_proc'::regclass AND v.refobjid = p.oid)}) ],
		section('## Functions'), qr/`(llm_\w+)\(/);
	same_names('field of llm_response', [ fields('llm_response') ],
		(section('## Functions') =~ /^`llm_response`:\n(.*)/ms)[0],
		qr/(?:^\| (?!field)|\G, )(\w+)(?=[, ])/m);
	foreach my $table (rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND oid IN $relation"))
	{
		my ($text) = section('## Tables') =~ /^`$table`:(.*?)(?=^`llm_|^The view)/ms;
		same_names("column of $table", [ fields($table) ],
			$text, qr/(?:^\| (?!column)|\G, )(\w+)(?=[, ])/m);
	}
}

sub fields
{
	my ($relation) = @_;
	return rows(qq{SELECT attname FROM pg_attribute WHERE attrelid = '$relation'::regclass
		AND attnum > 0 AND NOT attisdropped});
}

$in .= "\\q\n";
$psql->finish;
$node->stop;
done_testing();
