"""Data parallel training: two processes against one with twice the batch, and whole runs."""

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_runner import PATIENCE, _keep_torch_settings, assert_same, timeless  # noqa: F401
from tiny_run import ONCE
from toy import ToyEnv, collect
from two_ranks import CASES, FIELDS, fresh, result

from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.sim.base import check_device
from madpo_isaac.system.distributed import ALONE, join
from madpo_isaac.training import parallel

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
SMALL = (
    "multi_gpu=True",
    "task=HalfCheetah-2x3",
    "algo=happo",
    "num_envs=3",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "num_threads=1",
    "task.episode_length=12",
    "stagger_episodes=False",
    "save_frequency=2",
    *ONCE,
)


def forked(zygote, *argv, **options):
    """Runs a main function in two processes, started as torchrun does.

    Returns what the first one printed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    pids = [
        zygote.start(*argv, env={**both, "RANK": rank, "LOCAL_RANK": rank}, **options)
        for rank in "01"
    ]
    (code, out), (other, text) = map(zygote.wait, pids)
    assert (code, other) == (0, 0), out + text
    assert text == ""
    return out


def torchrun(*arguments, cwd):
    """Runs train.py in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, str(TRAIN), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# Updates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def updates(tmp_path_factory, zygote):
    """For each case the results of one process with 12 environments, and of two with 6."""
    folder, alone = tmp_path_factory.mktemp("updates"), {}
    for case in CASES:
        env = ToyEnv(12)
        algo, state, rollouts, history = fresh(case, env), env.reset(), [], []
        for iteration in range(2):
            rollout, state = collect(algo, env, state)
            if iteration:  # a world of either process went bad
                rollout.valid[3, 2] = rollout.valid[7, 9] = False
            rollouts.append({f.name: getattr(rollout, f.name) for f in FIELDS})
            history.append(algo.update(rollout))
        torch.save(rollouts, folder / f"{case}.pth")
        alone[case] = result(algo, history)
    assert forked(zygote, folder, main="two_ranks") == ""

    def of(case):
        both = [torch.load(folder / f"{case}.{i}.pth", weights_only=True) for i in (0, 1)]
        return alone[case], *both

    return of


def flatten(tree, path=""):
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from flatten(value, f"{path}/{key}")


@pytest.mark.parametrize("case", CASES)
def test_both_processes_come_to_the_same_bits(updates, case):
    _, first, second = updates(case)
    assert_same(first, second)


@pytest.mark.parametrize("case", [case for case in CASES if case != "happo_minibatches"])
def test_two_processes_equal_one_with_twice_the_batch(updates, case):
    """Parameters, optimizers, normalizers, order of agents and metrics."""
    alone, first, _ = updates(case)
    names = [name for name, _ in flatten(alone)]
    assert {"/state/actors", "/state/critic", "/metrics/1/agent2/kl"} <= set(names)
    for (name, one), (_, two) in zip(flatten(alone), flatten(first), strict=True):
        weights = name.startswith(("/state/actors", "/state/critic"))
        tolerance = {"rtol": 0.0, "atol": 1e-5} if weights else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(one.double(), two.double(), **tolerance)


def test_minibatches_are_drawn_from_both_shares(updates):
    """Each process draws its own, so the sum differs from one process's, but only a little."""
    alone, first, _ = updates("happo_minibatches")
    gap = (alone["state"]["actors"] - first["state"]["actors"]).abs().max().item()
    assert 1e-5 < gap < 0.05
    steps = [optimizer["step"].item() for optimizer in first["state"]["actor_optimisers"]]
    assert steps == [2 * 3 * 3] * 3


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_run_of_two_processes_and_its_resume(tmp_path, zygote, start):
    def train(*overrides):
        if start == "forked":
            return forked(zygote, *SMALL, *overrides, f"runs_dir={tmp_path}/runs")
        done = torchrun(*SMALL, *overrides, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout

    out = train("experiment=x", "max_iterations=2")
    assert [re.search(r"iteration: (\S+)", x)[1] for x in out.splitlines()[3:]] == ["1/2", "2/2"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x"]
    train("checkpoint=latest", "max_iterations=4")
    train("experiment=straight", "max_iterations=4")
    lines = timeless(tmp_path / "runs/x")
    assert [line["env_steps"] for line in lines] == [48, 96, 144, 192]
    # 12 steps an episode: all six end in iterations 2 and 3.
    assert [line["episodes"] for line in lines] == [0, 6, 6, 0]
    assert lines == timeless(tmp_path / "runs/straight")
    one, two = (
        torch.load(tmp_path / f"runs/{name}/nn/last.pth", weights_only=True)
        for name in ("x", "straight")
    )
    for clock in ("wall_s", "config"):
        del one[clock], two[clock]
    assert_same(one, two)
    (shard,) = one["shards"]
    assert not torch.equal(shard["state"], one["state"])


def test_resuming_with_another_number_of_processes_is_refused(tmp_path, capsys):
    alone = [setting for setting in SMALL if not setting.startswith("multi_gpu")]
    assert main([*alone, f"runs_dir={tmp_path}", "experiment=x", "max_iterations=1"]) == 0
    path = tmp_path / "x/nn/last.pth"
    content = torch.load(path, weights_only=True)
    content["shards"] = [{}]
    torch.save(content, path)
    capsys.readouterr()
    assert main([*alone, f"runs_dir={tmp_path}", f"checkpoint={path}", "max_iterations=2"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]*with processes=2, not 1, so its run cannot [^\n]*\n", error)


def test_two_processes_go_on_from_the_checkpoint_of_one_in_a_new_folder(tmp_path, zygote):
    alone = [setting for setting in SMALL if not setting.startswith("multi_gpu")]
    assert main([*alone, f"runs_dir={tmp_path}", "experiment=x", "max_iterations=1"]) == 0
    new = f"runs_dir={tmp_path}", f"checkpoint={tmp_path}/x", "experiment=y", "max_iterations=2"
    out = forked(zygote, "multi_gpu=True", *new)
    assert out.count("processes=1, not 2: networks and optimizers go on") == 1
    content = torch.load(tmp_path / "y/nn/last.pth", weights_only=True)
    (shard,) = content["shards"]
    assert not torch.equal(shard["state"], content["state"])
    assert not torch.equal(shard["generator"], content["algo_state"]["generator"])
    assert [line["env_steps"] for line in timeless(tmp_path / "y")] == [24 + 48]
    # Adam has counted the gradient steps of both parts.
    steps = [adam["step"].item() for adam in content["algo_state"]["actor_optimisers"]]
    first = torch.load(tmp_path / "x/nn/last.pth", weights_only=True)["algo_state"]
    before = [adam["step"].item() for adam in first["actor_optimisers"]]
    assert steps == [2 * number for number in before]


def test_without_torchrun_it_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: multi_gpu=True needs torchrun: torchrun [^\n]*\n", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [30.0])])
def test_what_is_wrong_in_all_processes_is_said_by_the_first(
    tmp_path, monkeypatch, capsys, rank, waits
):
    """The others wait first, until torchrun ends them since the first one has ended."""
    started = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    for name, value in (started | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr("madpo_isaac.system.distributed.time.sleep", waited.append)
    assert main(["num_env=3", f"runs_dir={tmp_path}"]) == 2
    assert waited == waits
    assert "Did you mean 'num_envs'?" in capsys.readouterr().err


def test_several_processes_without_the_setting_are_refused(monkeypatch):
    started = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(multi_gpu=False) is ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes: add multi_gpu=True"):
        join(multi_gpu=False)


def test_every_process_takes_its_own_gpu_and_the_record_says_cuda(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1].index)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    config = dataclasses.replace(compose([]), multi_gpu=True, sim_device="cuda")
    assert parallel.config_for_rank(config, ALONE, "").sim_device == "cuda"
    assert taken == [torch.device("cuda:1")] == [check_device("cuda")]
    with pytest.raises(UserError, match="sim_device=cuda:0 is one GPU for several processes"):
        parallel.config_for_rank(dataclasses.replace(config, sim_device="cuda:0"), ALONE, "")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="'cuda:2' is not there"):
        parallel.config_for_rank(config, ALONE, "")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("algo=ppo", "does not work with algo=ppo"),
        ("algo.divergence.preset=yu", "not with yu: a kernel"),
    ],
)
def test_what_it_does_not_go_with(override, part):
    with pytest.raises(UserError, match=part):
        compose(["multi_gpu=True", *override.split()])


def test_it_is_for_training():
    config = dataclasses.replace(compose([]), multi_gpu=True, test=True, checkpoint="x")
    with pytest.raises(UserError, match="not for test=True"):
        config.check()
