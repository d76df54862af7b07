import importlib.util
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from madpo_isaac.errors import UserError
from madpo_isaac.sim import make_sim
from madpo_isaac.tasks.hands import hand
from madpo_isaac.tasks.hands.objects import Solids
from madpo_isaac.tasks.hands.over import EGG, PLACEMENTS
from madpo_isaac.tasks.hands.scene import build_spec

# Joint: lower and upper limit (rad), kp (N m/rad), force limit (N m), damping, armature.
# The four J0 joints are driven by a tendon instead of an actuator.
JOINTS = {
    "WRJ1": (-0.489, 0.140, 5, 4.785, 0.5, 0.005),
    "WRJ0": (-0.698, 0.489, 5, 2.175, 0.5, 0.005),
    "FFJ3": (-0.349, 0.349, 1, 0.9, 0.1, 0.001),
    "FFJ2": (0, 1.571, 1, 0.9, 0.1, 0.001),
    "FFJ1": (0, 1.571, 1, 0.7245, 0.1, 0.001),
    "FFJ0": (0, 1.571, None, None, 0.1, 0.001),
    "MFJ3": (-0.349, 0.349, 1, 0.9, 0.1, 0.001),
    "MFJ2": (0, 1.571, 1, 0.9, 0.1, 0.001),
    "MFJ1": (0, 1.571, 1, 0.7245, 0.1, 0.001),
    "MFJ0": (0, 1.571, None, None, 0.1, 0.001),
    "RFJ3": (-0.349, 0.349, 1, 0.9, 0.1, 0.001),
    "RFJ2": (0, 1.571, 1, 0.9, 0.1, 0.001),
    "RFJ1": (0, 1.571, 1, 0.7245, 0.1, 0.001),
    "RFJ0": (0, 1.571, None, None, 0.1, 0.001),
    "LFJ4": (0, 0.785, 1, 0.9, 0.1, 0.001),
    "LFJ3": (-0.349, 0.349, 1, 0.9, 0.1, 0.001),
    "LFJ2": (0, 1.571, 1, 0.9, 0.1, 0.001),
    "LFJ1": (0, 1.571, 1, 0.7245, 0.1, 0.001),
    "LFJ0": (0, 1.571, None, None, 0.1, 0.001),
    "THJ4": (-1.047, 1.047, 1, 2.3722, 0.1, 0.001),
    "THJ3": (0, 1.222, 1, 1.45, 0.1, 0.001),
    "THJ2": (-0.209, 0.209, 1, 0.99, 0.1, 0.001),
    "THJ1": (-0.524, 0.524, 1, 0.99, 0.1, 0.001),
    "THJ0": (-1.571, 0, 1, 0.81, 0.1, 0.001),
}
DRIVEN = [0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21, 22, 23]
LINKS = [
    f"{finger}{link}"
    for finger in ("ff", "mf", "rf", "lf", "th")
    for link in ("proximal", "middle", "distal")
]
SOLID = ["forearm", "wrist", "palm0", "palm1", "lfmetacarpal", *LINKS]
EGG_QPOS, EGG_DOF = slice(48, 55), slice(48, 54)
HANDS = (0, 1)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_spec(PLACEMENTS, EGG).compile()


@pytest.fixture(scope="module")
def visual_model() -> mujoco.MjModel:
    return build_spec(PLACEMENTS, Solids((EGG,), goals=True), visual=True).compile()


@pytest.fixture(scope="module")
def source() -> mujoco.MjModel:
    """The hand as gymnasium-robotics ships it."""
    return mujoco.MjModel.from_xml_path(str(_assets() / "reach.xml"))


def _assets() -> Path:
    package = importlib.util.find_spec("gymnasium_robotics")
    return Path(package.submodule_search_locations[0]) / "envs/assets/hand"


def at_rest(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def pairs_of(model: mujoco.MjModel) -> list[frozenset[str]]:
    return [
        frozenset((model.geom(model.pair_geom1[i]).name, model.geom(model.pair_geom2[i]).name))
        for i in range(model.npair)
    ]


def test_sizes(model):
    assert (model.nq, model.nv) == (55, 54)
    assert model.nsensordata == 2 * 5 * (13 + 6)
    assert model.ntendon == 8


def test_physics_options(model):
    assert model.opt.timestep == 1 / 120
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    assert model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    assert not model.dof_frictionloss.any()


def test_hands_face_each_other_palms_up(model):
    data = at_rest(model)
    for h, y in zip(HANDS, (-0.29, -0.71), strict=True):
        palm = data.body(f"hand{h}_robot0:palm")
        np.testing.assert_allclose(palm.xpos, (0, y, 0.49), atol=1e-5)
        # The palm's -y axis is its inner side, its z axis points along the fingers.
        axes = palm.xmat.reshape(3, 3)
        np.testing.assert_allclose(-axes[:, 1], (0, 0, 1), atol=1e-4)
        np.testing.assert_allclose(axes[:, 2], (0, (-1, 1)[h], 0), atol=1e-4)


def test_middle_fingertips_are_three_centimeters_apart(model):
    data = at_rest(model)
    for h, y in zip(HANDS, (-0.485, -0.515), strict=True):
        distal = data.body(f"hand{h}_robot0:mfdistal")
        tip = distal.xpos + distal.xmat.reshape(3, 3) @ (0, 0, 0.026)
        assert tip[1] == pytest.approx(y, abs=1e-5)


def test_joints_come_in_order_with_their_limits(model):
    for h in HANDS:
        for i, (name, row) in enumerate(JOINTS.items()):
            joint = model.joint(24 * h + i)
            assert joint.name == f"hand{h}_robot0:{name}"
            assert joint.type[0] == mujoco.mjtJoint.mjJNT_HINGE
            assert joint.limited[0]
            assert (joint.qposadr[0], joint.dofadr[0]) == (24 * h + i, 24 * h + i)
            np.testing.assert_allclose(joint.range, row[:2])
            assert model.dof_armature[24 * h + i] == row[5]


def test_damping_of_driven_joints_sits_in_their_actuators(model):
    for h in HANDS:
        for i, (_, _, kp, _, damping, _) in enumerate(JOINTS.values()):
            left = damping if kp is None else 0.0
            assert model.dof_damping[24 * h + i] == left
    assert not model.dof_damping[EGG_DOF].any()


def test_actuators_come_in_order_with_their_gains(model):
    names = list(JOINTS)
    for h in HANDS:
        for i, dof in enumerate(DRIVEN):
            low, high, kp, limit, damping, _ = JOINTS[names[dof]]
            actuator = model.actuator(20 * h + i)
            assert actuator.trntype[0] == mujoco.mjtTrn.mjTRN_JOINT
            assert actuator.trnid[0] == 24 * h + dof
            assert actuator.ctrllimited[0] and actuator.forcelimited[0]
            np.testing.assert_allclose(actuator.ctrlrange, (low, high))
            np.testing.assert_allclose(actuator.forcerange, (-limit, limit))
            np.testing.assert_allclose(actuator.gear, (1, 0, 0, 0, 0, 0))
            np.testing.assert_allclose(actuator.gainprm[:3], (kp, 0, 0))
            np.testing.assert_allclose(actuator.biasprm[:3], (0, -kp, -damping))


def test_force_limit_clamps_stiffness_and_damping_together(model):
    rng = np.random.default_rng(0)
    low, high, kp, limit, damping, _ = np.array(
        [list(JOINTS.values())[dof] for dof in DRIVEN] * 2, dtype=float
    ).T
    dofs = [24 * h + dof for h in HANDS for dof in DRIVEN]
    data = mujoco.MjData(model)
    data.qpos[dofs] = rng.uniform(low, high)
    data.qvel[dofs] = rng.uniform(-15, 15, 40)
    data.ctrl[:40] = rng.uniform(low, high)
    mujoco.mj_forward(model, data)
    drive = kp * (data.ctrl[:40] - data.qpos[dofs]) - damping * data.qvel[dofs]
    assert 5 < (np.abs(drive) > limit).sum() < 35
    expected = np.zeros(54)
    expected[dofs] = np.clip(drive, -limit, limit)
    np.testing.assert_allclose(data.qfrc_actuator[:48], expected[:48], atol=1e-12)


def test_egg_is_an_ellipsoid_of_density_500(model):
    body = model.body("object")
    mass = 500 * 4 / 3 * np.pi * 0.03 * 0.03 * 0.04
    assert mass == pytest.approx(0.0754, abs=5e-5)
    assert body.mass[0] == pytest.approx(mass)
    # A solid ellipsoid's moment of inertia about semi-axis a is m (b^2 + c^2) / 5.
    moments = mass / 5 * np.array([0.03**2 + 0.04**2, 0.03**2 + 0.04**2, 2 * 0.03**2])
    np.testing.assert_allclose(body.inertia, moments, rtol=1e-6)
    np.testing.assert_allclose(model.qpos0[EGG_QPOS], (0, -0.39, 0.54, 1, 0, 0, 0))
    assert body.geomnum[0] == 1
    geom = model.geom("object")
    assert geom.type[0] == mujoco.mjtGeom.mjGEOM_ELLIPSOID
    np.testing.assert_allclose(geom.size, (0.03, 0.03, 0.04))


def test_collisions_are_an_explicit_list(model):
    assert not model.geom_contype.any()
    assert not model.geom_conaffinity.any()
    assert model.npair == 76
    assert len(set(pairs_of(model))) == 76


def test_every_solid_geom_of_the_hands_meets_the_egg(model):
    egg = {next(iter(p - {"object"})) for p in pairs_of(model) if "object" in p}
    assert egg == {f"hand{h}_robot0:C_{name}" for h in HANDS for name in SOLID}


def test_hand_pairs_are_those_of_the_source_without_its_duplicate(model):
    tree = ElementTree.parse(_assets() / "shared.xml")
    listed = [(pair.get("geom1"), pair.get("geom2")) for pair in tree.iter("pair")]
    assert (len(listed), len(set(listed))) == (19, 18)
    expected = {frozenset((f"hand{h}_{a}", f"hand{h}_{b}")) for h in HANDS for a, b in listed}
    assert {pair for pair in pairs_of(model) if "object" not in pair} == expected


def test_pairs_carry_their_own_friction_and_margin(model):
    for i, pair in enumerate(pairs_of(model)):
        assert model.pair_dim[i] == (4 if "object" in pair else 1)
    np.testing.assert_allclose(model.pair_friction, [[1, 1, 0.005, 0.001, 0.001]] * 76)
    np.testing.assert_allclose(model.pair_margin, 0.0005)


def test_tendons_couple_only_the_distal_joints(model):
    names = {f"hand{h}_robot0:T_{f}J1c" for h in HANDS for f in ("FF", "MF", "RF", "LF")}
    assert {model.tendon(i).name for i in range(model.ntendon)} == names
    for i in range(model.ntendon):
        hand_and_finger = model.tendon(i).name.replace("T_", "").removesuffix("J1c")
        start, count = model.tendon_adr[i], model.tendon_num[i]
        coefs = {
            model.joint(model.wrap_objid[w]).name: model.wrap_prm[w]
            for w in range(start, start + count)
        }
        assert coefs == {f"{hand_and_finger}J0": 0.00705, f"{hand_and_finger}J1": -0.00805}
        assert model.tendon_limited[i]
        np.testing.assert_allclose(model.tendon_range[i], (-0.001, 0.001))


def test_distal_joint_follows_the_middle_one(model):
    data = mujoco.MjData(model)
    data.qpos[EGG_QPOS][:3] = (1, 0, 5)
    data.ctrl[[4, 24]] = 1.2
    mujoco.mj_step(model, data, 180)
    for h in HANDS:
        j1, j0 = data.qpos[24 * h + 4], data.qpos[24 * h + 5]
        assert j1 > 1.0
        # |0.00705 j0 - 0.00805 j1| <= 0.001, with a little give.
        assert j0 == pytest.approx(0.00805 / 0.00705 * j1, abs=0.001 / 0.00705 + 0.02)


def test_hands_keep_the_sources_bodies_and_solids(model, source):
    for h in HANDS:
        bodies = [source.body(i) for i in range(source.nbody) if "robot0" in source.body(i).name]
        assert len(bodies) == 26
        for body in bodies:
            ours = model.body(f"hand{h}_{body.name}")
            for field in ("mass", "inertia", "ipos", "iquat"):
                np.testing.assert_allclose(getattr(ours, field), getattr(body, field), atol=1e-12)
            if body.name != "robot0:hand mount":
                np.testing.assert_allclose(ours.pos, body.pos, atol=1e-12)
                np.testing.assert_allclose(ours.quat, body.quat, atol=1e-12)
        for name in JOINTS:
            ours = model.joint(f"hand{h}_robot0:{name}")
            np.testing.assert_allclose(ours.axis, source.joint(f"robot0:{name}").axis)
        for name in SOLID[1:]:
            ours, geom = model.geom(f"hand{h}_robot0:C_{name}"), source.geom(f"robot0:C_{name}")
            assert ours.type == geom.type
            np.testing.assert_allclose(ours.size, geom.size)
            np.testing.assert_allclose(ours.pos, geom.pos)
    total = sum(model.body_mass) - model.body("object").mass[0]
    assert total == pytest.approx(2 * 5.011, abs=1e-3)


def test_gravity_pulls_the_egg_and_leaves_the_hands(model):
    data = mujoco.MjData(model)
    # Off the limits, where nothing touches and no tendon is taut.
    data.qpos[:48] = np.tile(
        [0.0, 0, 0, *[0.1] * 10, 0.1, 0.1, 0, *[0.1] * 3, 0, 0.1, 0, 0, -0.1], 2
    )
    data.qpos[[2, 6, 10, 26, 30, 34]] = 0
    data.ctrl[:40] = data.qpos[[24 * h + dof for h in HANDS for dof in DRIVEN]]
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    np.testing.assert_allclose(data.qacc[:48], 0, atol=1e-9)
    np.testing.assert_allclose(data.qacc[EGG_DOF], (0, 0, -9.81, 0, 0, 0), atol=1e-9)


def test_egg_falls_the_same_after_a_reset(model):
    sim = make_sim("mujoco", model, 2, num_threads=1)
    for _ in range(2):
        sim.reset(torch.tensor([True, True]))
        sim.ctrl[:] = 0.3
        sim.qpos[:, EGG_QPOS] = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.5, -0.5, 0.5])
        steps, dt = 24, 1 / 120
        sim.step(steps)
        egg, vel = sim.qpos[:, EGG_QPOS].numpy(), sim.qvel[:, EGG_DOF].numpy()
        # Semi-implicit Euler: the velocity first, then the position with the new velocity.
        drop = 9.81 * dt**2 * steps * (steps + 1) / 2
        np.testing.assert_allclose(egg[:, :3], [[1, 0, 2 - drop]] * 2, atol=1e-6)
        np.testing.assert_allclose(vel, [[0, 0, -9.81 * steps * dt, 0, 0, 0]] * 2, atol=1e-6)


def test_palm_holds_a_falling_egg(model):
    data = mujoco.MjData(model)
    low, high = model.jnt_range[[24 * h + dof for h in HANDS for dof in DRIVEN]].T
    data.ctrl[:40] = (low + high) / 2
    mujoco.mj_step(model, data, 120)
    # 4.9 m below by now if it fell freely.
    assert data.qpos[EGG_QPOS][2] > 0.45
    touching = {model.geom(g).name for pair in data.contact.geom for g in pair}
    assert "object" in touching


@pytest.mark.parametrize("visual", [False, True])
def test_building_is_silent(visual, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_spec(PLACEMENTS, EGG, visual=visual).compile()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_visual_model_is_the_same_physics(model, visual_model):
    for size in ("nq", "nv", "nu", "npair", "ntendon", "nsensordata"):
        assert getattr(model, size) == getattr(visual_model, size)
    assert pairs_of(model) == pairs_of(visual_model)
    assert not visual_model.geom_contype.any()
    assert not visual_model.geom_conaffinity.any()
    assert visual_model.ngeom > model.ngeom
    states = []
    for version in (model, visual_model):
        data = mujoco.MjData(version)
        data.ctrl[:40] = 0.4
        mujoco.mj_step(version, data, 60)
        assert data.ncon > 0
        states.append(np.concatenate((data.qpos, data.qvel, data.sensordata)))
    np.testing.assert_allclose(states[0], states[1], atol=1e-10)


def test_visual_model_shows_the_goal_without_letting_it_move(visual_model):
    goal = visual_model.body("goal")
    assert goal.mocapid[0] == 0
    np.testing.assert_allclose(visual_model.geom("goal").size, (0.03, 0.03, 0.04))


def test_missing_hand_model_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gymnasium-robotics"):
        _ = hand.load("shadow").model_file
