set terminal svg size 820, 806 dynamic noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'pages.svg'
set encoding utf8
set border linewidth 0.8 linecolor "#444444"
set tics textcolor "#222222"
set grid linetype 1 linecolor "#dddddd" linewidth 0.6
set key Left reverse samplen 2 spacing 1.2
set datafile separator tab
set tmargin 3
set label 1 "Pages that an operation in a worker copies, of 27408 sealed ones" at screen 0.5, graph 1 center offset 0, 1.2 font ",13"

$bars << END
38	1.0	being forked, and entered	1	0
37	2.0	1 000 calls over RPC	2	0
36	0.5	nothing	0	0
35	0.5	calling the closure of each record	0	0
34	0.5	reading all fields of each record	0	0
33	0.5	pairs, ipairs over each record	0	0
32	0.5	# of each record's list, from a constructor	0	0
31	0.5	# of 10 000 lists, filled by append	0	0
30	0.5	ipairs over these	0	0
29	138.0	# of 10 000 such lists with holes	138	0
28	258.0	100 000 new short strings	258	0
27	256.0	string.format, 100 000 times	256	0
26	256.0	gsub and gmatch over each name	256	0
25	0.5	table.concat, to long strings	0	0
24	0.5	10 000 long strings, first time used as keys	0	0
23	0.5	absent field, objects of 10 000 metatables	0	0
22	0.5	absent field, 10 000 objects of one metatable	0	0
21	0.5	10 000 coroutines made and run	0	0
20	0.5	10 000 closures that read their upvalues	0	0
19	197.0	10 000 closures that write their upvalues	197	1
18	0.5	100 000 errors caught by pcall	0	0
17	256.0	10 000 errors with text and traceback	256	0
16	0.5	a recursion of 10 000 calls	0	0
15	0.5	require of a loaded module, 10 000 times	0	0
14	252.0	load of new code, 1 000 times	252	0
13	1.0	cjson: 10 000 records to text and back	1	0
12	0.5	collectgarbage(), 10 times	0	0
11	240.0	the same, 1 000 suspended coroutines loaded	240	0
10	0.5	the same, 1 000 weak tables loaded	0	0
9	256.0	a loop of pcalls that allocate, collections	256	0
8	256.0	100 000 tables and strings in 10 rounds	256	0
7	256.0	10 million tables and strings in 1 000 rounds	256	0
6	364.0	a finalizer set for each 1000th record	364	1
5	180.0	a field of each 1000th record set	180	1
4	367.0	a new table put into each, 5 collections	367	1
3	365.0	two fields added to each, 5 collections	365	1
2	0.5	collectgarbage("step"), 10 times	0	0
1	13028.0	collectgarbage("collect", "full")	13028	0
END

set logscale x
unset ytics
set grid xtics noytics
set xrange [0.5:164448]
set yrange [0:39]
set format x '%.0f'
set xtics 1, 10 nomirror
set xlabel 'pages of 4 kB'
set key top right samplen 1 width 1
set lmargin at screen 0.45
set label 2 'all that is sealed' at 27408, 34 right offset -0.5, 0
set arrow from 27408, 0 to 27408, 39 nohead dashtype 3 linecolor '#444444'
plot $bars using (0.5):($5 == 0 ? $1 : NaN):(0.5):2:($1 - 0.36):($1 + 0.36) with boxxyerror fillstyle solid 1 noborder linecolor "#0072b2" title "does not change what is loaded", \
  $bars using (0.5):($5 == 1 ? $1 : NaN):(0.5):2:($1 - 0.36):($1 + 0.36) with boxxyerror fillstyle solid 1 noborder linecolor "#d55e00" title "changes it", \
  $bars using (0.5):1:3:ytic(3) with labels right offset -1, 0 notitle, \
  $bars using 2:1:4 with labels left offset 0.5, 0 notitle

set terminal pngcairo size 820, 806 noenhanced background "#ffffff" font "DejaVu Sans,11"
set output 'pages.png'
replot
