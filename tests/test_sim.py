import mujoco
import numpy as np
import pytest
import torch

from madpo_isaac.errors import UserError
from madpo_isaac.sim import ENGINES, make_sim
from madpo_isaac.tasks.hands.over import EGG, PLACEMENTS
from madpo_isaac.tasks.hands.scene import build_spec

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
EGG_QPOS = slice(48, 55)

# A box that lies on the floor in the key pose, and an arm. The key's numbers are exact in float32.
BOX_AND_ARM = """
<mujoco>
  <option timestep="0.004"/>
  <worldbody>
    <geom type="plane" size="2 2 0.1"/>
    <body name="box" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.1 0.1 0.125" mass="1"/>
    </body>
    <body name="arm" pos="1 0 1">
      <joint name="elbow" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="0.5"/>
    </body>
  </worldbody>
  <actuator><motor joint="elbow" gear="2"/></actuator>
  <sensor>
    <framepos objtype="body" objname="box"/>
    <jointpos joint="elbow"/>
    <jointvel joint="elbow"/>
  </sensor>
  <keyframe><key qpos="0.5 -0.25 0.125 1 0 0 0 0.75"/></keyframe>
</mujoco>
"""


@pytest.fixture(scope="module")
def hands() -> mujoco.MjModel:
    return build_spec(PLACEMENTS, EGG).compile()


@pytest.fixture(scope="module")
def box() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(BOX_AND_ARM)


def make(model, num_envs, num_threads=1):
    return make_sim("mujoco", model, num_envs, "cpu", num_threads)


def rows(*mask: int) -> torch.Tensor:
    return torch.tensor(mask, dtype=torch.bool)


def state_of(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def restored(model: mujoco.MjModel, state: np.ndarray) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, np.asarray(state), STATE)
    return data


def controls(model, num_envs, steps, seed=0) -> torch.Tensor:
    """Random targets, held for eight steps each so that the hands move far."""
    low, high = model.jnt_range[model.actuator_trnid[:40, 0]].T
    rng = np.random.default_rng(seed)
    held = rng.uniform(low, high, (steps // 8 + 1, num_envs, 40)).astype(np.float32)
    return torch.from_numpy(held.repeat(8, axis=0)[:steps])


def scramble(sim, seed=0) -> None:
    """Random joint positions and speeds; the egg falls onto the palm."""
    rng = np.random.default_rng(seed)
    low, high = sim.model.jnt_range[:48].T
    pos = low + (high - low) * rng.uniform(0.0, 0.5, (sim.num_envs, 48))
    sim.qpos[:, :48] = torch.tensor(pos, dtype=torch.float32)
    sim.qvel[:, :48] = torch.tensor(rng.normal(size=(sim.num_envs, 48)), dtype=torch.float32)
    sim.qpos[:, 48:51] += torch.tensor(rng.uniform(-0.01, 0.01, (sim.num_envs, 3)))


def dirty(sim) -> None:
    """Leaves something in every field that a reset has to clear."""
    sim.qpos[:, :2] += 0.5
    sim.qvel[:] = 0.5
    sim.ctrl[:] = 0.5
    sim.qfrc_applied[:] = 0.25
    sim.xfrc_applied[:] = 0.125
    sim.step(5)


def test_tensors_have_the_contracts_shapes(hands):
    sim = make(hands, 3)
    assert sim.num_envs == 3
    assert sim.device == torch.device("cpu")
    shapes = {
        "qpos": (3, 55),
        "qvel": (3, 54),
        "ctrl": (3, hands.nu),
        "qfrc_applied": (3, 54),
        "xfrc_applied": (3, hands.nbody, 6),
        "qfrc_actuator": (3, 54),
        "sensordata": (3, 190),
    }
    for name, shape in shapes.items():
        tensor = getattr(sim, name)
        assert tensor.shape == shape, name
        assert tensor.dtype == torch.float32, name


def test_tensors_stay_the_same_memory(box):
    sim = make(box, 2)
    names = ("qpos", "qvel", "ctrl", "qfrc_applied", "xfrc_applied", "qfrc_actuator", "sensordata")
    before = {name: getattr(sim, name).data_ptr() for name in names}
    saved = sim.state_dict()
    sim.step(2)
    sim.reset(rows(1, 0))
    sim.forward()
    sim.load_state_dict(saved)
    assert before == {name: getattr(sim, name).data_ptr() for name in names}


def test_starts_in_the_key_pose_with_current_readings(box, hands):
    sim = make(box, 2)
    assert sim.qpos.tolist() == [[0.5, -0.25, 0.125, 1, 0, 0, 0, 0.75]] * 2
    assert sim.sensordata.tolist() == [[0.5, -0.25, 0.125, 0.75, 0]] * 2
    # Without a keyframe it is the pose of the file.
    np.testing.assert_allclose(make(hands, 2).qpos.numpy(), [hands.qpos0] * 2, atol=1e-7)


def test_step_is_mujocos_own_bit_for_bit(hands):
    num_envs, steps = 3, 48
    sim = make(hands, num_envs)
    scramble(sim)
    sim.forward()
    oracle = [restored(hands, state) for state in sim.state_dict()["state"]]
    contacts = 0
    for targets in controls(hands, num_envs, steps):
        sim.ctrl[:, :40] = targets
        sim.step(2)
        for data, ctrl in zip(oracle, targets.numpy(), strict=True):
            data.ctrl[:40] = ctrl
            mujoco.mj_step(hands, data, 2)
            contacts += data.ncon
        expected = np.stack([state_of(hands, data) for data in oracle])
        np.testing.assert_array_equal(sim.state_dict()["state"].numpy(), expected)
    assert contacts > 2 * steps
    for name in ("qpos", "qvel", "sensordata", "qfrc_actuator"):
        expected = np.stack([getattr(data, name) for data in oracle]).astype(np.float32)
        np.testing.assert_array_equal(getattr(sim, name).numpy(), expected)


def test_applied_forces_act(box):
    sim = make(box, 2)
    oracle = [restored(box, state) for state in sim.state_dict()["state"]]
    sim.qfrc_applied[0, 6] = 0.5
    oracle[0].qfrc_applied[6] = 0.5
    sim.xfrc_applied[1, 1] = torch.tensor([1.0, 2.0, 30.0, 0.0, 0.25, 0.0])
    oracle[1].xfrc_applied[1] = (1, 2, 30, 0, 0.25, 0)
    sim.step(10)
    for data in oracle:
        mujoco.mj_step(box, data, 10)
    expected = np.stack([state_of(box, data) for data in oracle])
    np.testing.assert_array_equal(sim.state_dict()["state"].numpy(), expected)


def test_reset_goes_back_to_a_clean_key_pose(box):
    sim = make(box, 3)
    dirty(sim)
    sim.reset(rows(1, 0, 1))
    assert sim.qpos[[0, 2]].tolist() == [[0.5, -0.25, 0.125, 1, 0, 0, 0, 0.75]] * 2
    for name in ("qvel", "ctrl", "qfrc_applied", "xfrc_applied"):
        assert not getattr(sim, name)[[0, 2]].any(), name
        assert getattr(sim, name)[1].any(), name
    kept = [restored(box, state).qacc_warmstart for state in sim.state_dict()["state"]]
    assert [warm_start.any() for warm_start in kept] == [False, True, False]
    # Nothing else is left: the next step is the first step of a fresh simulation.
    sim.step(1)
    fresh = mujoco.MjData(box)
    mujoco.mj_resetDataKeyframe(box, fresh, 0)
    mujoco.mj_step(box, fresh)
    assert fresh.ncon > 0
    states = sim.state_dict()["state"].numpy()
    for row in (0, 2):
        np.testing.assert_array_equal(states[row], state_of(box, fresh))


@pytest.mark.parametrize("height", [0.125, 0.75])
def test_what_float32_rounds_off_does_not_outlive_a_reset(box, height):
    """The box lies where the next episode puts it, the key pose or another place, up to 1e-9."""
    sim = make(box, 2)
    qpos, qvel = (sim.field(name, exact=True) for name in ("qpos", "qvel"))
    for each in range(2):
        qpos[each, 2], qvel[each, 2] = height + 1e-9 * each, 1e-50 * each
    sim.forward()
    assert sim.qpos[:, 2].tolist() == [height] * 2
    assert qpos[1, 2] != height
    sim.reset(rows(1, 1))
    sim.qpos[:, 2] = height
    sim.step(5)
    states = sim.state_dict()["state"]
    assert torch.equal(states[0], states[1])


def test_reset_leaves_other_rows_as_they_were(hands):
    sim, twin = make(hands, 3), make(hands, 3)
    for each in (sim, twin):
        scramble(each)
        each.step(20)
    sim.reset(rows(0, 1, 0))
    sim.forward(rows(0, 1, 0))
    ours, theirs = sim.state_dict(), twin.state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name][[0, 2]], value[[0, 2]]), name
        assert name == "warning" or not torch.equal(ours[name][1], value[1]), name
    sim.step(20)
    twin.step(20)
    assert torch.equal(sim.state_dict()["state"][[0, 2]], twin.state_dict()["state"][[0, 2]])


def test_reset_of_no_row_changes_nothing(box):
    sim = make(box, 2)
    dirty(sim)
    before = sim.state_dict()
    sim.reset(rows(0, 0))
    sim.forward(rows(0, 0))
    assert all(torch.equal(value, before[name]) for name, value in sim.state_dict().items())


def test_reset_clears_forces_that_came_with_a_loaded_state(box):
    source = make(box, 1)
    source.qfrc_applied[:, 6] = 0.5
    source.xfrc_applied[:, 1, 2] = 30.0
    source.step(1)
    sim, untouched = make(box, 1), make(box, 1)
    sim.load_state_dict(source.state_dict())
    for each in (sim, untouched):
        each.reset(rows(1))
        each.step(5)
    assert torch.equal(sim.state_dict()["state"], untouched.state_dict()["state"])


def test_readings_are_stale_until_forward_of_their_row(box):
    sim = make(box, 3)
    sim.qpos[:, 7] = torch.tensor([0.1, 0.2, 0.3])
    sim.qpos[:, 0] = 4.0
    assert sim.sensordata[:, 3].tolist() == [0.75] * 3
    sim.forward(rows(0, 1, 1))
    readings = sim.sensordata.numpy()
    np.testing.assert_allclose(readings[:, 3], [0.75, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(readings[:, 0], [0.5, 4.0, 4.0])
    sim.forward()
    np.testing.assert_allclose(sim.sensordata[:, 3].numpy(), [0.1, 0.2, 0.3], rtol=1e-6)


def test_forward_updates_actuator_forces_and_moves_nothing(box):
    sim = make(box, 2)
    sim.step(3)
    qpos, qvel = sim.qpos.clone(), sim.qvel.clone()
    sim.ctrl[:, 0] = torch.tensor([0.25, -0.5])
    sim.forward()
    assert sim.qfrc_actuator[:, 6].tolist() == [0.5, -1.0]  # gear 2
    assert torch.equal(sim.qpos, qpos)
    assert torch.equal(sim.qvel, qvel)


def test_saved_state_repeats_forty_steps_bit_for_bit(hands):
    sim = make(hands, 3)
    scramble(sim)
    targets = controls(hands, 3, 60)

    def play(some, steps):
        seen = []
        for row in steps:
            some.ctrl[:, :40] = row
            some.step(2)
            seen.append({name: value.clone() for name, value in some.state_dict().items()})
        return seen

    play(sim, targets[:20])
    saved = sim.state_dict()
    kept = {name: value.clone() for name, value in saved.items()}
    first = play(sim, targets[20:])
    assert all(torch.equal(saved[name], kept[name]) for name in kept), "a saved state changed"
    fresh = make(hands, 3)
    scramble(fresh, seed=9)
    fresh.step(3)
    for other in (sim, fresh):
        other.load_state_dict(saved)
        assert torch.equal(other.qpos, saved["state"][:, 1:56].float())
        for name, value in kept.items():
            assert torch.equal(other.state_dict()[name], value), name
        for ours, theirs in zip(play(other, targets[20:]), first, strict=True):
            for name in theirs:
                assert torch.equal(ours[name], theirs[name]), name


def test_loading_undoes_writes_that_were_not_stepped_yet(box):
    sim = make(box, 2)
    sim.step(3)
    saved = sim.state_dict()
    qpos, ctrl = sim.qpos.clone(), sim.ctrl.clone()
    sim.qpos[:, 7] = 2.0
    sim.ctrl[:] = 1.0
    sim.load_state_dict(saved)
    assert torch.equal(sim.qpos, qpos)
    assert torch.equal(sim.ctrl, ctrl)


def test_saving_keeps_writes_that_were_not_stepped_yet(box):
    sim, twin = make(box, 1), make(box, 1)
    for each in (sim, twin):
        each.qpos[:, 7] = 2.0
        each.ctrl[:] = 1.0
    saved = sim.state_dict()
    sim.step(1)
    sim.load_state_dict(saved)
    sim.step(1)
    twin.step(1)
    assert torch.equal(sim.qpos, twin.qpos)


def test_two_threads_give_the_same_bits_as_one(hands):
    sims = [make(hands, 4, num_threads=threads) for threads in (1, 2)]
    for sim in sims:
        scramble(sim)
        for targets in controls(hands, 4, 40):
            sim.ctrl[:, :40] = targets
            sim.step(2)
    one, two = (sim.state_dict() for sim in sims)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("field", ["qpos", "qvel"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_divergence_is_seen_in_its_row_until_reset(hands, field, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its warnings
    sim, twin = make(hands, 3), make(hands, 3)
    for each in (sim, twin):
        scramble(each)
        each.step(2)
    assert not sim.diverged().any()
    getattr(sim, field)[1, 5] = value
    sim.step(2)
    twin.step(2)
    assert sim.diverged().tolist() == [False, True, False]
    assert torch.equal(sim.state_dict()["state"][[0, 2]], twin.state_dict()["state"][[0, 2]])
    sim.reset(rows(1, 0, 0))
    assert sim.diverged().tolist() == [False, True, False]
    sim.reset(rows(0, 1, 0))
    assert sim.diverged().tolist() == [False, False, False]
    sim.step(20)
    assert not sim.diverged().any()
    assert all(torch.isfinite(value).all() for value in sim.state_dict().values())


def test_divergence_survives_saving(hands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sim, other = make(hands, 2), make(hands, 2)
    sim.qvel[1, 0] = float("nan")
    sim.step(1)
    other.load_state_dict(sim.state_dict())
    assert other.diverged().tolist() == [False, True]


def test_unknown_engine_names_the_closest(box):
    with pytest.raises(UserError, match=r"'mujco'.*Did you mean 'mujoco'\?"):
        make_sim("mujco", box, 1)
    with pytest.raises(UserError, match=r"Allowed: .*mujoco"):
        make_sim("", box, 1)
    assert "mujoco" in ENGINES


@pytest.mark.parametrize("device", ["gpu", "cdua", "mps", "meta"])
def test_unknown_device_names_the_allowed_ones(box, device):
    with pytest.raises(UserError, match=rf"'{device}'.*Allowed: cpu, cuda, cuda:<index>"):
        make_sim("mujoco", box, 1, device)


def test_absent_device_is_said_to_be_absent(box, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="'cuda' is not there: torch finds 0"):
        make_sim("mujoco", box, 1, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="'cuda:1' is not there: torch finds 1"):
        make_sim("mujoco", box, 1, "cuda:1")


def test_cpu_engine_refuses_a_gpu(box, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(UserError, match="runs on the CPU"):
        make_sim("mujoco", box, 1, "cuda")


# Fields of the model ----------------------------------------------------------------------------


def test_expanded_fields_are_of_one_simulation_and_outlive_resets_and_restores(box):
    sim = make(box, 3)
    gear = sim.expand("actuator_gear")
    assert gear.dtype == torch.float64
    np.testing.assert_array_equal(gear, np.tile(box.actuator_gear, (3, 1, 1)))
    assert torch.equal(sim.expand("actuator_gear"), gear)
    state = sim.state_dict()
    gear[1, 0, 0] = -6.0
    for _ in range(2):
        sim.ctrl[:] = 1.0
        sim.forward()
        # The elbow's only force is its motor's.
        assert sim.qfrc_actuator[:, 6].tolist() == [2.0, -6.0, 2.0]
        sim.reset(rows(1, 1, 1))
        sim.load_state_dict(state)
    assert box.actuator_gear[0, 0] == 2.0
