"""Python's multiprocessing with the forkserver start method: Process, start, join.

Speaks with bench/interleave as bench.h says. Knows nothing of tine.
"""
import argparse
import multiprocessing
import os
import sys
import time

WARM_UP = 3


def noop():
    pass


def idle(conn):
    conn.send_bytes(b"r")
    try:
        conn.recv_bytes()
    except EOFError:
        pass


def run_once(context):
    process = context.Process(target=noop)
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit("the worker failed: exit code %r" % process.exitcode)


def one_after_another(context, seconds):
    for _ in range(WARM_UP):
        run_once(context)
    count = 0
    begin = time.monotonic()
    while True:
        run_once(context)
        count += 1
        elapsed = time.monotonic() - begin
        if elapsed >= seconds:
            break
    print("rate=%.2f count=%d seconds=%.4f" % (count / elapsed, count, elapsed))


def proc_kb(pid, name, key):
    with open("/proc/%d/%s" % (pid, name)) as f:
        return sum(int(line.split()[1]) for line in f if line.startswith(key + ":"))


def idle_memory(context):
    ours, theirs = context.Pipe()
    process = context.Process(target=idle, args=(theirs,))
    process.start()
    theirs.close()
    ours.recv_bytes()
    time.sleep(0.05)
    smaps = {
        key: proc_kb(process.pid, "smaps_rollup", key)
        for key in ("Private_Dirty", "Private_Clean", "Pss", "Anonymous", "Rss")
    }
    print(
        "private_kb=%d private_dirty_kb=%d pss_kb=%d anonymous_kb=%d rss_kb=%d page_tables_kb=%d"
        % (
            smaps["Private_Dirty"] + smaps["Private_Clean"],
            smaps["Private_Dirty"],
            smaps["Pss"],
            smaps["Anonymous"],
            smaps["Rss"],
            proc_kb(process.pid, "status", "VmPTE"),
        )
    )
    ours.close()
    process.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", action="store_true", help="memory of an idle worker instead")
    args = parser.parse_args()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        print("skip=this Python has no forkserver")
        return
    context = multiprocessing.get_context("forkserver")
    run_once(context)
    print("ready", flush=True)
    for line in sys.stdin:
        if args.i:
            idle_memory(context)
        else:
            one_after_another(context, float(line))
        sys.stdout.flush()
    os._exit(0)  # the fork server leaves by itself when we have gone


if __name__ == "__main__":
    main()
