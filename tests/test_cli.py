"""The command line: bad input is one clear line and changes nothing; Hydra's own flags work."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import ONCE

from madpo_isaac.__main__ import main as madpo
from madpo_isaac.commands.train import main
from madpo_isaac.config import overrides
from madpo_isaac.config.schema import Config
from madpo_isaac.training import runner

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
SMALL = (
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    *ONCE,
    "num_threads=1",
    "max_iterations=1",
)


@pytest.fixture(autouse=True)
def _keep_torch_settings():
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, argv, *parts, out=""):
    """Runs ``argv`` and checks that it ends with one line on stderr that has all ``parts``."""
    code = main(argv)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, out)
    assert re.fullmatch(r"error: [^\n\x1b]+\n", captured.err)
    missing = [part for part in parts if part not in captured.err]
    assert not missing, captured.err


# Bad input --------------------------------------------------------------------------------------

BAD = [
    # Names of tasks, algorithms, engines.
    ("task=ShadowHandover", "'ShadowHandover'", "Did you mean 'ShadowHandOver'?", "Allowed: "),
    ("task=shadowhandover", "Did you mean 'ShadowHandOver'?"),
    ("task=", "Unknown task ''", "Allowed: "),
    ("task=null", "Unknown task 'null'"),
    ("task='ShadowHandOvr'", "Unknown task 'ShadowHandOvr'. Did you mean 'ShadowHandOver'?"),
    ("task=[a]", "Unknown task '[a]'"),
    ("task={a:b}", "Unknown task '{a:b}'"),
    ("algo=mapo", "Unknown algo 'mapo'", "Did you mean 'mappo'?", "happo"),
    ("algo=3", "Unknown algo '3'"),
    ("algo=madpo.yaml", "Did you mean 'madpo'?"),
    ("sim=mojoco", "Unknown sim 'mojoco'", "Did you mean 'mujoco'?"),
    ("+algo=happo", "'+algo=happo'", "as algo=happo"),
    ("algo@x=happo", "Unknown key 'algo@x'"),
    ("task.name=X", "task=<name>"),
    ("algo.name=happo", "algo=<name>"),
    # Keys.
    ("num_env=3", "'num_env'", "Did you mean 'num_envs'?", "Allowed: ", "max_iterations"),
    ("NUM_ENVS=3", "Did you mean 'num_envs'?"),
    ("gamma=0.9", "Did you mean 'algo.gamma'?"),
    ("algo.clp=0.1", "Did you mean 'algo.clip'?", "Allowed in algo: ", "gae_lambda"),
    ("task.agent=fingers", "Did you mean 'task.agents'?", "Allowed in task: "),
    ("algo.divergence.coeff=1", "Did you mean 'algo.divergence.coef'?", "preset"),
    ("algo.divergance.coef=1", "Did you mean 'algo.divergence'?"),
    ("algo.divergence={coeff: 1}", "Did you mean 'algo.divergence.coef'?"),
    ("algo=happo algo.divergence.coef=1", "Unknown key 'algo.divergence'"),
    ("algo.hidden.0=3", "'algo.hidden' takes one value"),
    ("+foo=1", "Unknown key 'foo'", "Allowed: "),
    ("++algo.foo=1", "Unknown key 'algo.foo'", "Allowed in algo: "),
    ("+num_envs=3", "as num_envs=3"),
    ("~num_envs", "cannot be removed"),
    ("~algo", "cannot be removed"),
    ("=3", "Unknown key ''"),
    ("hydra.foo=1", "Unknown key 'hydra.foo'"),
    ("hydra/launcher=foo", "Unknown hydra/launcher 'foo'", "basic"),
    ("hydra.mode=MULTIRUN", "'hydra.mode=MULTIRUN'", "add -m"),
    ("+hydra.job.env_set.A=1", "add -m"),
    # Types.
    ("num_envs=abc", "num_envs=abc", "a whole number"),
    ("num_envs=1.5", "a whole number"),
    ("num_envs=null", "a whole number"),
    ("num_envs=", "a whole number"),
    ("num_envs=true", "a whole number"),
    ("num_envs=[1]", "a whole number"),
    ("algo.clip=x", "algo.clip=x", "a number"),
    ("algo.hidden=3", "algo.hidden=3", "a list of whole numbers"),
    ("algo.hidden=[a]", "a list of whole numbers"),
    ("algo.hidden=[[16]]", "algo.hidden=[[16]]"),
    (f"algo.hidden={'[' * 300}{']' * 300}", "algo.hidden=[["),
    (f"algo.clip={10**400}", f"algo.clip={10**400} must be a number"),
    ("algo.divergence=3", "a group of settings"),
    ("algo.horizon=x", "a whole number"),
    ("test=maybe", "test=maybe", "True or False"),
    ("headless=2", "headless=2", "True or False"),
    ("runs_dir=", "runs_dir= must name a folder"),
    ("experiment=[a]", "text"),
    ("task=Ant-2x4 task.agent_obsk=x", "task.agent_obsk=x must be null or a whole number"),
    ("num_envs=${foo}", "num_envs", "'foo' not found"),
    ("num_envs=${num_envs}", "num_envs"),
    ("algo.hidden=${num_envs}", "algo.hidden=128 must be a list, each entry a whole number"),
    ("wandb_tags=${seed}", "wandb_tags=1 must be a list, each entry a text"),
    ("algo.divergence=${runs_dir}", "algo.divergence=", "must be a group of settings"),
    ("num_envs=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
    # Syntax.
    ("num_envs", "Cannot read 'num_envs'", "<key>=<value>"),
    ("num_envs:3", "Cannot read 'num_envs:3'"),
    ("task=[", "Cannot read 'task=['"),
    ("algo.hidden=[16", "Cannot read 'algo.hidden=[16'"),
    ("num_envs=4=5", "Cannot read 'num_envs=4=5'"),
    ("checkpoint=last_ep=3_rew[12].pth", "Cannot read", "quotes"),
    ("num_envs=1,2", "several values", "-m"),
    ("seed=range(1,3)", "several values", "-m"),
    # Dashes.
    ("--task=X", "without dashes", "task=X"),
    ("--num-envs 3", "without dashes", "num_envs=<value>"),
    ("-t X", "without dashes"),
    ("--", "without dashes"),
    # Devices.
    ("sim_device=tpu", "'tpu'", "Allowed: cpu, cuda"),
    ("sim_device=mps", "'mps'", "Allowed: cpu, cuda"),
    ("sim_device=cpu:1", "'cpu:1'", "Allowed: cpu, cuda"),
    ("sim_device=cuda:99", "'cuda:99'", "not there"),
    ("rl_device=cuda:0", "rl_device=cuda:0", "sim_device=cpu"),
    # What only the task or the networks can judge.
    ("task.agents=finger", "Did you mean 'fingers'?"),
    ("task.agents=foo", "task.agents=foo", "Allowed: hands, fingers"),
    ("task.agents=[[0,1],[2,3]]", "[[0, 1], [2, 3]]", "Allowed: hands, fingers"),
    ("task.agents=[[0,1,2],[3,4,4]]", "[[0, 1, 2], [3, 4, 4]]"),
    ("task.agents=[[0,1,2,3,4,5],[]]", "Allowed: hands, fingers"),
    ("task.agents=null", "Allowed: hands, fingers"),
    ("task.randomize.friction=[null,1]", "[null,1] must be null or a list of numbers"),
    ("algo.kl_target=[1]", "[1] must be null or a number"),
    ("task.episode_length=0", "task.episode_length=0"),
    ("algo.activation=rellu", "'rellu'", "Did you mean 'relu'?", "tanh"),
    # Hydra's flags.
    ("--cfg job num_env=3", "Did you mean 'num_envs'?"),
    ("algo=mapo --cfg job", "Did you mean 'mappo'?"),
    ("--cfg foo", "'foo'", "job"),
    ("--cfg", "expected one argument"),
    ("--resolve", "--cfg job"),
    ("-m --cfg job", "Only one of"),
    ("--cfg job checkpoint=ShadowHandOver", "in its config.yaml"),
    ("--cfg job resume=auto experiment=x", "in its config.yaml"),
    ("-m seed=1,2 hydra.job.chdir=True", "'hydra.job.chdir=True'"),
    ("--config-name=foo", "'foo'"),
    ("--config-path=cfg/config.yaml", "--config-name"),
    ("--config-dir=/no/such/folder", "'/no/such/folder'"),
    ("--shell-completion", "install=bash"),
    ("--shell-completion install=tcsh", "install=bash"),
    # Checkpoints.
    ("checkpoint=lastest", "'lastest' does not exist", "Did you mean 'latest'?"),
    (f"checkpoint=latest runs_dir={'a' * 5000}", "Cannot read", "File name too long"),
    # Sweeps are checked before the first of their runs.
    ("-m seed=1,x", "seed=x", "a whole number"),
    ("num_envs=1,0 -m", "num_envs=0"),
    ("-m algo=happo,mapo", "Did you mean 'mappo'?"),
    ("-m num_env=1,2", "Did you mean 'num_envs'?"),
    ("-m seed=1,2 algo.clip=[", "Cannot read 'algo.clip=['"),
    ("-m seed=interval(1,3)", "separated by commas"),
    ("-m algo=glob(z*)", "lists no values"),
    ("-m seed=range(1,5,0)", "'seed=range(1,5,0)'", "zero"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[0])
def test_bad_input_is_one_line_and_creates_nothing(empty, capsys, case):
    line, *parts = case
    argv = [line] if "{" in line else line.split()
    refused(capsys, argv, *parts)
    assert not list(empty.iterdir())


@pytest.mark.parametrize("text", ["", " ", "num_envs=4 5", 'experiment="a b"', "experiment=é"])
def test_blanks_and_accents_are_refused_too(empty, capsys, text):
    refused(capsys, [text], text.replace('"', "").partition("=")[2])
    assert not list(empty.iterdir())


def test_what_a_terminal_would_obey_is_written_out(empty, capsys):
    refused(capsys, ["num_envs=\x1b[31m\x07"], r"num_envs=\x1b[31m\x07'")


def test_own_process_has_no_traceback_or_warning(tmp_path):
    command = [sys.executable, str(TRAIN), "task=ShadowHandover"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    wanted = r"error: Unknown task 'ShadowHandover'\. Did you mean 'ShadowHandOver'\? [^\n]*\n"
    assert re.fullmatch(wanted, done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "overrides", [("num_envs=999999999",), ("algo.hidden=[999999,999999]",)], ids=str
)
def test_too_large_for_the_memory(empty, capsys, monkeypatch, overrides):
    def allocate(*_):
        # Not tried for real: a machine that overcommits would start to swap.
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 byte")

    monkeypatch.setattr(runner, "Run", allocate)
    refused(capsys, [*SMALL, *overrides], "Not enough memory", *overrides[0].split(",")[:1])
    assert not list(empty.iterdir())


def test_a_bug_is_not_dressed_up_as_bad_input(empty, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(runner, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(list(SMALL))


def test_interrupted_while_building(empty, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    assert main(list(SMALL)) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


# Folders and checkpoints ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run."""
    runs = tmp_path_factory.mktemp("runs")
    assert main([*SMALL, f"runs_dir={runs}", "experiment=x"]) == 0
    return runs / "x"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_used_folder_is_left_alone(trained, empty, capsys):
    before = contents(trained.parent)
    refused(
        capsys,
        [*SMALL, f"runs_dir={trained.parent}", "experiment=x"],
        f"'{trained}' already holds a run",
        f"checkpoint={trained}",
    )
    assert contents(trained.parent) == before


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_runs_dir_that_cannot_be_one(empty, capsys, below):
    (empty / "file").write_text("mine")
    refused(capsys, [*SMALL, f"runs_dir=file{below}"], "Cannot write run folder 'file")
    refused(capsys, [*SMALL, f"runs_dir=file{below}", "experiment=x"], "'file")
    assert [path.name for path in empty.iterdir()] == ["file"]
    assert (empty / "file").read_text() == "mine"


def without(key):
    def change(content):
        del content[key]

    return change


DAMAGES = {
    "of another task": (lambda content: content.update(task="ShadowHandCatch"), "ShadowHandCatch"),
    "of another algorithm": (lambda content: content.update(algo="mappo"), "algo=mappo"),
    "of a newer version": (lambda content: content.update(format_version=99), "format 99"),
    "without version": (without("format_version"), "not a checkpoint of this program"),
    "without networks": (without("algo_state"), "algo_state"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("test", [False, True])
def test_checkpoint_that_does_not_fit(trained, empty, capsys, kind, test):
    change, part = DAMAGES[kind]
    content = torch.load(trained / "nn" / "last.pth", weights_only=True)
    change(content)
    torch.save(content, "other.pth")
    argv = [*SMALL, "checkpoint=other.pth", f"test={test}", "max_iterations=2"]
    refused(capsys, argv, "'other.pth'", part)
    assert [path.name for path in empty.iterdir()] == ["other.pth"]


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "missing", "folder", "another run"])
def test_checkpoint_that_is_none(trained, empty, capsys, kind):
    path = empty / "other.pth"
    whole = (trained / "nn" / "last.pth").read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"text": b"hello", "truncated": whole[: len(whole) // 2]}.get(kind, b""))
    given = "latest" if kind == "another run" else "other.pth"
    part = {"folder": "other.pth/nn/last.pth", "another run": "no run in"}.get(kind, "other.pth")
    refused(capsys, [*SMALL, f"checkpoint={given}"], part)
    refused(capsys, [*SMALL, f"checkpoint={given}", "test=True"], part)
    assert {p.name for p in empty.iterdir()} <= {"other.pth"}


@pytest.mark.parametrize(
    "override",
    ["algo.hidden=[17]", "task.agents=fingers", "algo=happo", "algo.input_norm=both"],
)
def test_playing_with_other_networks(trained, empty, capsys, override):
    refused(capsys, [*SMALL, f"checkpoint={trained}", "test=True", override], "last.pth")
    assert not list(empty.iterdir())


# Hydra's flags ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_flags_that_only_print(empty, capsys):
    assert main(["--hydra-help"]) == 0
    captured = capsys.readouterr()
    assert "Hydra" in captured.out
    assert captured.err == ""
    assert not list(empty.iterdir())


@pytest.mark.parametrize("argv", [("algo=happo", "--cfg", "job"), ("--cfg", "job", "algo=happo")])
def test_cfg_job_prints_the_configuration(empty, capsys, argv):
    assert main([*argv, "--resolve", "num_envs=7"]) == 0
    out = capsys.readouterr().out
    assert "\nnum_envs: 7\n" in out
    assert "  name: happo\n" in out
    assert "divergence" not in out
    assert not list(empty.iterdir())


@pytest.mark.parametrize(("recipe", "gamma"), [("tuned", 0.95), ("paper", 0.99), ("harl", 0.95)])
def test_cfg_job_prints_any_recipe(capsys, recipe, gamma):
    assert main([f"recipe={recipe}", "--cfg", "job", "--resolve"]) == 0
    out = capsys.readouterr().out
    assert f"\nrecipe: {recipe}\n" in out
    assert f"\n  gamma: {gamma}\n" in out


def test_a_full_disk_below_cfg_is_one_line(monkeypatch, capfd):
    stdout = open("/dev/full", "w", buffering=1)  # noqa: SIM115  what is left cannot be written
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["--cfg", "job"]) == 2
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        stdout.close()
    wanted = r"error: The output cannot be written: No space left on device\.\n"
    assert re.fullmatch(wanted, capfd.readouterr().err)


def test_a_working_folder_that_was_removed_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # which goes back at the end
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert madpo(["doctor"]) == 2
    assert re.fullmatch(r"error: The working folder does [^\n]*\n", capsys.readouterr().err)


def test_no_key_is_taken_for_a_choice_of_a_file():
    """Hydra takes ``name=...`` for a choice if its folder of settings has a folder of that name."""
    folders = {path.name for path in overrides.CONFIG_DIR.iterdir() if path.is_dir()}
    keys = {field.name for field in dataclasses.fields(Config)}
    assert folders & keys == {"task", "algo", "sim"}


def test_arguments_are_given_back(capsys):
    before = list(sys.argv)
    main(["--cfg", "job"])
    assert sys.argv == before


def test_recorded_configuration_can_be_run_again(trained, tmp_path):
    again = f"--config-path={trained}", "--config-name=config"
    assert main([*again, f"runs_dir={tmp_path}", "experiment=again", "seed=1"]) == 0
    first, second = (
        json.loads((run / "metrics.jsonl").read_text()) for run in (trained, tmp_path / "again")
    )
    assert first["loss"] == second["loss"]
    assert first["agent1/divergence_inter"] == second["agent1/divergence_inter"]


def test_other_files_do_not_go_with_a_run_that_goes_on(trained, empty, capsys):
    for flag in ("--config-path", "--config-dir", "--config-name"):
        for key in (f"checkpoint={trained}", "resume=auto"):
            argv = [f"{flag}=config", key, "experiment=x"]
            refused(capsys, argv, f"{flag} cannot be combined", "the files would be ignored")
    assert not list(empty.iterdir())


def test_recorded_configuration_keeps_its_types(trained, empty, capsys):
    again = f"--config-path={trained}", "--config-name=config"
    refused(capsys, [*again, "num_envs=abc"], "num_envs", "'abc'")
    refused(capsys, [*again, "num_envs=0"], "num_envs=0")
    refused(capsys, [*again, "num_env=3"], "Unknown key 'num_env'")
    assert not list(empty.iterdir())


def test_sweep_makes_one_run_per_value(empty):
    assert main([*SMALL, "-m", "seed=1,2", "algo=happo"]) == 0
    names = sorted(path.name for path in (empty / "runs").iterdir() if path.is_dir())
    assert [name[:27] for name in names] == [
        "ShadowHandOver_happo_s1_202",
        "ShadowHandOver_happo_s2_202",
    ]
    for name, seed in zip(names, (1, 2), strict=True):
        overrides = (empty / "runs" / name / "overrides.txt").read_text().splitlines()
        assert f"seed={seed}" in overrides
        assert len((empty / "runs" / name / "metrics.jsonl").read_text().splitlines()) == 1


def test_sweep_over_recipes(empty):
    assert main([*SMALL, "-m", "recipe=paper,harl", "algo=happo", "experiment=${recipe}"]) == 0
    for recipe in "paper", "harl":
        text = (empty / "runs" / recipe / "config.yaml").read_text()
        assert f"\nrecipe: {recipe}\n" in text


def test_sweep_goes_on_after_a_bad_run_but_says_so(empty, capsys):
    assert main([*SMALL, "-m", "task.agents=foo,hands"]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: task\.agents=foo is not [^\n]*\n", captured.err)
    assert len(list(empty.glob("runs/*/nn/last.pth"))) == 1


def test_a_wrong_recipe_in_a_sweep_is_the_line_of_a_single_run(empty, capsys):
    lines = []
    for flags in [], ["-m"]:
        assert main([*SMALL, *flags, "recipe=papr"]) == 2
        lines.append(capsys.readouterr().err)
    assert lines[0].startswith("error: Unknown recipe 'papr'. Did you mean 'paper'?")
    assert lines[1] == lines[0]
    assert not list(empty.glob("runs/*/nn"))


def test_sweep_ends_at_an_interruption(empty, capsys, monkeypatch):
    seeds = []

    def interrupted(config, overrides):
        seeds.append(config.seed)
        return runner.Ended(130, empty)

    monkeypatch.setattr(runner, "run", interrupted)
    assert main([*SMALL, "-m", "seed=1,2,3"]) == 130
    assert seeds == [1]
    assert capsys.readouterr().err == ""
