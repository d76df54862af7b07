"""MuJoCo's own answers for one environment, row by row, for the tests of hand tasks."""

import mujoco
import numpy as np
import torch

from madpo_isaac import tasks

FINGERS = ("ff", "mf", "rf", "lf", "th")


def make(name, num_envs=2, **settings):
    return tasks.make(f"ShadowHand{name}", num_envs=num_envs, num_threads=1, **settings)


def noise(env, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, env.num_envs, env.action_dim, generator=generator)


def xyzw(q):
    return np.array([q[1], q[2], q[3], q[0]])


def put_in(env, seed):
    """Writes a random state of hands and objects and returns it row by row in float64."""
    rng = np.random.default_rng(seed)
    model, n = env.sim.model, env.num_envs
    qpos = np.tile(model.qpos0, (n, 1))
    for j in range(model.njnt):
        start = model.jnt_qposadr[j]
        if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE:
            qpos[:, start : start + 3] += rng.uniform(-0.05, 0.05, (n, 3))
            quat = rng.normal(size=(n, 4))
            qpos[:, start + 3 : start + 7] = quat / np.linalg.norm(quat, axis=1, keepdims=True)
        else:
            low, high = model.jnt_range[j]
            qpos[:, start] = low + (high - low) * rng.uniform(0.1, 0.9, n)
    values = {
        "qpos": qpos,
        "qvel": rng.normal(size=(n, model.nv)),
        "ctrl": rng.uniform(-0.5, 1.0, (n, model.nu)),
    }
    for name, value in values.items():
        getattr(env.sim, name).copy_(torch.tensor(value))
    env.sim.forward()
    return {name: getattr(env.sim, name).double().numpy() for name in values}


def current(env, row):
    """MjData of one environment as it stands."""
    state = (getattr(env.sim, name)[row].double().numpy() for name in ("qpos", "qvel", "ctrl"))
    return reference(env.sim.model, *state)


def reference(model, qpos, qvel, ctrl):
    data = mujoco.MjData(model)
    data.qpos, data.qvel, data.ctrl = qpos, qvel, ctrl
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    return data


def body_of(model, hand, name):
    return model.body(f"hand{hand}_robot0:{name}").id


def fingertip(model, data, body):
    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
    return np.concatenate((data.xpos[body], xyzw(data.xquat[body]), velocity[3:], velocity[:3]))


def wrench(model, data, body):
    """Force and torque that the finger passes on to its last link, at and in the link's frame."""
    torque, force = data.cfrc_int[body, :3], data.cfrc_int[body, 3:]
    arm = data.xpos[body] - data.subtree_com[model.body_rootid[body]]
    axes = data.xmat[body].reshape(3, 3)
    return np.concatenate((axes.T @ force, axes.T @ (torque - np.cross(arm, force))))


def expected_blocks(model, data, hand):
    """Columns of a hand's block and their values, up to the fingers' force-torques."""
    first = model.joint(f"hand{hand}_robot0:WRJ1")
    q = data.qpos[first.qposadr[0] :][:24]
    dofs = slice(first.dofadr[0], first.dofadr[0] + 24)
    low, high = model.jnt_range[first.id : first.id + 24].T
    bodies = [body_of(model, hand, f"{finger}distal") for finger in FINGERS]
    return {
        (0, 24): (2 * q - high - low) / (high - low),
        (24, 48): 0.2 * data.qvel[dofs],
        (48, 72): 10 * data.qfrc_actuator[dofs],
        (72, 137): np.concatenate([fingertip(model, data, body) for body in bodies]),
        (137, 167): 10 * np.concatenate([wrench(model, data, body) for body in bodies]),
    }


def finger_sum(model, data, hand, point):
    """Sum of the distances from a point to five places 2 cm up the distal links."""
    total = 0.0
    for finger in FINGERS:
        body = body_of(model, hand, f"{finger}distal")
        tip = data.xpos[body] + data.xmat[body].reshape(3, 3) @ (0, 0, 0.02)
        total += np.linalg.norm(tip - point)
    return total


def place_fingers(env, row, handles, sums):
    """Overwrites the readings: hand i's fingertips are each sums[i] / 5 from handles[i]."""
    for hand, (handle, total) in enumerate(zip(handles, sums, strict=True)):
        tips = env.hand_sensors[row, hand, :65].unflatten(0, (5, 13))
        for i in range(5):
            offset = np.roll((total / 5, 0, 0), i)
            tips[i, :3] = torch.tensor(np.array(handle) + offset - (0, 0, 0.02))
            tips[i, 3:7] = torch.tensor((1.0, 0.0, 0.0, 0.0))
