"""Tasks behind the interfaces of other libraries: PettingZoo and Gymnasium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from madpo_isaac.errors import UserError

if TYPE_CHECKING:
    from madpo_isaac.interop.parallel_view import ParallelView
    from madpo_isaac.interop.vector_view import VectorView

__all__ = ["parallel_env", "vector_env"]


def parallel_env(task: str, seed: int = 0, **settings: Any) -> ParallelView:
    """Returns one environment of ``task`` as a ``pettingzoo.ParallelEnv``.

    Args:
        task: name of the task, see :func:`tasks.make`.
        seed: seed of resets and noise, until a ``reset`` gives another.
        **settings: further arguments of :func:`tasks.make`.

    Raises:
        UserError: PettingZoo is missing, or the task or a setting is wrong.
    """
    try:
        from madpo_isaac.interop.parallel_view import ParallelView
    except ImportError as problem:
        raise UserError(
            f"parallel_env needs PettingZoo: pip install 'madpo-isaac[interop]' ({problem})."
        ) from problem
    from madpo_isaac import tasks

    return ParallelView(tasks.make(task, num_envs=1, seed=seed, **settings))


def vector_env(task: str, num_envs: int = 128, seed: int = 0, **settings: Any) -> VectorView:
    """Returns ``num_envs`` environments of ``task`` as a ``gymnasium.vector.VectorEnv``.

    Its one agent sees the joint state and chooses the joint action. :func:`tasks.make` describes
    the arguments, and :class:`VectorView` describes the end of an episode.
    """
    from madpo_isaac import tasks
    from madpo_isaac.interop.vector_view import VectorView

    return VectorView(tasks.make(task, num_envs=num_envs, seed=seed, **settings))
