"""The bridge to Isaac Gym: the real server under a fake isaacgym and bidexhands."""

import ast
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.sim import isaacgym_bridge, isaacgym_server
from madpo_isaac.tasks.hands.agents import make_agents
from madpo_isaac.tasks.hands.hand import load

FAKES = Path(__file__).resolve().parent / "fakes"
OVER = {"task": "ShadowHandOver", "sim": "isaacgym", "seed": 42}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Isaac Gym runs on Linux only")


@pytest.fixture(autouse=True)
def _keep_torch_settings():
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """An interpreter that has the fakes, and only it; its process id comes to the file pid."""
    script = tmp_path / "python3.8"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={FAKES} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("FAKE_PID", str(tmp_path / "pid"))
    return str(script)


def settings(python, timeout=120.0):
    return {"python": python, "timeout": timeout}


def is_gone(pid):
    """True if a process ends within some seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # nobody waits for it here, but it has ended
            return True
        time.sleep(0.05)
    return False


def test_the_server_is_python_3_6():
    source = Path(isaacgym_server.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    nodes = list(ast.walk(tree))
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "torch" in imported and "isaacgym" in imported
    assert not any("madpo" in name or name in ("__future__", "dataclasses") for name in imported)
    # Names subscripted in annotations, as list[int], exist from 3.9 on only.
    builtin = {"list", "dict", "tuple", "set", "type"}
    subscripted = {
        node.value.id
        for node in nodes
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    assert builtin.isdisjoint(subscripted)
    assert "removeprefix" not in source and "isascii" not in source


def test_steps_are_those_of_the_task_with_our_agents(python):
    env = tasks.make(
        **OVER, num_envs=3, agents="fingers", episode_length=4, sim_settings=settings(python)
    )
    process = env.bridge.process
    assert (env.state_dim, env.action_dim, env.max_episode_length) == (398, 40, 4)
    assert env.step_dt == pytest.approx(1 / 60)
    ours = tasks.make("ShadowHandOver", 1, agents="fingers", num_threads=1)
    for theirs, own in zip(env.agents, ours.agents, strict=True):
        assert (theirs.name, theirs.role, theirs.action_slice) == (
            own.name,
            own.role,
            own.action_slice,
        )
        assert torch.equal(theirs.columns, own.columns) and theirs.action_roles == own.action_roles
    state = env.reset()
    assert state[:, :3].tolist() == [[1, 1, 5.0]] * 3  # seed 42 clipped to 5
    assert 0 < state[:, 10:50].abs().max() <= 0.01
    action = torch.linspace(-2, 0.8, 120).view(3, 40)
    step = env.step(action)
    assert torch.equal(step.state[:, 10:50], action.clamp(-1, 1))
    assert torch.allclose(step.reward, action.clamp(-1, 1).sum(1))
    assert not (step.terminated | step.truncated).any()
    action[1, 0] = action[1, 2] = action[2, 1] = 1.0  # environment 1 ends, 2 succeeds
    step = env.step(action)
    assert step.terminated.tolist() == [False, True, False]
    assert step.log["success"].tolist() == [0, 0, 1] and not step.truncated.any()
    assert torch.equal(step.state, step.final_state) and step.state[1, 1] == 3
    action[1, 0] = action[2, 1] = 0.0
    step = env.step(action)
    assert step.truncated.tolist() == [True, False, True] and not step.terminated.any()
    assert step.state[:, :2].tolist() == [[1, 4], [2, 1], [1, 4]]
    assert step.log["success"].tolist() == [0, 0, 1]
    kept = step.state.clone()
    step = env.step(action)
    assert step.state[:, :2].tolist() == [[2, 1], [2, 2], [2, 1]]
    assert not torch.equal(kept, step.state)  # the returned tensors are copies
    assert env.reset()[:, :2].tolist() == [[3, 1]] * 3
    with pytest.raises(ValueError, match="shape"):
        env.step(action[:2])
    env.bridge.close()
    assert process.returncode == 0
    with pytest.raises(UserError, match="has ended"):
        env.reset()


def test_floating_hands_have_the_base_in_the_palm():
    agents = make_agents(
        *(load("shadow"), "fingers", 199, 422),
        floating=True,
        see_all=False,
        device=torch.device("cpu"),
    )
    assert [agent.act_dim for agent in agents] == 2 * [8, 3, 3, 3, 4, 5]
    covered = sorted(column for agent in agents for column in agent.action_columns)
    assert covered == list(range(52)) and agents[6].action_columns[0] == 26
    assert {agent.obs_dim for agent in agents} == {199 + 24}


def test_numbers_that_are_not_finite_end_the_episode(python, monkeypatch):
    monkeypatch.setenv("FAKE_BIDEXHANDS", "nan")
    env = tasks.make(**OVER, num_envs=2, sim_settings=settings(python))
    env.reset()
    env.step(torch.zeros(2, 40))
    step = env.step(torch.full((2, 40), 0.5))
    assert step.log["diverged"].tolist() == [1, 0] and step.terminated.tolist() == [True, False]
    assert step.state.isfinite().all() and step.reward.tolist() == [0.0, 20.0]
    step = env.step(torch.zeros(2, 40))
    assert step.state[:, :2].tolist() == [[2, 1], [1, 4]]  # it has begun another episode


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param("hang", r"did not answer within sim\.timeout=2 s\.", marks=pytest.mark.slow),
        (
            "quit",
            r"ended unexpectedly \(exit code 0\)\. Its last line: \*\*\* Failed to create sim",
        ),
        ("raise", r"': ValueError: something is wrong\."),
        ("other task", r"has task=ShadowHandPen; sim=isaacgym needs task=ShadowHandOver\."),
    ],
)
def test_a_server_that_does_not_come_up_is_one_line_and_gone(
    fault, message, python, monkeypatch, tmp_path
):
    monkeypatch.setenv("FAKE_BIDEXHANDS", fault)
    timeout = 2.0 if fault == "hang" else 120.0
    with pytest.raises(UserError, match=message):
        tasks.make(**OVER, num_envs=2, sim_settings=settings(python, timeout))
    if (tmp_path / "pid").exists():  # a loaded machine may hang up on it earlier
        assert is_gone(int((tmp_path / "pid").read_text()))
    else:
        assert fault == "hang"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(
            "raise in step", "RuntimeError: PhysX is out of memory", marks=pytest.mark.slow
        ),
        ("die in step", r"ended unexpectedly \(exit code -6\)"),
    ],
)
def test_a_server_that_dies_is_one_line_and_gone(fault, message, python, monkeypatch):
    monkeypatch.setenv("FAKE_BIDEXHANDS", fault)
    env = tasks.make(**OVER, num_envs=2, sim_settings=settings(python))
    env.reset()
    env.step(torch.zeros(2, 40))
    with pytest.raises(UserError, match=message):
        env.step(torch.zeros(2, 40))
    assert env.bridge.process.returncode is not None


def test_another_protocol_is_refused(python, monkeypatch):
    monkeypatch.setattr(isaacgym_server, "PROTOCOL", 2)  # of the trainer; the server is a process
    with pytest.raises(UserError, match="RuntimeError: the server speaks protocol 1"):
        tasks.make(**OVER, num_envs=2, sim_settings=settings(python))


def test_another_version_of_isaac_gym_is_refused(python, monkeypatch, tmp_path):
    monkeypatch.setattr(isaacgym_bridge, "WRITTEN_FOR", "1.0rc3")
    with pytest.raises(
        UserError, match=r"RuntimeError: isaacgym 1\.0rc4 is installed, 1\.0rc3 is needed\."
    ):
        tasks.make(**OVER, num_envs=2, sim_settings=settings(python))
    assert not (tmp_path / "pid").exists()  # it is refused before the task is built


def test_without_isaac_gym_the_server_says_so():
    with pytest.raises(UserError, match="ModuleNotFoundError: No module named 'isaacgym'"):
        tasks.make(**OVER, num_envs=2, sim_settings=settings(sys.executable))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"sim_settings": {"python": "/no/python"}},
            "sim.python='/no/python' cannot be started: No such",
        ),
        ({"task": "HalfCheetah-2x3"}, "sim=isaacgym has the bimanual tasks only"),
        (
            {"fall_height": 0.3},
            "task.fall_height=0.3 has no effect with sim=isaacgym.*agents, episode_length",
        ),
        ({"agents": "toes"}, "task.agents=toes is not a split of the hand"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(changed, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        tasks.make(**{**OVER, "num_envs": 2, "sim_settings": {"python": "/bin/false"}, **changed})


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def server_of(folder):
    """The server's process id, once its task is being built."""
    wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    return int((folder / "pid").read_text())


@pytest.mark.parametrize("fault", ["", pytest.param("hang", marks=pytest.mark.slow)])
def test_the_server_ends_when_its_trainer_is_killed(fault, python, tmp_path, zygote):
    """Both cases: it serves a training run, or hangs in the simulator."""
    small = ("num_envs=2", "algo.horizon=8", "algo.hidden=[8]", "algo.epochs=1", "num_threads=1")
    sim = ("sim=isaacgym", f"sim.python={python}", f"runs_dir={tmp_path}", "experiment=x")
    env = {"FAKE_BIDEXHANDS": fault, "FAKE_PID": str(tmp_path / "pid")}
    trainer = zygote.start(*small, *sim, "max_iterations=1000000", env=env)
    server = server_of(tmp_path)
    if not fault:
        wait_for(lambda: (tmp_path / "x/metrics.jsonl").exists())
    os.kill(trainer, signal.SIGKILL)
    zygote.wait(trainer)
    assert is_gone(server)


@pytest.mark.slow
def test_a_script_that_stays_is_killed_with_the_server_it_runs(python, tmp_path, monkeypatch):
    script = tmp_path / "wrapper"
    script.write_text(f'#!/bin/sh\n"{python}" "$@"\necho ended\n')  # no exec: two processes
    script.chmod(0o755)
    monkeypatch.setenv("FAKE_BIDEXHANDS", "hang")
    with pytest.raises(UserError, match="did not answer"):
        tasks.make(**OVER, num_envs=2, sim_settings=settings(str(script), 4.0))
    if (tmp_path / "pid").exists():
        assert is_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("said", ["[1, 2]", "hello", '{"protocol": 0}', "\\377\\376", '{"pro'])
def test_something_else_that_answers_is_one_line(said, tmp_path):
    script = tmp_path / "liar"
    end = "" if said == '{"pro' else "\\n"
    script.write_text(f"#!/bin/bash\nread -u $2 request\nprintf '{said}{end}' >&$2\n")
    script.chmod(0o755)
    with pytest.raises(UserError) as problem:
        tasks.make(**OVER, num_envs=2, sim_settings=settings(str(script)))
    text = str(problem.value)
    assert "\n" not in text
    said = "not what Isaac Gym's server says|has protocol=0; |ended unexpectedly"
    assert re.search(said, text), text


# Through train.py -------------------------------------------------------------------------------


def test_training_continues_with_new_episodes(python, tmp_path):
    run = tmp_path / "runs" / "gym"
    small = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1")
    sim = ("sim=isaacgym", f"sim.python={python}", "task.episode_length=6")
    where = (f"runs_dir={run.parent}", "experiment=gym", "algo=happo", "max_iterations=2")
    small += ("algo.init_std=0.3",)  # the stand-in ends episodes by large actions
    assert main([*small, *sim, *where]) == 0
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert main([f"checkpoint={run}", "max_iterations=3"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    # Five steps are left of the first episode, since the reset took one; six of the next.
    assert [line["episodes"] for line in lines] == [4, 4, 4]
    assert [line["episode_length"] for line in lines] == [5, 6, 5]


def test_the_interpreter_has_to_be_named(capsys):
    assert main(["sim=isaacgym"]) == 2
    error = capsys.readouterr().err
    assert "sim=isaacgym needs sim.python=" in error and error.count("\n") == 1
    assert main(["sim=isaacgym", "sim.python=x", "sim.timeout=0"]) == 2
    assert "sim.timeout=0" in capsys.readouterr().err
    assert main(["sim.python=x"]) == 2  # of the default simulator
    assert re.match(r"error: Unknown key 'sim\.python'", capsys.readouterr().err)
    assert main(["sim=isaacgym", "sim.python=x", "capture_video=True"]) == 2
    assert "sim=isaacgym has no pictures" in capsys.readouterr().err
    assert main(["sim=isaacgim"]) == 2
    assert "Did you mean 'isaacgym'?" in capsys.readouterr().err
