"""Domain randomization: environments that differ in their physics, sensors and actuators.

Every quantity is off until it is given a range. Multipliers are drawn uniformly, independently
for each environment, and drawn again when an environment starts an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.sim import Sim
from madpo_isaac.tasks.hands.effects import drives_of, effects_of
from madpo_isaac.tasks.settings import as_group, is_number

_PREFIX = "task.randomize"
_NOISES = ("action_noise", "observation_noise")


@dataclass
class RandomizeConfig:
    """Differences between environments: null is off, [low, high] is a range of multipliers."""

    friction: list[float] | None = None
    """Friction of all contacts of the objects: sliding, torsional and rolling coefficients."""
    object_mass: list[float] | None = None
    """Mass of each object, and with it inertia and weight."""
    object_size: list[float] | None = None
    """All lengths of each object at the same density; the mass changes with the third power."""
    actuator_gain: list[float] | None = None
    """Gain kp of each drive kp (target - q) - kd v; kd and the force limit stay."""
    action_noise: float | None = None
    """Standard deviation of the noise on actions, which are then clipped to [-1, 1]. The last
    action in the observation has no noise."""
    observation_noise: float | None = None
    """Standard deviation of the noise on every number of the joint state, in units of the state."""

    @classmethod
    def of(cls, settings: RandomizeConfig | Mapping[str, Any]) -> RandomizeConfig:
        """Returns ``settings`` after checking their values; a mapping becomes the object."""
        made = as_group(_PREFIX, cls, settings)
        for field in fields(cls):
            value = getattr(made, field.name)
            if value is not None:
                _check(field.name, value)
        return made


class Randomizer:
    """Draws the quantities of :class:`RandomizeConfig` and writes them into the models.

    Without any setting it draws and writes nothing, and it returns its arguments unchanged.

    Args:
        settings: checked settings.
        sim: simulation whose model fields are expanded; only here, before its first step.
        objects: bodies that the object quantities change, each with all of its children.
        generator: the environments' own, on the simulation's device.

    Raises:
        UserError: for a quantity that the scene does not support.
    """

    def __init__(
        self,
        settings: RandomizeConfig,
        sim: Sim,
        objects: Sequence[str],
        generator: torch.Generator,
    ) -> None:
        self.settings = settings
        self.device = sim.device
        self._generator = generator
        roots = [sim.model.body(name).id for name in objects]
        drives = drives_of(sim.model)
        columns = {
            "friction": 1,
            "object_mass": len(roots),
            "object_size": len(roots),
            "actuator_gain": len(drives),
        }
        self.scales: dict[str, Tensor] = {
            name: torch.ones(sim.num_envs, count, device=self.device)
            for name, count in columns.items()
            if getattr(settings, name) is not None
        }
        """Current multipliers by setting: friction (N, 1), object_* (N, objects), actuator_gain
        (N, drives in the order of the controls); those that are off are absent."""
        self._targets: list[tuple[Tensor, Tensor, Tensor, str, Tensor]] = []
        for effect in effects_of(sim.model, roots, drives, self.scales):
            if len(effect.elements) == 0:
                continue
            values = sim.expand(effect.field).view(sim.num_envs, -1)
            index = torch.from_numpy(effect.elements).to(self.device)
            column = torch.from_numpy(effect.column).to(self.device)
            self._targets.append((values, index, values[0, index], effect.factor, column))

    def resample(self, mask: Tensor) -> None:
        """Draws new multipliers for the rows of ``mask`` (N,) bool."""
        if not self.scales:
            return
        for name, scale in self.scales.items():
            low, high = getattr(self.settings, name)
            draw = torch.rand(scale.shape, generator=self._generator, device=self.device)
            torch.where(mask[:, None], low + (high - low) * draw, scale, out=scale)
        self._write()

    def noisy_action(self, action: Tensor) -> Tensor:
        """Returns ``action`` (N, A) as it reaches the drives, within [-1, 1]."""
        std = self.settings.action_noise
        return action if not std else self._disturbed(action, std).clamp_(-1.0, 1.0)

    def noisy_state(self, state: Tensor) -> Tensor:
        """Returns the joint state (N, S) as it is measured."""
        std = self.settings.observation_noise
        return state if not std else self._disturbed(state, std)

    def _disturbed(self, values: Tensor, std: float) -> Tensor:
        noise = torch.randn(values.shape, generator=self._generator, device=self.device)
        return torch.add(values, noise, alpha=std)

    def _write(self) -> None:
        """Multiplies the model; rows whose multipliers did not change get the same values."""
        factors = self._factors()
        for values, index, nominal, factor, column in self._targets:
            values[:, index] = nominal * factors[factor].to(nominal.dtype)[:, column]

    def _factors(self) -> dict[str, Tensor]:
        one = torch.ones(1, 1, device=self.device)  # of what is off
        size = self.scales.get("object_size", one)
        mass = self.scales.get("object_mass", one) * size**3
        inertia = mass * size**2
        return {
            "friction": self.scales.get("friction", one),
            "gain": self.scales.get("actuator_gain", one),
            "size": size,
            "mass": mass,
            "inertia": inertia,
            "per_mass": 1.0 / mass,
            "per_inertia": 1.0 / inertia,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the current multipliers."""
        return {name: scale.clone() for name, scale in self.scales.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores :meth:`state_dict`; what ``state`` lacks keeps its value until a reset."""
        for name in self.scales.keys() & state.keys():
            self.scales[name].copy_(state[name])
        self._write()


# Values -------------------------------------------------------------------------------------------


def _check(name: str, value: Any) -> None:
    if name in _NOISES:
        if not is_number(value) or value < 0.0:
            raise UserError(f"{_PREFIX}.{name}={value} must be null or a number of at least 0.")
        return
    good = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))
    if not good or not 0.0 < value[0] <= value[1]:
        raise UserError(
            f"{_PREFIX}.{name}={value} must be null or two numbers above 0, the lower one first, "
            "such as [0.7,1.3]."
        )
