# Perl that lives from scalars, hashes and regular expressions.
use strict;
use warnings;

my $seed = 42;
sub random { $seed = ($seed * 1103515245 + 12345) % 2147483648; return int($seed / 65536) % $_[0] }

my (@records, %by_city, %words);
for my $i (1 .. 60000) {
    my $name = join '', map { chr(97 + random(26)) } 1 .. 3 + random(8);
    push @records, {id => $i, name => $name, city => 'city' . random(500), tags => [map { "t$_" } 1 .. random(5)]};
}
push @{$by_city{$_->{city}}}, $_ for @records;
for my $city (sort keys %by_city) {
    my $line = join ',', map { "$_->{name}:" . scalar @{$_->{tags}} } sort { $a->{name} cmp $b->{name} } @{$by_city{$city}};
    $words{$_}++ for split /[^a-z]+/, $line;
    (my $changed = $line) =~ s/([aeiou]+)/<$1>/g;
    $words{length $changed}++;
}
my $text = join ' ', map { $_->{name} x (1 + $_->{id} % 3) } @records;
my %pairs;
$pairs{$1}++ while $text =~ /(\w\w)\w* /g;
print scalar(keys %words), ' ', scalar(keys %pairs), ' ', length($text), "\n";
