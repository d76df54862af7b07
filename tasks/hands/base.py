"""Base of all bimanual tasks: the hands' scene, actions, observations, episodes and resets."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import mujoco
import torch
from torch import Tensor

from madpo_isaac.env import Command, Reading, Step, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.settings import one_of, setting
from madpo_isaac.sim import SimConfig, make_sim, physics
from madpo_isaac.system import device as devices
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.agents import make_agents
from madpo_isaac.tasks.hands.hand import BASE_ROLES, SHADOW, Hand, load
from madpo_isaac.tasks.hands.randomize import RandomizeConfig, Randomizer
from madpo_isaac.tasks.hands.scene import Drive, Placement, Scenery, build_spec
from madpo_isaac.tasks.hands.shaping import Aim, Shaping, ShapingConfig
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.rotations import quat_rotate, wxyz_to_xyzw
from madpo_isaac.tasks.settings import size

NUM_HANDS = 2
SUBSTEPS = 2
"""Physics steps per control step: 60 Hz control over 120 Hz physics, as Bi-DexHands."""
OBS_LIMIT = 5.0
"""Every observed number is clipped to [-5, 5], as Bi-DexHands' wrapper does."""

_VEL_SCALE = 0.2
_FORCE_SCALE = 10.0


@dataclass
class HandTaskConfig:
    """Settings every bimanual task has."""

    suite: ClassVar[str] = "hands"
    agents: Any = "hands"
    """Split into agents: ``hands`` (2 agents), ``fingers`` (12), ``joint`` (one agent for both
    hands), or a list of lists of parts for each hand, such as [[0,1,2],[3,4,5]]. The parts are 0
    palm, 1 first, 2 middle, 3 ring and 4 little finger, and 5 thumb."""
    agents_see: str = setting("own", one_of(("own", "all")))
    """own: an agent observes its own hand and the objects; all: it also observes the other hand."""
    hand: str = SHADOW
    """Hand model: a name in ``tasks/hands/models`` or a YAML file of the same kind."""
    episode_length: int = 75
    """Control steps after which an episode is truncated."""
    reset_dof_pos_noise: float = setting(0.2, size)
    """Factor n of a joint's random position at a reset, n (low + (high - low) u) with u ~ U(-1, 1),
    clipped to the joint's limits; with 0 every episode starts with the flat hand."""
    randomize: RandomizeConfig = field(default_factory=RandomizeConfig)
    """Differences between environments; none by default."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    """Reward beyond the original's, for learners only; none by default."""

    def __post_init__(self) -> None:
        self.randomize = RandomizeConfig.of(self.randomize)
        self.shaping = ShapingConfig.of(self.shaping)
        if isinstance(self.hand, str) and self.hand.endswith(".yaml"):
            # A run finds it again from any folder.
            self.hand = os.path.abspath(os.path.expanduser(self.hand))


class Outcome(NamedTuple):
    """Outcome of one step of N environments."""

    reward: Tensor
    """(N,)"""
    terminated: Tensor
    """(N,) bool"""
    success: Tensor
    """The task's condition holds at this step. (N,) bool"""
    terms: dict[str, Tensor]
    """Readings to log, each (N,)."""


class HandTaskEnv(VecEnv):
    """Two hands and an object. A task adds the scenery, its reset, the tail and the rewards.

    Joint state: the block of hand 0, the block of hand 1, the shared tail. A hand's block is, in
    this order (sizes of the Shadow hand in brackets): joint positions mapped to [-1, 1] (24),
    joint velocities x 0.2 (24), actuator forces x 10 (24), fingertips with position, quaternion
    xyzw, linear and angular velocity in the world frame (65), fingertip force-torques x 10 (30),
    of a floating hand its base (6), the hand's last actions, clipped (20; 26 if it floats).
    """

    tail_dim: int
    objects: tuple[str, ...] = ("object",)
    """Bodies whose friction, mass and size :class:`RandomizeConfig` can change."""
    view: View
    """Camera of the task's pictures."""
    placements: tuple[Placement, Placement]
    """Initial places of the hands."""
    floating: ClassVar[bool] = False
    """True if the hands move freely; the first six actions of each hand then drive its base."""
    shapes: ClassVar[tuple[str, ...]] = ("action_rate",)
    """Settings of :class:`ShapingConfig` that the task supports."""
    hand: Hand
    """Model and data of the hands."""

    def __init__(
        self,
        config: HandTaskConfig,
        num_envs: int,
        *,
        device: str | torch.device = "cpu",
        sim: str | SimConfig = "auto",
        seed: int = 0,
        num_threads: int = 0,
    ) -> None:
        self.config = config
        self.num_envs = num_envs
        self.max_episode_length = config.episode_length
        self.hand = load(config.hand)
        base = len(BASE_ROLES) if self.floating else 0
        self._joints, self._drives = len(self.hand.joints), len(self.hand.driven)
        self._tips, self._wrenches = 13 * len(self.hand.fingers), 6 * len(self.hand.fingers)
        self.hand_action_dim = base + self._drives
        per_finger = [self._tips, self._wrenches]
        self._block_sizes = [*3 * [self._joints], *per_finger, base, self.hand_action_dim]
        self.hand_dim = sum(self._block_sizes)
        model = self._compiled()
        self.sim = make_sim(sim, model, num_envs, device, num_threads)
        self.device = self.sim.device
        self.step_dt = SUBSTEPS * model.opt.timestep
        self.state_dim = NUM_HANDS * self.hand_dim + self.tail_dim
        self.action_dim = NUM_HANDS * self.hand_action_dim
        self.agents = make_agents(
            self.hand,
            config.agents,
            self.hand_dim,
            self.state_dim,
            floating=self.floating,
            see_all=config.agents_see == "all",
            device=self.device,
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.randomizer = Randomizer(config.randomize, self.sim, self.objects, self.generator)
        self.shaping = Shaping(config.shaping, self.shapes, num_envs, self.step_dt, self.device)
        self._read_model(model)
        self.episode_step = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self.succeeded = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.last_action = torch.zeros(num_envs, self.action_dim, device=self.device)

    # What a task defines ----------------------------------------------------------------------

    @abstractmethod
    def scenery(self) -> Scenery:
        """Returns the objects of the scene besides the hands."""

    def reset_object(self, mask: Tensor) -> None:
        """Draws object and goal for the rows of ``mask`` (N,) bool, which are in the key pose."""

    @abstractmethod
    def observe_tail(self, out: Tensor) -> None:
        """Writes the observation of object and goal into ``out`` (N, tail_dim)."""

    def observe_base(self, out: Tensor) -> None:
        """Writes each hand's view of its base into ``out`` (N, 2, 6 if it floats, else 0)."""

    @abstractmethod
    def evaluate(self) -> Outcome:
        """Scores the current state."""

    def aim(self) -> Aim:
        """Returns the distance to success; for tasks whose :attr:`shapes` have progress or hold."""
        raise NotImplementedError

    # Scene ------------------------------------------------------------------------------------

    def drive(self) -> Drive | None:
        """Returns the drive that moves the hands, None if they are fixed."""
        return None

    def scene(self, *, visual: bool) -> mujoco.MjSpec:
        """Returns the scene, with visual meshes and goal if ``visual``."""
        scenery = self.scenery()
        return build_spec(
            self.placements, scenery, hand=self.hand, drive=self.drive(), visual=visual
        )

    def _compiled(self) -> mujoco.MjModel:
        try:
            return self.scene(visual=False).compile()
        except UserError:
            raise
        except (
            ValueError,
            mujoco.FatalError,
        ) as problem:  # of a user's model
            reason = " ".join(str(problem).split()).removeprefix("Error: ")
            raise UserError(f"task.hand={self.hand.name} does not compile: {reason}.") from problem

    # Pictures ---------------------------------------------------------------------------------

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Puts ``data`` of the visual scene into the state of environment ``index``."""
        data.qpos[:] = self.sim.qpos[index].cpu().numpy()

    def action_joints(self) -> list[int]:
        """Returns the joint that each column of the joint action drives, -1 for none."""
        model, joints = self.sim.model, []
        for h in range(NUM_HANDS):
            names = [model.actuator(i).name for i in range(model.nu)]
            own = [i for i, name in enumerate(names) if name.startswith(f"hand{h}_")]
            driven = model.actuator_trnid[own[: self._drives], 0].tolist()
            joints += [-1] * (self.hand_action_dim - len(driven)) + driven
        return joints

    # Episodes ---------------------------------------------------------------------------------

    def reset(self) -> Tensor:
        """Starts a new episode everywhere and returns the joint state (N, S)."""
        self._reset_rows(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self.observe()

    def step(self, action: Tensor) -> Step:
        """Applies the joint action (N, A), clipped to [-1, 1], for one control step of 1/60 s."""
        self.check_action(action)
        previous = self.last_action.clone() if self.shaping.adds else self.last_action
        torch.clamp(action.to(self.last_action.dtype), -1.0, 1.0, out=self.last_action)
        self._write_controls(self.randomizer.noisy_action(self.last_action))
        self.sim.step(SUBSTEPS)
        self.episode_step += 1
        outcome, final_state = self.evaluate(), self.observe()
        diverged = self.sim.diverged() | self.not_finite(final_state, outcome.reward)
        reward = outcome.reward.masked_fill(diverged, 0.0)
        terminated = outcome.terminated | diverged
        truncated = (self.episode_step >= self.max_episode_length) & ~terminated
        self.succeeded |= outcome.success & ~diverged
        log = {
            "success": self.succeeded.float(),
            "diverged": diverged.float(),
            "overflow": self.sim.overflowed().float(),
            **{name: term.masked_fill(diverged, 0.0) for name, term in outcome.terms.items()},
        }
        shaping = None
        if self.shaping.adds:
            change = self.last_action - previous
            shaping = self.shaping.reward(self.aim, outcome.success, change)
            log["shaping"] = shaping = shaping.masked_fill(diverged, 0.0)
        if self.shaping.level is not None:
            log["curriculum"] = self.shaping.level.clone()
        final_state.nan_to_num_()
        state = self._auto_reset(terminated | truncated, final_state)
        return Step(state, reward, terminated, truncated, final_state, log, shaping)

    def _auto_reset(self, done: Tensor, final_state: Tensor) -> Tensor:
        if devices.known_all_false(done):
            return final_state
        self.shaping.advance(done, self.succeeded)
        self._reset_rows(done)
        return torch.where(done[:, None], self.observe(), final_state)

    def _reset_rows(self, mask: Tensor) -> None:
        """Starts new episodes in the rows of ``mask`` (N,) bool."""
        self.sim.reset(mask)
        self.randomizer.resample(mask)
        # Independent noise for each hand, kept inside the limits: an over-limit start would be a
        # violent constraint in MuJoCo.
        low, high = self._joint_low, self._joint_high
        noise = self.uniform(NUM_HANDS * self._joints).unflatten(1, (NUM_HANDS, -1))
        pos = self.config.reset_dof_pos_noise * (low + (high - low) * noise)
        pos = torch.clamp(pos, low, high)
        self.write_rows(self.joint_pos, mask, pos)
        self.write_rows(self._targets, mask, pos[..., self._driven])
        self.reset_object(mask)
        self.sim.forward(mask)
        self.shaping.restart(mask, self.aim)
        self.episode_step.masked_fill_(mask, 0)
        self.succeeded.masked_fill_(mask, False)
        self.last_action.masked_fill_(mask[:, None], 0.0)

    def uniform(self, columns: int) -> Tensor:
        """Draws U(-1, 1) from the environments' generator. (N, columns)"""
        shape = (self.num_envs, columns)
        return 2.0 * torch.rand(shape, generator=self.generator, device=self.device) - 1.0

    @staticmethod
    def write_rows(target: Tensor, mask: Tensor, value: Tensor) -> None:
        """Writes the rows of ``value`` (N, ...) chosen by ``mask`` (N,) bool into ``target``."""
        torch.where(mask.view(-1, *(target.dim() - 1) * (1,)), value, target, out=target)

    # Actions and observations -----------------------------------------------------------------

    def _write_controls(self, action: Tensor) -> None:
        """Maps [-1, 1] to each actuated joint's range: absolute position targets."""
        joints = self.split_hands(action)[..., -self._drives :]
        self._targets.copy_(torch.addcmul(self._ctrl_mid, self._ctrl_half, joints))

    def observe(self) -> Tensor:
        """Returns the joint state (N, S), clipped to [-5, 5]."""
        hands = NUM_HANDS
        state = torch.empty(self.num_envs, self.state_dim, device=self.device)
        block = state[:, : hands * self.hand_dim].unflatten(1, (hands, self.hand_dim))
        pos, vel, force, tips, wrench, base, action = block.split(self._block_sizes, dim=2)
        torch.addcmul(self._pos_shift, self.joint_pos, self._pos_scale, out=pos)
        torch.mul(self._joint_vel, _VEL_SCALE, out=vel)
        torch.mul(self._joint_force, _FORCE_SCALE, out=force)
        sensors = self.hand_sensors
        tips.copy_(sensors[..., : self._tips])
        quats = sensors[..., : self._tips].unflatten(-1, (-1, 13))[..., 3:7]
        tips.unflatten(-1, (-1, 13))[..., 3:7] = wxyz_to_xyzw(quats)
        torch.mul(sensors[..., self._tips : self._tips + self._wrenches], _FORCE_SCALE, out=wrench)
        self.observe_base(base)
        action.copy_(self.hand_actions)
        self.observe_tail(state[:, hands * self.hand_dim :])
        return self.randomizer.noisy_state(state).clamp_(-OBS_LIMIT, OBS_LIMIT)

    @property
    def hand_actions(self) -> Tensor:
        """Last actions by hand, clipped. (N, 2, 20 or 26)"""
        return self.split_hands(self.last_action)

    @staticmethod
    def split_hands(joint: Tensor) -> Tensor:
        """Splits columns of both hands, (N, 2 k) to (N, 2, k)."""
        return joint.unflatten(1, (NUM_HANDS, -1))

    def fingertips(self) -> Tensor:
        """The fingers' rewarded points, meters; 5 of the Shadow hand. (N, 2, 5, 3)"""
        tips = self.hand_sensors[..., : self._tips].unflatten(-1, (-1, 13))
        pos, quat = tips[..., :3], tips[..., 3:7]
        return pos + quat_rotate(quat, self._fingertip.expand_as(pos))

    @staticmethod
    def observe_free(pose: Tensor, vel: Tensor, out: Tensor) -> None:
        """Writes the observation of free bodies into ``out`` (..., 13), in the world frame.

        Position, quaternion xyzw, linear velocity, angular velocity x 0.2.

        Args:
            pose: positions of free joints. (..., 7)
            vel: their velocities. (..., 6)
            out: tensor to write to.
        """
        out[..., 0:3] = pose[..., :3]
        out[..., 3:7] = wxyz_to_xyzw(pose[..., 3:])
        out[..., 7:10] = vel[..., :3]
        # MuJoCo keeps a free joint's angular velocity in the body frame.
        out[..., 10:13] = _VEL_SCALE * quat_rotate(pose[..., 3:], vel[..., 3:])

    @staticmethod
    def free_readings(name: str) -> list[Reading]:
        """Returns the meaning of the columns of :meth:`observe_free` for the body ``name``. (13)"""
        return readings.of_free_body(name, angular=_VEL_SCALE)

    def free_bodies(self, first: str, count: int = 1) -> tuple[Tensor, Tensor]:
        """Returns the simulation's own numbers of ``count`` free bodies that follow one another.

        Args:
            first: name of the first body.
            count: number of bodies.

        Returns:
            Poses (N, count, 7), meters and quaternions wxyz, and velocities (N, count, 6): m/s, and
            rad/s in the body's frame.
        """
        joint = self.sim.model.joint(f"{first}_free")
        poses = self.sim.qpos[:, joint.qposadr[0] :][:, : 7 * count].unflatten(1, (count, 7))
        velocities = self.sim.qvel[:, joint.dofadr[0] :][:, : 6 * count].unflatten(1, (count, 6))
        return poses, velocities

    def _read_model(self, model: mujoco.MjModel) -> None:
        """Finds the hands' blocks in the simulation's tensors, see :func:`build_spec`."""
        first = model.joint(f"hand0_{self.hand.full(self.hand.joints[0])}")
        sim, joints = self.sim, range(first.id, first.id + self._joints)
        qpos, dof = first.qposadr[0], first.dofadr[0]
        controls = self._drives + (9 if self.floating else 0)
        readings = self._tips + self._wrenches + (6 if self.floating else 0)
        qpos_block = _by_hand(sim.qpos, qpos + self._joints)
        self.base_pose, self.joint_pos = qpos_block[..., :qpos], qpos_block[..., qpos:]
        self._joint_vel = _by_hand(sim.qvel, dof + self._joints)[..., dof:]
        self._joint_force = _by_hand(sim.qfrc_actuator, dof + self._joints)[..., dof:]
        control = _by_hand(sim.ctrl, controls)
        self._targets = control[..., : self._drives]
        self._base_control = control[..., self._drives :][..., : len(BASE_ROLES)]
        self.hand_sensors = _by_hand(sim.sensordata, readings)
        self.object_sensors = sim.sensordata[:, NUM_HANDS * readings :]
        limits = torch.tensor(model.jnt_range[joints], dtype=torch.float32, device=self.device)
        self._joint_low, self._joint_high = limits.T.contiguous()
        width = self._joint_high - self._joint_low
        self._pos_scale = 2.0 / width
        self._pos_shift = -(self._joint_high + self._joint_low) / width
        driven = model.actuator_trnid[: self._drives, 0] - first.id
        self._driven = torch.tensor(driven, dtype=torch.long, device=self.device)
        low, high = self._joint_low[self._driven], self._joint_high[self._driven]
        self._ctrl_mid, self._ctrl_half = (low + high) / 2, (high - low) / 2
        self._fingertip = torch.tensor(self.hand.fingertip, device=self.device)

    # Meaning ----------------------------------------------------------------------------------

    def readings(self) -> tuple[Reading, ...]:
        """Returns the meaning of each column of the joint state."""
        found = []
        for h in range(NUM_HANDS):
            actions = tuple(command.name for command in self.hand_commands(h))
            found += readings.of_hand(
                self.sim.model,
                self.hand,
                h,
                velocity=_VEL_SCALE,
                force=_FORCE_SCALE,
                base=self.base_readings(h),
                actions=actions,
            )
        return readings.clipped(found + self.tail_readings(), OBS_LIMIT)

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail; by default only their numbers."""
        return [Reading(f"tail[{i}]") for i in range(self.tail_dim)]

    def base_readings(self, index: int) -> list[Reading]:
        """Returns the columns of the base of hand ``index``."""
        del index
        return []

    def commands(self) -> tuple[Command, ...]:
        """Returns the commands of the joint action: forces on bases, and joint targets."""
        return tuple(command for h in range(NUM_HANDS) for command in self.hand_commands(h))

    def hand_commands(self, index: int) -> list[Command]:
        """Returns the commands of the actions of hand ``index``."""
        return readings.of_drives(self.sim.model, self.hand, index)

    # Resume -----------------------------------------------------------------------------------

    def physics(self) -> dict[str, Any]:
        """Returns the numbers of the scene's model, and the hand's data."""
        return {**physics.record(self.sim.model), "data": self.hand.record()}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue exactly."""
        return {
            "sim": self.sim.state_dict(),
            "generator": self.generator.get_state(),
            "randomiser": self.randomizer.state_dict(),
            "shaping": self.shaping.state_dict(),
            **{name: getattr(self, name).clone() for name in self._episode_tensors()},
        }

    def adopt(self, state: dict[str, Any]) -> bool:
        """See :meth:`VecEnv.adopt`."""
        return self.shaping.adopt(state.get("shaping", {}))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.sim.load_state_dict(state["sim"])
        self.generator.set_state(state["generator"])
        self.randomizer.load_state_dict(state.get("randomiser", {}))
        self.shaping.load_state_dict(state.get("shaping", {}))
        for name in self._episode_tensors():
            getattr(self, name).copy_(state[name])

    def _episode_tensors(self) -> tuple[str, ...]:
        """Names of the per-environment tensors that an episode carries."""
        return ("episode_step", "succeeded", "last_action")


def _by_hand(field: Tensor, columns: int) -> Tensor:
    """Returns the hands' blocks at the start of ``field`` as a view. (N, 2, columns)"""
    return field[:, : NUM_HANDS * columns].unflatten(1, (NUM_HANDS, columns))
