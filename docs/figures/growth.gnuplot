set terminal svg size 760, 400 dynamic noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'growth.svg'
set encoding utf8
set border linewidth 0.8 linecolor "#444444"
set tics textcolor "#222222"
set grid linetype 1 linecolor "#dddddd" linewidth 0.6
set key Left reverse samplen 2 spacing 1.2
set datafile separator tab
set tmargin 3
set label 1 "Private memory of a worker that parses and sums up text, 200 MB loaded" at screen 0.5, graph 1 center offset 0, 1.2 font ",13"

set xlabel 'jobs done by each'
set ylabel 'MiB, mean of 4 workers'
set xrange [0:*]
set yrange [0:*]
set offsets 0, 0, graph 0.08, 0
set key at graph 0.98, 0.6 right
$malloc << END
0	27.97
13	189.5
26	279.25
38	318.67
51	324.64
63	374.54
76	434.95
88	395.91
100	421.7
114	594.29
125	457.5
139	453.5
151	453.5
164	453.5
176	453.5
188	453.5
201	453.5
213	457.5
226	461.5
239	462.94
250	583.15
263	468.19
277	466.19
290	466.19
300	466.19
314	466.19
326	466.19
338	468.19
350	474.19
364	474.19
375	474.19
388	470.39
401	466.39
413	466.39
426	466.39
439	466.39
451	466.39
464	468.39
476	470.39
488	474.39
500	474.39
END
$tine << END
0	0.03
12	7.06
25	7.83
37	8.5
50	9.4
62	10.17
75	11.01
88	11.87
100	12.49
113	13.26
125	14.09
137	15.11
150	16.27
162	17.3
175	18.26
187	19.34
200	20.46
213	21.83
225	22.87
237	24.04
250	24.94
262	26.38
275	27.18
287	28.08
300	29.42
312	30.34
325	31.81
337	33.19
350	33.74
362	35.11
375	35.99
387	37.28
400	38.59
413	39.38
425	40.3
438	41.63
450	42.91
462	43.72
475	45.07
487	46.54
500	47.44
END
$empty << END
0	0.1
12	4.19
25	4.95
37	5.71
50	5.71
62	5.73
75	5.75
87	5.76
100	5.76
113	5.78
125	5.8
137	5.84
150	5.84
162	5.84
175	5.84
188	5.84
200	5.84
212	5.86
225	5.88
237	5.88
250	5.9
262	5.9
275	5.9
287	5.9
300	5.93
312	5.93
325	5.93
337	5.93
350	5.95
362	5.95
375	5.96
387	5.96
400	5.99
413	6.01
425	6.01
437	6.04
450	6.04
462	6.06
475	6.06
487	6.07
500	6.1
END

plot $malloc with lines linewidth 2.5 linecolor "#d55e00" title "tine, TINE_HEAP=malloc", \
  $tine with lines linewidth 2.5 linecolor "#0072b2" title "tine", \
  $empty with lines linewidth 2.5 linecolor "#777777" title "tine, nothing loaded"

set terminal pngcairo size 760, 400 noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'growth.png'
replot
