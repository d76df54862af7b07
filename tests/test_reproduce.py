"""reproduce.py: the table of figures, what is run, and how it goes on after a break."""

import dataclasses
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import pytest
import report_runs

from madpo_isaac.__main__ import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.divergence.presets import PRESETS
from madpo_isaac.errors import UserError
from madpo_isaac.report import tables
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.arms import METHODS, Arm, madpo
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.cost import Cost, expected, total
from madpo_isaac.reproduce.paper import FIGURES, HANDS, MUJOCO, SCALES, Figure, Scale, suite
from madpo_isaac.reproduce.plan import Job, choose_tasks, plan
from madpo_isaac.reproduce.run import reproduce
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
HAPPO = Arm("HAPPO", ("algo=happo",))
ONE = Figure("one", ("HalfCheetah-2x3",), lambda _: {"happo": HAPPO}, "curves")
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
    """The number of starts of each run."""
    return {p.parent.name: len(p.read_text().splitlines()) for p in folder.glob("*/arguments")}


# The table --------------------------------------------------------------------------------------

CLOSED = "algo=madpo algo.divergence.preset=gaussian"
CODE = "algo=madpo algo.divergence.preset=official algo.entropy_coef=0"
EQ_11 = "algo=madpo algo.divergence.preset=printed algo.entropy_coef=0"
BASELINES = {name: f"algo={name}" for name in ("happo", "hatrpo", "a2po", "mappo")}
ALGORITHMS = {
    "gaussian": {"madpo_gaussian": CLOSED, **BASELINES},
    "official": {"madpo_official": CODE, **BASELINES},
    "printed": {"madpo_printed": EQ_11, **BASELINES},
}
ALONE = {
    f"only_{kind}": f"{CLOSED} algo.entropy_coef=0 algo.divergence.kind={kind}"
    for kind in ("cs", "kl", "entropy", "none")
}
NOT_CS = {name: text for name, text in ALONE.items() if name != "only_cs"}
LAMS = (0, 0.1, 0.2, 0.5, 1)
SWEEPS = {
    "gaussian": {
        "happo": "algo=happo",
        **{f"madpo_gaussian_lam{x}": f"{CLOSED} algo.divergence.lam={x}" for x in LAMS},
        "madpo_gaussian_coef0.02": f"{CLOSED} algo.divergence.coef=0.02",
        "madpo_gaussian_coef0.06": f"{CLOSED} algo.divergence.coef=0.06",
        "madpo_gaussian_coef0.2": f"{CLOSED} algo.divergence.coef=0.2",
    },
    "official": {
        "happo": "algo=happo",
        "only_none": ALONE["only_none"],
        **{f"madpo_official_lam{x}": f"{CODE} algo.divergence.lam={x}" for x in LAMS},
        "madpo_official_coef500": f"{CODE} algo.divergence.coef=500",
        "madpo_official_coef1000": f"{CODE} algo.divergence.coef=1000",
        "madpo_official_coef2000": f"{CODE} algo.divergence.coef=2000",
    },
    "printed": {
        "happo": "algo=happo",
        "only_none": ALONE["only_none"],
        **{f"madpo_printed_lam{x}": f"{EQ_11} algo.divergence.lam={x}" for x in LAMS},
        "madpo_printed_sigma500": f"{EQ_11} algo.divergence.sigma=500",
        "madpo_printed_sigma1000": f"{EQ_11} algo.divergence.sigma=1000",
        "madpo_printed_sigma2000": f"{EQ_11} algo.divergence.sigma=2000",
    },
}
INCENTIVES = {
    "gaussian": ALONE,
    "official": {"madpo_official": CODE, **NOT_CS},
    "printed": {"madpo_printed": EQ_11, **NOT_CS},
}
ORDERS = {
    method: {
        f"madpo_{method}": own,
        f"madpo_{method}_index": f"{own} algo.agent_order=default",
        f"madpo_{method}_role": f"{own} algo.agent_order=spec",
    }
    for method, own in (("gaussian", CLOSED), ("official", CODE), ("printed", EQ_11))
}
COSTS = {
    **BASELINES,
    "madpo_gaussian": CLOSED,
    "madpo_official": CODE,
    "madpo_printed": EQ_11,
    "madpo_yu": "algo=madpo algo.divergence.preset=yu",
}
ARMS = {
    **dict.fromkeys(("fig2", "fig3", "fig4", "fig7", "fig8"), ALGORITHMS),
    **{"fig5": INCENTIVES, "fig6": SWEEPS, "fig9": ORDERS, "fig10": SWEEPS},
    "table5": dict.fromkeys(METHODS, COSTS),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FIGURES)
def test_arms_are_these(name, method):
    arms = FIGURES[name].arms(method)
    assert {arm: " ".join(each.settings) for arm, each in arms.items()} == ARMS[name][method]
    assert len({each.title for each in arms.values()}) == len(arms)
    assert all(re.fullmatch(r"[\w.-]+", arm) for arm in arms)


def test_there_is_every_figure_with_results_and_the_table_of_times():
    assert list(FIGURES) == [*(f"fig{k}" for k in range(2, 11)), "table5"]


def test_a_name_means_the_same_settings_in_all_figures():
    named = {}
    for by_method in ARMS.values():
        for arms in by_method.values():
            for name, settings in arms.items():
                assert named.setdefault(name, settings) == settings
    assert len(set(named.values())) == len(named)


def configured(settings, *more):
    return compose([f"task={MUJOCO[5]}", "recipe=paper", *settings.split(), *more])


def test_incentives_differ_in_the_incentive_alone():
    configs = {name: configured(text) for name, text in ALONE.items()}
    assert {config.algo.entropy_coef for config in configs.values()} == {0.0}
    for name, config in configs.items():
        assert config.algo.divergence.kind == name.removeprefix("only_")
        config.algo.divergence.kind = "cs"
    assert all(config == configs["only_cs"] for config in configs.values())


@pytest.mark.parametrize("settings", [CODE, EQ_11])
def test_presets_that_drop_the_entropy_bonus_say_so(settings):
    config = configured(settings)
    assert config.algo.entropy_coef == 0.0
    assert not PRESETS[config.algo.divergence.preset].keep_entropy


def test_orders_and_methods_are_what_their_names_say():
    orders = {"": "random", "_index": "default", "_role": "spec"}
    for end, order in orders.items():
        assert configured(ORDERS["gaussian"][f"madpo_gaussian{end}"]).algo.agent_order == order
    for method in METHODS:
        (own,) = (text for name, text in ALGORITHMS[method].items() if name not in BASELINES)
        assert configured(own).algo.divergence.preset == method


@pytest.mark.parametrize("task", sorted({*MUJOCO, *HANDS}))
def test_tasks_are_those_of_the_registry(task):
    assert compose([f"task={task}"]).task.name == task
    assert suite(task) == {"mujoco": "MA-MuJoCo", "hands": "Bi-DexHands"}[registry.suite(task)]


def test_tasks_of_the_figures():
    both = (*MUJOCO, *HANDS)
    wanted = {"fig2": MUJOCO, "fig3": HANDS, "fig4": both, "fig7": MUJOCO, "fig8": HANDS}
    assert {name: FIGURES[name].tasks for name in wanted} == wanted
    assert {name: len(tasks) for name, tasks in FIGURES["fig4"].panels.items()} == {
        **{"MA-MuJoCo": 10, "Bi-DexHands": 10},
        **{"Ant": 3, "HalfCheetah": 3, "Walker2d": 3},
    }
    assert FIGURES["fig4"].panels["Ant"] == ("Ant-4x2", "Ant-2x4", "Ant-8x1")
    assert set(FIGURES["fig6"].tasks) < set(FIGURES["fig10"].tasks)


def test_every_task_of_the_registry_but_those_beyond_the_paper_is_in_some_figure():
    names = ("TwoCatchUnderarm", "PushBlock", "ReOrientation", "LiftUnderarm", "Switch")
    beyond = {f"ShadowHand{name}" for name in names}
    beyond |= {"Ant-1x8", "HalfCheetah-1x6", "Walker2d-1x6", "Humanoid-1x17"}
    assert set(TASKS) - beyond == {task for figure in FIGURES.values() for task in figure.tasks}
    assert (len(set(MUJOCO)), len(set(HANDS))) == (10, 10)


def test_the_paper_scale_is_the_papers(tmp_path):
    """10 million steps of 20 x 200 and 20 million of 128 x 75, as the tasks' own files have it."""
    tasks = (MUJOCO[3], HANDS[0])
    figure = Figure("", tasks, lambda _: {"happo": HAPPO}, "curves")
    jobs = plan(figure, SCALES["paper"], tmp_path)
    assert [job.task for job in jobs] == list(tasks) * 5
    assert [job.settings[-2] for job in jobs[::2]] == [f"seed={k}" for k in range(1, 6)]
    for job in jobs[:2]:
        config = compose(job.settings)
        assert (config.recipe, config.algo.gamma) == ("paper", 0.99)
        assert config.max_iterations == (2500 if "Humanoid" in job.task else 2084)
        assert job.steps == config.max_iterations * config.num_envs * config.algo.horizon


def test_the_recipe_is_a_choice(tmp_path):
    (job,) = plan(ONE, TINY, tmp_path, recipe="tuned")
    assert compose(job.settings).recipe == "tuned"


def test_kernel_estimators_take_few_rows_at_small_scales(tmp_path):
    kernel = Figure("", (MUJOCO[0],), madpo, "curves")
    rows = {}
    for limit in (None, 5, 1000):
        scale = dataclasses.replace(TINY, rows=limit)
        for method in METHODS:
            (job,) = plan(kernel, scale, tmp_path, method=method)
            rows[limit, method] = compose(job.settings).algo.divergence.rows
    assert {rows[limit, "gaussian"] for limit in (None, 5, 1000)} == {None}
    assert [rows[limit, "official"] for limit in (None, 5, 1000)] == [None, 5, 32]
    assert [rows[limit, "printed"] for limit in (None, 5, 1000)] == [None, 5, 32]


def test_smoke_takes_tasks_by_turns_from_the_suites():
    chosen, missing = choose_tasks(FIGURES["fig4"], SCALES["smoke"])
    assert [suite(task) for task in chosen] == ["MA-MuJoCo", "Bi-DexHands"]
    assert missing == [task for task in FIGURES["fig4"].tasks if task not in TASKS]
    with pytest.raises(UserError, match="None of its tasks is there: Nowhere"):
        choose_tasks(Figure("", ("Nowhere",), lambda _: {}, ""), SCALES["smoke"])


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting", "part"),
    [
        ("fig9", "algo.agent_order=default", "the arms of the figure set algo.agent_order"),
        ("fig5", "algo.entropy_coef=0.1", "the arms of the figure set algo.entropy_coef"),
        ("fig6", "algo.divergence={lam: 1}", "the arms of the figure set algo.divergence."),
        ("fig2", "recipe=tuned", "choose with --recipe"),
        ("fig2", "algo.divergence.preset=yu", "choose with --method"),
        ("fig2", "checkpoint=latest", "checkpoint follows from the figure"),
        ("fig2", "+max_iterations=1", "max_iterations follows from the figure"),
    ],
)
def test_settings_that_would_be_ignored_or_undo_the_figure_are_refused(
    name, setting, part, tmp_path
):
    with pytest.raises(UserError, match=re.escape(f"'{setting}': {part}")):
        plan(FIGURES[name], TINY, tmp_path, [setting])


def test_other_settings_apply_to_every_run(tmp_path):
    jobs = plan(FIGURES["fig9"], TINY, tmp_path, ["num_envs=2", "algo.gamma=0.5"])
    for job in jobs:
        config = compose(job.settings)
        assert (config.num_envs, config.algo.gamma) == (2, 0.5)
        assert job.steps == config.max_iterations * 2 * 8 == 64


# Text on the figures ----------------------------------------------------------------------------


def lines(name, method="gaussian", recipe="paper", scale="smoke", settings=()):
    how = (method, recipe)
    request = Request(name, FIGURES[name], scale, SCALES[scale], *how, settings)
    small = dataclasses.replace(FIGURES[name], tasks=FIGURES[name].tasks[:1])
    jobs = plan(small, SCALES[scale], Path("x"), settings, *how)
    return caption(request, jobs).splitlines()


def test_captions_say_what_a_figure_is_of():
    head, *rest = lines("fig3")
    assert head == (
        "Figure 3 of the MADPO paper, rerun: Learning curves on Bi-DexHands. Recipe paper, method "
        "gaussian, scale smoke: seeds 1, 2; 96,000 steps of Bi-DexHands."
    )
    text = "\n".join(rest)
    for part in ("bounded closed form", "coefficient is 0.06", "4000 contradicts", "HATRPO has 1",
                 "2 seeds instead of 5, 2 of 10 tasks", "not in Isaac Gym", "A2PO"):  # fmt: skip
        assert part in text
    assert all(line.startswith("Deviation: ") for line in rest)


def test_captions_follow_the_request():
    official = "\n".join(lines("fig10", "official", settings=("algo.gamma=0.5",)))
    assert "coefficient 500 to 2000 and lambda 0 to 1 instead" in official
    assert "64 of 4000 rows" in official
    assert "every run has algo.gamma=0.5." in official
    assert "closed form" not in official
    tuned = "\n".join(lines("fig3", "printed", "tuned"))
    assert "recipe tuned, not of Tables 1 to 4" in tuned
    assert "4000 contradicts" not in tuned
    assert "HAPPO without entropy bonus" in tuned
    whole = "\n".join(lines("fig7", scale="paper"))
    assert "seeds instead" not in whole
    assert "4000" not in whole


# Cost -------------------------------------------------------------------------------------------


def test_costs_grow_with_what_they_are_made_of(tmp_path):
    def seconds(*settings, task="HalfCheetah-6x1"):
        return expected(compose([f"task={task}", "recipe=paper", *settings]), 10).seconds

    happo = seconds("algo=happo")
    assert 0.5 * 2.9 < happo < 2.0 * 2.9  # docs/results/update.json: 0.293 s an iteration
    assert 0.5 * 20.4 < seconds("algo=happo", task="ShadowHandOver") < 2.0 * 20.4
    assert 0.5 * 33.7 < seconds("algo=happo", task="Humanoid-17x1") < 2.0 * 33.7
    official = seconds(*CODE.split()) - happo
    few = seconds(*CODE.split(), "algo.divergence.rows=400") - happo
    assert official == pytest.approx(10.0 * few)
    assert total([Cost(1.0, 2.0), Cost(3.0, 4.0)]) == Cost(4.0, 6.0)


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
    assert lines[0] == "0 of 3 runs, 0% of the steps, ETA 0:00:02"  # 1 s each is expected
    assert lines[5:6] == ["[1/3] a: finished before, 0:00:02"]
    assert {line[:5] for line in lines if "ETA" not in line} == {"[1/3]", "[2/3]", "[3/3]"}


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


# The reports ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "picture"),
    [("fig4", "efficiency"), ("fig6", "sensitivity"), ("fig10", "sensitivity_over_tasks")],
)
def test_figures_that_only_the_paper_has_are_drawn(name, picture, tmp_path, monkeypatch):
    scale = dataclasses.replace(TINY, seeds=(1, 2), tasks=3)
    request = Request(name, FIGURES[name], "tiny", scale, "printed", "paper")
    jobs = plan(FIGURES[name], scale, tmp_path / "runs", method="printed")
    for k, job in enumerate(jobs):
        report_runs.write_run(job.folder, job.task, lines=3, gain=1.0 + k)
    monkeypatch.setattr(pool, "run", lambda *_: ({}, 0))
    out = tmp_path / "out"
    assert reproduce({out: request}, {out: jobs}, 1, 1, reps=10) == 0
    assert (out / "figures" / f"{picture}.pdf").read_bytes()[:5] == b"%PDF-"
    page = (out / "report.html").read_text()
    assert "Eq. 11 as printed" in page
    assert f"(figures/{picture}.pdf)" in page
    parts = {path.parent.name for path in out.glob("*/report.html")}
    assert parts == ({"MA-MuJoCo", "Bi-DexHands", "HalfCheetah", "Walker2d"} & parts or set())
    assert bool(parts) == (name == "fig4")


def test_the_table_of_times_has_memory(tmp_path):
    for name, mb in (("happo", 400.0), ("madpo", 412.0)):
        run = report_runs.write_run(tmp_path / f"{name}_s1", algo=name)
        (run / "status.json").write_text(json.dumps({"peak_memory_mb": mb}))
    table = tables.wall_time(Study(load([str(tmp_path)])), "happo")
    assert table.head[-2:] == ["peak memory (MB)", "- happo"]
    assert [row[-2:] for row in table.rows] == [["400", "0"], ["412", "12"]]


# The command ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_figure_is_reproduced_and_again_without_running(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SCALES, "tiny", TINY)
    command = ["reproduce", "fig9", "--scale", "tiny", "--jobs", "2"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "3 runs in all, 2 at a time" in out
    names = {path.parent.name for path in (tmp_path / "runs").glob("paper_tiny/*/metrics.jsonl")}
    arms = ("madpo_gaussian", "madpo_gaussian_index", "madpo_gaussian_role")
    assert names == {f"HalfCheetah-6x1_{name}_s1" for name in arms}
    for title in ("random order", "order of indices", "order of roles", "bounded closed form"):
        assert title in out
    report = tmp_path / "out/fig9_gaussian_paper_tiny"
    shown = report / "figures/curves.pdf"
    assert f"what the paper shows: {shown}" in out
    assert shown.read_bytes()[:5] == b"%PDF-"
    assert (
        "Recipe paper, method gaussian, scale tiny: seeds 1;"
        in (report / "report.html").read_text()
    )
    monkeypatch.setattr(pool, "_start", None)  # nothing is started the second time
    assert main(command) == 0
    assert capsys.readouterr().out.count("finished before") == 3


def test_the_list_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SCALES, "tiny", TINY)
    where = ["--runs", str(tmp_path / "x"), "--scale", "tiny"]
    assert main(["reproduce", "fig5", "--list", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "_s1: recipe=paper" in line] == lines[:4]
    assert re.fullmatch(r"4 runs: about \S+ hours of one core .* GB of disk", lines[-1])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["fig22"], "Did you mean 'fig"),
        (["fig2", "--scale", "papre"], "Did you mean 'paper'?"),
        (["fig2", "--method", "offical"], "Did you mean 'official'?"),
        (["fig2", "--recipe", "papr"], "Did you mean 'paper'?"),
        (["fig9", "max_iterations=1"], "follows from the figure"),
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
