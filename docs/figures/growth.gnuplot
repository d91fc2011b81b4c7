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
0	21.3
12	188.57
25	279.4
38	301.5
51	346.76
63	401.27
76	369.77
88	430.53
101	423.31
113	492.61
125	459.5
139	453.5
150	453.5
164	453.5
177	453.5
189	453.5
201	455.5
214	457.5
226	461.51
238	464.54
251	527.09
264	468.19
277	466.19
289	466.19
301	466.19
313	466.2
326	466.2
338	470.2
351	472.2
364	472.2
376	474.3
388	470.45
401	468.42
414	466.42
426	466.42
438	466.42
451	468.42
464	470.42
477	470.42
488	474.42
500	474.42
END
$tine << END
0	0.11
12	8.2
25	8.92
37	9.73
50	10.48
62	11.3
75	11.42
87	11.47
100	11.55
112	12.21
125	13.0
137	13.61
150	14.22
162	14.31
175	14.33
187	14.33
200	14.33
212	14.34
225	14.35
237	14.38
250	14.38
262	14.38
275	14.38
287	14.38
300	14.41
312	14.56
325	14.57
337	14.6
350	14.6
363	14.6
375	14.6
387	14.63
400	14.63
412	14.63
425	14.67
437	14.67
450	14.68
462	14.75
475	14.76
487	14.77
500	14.78
END
$empty << END
0	0.1
12	4.06
25	5.48
37	5.69
50	5.71
63	5.73
75	5.76
87	5.79
100	5.8
112	5.82
125	5.84
137	5.85
150	5.85
162	5.85
175	5.85
187	5.87
200	5.87
212	5.87
225	5.89
237	5.91
250	5.91
263	5.92
275	5.94
288	5.94
300	5.95
312	5.98
325	5.99
337	5.99
350	5.99
362	6.0
375	6.02
387	6.02
400	6.02
412	6.02
425	6.02
438	6.02
450	6.03
462	6.05
475	6.07
487	6.07
500	6.08
END

plot $malloc with lines linewidth 2.5 linecolor "#d55e00" title "tine, TINE_HEAP=malloc", \
  $tine with lines linewidth 2.5 linecolor "#0072b2" title "tine", \
  $empty with lines linewidth 2.5 linecolor "#777777" title "tine, nothing loaded"

set terminal pngcairo size 760, 400 noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'growth.png'
replot
