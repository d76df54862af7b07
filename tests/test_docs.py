"""Documentation that is true where a test can tell: links, files, commands, new parts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_runner import _keep_torch_settings  # noqa: F401
from tiny_run import ONCE
from toy import ToyEnv, build, settings

from madpo_isaac import plugins, tasks
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS, HAPPO, register_algorithm
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.commands import COMMANDS
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError

ROOT = Path(__file__).parents[1]
TOP_PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*TOP_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TOP = {path.name for path in ROOT.iterdir()}
NEW = tuple(f"cfg/{name}.yaml" for name in ("task/ShadowHandLift", "algo/calm", "sim/moon"))
"""Files of the pages about new parts."""


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
        if "/" in name and name.split("/")[0] in TOP - {"runs", "report"} and name not in NEW:
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
                if any(word.startswith(skip) for word in given) or re.search("<|plugins=", line):
                    continue
                compose(given)
            elif words[:1] == ["madpo"] and len(words) > 1:
                assert words[1] in COMMANDS, line


# New parts --------------------------------------------------------------------------------------


def blocks(page, kind):
    """The code of one kind on a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def parts(tmp_path, plugins_forgotten):
    """Returns a function that writes a page's files into a folder."""

    def write(page):
        """The page's Python file, for ``plugins=``; its YAML file is where the page says."""
        text = (ROOT / "docs" / page).read_text()
        for name, _, content in re.findall(
            r"^## \d\. [^\n]*`([\w/.]+)`[^\n]*\n\n```(python|yaml)\n(.*?)^```",
            text,
            re.DOTALL | re.MULTILINE,
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        (file,) = tmp_path.glob("*.py")
        return file

    return write


SMALL = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16,16]", "num_threads=1", *ONCE)


def trained(folder, *argv):
    """Trains for two iterations by the command line; returns the record and the last metrics."""
    where = [f"runs_dir={folder}/runs", "experiment=x", "max_iterations=2", "save_frequency=1"]
    assert main([*argv, *SMALL, *where]) == 0
    run = folder / "runs" / "x"
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    return yaml.safe_load((run / "config.yaml").read_text()), json.loads(last)


def test_the_new_task_is_what_the_page_says(parts):
    plugins.load(str(parts("new_task.md")))
    env = tasks.make("ShadowHandLift", 4, agents="fingers", num_threads=1, target_height=0.6)
    assert env.reset().shape == (4, 2 * 187 + 13) and len(env.agents) == 12
    env._pose[:, 2] = env._pose.new_tensor([0.54, 0.59, 0.61, 0.19])
    outcome = env.evaluate()
    assert outcome.reward.tolist() == pytest.approx([0.0, 0.05, 0.07, 0.0], abs=1e-6)
    assert outcome.success.tolist() == [False, False, True, False]
    assert outcome.terminated.tolist() == [False, False, False, True]
    assert len({reading.name for reading in env.readings()}) == env.state_dim


@pytest.mark.parametrize("algo", ["madpo", "hatrpo"])
def test_the_new_task_trains_by_the_command_line(parts, algo, tmp_path):
    argv = ["task=ShadowHandLift", f"algo={algo}", "task.target_height=0.8"]
    record, last = trained(tmp_path, f"plugins=[{parts('new_task.md')}]", *argv)
    assert (record["task"]["agents_see"], record["task"]["target_height"]) == ("own", 0.8)
    assert last["env_steps"] == 64 and "Episode_Reward/height" in last


def test_the_new_algorithm_does_what_the_page_says(parts, tmp_path):
    """Its bonus and its gradient by hand, its numbers from its YAML file, a run and its record."""
    file = parts("new_algorithm.md")
    record, _ = trained(tmp_path, f"plugins=[{file}]", "task=HalfCheetah-2x3", "algo=calm")
    assert record["plugins"] == [str(file)] and record["algo"]["effort_coef"] == 0.001
    assert record["algo"]["lr_schedule"] == "adaptive"  # the recipe's
    algo = build(ALGORITHMS["calm"], settings(ALGO_SCHEMAS["calm"], effort_coef=0.5), ToyEnv())
    mean = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    bonus = algo.bonus(None, slice(0, 2), mean, torch.ones(2))
    assert bonus.item() == -0.5 * 14.0
    for value, part in ((-1, "must not be negative"), ("x", "must be a number")):
        with pytest.raises(UserError, match=f"algo.effort_coef={value}.* {part}"):
            compose([f"plugins=[{file}]", "algo=calm", f"algo.effort_coef={value}"])
    with pytest.raises(UserError, match=r"Unknown algo 'clam'\. Did you mean 'calm'"):
        compose([f"plugins=[{file}]", "algo=clam"])


def test_the_new_network_is_used_by_policies_and_critic(parts, tmp_path):
    argv = ["task=HalfCheetah-2x3", "algo=mappo", "algo.network=two_paths"]
    record, _ = trained(tmp_path, f"plugins=[{parts('new_network.md')}]", *argv)
    assert record["algo"]["network"] == "two_paths"
    state = torch.load(tmp_path / "runs/x/nn/last.pth", weights_only=True)["algo_state"]
    width, agents = 17 + 2, 2  # one network for both, with the agent's number
    out = 3  # joints of an agent
    layers = (width * 16 + 16) + (16 * 16 + 16) + (16 * out + out) + (width * out + out)
    assert state["actors"].shape == (1, layers + 3) and agents == 2


def test_the_new_engine_pulls_as_the_page_says(parts, tmp_path):
    file = parts("new_engine.md")
    record, _ = trained(tmp_path, f"plugins=[{file}]", "task=HalfCheetah-2x3", "sim=moon")
    assert record["sim"] == {"name": "moon", "gravity": 1.625}
    env = tasks.make("HalfCheetah-2x3", 1, sim="moon", sim_settings={"gravity": 2.0})
    assert env.sim.model.opt.gravity.tolist() == [0.0, 0.0, -2.0]
    with pytest.raises(UserError, match=r"Unknown setting of sim=moon 'gravitas'\. Did you mean"):
        tasks.make("HalfCheetah-2x3", 1, sim="moon", sim_settings={"gravitas": 2.0})


def test_a_run_finds_its_plugin_again(parts, tmp_path, monkeypatch, capsys):
    """From any folder, without being told; where the file has moved the command line says so."""
    file = parts("new_algorithm.md")
    monkeypatch.chdir(tmp_path)
    trained(tmp_path, f"plugins=[{file.name}]", "task=HalfCheetah-2x3", "algo=calm")
    monkeypatch.chdir(tmp_path.parent)
    run = f"checkpoint={tmp_path}/runs/x"
    assert main([run, "max_iterations=3"]) == 0
    assert main([run, "test=True"]) == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    sys.modules.pop("calm")
    file.rename(moved / "calm.py")
    capsys.readouterr()
    assert main([run, "test=True"]) == 2
    assert "plugins: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x != str(tmp_path)])
    monkeypatch.setattr(plugins, "FOLDERS", [])
    assert main([run, "test=True", f"plugins=[{moved}/calm.py]"]) == 0
    sys.modules.pop("calm")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x =", "plugins: '.*odd.py' cannot be imported (.*odd.py, line 1: SyntaxError"),
        ("import nowhere", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (None, "plugins: '.*odd.py' is no Python file"),
        ("import sys; sys.exit(3)", "cannot be imported (.*line 1: SystemExit: 3"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(parts, text, part, tmp_path, capsys):
    if text is not None:
        (tmp_path / "odd.py").write_text(text)
    assert main([f"plugins=[{tmp_path}/odd.py]"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(part.replace("(", r"\(", 1), error)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("odd.v2.py", "odd.v2.py' has a dot in its name"),
        ("loop.py", "loop.py' "),
        (f"{300 * 'x'}.py", "cannot be read: .*name too long"),
    ],
)
def test_a_plugin_whose_file_cannot_be_used_is_one_line(parts, name, part, tmp_path, capsys):
    if name == "loop.py":
        (tmp_path / name).symlink_to(name)
    elif name == "odd.v2.py":
        (tmp_path / name).write_text("raise RuntimeError('is not imported')")
    assert main([f"plugins=[{tmp_path}/{name}]"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(part, error)


@pytest.mark.parametrize(
    ("train", "part"),
    [
        ("train: {horizon: 3", r"ShadowHandLift\.yaml', line \d+: .*expected ',' or '}'"),
        ("train: {hidden: 5}", "algo.hidden=5 must be a list, each entry a whole number"),
        ("train: {algos: {hapo: {horizon: 3}}}", "'hapo'. Did you mean 'happo'?"),
        ("train: {algos: {happo: 3}}", "must be written as {<algorithm>: {<key>: <value>}}"),
        ("train: {algos: [happo]}", "must be written as {<algorithm>: {<key>: <value>}}"),
        ("train: {horizn: 3}", "'horizn'. Did you mean 'horizon'?"),
    ],
)
def test_a_mistake_in_the_new_tasks_yaml_is_one_line(parts, train, part, capsys):
    file = parts("new_task.md")
    path = file.parent / "cfg" / "task" / "ShadowHandLift.yaml"
    path.write_text(path.read_text().partition("train:")[0] + train + "\n")
    assert main([f"plugins=[{file}]", "task=ShadowHandLift", "algo=happo"]) == 2
    error = capsys.readouterr().err
    pattern = part if "\\" in part else re.escape(part)
    assert error.count("\n") == 1 and re.search(pattern, error)


def test_a_name_is_given_once(parts):
    with pytest.raises(UserError, match="There is an algorithm 'happo' already"):
        register_algorithm("happo", AlgoConfig)(type("Other", (HAPPO,), {"__module__": "other"}))
    with pytest.raises(UserError, match="There is a task 'Ant-4x2' already"):
        tasks.register_task("Ant-4x2", AlgoConfig)(VecEnv)


@pytest.mark.parametrize("page", ["task", "algorithm", "network", "engine"])
def test_the_code_of_new_parts_passes_the_linter(parts, page):
    command = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run([*command, parts(f"new_{page}.md")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
