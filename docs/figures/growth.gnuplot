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
0	17.75
13	200.04
26	288.61
38	318.36
50	346.08
63	377.25
76	434.54
88	395.81
101	460.65
113	536.77
125	457.5
138	455.5
151	453.5
164	453.5
176	453.5
189	453.5
201	455.5
214	457.5
226	461.72
239	464.96
250	470.14
264	468.19
276	466.19
288	466.19
301	466.19
314	466.19
326	468.2
338	468.2
352	472.2
363	474.38
376	474.48
388	470.48
400	468.4
413	466.4
427	466.4
439	466.4
451	468.4
463	468.4
475	470.4
489	474.4
500	474.4
END
$tine << END
0	0.1
13	8.2
25	8.89
37	9.83
50	10.55
62	11.34
75	11.46
87	11.47
100	11.74
112	12.29
125	13.13
137	13.68
150	14.14
163	14.35
175	14.37
188	14.39
200	14.39
212	14.42
225	14.42
238	14.43
250	14.45
263	14.45
275	14.45
288	14.59
300	14.6
312	14.6
325	14.6
337	14.68
350	14.7
362	14.71
375	14.73
387	14.73
400	14.73
412	14.76
425	14.76
437	14.77
450	14.82
462	14.82
475	14.82
487	14.82
500	14.82
END
$empty << END
0	0.11
12	3.97
25	5.4
37	5.63
50	5.65
62	5.65
75	5.69
87	5.69
100	5.71
112	5.71
125	5.71
137	5.73
150	5.74
163	5.74
175	5.74
187	5.74
200	5.76
213	5.78
225	5.81
237	5.83
250	5.84
263	5.86
275	5.9
287	5.9
300	6.2
312	6.23
325	6.25
337	6.25
350	6.25
362	6.27
375	6.27
388	6.28
400	6.28
412	6.3
425	6.34
437	6.34
450	6.34
463	6.34
475	6.34
487	6.36
500	6.64
END

plot $malloc with lines linewidth 2.5 linecolor "#d55e00" title "tine, TINE_HEAP=malloc", \
  $tine with lines linewidth 2.5 linecolor "#0072b2" title "tine", \
  $empty with lines linewidth 2.5 linecolor "#777777" title "tine, nothing loaded"

set terminal pngcairo size 760, 400 noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'growth.png'
replot
