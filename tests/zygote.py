"""Starts training processes quickly: everything is imported once, then each is a fork.

As a program it answers one JSON line with another. ``{"main": module, "argv": [...], "cwd": path,
"out": path, "err": path, "env": {...}, "kill": [stage, n], "limit": bytes}`` starts the main
function of a module and gives its pid, ``{"wait": pid}`` its exit code.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tiny_run import ONCE

TRAIN = "madpo_isaac.commands.train"
STAGES = ("half written", "before replace", "after replace", "metrics", "folder")


class Zygote:
    """The other end of the program."""

    def __init__(self, folder):
        command = [sys.executable, __file__]
        root = str(Path(__file__).resolve().parents[1])
        terminal = {"TERM": "xterm-256color", "COLUMNS": "80"}
        env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **terminal}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=env, cwd=folder, **pipes)
        self.folder, self.logs = folder, {}

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv, main=TRAIN, cwd=None, out=None, err=None, **options):
        """Starts a process and returns its pid; the options are those of the program.

        What it prints goes to the paths ``out`` and ``err``, one log for both unless given.
        """
        log = self.folder / f"log{time.monotonic_ns()}"
        log.touch()
        request = {"argv": list(map(str, argv)), "main": main, "cwd": str(cwd or self.folder)}
        request |= {"out": str(out or log), "err": str(err or out or log)}
        pid = self._ask(**request, **options)
        self.logs[pid] = log
        return pid

    def wait(self, pid):
        """Its exit code, negative for the signal that killed it, and what is in its log."""
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
    from madpo_isaac import console

    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND | os.O_NOCTTY), descriptor)
    console.out.is_interactive = console.out.is_terminal  # Rich asks when the console is made
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    os.chdir(request["cwd"])
    os.environ.update(request.get("env", {}))
    if limit := request.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if "kill" in request:
        kill_oneself_at(*request["kill"])
    code = 1
    try:
        code = importlib.import_module(request["main"]).main(request["argv"])
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def warm_up():
    """Imports, reads and builds once what every run does at first."""
    from madpo_isaac.commands.train import main
    from madpo_isaac.config.overrides import compose

    small = ("num_envs=2", "algo.horizon=2", "algo.hidden=[4]", "num_threads=1", *ONCE)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for run in ("task=HalfCheetah-2x3 algo=madpo", "task=ShadowHandOver"):
            main([*run.split(), *small, "max_iterations=1", f"runs_dir={folder}"])
    compose(["task=HalfCheetah-2x3", "algo=happo"])


def serve():
    warm_up()
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
