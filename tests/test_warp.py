"""MuJoCo Warp on Warp's CPU device, where graphs are recorded and replayed as on a GPU.

The first run compiles kernels, about a minute; Warp keeps them in its cache.
"""

import importlib.util

import mujoco
import numpy as np
import pytest
import torch

if importlib.util.find_spec("mujoco_warp") is None:  # to import it takes seconds
    pytest.skip("the extra gpu is not installed", allow_module_level=True)
from test_sim import BOX_AND_ARM, controls, dirty, rows, scramble

from madpo_isaac.errors import UserError
from madpo_isaac.sim import WarpConfig, make_sim
from madpo_isaac.tasks.hands.over import EGG, PLACEMENTS
from madpo_isaac.tasks.hands.scene import build_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # with an empty cache Warp compiles
KEY = [0.5, -0.25, 0.125, 1, 0, 0, 0, 0.75]
INPUTS = ("qvel", "ctrl", "qfrc_applied", "xfrc_applied")


@pytest.fixture(scope="module")
def hands() -> mujoco.MjModel:
    return build_spec(PLACEMENTS, EGG).compile()


@pytest.fixture(scope="module")
def box() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(BOX_AND_ARM)


def make(model, num_envs, engine="warp", **settings):
    return make_sim(WarpConfig(engine, **settings), model, num_envs, "cpu", 1)


def both(model, num_envs):
    """The C engine and Warp."""
    return make(model, num_envs, "mujoco"), make(model, num_envs)


def unequal(one, other):
    """Names of what differs between two saved states."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


# The contract -----------------------------------------------------------------------------------


def test_tensors_have_the_contracts_shapes_and_stay_the_same_memory(box):
    sim = make(box, 3)
    assert (sim.num_envs, sim.device) == (3, torch.device("cpu"))
    shapes = {
        **{"qpos": (3, 8), "qvel": (3, 7), "ctrl": (3, 1), "qfrc_applied": (3, 7)},
        **{"xfrc_applied": (3, 3, 6), "qfrc_actuator": (3, 7), "sensordata": (3, 5)},
    }
    before = {name: getattr(sim, name).data_ptr() for name in shapes}
    for name, shape in shapes.items():
        assert getattr(sim, name).shape == shape, name
        assert getattr(sim, name).dtype == torch.float32, name
    saved = sim.state_dict()
    sim.step(2)
    sim.reset(rows(1, 0, 1))
    sim.forward()
    sim.load_state_dict(saved)
    assert before == {name: getattr(sim, name).data_ptr() for name in shapes}


def test_starts_in_the_key_pose_with_current_readings(box):
    sim = make(box, 2)
    assert sim.qpos.tolist() == [KEY] * 2
    assert sim.sensordata.tolist() == [[0.5, -0.25, 0.125, 0.75, 0]] * 2


def test_reset_goes_back_to_a_clean_key_pose_in_its_rows_only(box):
    sim, twin = make(box, 3), make(box, 3)
    for each in (sim, twin):
        dirty(each)
    sim.reset(rows(1, 0, 1))
    assert sim.qpos[[0, 2]].tolist() == [KEY] * 2
    for name in INPUTS:
        assert not getattr(sim, name)[[0, 2]].any(), name
        assert getattr(sim, name)[1].any(), name
    sim.forward(rows(1, 0, 1))
    ours, theirs = sim.state_dict(), twin.state_dict()
    assert [name for name in ours if not torch.equal(ours[name][1], theirs[name][1])] == []
    # Nothing is left of the past: the next steps are those of a fresh simulation.
    fresh = make(box, 3)
    for each in (sim, twin, fresh):
        each.step(3)
    for name, value in sim.state_dict().items():
        assert torch.equal(value[[0, 2]], fresh.state_dict()[name][[0, 2]]), name
        assert torch.equal(value[1], twin.state_dict()[name][1]), name


def test_reset_and_forward_of_no_row_change_nothing(box):
    sim = make(box, 2)
    dirty(sim)
    before = sim.state_dict()
    sim.reset(rows(0, 0))
    sim.forward(rows(0, 0))
    assert unequal(before, sim.state_dict()) == []


def test_readings_lag_one_substep_and_are_stale_until_forward_of_their_row(box):
    sim = make(box, 3)
    elbow = []
    for _ in range(3):
        elbow.append(sim.qpos[0, 7].item())
        sim.step(1)
        assert sim.sensordata[0, 3].item() == elbow[-1] != sim.qpos[0, 7].item()
    stale = sim.sensordata.clone()
    sim.qpos[:, 7] = torch.tensor([0.1, 0.2, 0.3])
    sim.forward(rows(0, 1, 1))
    assert torch.equal(sim.sensordata[0], stale[0])
    np.testing.assert_allclose(sim.sensordata[1:, 3].numpy(), [0.2, 0.3], rtol=1e-6)


def test_forward_moves_nothing(box):
    sim = make(box, 2)
    dirty(sim)
    before = sim.state_dict()
    sim.forward()
    changed = unequal(before, sim.state_dict())
    assert changed and set(changed) <= {"sensordata", "qfrc_actuator"}


def test_saved_state_repeats_steps_bit_for_bit_also_in_another_simulation(hands):
    sim, other = make(hands, 3), make(hands, 3)
    scramble(sim)
    targets = controls(hands, 3, 30)

    def play(some, steps):
        seen = []
        for row in steps:
            some.ctrl[:, :40] = row
            some.step(2)
            seen.append(some.state_dict())
        return seen

    play(sim, targets[:10])
    saved = sim.state_dict()
    first = play(sim, targets[10:])
    assert unequal(saved, first[-1])
    other.step(3)
    for each in (sim, other):
        each.load_state_dict(saved)
        assert unequal(saved, each.state_dict()) == []
        for ours, theirs in zip(play(each, targets[10:]), first, strict=True):
            assert unequal(ours, theirs) == []


# Agreement with the C engine --------------------------------------------------------------------


@pytest.fixture
def held(hands):
    """The C engine and Warp in the same 32 states: eggs lie in hands that move."""
    c, warp = both(hands, 32)
    c.qpos[:, 50] += 0.02
    for targets in controls(hands, 32, 16):
        c.ctrl[:, :40] = targets
        c.step(2)
    for name in ("qpos", "qvel", "ctrl"):
        getattr(warp, name).copy_(getattr(c, name))
    return c, warp


def test_readings_agree_with_the_c_engine(held):
    """Bounds are some ten times what float32 gave when they were written."""
    c, warp = held
    positions = dict.fromkeys(("xpos", "subtree_com", "cinert", "qfrc_actuator"), 5e-6)
    bounds = {**positions, "cvel": 5e-5, "qacc_smooth": 2e-3}
    readings = {name: [sim.field(name) for sim in held] for name in bounds}
    for sim in held:
        sim.forward()
    for name, bound in bounds.items():
        expected, found = readings[name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=name)
    # In every hand's block the fingertips' motion, then forces that come from the contact solver.
    error = (warp.sensordata - c.sensordata).abs().unflatten(1, (2, 95))
    assert error[..., :65].max() < 2e-5
    forces = error[..., 65:].flatten(1).amax(1)
    assert forces.median() < 1e-3 and forces.max() < 0.1
    assert c.sensordata.unflatten(1, (2, 95))[..., 65:].abs().max() > 0.5


def test_some_steps_agree_with_the_c_engine(hands, held):
    c, warp = held
    for targets in controls(hands, 32, 4, seed=1):
        for sim in held:
            sim.ctrl[:, :40] = targets
            sim.step(1)
        qpos, qvel = ((getattr(warp, x) - getattr(c, x)).abs().amax(1) for x in ("qpos", "qvel"))
        assert qpos.median() < 1e-4 and qpos.max() < 2e-3
        assert qvel.median() < 1e-2 and qvel.max() < 0.5


def test_long_runs_agree_in_the_mean_with_the_c_engine(hands, held):
    """Single trajectories part at contacts; what they do on average must not."""
    for targets in controls(hands, 32, 100, seed=2):
        speeds = []
        for sim in held:
            sim.ctrl[:, :40] = targets
            sim.step(2)
            speeds.append(sim.qvel[:, :48].abs().mean().item())
        assert speeds[1] == pytest.approx(speeds[0], abs=0.05)
    joints = [sim.qpos[:, :48].mean(0) for sim in held]
    torch.testing.assert_close(joints[1], joints[0], atol=0.02, rtol=0)
    fallen = [(sim.qpos[:, 50] < 0.2).sum().item() for sim in held]
    assert 8 < fallen[0] < 24 and abs(fallen[1] - fallen[0]) <= 3
    assert not held[1].overflowed().any()


def test_applied_forces_act_as_in_the_c_engine(box):
    c, warp = both(box, 2)
    for sim in (c, warp):
        sim.qfrc_applied[0, 6] = 0.5
        sim.xfrc_applied[1, 1] = torch.tensor([1.0, 2.0, 30.0, 0.0, 0.25, 0.0])
        sim.step(10)
    torch.testing.assert_close(warp.qpos, c.qpos, atol=1e-4, rtol=0)
    torch.testing.assert_close(warp.qvel, c.qvel, atol=1e-3, rtol=0)
    assert warp.qvel[1, 2] > 0.5


# What goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["qpos", "qvel"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_divergence_is_seen_in_its_row_until_reset(box, field, value):
    sim, twin = make(box, 3), make(box, 3)
    for each in (sim, twin):
        each.qvel.fill_(0.25)
        each.step(2)
    assert not sim.diverged().any()
    getattr(sim, field)[1, 1] = value
    for each in (sim, twin):
        each.step(2)
    assert sim.diverged().tolist() == [False, True, False]
    assert torch.equal(sim.qpos[[0, 2]], twin.qpos[[0, 2]])
    sim.reset(rows(1, 0, 0))
    assert sim.diverged().tolist() == [False, True, False]
    sim.reset(rows(0, 1, 0))
    sim.forward(rows(1, 1, 0))
    sim.step(20)
    assert not sim.diverged().any()
    assert all(value.isfinite().all() for value in sim.state_dict().values())


def test_lost_constraints_are_told_once(box):
    """The box on the floor takes 16 rows."""
    roomy, tight = make(box, 3, njmax=16), make(box, 3, njmax=15)
    for sim in (roomy, tight):
        sim.step(5)
    assert not roomy.overflowed().any()
    assert tight.overflowed().all()
    assert not tight.overflowed().any()
    tight.qpos[1, 2] = 5.0  # touches nothing
    tight.step(1)
    assert tight.overflowed().tolist() == [True, False, True]


def test_room_is_found_by_trying(box, hands):
    assert (make(box, 1).nconmax, make(box, 1).njmax) == (48, 32)
    sim = make(hands, 2)
    assert sim.nconmax >= 32 and sim.njmax >= 128
    assert make(hands, 2, njmax=96).njmax == 96


# Fields of the model ----------------------------------------------------------------------------


def test_expanded_fields_are_of_one_simulation_and_outlive_resets_and_restores(box):
    sim = make(box, 3)
    sim.step(1)
    gear = sim.expand("actuator_gear")
    np.testing.assert_array_equal(gear, np.tile(box.actuator_gear, (3, 1, 1)))
    assert sim.expand("actuator_gear") is gear
    state = sim.state_dict()
    gear[1, 0, 0] = -6.0
    for _ in range(2):
        sim.ctrl[:] = 1.0
        sim.forward()
        assert sim.qfrc_actuator[:, 6].tolist() == [2.0, -6.0, 2.0]
        sim.reset(rows(1, 1, 1))
        sim.load_state_dict(state)
    with pytest.raises(ValueError, match="no field 'geom_type' of every simulation"):
        sim.expand("geom_type")


def test_bounds_of_expanded_sizes_are_seen(box):
    """A smaller box falls further; graphs recorded before the expansion are not replayed."""
    sim = make(box, 2)
    sim.step(1)
    size, bound = sim.expand("geom_size"), sim.expand("geom_rbound")
    size[1, 1] /= 2.0
    bound[1, 1] /= 2.0
    sim.reset(rows(1, 1))
    for _ in range(100):
        sim.step(2)
    np.testing.assert_allclose(sim.qpos[:, 2].numpy(), [0.125, 0.0625], atol=1e-3)


# Packages ---------------------------------------------------------------------------------------


def test_missing_and_unmatched_packages_are_said_in_a_line(box, monkeypatch):
    from importlib import metadata

    real = metadata.version

    def version(name, found):
        if name != "mujoco-warp":
            return real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", lambda name: version(name, None))
    with pytest.raises(UserError, match=r"needs the package mujoco-warp: .*\[gpu\]"):
        make(box, 1)
    monkeypatch.setattr(metadata, "version", lambda name: version(name, "4.0.0"))
    with pytest.raises(UserError, match=r"mujoco-warp 4.0.0 does not fit mujoco 3\."):
        make(box, 1)
