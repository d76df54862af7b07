"""Rules of a GPU, kept on a device that has no numbers: see :mod:`ghost`.

Collection and updates read nothing, copy nothing to the device and stay on it.
"""

from types import SimpleNamespace

import pytest
import torch
from test_runner import _keep_torch_settings  # noqa: F401

pytest.importorskip("mujoco_warp", reason="the extra gpu is not installed")
from ghost import GPU, gpu, rules  # noqa: F401

from madpo_isaac import tasks
from madpo_isaac.algos.kernels import PrintedComparison
from madpo_isaac.config.overrides import compose
from madpo_isaac.divergence.presets import DivergenceConfig, fill_from_preset
from madpo_isaac.evaluation.player import Scores
from madpo_isaac.system import device
from madpo_isaac.training.run import Run

SMALL = (
    "num_envs=4",
    "algo.horizon=2",
    "algo.hidden=[8]",
    "num_threads=1",
    "algo.num_minibatches=2",
)
ALL = {
    **{"friction": [0.5, 1.5], "object_mass": [0.5, 2.0], "actuator_gain": [0.8, 1.2]},
    **{"action_noise": 0.1, "observation_noise": 0.1},
}
ONCE = ("algo.epochs=1", "algo.critic_epochs=1")
LEARNERS = {
    "happo": ("task=Ant-2x4", "algo.input_norm=both", *ONCE),
    # Actions that are no slice, and fingers that have only some joints in common.
    "madpo": ("task.agents=[[0,2,3,5],[1],[4]]", *ONCE),
    "madpo/kl": ("task=Ant-4x2", "task.agent_obsk=1", "algo.divergence.kind=kl", *ONCE),
    "mappo": ("algo.share_parameters=True", *ONCE),
    "ippo": ONCE,
    "a2po": ("algo.agent_order=default", *ONCE),
}
LATER = ("madpo/kl", "ippo")
"""Learners that others resemble: they are for the slow tests."""


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, g: x.sum().item(),
        lambda x, g: bool(x.any()),
        lambda x, g: x[x > 0],
        lambda x, g: x.cpu(),
        lambda x, g: x[:, [0, 1]],
        lambda x, g: x + x.new_tensor([1.0, 2.0]),
        lambda x, g: torch.ones(2).to(x),
        lambda x, g: x @ torch.ones(2),
        lambda x, g: x[:, torch.arange(2)],
        lambda x, g: x.copy_(torch.ones(3, 2)),
        lambda x, g: torch.rand(2, generator=g, device=x.device),
    ],
)
def test_the_rules_find_what_breaks_them(broken, gpu):  # noqa: F811
    x = torch.zeros(3, 2, device=GPU)
    with pytest.raises((AssertionError, RuntimeError)), rules():
        broken(x, torch.Generator())
    with rules():
        torch.rand(2, generator=torch.Generator(GPU), device=GPU) * x * 2.0


def shaping(task):
    """Everything that a hand task supports."""
    chosen = {"action_rate": 1.0}
    if "ReOrientation" not in task:
        chosen |= {"progress": 1.0, "hold": 1.0}
    return {**chosen, "curriculum_start": 0.5} if task == "ShadowHandOver" else chosen


@pytest.mark.parametrize("task", tasks.TASKS)
def test_environments_stay_on_the_device(task, gpu):  # noqa: F811
    settings = {"randomize": ALL, "shaping": shaping(task)} if task.startswith("Shadow") else {}
    env = tasks.make(task, 4, sim="warp", **settings)
    state, scores = env.reset(), Scores(env, 1)
    with rules():
        step = env.step(torch.zeros(4, env.action_dim, device=GPU))
        env.observations(state)
        scores.add(step)
        env.load_state_dict(env.state_dict())
    assert {x.device for x in (step.state, step.reward, step.truncated, *step.log.values())} == {
        GPU
    }


def learner(algo, settings, folder):
    """A run that has collected and learned once, on the device."""
    argv = [f"algo={algo.partition('/')[0]}", "sim=warp", *SMALL, *settings, f"runs_dir={folder}"]
    run = Run(compose(argv))
    with rules():
        learn(run)
    return run


def learn(run):
    """An iteration without what is read once in each: episodes, bad worlds, metrics."""
    run.state, _ = run.learner.collect(run.state, lambda action, step: run.tracker.add(step))
    run.learner.update(0.0, 0, all_valid=True)


@pytest.mark.parametrize(
    "algo",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LATER)) for name in LEARNERS],
)
def test_learning_stays_on_the_device(algo, gpu, tmp_path):  # noqa: F811
    run = learner(algo, LEARNERS[algo], tmp_path)
    with rules():
        run.learner.policy()(run.state)
        totals = run.tracker.take()
        learn(run)
    assert all(x.device == GPU for x in totals.values())
    state = run.learner.state_dict()["algo_state"]
    for moments in filter(None, (*state["actor_optimisers"], state["critic_optimiser"])):
        moments["step"] = moments["step"].new_zeros(())  # on meta it has the parameters' shape
    run.learner.algo.load_state_dict(state)


def test_hatrpo_reads_what_decides_its_steps(gpu, monkeypatch, tmp_path):  # noqa: F811
    """For each agent surrogate, curvature and norm at once, the promise, and every trial."""
    reads, tolist = [], torch.Tensor.tolist
    for name in ("tolist", "__float__"):
        own = lambda x: reads.append(x) or tolist(torch.ones(x.shape))  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, own)
    # What it has read it gives back as metrics.
    monkeypatch.setattr(
        torch.Tensor, "new_tensor", lambda x, value: x.new_zeros(torch.tensor(value).shape)
    )
    settings = ("algo.line_search_steps=3", "algo.critic_epochs=1", "algo.agent_order=default")
    learner("hatrpo", settings, tmp_path)
    assert sum(x.device == GPU for x in reads) == 2 * (2 + 3)


def test_what_a_checkpoint_has_of_the_last_iteration_comes_to_the_device(gpu):  # noqa: F811
    agents = tasks.make("HalfCheetah-2x3", 4, sim="warp").agents
    config = fill_from_preset(DivergenceConfig(preset="printed"))
    comparison = PrintedComparison(agents, config, 0, GPU)
    saved = {"state": torch.ones(8, 17), "action": torch.ones(8, 6)}
    comparison.load_state_dict({"generator": torch.Generator().get_state(), **saved})
    state, action = torch.ones(8, 17, device=GPU), torch.ones(8, 6, device=GPU)
    comparison.begin(SimpleNamespace(state=state, action=action))
    assert {x.device for x in comparison._last} == {GPU}


def test_products_on_a_gpu_keep_their_precision(monkeypatch):
    """The switch that makes oneDNN fast on some CPUs would be TF32 there."""
    monkeypatch.setattr(device, "_onednn_is_faster_and_exact", lambda: True)
    torch.set_float32_matmul_precision("highest")
    device.configure(1, "cuda:0")
    assert torch.get_float32_matmul_precision() == "highest"
    device.configure(1, "cpu")
    assert torch.get_float32_matmul_precision() == "medium"
