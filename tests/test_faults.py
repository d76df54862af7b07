"""Interrupted runs: kill -9, signals, a full disk, a second process."""

import errno
import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_runner import (
    PATIENCE,
    _keep_torch_settings,  # noqa: F401
    assert_same,
    files,
    metrics,
    timeless,
    weights,
)
from tiny_run import ONCE
from zygote import STAGES

from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.metrics import MetricsFile
from madpo_isaac.system.lock import Lock
from madpo_isaac.training import saving
from madpo_isaac.training.saving import Saver

TINY = (
    *("task=HalfCheetah-2x3", "algo=madpo", "num_envs=2", "num_threads=1", "algo.hidden=[8]"),
    *("algo.horizon=4", *ONCE, "task.episode_length=6", "save_frequency=3"),
)
TOTAL = 36
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happened to."""
    runs = tmp_path_factory.mktemp("whole")
    assert main([*TINY, f"runs_dir={runs}", "experiment=x", f"max_iterations={TOTAL}"]) == 0
    return runs / "x"


def command(runs, *overrides, total=TOTAL):
    """The command that a scheduler starts again and again."""
    run = f"runs_dir={runs}", "experiment=x", "resume=auto"
    return *TINY, *run, f"max_iterations={total}", *overrides


def status(run):
    return json.loads((run / "status.json").read_text())


def saved(run):
    """The iteration of the last checkpoint, after reading all of them; 0 without one."""
    if not (run / "nn").exists():
        return 0
    found = {p.stem: checkpoint.load(p)["iteration"] for p in (run / "nn").glob("*.pth")}
    assert all(i == int(name[3:]) for name, i in found.items() if name.startswith("ep_"))
    return found.get("last", 0)


def lines(run):
    """The number of whole lines of metrics."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same_run(run, other):
    assert timeless(run) == timeless(other)
    ours, theirs = weights(run), weights(other)
    for own in ("wall_s", "config"):
        assert ours.pop(own) and theirs.pop(own)
    assert_same(ours, theirs)
    names = [{p.relative_to(r) for p in r.rglob("*")} for r in (run, other)]
    # What a kill left beyond the last save is set aside.
    apart = ("summaries", "dropped")
    outside = [{p for p in n if p.parts[0] not in apart} for n in names]
    assert outside[0] == outside[1]
    events = EventAccumulator(str(run / "summaries")).Reload()
    for tag, key in (("agent0/kl", "env_steps"), ("rewards/iter", "iteration")):
        wanted = [m[key] for m in metrics(run) if tag == "agent0/kl" or m["episodes"]]
        assert [event.step for event in events.Scalars(tag)] == wanted


def wait_for_lines(run, count):
    deadline = time.monotonic() + PATIENCE
    while lines(run) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# kill -9 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("each", "by_lines", "by_time", "most"),
    [(1, 2, 1, 5), pytest.param(2, 7, 3, 15, marks=pytest.mark.slow)],
)
def test_kills_at_any_moment_cost_at_most_what_was_not_saved(
    zygote, whole, tmp_path, each, by_lines, by_time, most
):
    run, draws = tmp_path / "x", random.Random(5)
    plan = [(stage, draws.randint(1, 5)) for stage in STAGES for _ in range(each)]
    plan += [("after lines", draws.randint(1, 8)) for _ in range(by_lines)]
    plan += [("after seconds", draws.uniform(0.0, 0.4)) for _ in range(by_time)]
    draws.shuffle(plan)
    before, killed = 0, 0
    for stage, when in plan:
        if stage in STAGES:
            code, text = zygote.run(*command(tmp_path), kill=(stage, when))
        else:
            done = lines(run)
            pid = zygote.start(*command(tmp_path))
            if stage == "after lines":
                wait_for_lines(run, min(done + when, TOTAL))
            time.sleep(when if stage == "after seconds" else draws.uniform(0.0, 0.02))
            os.kill(pid, signal.SIGKILL)
            code, text = zygote.wait(pid)
        assert code in (0, -signal.SIGKILL), text
        killed += code != 0
        after = saved(run)
        assert after >= before, (stage, when)
        # Every third iteration is saved, while the next ones run.
        assert lines(run) - after <= 6, (stage, when)
        before = after
        if after == TOTAL:  # begin another one
            assert_same_run(run, whole)
            shutil.rmtree(run)
            before = 0
    assert killed >= most
    assert zygote.run(*command(tmp_path))[0] == 0
    assert_same_run(run, whole)


def test_kill_while_the_first_files_are_written(zygote, whole, tmp_path):
    for stage in STAGES:
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        for count in (1, 2):
            assert zygote.run(*command(tmp_path), kill=(stage, count))[0] == -signal.SIGKILL
            saved(tmp_path / "x")
        # A few more iterations show that it goes on.
        assert zygote.run(*command(tmp_path, total=4))[0] == 0
    assert zygote.run(*command(tmp_path))[0] == 0
    assert_same_run(tmp_path / "x", whole)


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_preempted_job_goes_on_when_it_is_queued_again(zygote, whole, tmp_path, number):
    run = tmp_path / "x"
    pid = zygote.start(*command(tmp_path))
    wait_for_lines(run, 5)
    for _ in range(2):  # a scheduler may send it more than once
        os.kill(pid, number)
    assert zygote.wait(pid)[0] == 128 + number
    marked = status(run)
    assert (marked["state"], marked["signal"]) == ("preempted", number.name)
    assert marked["iteration"] == saved(run) == lines(run) < TOTAL
    assert zygote.run(*command(tmp_path))[0] == 0
    assert (status(run)["state"], status(run)["signal"]) == ("finished", None)
    assert_same_run(run, whole)


def test_status_of_running_and_failed(tmp_path, monkeypatch, capsys):
    seen = []
    write = MetricsFile.write

    def look(self, line):
        seen.append(status(tmp_path / "x"))
        if line["iteration"] == 4:
            raise RuntimeError("a bug")
        write(self, line)

    monkeypatch.setattr(MetricsFile, "write", look)
    with pytest.raises(RuntimeError, match="a bug"):
        main(command(tmp_path))
    assert {(s["state"], s["pid"]) for s in seen} == {("running", os.getpid())}
    assert (status(tmp_path / "x")["state"], status(tmp_path / "x")["iteration"]) == ("failed", 4)


# A second process -------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_is_dead(zygote, tmp_path):
    run = tmp_path / "x"
    first = zygote.start(*command(tmp_path, total=10**6))
    wait_for_lines(run, 2)
    for again in (command(tmp_path), (f"checkpoint={run}", "max_iterations=1000001")):
        code, text = zygote.run(*again)
        wanted = rf"error: Run folder '{run}' is in use by another process \(process {first} on .*"
        assert (code, bool(re.fullmatch(wanted + r"\)\.\n", text))) == (2, True), text
    os.kill(first, signal.SIGKILL)
    zygote.wait(first)
    assert status(run)["state"] == "running"
    assert zygote.run(*command(tmp_path, total=lines(run) + 3))[0] == 0


def test_lock(tmp_path):
    one, two = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.acquire()
    assert not two.acquire()
    one.release()
    one.release()
    assert two.acquire()
    two.release()
    assert (tmp_path / "lock").exists()


def test_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert Lock(tmp_path / "lock").acquire()


# Full disks and folders that cannot be written --------------------------------------------------


def one_line(text):
    assert re.fullmatch(r"error: [^\n]+\n", text), text
    return text


def test_disk_quota(zygote, whole, tmp_path):
    run = tmp_path / "x"
    assert zygote.run(*command(tmp_path, total=6))[0] == 0
    size = (run / "nn" / "last.pth").stat().st_size
    before = files(run / "nn")
    code, text = zygote.run(*command(tmp_path), limit=size // 2)
    assert code == 2
    error = one_line(text[text.index("error") :])
    assert f"Cannot write checkpoint '{run}/nn/last.pth'" in error and "too large" in error
    assert files(run / "nn") == before
    assert status(run)["state"] == "failed"
    assert zygote.run(*command(tmp_path))[0] == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    "call", [pytest.param("fsync", marks=pytest.mark.slow), "replace", "metrics"]
)
def test_full_disk_in_the_middle_of_a_run(whole, tmp_path, monkeypatch, capsys, call):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(self, line):
        if line["iteration"] == 8:
            if call == "metrics":
                full()
            owner = os if call == "fsync" else type(tmp_path)
            patched.setattr(owner, call, full)
        write(self, line)

    write = MetricsFile.write
    with monkeypatch.context() as patched:
        patched.setattr(MetricsFile, "write", fill)
        assert main(command(tmp_path)) == 2
    assert "No space left on device" in one_line(capsys.readouterr().err)
    run = tmp_path / "x"
    assert 3 <= saved(run) <= 8  # that of iteration 6 may have been on its way
    assert not list(run.rglob("*.tmp"))
    assert main(command(tmp_path)) == 0
    assert_same_run(run, whole)


def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    assert main(command(tmp_path, total=1)) == 0
    run = tmp_path / "x"
    before = files(run)
    capsys.readouterr()

    def forbidden(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("madpo_isaac.system.lock.os.open", forbidden)
        assert main(command(tmp_path)) == 2
    error = one_line(capsys.readouterr().err)
    assert f"Cannot write run folder '{run}'" in error and "Permission denied" in error
    shutil.rmtree(run / "summaries")
    (run / "summaries").write_text("in the way")
    assert main(command(tmp_path)) == 2
    assert f"Cannot write run folder '{run}'" in one_line(capsys.readouterr().err)
    assert {p: d for p, d in before.items() if "summaries" not in p.parts} == {
        p: d for p, d in files(run).items() if p.name != "summaries"
    }


# The saver --------------------------------------------------------------------------------------


def test_saver_writes_behind_and_reports_with_the_next_call(tmp_path, monkeypatch):
    order = []

    def slow(paths, data):
        time.sleep(0.05)
        order.append(paths[-1].stem)
        if paths[-1].stem == "b":
            raise UserError("disk full")

    monkeypatch.setattr(saving.checkpoint, "write", slow)
    behind = Saver()
    behind.save([tmp_path / "a"], {})
    order.append("training goes on")
    behind.save([tmp_path / "b"], {})
    with pytest.raises(UserError, match="disk full"):
        behind.save([tmp_path / "c"], {})
    behind.wait()
    assert order == ["training goes on", "a", "b"]


def test_a_minute_without_a_better_return_is_saved(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 25))  # every look at it takes 25 s
    monkeypatch.setattr("madpo_isaac.training.saving.time.monotonic", lambda: next(clock))
    written = []
    monkeypatch.setattr(
        saving.checkpoint, "write", lambda paths, data: written.append([p.stem for p in paths])
    )
    settings = "save_frequency=0", "task.episode_length=1000"  # no episode ends
    assert main(command(tmp_path, *settings, total=10)) == 0
    assert len(written) >= 4
    assert {tuple(names) for names in written} == {("last",)}
