#!/usr/bin/env perl
# Perl's AnyEvent::Fork: a new process that leaves at once, and the end of its socket seen.
# aefork.pl [-k UNDER_WAY] [-x] [-i] [-l MB]; -x: new_exec instead of new; -i: an idle process's
# memory instead; -l: forked from a template that has loaded so much. Speaks with bench/interleave as bench.h says.
use strict;
use warnings;
use Getopt::Std;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

for my $module (qw(AnyEvent AnyEvent::Fork)) {
   next if eval "require $module; 1";
   print "skip=not installed: $module\n";
   exit 0;
}

my %opt = (k => 1, l => 0);
getopts "k:xil:", \%opt or die "usage: aefork.pl [-k UNDER_WAY] [-x] [-i] [-l MB]\n";

# A hash of records like those of lib/program.lua, until the process has grown by so much.
my $load = '
   my $want = $_[0];
   sub rss { open my $f, "<", "/proc/self/statm"; (split " ", <$f>)[1] * 4 / 1024 }
   my $before = rss ();
   our @data;
   while (rss () - $before < $want) {
      for (1 .. 10000) {
         my $r = { id => scalar @data, name => "item number " . @data,
            at => { x => scalar @data, y => @data * 2.5 }, tags => ["a", scalar @data] };
         $r->{area} = sub { $r->{at}{x} * $r->{at}{y} };
         push @data, $r;
      }
   }';
my $template = $opt{l} && AnyEvent::Fork->new->eval ($load, $opt{l});

sub new_process {
   $template ? $template->fork : $opt{x} ? AnyEvent::Fork->new_exec : AnyEvent::Fork->new
}

sub rate {
   my ($seconds) = @_;
   my $warm = $opt{x} ? $opt{k} + 3 : $opt{k} + 16;
   my ($begin, $end, $count) = (0, 0, 0);
   my $done = AE::cv ();
   my $start;

   my $ended = sub {
      my $now = clock_gettime CLOCK_MONOTONIC;
      if ($warm) {
         $begin = $now unless --$warm;
      } elsif (!$end) {
         ++$count;
         $end = $now if $now - $begin >= $seconds;
      }
      $start->() unless $end;
   };
   $start = sub {
      $done->begin;
      my $proc = new_process;
      # Keep the exec'ed ones, our direct children, from staying zombies.
      my $pid = $opt{x} ? $proc->pid : undef;
      $proc->run ("CORE::exit", sub {
         my $fh = shift;
         my $watcher; $watcher = AE::io ($fh, 0, sub {
            sysread $fh, my $buf, 1 and die "the process wrote something\n";
            undef $watcher;
            close $fh;
            waitpid $pid, 0 if $pid;
            $ended->();
            $done->end;
         });
      });
   };

   $start->() for 1 .. $opt{k};
   $done->recv;
   printf "rate=%.2f count=%d seconds=%.4f\n",
      $count / ($end - $begin), $count, $end - $begin;
}

sub proc_kb {
   my ($pid, $file, $key) = @_;
   my $kb = 0;
   open my $fh, "<", "/proc/$pid/$file" or die "/proc/$pid/$file: $!\n";
   while (defined (my $line = <$fh>)) { $kb += $1 if $line =~ /^\Q$key\E:\s*(\d+)/ }
   $kb
}

sub memory {
   my $done = AE::cv ();
   my $sock; # held, so that the process stays while it is measured
   new_process
      ->eval ('sub idle { my $fh = shift; syswrite $fh, "$$\n"; sysread $fh, my $buf, 1 }')
      ->run ("main::idle", sub {
         $sock = shift;
         my $watcher; $watcher = AE::io ($sock, 0, sub {
            undef $watcher;
            sysread $sock, my $line, 64;
            $done->send ($line + 0);
         });
      });
   my $pid = $done->recv;
   sleep 0.05;
   my %smaps = map { $_ => proc_kb ($pid, "smaps_rollup", $_) }
      qw(Private_Dirty Private_Clean Pss Anonymous Rss);
   printf "private_kb=%d private_dirty_kb=%d pss_kb=%d anonymous_kb=%d rss_kb=%d"
      . " page_tables_kb=%d\n",
      $smaps{Private_Dirty} + $smaps{Private_Clean}, @smaps{qw(Private_Dirty Pss Anonymous Rss)},
      proc_kb ($pid, "status", "VmPTE");
}

$| = 1;
print "ready\n";
while (defined (my $seconds = <STDIN>)) {
   $opt{i} ? memory : rate ($seconds);
}
