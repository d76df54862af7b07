"""reproduce.py: the table of figures, what is run, and how it goes on after a break."""

import json
import os
import re
import shutil
import signal
import threading

import pytest

from madpo_isaac.__main__ import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.paper import FIGURES, HANDS, MUJOCO, SCALES, Figure, Scale, suite
from madpo_isaac.reproduce.plan import Job, choose_tasks, plan
from madpo_isaac.system.lock import Lock
from madpo_isaac.tasks import TASKS, registry

TINY = Scale(
    {"MA-MuJoCo": 64, "Bi-DexHands": 64},
    seeds=(1,),
    tasks=1,
    settings=(
        *("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "algo.epochs=1"),
        *("task.episode_length=8", "save_frequency=0"),
    ),
)
ONE = Figure("one", ("HalfCheetah-2x3",), {"happo": ("algo=happo",)}, "curves")
STUB = """
import json, os, signal, sys, time
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = os.path.join(options["runs_dir"], options["experiment"])
os.makedirs(folder, exist_ok=True)
with open(folder + "/arguments", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "fail" in options["experiment"]:
    sys.exit("error: it failed")
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
    """How often each run was started."""
    return {p.parent.name: len(p.read_text().splitlines()) for p in folder.glob("*/arguments")}


# The table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted({*MUJOCO, *HANDS}))
def test_tasks_are_those_of_the_registry(task):
    assert compose([f"task={task}"]).task.name == task


def test_variants_are_settings_that_there_are():
    every = {settings for figure in FIGURES.values() for settings in figure.variants.values()}
    assert len(every) == 5 + 2 + 5 + 3 + 2
    for settings in every:
        config = compose([f"task={MUJOCO[0]}", *settings])
        assert f"algo={config.algo.name}" in settings


def chosen(name):
    """The algorithm's settings under a variant's name."""
    (settings,) = {f.variants[name] for f in FIGURES.values() if name in f.variants}
    return compose([f"task={MUJOCO[0]}", *settings]).algo


def test_variants_are_what_their_names_say():
    for name in ("madpo", "happo", "hatrpo", "a2po", "mappo"):
        assert chosen(name).name == name
    orders = {"madpo": "random", "madpo_index": "default", "madpo_role": "spec"}
    assert {name: chosen(name).agent_order for name in orders} == orders
    kinds = {"madpo": "cs", "madpo_kl": "kl", "madpo_entropy": "entropy"}
    assert {name: chosen(name).divergence.kind for name in kinds} == kinds
    for lam in (0, 0.1, 0.2, 0.5, 1):
        assert chosen(f"madpo_lam{lam}").divergence.lam == lam
    for sigma in (500, 1000, 2000):
        divergence = chosen(f"madpo_printed_sigma{sigma}").divergence
        assert (divergence.preset, divergence.sigma) == ("printed", sigma)


def test_suites_are_the_registrys():
    names = {"MA-MuJoCo": "mujoco", "Bi-DexHands": "hands"}
    for task in (*MUJOCO, *HANDS):
        assert names[suite(task)] == registry.suite(task)
    wanted = {"fig2": {"mujoco"}, "fig3": {"hands"}, "fig4": {"mujoco", "hands"}}
    for figure, suites in wanted.items():
        assert {registry.suite(task) for task in FIGURES[figure].tasks} == suites


def test_every_task_of_the_registry_but_those_beyond_the_paper_is_in_some_figure():
    names = ("TwoCatchUnderarm", "PushBlock", "ReOrientation", "LiftUnderarm", "Switch")
    beyond = {f"ShadowHand{name}" for name in names}
    beyond |= {"Ant-1x8", "HalfCheetah-1x6", "Walker2d-1x6", "Humanoid-1x17"}
    assert set(TASKS) - beyond == {task for figure in FIGURES.values() for task in figure.tasks}
    assert (len(set(MUJOCO)), len(set(HANDS))) == (10, 10)


def test_figures_can_share_runs():
    """A name means the same settings everywhere, and different names different settings."""
    named = {}
    for figure in FIGURES.values():
        for name, settings in figure.variants.items():
            assert named.setdefault(name, settings) == settings
            assert re.fullmatch(r"[\w.-]+", name)
    assert len(set(named.values())) == len(named)


def test_the_paper_scale_is_the_papers(tmp_path):
    """10 million steps of 20 x 200 and 20 million of 128 x 75, as the tasks' own files have it."""
    tasks = (MUJOCO[3], HANDS[0])
    figure = Figure("", tasks, {"happo": ("algo=happo",)}, "curves")
    jobs = plan(figure, SCALES["paper"], tmp_path)
    assert [job.task for job in jobs] == list(tasks) * 5
    assert [job.settings[-2] for job in jobs[::2]] == [f"seed={k}" for k in range(1, 6)]
    for job in jobs[:2]:
        config = compose(job.settings)
        assert (config.recipe, config.algo.gamma) == ("paper", 0.99)
        assert config.max_iterations == (2500 if "Humanoid" in job.task else 2084)
        assert job.steps == config.max_iterations * config.num_envs * config.algo.horizon


def test_smoke_takes_tasks_by_turns_from_the_suites():
    chosen, missing = choose_tasks(FIGURES["fig4"], SCALES["smoke"])
    assert [suite(task) for task in chosen] == ["MA-MuJoCo", "Bi-DexHands"]
    assert missing == [task for task in FIGURES["fig4"].tasks if task not in TASKS]
    with pytest.raises(UserError, match="None of its tasks is there: Nowhere"):
        choose_tasks(Figure("", ("Nowhere",), {}, ""), SCALES["smoke"])


# Running ----------------------------------------------------------------------------------------


def test_finished_runs_are_skipped_and_others_continued(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "a", "b", "c")
    assert pool.run(jobs, 2, 3) == ({}, 0)
    argument = (tmp_path / "runs/a/arguments").read_text().split()
    where = ["experiment=a", f"runs_dir={tmp_path / 'runs'}", "resume=auto"]
    assert argument == ["num_threads=3", "task=T", "seed=1", *where]
    (tmp_path / "runs/b/status.json").write_text(json.dumps({"state": "running"}))
    (tmp_path / "runs/c/metrics.jsonl").write_text('{"env_steps": 32, "wall_s": 1.0}\n')
    assert pool.run(jobs, 2, 3) == ({}, 0)
    assert starts(tmp_path / "runs") == {"a": 1, "b": 2, "c": 2}
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:4] == ["[1/3] a: finished before, 0:00:02"]
    assert {line[:5] for line in lines} == {"[1/3]", "[2/3]", "[3/3]"}


def test_a_failure_is_reported_and_the_others_run(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "fail", "b")
    assert pool.run(jobs, 1, 1) == ({"fail": "error: it failed"}, 0)
    assert starts(tmp_path / "runs") == {"fail": 1, "b": 1}
    assert "[1/2] fail: failed (error: it failed; all of it is in" in capsys.readouterr().out


def test_a_signal_is_passed_on_and_nothing_else_starts(tmp_path, stub, capsys):
    jobs = jobs_named(tmp_path / "runs", "slow", "b")

    def stop():
        while not (tmp_path / "runs/slow/ready").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert pool.run(jobs, 1, 1) == ({}, 128 + signal.SIGTERM)
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
        while not (tmp_path / "runs/b/status.json").exists():
            threading.Event().wait(0.02)
        shutil.copytree(tmp_path / "runs/b", tmp_path / "runs/done", dirs_exist_ok=True)
        (tmp_path / "runs/done/arguments").unlink()
        for lock in locks:
            lock.release()

    threading.Thread(target=end).start()
    assert pool.run(jobs, 1, 1) == ({}, 0)
    assert starts(tmp_path / "runs") == {"left": 1, "b": 1}
    out = capsys.readouterr().out
    assert all(f"{name}: another process has it; waiting" in out for name in ("done", "left"))
    assert "done: finished by another process" in out


def test_a_run_with_other_settings_is_not_taken(tmp_path):
    (job,) = plan(ONE, TINY, tmp_path)
    job.folder.mkdir(parents=True)
    recorded = job.folder / "overrides.txt"
    recorded.write_text("\n".join(job.arguments(7)) + "\n")
    assert not job.finished()
    recorded.write_text("\n".join(plan(ONE, TINY, tmp_path, ["algo.clip=0.1"])[0].arguments(7)))
    with pytest.raises(UserError, match=r"was run with other settings \(algo\.clip=0\.1\)"):
        job.finished()


def test_threads_may_be_chosen_and_are_no_other_setting(tmp_path):
    (job,) = plan(ONE, TINY, tmp_path, ["num_threads=3"])
    assert compose(job.arguments(7)).num_threads == 3
    job.folder.mkdir(parents=True)
    (job.folder / "overrides.txt").write_text("\n".join(job.arguments(7)) + "\n")
    assert not job.finished()
    (plain,) = plan(ONE, TINY, tmp_path)
    assert compose(plain.arguments(7)).num_threads == 7
    assert not plain.finished()


def test_outlook_goes_by_the_pace_of_the_run_the_task_or_all(tmp_path):
    def job(name, task, steps=None, seconds=1.0):
        folder = tmp_path / name
        folder.mkdir()
        if steps is not None:
            line = json.dumps({"env_steps": steps, "wall_s": seconds})
            (folder / "metrics.jsonl").write_text(f"{line}\n")
        return Job(folder, task, (), 100)

    begun = job("begun", "A", 50, seconds=5.0)  # 10 steps a second: 5 s left
    assert pool.outlook([begun], 1) == (0.5, pytest.approx(5.0))
    same = job("same", "A")  # 10 s at its task's pace
    done = job("done", "B", 100, seconds=2.5)  # 40 a second
    other = job("other", "C")  # 100 / (150 / 7.5) = 5 s at the pace of all
    share, left = pool.outlook([begun, same, done, other], 1)
    assert (share, left) == (150 / 400, pytest.approx(20.0))
    assert pool.outlook([begun, same, done, other], 4)[1] == pytest.approx(10.0)
    assert pool.outlook([same], 1) == (0.0, None)
    assert pool.outlook([done], 1) == (1.0, 0.0)


# The command ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_figure_is_reproduced_and_again_without_running(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SCALES, "tiny", TINY)
    command = ["reproduce", "fig9", "--scale", "tiny", "--jobs", "2"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "3 runs, 2 at a time: 1 tasks, 3 variants, 1 seeds" in out
    names = {path.parent.name for path in (tmp_path / "runs").glob("tiny/*/metrics.jsonl")}
    assert names == {
        f"HalfCheetah-6x1_{name}_s1" for name in ("madpo", "madpo_index", "madpo_role")
    }
    orders = ("default", "random", "spec")
    assert all(f"madpo agent_order={order}" in out for order in orders)
    shown = tmp_path / "out/fig9_tiny/figures/curves.pdf"
    assert f"what the paper shows: {shown}" in out
    assert shown.read_bytes()[:5] == b"%PDF-"
    monkeypatch.setattr(pool, "_start", None)  # nothing is started the second time
    assert main(command) == 0
    assert capsys.readouterr().out.count("finished before") == 3


def test_the_list_starts_nothing(tmp_path, capsys):
    assert main(["reproduce", "fig5", "--list", "--runs", str(tmp_path / "x")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 4 * 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["fig22"], "Did you mean 'fig2'?"),
        ([], "Unknown figure ''"),
        (["fig2", "--scale", "papre"], "Did you mean 'paper'?"),
        (["fig2", "--jobs", "0"], "--jobs 0"),
        (["fig2", "algo.clip=x"], "algo.clip=x must be a number"),
        (["fig2", "--scael", "paper"], "--scael"),
    ],
)
def test_bad_input_is_one_line(argv, part, capsys):
    assert main(["reproduce", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert part in captured.err
