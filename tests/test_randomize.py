"""Domain randomization: what is drawn, what it does to the physics, and that off is off."""

import mujoco
import numpy as np
import pytest
import torch

from madpo_isaac import tasks
from madpo_isaac.errors import UserError
from madpo_isaac.sim import make_sim
from madpo_isaac.tasks.hands.objects import Solid
from madpo_isaac.tasks.hands.over import EGG, PLACEMENTS
from madpo_isaac.tasks.hands.randomize import RandomizeConfig, Randomizer
from madpo_isaac.tasks.hands.scene import build_spec

EGG_QPOS, EGG_DOF = slice(48, 55), slice(48, 54)
NEVER = (0.0, -0.3, 0.9)
"""A place of the egg that is neither a success nor a fall."""
RANGES = {
    "friction": [0.7, 1.3],
    "object_mass": [0.5, 1.5],
    "object_size": [0.9, 1.1],
    "actuator_gain": [0.8, 1.25],
}
NOISES = {"action_noise": 0.05, "observation_noise": 0.02}


def make(num_envs=4, seed=0, episode_length=75, **randomize):
    return tasks.make(
        "ShadowHandOver",
        num_envs=num_envs,
        num_threads=1,
        seed=seed,
        episode_length=episode_length,
        randomize=randomize,
    )


def actions(env, steps, seed=0):
    shape = (steps, env.num_envs, env.action_dim)
    return 2.0 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1.0


def drive_limits(env):
    joints = env.sim.model.actuator_trnid[:40, 0]
    return torch.tensor(env.sim.model.jnt_range[joints].T)


def randomizer(xml, num_envs, objects=("object",), seed=0, **settings):
    """A simulation of ``xml`` and what randomizes it, drawn once."""
    sim = make_sim("mujoco", mujoco.MjModel.from_xml_string(xml), num_envs, "cpu", 1)
    generator = torch.Generator().manual_seed(seed)
    drawn = Randomizer(RandomizeConfig.of(settings), sim, objects, generator)
    drawn.resample(torch.ones(num_envs, dtype=torch.bool))
    return sim, drawn


# Off --------------------------------------------------------------------------------------------


def test_off_draws_nothing_and_touches_no_model():
    env = make(3, seed=5)
    assert env.randomizer.scales == {}
    env.sim.expand = None  # calling it would raise
    env.reset()
    for action in actions(env, 5):
        env.step(action)
    expected = torch.Generator().manual_seed(5)
    for columns in (48, 7):  # the reset's joints, then egg and goal
        torch.rand(3, columns, generator=expected)
    assert torch.equal(env.generator.get_state(), expected.get_state())
    action = actions(env, 1)[0]
    assert env.randomizer.noisy_action(action) is action
    assert env.randomizer.noisy_state(action) is action


def test_multipliers_of_one_change_nothing():
    plain, same = make(), make(**{name: [1.0, 1.0] for name in RANGES})
    for env in (plain, same):
        env.reset()
    state = plain.state_dict()
    same.load_state_dict(state)
    for action in actions(plain, 60):
        expected, step = plain.step(action), same.step(action)
        assert torch.equal(step.final_state, expected.final_state)


# Draws ------------------------------------------------------------------------------------------


def test_draws_fill_their_ranges_and_nothing_else():
    env = make(1000, **RANGES)
    for name, scale in env.randomizer.scales.items():
        assert torch.equal(scale, torch.ones_like(scale)), name
    env.reset()
    columns = {"friction": 1, "object_mass": 1, "object_size": 1, "actuator_gain": 40}
    assert {k: v.shape for k, v in env.randomizer.scales.items()} == {
        name: (1000, count) for name, count in columns.items()
    }
    for name, (low, high) in RANGES.items():
        scale = (env.randomizer.scales[name] - low) / (high - low)
        assert 0.0 <= scale.min() < 0.01
        assert 0.99 < scale.max() <= 1.0
        # Of a uniform draw: mean 1/2 and variance 1/12, here within 5 standard errors.
        assert abs(scale.mean() - 0.5) < 5 * (1 / 12 / 1000) ** 0.5
        assert scale.var().item() == pytest.approx(1 / 12, rel=0.15)


def test_quantities_environments_and_episodes_are_independent():
    env = make(1000, **RANGES)
    env.reset()
    first = torch.cat(list(env.randomizer.scales.values()), dim=1)
    env.reset()
    second = torch.cat(list(env.randomizer.scales.values()), dim=1)
    # Between the 43 quantities and between an environment's two episodes, over environments.
    across = torch.corrcoef(torch.cat((first, second), dim=1).T)
    assert (across - torch.eye(86)).abs().max() < 5.5 / 1000**0.5
    # Between neighboring environments, over quantities and environments.
    low, high = torch.tensor(list(RANGES.values())).T
    counts = torch.tensor([scale.shape[1] for scale in env.randomizer.scales.values()])
    unit = (first - low.repeat_interleave(counts)) / (high - low).repeat_interleave(counts)
    neighbors = torch.stack((unit[:-1].flatten(), unit[1:].flatten()))
    assert torch.corrcoef(neighbors)[0, 1].abs() < 5 / neighbors.shape[1] ** 0.5


def test_only_environments_that_start_an_episode_are_drawn_anew():
    env = make(6, **RANGES)
    env.reset()
    for row in range(6):
        env.sim.qpos[row, EGG_QPOS] = torch.tensor((*NEVER, 1.0, 0.0, 0.0, 0.0))
    env.sim.qpos[[1, 4], 50] = 0.1  # fallen
    fields = ("pair_friction", "body_mass", "geom_size", "actuator_gainprm")
    scales = env.randomizer.state_dict()
    before = {name: env.sim.expand(name).clone() for name in fields}
    step = env.step(torch.zeros(6, 40))
    assert step.terminated.tolist() == [False, True, False, False, True, False]
    changed = {name: env.randomizer.scales[name] != scales[name] for name in RANGES}
    changed |= {name: env.sim.expand(name) != before[name] for name in fields}
    for name, elements in changed.items():
        assert elements.flatten(1).any(1).tolist() == step.terminated.tolist(), name


# Physics ----------------------------------------------------------------------------------------


def compiled(env, row):
    """A model built with the multipliers of one environment, without expanded fields."""
    scales = {name: scale[row].double().numpy() for name, scale in env.randomizer.scales.items()}
    size = float(scales["object_size"][0])
    mass = float(scales["object_mass"][0]) * size**3
    axes = tuple(size * axis for axis in EGG.semi_axes)
    spec = build_spec(PLACEMENTS, Solid(axes, mass * EGG.mass, EGG.pos))
    for pair in spec.pairs:
        if "object" in (pair.geomname1, pair.geomname2):
            pair.friction = pair.friction * scales["friction"][0]
    for actuator, gain in zip(spec.actuators, scales["actuator_gain"], strict=False):
        actuator.gainprm[0] *= gain
        actuator.biasprm[1] *= gain
    return spec.compile()


def arrays(model):
    for name in dir(model):
        value = None if name.startswith("_") else getattr(model, name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            yield name, value


def test_a_model_compiled_with_the_same_numbers_agrees_in_every_field_that_matters():
    env = make(3, **RANGES)
    env.reset()
    nominal = dict(arrays(env.sim.model))
    unused = {"actuator_acc0", "dof_length"}  # muscles, sleeping bodies
    for row in range(3):
        differing = set()
        for name, expected in arrays(compiled(env, row)):
            changed = ~np.isclose(expected, nominal[name], rtol=1e-9, atol=1e-12)
            if name == "body_subtreemass":
                changed[0] = False  # the world's
            if not changed.any() or name in unused:
                continue
            differing.add(name)
            value = env.sim.expand(name)[row].numpy()
            np.testing.assert_allclose(value[changed], expected[changed], rtol=2e-6, err_msg=name)
            np.testing.assert_array_equal(value[~changed], nominal[name][~changed], err_msg=name)
        assert differing == {
            *("pair_friction", "body_mass", "body_inertia", "body_subtreemass"),
            *(
                "body_invweight0",
                "dof_invweight0",
                "dof_M0",
                "geom_size",
                "geom_rbound",
                "geom_aabb",
            ),
            *("actuator_gainprm", "actuator_biasprm"),
        }


def test_motion_is_that_of_the_compiled_model():
    env = make(3, **RANGES)
    env.reset()
    for action in actions(env, 20):  # the egg lies in a moving hand
        env.step(action)
    start, control = env.sim.qpos.double().numpy(), actions(env, 1, seed=1)[0]
    speed = env.sim.qvel.double().numpy()
    env.step(control)
    for row in range(3):
        moved = []
        for model in (compiled(env, row), env.sim.model):
            data = mujoco.MjData(model)
            data.qpos, data.qvel, data.ctrl = start[row], speed[row], env.sim.ctrl[row]
            mujoco.mj_step(model, data, 2)
            moved.append(data.qpos.copy())
        actual = env.sim.qpos[row].numpy()
        np.testing.assert_allclose(actual, moved[0], atol=2e-6)
        assert np.abs(actual - moved[1]).max() > 2e-4  # unlike the nominal model


def test_a_force_accelerates_a_heavier_egg_less_and_all_fall_alike():
    env = make(16, object_mass=[0.5, 2.0])
    env.reset()
    env.sim.qpos[:, EGG_QPOS] = torch.tensor((*NEVER, 1.0, 0.0, 0.0, 0.0))
    env.sim.qpos[:, 50] += 5.0
    env.sim.qfrc_applied[:, 48] = 0.3
    env.sim.qfrc_applied[:, 53] = 1e-4
    acceleration = env.sim.field("qacc")
    env.sim.forward()
    mass = env.randomizer.scales["object_mass"][:, 0] * EGG.mass
    torch.testing.assert_close(acceleration[:, 48], 0.3 / mass)
    torch.testing.assert_close(acceleration[:, 50], torch.full((16,), -9.81))
    # About z, an ellipsoid's inertia is m (a^2 + b^2) / 5.
    torch.testing.assert_close(acceleration[:, 53], 1e-4 / (mass * 2 * 0.03**2 / 5))


@pytest.mark.parametrize("quantity", ["object_mass", "object_size"])
def test_a_table_carries_the_weight(quantity):
    xml = box_on_table(filtered=False)
    sim, drawn = randomizer(xml, 16, **{quantity: [0.8, 1.25]})
    scale = drawn.scales[quantity][:, 0]
    size, power = (scale, 3) if quantity == "object_size" else (torch.ones(16), 1)
    force = sim.field("qfrc_constraint")
    sim.step(1000)
    torch.testing.assert_close(force[:, 2], 0.2 * scale**power * 9.81, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(sim.qpos[:, 2], 0.05 * size, rtol=0.0, atol=2e-4)


def box_on_table(filtered, priority=1):
    """A box of 0.2 kg with friction 0.5 on a table, which touch as a pair or by type.

    Gravity is a constant force, as in the tasks.
    """
    types = ("1", "1") if filtered else ("0", "0")
    pair = '<pair geom1="object" geom2="table" friction="0.5 0.5 0.005 0.001 0.001"/>'
    return f"""
<mujoco>
  <option timestep="0.002" gravity="0 0 0" cone="elliptic" impratio="10"/>
  <worldbody>
    <geom name="table" type="plane" size="2 2 0.1" friction="1" contype="{types[0]}"
      conaffinity="{types[0]}"/>
    <body name="object" pos="0 0 0.05">
      <freejoint name="free"/>
      <geom name="object" type="box" size="0.05 0.05 0.05" mass="0.2" friction="0.5"
        priority="{priority}" contype="{types[1]}" conaffinity="{types[1]}"/>
    </body>
  </worldbody>
  <contact>{"" if filtered else pair}</contact>
  <actuator>
    <general joint="free" gear="0 0 1 0 0 0" gainprm="0" biastype="affine" biasprm="-1.962"/>
  </actuator>
</mujoco>
"""


@pytest.mark.parametrize("filtered", [False, True], ids=["by pair", "by type"])
def test_a_box_slides_beyond_its_own_friction(filtered):
    sim, drawn = randomizer(box_on_table(filtered), 64, friction=[0.5, 1.5])
    push = 0.5 * 0.2 * 9.81  # slides if the multiplier is below 1
    sim.step(100)
    rest = sim.qpos[:, 0].clone()
    sim.qfrc_applied[:, 0] = push
    sim.step(500)
    distance = sim.qpos[:, 0] - rest
    scale = drawn.scales["friction"][:, 0]
    slipping, sticking = scale < 0.97, scale > 1.03
    assert slipping.sum() > 15 and sticking.sum() > 15
    expected = 0.5 * 9.81 * 0.5 * (1.0 - scale)  # F - mu m g = m a, over one second
    torch.testing.assert_close(distance[slipping], expected[slipping], rtol=0.05, atol=0.01)
    assert distance[sticking].abs().max() < 0.01


def test_gain_scales_the_spring_of_each_drive_but_neither_damping_nor_limit():
    env = make(4, actuator_gain=[0.5, 2.0])
    env.reset()
    rng = torch.Generator().manual_seed(0)
    env.sim.qvel[:, :48] = torch.randn(4, 48, generator=rng)
    low, high = drive_limits(env)
    env.sim.ctrl[:, :40] = low + (high - low) * torch.rand(4, 40, generator=rng)
    forces = env.sim.field("actuator_force")
    env.sim.forward()
    model = env.sim.model
    joint = model.actuator_trnid[:40, 0]
    kp, kd = model.actuator_gainprm[:40, 0], -model.actuator_biasprm[:40, 2]
    error = env.sim.ctrl[:, :40].double().numpy() - env.sim.qpos[:, joint].double().numpy()
    force = kp * env.randomizer.scales["actuator_gain"].double().numpy() * error
    force -= kd * env.sim.qvel[:, joint].double().numpy()
    low, high = model.actuator_forcerange[:40].T
    assert ((force > low) & (force < high)).mean() > 0.3
    np.testing.assert_allclose(forces[:, :40], np.clip(force, low, high), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forces[:, 40], torch.full((4,), -9.81 * EGG.mass))


def test_objects_are_drawn_one_by_one_and_an_articulated_one_as_a_whole():
    xml = """
<mujoco>
  <option gravity="0 0 0"/>
  <worldbody>
    <body name="door" pos="1 0 0">
      <joint name="hinge" axis="0 0 1"/>
      <geom type="box" size="0.3 0.02 0.4" pos="0.3 0 0" mass="2"/>
      <body name="handle" pos="0.5 0.05 0">
        <joint name="turn" axis="0 1 0"/>
        <geom type="capsule" size="0.02 0.1" mass="0.3"/>
      </body>
    </body>
    <body name="ball" pos="-1 0 0">
      <freejoint/>
      <geom type="sphere" size="0.05" mass="0.1"/>
    </body>
  </worldbody>
</mujoco>
"""
    sim, drawn = randomizer(xml, 8, ("door", "ball"), object_mass=[0.5, 2.0])
    scale = drawn.scales["object_mass"]
    assert scale.shape == (8, 2)
    for row in range(8):
        model = mujoco.MjModel.from_xml_string(xml)
        for body, column in ((1, 0), (2, 0), (3, 1)):
            model.body_mass[body] *= float(scale[row, column])
            model.body_inertia[body] *= float(scale[row, column])
        mujoco.mj_setConst(model, mujoco.MjData(model))
        for name in ("body_mass", "body_inertia", "body_invweight0", "body_subtreemass"):
            value = sim.expand(name)[row, 1:].numpy()
            np.testing.assert_allclose(value, getattr(model, name)[1:], rtol=1e-6, err_msg=name)
        for name in ("dof_invweight0", "dof_M0"):
            value = sim.expand(name)[row].numpy()
            np.testing.assert_allclose(value, getattr(model, name), rtol=1e-6, err_msg=name)
    with pytest.raises(UserError, match=r"object_size does not work here: 'door' is not one free"):
        randomizer(xml, 1, ("door",), object_size=[0.9, 1.1])
    with pytest.raises(UserError, match=r"object_mass does not work here: 'handle' is carried"):
        randomizer(xml, 1, ("handle",), object_mass=[0.9, 1.1])
    heavy = xml.replace('name="hinge"', 'name="hinge" armature="1"')
    with pytest.raises(UserError, match=r"object_mass does not work here: 'door' has armature"):
        randomizer(heavy, 1, ("door",), object_mass=[0.9, 1.1])
    with pytest.raises(UserError, match=r"actuator_gain does not work here: there is no drive"):
        randomizer(xml, 1, ("door",), actuator_gain=[0.9, 1.1])


def test_what_a_scene_cannot_randomize_is_refused():
    equal = box_on_table(filtered=True, priority=0)
    with pytest.raises(UserError, match=r"friction does not work here: what 'object' touches"):
        randomizer(equal, 1, friction=[0.5, 1.5])
    with pytest.raises(UserError, match=r"object_size .* 'object' does not collide by explicit"):
        randomizer(equal, 1, object_size=[0.5, 1.5])
    alone = box_on_table(filtered=False).replace("<pair", "<!--").replace('0.001"/>', '0.001"-->')
    with pytest.raises(UserError, match=r"friction does not work here: the objects touch nothing"):
        randomizer(alone, 1, friction=[0.5, 1.5])


# Noise ------------------------------------------------------------------------------------------


def targets(env):
    """The commands of the drives, mapped back to [-1, 1]."""
    low, high = drive_limits(env)
    return (2.0 * env.sim.ctrl[:, :40] - low - high) / (high - low)


def test_action_noise_reaches_the_drives_within_their_range_but_is_not_observed():
    env = make(64, action_noise=0.1)
    env.reset()
    action = torch.full((64, 40), 0.25)
    action[:, 0] = 1.0
    given = []
    for _ in range(20):
        env.step(action)
        given.append(targets(env))
        assert torch.equal(env.last_action, action)
    noise = torch.stack(given) - action
    assert noise[..., 0].max() < 1e-5  # clipped at 1
    assert 0.45 < (noise[..., 0] < -1e-4).float().mean() < 0.55
    noise = noise[..., 1:].double()
    count = noise.numel()
    assert abs(noise.mean()) < 5 * 0.1 / count**0.5
    assert noise.std().item() == pytest.approx(0.1, rel=5 / (2 * count) ** 0.5)
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):  # steps, environments
        both = torch.stack((a.flatten(), b.flatten()))
        assert torch.corrcoef(both)[0, 1].abs() < 5 / both.shape[1] ** 0.5


def test_observation_noise_is_on_every_number_and_within_the_limits(monkeypatch):
    env = make(64, observation_noise=0.03)
    env.reset()
    env.sim.qvel[:, 0] = 24.9  # observed as 4.98, times 0.2
    states = torch.stack([env.observe() for _ in range(10)]).double()
    monkeypatch.setattr(env.randomizer, "noisy_state", lambda state: state)
    clean = env.observe().double()
    assert states.max() == 5.0
    inside = clean.abs().amax(dim=0) < 4.8
    assert inside.sum() > 350
    noise = (states - clean)[..., inside]
    count = noise[:, :, 0].numel()
    assert noise.mean(dim=(0, 1)).abs().max() < 5.5 * 0.03 / count**0.5
    torch.testing.assert_close(
        noise.std(dim=(0, 1)), torch.full((noise.shape[2],), 0.03).double(), rtol=0.16, atol=0.0
    )
    both = torch.stack((noise[1:].flatten(), noise[:-1].flatten()))
    assert torch.corrcoef(both)[0, 1].abs() < 5 / both.shape[1] ** 0.5


def test_states_of_running_episodes_have_one_noise():
    env = make(2, observation_noise=0.03)
    env.reset()
    env.sim.qpos[1, 50] = 0.1  # fallen: this one starts anew
    env.sim.qpos[0, EGG_QPOS] = torch.tensor((*NEVER, 1.0, 0.0, 0.0, 0.0))
    step = env.step(torch.zeros(2, 40))
    assert step.terminated.tolist() == [False, True]
    assert torch.equal(step.state[0], step.final_state[0])


# Repetition -------------------------------------------------------------------------------------


def played(env, steps):
    states = [env.reset()]
    states += [env.step(action).state for action in actions(env, steps)]
    return torch.stack(states)


def test_equal_seeds_repeat_and_others_do_not():
    first, again, other = (
        played(make(seed=seed, episode_length=10, **RANGES, **NOISES), 25) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_restored_environment_goes_on_exactly():
    env = make(episode_length=12, **RANGES, **NOISES)
    played(env, 17)
    state = env.state_dict()
    other = make(seed=9, episode_length=12, **RANGES, **NOISES)
    played(other, 3)
    other.load_state_dict(state)
    for action in actions(env, 20, seed=2):
        assert torch.equal(env.step(action).state, other.step(action).state)


def test_states_saved_without_a_quantity_are_continued_with_it():
    plain, randomized = make(), make(friction=[2.0, 3.0])
    plain.reset()
    state = plain.state_dict()
    del state["randomiser"]  # as saved before there was any
    randomized.load_state_dict(state)
    assert torch.equal(randomized.randomizer.scales["friction"], torch.ones(4, 1))
    randomized.reset()
    assert (randomized.randomizer.scales["friction"] >= 2.0).all()
