"""Plants faults in a copy of this checkout, one at a time, and runs the test that has to fail.

    .venv/bin/python tools/plant_faults.py                 # all of them, some minutes
    .venv/bin/python tools/plant_faults.py best lr         # those with such a word in their names

The exit code is 0 if every fault was caught, 1 if a test did not notice one, and 2 if the list
below no longer fits the code: a text is not in its file exactly once, or a test fails without help.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FAILED, PASSED = 1, 0
"""Exit codes of pytest; all others mean that it could not judge."""

ROLLOUT = "madpo_isaac/training/on_policy.py"
RUN = "madpo_isaac/training/run.py"
PAPER = "madpo_isaac/reproduce/paper.py"
ARMS = "madpo_isaac/reproduce/arms.py"
READINGS = "tasks/hands/readings.py"
ITERATION = "tests/test_iteration.py"
BEST = "tests/test_resume.py::test_the_best_is_the_best_of_all_parts_of_a_run"


class Fault(NamedTuple):
    """One mistake that somebody could make."""

    name: str
    file: str
    old: str
    new: str
    test: str


FAULTS = (
    Fault(
        "state stored after the step",
        ROLLOUT,
        "rollout.reward[t] = step.learned_reward\n",
        "rollout.reward[t], rollout.state[t] = step.learned_reward, step.state\n",
        f"{ITERATION}::test_the_rollout_is_what_the_environments_saw_and_did",
    ),
    Fault(
        "final value from the next episode's state",
        ROLLOUT,
        "algo.final_value(step.truncated, step.final_state)",
        "algo.final_value(step.truncated, step.state)",
        f"{ITERATION}::test_values_are_of_the_states_before_a_step_and_of_those_before_a_reset",
    ),
    Fault(
        "every step valid",
        ROLLOUT,
        "rollout.valid[t] = ~step.diverged",
        "rollout.valid[t] = True",
        f"{ITERATION}::test_the_rollout_is_what_the_environments_saw_and_did",
    ),
    Fault(
        "return of a diverged episode goes into the next",
        "madpo_isaac/runs/metrics.py",
        "self.returns.masked_fill_(done, 0.0)",
        "self.returns.masked_fill_(done & ~step.diverged, 0.0)",
        f"{ITERATION}::test_statistics_are_those_of_the_episodes_that_ended_whole",
    ),
    Fault(
        "best return not resumed",
        RUN,
        'self.best_return = content["best_return"]',
        "pass",
        BEST,
    ),
    Fault(
        "best.pth always written",
        "madpo_isaac/training/saving.py",
        "if score is not None and score > run.best_return:",
        "if score is not None:",
        BEST,
    ),
    Fault(
        "loss, entropy and kl of agent 0 only",
        RUN,
        'sum(numbers[f"agent{p}/{key}"] for p in range(agents)) / agents',
        'numbers[f"agent0/{key}"]',
        f"{ITERATION}::test_the_agents_numbers_are_those_of_their_new_policies_"
        "and_the_runs_their_means",
    ),
    Fault(
        "lr schedule one iteration early",
        RUN,
        "done = self.iteration / cfg.max_iterations",
        "done = (self.iteration + 1) / cfg.max_iterations",
        f"{ITERATION}::test_the_agents_numbers_are_those_of_their_new_policies_"
        "and_the_runs_their_means",
    ),
    Fault(
        "evaluation has training's seed",
        "madpo_isaac/training/watching.py",
        "np.random.SeedSequence((cfg.seed, EVALUATION))",
        "np.random.SeedSequence(cfg.seed)",
        "tests/test_evaluate.py::test_evaluations_begin_in_states_of_their_own",
    ),
    Fault(
        "sampled evaluation with a fixed seed",
        "madpo_isaac/commands/evaluate.py",
        "manual_seed(config.seed)",
        "manual_seed(1)",
        "tests/test_evaluate.py::test_sampled_actions_are_drawn_with_the_seed",
    ),
    Fault(
        "a fall counts as success",
        "tasks/mujoco/task.py",
        "success = truncated.float()",
        "success = done.float()",
        "tests/test_mujoco_task.py::test_a_fall_is_no_success",
    ),
    Fault(
        "a run goes on with a changed model",
        "madpo_isaac/config/resume.py",
        'if not (found := physics.change(ours, content["physics"])):',
        'if not (found := ""):',
        "tests/test_physics.py::test_a_changed_hand_is_refused_in_one_line",
    ),
    Fault(
        "wall-time ratio inverted",
        "madpo_isaac/report/tables.py",
        "_ratio(seconds, _mean([run.until(stop) for run in base]))",
        "_ratio(_mean([run.until(stop) for run in base]), seconds)",
        "tests/test_report_statistics.py::test_a_slower_group_takes_a_multiple_of_the_baselines_time",
    ),
    Fault(
        "the order by index is that by role",
        ARMS,
        '"algo.agent_order=default")),',
        '"algo.agent_order=spec")),',
        "tests/test_reproduce_arms.py::test_arms_are_these",
    ),
    Fault(
        "the arm kl runs cs",
        ARMS,
        'f"algo.divergence.kind={kind}"',
        '"algo.divergence.kind=cs"',
        "tests/test_reproduce_arms.py::test_arms_are_these",
    ),
    Fault(
        "suites mixed up",
        PAPER,
        '{"MA-MuJoCo": MUJOCO, "Bi-DexHands": HANDS}',
        '{"MA-MuJoCo": HANDS, "Bi-DexHands": MUJOCO}',
        "tests/test_reproduce_arms.py::test_tasks_are_those_of_the_registry",
    ),
    Fault(
        "units of sensed force and torque swapped",
        READINGS,
        'force_{a}", "N", tip, force) for a in AXES]\n'
        '        block += [Reading(f"{tip}/torque_{a}", "N m"',
        'force_{a}", "N m", tip, force) for a in AXES]\n'
        '        block += [Reading(f"{tip}/torque_{a}", "N"',
        "tests/test_export.py::test_the_contract_says_what_goes_in_and_comes_out",
    ),
    Fault(
        "units of commanded force and torque swapped",
        READINGS,
        '3 * [("N", drive.force)] + 3 * [("N m", drive.torque)]',
        '3 * [("N m", drive.force)] + 3 * [("N", drive.torque)]',
        "tests/test_interop.py::test_bases_of_floating_hands_are_described",
    ),
)


class ListError(Exception):
    """The list does not fit the code; the message says where."""


def planted(fault: Fault, root: Path) -> str:
    """Returns the text of a fault's file with the fault in it.

    Raises:
        ListError: the text to replace is not there exactly once, or there is no such file.
    """
    path = root / fault.file
    text = path.read_text() if path.is_file() else ""
    count = text.count(fault.old)
    if count != 1:
        raise ListError(f"{fault.name}: {fault.old!r} is {count} times in {fault.file}, not once.")
    return text.replace(fault.old, fault.new)


def copy_checkout(root: Path) -> None:
    """Copies to ``root`` what git has or would have of the checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for name in filter(None, listing.stdout.split("\0")):
        if os.path.lexists(ROOT / name):  # else it was removed, but is still in the index
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)


def run(tests: Iterable[str], root: Path) -> int:
    """Runs tests of the checkout in ``root`` and returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode not in (PASSED, FAILED):
        raise ListError(f"pytest cannot run {' '.join(tests)}:\n{done.stdout}")
    return done.returncode


def main(words: Sequence[str]) -> int:
    """Plants the faults whose names contain one of ``words``, or all; returns the exit code."""
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    if not chosen:
        raise ListError(f"no fault has {' or '.join(map(repr, words))} in its name.")
    for fault in chosen:
        planted(fault, ROOT)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="plant_faults_") as folder:
        root = Path(folder, "checkout")
        copy_checkout(root)
        if run(sorted({fault.test for fault in chosen}), root) == FAILED:
            raise ListError("the tests fail without a fault, so they cannot tell.")
        for fault in chosen:
            path, start = root / fault.file, time.perf_counter()
            before = path.read_text()
            path.write_text(planted(fault, root))
            caught = run([fault.test], root) == FAILED
            path.write_text(before)
            missed += not caught
            verdict = "caught" if caught else "MISSED"
            seconds = time.perf_counter() - start
            sys.stdout.write(f"{verdict}  {seconds:4.0f} s  {fault.name:48} {fault.test}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - missed} of {len(chosen)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ListError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
