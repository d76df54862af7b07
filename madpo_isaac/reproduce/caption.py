"""Text on every figure: its content, and its differences from the paper's runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from madpo_isaac.algos.hatrpo import HatrpoConfig
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.config.schema import Config
from madpo_isaac.reproduce.paper import HANDS, SCALES, SUITES, Figure, Scale, suite
from madpo_isaac.reproduce.plan import Job, choose_tasks

_BONUS = {
    "gaussian": "MADPO's divergence is a bounded closed form, on which the tables' sigma has no "
    "effect; its coefficient is {coef}.",
    "official": "MADPO's divergence is that of the released code: of log-probabilities, kernel "
    "width 1, coefficient {coef} and lambda {lam} instead of the tables' numbers, previous "
    "policy of one gradient step ago, no entropy bonus.",
    "printed": "MADPO's divergence is Eq. 11 as printed, with the tables' sigma as kernel width "
    "and 1 / sigma as coefficient: its gradient is 1e-10 to 1e-8 of the objective's, so that "
    "training equals HAPPO without entropy bonus.",
    "yu": "MADPO (Yu et al.) is the consistent kernel estimator, which the paper does not use.",
}
"""Text about a preset, with the range of its coefficients and of its lambdas."""


@dataclass(frozen=True)
class Request:
    """The request of the command."""

    name: str
    """Key of the figure."""
    figure: Figure
    scale_name: str
    scale: Scale
    method: str
    recipe: str
    settings: tuple[str, ...] = ()
    """Further settings of every run."""

    @property
    def title(self) -> str:
        """Title of the page."""
        if not self.figure.is_of_paper:
            return f"Does divergence help? {self.figure.title}"
        number = self.name.replace("fig", "Figure ").replace("table", "Table ")
        return f"{number} of the MADPO paper, rerun: {self.figure.title}"


def caption(request: Request, jobs: Sequence[Job]) -> str:
    """Returns the lines that stand on the figures of ``jobs``, which are at least one."""
    seeds = ", ".join(map(str, request.scale.seeds))
    steps = {name: [j.steps for j in jobs if suite(j.task) == name] for name in SUITES}
    lengths = [f"{max(each):,} steps of {name}" for name, each in steps.items() if each]
    head = (
        f"{request.title}. Recipe {request.recipe}, method {request.method}, scale "
        f"{request.scale_name}: seeds {seeds}; {' and '.join(lengths)}."
    )
    if not request.figure.is_of_paper:
        own = [f"{task} has {' '.join(x)}." for task, x in request.figure.settings.items()]
        return "\n".join([head, *own, *_of_settings(request)])
    texts = _deviations(request, jobs, [job.config for job in jobs if job.config is not None])
    return "\n".join([head, *(f"Deviation: {text}" for text in texts)])


def _deviations(request: Request, jobs: Sequence[Job], configs: Sequence[Config]) -> Iterator[str]:
    """Yields the differences from what the paper ran, those of the algorithms first."""
    hands = any(job.task in HANDS for job in jobs)
    yield from _of_bonus([c for c in configs if isinstance(c.algo, MadpoConfig)])
    if request.recipe != "paper":
        yield f"hyper-parameters are those of recipe {request.recipe}, not of Tables 1 to 4."
    elif hands:
        yield (
            "Table 3's batch of 4000 contradicts its 128 environments x 75 steps = 9600 samples, "
            "which are used here."
        )
    if trusted := [c.algo for c in configs if isinstance(c.algo, HatrpoConfig)]:
        algo = trusted[0]
        plural = "s" * (algo.cg_iterations > 1)
        clip = "no value clip" if algo.value_clip is None else f"the value clip {algo.value_clip:g}"
        yield (
            f"HATRPO has {algo.cg_iterations} iteration{plural} of conjugate gradient and a KL "
            f"limit of {algo.kl_threshold:g} (HARL: 10, and 0.01 or 0.005), and {clip} also where "
            "the other algorithms have less."
        )
    if any(config.algo.name == "a2po" for config in configs):
        yield "A2PO has HAPPO's hyper-parameters, not those of its own paper."
    yield from _of_extent(request)
    if hands:
        yield "the hands move in MuJoCo, not in Isaac Gym; returns are not comparable."
    yield "a truncated step is followed by the value of its last state; HARL drops it."
    if request.figure.chosen:
        yield f"the paper leaves open, and it is chosen here: {request.figure.chosen}."
    yield from _of_settings(request)


def _of_settings(request: Request) -> Iterator[str]:
    """Yields the further settings, if there are any."""
    if request.settings:
        yield f"every run has {' '.join(request.settings)}."


def _of_bonus(configs: Sequence[Config]) -> Iterator[str]:
    """Yields a text for every preset among the configurations, which are MADPO's."""
    bonuses = [config.algo.divergence for config in configs]
    bonuses = [bonus for bonus in bonuses if bonus.kind != "none"]
    for preset in dict.fromkeys(bonus.preset for bonus in bonuses):
        ranges = {
            key: _range([getattr(bonus, key) for bonus in bonuses if bonus.preset == preset])
            for key in ("coef", "lam")
        }
        yield _BONUS[preset].format(**ranges)
    rows = {
        f"{config.algo.divergence.rows} of "
        f"{config.num_envs * config.algo.horizon // config.algo.num_minibatches}"
        for config in configs
        if config.algo.divergence.rows is not None
    }
    if rows:
        yield f"the kernel sums go over {' or '.join(sorted(rows))} rows, drawn anew at each step."


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _of_extent(request: Request) -> Iterator[str]:
    """Yields the parts of the paper's runs that the scale and the registry leave out."""
    chosen, missing = choose_tasks(request.figure, request.scale)
    full = SCALES["paper"]
    if len(chosen) < len(request.figure.tasks):
        yield f"{len(chosen)} of {len(request.figure.tasks)} tasks."
    if (seeds := len(request.scale.seeds)) < len(full.seeds):
        yield f"{seeds} seed{'s' * (seeds > 1)} instead of {len(full.seeds)}."
    if request.scale.steps != full.steps:
        yield "fewer steps than the paper's 10 million (MA-MuJoCo) and 20 million (Bi-DexHands)."
    if missing:
        yield f"this project does not have {', '.join(missing)}."
