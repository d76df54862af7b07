"""Tasks and training on MuJoCo Warp's CPU device: the code a GPU runs, but for the kernels."""

import importlib.util
import json

import pytest
import torch
from test_runner import _keep_torch_settings, assert_repeated, timeless, weights  # noqa: F401

if importlib.util.find_spec("mujoco_warp") is None:  # to import it takes seconds
    pytest.skip("the extra gpu is not installed", allow_module_level=True)
from madpo_isaac import tasks
from madpo_isaac.algos import base
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.sim import WarpConfig
from madpo_isaac.system import device
from madpo_isaac.training.run import Run
from madpo_isaac.training.worlds import WorldGuard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # with an empty cache Warp compiles
READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__")
"""Methods of Tensor that make a host wait for a GPU."""
SMALL = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1")
LOOSE = {
    # Cubes that lie on a table have other contact points there.
    "ShadowHandBlockStack": 2e-2,
    "ShadowHandPushBlock": 2e-2,
    # The egg starts inside a finger.
    "ShadowHandCatchOver2Underarm": 0.3,
}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """No shortcut that asks the tensors."""
    for module in (device, base):
        monkeypatch.setattr(module, "known_all_false", lambda flags: False)


@pytest.fixture
def reads(monkeypatch):
    """Counts what the main thread reads of tensors."""
    found = []
    for name in READS:
        own = getattr(torch.Tensor, name)

        def counted(self, *args, _own=own, _name=name, **kwargs):
            found.append(_name)
            return _own(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    return found


def make(task, engine, **settings):
    return tasks.make(task, 4, sim=engine, seed=1, num_threads=1, **settings)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_starts_and_steps_as_on_the_c_engine(task):
    c, warp = make(task, "mujoco"), make(task, "warp")
    bound = LOOSE.get(task, 1e-3)
    torch.testing.assert_close(warp.reset(), c.reset(), atol=bound, rtol=1e-4)
    action = torch.randn(4, c.action_dim, generator=torch.Generator().manual_seed(0))
    ours, theirs = warp.step(action), c.step(action)
    torch.testing.assert_close(ours.state, theirs.state, atol=bound, rtol=1e-4)
    torch.testing.assert_close(ours.reward, theirs.reward, atol=bound, rtol=1e-4)
    for name in ("terminated", "truncated"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    for _ in range(10):
        step = warp.step(action)
    assert torch.isfinite(step.state).all() and not step.diverged.any()
    assert not step.log["overflow"].any()


def test_episodes_end_and_begin_in_their_rows_only(as_on_a_gpu):
    env = make("ShadowHandOver", "warp", episode_length=5)
    env.reset()
    env.episode_step[1] = 2
    ends = [env.step(torch.zeros(4, 40)).truncated.tolist() for _ in range(5)]
    assert ends == [4 * [False]] * 2 + [[False, True, False, False]] + [4 * [False]] + [
        [True, False, True, True]
    ]


def test_a_world_that_goes_bad_is_reset_alone(as_on_a_gpu):
    env, twin = make("ShadowHandOver", "warp"), make("ShadowHandOver", "warp")
    for each in (env, twin):
        each.reset()
    env.sim.qvel[2, 3] = float("nan")
    action = torch.zeros(4, 40)
    ours, theirs = env.step(action), twin.step(action)
    assert ours.diverged.tolist() == [False, False, True, False]
    assert torch.isfinite(ours.state).all() and ours.reward[2] == 0.0
    others = [0, 1, 3]
    assert torch.equal(ours.state[others], theirs.state[others])
    assert not env.step(action).diverged.any()


def test_each_simulation_has_its_own_numbers():
    settings = {"friction": [0.5, 1.5], "object_mass": [0.5, 2.0], "actuator_gain": [0.8, 1.2]}
    env = make("ShadowHandOver", "warp", randomize={**settings, "object_size": [0.9, 1.1]})
    c = make("ShadowHandOver", "mujoco", randomize={**settings, "object_size": [0.9, 1.1]})
    torch.testing.assert_close(env.reset(), c.reset(), atol=1e-3, rtol=1e-4)
    for name in ("pair_friction", "body_mass", "actuator_gainprm", "geom_size"):
        ours, theirs = env.sim.expand(name), c.sim.expand(name).float()
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)
        assert not torch.equal(ours[0], ours[1])
    action = torch.zeros(4, 40)
    for _ in range(3):
        ours, theirs = env.step(action), c.step(action)
    torch.testing.assert_close(ours.state, theirs.state, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3"])
def test_training_continues_bit_for_bit(task, tmp_path):
    run = tmp_path / "x"
    argv = [f"task={task}", "sim=warp", "task.episode_length=12", *SMALL, f"runs_dir={tmp_path}"]
    assert main([*argv, "experiment=x", "max_iterations=3", "save_frequency=1"]) == 0
    lines, wholes = timeless(run), {"last": weights(run)}
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert [line["overflows"] for line in lines] == [0, 0, 0]
    assert sum(line["episodes"] for line in lines) >= 4
    assert main([f"checkpoint={run}/nn/ep_1.pth"]) == 0
    assert_repeated(run, lines, wholes)


@pytest.mark.parametrize(("algo", "own"), [("happo", 1), ("madpo", 1), ("mappo", 0), ("a2po", 2)])
def test_collection_reads_nothing_and_an_iteration_as_often_however_long(
    algo, own, as_on_a_gpu, reads, tmp_path
):
    counts = []
    for horizon in (4, 12):
        settings = [f"algo={algo}", "sim=warp", *SMALL, f"algo.horizon={horizon}"]
        run, guard = Run(compose([*settings, f"runs_dir={tmp_path}"])), WorldGuard()

        def watch(action, step, run=run, guard=guard):
            run.tracker.add(step)
            guard.on_step(run, action, step)

        run.collect()
        run.update()  # records graphs and allocates
        reads.clear()
        run.learner.collect(run.state, watch)
        assert reads == []
        run.collect()
        guard.on_rollout(run)
        run.update()
        counts.append(len(reads))
    # The episodes, how many worlds went bad, all metrics, and the order of the agents: drawn on
    # the host, by A2PO from their influence.
    assert counts[0] == counts[1] == 3 + own


def test_a_run_says_which_engine_it_had(tmp_path):
    argv = ["sim=warp", *SMALL, "max_iterations=1", f"runs_dir={tmp_path}", "experiment=x"]
    assert main([*argv, "sim.njmax=200", "sim.nconmax=64"]) == 0
    config = (tmp_path / "x" / "config.yaml").read_text()
    assert "name: warp" in config and "njmax: 200" in config
    line = json.loads((tmp_path / "x" / "metrics.jsonl").read_text())
    assert line["env_steps"] == 32


def test_a_policy_is_played_on_the_other_engine(tmp_path, capsys):
    argv = ["sim=warp", *SMALL, "max_iterations=1", f"runs_dir={tmp_path}", "experiment=x"]
    assert main(argv) == 0
    run = f"checkpoint={tmp_path}/x"
    assert compose([run, "test=True"]).sim.name == "mujoco"  # which is faster on a CPU
    assert compose([run, "test=True", "sim=warp", "sim.njmax=99"]).sim == WarpConfig(
        "warp", njmax=99
    )
    assert main([run, "test=True", "test_episodes=1", "task.episode_length=3"]) == 0
    capsys.readouterr()
    assert main([run, "sim=mujoco", "max_iterations=2"]) == 2
    assert "is of sim=warp, not sim=mujoco" in capsys.readouterr().err
