"""The engine and training on a GPU; skipped where torch finds none.

pytest tests/test_on_a_gpu.py
"""

import importlib.util
import warnings

import pytest
import torch

if importlib.util.find_spec("mujoco_warp") is None:  # to import it takes seconds
    pytest.skip("the extra gpu is not installed", allow_module_level=True)
from test_runner import _keep_torch_settings, timeless  # noqa: F401
from test_sim import controls, rows

from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.sim import make_sim
from madpo_isaac.tasks.hands.over import EGG, PLACEMENTS
from madpo_isaac.tasks.hands.scene import build_spec
from madpo_isaac.training.run import Run

GPU = "cuda:0"
SMALL = (f"sim_device={GPU}", "num_envs=64", "algo.horizon=8", "algo.hidden=[64]")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    pytest.mark.timeout(1800),  # kernels are compiled at the first run
]


@pytest.fixture(scope="module")
def held():
    """The C engine and Warp on the GPU in the same 32 states: eggs lie in hands that move."""
    model = build_spec(PLACEMENTS, EGG).compile()
    c, warp = make_sim("mujoco", model, 32, "cpu", 1), make_sim("warp", model, 32, GPU)
    c.qpos[:, 50] += 0.02
    for targets in controls(model, 32, 16):
        c.ctrl[:, :40] = targets
        c.step(2)
    for name in ("qpos", "qvel", "ctrl"):
        getattr(warp, name).copy_(getattr(c, name))
    return model, c, warp


def test_it_agrees_with_the_c_engine(held):
    """The bounds are those of tests/test_warp.py."""
    model, c, warp = held
    for sim in (c, warp):
        sim.forward()
    error = (warp.sensordata.cpu() - c.sensordata).abs().unflatten(1, (2, 95))
    assert error[..., :65].max() < 2e-5 and error[..., 65:].max() < 0.1
    for targets in controls(model, 32, 4, seed=1):
        for sim in (c, warp):
            sim.ctrl[:, :40] = targets.to(sim.device)
            sim.step(1)
    qpos, qvel = ((getattr(warp, x).cpu() - getattr(c, x)).abs().amax(1) for x in ("qpos", "qvel"))
    assert qpos.median() < 1e-4 and qpos.max() < 2e-3
    assert qvel.median() < 1e-2 and qvel.max() < 0.5
    assert not warp.overflowed().any()


def test_a_reset_is_of_its_rows_only(held):
    model, _, warp = held
    warp.qvel[1, 3] = float("nan")
    warp.step(2)
    assert warp.diverged().tolist() == [k == 1 for k in range(32)]
    others = warp.qpos[2:].clone()
    warp.reset(rows(1, 1, *30 * [0]).to(GPU))
    warp.forward()
    key = torch.tensor(model.key_qpos[0] if model.nkey else model.qpos0, dtype=torch.float32)
    assert torch.equal(warp.qpos[:2].cpu(), key.expand(2, -1))
    assert torch.equal(warp.qpos[2:], others)
    warp.step(20)
    assert not warp.diverged().any()


@pytest.mark.parametrize("algo", ["happo", "madpo", "mappo", "ippo"])
def test_the_host_never_waits(algo, tmp_path):
    """Torch raises where it would; the order of agents is drawn on the host."""
    argv = [f"algo={algo}", "task.agents=fingers", *SMALL, f"runs_dir={tmp_path}"]
    run = Run(compose(argv))
    run.collect()  # records graphs and allocates
    run.update()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        run.learner.collect(run.state, lambda action, step: run.tracker.add(step))
        run.learner.update(0.5, run.env_steps, all_valid=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3"])
def test_a_run_trains_and_is_continued_and_played_on_the_cpu(task, tmp_path):
    argv = [f"task={task}", "algo=madpo", *SMALL, f"runs_dir={tmp_path}", "experiment=x"]
    assert main([*argv, "max_iterations=2", "task.episode_length=12"]) == 0
    assert main([f"checkpoint={tmp_path}/x", "max_iterations=3"]) == 0
    lines = timeless(tmp_path / "x")
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert not any(line["nan_resets"] or line["overflows"] for line in lines)
    assert main([f"checkpoint={tmp_path}/x", "test=True", "sim_device=cpu", "test_episodes=1"]) == 0
