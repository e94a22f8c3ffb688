# 013_defaults.pl: a default is said in several places, and is the same in all.
#
# The tables have it, README.md tells it, and of breakers src/health/breaker.c
# has it too, for a database whose SQL is older than the library.
use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path(dirname(__FILE__) . '/../..');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'llm_failover'
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION llm_failover');

# What the tables have: "table.column" => [type, default as SQL].
my %column;
foreach my $row (split /\n/, $node->safe_psql('postgres', q{
	SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod),
	       coalesce(pg_get_expr(d.adbin, d.adrelid), 'NULL')
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
	  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	 WHERE c.relname LIKE 'llm\_%' AND c.relkind = 'r' AND NOT a.attisdropped}))
{
	my ($name, $type, $default) = split /\|/, $row;
	$column{$name} = [ $type, $default ];
}

# Whether a default is a value; `said` is SQL.
sub is_default
{
	my ($name, $said, $where) = @_;
	my ($type, $default) = @{ $column{$name} };
	is( $node->safe_psql('postgres',
			"SELECT ($said)::$type IS NOT DISTINCT FROM ($default)::$type"),
		't', "$where: $name is $said")
	  or diag "the table has $default";
	return;
}

# README.md: rows "| column, column | type, default | … |" below "`table`:", and
# "| breaker_column | default | … |" where it says when to change them
my $table;
my $nsaid = 0;
my $nbreaker = 0;
foreach my $line (split /\n/, slurp_file("$top/README.md"))
{
	if ($line =~ /^\| (breaker_\w+) \| (none|[\d.]+(?: \w+)?) \|/)
	{
		is_default("llm_provider.$1", $2 eq 'none' ? 'NULL' : "'$2'", 'README.md');
		$nbreaker++;
	}
	$table = $1 if $line =~ /^`(llm_\w+)`:/;
	$table = undef if $line =~ /^(## |The view)/;
	next unless $table && $line =~ /^\| (?!column)([\w, ]+) \| ([^|]+) \|/;
	my @names = split /, /, $1;
	my ($type, $said) = split /, /, $2, 2;
	$said = !defined $said ? 'NULL'
	  : $said =~ /\)$|^current_user$/ ? $said : "'$said'";
	$said =~ tr/`//d;
	foreach my $name (map { "$table.$_" } @names)
	{
		my $there = $column{$name} or next;    # 001_readme.pl misses it
		is($node->safe_psql('postgres', "SELECT '$there->[0]'::regtype = '$type'::regtype"),
			't', "README.md: $name is $type");
		is_default($name, $said, 'README.md');
		$nsaid++;
	}
}
is($nsaid, scalar keys %column, 'README.md tells of each column');
is($nbreaker, scalar(grep { /\.breaker_/ } keys %column),
	'README.md tells when to change each column of a breaker');

# breaker.c: ".window = 30 * USEC_SEC,"
my $code = slurp_file("$top/src/health/breaker.c");
my ($body) = $code =~ /breaker_defaults = \{(.*?)\};/s;
my %initial = ($body // '') =~ /\.(\w+)\s*=\s*([^,]+?)\s*(?:,|$)/g;
my %unit = (USEC_MSEC => 1e-3, USEC_SEC => 1);
foreach my $name (map { /^llm_provider\.breaker_(.*)/ ? $1 : () } sort keys %column)
{
	my $said = $initial{$name} // 0;
	my ($type, $default) = @{ $column{"llm_provider.breaker_$name"} };
	$said =~ s/\b(USEC_\w+)\b/$unit{$1}/g;
	$said = $said eq '0' && $default eq 'NULL' ? 'NULL'
	  : $type eq 'interval' ? "($said) * interval '1 s'" : $said;
	is_default("llm_provider.breaker_$name", $said, 'breaker.c');
	delete $initial{$name};
}
is_deeply([ keys %initial ], [], 'breaker.c has no others');

$node->stop;
done_testing();
