"""Room for a model's contacts and constraints in MuJoCo Warp, found by trying."""

from __future__ import annotations

from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np

_WORLDS = 8
_STEPS = 200
_HOLD = 20
"""Simulations, physics steps in each, and steps for which their random controls are held."""
_HEADROOM = 2
"""Safety factor: a policy that holds objects has more contacts than random motion."""
_LEAST_CONTACTS = 48
_LEAST_CONSTRAINTS = 3
"""Least numbers of contacts, and of constraints for each degree of freedom, for motion that touches
nothing: hands may need longer than the probe to reach an object."""


def probe(model: mujoco.MjModel, warp_model: Any) -> tuple[int, int]:
    """Returns room for contacts, the mean over simulations, and for constraints in each.

    It is twice the need of random motion, or a least number if this motion touches nothing.

    The C engine moves from the key pose. Warp's collision detection is then run on some of the
    states, since the candidates of its broad phase use the room of contacts.

    Args:
        model: compiled model.
        warp_model: the same in Warp, on the current device.

    """
    states, constraints = _random_motion(model)
    pairs = len(warp_model.nxn_geom_pair_filtered)
    data = mjw.make_data(model, _WORLDS, nconmax=max(1, pairs), njmax=1)
    most = 0.0
    for qpos in states:
        data.qpos.assign(qpos)
        mjw.fwd_kinematics(warp_model, data)
        mjw.collision(warp_model, data)
        room = max(data.ncollision.numpy()[0], data.nacon.numpy()[0])
        most = max(most, room / _WORLDS)
    contacts = max(_LEAST_CONTACTS, _HEADROOM * most)
    constraints = max(_LEAST_CONSTRAINTS * model.nv, _HEADROOM * constraints)
    return _rounded(contacts, 16), _rounded(constraints, 32)


def _random_motion(model: mujoco.MjModel) -> tuple[np.ndarray, int]:
    """Returns positions (times, worlds, nq) and the most constraints at any time."""
    rng = np.random.default_rng(0)
    limited = model.actuator_ctrllimited[:, None].astype(bool)
    low, high = np.where(limited, model.actuator_ctrlrange, (-1.0, 1.0)).T
    states = np.empty((_STEPS // _HOLD, _WORLDS, model.nq), np.float32)
    most, data = 0, mujoco.MjData(model)
    for world in range(_WORLDS):
        mujoco.mj_resetData(model, data)
        if model.nkey:
            mujoco.mj_resetDataKeyframe(model, data, 0)
        for step in range(_STEPS):
            if step % _HOLD == 0:
                states[step // _HOLD, world] = data.qpos
                data.ctrl[:] = rng.uniform(low, high)
            mujoco.mj_step(model, data)
            most = max(most, data.nefc)
    return states, most


def _rounded(number: float, unit: int) -> int:
    """Returns the next multiple of ``unit``."""
    return unit * -int(-number // unit)
