"""Documentation that is true where a test can tell: links, files, commands, the new task."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_runner import _keep_torch_settings  # noqa: F401

from madpo_isaac import tasks
from madpo_isaac.__main__ import COMMANDS
from madpo_isaac.commands.train import main
from madpo_isaac.config import overrides
from madpo_isaac.config.nodes import register
from madpo_isaac.config.overrides import compose
from madpo_isaac.tasks import registry

ROOT = Path(__file__).parents[1]
TOP_PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*TOP_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TOP = {path.name for path in ROOT.iterdir()}
NEW = ("tasks/hands/lift.py", "cfg/task/ShadowHandLift.yaml")
"""Files of the page about new tasks."""


def anchors(page):
    """GitHub's names of a page's headings."""
    fenced = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", fenced, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_are_there(page):
    for name in re.findall(r"`([\w./-]+)`", page.read_text()):
        if "/" in name and name.split("/")[0] in TOP - {"runs"} and name not in NEW:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_have_keys_that_there_are(page):
    """Every line that starts train.py, without checkpoints, sweeps and other simulators."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.partition(" #")[0].split()
            if words[:2] == ["python", "train.py"]:
                given = [word for word in words[2:] if word != "..."]
                skip = ("checkpoint=", "resume=", "-", "hydra/", "sim=isaac", "task.hand=/")
                if any(word.startswith(skip) for word in given) or re.search(r"<|Lift", line):
                    continue
                compose(given)
            elif words[:1] == ["madpo"] and len(words) > 1:
                assert words[1] in COMMANDS, line


# The new task ------------------------------------------------------------------------------------


@pytest.fixture
def lift(tmp_path, monkeypatch):
    """The page's files, in a copy of what they would be put into."""
    text = (ROOT / "docs" / "new_task.md").read_text()
    (code,), (numbers,) = (
        re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        for kind in ("python", "yaml")
    )
    (line,) = re.findall(r'^    ("ShadowHandLift": ".*"),$', text, flags=re.MULTILINE)
    name, module = json.loads(f"{{{line}}}").popitem()
    assert NEW[0] == module.removeprefix("madpo_isaac.").replace(".", "/") + ".py"
    (tmp_path / "lift.py").write_text(code)
    shutil.copytree(ROOT / "cfg", tmp_path / "cfg")
    (tmp_path / NEW[1]).write_text(numbers)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.TASKS, name, "lift")
    monkeypatch.setattr(overrides, "CONFIG_DIR", tmp_path / "cfg")
    register.cache_clear()
    yield name
    sys.modules.pop("lift", None)


def test_the_new_task_is_what_the_page_says(lift):
    env = tasks.make(lift, 4, agents="fingers", num_threads=1, target_height=0.6)
    assert env.reset().shape == (4, 2 * 187 + 13) and len(env.agents) == 12
    env._pose[:, 2] = env._pose.new_tensor([0.54, 0.59, 0.61, 0.19])
    outcome = env.evaluate()
    assert outcome.reward.tolist() == pytest.approx([0.0, 0.05, 0.07, 0.0], abs=1e-6)
    assert outcome.success.tolist() == [False, False, True, False]
    assert outcome.terminated.tolist() == [False, False, False, True]
    assert len({reading.name for reading in env.readings()}) == env.state_dim


@pytest.mark.parametrize("algo", ["madpo", "hatrpo"])
def test_the_new_task_trains_by_the_command_line(lift, algo, tmp_path):
    small = ["num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1"]
    argv = [f"task={lift}", f"algo={algo}", "task.target_height=0.8", *small]
    assert main([*argv, "max_iterations=2", f"runs_dir={tmp_path}/runs", "experiment=x"]) == 0
    lines = (tmp_path / "runs" / "x" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["env_steps"] == 64
    assert "Episode_Reward/height" in json.loads(lines[1])


def test_the_new_tasks_code_passes_the_linter(lift, tmp_path):
    command = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run([*command, tmp_path / "lift.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
