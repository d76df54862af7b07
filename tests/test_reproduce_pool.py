"""reproduce.py: runs in processes of their own, and how they go on after a break."""

import json
import os
import shutil
import signal
import threading

import pytest
from tiny_figure import ONE, TINY

from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.cost import Cost
from madpo_isaac.reproduce.plan import Job, plan
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.system.lock import Lock

STUB = """
import json, os, signal, sys, time
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = os.path.join(options["runs_dir"], options["experiment"])
os.makedirs(folder, exist_ok=True)
locked = os.path.exists(folder + "/lock")  # others may take it once the arguments are there
with open(folder + "/arguments", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "fail" in options["experiment"]:
    sys.exit("error: it failed")
if "late" in options["experiment"] and not locked:
    while not os.path.exists(folder + "/held"):
        time.sleep(0.02)
    sys.exit("error: in use by another process")
if "short" in options["experiment"]:
    sys.exit(0)
if "killed" in options["experiment"]:
    os.kill(os.getpid(), signal.SIGKILL)
if "preempted" in options["experiment"]:
    sys.exit(128 + signal.SIGTERM)
if "slow" in options["experiment"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    open(folder + "/ready", "w").close()
    time.sleep(60)
with open(folder + "/metrics.jsonl", "w") as file:
    file.write(json.dumps({"env_steps": 64, "wall_s": 2.0}) + "\\n")
with open(folder + "/status.json", "w") as file:
    json.dump({"state": "finished"}, file, indent=2)
"""
"""Stands for train.py; writes what a run leaves behind."""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Replaces train.py."""
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    monkeypatch.setattr(pool, "TRAIN", (str(path),))


def jobs_named(folder, *names):
    return [Job(folder / name, "T", ("task=T", "seed=1"), 64) for name in names]


def starts(folder):
    """The number of starts of each run."""
    return {p.parent.name: len(p.read_text().splitlines()) for p in folder.glob("*/arguments")}


def test_finished_runs_are_skipped_and_others_continued(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "a", "b", "c")
    assert pool.run(jobs, 2, 3) == ({}, {}, 0)
    argument = (tmp_path / "runs/a/arguments").read_text().split()
    where = ["experiment=a", f"runs_dir={tmp_path / 'runs'}", "resume=auto"]
    assert argument == ["num_threads=3", "task=T", "seed=1", *where]
    (tmp_path / "runs/b/status.json").write_text(json.dumps({"state": "running"}))
    (tmp_path / "runs/c/metrics.jsonl").write_text('{"env_steps": 32, "wall_s": 1.0}\n')
    assert pool.run(jobs, 2, 3) == ({}, {}, 0)
    assert starts(tmp_path / "runs") == {"a": 1, "b": 2, "c": 2}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 of 3 runs, 0% of the steps, ETA 0:00:02"  # 1 s each is expected
    assert lines[5:6] == ["[1/3] a: finished before, 0:00:02"]
    assert {line[:5] for line in lines if "ETA" not in line} == {"[1/3]", "[2/3]", "[3/3]"}


def test_a_failure_is_reported_and_the_others_run(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "fail", "b")
    assert pool.run(jobs, 1, 1) == ({"fail": "it failed"}, {}, 0)
    assert starts(tmp_path / "runs") == {"fail": 1, "b": 1}
    assert "[1/2] fail: failed (it failed; all of it is in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("killed", "killed by signal 9; run the same command again to continue it"),
        ("preempted", "stopped by signal 15; run the same command again to continue it"),
        ("short", "its metrics.jsonl ends at 0 of 64 steps; remove '{}' to make it again"),
    ],
)
def test_a_run_that_ends_before_its_end_is_unfinished(tmp_path, stub, capsys, name, reason):
    jobs = jobs_named(tmp_path / "runs", name, "b")
    reason = reason.format(tmp_path / "runs" / name)
    assert pool.run(jobs, 1, 1) == ({}, {name: reason}, 0)
    assert starts(tmp_path / "runs") == {name: 1, "b": 1}
    assert f"[1/2] {name}: unfinished ({reason}), " in capsys.readouterr().out


def test_a_signal_is_passed_on_and_nothing_else_starts(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "slow", "b")

    def stop():
        while not (tmp_path / "runs/slow/ready").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert pool.run(jobs, 1, 1) == ({}, {}, 128 + signal.SIGTERM)
    assert starts(tmp_path / "runs") == {"slow": 1}
    assert "slow: stopped" in capsys.readouterr().out


def test_a_run_that_outlived_its_sweep_is_waited_for(tmp_path, stub, capsys):
    """kill -9 leaves the runs of a sweep alive, each with the lock of its folder."""
    jobs = jobs_named(tmp_path / "runs", "done", "left", "b")
    locks = [Lock(job.folder / "lock") for job in jobs[:2]]
    for job, lock in zip(jobs, locks, strict=False):
        job.folder.mkdir(parents=True)
        assert lock.acquire()
    assert [job.taken() for job in jobs] == [True, True, False]

    def end():
        status = tmp_path / "runs/b/status.json"
        while not status.exists() or not status.read_text().endswith("}"):  # it is written in parts
            threading.Event().wait(0.02)
        shutil.copytree(tmp_path / "runs/b", tmp_path / "runs/done", dirs_exist_ok=True)
        (tmp_path / "runs/done/arguments").unlink()
        for lock in locks:
            lock.release()

    threading.Thread(target=end).start()
    assert pool.run(jobs, 1, 1) == ({}, {}, 0)
    assert starts(tmp_path / "runs") == {"left": 1, "b": 1}
    out = capsys.readouterr().out
    assert all(f"{name}: waiting for another process" in out for name in ("done", "left"))
    assert "done: finished by another process" in out


@pytest.mark.parametrize("ends", ["finished", "unfinished", "at once"])
def test_a_run_that_another_process_took_a_moment_before_is_waited_for(
    tmp_path, stub, capsys, ends
):
    """Between the start of a run and its lock lie seconds, in which a second one may start it."""
    (job,) = jobs_named(tmp_path / "runs", "late")
    other = jobs_named(tmp_path / "other", "b")
    pool.run(other, 1, 1)

    def take_it():
        while not (job.folder / "arguments").exists():
            threading.Event().wait(0.02)
        lock = Lock(job.folder / "lock")
        assert lock.acquire()
        if ends != "unfinished":
            for name in ("metrics.jsonl", "status.json"):
                shutil.copy(other[0].folder / name, job.folder)
        if ends == "at once":
            lock.release()
        (job.folder / "held").touch()
        threading.Event().wait(1.0)
        lock.release()

    threading.Thread(target=take_it).start()
    assert pool.run([job], 1, 1) == ({}, {}, 0)
    assert starts(tmp_path / "runs") == {"late": 2 if ends == "unfinished" else 1}
    out = capsys.readouterr().out
    assert ("late: waiting for another process" in out) == (ends != "at once")
    assert "late: finished" in out and "failed" not in out


def test_a_run_with_other_settings_is_not_taken(tmp_path):
    (job,) = plan(ONE, TINY, tmp_path)
    job.folder.mkdir(parents=True)
    recorded = job.folder / "overrides.txt"
    recorded.write_text("\n".join(job.arguments(7)) + "\n")
    assert not job.finished()
    recorded.write_text("\n".join(plan(ONE, TINY, tmp_path, ["algo.clip=0.1"])[0].arguments(7)))
    with pytest.raises(UserError, match=r"was run with other settings \(algo\.clip=0\.1\)"):
        job.finished()


def test_a_run_is_compared_by_its_record(tmp_path):
    """A setting that is younger than the run had its default; a recipe may have changed since."""
    (job,) = plan(ONE, TINY, tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "overrides.txt").write_text("\n".join(job.arguments(7)) + "\n")
    record = as_yaml(compose(job.arguments(7)))
    path = job.folder / "config.yaml"
    assert record.count("  actor_beta1: 0.9\n") == 1
    path.write_text(record.replace("  actor_beta1: 0.9\n", ""))
    assert not job.finished()
    (pinned,) = plan(ONE, TINY, tmp_path, ["algo.actor_beta1=0.9"])
    assert not pinned.finished()
    (other,) = plan(ONE, TINY, tmp_path, ["algo.actor_beta1=0.5"])
    with pytest.raises(UserError, match=r"other settings \(algo\.actor_beta1=0\.9\)"):
        other.finished()
    assert record.count("  gamma: 0.99\n") == 1
    path.write_text(record.replace("  gamma: 0.99\n", "  gamma: 0.97\n"))
    with pytest.raises(UserError, match=r"was run with other settings \(algo\.gamma=0\.97\)"):
        job.finished()
    (job.folder / "overrides.txt").unlink()  # which is not what is compared
    with pytest.raises(UserError, match=r"was run with other settings \(algo\.gamma=0\.97\)"):
        job.finished()
    seedless = record.replace("seed: 1\n", "")
    of_keys = [f"seed: 1\n{more}" for more in ("foo: 1", "1: 2", "num_envs: [1, 2]")]
    for damage in ("seed: abc", "seed: 1e400", *of_keys):
        path.write_text(f"{seedless}{damage}\n")
        with pytest.raises(UserError, match=r"config\.yaml' cannot be used"):
            job.finished()
    path.write_text(record[:20])
    with pytest.raises(UserError, match=r"config\.yaml' cannot be used"):
        job.finished()
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"config\.yaml' cannot be used"):
        job.finished()


@pytest.mark.parametrize("name", ["plain", "a b", "a=b", "ü", "a,b", "it's", "$x {y}"])
def test_the_folder_of_the_runs_may_have_any_name(tmp_path, name):
    (job,) = plan(ONE, TINY, tmp_path / name)
    assert compose(job.arguments(7)).runs_dir == str(tmp_path / name)


def test_threads_may_be_chosen_and_are_no_other_setting(tmp_path):
    (job,) = plan(ONE, TINY, tmp_path, ["num_threads=3"])
    assert compose(job.arguments(7)).num_threads == 3
    job.folder.mkdir(parents=True)
    (job.folder / "overrides.txt").write_text("\n".join(job.arguments(7)) + "\n")
    assert not job.finished()
    (plain,) = plan(ONE, TINY, tmp_path)
    assert compose(plain.arguments(7)).num_threads == 7
    assert not plain.finished()


def test_outlook_goes_by_the_pace_of_the_run_and_what_was_expected(tmp_path):
    def job(name, expected_s, steps=None, seconds=1.0):
        folder = tmp_path / name
        folder.mkdir()
        if steps is not None:
            line = json.dumps({"env_steps": steps, "wall_s": seconds})
            (folder / "metrics.jsonl").write_text(f"{line}\n")
        return Job(folder, "T", (), 100, cost=Cost(expected_s, 0.0))

    begun = job("begun", 4.0, 50, seconds=6.0)  # 6 s left at its own pace, expected were 2
    fresh, slow = job("fresh", 4.0), job("slow", 40.0)
    done = job("done", 4.0, 100, seconds=6.0)  # 12 s instead of 2 + 4: twice what was expected
    assert pool.outlook([fresh, slow], 1) == (0.0, 44.0)  # before anything has run
    assert pool.outlook([fresh, slow], 2) == (0.0, 40.0)
    assert pool.outlook([begun], 1) == (0.5, pytest.approx(6.0))
    share, left = pool.outlook([begun, fresh, slow, done], 1)
    assert (share, left) == (150 / 400, pytest.approx(6.0 + 8.0 + 80.0))
    assert pool.outlook([done], 1) == (1.0, 0.0)
    endless = job("endless", 4.0, 100, seconds=1e17)
    assert endless.progress() == (100.0, 0.0)
