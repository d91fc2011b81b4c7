"""Python's multiprocessing.Pool: calls with a string of 5 characters, which comes back.

pool.py [-k UNDER_WAY] [-w WORKERS]. Speaks with bench/interleave as bench.h says.
"""
import argparse
import multiprocessing
import sys
import threading
import time

WARM_UP = 200


def echo(s):
    return s


class Run:
    """Keeps some calls under way for some seconds, and counts those that end."""

    def __init__(self, pool, seconds):
        self.pool, self.seconds = pool, seconds
        self.warm, self.count, self.out = WARM_UP, 0, 0
        self.begin = self.end = 0
        self.over = threading.Event()
        self.lock = threading.Lock()

    def call(self):
        self.out += 1
        self.pool.apply_async(echo, ("hello",), callback=self.ended)

    def ended(self, result):
        assert result == "hello"
        with self.lock:
            self.out -= 1
            if self.warm > 0:
                self.warm -= 1
                if self.warm == 0:
                    self.begin = time.monotonic()
            elif not self.end:
                self.count += 1
                now = time.monotonic()
                if now - self.begin >= self.seconds:
                    self.end = now
            if not self.end:
                self.call()
            elif self.out == 0:
                self.over.set()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", type=int, default=1, help="calls under way")
    parser.add_argument("-w", type=int, default=1, help="workers")
    args = parser.parse_args()
    with multiprocessing.get_context("fork").Pool(args.w) as pool:
        print("ready", flush=True)
        for line in sys.stdin:
            run = Run(pool, float(line))
            with run.lock:
                for _ in range(args.k):
                    run.call()
            run.over.wait()
            elapsed = run.end - run.begin
            print("rate=%.2f count=%d seconds=%.4f" % (run.count / elapsed, run.count, elapsed),
                  flush=True)


if __name__ == "__main__":
    main()
