"""A figure of the paper's kind that takes a second to run."""

from madpo_isaac.reproduce.arms import Arm
from madpo_isaac.reproduce.paper import Figure, Scale

TINY = Scale(
    {"MA-MuJoCo": 64, "Bi-DexHands": 64},
    seeds=(1,),
    tasks=1,
    settings=(
        *("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "algo.epochs=1"),
        *("task.episode_length=8", "save_frequency=0"),
    ),
)
HAPPO = Arm("HAPPO", ("algo=happo",))
ONE = Figure("one", ("HalfCheetah-2x3",), lambda _: {"happo": HAPPO}, "curves")
