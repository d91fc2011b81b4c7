#!/usr/bin/env perl
# Perl's AnyEvent::Fork::RPC and ::Pool: calls with a string of 5 bytes, which comes back.
# aerpc.pl [-k UNDER_WAY] [-w WORKERS]; with -w a pool. Speaks with bench/interleave as bench.h
# says.
use strict;
use warnings;
use Getopt::Std;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

my %opt = (k => 1, w => 0);
getopts "k:w:", \%opt or die "usage: aerpc.pl [-k UNDER_WAY] [-w WORKERS]\n";

for my $module (qw(AnyEvent AnyEvent::Fork AnyEvent::Fork::RPC), $opt{w} ? "AnyEvent::Fork::Pool" : ()) {
   next if eval "require $module; 1";
   print "skip=not installed: $module\n";
   exit 0;
}

my $template = AnyEvent::Fork->new->eval ("sub echo { \$_[0] }");
my $call = $opt{w}
   ? AnyEvent::Fork::Pool::run ($template, "main::echo", max => $opt{w}, idle => $opt{w},
                                load => int (($opt{k} + $opt{w} - 1) / $opt{w}))
   : AnyEvent::Fork::RPC::run ($template, "main::echo");

sub rate {
   my ($seconds) = @_;
   my ($warm, $count, $out, $begin, $end) = (1000, 0, 0, 0, 0);
   my $done = AE::cv ();
   my $ended;
   my $make = sub { ++$out; $call->("hello", $ended) };
   $ended = sub {
      $_[0] eq "hello" or die "wrong result\n";
      --$out;
      if ($warm) {
         $begin = clock_gettime CLOCK_MONOTONIC unless --$warm;
      } elsif (!$end && ++$count % 64 == 0) {
         my $now = clock_gettime CLOCK_MONOTONIC;
         $end = $now if $now - $begin >= $seconds;
      }
      $end ? ($out or $done->send) : $make->();
   };
   $make->() for 1 .. $opt{k};
   $done->recv;
   printf "rate=%.2f count=%d seconds=%.4f\n", $count / ($end - $begin), $count, $end - $begin;
}

$| = 1;
print "ready\n";
while (defined (my $seconds = <STDIN>)) { rate ($seconds) }
