"""Bad input of every kind is one line and exit code 2."""

import json
import re

import numpy as np
import pytest
from report_runs import write_run

from madpo_isaac.__main__ import main
from madpo_isaac.report import write
from madpo_isaac.report.runs import load

HEAD = "run,env_steps,episode_return\n"


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setitem(write.write.__kwdefaults__, "reps", 2)


def refused(capsys, *argv):
    """The one line that ``madpo`` refuses ``argv`` with."""
    assert main([str(argument) for argument in argv]) == 2
    found = re.fullmatch(r"error: ([^\n]+)\n", capsys.readouterr().err)
    assert found
    return found[1]


# Reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("a,0,1\n", "Run 'a' in '.*': env_steps=0 must be greater than 0"),
        ("a,-5,1\na,100,1\n", "env_steps=-5 must be greater than 0"),
        ("a,100,1\na,50,1\n", "env_steps must not fall, as from 100 to 50"),
        ("a,inf,1\n", "Line 2 of '.*': env_steps=inf must be a finite number"),
        ("a,nan,1\n", "env_steps=nan must be a finite number"),
        ("a,1" + 400 * "0" + ",1\n", "env_steps=10* must be a finite number"),
        (",100,1\n", "Line 2 of '.*' names no run"),
        ("  ,100,1\n", "names no run"),
        ("a" * 300 + ",100,1\n", "the name of the run has more than 255 letters"),
        ("a," + "1" * 131_073 + ",1\n", "cannot be read: field larger than field limit"),
        ("a,x,1\n", "Line 2 of '.*' cannot be read"),
    ],
)
def test_curves_that_cannot_be_are_refused(rows, part, tmp_path, capsys):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + rows)
    assert re.search(part, refused(capsys, "report", path, "--out", tmp_path / "report"))


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + "$a$x_{_s1,100,1\n$a$x_{_s1,200,2\nb$_s1,100,1\nb$_s1,200,2\n")
    assert main(["report", str(path), "--by", "run", "--out", str(tmp_path / "report")]) == 0
    assert "$a$x_{" in (tmp_path / "report" / "report.html").read_text()


def test_text_on_each_line_leaves_the_numbers(tmp_path):
    folder = write_run(tmp_path / "run", lines=3)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"host": "node7", "list": [1, 2], "huge": 10**400}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (run,) = load([str(folder)])
    np.testing.assert_array_equal(run.metrics["env_steps"], [100.0, 200.0, 300.0])
    assert "host" not in run.metrics and np.isnan(run.metrics["huge"]).all()


def test_lines_nested_too_deeply_are_skipped(tmp_path):
    folder = write_run(tmp_path / "run", lines=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert load([str(folder)])[0].steps == 300.0


def test_a_list_as_seed_is_text(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs" / f"run{seed}", seed=[seed, 7], lines=3)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0


def test_a_configuration_nested_too_deeply_is_none(tmp_path, capsys):
    folder = write_run(tmp_path / "run", lines=3)
    (folder / "config.yaml").write_text("[" * 20_000)
    assert "holds no configuration" in refused(capsys, "report", folder)
    (folder / "config.yaml").write_text("a: &a {b: *a}")
    assert "holds no configuration" in refused(capsys, "report", folder)


def test_a_window_of_less_than_a_step_is_refused_and_one_step_does_not_hang(tmp_path, capsys):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + "a,500000000,1\na,1000000000,3\n")
    out = ("--out", tmp_path / "report")
    message = refused(capsys, "report", path, "--window", "1e-300", *out)
    assert message == "--window 1e-300 must be at least 1 environment step."
    assert main(list(map(str, ("report", path, "--window", "1", *out)))) == 0
    rows = (tmp_path / "report" / "curves.csv").read_text().splitlines()
    assert rows == ["run,env_steps,episode_return,success_rate",
                    "a,500000000,1,nan", "a,1000000000,3,nan"]  # fmt: skip
