"""Multi-agent MuJoCo as batched environments: actions, observations, episodes and resets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import mujoco
import torch
import torch.nn.functional as F
from torch import Tensor

from madpo_isaac.env import AgentSpec, Command, Reading, Step, VecEnv
from madpo_isaac.settings import integer, one_of, setting
from madpo_isaac.sim import SimConfig, make_sim, physics
from madpo_isaac.system import device as devices
from madpo_isaac.tasks.mujoco import readings
from madpo_isaac.tasks.mujoco.nearest import nearest_columns
from madpo_isaac.tasks.mujoco.partitions import SCENARIOS, joint_role
from madpo_isaac.tasks.mujoco.robots import ROBOTS, VERSIONS, control_cost, locomotion_reward

OBSERVATIONS = ("standardized", "physical")
_NO_VARIANCE = 1e-30
"""Added to variances so that a constant vector gives zeros, not NaN; changes no other result."""


@dataclass
class Config:
    """Settings of every scenario."""

    suite: ClassVar[str] = "mujoco"
    version: str = setting("v2", one_of(VERSIONS))
    """v2: the papers' version; v5: Gymnasium's newest (HalfCheetah and Walker2d)."""
    observation: str = setting("standardized", one_of(OBSERVATIONS))
    """physical: agents and critic observe the state itself. standardized: each agent observes the
    state and its own number, and the critic the state; each of these vectors is standardized over
    its own entries, as in HARL and the papers."""
    agent_obsk: int | None = setting(None, integer(0))
    """Distance in joints: an agent observes the joints up to this distance from its own ones, and
    the torso. null: every agent observes everything, see ``observation``."""
    episode_length: int = 1000
    """Control steps after which an episode is truncated."""


class Env(VecEnv):
    """One scenario. The joint state is Gymnasium's observation, unscaled.

    Joint state: positions without the robot's place on the ground, velocities; of the Humanoid
    also cinert (140), cvel (84) and qfrc_actuator (23); of Ant and Humanoid 84 contact forces,
    which are zero. Actions are not clipped: MuJoCo limits the force, the control cost is on the
    action as given.
    """

    view = "track"
    """A camera of the model that follows the robot."""
    has_success = False

    def __init__(
        self,
        config: Config,
        num_envs: int,
        *,
        scenario: str,
        device: str | torch.device = "cpu",
        sim: str | SimConfig = "auto",
        seed: int = 0,
        num_threads: int = 0,
    ) -> None:
        self.config, self.num_envs = config, num_envs
        self.partition = SCENARIOS[scenario]
        self.robot = ROBOTS[self.partition.robot]
        model = self.scene(visual=False).compile()
        self.sim = make_sim(sim, model, num_envs, device, num_threads)
        self.device = self.sim.device
        self.max_episode_length = config.episode_length
        self.step_dt = self.robot.substeps * model.opt.timestep
        self.action_dim = model.nu
        self._bind_state(model)
        self.agents = self._agents(model)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.episode_step = torch.zeros(num_envs, dtype=torch.long, device=self.device)

    def _bind_state(self, model: mujoco.MjModel) -> None:
        """Takes the live tensors that make up the joint state and the reward."""
        robot, sim = self.robot, self.sim
        name, index = robot.position
        self._x = sim.field(name, exact=True)[(slice(None), *index)]
        self._qpos, self._qvel = sim.field("qpos", exact=True), sim.field("qvel", exact=True)
        self._parts = [sim.qpos[:, robot.hidden_qpos :], sim.qvel]
        self._parts += [sim.field(name).flatten(1) for name in robot.fields]
        if robot.contact_forces:
            zeros = torch.zeros(self.num_envs, robot.contact_forces, device=self.device)
            self._parts.append(zeros)
        self.state_dim = sum(part.shape[1] for part in self._parts)
        init = torch.tensor([*model.qpos0, *[0.0] * model.nv], dtype=torch.float32)
        self._init_state = init.to(self.device)
        self._limit = self._observation_limit(model)
        self._no_success = torch.zeros(self.num_envs, device=self.device)

    def _observation_limit(self, model: mujoco.MjModel) -> Tensor | None:
        """The size at which observed numbers are clipped, by column (S,); None for never."""
        if self.robot.velocity_limit is None:
            return None
        limit = torch.full((self.state_dim,), torch.inf, device=self.device)
        first = model.nq - self.robot.hidden_qpos
        limit[first : first + model.nv] = self.robot.velocity_limit
        return limit

    # Pictures ---------------------------------------------------------------------------------

    def scene(self, *, visual: bool) -> mujoco.MjSpec:
        """Returns Gymnasium's model, which is the same for physics and pictures."""
        del visual
        return mujoco.MjSpec.from_file(str(self.robot.model_file(self.config.version)))

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Puts ``data`` of the scene into the state of environment ``index``."""
        data.qpos[:] = self.sim.qpos[index].cpu().numpy()

    def action_joints(self) -> list[int]:
        """Returns the joint that each column of the joint action drives."""
        return self.sim.model.actuator_trnid[:, 0].tolist()

    # Episodes ---------------------------------------------------------------------------------

    def reset(self) -> Tensor:
        """Starts a new episode everywhere and returns the joint state (N, S)."""
        self._reset_rows(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self.observe()

    def step(self, action: Tensor) -> Step:
        """Applies the joint action (N, A), not clipped, for one control step."""
        self.check_action(action)
        robot = self.robot
        torch.mul(action, robot.action_gain, out=self.sim.ctrl)
        before = self._x.clone()
        self.sim.step(robot.substeps)
        self.episode_step += 1
        velocity = (self._x - before).div_(self.step_dt)
        cost = control_cost(self.sim.ctrl, robot.control_weight)
        reward = locomotion_reward(robot, velocity, cost)
        log = {"forward_velocity": velocity, "control_cost": cost}
        return self._finish(reward, log)

    def _finish(self, reward: Tensor, log: dict[str, Tensor]) -> Step:
        """Ends episodes and starts new ones; ``success`` is to reach the limit without a fall."""
        final_state = state = self.observe()
        diverged = terminated = self.sim.diverged() | self.not_finite(state, reward)
        if self.robot.healthy is not None:
            fallen = ~self.robot.healthy(self._qpos, self._qvel)
            terminated = diverged | fallen
            if self.config.version == "v5":  # pays no bonus on the step that falls
                reward -= self.robot.alive_bonus * fallen
        # Between flags, a > b is "a and not b". A fall exactly at the limit is a termination here;
        # HARL counts it as a truncation.
        truncated = (self.episode_step >= self.max_episode_length) > terminated
        done = terminated | truncated
        success = self._no_success
        if not devices.known_all_false(done):
            success = truncated.float()
            for reading in (reward, *log.values()):
                reading.masked_fill_(diverged, 0.0)
            final_state.nan_to_num_(0.0, 0.0, 0.0)
            self._reset_rows(done)
            state = torch.where(done[:, None], self.observe(), final_state)
        log = {
            "success": success,
            "diverged": diverged,
            "overflow": self.sim.overflowed(),
            **log,
        }
        return Step(state, reward.float(), terminated, truncated, final_state, log)

    def _reset_rows(self, mask: Tensor) -> None:
        """Starts new episodes in the rows of ``mask`` (N,) bool, as Gymnasium's reset_model."""
        sim = self.sim
        sim.reset(mask)
        chosen = mask[:, None]
        qpos, qvel = self._start_states().tensor_split((sim.qpos.shape[1],), dim=1)
        torch.where(chosen, qpos, sim.qpos, out=sim.qpos)
        torch.where(chosen, qvel, sim.qvel, out=sim.qvel)
        sim.forward(mask)
        self.episode_step.masked_fill_(mask, 0)

    def _start_states(self) -> Tensor:
        """Draws positions and velocities for every environment. (N, nq + nv)"""
        noise = self.robot.reset_noise
        shape = (self.num_envs, len(self._init_state))
        start = torch.rand(shape, generator=self.generator, device=self.device)
        torch.add(self._init_state - noise, start, alpha=2.0 * noise, out=start)
        if self.robot.normal_velocity_noise:
            qvel = start[:, self.sim.qpos.shape[1] :]
            qvel.normal_(0.0, noise, generator=self.generator)
        return start

    # Observations -----------------------------------------------------------------------------

    def observe(self) -> Tensor:
        """Returns the joint state (N, S)."""
        state = torch.cat(self._parts, dim=1)
        return state if self._limit is None else state.clamp_(-self._limit, self._limit)

    def critic_view(self, state: Tensor) -> Tensor:
        """Maps joint states (B, S) to the critic's input, see ``Config.observation``."""
        return standardize(state) if self.config.observation == "standardized" else state

    def readings(self) -> tuple[Reading, ...]:
        """Returns the meaning of each column of the joint state."""
        return readings.of_state(self.robot, self.sim.model)

    def commands(self) -> tuple[Command, ...]:
        """Returns the joint torques that the joint action commands."""
        return readings.of_actions(self.robot, self.sim.model)

    def _agents(self, model: mujoco.MjModel) -> tuple[AgentSpec, ...]:
        agents = []
        for i in range(self.partition.num_agents):
            observe, obs_dim, columns = self._observe(i, model)
            first_joint = model.actuator_trnid[self.partition.block(i).start, 0]
            spec = AgentSpec(
                name=f"agent{i}",
                action_slice=self.partition.block(i),
                obs_dim=obs_dim,
                observe=observe,
                role=joint_role(model.joint(first_joint).name),
                columns=columns,
            )
            agents.append(spec)
        return tuple(agents)

    def _observe(self, agent: int, model: mujoco.MjModel) -> tuple[Any, int, Tensor | None]:
        """Returns the observation function of ``agent``, its width, and the columns it selects."""
        if self.config.agent_obsk is not None:
            found = nearest_columns(
                self.robot, model, self.partition, agent, self.config.agent_obsk
            )
            columns = torch.tensor(found, device=self.device)
            return (lambda state: state.index_select(1, columns)), len(columns), columns
        if self.config.observation == "physical":
            columns = torch.arange(self.state_dim, device=self.device)
            return (lambda state: state), self.state_dim, columns
        number = torch.eye(self.partition.num_agents, device=self.device)[agent]
        width = self.state_dim + len(number)

        def observe(state: Tensor) -> Tensor:
            # Written so that it can be traced for any number of rows.
            joint = torch.cat((state, number.expand(state.shape[0], -1)), dim=1)
            return F.layer_norm(joint, (width,), eps=_NO_VARIANCE)

        return observe, width, None

    # Resume -----------------------------------------------------------------------------------

    def physics(self) -> dict[str, Any]:
        """Returns the numbers of the robot's model."""
        return physics.record(self.sim.model)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue exactly."""
        return {
            "sim": self.sim.state_dict(),
            "generator": self.generator.get_state(),
            "episode_step": self.episode_step.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.sim.load_state_dict(state["sim"])
        self.generator.set_state(state["generator"])
        self.episode_step.copy_(state["episode_step"])


def standardize(x: Tensor) -> Tensor:
    """(x - mean) / std of every vector (..., D), with the population's std."""
    return F.layer_norm(x, x.shape[-1:], eps=_NO_VARIANCE)


TASKS = {name: (Config, partial(Env, scenario=name)) for name in SCENARIOS}
"""Config and Env of every scenario, for the registry of tasks."""
