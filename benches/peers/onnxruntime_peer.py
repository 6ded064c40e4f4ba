"""onnxruntime as a peer: one process, one model, one thread unless more are asked for.

benches/README.md describes the arguments and the protocol. An error ends the process with Python's
message on standard error.
"""

import json
import os
import sys
import threading
import time

import numpy as np
import onnxruntime as ort


def say(value):
    print(json.dumps(value), flush=True)


def load(model, arguments, threads, settings):
    """Inputs come as NAME DTYPE DIMS FILE; the file contains type and shape too."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Errors only: its warnings are the same in every start.
    options.log_severity_level = 3
    for setting in settings:
        options.add_session_config_entry(*setting.split("=", 1))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {arguments[at]: np.load(arguments[at + 3]) for at in range(0, len(arguments), 4)}
    return session, feeds


def times(session, feeds, count):
    clock = time.perf_counter_ns
    found = []
    for _ in range(count):
        start = clock()
        session.run(None, feeds)
        found.append(clock() - start)
    return found


def rate(session, feeds, clients, ms):
    """Runs of one session on several threads, each starting its next run when one is done."""
    begin = threading.Barrier(clients)
    done = [(0, 0)] * clients

    def client(at):
        clock, runs = time.perf_counter_ns, 0
        begin.wait()
        start = clock()
        while clock() - start < ms * 1_000_000:
            session.run(None, feeds)
            runs += 1
        done[at] = (runs, clock() - start)

    pool = [threading.Thread(target=client, args=(at,)) for at in range(clients)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return {"runs": sum(runs for runs, _ in done), "ns": max(took for _, took in done)}


def outputs(session, feeds):
    return [output.astype(np.float32).ravel().tolist() for output in session.run(None, feeds)]


def main():
    # Belljar's workers have sessions of their own. Linux may schedule each session as a group, so that
    # on a busy machine a peer in the session of the benchmark would get another part of the processor.
    os.setsid()
    arguments = sys.argv[1:]
    once = arguments[0] == "--once"
    if once:
        arguments = arguments[1:]
    threads = 1
    if arguments[0] == "--threads":
        threads = int(arguments[1])
        arguments = arguments[2:]
    settings = []
    while arguments[0] == "--setting":
        settings.append(arguments[1])
        arguments = arguments[2:]
    start = time.perf_counter_ns()
    session, feeds = load(arguments[0], arguments[1:], threads, settings)
    loaded = time.perf_counter_ns() - start
    if once:
        say({"outputs": outputs(session, feeds)})
        return
    say({"ready": ort.__version__, "load_ns": loaded})
    for line in sys.stdin:
        order = line.split()
        if order[0] == "run":
            say({"times": times(session, feeds, int(order[1]))})
        elif order[0] == "rate":
            say(rate(session, feeds, int(order[1]), int(order[2])))
        elif order[0] == "outputs":
            say({"outputs": outputs(session, feeds)})
        else:
            sys.exit(f"unknown request {line!r}")


if __name__ == "__main__":
    main()
