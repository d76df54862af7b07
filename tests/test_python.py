"""The package from a script: train, load, evaluate and film without the command line."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

import madpo_isaac as madpo
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.interop.python import as_overrides
from madpo_isaac.settings import as_text

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "first_steps.ipynb"
TINY = {
    "task": {"name": "ShadowHandOver", "episode_length": 6},
    "algo": {"name": "happo", "horizon": 4, "hidden": [8], "num_minibatches": 1},
    "num_envs": 2,
    "num_threads": 1,
    "max_iterations": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return madpo.train(runs_dir=tmp_path_factory.mktemp("runs"), experiment="by_hand", **TINY)


def metrics(folder):
    timed = ("wall_s", "iteration_s", "fps", "time_")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def test_training_is_that_of_the_command(run, tmp_path):
    argv = ["task=ShadowHandOver", "task.episode_length=6", "algo=happo", "algo.horizon=4"]
    argv += [
        "algo.hidden=[8]",
        "algo.num_minibatches=1",
        "num_envs=2",
        "num_threads=1",
        "max_iterations=2",
    ]
    assert main([*argv, f"runs_dir={tmp_path}", "experiment=run"]) == 0
    assert run.name == "by_hand" and len(metrics(run)) == 2
    assert metrics(run) == metrics(tmp_path / "run")


def test_a_run_goes_on(run):
    assert madpo.train(checkpoint=run, max_iterations=3) == run
    assert [line["iteration"] for line in metrics(run)] == [1, 2, 3]


def test_a_policy_is_loaded_scored_and_filmed(run, tmp_path):
    env = madpo.env_of(run, num_envs=3)
    assert env.num_envs == 3 and env.max_episode_length == 6
    policy = madpo.load_policy(run, env)
    state = env.reset()
    assert policy(state).shape == (3, 40) and torch.equal(policy(state), policy(state))
    episodes = madpo.evaluate(policy, env, episodes=2)
    scores = madpo.summary(episodes)
    assert scores["episodes"] == 6
    assert scores["return"]["mean"] == pytest.approx(episodes.returns.mean().item())
    path = tmp_path / "clip.gif"
    madpo.film(policy, env, path, steps=4, envs=2)
    assert path.read_bytes()[:4] == b"GIF8"


def test_values_are_written_as_the_command_line_has_them():
    settings = {"a": None, "b": [1, 2.5], "c": True, "algo": {"name": "madpo", "x": {"y": "z=1"}}}
    settings |= {"runs_dir": Path("it's/here"), "d": np.float64(0.5), "e": np.array([8, 4])}
    expected = ["a=null", "b=[1,2.5]", "c=True", "algo='madpo'", "algo.x.y='z=1'"]
    assert as_overrides(settings) == [*expected, r"runs_dir='it\'s/here'", "d=0.5", "e=[8,4]"]


def test_texts_in_quotes_are_read_as_they_were():
    parser = OverridesParser.create()
    for length in range(5):
        for letters in itertools.product("\\'a \n", repeat=length):
            text = "".join(letters)
            assert parser.parse_override(f"x={as_text(text)}").value() == text


def test_bad_settings_are_one_line(run):
    with pytest.raises(UserError, match="horizn"):
        madpo.train(algo={"name": "happo", "horizn": 3})
    with pytest.raises(UserError, match="test=True plays a policy"):
        madpo.train("test=True", checkpoint=run)
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        madpo.tran  # noqa: B018


def test_importing_the_package_imports_nothing_large():
    code = "import sys, madpo_isaac; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert set(madpo.__all__) <= set(dir(madpo))


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in order, with the few iterations that it says it has."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {}
    for source in code:
        exec(compile(source, "cell", "exec"), names)  # noqa: S102
    assert names["scores"]["episodes"] >= 8
    assert (tmp_path / "over.gif").stat().st_size > 1000


@pytest.mark.parametrize("given", [{"num_envs": 2}, Path("runs"), 3, None])
def test_what_is_no_text_is_no_setting(given):
    with pytest.raises(UserError, match="is no setting: give texts such as 'num_envs=64'"):
        madpo.train(given)
