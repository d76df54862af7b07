"""Writes docs/gallery.md and README's table of the policies that come with the project.

    python tools/gallery.py                        after a change of the policies' JSON files
    python tools/gallery.py runs/x num_envs=256    makes a run's policy first

Everything that follows a run is passed to ``python -m madpo_isaac.pretrained``. A policy that is
new or named gets a film and a picture of its curves in docs/images/gallery.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from madpo_isaac import console, pretrained  # noqa: E402
from madpo_isaac.config.playing import playing  # noqa: E402
from madpo_isaac.errors import UserError  # noqa: E402
from madpo_isaac.pretrained.__main__ import make  # noqa: E402
from madpo_isaac.tasks.registry import suite  # noqa: E402

PAGE, README = ROOT / "docs" / "gallery.md", ROOT / "README.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
MARKS = ("<!-- policies: written by tools/gallery.py -->\n", "<!-- end of policies -->\n")
"""Lines of README between which its table is."""
LARGEST = 1_500_000
"""Bytes of a film at most."""
_SECONDS, _WIDTH, _FPS = 4.0, 400, 20

HEAD = """# Gallery

<!-- Written by tools/gallery.py; change the text there. -->

These policies come with the project. `madpo play {first}` plays one, `madpo play {first} --html`
writes a page that plays an episode, and `madpo eval {first}` scores it; any other name of this
page works in the same way.

Every number is a mean over the episodes of one evaluation with the task's original reward. A
return has a 95 % bootstrap interval in brackets, and a rate has a 95 % Wilson interval. "Mean
actions" are those of the policy without noise; "sampled actions" are drawn from it as in
training. Each policy is that of one run with one seed; the intervals do not cover how much runs
with other seeds differ. An episode of a robot is a success if it reaches its time limit; for the
robots the page therefore gives the share of episodes without a fall. The
[results](results/README.md) have earlier evaluations of the same runs, over 64 episodes, and for
Pen with the reward that it was trained with.

The doors, the pen and the blocks start every episode in the same state. With mean actions the
episodes of a policy are then nearly alike, and rounding decides what they are: on another processor
such a mean may lie outside its interval. Their sampled actions are the better measure.

"""
TAIL = """## Adding a policy

`make gallery ARGS="runs/<experiment> num_envs=256"` makes the policy of a run, scores it in at
least 1024 episodes with mean and with sampled actions, films it, draws its curves, and writes
this page and the table in the README. The policy is `madpo_isaac/pretrained/<Task>.safetensors`,
with its numbers in a JSON file and its curves in a CSV file beside it. If the fingers are the
agents, its name is `<Task>-fingers`. `runs/<experiment>/nn/best.pth` in place of the run folder
takes the policy with the best evaluation, and `--note "A sentence."` adds a sentence to its
section. `make gallery` alone writes the page again, for example after a change of its text.
"""


def main(argv: list[str]) -> int:
    """Makes a policy if a run is named, and writes pictures, page and table."""
    try:
        new = make(argv).stem if argv else None
        for name in pretrained.names():
            film, curves = (PICTURES / f"{name}{suffix}" for suffix in (".gif", ".png"))
            if name == new or not film.exists():
                write_film(name, film)
            if name == new or not curves.exists():
                draw_curves(name, curves)
    except UserError as problem:
        console.error(str(problem))
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    console.info(f"wrote {PAGE} and the table in {README}")
    return 0


# Pages ------------------------------------------------------------------------------------------


def policies() -> dict[str, dict[str, Any]]:
    """Returns the facts of every policy by name, hands first."""
    found = {name: pretrained.describe(pretrained.find(name)) for name in pretrained.names()}
    return dict(sorted(found.items(), key=lambda item: (not _of_hands(item[1]), item[0])))


def _of_hands(facts: dict[str, Any]) -> bool:
    return suite(facts["task"]) == "hands"


def page() -> str:
    """Returns the text of docs/gallery.md."""
    known = policies()
    parts = [HEAD.format(first=next(iter(known))), overview(known, "#{}"), "\n"]
    parts += [section(name, facts) for name, facts in known.items()]
    return "".join([*parts, TAIL])


def readme() -> str:
    """Returns the text of README.md with its table as it should be."""
    text = README.read_text(encoding="utf-8")
    begin, end = MARKS
    table = overview(policies(), "docs/gallery.md#{}")
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda found: begin + table + end, text, flags=re.DOTALL)


def overview(known: dict[str, dict[str, Any]], link: str) -> str:
    """Returns the table of all policies with mean actions; ``link`` leads to a policy's section."""
    lines = [
        "| policy | trained by | steps | return | success |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, facts in known.items():
        scores = facts["mean_actions"]
        success = f"{scores['success']['rate']:.2f}" if _of_hands(facts) else "-"
        cells = (
            f"[`{name}`]({link.format(name.lower())})",
            facts["algo"].upper(),
            f"{facts['env_steps'] / 1e6:.1f} million",
            number(scores["return"]["mean"]),
            success,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def section(name: str, facts: dict[str, Any]) -> str:
    """Returns the part of the page about one policy."""
    both = (facts["mean_actions"], facts["sampled_actions"])
    rows = [
        ("return", *(interval(x["return"]["mean"], x["return"]["mean_interval"]) for x in both))
    ]
    rates = ["success", *sorted(name for name in both[0] if name.startswith("success_"))]
    for rate in rates:
        values = (interval(x[rate]["rate"], x[rate]["interval"], ".3f") for x in both)
        rows.append((_rate_name(facts, rate), *values))
    rows.append(("steps of an episode", *(f"{x['length']['mean']:.4g}" for x in both)))
    rows.append(("episodes", *(str(x["episodes"]) for x in both)))
    lines = [f"| {' | '.join(row)} |" for row in (("", "mean actions", "sampled actions"), *rows)]
    lines.insert(1, "| --- | --- | --- |")
    made = (
        f"{facts['algo'].upper()} trained it for {facts['env_steps'] / 1e6:.2f} million steps in "
        f"{facts['hours']:.2f} hours ({facts['machine']}; revision {facts['revision']})"
    )
    whole = facts["config"]["max_iterations"]
    if facts["iteration"] < whole:
        made += f". The policy is that of iteration {facts['iteration']} of {whole}"
    note = f"{facts['note']}\n\n" if "note" in facts else ""
    return (
        f"## {name}\n\n"
        f"![{name}: the policy at work](images/gallery/{name}.gif)\n\n"
        + "\n".join(lines)
        + f"\n\n{note}{made}:\n\n```\n{_broken(facts['command'])}\n```\n\n"
        f'<img src="images/gallery/{name}.png" alt="{name}: return against steps" width="460">\n\n'
    )


def _rate_name(facts: dict[str, Any], name: str) -> str:
    if not _of_hands(facts):
        return "episodes without a fall"
    distance = facts["config"]["task"].get("success_distance")
    if name == "success" and "success_10cm" in facts["mean_actions"]:
        return f"success, within {100 * distance:g} cm"
    return "success" if name == "success" else f"within {name.removeprefix('success_')[:-2]} cm"


def _broken(command: str) -> str:
    """Commands one after another, in lines of at most 110 characters."""
    lines: list[str] = []
    for part in command.split(" && "):
        lines.append("")
        for word in part.split(" "):
            if lines[-1] and len(lines[-1]) + len(word) > 110:
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def number(value: float) -> str:
    """Returns a return with three digits, or without fraction if it is large."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(value: float, ends: list[float] | None, form: str = "") -> str:
    """Returns a number and its interval, which the return of one episode does not have."""
    written = [format(x, form) if form else number(x) for x in (value, *(ends or ()))]
    return f"{written[0]} [{written[1]}, {written[2]}]" if ends else written[0]


# Pictures ---------------------------------------------------------------------------------------


def write_film(name: str, path: Path) -> None:
    """Films a policy for some seconds from a reset on; a film that gets too large is shortened."""
    from madpo_isaac.evaluation.film import film
    from madpo_isaac.evaluation.video import as_gif
    from madpo_isaac.training.factory import make_env
    from madpo_isaac.training.policy import policy_of

    config = playing(name, "num_envs=1", "num_threads=1")
    env = make_env(config)
    policy = policy_of(config, env)
    seconds = _SECONDS
    with tempfile.TemporaryDirectory() as folder:
        while True:
            film(policy, env, Path(folder) / "x.mp4", round(seconds / env.step_dt))
            gif = as_gif(Path(folder) / "x.mp4", _WIDTH, _FPS)
            if len(gif) <= LARGEST:
                break
            seconds *= 0.75
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gif)
    console.info(f"wrote {path}: {seconds:.3g} s, {len(gif) / 1e6:.2f} MB")


def draw_curves(name: str, path: Path) -> None:
    """Draws the curves of a policy's CSV file."""
    from madpo_isaac.report import drawing, figures
    from madpo_isaac.report.runs import load
    from madpo_isaac.report.study import Study

    study = Study(load([str(pretrained.find(name).with_suffix(".csv"))]), ["run"])
    figure = dataclasses.replace(figures.curves(study, reps=2), title="", name=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        drawing.write_files(figure, Path(folder))
        shutil.copyfile(Path(folder) / path.name, path)
    console.info(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
