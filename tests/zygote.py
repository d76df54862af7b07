"""Starts training processes quickly: everything is imported once, then each is a fork.

As a program it answers one JSON line with another: ``{"argv": [...], "log": path, "kill": [stage,
n], "limit": bytes, "env": {...}}`` starts train.py's main and gives its pid; ``{"wait": pid}`` its
exit code.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("half written", "before replace", "after replace", "metrics", "folder")


class Zygote:
    """The other end of the program."""

    def __init__(self, folder):
        command = [sys.executable, __file__]
        root = str(Path(__file__).resolve().parents[1])
        env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=env, cwd=folder, **pipes)
        self.folder, self.logs = folder, {}

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv, kill=None, limit=None, env=None):
        """Starts a process and returns its pid."""
        log = self.folder / f"log{time.monotonic_ns()}"
        pid = self._ask(argv=argv, log=str(log), kill=kill, limit=limit, env=env or {})
        self.logs[pid] = log
        return pid

    def wait(self, pid):
        """Its exit code, negative for the signal that killed it, and what it printed."""
        code = self._ask(wait=pid)
        return code, self.logs.pop(pid).read_text()

    def run(self, *argv, **options):
        """Starts a process, waits for it and returns its exit code and what it printed."""
        return self.wait(self.start(*argv, **options))

    def close(self):
        for pid in self.logs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def kill_oneself_at(stage, count):
    """Lets this process die at the ``count``-th time it comes to ``stage``."""
    from madpo_isaac.runs.metrics import MetricsFile
    from madpo_isaac.system import files

    remaining = [count]

    def arrived():
        remaining[0] -= 1
        return remaining[0] == 0

    def die():
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    fsync, replace, sync_folder = os.fsync, Path.replace, files.sync_folder
    write = MetricsFile.write

    def half_written(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".tmp") and arrived():
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        fsync(descriptor)

    def around_replace(self, target):
        here = arrived()
        if here and stage == "before replace":
            die()
        replace(self, target)
        if here:
            die()

    def folder(path):
        if arrived():
            die()
        sync_folder(path)

    def half_a_line(self, metrics):
        if arrived():
            self._file.write(json.dumps(metrics)[:200])
            self._file.flush()
            die()
        write(self, metrics)

    if stage == "half written":
        os.fsync = half_written
    elif stage in ("before replace", "after replace"):
        Path.replace = around_replace
    elif stage == "folder":
        files.sync_folder = folder
    else:
        MetricsFile.write = half_a_line


def child(request):
    from madpo_isaac.commands.train import main

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ.update(request["env"])
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if request["kill"]:
        kill_oneself_at(*request["kill"])
    code = 1
    try:
        code = main(request["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve():
    import torch
    import torch.utils.tensorboard

    from madpo_isaac.config.overrides import compose
    from madpo_isaac.training.run import Run

    # What these import takes seconds.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    Run(compose(["task=HalfCheetah-2x3", "num_threads=1"]))

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                child(request)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
