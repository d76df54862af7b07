"""Tasks behind the interfaces of other libraries: PettingZoo and Gymnasium.

Importing this package registers all tasks with Gymnasium, as ``madpo_isaac/<task>-v0``::

    import gymnasium
    import madpo_isaac.interop

    envs = gymnasium.make_vec("madpo_isaac/ShadowHandOver-v0", num_envs=64)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from madpo_isaac.errors import UserError

if TYPE_CHECKING:
    from madpo_isaac.interop.parallel_view import ParallelView
    from madpo_isaac.interop.vector_view import VectorView

__all__ = ["gymnasium_id", "parallel_env", "vector_env"]


def parallel_env(
    task: str,
    seed: int = 0,
    *,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 320,
    **settings: Any,
) -> ParallelView:
    """Returns one environment of ``task`` as a ``pettingzoo.ParallelEnv``.

    Args:
        task: name of the task, see :func:`tasks.make`.
        seed: seed of resets and noise, until a ``reset`` gives another.
        render_mode: ``"rgb_array"`` for pictures by ``render()``, or None.
        width: width of the pictures, in pixels.
        height: height of the pictures, in pixels.
        **settings: further arguments of :func:`tasks.make`.

    Raises:
        UserError: PettingZoo is missing, or the task or a setting is wrong.
    """
    try:
        from madpo_isaac.interop.parallel_view import ParallelView
    except ImportError as problem:
        raise UserError(
            f"parallel_env needs PettingZoo: pip install -e '.[interop]' in the clone of this "
            f"project ({problem})."
        ) from problem
    from madpo_isaac import tasks

    if "num_envs" in settings:
        raise UserError(
            f"num_envs={settings['num_envs']}: parallel_env is one environment; vector_env has "
            "several."
        )
    env = tasks.make(task, num_envs=1, seed=seed, **settings)
    return ParallelView(env, render_mode, width, height)


def vector_env(
    task: str,
    num_envs: int = 128,
    seed: int = 0,
    *,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 320,
    **settings: Any,
) -> VectorView:
    """Returns ``num_envs`` environments of ``task`` as a ``gymnasium.vector.VectorEnv``.

    Its one agent sees the joint state and chooses the joint action. :func:`tasks.make` and
    :func:`parallel_env` describe the arguments, and :class:`VectorView` the end of an episode.
    """
    from madpo_isaac import tasks
    from madpo_isaac.interop.vector_view import VectorView

    env = tasks.make(task, num_envs=num_envs, seed=seed, **settings)
    return VectorView(env, render_mode, width, height)


def gymnasium_id(task: str) -> str:
    """Returns the name by which Gymnasium knows a task, for ``gymnasium.make_vec``.

    Gymnasium then also knows the tasks that were registered since this package was imported.
    """
    _register()
    return f"madpo_isaac/{task}-v0"


def _register() -> None:
    """Tells Gymnasium about all tasks, for ``gymnasium.make_vec``."""
    import gymnasium

    from madpo_isaac.tasks import TASKS

    for task in TASKS:
        if (name := f"madpo_isaac/{task}-v0") not in gymnasium.registry:
            gymnasium.register(
                name,
                vector_entry_point="madpo_isaac.interop:vector_env",
                kwargs={"task": task},
            )


_register()
