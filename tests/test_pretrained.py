"""The policies that come with the project, and how they are made."""

import csv
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_runner import _keep_torch_settings, weights  # noqa: F401
from tiny_run import ONCE

from madpo_isaac import pretrained
from madpo_isaac.__main__ import main
from madpo_isaac.config.playing import playing
from madpo_isaac.errors import UserError
from madpo_isaac.pretrained.__main__ import main as make
from madpo_isaac.training.factory import make_env


def rows(path):
    """The rows of a policy's curves by run: steps, return, success."""
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            values = (float(row[key]) for key in ("env_steps", "episode_return", "success_rate"))
            found.setdefault(row["run"], []).append(tuple(values))
    return found


def scored_as_trained(facts):
    """Whether the task has the settings with which the policy was trained."""
    of_task = [text.split("=") for text in facts["command"].split() if text.startswith("task.")]
    config = OmegaConf.create(facts["config"])
    return all(str(OmegaConf.select(config, key)) == value for key, value in of_task)


@pytest.mark.parametrize("name", pretrained.names())
def test_every_policy_is_small_and_says_where_it_comes_from(name):
    path = pretrained.find(name)
    facts = pretrained.describe(path)
    split = facts["config"]["task"].get("agents", "hands")
    assert name == pretrained.name_of(facts["task"], split)
    agents = len(pretrained.load(path)["algo_state"]["moments"]["actors"])
    assert path.stat().st_size < max(1_000_000, 200_000 * agents)
    with safe_open(str(path), "pt") as file:
        assert file.get_tensor("actors").dtype == torch.float16
    for command in facts["command"].split(" && "):
        assert re.fullmatch(rf"python train\.py task={facts['task']}( [\w.]+=\S+)*", command)
    assert re.fullmatch(r"[0-9a-f]{7,40}", facts["revision"])
    assert facts["return"] == facts["mean_actions"]["return"]["mean"]
    assert facts["success"] == facts["mean_actions"]["success"]["rate"]
    assert "/" not in json.dumps(facts["config"])  # no paths of another machine
    assert facts["hours"] > 0 and facts["machine"]
    for actions in ("mean_actions", "sampled_actions"):
        scores = facts[actions]
        assert scores["episodes"] >= 1000
        low, high = scores["return"]["mean_interval"]
        assert low <= scores["return"]["mean"] <= high
    curves = rows(path.with_suffix(".csv"))
    assert curves.keys() == {"mean_actions", "sampled_actions"}
    for points in curves.values():
        steps = [point[0] for point in points]
        assert steps == sorted(set(steps)) and steps[-1] <= facts["env_steps"]
    # The last evaluation has few episodes: it is near, not equal.
    if scored_as_trained(facts):
        assert curves["mean_actions"][-1][1] == pytest.approx(facts["return"], rel=0.25)


def play(capsys, *argv):
    assert main(["play", *argv]) == 0
    out = capsys.readouterr().out
    found = re.search(r"av reward: (\S+) av steps: \S+ (?:success: (\S+) )?episodes: (\d+)", out)
    return out, *map(float, found.groups(default="nan"))


def test_the_shadow_hands_throw_and_catch_as_often_as_stated(capsys):
    facts = pretrained.describe(pretrained.find("ShadowHandOver"))
    settings = ("num_envs=64", "seed=11", "num_threads=1")
    out, reached, success, episodes = play(capsys, "ShadowHandOver", *settings)
    assert f"return {facts['return']:.4g}, success {facts['success']:.4g}" in out
    assert facts["command"] in out
    check(facts["mean_actions"], reached, success, episodes)


def check(stated, reached, success, episodes):
    """Four standard errors: a chance of one in ten thousand at another seed."""
    scores = stated["return"]
    assert abs(reached - scores["mean"]) < 4 * scores["std"] / np.sqrt(episodes)
    rate = (stated["success"]["rate"] * 1000 + 1) / 1002  # a rate of 1 has an error, too
    assert abs(success - rate) < 4 * np.sqrt(rate * (1 - rate) / episodes) + 1 / episodes


def starts_alike(name):
    """Whether every episode begins in the same state."""
    env = make_env(playing(name, "num_envs=2", "num_threads=1"))
    first, second = env.reset()
    return torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in pretrained.names() if name != "ShadowHandOver"])
def test_every_policy_reaches_what_is_stated(tmp_path, name):
    """Whole episodes: of robots 6, of hands 32.

    Where they start alike they are sampled: with mean actions all episodes of the policy would be
    nearly one, and rounding would decide what it is.
    """
    facts = pretrained.describe(pretrained.find(name))
    number = 32 if name.startswith("ShadowHand") else 6
    settings = (f"num_envs={number}", "seed=11", "num_threads=1", f"runs_dir={tmp_path}")
    actions, options = ("sampled", []) if starts_alike(name) else ("mean", ["--deterministic"])
    assert main(["eval", name, "--episodes=1", *options, *settings]) == 0
    report = json.loads((tmp_path / "eval" / f"{name}_{actions}_summary.json").read_text())
    assert report["episodes"] == number
    stated = facts[f"{actions}_actions"]
    check(stated, report["return"]["mean"], report["success"]["rate"], number)


def test_the_half_cheetah_runs_under_its_other_name_too(capsys):
    facts = pretrained.describe(pretrained.find("HalfCheetah-2x3"))
    settings = ("num_envs=4", "task.episode_length=200", "num_threads=1")
    out, reached, *_ = play(capsys, "HalfCheetah-v2-2x3", *settings)
    assert "success" not in out  # which would say only that it did not fall
    # A fifth of an episode; getting up to speed costs less than half of its share.
    assert 0.5 < reached / (0.2 * facts["return"]) < 1.1


def test_eval_scores_it_too(capsys, tmp_path):
    settings = ("num_envs=3", f"runs_dir={tmp_path}")
    assert main(["eval", "ShadowHandOver", "--episodes=1", *settings]) == 0
    report = json.loads((tmp_path / "eval" / "ShadowHandOver_sampled_summary.json").read_text())
    assert (report["task"], report["episodes"]) == ("ShadowHandOver", 3)


def test_a_policy_of_other_agents_than_the_hands_has_a_name_of_its_own(tmp_path):
    options = ("task=ShadowHandOver", "num_envs=2", "algo.horizon=4", "algo.hidden=[8]", *ONCE)
    options += ("num_threads=1", "max_iterations=1", "task.episode_length=4")
    for agents in ("fingers", "[[0,1,2],[3,4,5]]"):
        argv = ("train", f"runs_dir={tmp_path}", "experiment=x", f"task.agents={agents}", *options)
        assert main(argv) == 0
        argv = [f"{tmp_path}/x", "--revision=abc1234", f"--out={tmp_path}", "--episodes=1"]
        assert make(argv) == 0
        shutil.rmtree(tmp_path / "x")
    names = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert names == {"ShadowHandOver-fingers", "ShadowHandOver-groups"}


SMALL = ("task=HalfCheetah-2x3", "num_envs=2", "algo.horizon=8", "algo.hidden=[16]")
SMALL += ("num_threads=1", "max_iterations=2", "task.episode_length=10", "eval_frequency=1")
SMALL += ("eval_envs=2", *ONCE)


@pytest.mark.parametrize("algo", ["happo", "mappo"])
def test_a_run_becomes_a_policy(tmp_path, capsys, algo):
    options = (*SMALL, f"algo={algo}", "algo.input_norm=both")
    first = [text.replace("max_iterations=2", "max_iterations=1") for text in options]
    for settings in (first, [f"checkpoint={tmp_path}/x", "max_iterations=2"]):  # continued once
        assert main(["train", f"runs_dir={tmp_path}", "experiment=x", *settings]) == 0
    argv = [str(tmp_path / "x"), "--revision=abc1234", f"--out={tmp_path}", "--episodes=1"]
    assert make(argv) == 0
    path = tmp_path / "HalfCheetah-2x3.safetensors"
    whole = weights(tmp_path / "x")["algo_state"]
    loaded = pretrained.load(path)["algo_state"]
    # Half precision has 11 significant bits.
    torch.testing.assert_close(loaded["actors"], whole["actors"], rtol=2**-11, atol=2**-24)
    assert len(loaded["moments"]["actors"]) == 2
    for ours, theirs in zip(loaded["moments"]["actors"], whole["moments"]["actors"], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    facts = json.loads(path.with_suffix(".json").read_text())
    kept = [text for text in options if not text.startswith(("num_threads", "max_iterations"))]
    assert facts["command"] == " ".join(("python train.py", *kept, "max_iterations=2"))
    assert facts["revision"] == "abc1234"
    assert str(tmp_path) not in json.dumps(facts)
    assert facts["config"]["num_envs"] == 2
    lines = [json.loads(line) for line in (tmp_path / "x/metrics.jsonl").read_text().splitlines()]
    assert facts["hours"] == pytest.approx(lines[-1]["wall_s"] / 3600, abs=1e-3)
    threads = json.loads((tmp_path / "x" / "env.json").read_text())["cpu_threads"]
    assert re.fullmatch(rf".+, {threads} threads?", facts["machine"])
    means, sampled = rows(path.with_suffix(".csv")).values()
    expected = [(x["env_steps"], x["eval/return"], x["eval/success_rate"]) for x in lines]
    assert means == [pytest.approx(row, rel=1e-4) for row in expected]
    ended = [(x["env_steps"], x["episode_return"]) for x in lines if x["episodes"]]
    assert [row[:2] for row in sampled] == [pytest.approx(row, rel=1e-4) for row in ended]
    _, reached, _, episodes = play(capsys, str(path))
    assert (reached, episodes) == (pytest.approx(facts["return"], abs=1e-3), 2)


def test_a_policy_of_a_run_that_began_with_another_one(tmp_path, capsys):
    """Its commands, run in their order, make the same policy."""
    options = [text for text in SMALL if not text.startswith("max_iterations")]
    train = ["train", f"runs_dir={tmp_path}", "save_frequency=1"]
    assert main([*train, *options, "algo=happo", "experiment=x", "max_iterations=3"]) == 0
    more = [f"checkpoint={tmp_path}/x/nn/ep_2.pth", "experiment=y", "max_iterations=5"]
    assert main([*train, *more, "algo.std_on_restore=initial", "algo.init_std=0.2"]) == 0
    more = [f"checkpoint={tmp_path}/y/nn/ep_4.pth", "experiment=z", "max_iterations=6"]
    assert main([*train, *more, "algo.gamma=0.9"]) == 0
    assert main(["train", f"checkpoint={tmp_path}/y", "max_iterations=7"]) == 0  # it goes on
    assert make([str(tmp_path / "z"), f"--out={tmp_path}", "--episodes=1"]) == 0
    facts = json.loads((tmp_path / "HalfCheetah-2x3.json").read_text())
    commands = [text.split()[2:] for text in facts["command"].split(" && ")]
    assert "max_iterations=2" in commands[0] and "checkpoint=runs/first" in commands[1]
    assert "max_iterations=4" in commands[1] and "checkpoint=runs/second" in commands[2]
    for settings in commands:
        given = [text.replace("=runs/", f"={tmp_path}/") for text in settings]
        assert main(["train", f"runs_dir={tmp_path}", "num_threads=1", *given]) == 0
    own, again = (weights(tmp_path / name)["algo_state"]["actors"] for name in ("z", "third"))
    assert torch.equal(own, again)
    means = rows(tmp_path / "HalfCheetah-2x3.csv")["mean_actions"]
    assert [row[0] for row in means] == [16, 32, 48, 64, 80, 96]
    recorded = tmp_path / "x" / "config.yaml"  # a loop, which no run makes
    text = recorded.read_text().replace("checkpoint: ''", f"checkpoint: {tmp_path}/z")
    recorded.write_text(text.replace(f"{tmp_path}/z", f"{tmp_path}/z/nn/last.pth"))
    assert make([str(tmp_path / "z"), f"--out={tmp_path}", "--episodes=1"]) == 2
    assert "is the last of more than 5 runs: too many" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_line(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    source = pretrained.find("HalfCheetah-2x3")
    path.write_bytes(source.read_bytes())
    cases = [(["play", str(path)], "x.json")]
    every = f"there is one for {', '.join(pretrained.names())}"
    cases += [(["play", "HalfCheetah-1x6"], every)]
    cases += [(["play", "ShadowHandOvr"], "Did you mean 'ShadowHandOver'?")]
    cases += [(["play", "HalfCheetah-2x3", "algo.hidden=[9]"], "algo.hidden=[9]")]
    for argv, part in cases:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert part in error and len(error.splitlines()) == 1
    path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    path.write_bytes(source.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        pretrained.load(path)


def describe(path, **changed):
    """Changes entries of the JSON file beside a policy."""
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changed}))


@pytest.mark.parametrize("key", ["command", "return", "mean_actions"])
def test_a_description_without_scores_is_one_line(tmp_path, capsys, key):
    source, path = pretrained.find("HalfCheetah-2x3"), tmp_path / "x.safetensors"
    path.write_bytes(source.read_bytes())
    path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    describe(path, **{key: None})
    assert main(["play", str(path), "num_envs=2", f"runs_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "of a scored policy" in error and len(error.splitlines()) == 1


def test_a_policy_with_one_other_byte_is_refused(tmp_path, capsys):
    source, path = pretrained.find("HalfCheetah-2x3"), tmp_path / "x.safetensors"
    path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    written = bytearray(source.read_bytes())
    assert pretrained.load(source)
    written[-1] ^= 1
    path.write_bytes(written)
    assert main(["play", str(path)]) == 2
    error = capsys.readouterr().err
    assert "is damaged, or 'x.json' beside it is of another policy" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"config": {', '"config": [], "x": {', "does not describe a policy"),
        ("{", "[" * 100_000 + "{", "nested too deeply"),
        ("{", '["task", "algo", "iteration", "env_steps", "config"]', "cannot be read"),
    ],
)
def test_damaged_descriptions_are_one_line(tmp_path, capsys, old, new, part):
    source, path = pretrained.find("HalfCheetah-2x3"), tmp_path / "x.safetensors"
    path.write_bytes(source.read_bytes())
    text = source.with_suffix(".json").read_text()
    assert old in text
    path.with_suffix(".json").write_text(text.replace(old, new, 1))
    assert main(["play", str(path)]) == 2
    error = capsys.readouterr().err
    assert part in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("other", None, "holds 'other', which is no part of a policy"),
        ("moments.x.mean", None, "holds 'moments.x.mean', which is no part of a policy"),
        ("moments.1.mean", lambda x: x[:-1].clone(), "lacks moments/actors/1/mean, or has it in"),
        ("moments.1.mean", lambda x: x.float(), "lacks moments/actors/1/mean, or has it in"),
        ("moments.1.mean", lambda x: x[0].clone(), "lacks moments/actors/1/mean, or has it in"),
    ],
)
def test_odd_tensors_are_one_line(tmp_path, capsys, name, change, part):
    source, path = pretrained.find("HalfCheetah-2x3"), tmp_path / "x.safetensors"
    path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    tensors = load_file(source)
    tensors[name] = torch.zeros(3) if change is None else change(tensors[name])
    save_file(tensors, path)
    describe(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert main(["eval", str(path), "--episodes=1", "num_envs=2", f"runs_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert part in error and len(error.splitlines()) == 1


def test_a_policy_of_a_run_that_began_with_one(tmp_path):
    """Its command names the policy, by which the run can be made again."""
    settings = ("num_envs=2", "algo.horizon=8", "algo.num_minibatches=1", "algo.critic_warmup=0")
    settings += ("max_iterations=2", "eval_frequency=1", "eval_envs=2", "task.episode_length=10")
    train = ["train", f"runs_dir={tmp_path}", "num_threads=1"]
    assert main([*train, "checkpoint=HalfCheetah-2x3", "experiment=x", *settings]) == 0
    assert make([f"{tmp_path}/x", f"--out={tmp_path}", "--episodes=1"]) == 0
    facts = json.loads((tmp_path / "HalfCheetah-2x3.json").read_text())
    command = facts["command"].split()
    assert command[:3] == ["python", "train.py", "task=HalfCheetah-2x3"]
    assert command[-1] == "checkpoint=HalfCheetah-2x3"
    assert main([*train, "experiment=y", *command[2:]]) == 0
    first, again = (weights(tmp_path / name)["algo_state"]["actors"] for name in ("x", "y"))
    assert torch.equal(first, again)
    # A policy of one's own has no name by which others could begin with it.
    own = [f"checkpoint={tmp_path}/HalfCheetah-2x3.safetensors", "experiment=z"]
    assert main([*train, *own, *settings]) == 0
    assert make([f"{tmp_path}/z", f"--out={tmp_path}/out", "--episodes=1"]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["overrides.txt", "env.json"])
def test_a_run_that_does_not_tell_how_it_was_made_is_one_line(tmp_path, capsys, name):
    assert main(["train", f"runs_dir={tmp_path}", "experiment=x", "algo=happo", *SMALL]) == 0
    argv = [f"{tmp_path}/x", f"--out={tmp_path / 'out'}", "--episodes=1"]
    for content in (None, b"\xff", b"[1]") if name == "env.json" else (None, b"\xff"):
        (tmp_path / "x" / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "x" / name).write_bytes(content)
        capsys.readouterr()
        assert make(argv) == 2
        error = capsys.readouterr().err
        assert "does not tell how it was made" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_policy_can_be_scored_with_other_settings_of_its_task(tmp_path):
    assert main(["train", f"runs_dir={tmp_path}", "experiment=x", "algo=happo", *SMALL]) == 0
    argv = [f"{tmp_path}/x", "--revision=abc1234", f"--out={tmp_path}", "--episodes=1"]
    assert make([*argv, "task.episode_length=7", "num_envs=3"]) == 0
    facts = json.loads((tmp_path / "HalfCheetah-2x3.json").read_text())
    assert facts["mean_actions"]["length"]["max"] == 7
    assert facts["config"]["task"]["episode_length"] == 7
    assert facts["config"]["num_envs"] == 2
    assert "task.episode_length=10" in facts["command"]


def test_ppo_is_refused(tmp_path):
    with pytest.raises(UserError, match="algo=ppo"):
        pretrained.save(tmp_path / "x.safetensors", {"algo": "ppo", "model": {}}, {})
