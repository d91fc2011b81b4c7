set terminal svg size 760, 440 dynamic noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'rate.svg'
set encoding utf8
set border linewidth 0.8 linecolor "#444444"
set tics textcolor "#222222"
set grid linetype 1 linecolor "#dddddd" linewidth 0.6
set key Left reverse samplen 2 spacing 1.2
set datafile separator tab
set tmargin 3
set label 1 "New workers per second, by how much their template has loaded" at screen 0.5, graph 1 center offset 0, 1.2 font ",13"

set logscale xy
set xlabel 'MB loaded'
set ylabel 'workers/s (one CPU)'
set xrange [8:5000]
set yrange [1:*]
set key bottom left
set format y '%.0f'
$series1 << END
10.0	3394.8
100.0	3591.98
1000.0	3393.51
2000.0	3294.72
4000.0	3323.9
END
$series2 << END
10.0	2605.71
100.0	353.74
1000.0	31.87
2000.0	16.94
END
$series3 << END
10.0	1546.79
100.0	280.78
1000.0	28.23
2000.0	15.37
END
$series4 << END
10.0	534.98
100.0	35.88
1000.0	4.15
END

plot $series1 with linespoints pointtype 7 pointsize 0.8 linewidth 3 linecolor "#0072b2" title "tine", \
  $series2 with linespoints pointtype 7 pointsize 0.8 linewidth 2 linecolor "#777777" title "bare C: fork with as much memory", \
  $series3 with linespoints pointtype 7 pointsize 0.8 linewidth 2 linecolor "#d55e00" title "tine, TINE_HEAP=malloc", \
  $series4 with linespoints pointtype 7 pointsize 0.8 linewidth 2 linecolor "#009e73" title "AnyEvent::Fork (Perl)", \
  3719.46 with lines dashtype 3 linewidth 1.5 linecolor "#0072b2" title "tine, nothing loaded"

set terminal pngcairo size 760, 440 noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'rate.png'
replot
