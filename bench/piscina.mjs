// Node's piscina, a pool of threads: calls with a string of 5 characters, which comes back.
// piscina.mjs NODE_MODULES [-k UNDER_WAY] [-w WORKERS]. Speaks with bench/interleave as bench.h
// says.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

export default function echo(s) {
  return s;
}

const WARM_UP = 1000;

async function rate(pool, seconds, underWay) {
  let warm = WARM_UP, count = 0, begin = 0, end = 0;
  async function keep() {
    while (!end) {
      if (await pool.run('hello') !== 'hello') throw new Error('wrong result');
      if (warm > 0) {
        if (--warm === 0) begin = performance.now();
      } else if (!end && ++count % 64 === 0) {
        const now = performance.now();
        if (now - begin >= seconds * 1000) end = now;
      }
    }
  }
  await Promise.all(Array.from({ length: underWay }, keep));
  const elapsed = (end - begin) / 1000;
  console.log(`rate=${(count / elapsed).toFixed(2)} count=${count} seconds=${elapsed.toFixed(4)}`);
}

async function main() {
  const [modules, ...words] = process.argv.slice(2);
  const options = { '-k': 1, '-w': 1 };
  for (let i = 0; i < words.length; i += 2) options[words[i]] = Number(words[i + 1]);
  let Piscina;
  try {
    Piscina = createRequire(`${modules}/`)('piscina');
  } catch {
    console.log('skip=not installed: piscina (npm)');
    return;
  }
  const workers = options['-w'];
  const pool = new (Piscina.Piscina ?? Piscina)({
    filename: fileURLToPath(import.meta.url),
    minThreads: workers,
    maxThreads: workers,
    concurrentTasksPerWorker: Math.max(1, Math.ceil(options['-k'] / workers)),
  });
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    await rate(pool, Number(line), options['-k']);
  }
  await pool.destroy();
}

if (isMainThread) await main();
