"""reproduce.py: the command, the captions and the reports that it writes."""

import dataclasses
import re
from pathlib import Path

import pytest
from report_runs import write_run
from tiny_figure import TINY

from madpo_isaac.__main__ import main
from madpo_isaac.commands import reproduce as reproduce_command
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.paper import FIGURES, SCALES
from madpo_isaac.reproduce.plan import plan
from madpo_isaac.reproduce.run import reproduce

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
                 "2 seeds instead of 5.", "2 of 10 tasks.", "fewer steps than",
                 "not in Isaac Gym", "A2PO"):  # fmt: skip
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
    trusted = "\n".join(lines("fig3", settings=("algo.value_clip=null",)))
    assert "1 iteration of conjugate gradient" in trusted and "no value clip" in trusted
    whole = "\n".join(lines("fig7", scale="paper"))
    assert "seeds instead" not in whole
    assert "4000" not in whole


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
        write_run(job.folder, job.task, lines=3, gain=1.0 + k)
    monkeypatch.setattr(pool, "run", lambda *_: pool.Result({}, {}, 0))
    out = tmp_path / "out"
    assert reproduce({out: request}, {out: jobs}, 1, 1, reps=10) == 0
    assert (out / "figures" / f"{picture}.pdf").read_bytes()[:5] == b"%PDF-"
    page = (out / "report.html").read_text()
    assert "Eq. 11 as printed" in page
    assert f'href="figures/{picture}.pdf"' in page
    parts = {path.parent.name for path in out.glob("*/report.html")}
    assert parts == ({"MA-MuJoCo", "Bi-DexHands", "HalfCheetah", "Walker2d"} & parts or set())
    assert bool(parts) == (name == "fig4")


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
    assert f"the paper's figure: {shown}" in out
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


def planned(capsys, *argv):
    """Returns the runs' folders that the command lists, and the text after them."""
    assert main(["reproduce", *argv, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = [line.partition(":")[0] for line in lines if line.startswith("runs/")]
    return runs, "\n".join(line for line in lines if not line.startswith("runs/"))


@pytest.mark.parametrize("argv", [[], ["--list"]])
def test_without_a_figure_all_are_listed(argv, capsys):
    assert main(["reproduce", *argv]) == 0
    printed = capsys.readouterr().out
    for name in (*reproduce_command.FIGURES, *reproduce_command.SCALES):
        assert f"  {name} " in printed


def test_some_tasks_and_seeds_can_be_chosen(capsys):
    argv = ("--scale", "paper", "--tasks", "HalfCheetah-v2-6x1, Ant-8x1", "--seeds", "3")
    runs, text = planned(capsys, "fig2", *argv)
    arms = ("happo", "madpo_gaussian", "hatrpo", "a2po", "mappo")
    assert sorted(runs) == sorted(
        f"runs/reproduce/paper_paper/{task}_{arm}_s{seed}"
        for task in ("HalfCheetah-6x1", "Ant-8x1") for arm in arms for seed in (1, 2, 3)
    )  # fmt: skip
    assert "2 of 10 tasks." in text and "3 seeds instead of 5." in text
    assert "fewer steps" not in text


def test_all_leaves_out_the_figures_without_the_chosen_tasks(capsys):
    runs, text = planned(capsys, "all", "--tasks", "ShadowHandPen")
    assert {run.rpartition("/")[2].partition("_")[0] for run in runs} == {"ShadowHandPen"}
    figures = set(re.findall(r"^(\S+ \d+) of the MADPO paper", text, re.M))
    assert figures == {"Figure 3", "Figure 4", "Figure 8"}


def test_places_that_cannot_be_written_are_refused_before_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "_start", None)
    (tmp_path / "file").touch()
    for option in ("--runs", "--out"):
        monkeypatch.chdir(tmp_path)
        argv = ["fig9", "--tasks", "Ant-8x1", "--seeds", "1", option, "file/below"]
        assert main(["reproduce", *argv]) == 2
        assert re.fullmatch(r"error: Cannot write 'file/below/[^\n]+\n", capsys.readouterr().err)


def test_many_tasks_make_no_name_that_is_too_long(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(reproduce_command, "reproduce", lambda requests, *_: made.update(requests))
    known = FIGURES["fig4"].tasks
    for tasks in (known, known[1:], known[:2]):
        argv = ["fig4", "--tasks", ",".join(tasks), "--runs", str(tmp_path), "--out", str(tmp_path)]
        main(["reproduce", *argv])
    names = [out.name for out in made]
    assert len(set(names)) == 3 and max(map(len, names)) < 255
    assert names[2].endswith("smoke_HalfCheetah-2x3_Walker2d-2x3")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["fig22"], "Did you mean 'fig"),
        (["fig2", "--scale", "papre"], "Did you mean 'paper'?"),
        (["fig2", "--method", "offical"], "Did you mean 'official'?"),
        (["fig2", "--recipe", "papr"], "Did you mean 'paper'?"),
        (["fig9", "max_iterations=1"], "follows from the figure"),
        (["fig2", "--jobs", "0"], "--jobs: '0' must be a whole number of at least 1"),
        (["fig2", "--jobs", ""], "--jobs: '' must be a whole number of at least 1"),
        (["fig2", "--jobs", "9" * 5000], "must be at most 1000000000"),
        (["fig2", "--tasks", ""], "Unknown task of fig2 ''"),
        (["confirm", "algo.hidden=[64,64]"], "the figure sets algo.hidden"),
        (["choose", "eval_frequency=0"], "the figure sets eval_frequency"),
        (["fig2", "algo.clip=x"], "algo.clip=x must be a number"),
        (["fig2", "--scael", "paper"], "--scael"),
        (["fig2", "--tasks", "HalfCheta-6x1"], "Did you mean 'HalfCheetah-6x1'?"),
        (["fig2", "--tasks", "ShadowHandOver"], "Unknown task of fig2 'ShadowHandOver'"),
        (["fig2", "--seeds", "3"], "--seeds 3 is more than scale smoke has: 2"),
        (["fig2", "--scale", "choose"], "Unknown scale of fig2 'choose'"),
        (["choose", "--scale", "smoke"], "Unknown scale of choose 'smoke'. Allowed: choose."),
        (["choose", "--recipe", "paper"], "Unknown recipe of choose 'paper'. Allowed: tuned."),
        (["confirm", "--method", "printed"], "Unknown method of confirm 'printed'."),
        (["choose", "--tasks", "ShadowHandOver"], "leave out --tasks"),
    ],
)
def test_bad_input_is_one_line(argv, part, capsys):
    assert main(["reproduce", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert part in captured.err
