"""Exported policies give the actions of the policy in the program, and say what they are for."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from toy import layer_norm

from madpo_isaac import __main__ as program
from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.interop import export as exporting
from madpo_isaac.interop.export import export, loaded
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.policy import load_policy

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason="onnx and onnxruntime are not installed (extra export)"
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "torchscript"]
SMALL = ("num_envs=4", "algo.horizon=6", "algo.hidden=[16,12]", "num_threads=1", "max_iterations=1")
SMALL += ("algo.critic_epochs=1", "algo.num_minibatches=1")
HANDS = ("task=ShadowHandOver", "task.episode_length=12")
RUNS = {
    "hands": (
        *HANDS,
        "algo=madpo",
        "algo.input_norm=both",
        "algo.lr_schedule=constant",
        "algo.actor_lr=0.05",
    ),
    "fingers": (
        *HANDS,
        "algo=mappo",
        "task.agents=fingers",
        "algo.lr_schedule=constant",
        "algo.actor_lr=0.02",
        "algo.input_norm=layer",
        "algo.activation=relu",
    ),
    "robot": (
        "task=HalfCheetah-2x3",
        "task.observation=standardized",
        "algo=mappo",
        "algo.input_norm=both",
    ),
    "near": ("task=Ant-4x2", "algo=happo", "task.agent_obsk=1", "algo.activation=elu"),
}
AGENTS = {"hands": 2, "fingers": 12, "robot": 2, "near": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of one iteration for each of RUNS."""
    folder = tmp_path_factory.mktemp("runs")
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    for name, overrides in RUNS.items():
        assert main([*SMALL, *overrides, f"runs_dir={folder}", f"experiment={name}"]) == 0
    yield folder
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def the_policy(run):
    """The environments, and the program's own player of a run: joint states to mean actions."""
    env = make_env(compose([f"checkpoint={run}", "test=True", "num_envs=5"]))
    return env, load_policy(run, env)


def read(folder, kind):
    """The contract, and by agent what its file computes."""
    contract = json.loads((folder / "contract.json").read_text())
    files = {
        agent["name"]: loaded((folder / agent["file"]).read_bytes(), kind, agent["input"]["name"])
        for agent in contract["agents"]
    }
    return contract, files


def pairs():
    """Every run in ONNX, and one in TorchScript; the others in TorchScript are slow."""
    for run in RUNS:
        yield pytest.param(run, "onnx", marks=needs_onnx)
        yield pytest.param(run, "torchscript", marks=() if run == "hands" else pytest.mark.slow)


@pytest.mark.parametrize(("run", "kind"), pairs())
def test_files_act_as_the_player_does(runs, run, kind, tmp_path):
    assert export(str(runs / run), kind, tmp_path) == tmp_path
    contract, files = read(tmp_path, kind)
    assert len(files) == AGENTS[run] and contract["format"] == kind
    env, act = the_policy(runs / run)
    env.generator.manual_seed(99)  # states that the export has not seen
    state, largest_std = env.reset(), 0.0
    for _ in range(6):
        mean, clipped = act(state), torch.zeros(5, env.action_dim)
        covered = []
        for agent in contract["agents"]:
            limits = [(c["low"], c["high"]) for c in agent["commands"]]
            low, high = torch.tensor(limits).T
            expected = mean[:, agent["action_columns"]].clamp(low, high).numpy()
            spec = next(a for a in env.agents if a.name == agent["name"])
            seen = state if agent["input"]["name"] == "state" else spec.observe(state)
            assert 0.0 < agent["largest_error"] < 1e-5
            assert seen.shape[1] == len(agent["input"]["columns"])
            action, command = files[agent["name"]](seen.numpy())
            assert action.dtype == command.dtype == np.float32
            assert np.abs(action - expected).max() < 1e-5
            scale, offset = (
                np.array([c[k] for c in agent["commands"]]) for k in ("scale", "offset")
            )
            assert command == pytest.approx(offset + scale * action, abs=1e-5 * abs(scale).max())
            clipped[:, agent["action_columns"]] = torch.from_numpy(action)
            covered += agent["action_columns"]
        assert sorted(covered) == list(range(env.action_dim))
        largest_std = max(largest_std, mean.std(0).max().item())
        state = env.step(clipped).state
    assert largest_std > 1e-3  # the policies do react to what they see


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_beyond_the_limits_is_clipped_inside_the_file(runs, kind, tmp_path):
    export(str(runs / "hands"), kind, tmp_path)
    contract, files = read(tmp_path, kind)
    rng = np.random.default_rng(0)
    seen = (20.0 * rng.standard_normal((50, 211))).astype(np.float32)
    action, command = files["hand1"](seen)
    assert np.array_equal(action, files["hand1"](seen.clip(-5, 5))[0])
    assert action.max() == 1.0 and action.min() == -1.0
    joints = [c["name"] for c in contract["agents"][1]["commands"]]
    model = tasks.make("ShadowHandOver", 1, num_threads=1).sim.model
    for name, column in zip(joints, command.T, strict=True):
        low, high = model.joint(name.replace("/", "_robot0:")).range
        assert low - 1e-5 <= column.min() <= column.max() <= high + 1e-5


def test_a_file_is_the_network_in_float64(runs, tmp_path):
    """The fingers' shared network by hand: one-hot number, observation, padded widths, no value."""
    export(str(runs / "fingers"), "torchscript", tmp_path)
    _, files = read(tmp_path, "torchscript")
    env, policy = the_policy(runs / "fingers")
    stack = policy.learner.algo.actors.stack
    whole = {name: value[0].double().numpy() for name, value in stack.stacked.items()}
    state = env.reset()
    for p, agent in enumerate(env.agents):
        one_hot = np.eye(12)[[p] * 5]
        x = np.concatenate((one_hot, agent.observe(state).double().numpy()), axis=1)
        for k in range(2):
            x = layer_norm(x, whole[f"norm{k}.weight"], whole[f"norm{k}.bias"])
            x = np.maximum(x @ whole[f"linear{k}.weight"].T + whole[f"linear{k}.bias"], 0.0)
        x = layer_norm(x, whole["norm2.weight"], whole["norm2.bias"])
        mean = (x @ whole["out.weight"].T + whole["out.bias"])[:, 1 : 1 + agent.act_dim]
        action, _ = files[agent.name](agent.observe(state).numpy())
        assert action == pytest.approx(mean.clip(-1, 1), abs=1e-5)


def test_the_contract_says_what_goes_in_and_comes_out(runs):
    out = export(str(runs / "hands" / "nn" / "last.pth"), "torchscript")
    assert out == runs / "hands" / "export"
    text = (out / "contract.json").read_text()
    contract = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    origin = {key: contract[key] for key in ("task", "algo", "sim", "iteration", "env_steps")}
    assert origin == {
        "task": "ShadowHandOver",
        "algo": "madpo",
        "sim": "mujoco",
        "iteration": 1,
        "env_steps": 24,
    }
    assert (contract["run"], contract["checkpoint"]) == ("hands", "last.pth")
    assert contract["control_rate_hz"] == pytest.approx(60.0)
    hand = contract["agents"][1]
    assert (hand["name"], hand["file"]) == ("hand1", "hand1.pt")
    assert hand["action_columns"] == list(range(20, 40))
    columns = {column["name"]: column for column in hand["input"]["columns"]}
    assert next(iter(columns)) == "hand1/WRJ1/position" and len(columns) == 211
    assert columns["object/rate_x"] == {
        "name": "object/rate_x",
        "unit": "rad/s",
        "frame": "world",
        "scale": 0.2,
        "offset": 0.0,
        "low": -5.0,
        "high": 5.0,
    }
    units = {name: columns[f"hand1/thdistal/{name}_z"]["unit"] for name in ("force", "torque")}
    assert units == {"force": "N", "torque": "N m"}
    first = hand["commands"][0]
    assert (first["name"], first["unit"], first["low"]) == ("hand1/WRJ1", "rad", -1.0)
    assert first["scale"] == pytest.approx((0.140 + 0.489) / 2)


def test_limits_that_are_not_there_are_null(runs, tmp_path):
    export(str(runs / "robot"), "torchscript", tmp_path)
    contract = json.loads((tmp_path / "contract.json").read_text())
    column = contract["agents"][0]["input"]["columns"][0]
    assert contract["agents"][0]["input"]["name"] == "state"
    assert (column["low"], column["high"]) == (None, None)
    assert contract["agents"][1]["commands"][2]["name"] == "ffoot"


def test_a_file_that_is_off_is_refused(runs, tmp_path, monkeypatch):
    class Wrong(exporting.PortablePolicy):
        def forward(self, seen):
            action, command = super().forward(seen)
            return action + 1e-4, command

    monkeypatch.setattr(exporting, "PortablePolicy", Wrong)
    with pytest.raises(UserError, match=r"Agent 'hand0' cannot be exported.*off by 1\.0e-04"):
        export(str(runs / "hands"), "torchscript", tmp_path)
    assert list(tmp_path.iterdir()) == []


# The command ------------------------------------------------------------------------------------


def test_the_command_writes_the_files(runs, tmp_path, capsys):
    arguments = ["export", str(runs / "hands"), "--format", "torchscript", "--out", str(tmp_path)]
    assert program.main(arguments) == 0
    said = capsys.readouterr().out
    contract = json.loads((tmp_path / "contract.json").read_text())
    largest = max(agent["largest_error"] for agent in contract["agents"])
    assert "contract.json and a file per agent (2)" in said and f"actions: {largest:.1e}" in said
    assert {p.name for p in tmp_path.iterdir()} == {"contract.json", "hand0.pt", "hand1.pt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "Checkpoint './nowhere' does not exist."),
        (["ShadowHandOver-"], "Unknown policy 'ShadowHandOver-'. Did you mean 'ShadowHandOver'?"),
        (['a"b'], "Checkpoint 'a\"b' does not exist."),
        (["x", "--format", "onx"], "Unknown format 'onx'. Did you mean 'onnx'?"),
        ([], "madpo export: the following arguments are required: policy"),
        (["x", "--fromat", "onnx"], "Unknown option '--fromat'. Did you mean '--format'?"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "_need_onnx", lambda: None)
    assert program.main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_ppo_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "p").mkdir()
    record = as_yaml(compose(["task=HalfCheetah-2x3", "algo=ppo"]))
    (tmp_path / "p" / "config.yaml").write_text(record)
    assert program.main(["export", str(tmp_path / "p"), "--format", "torchscript"]) == 2
    error = capsys.readouterr().err
    assert "algo=ppo" in error and error.count("\n") == 1
    assert not (tmp_path / "p" / "export").exists()


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert program.main(["export", "x"]) == 2
    assert "pip install -e '.[export]'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        export(str(runs / "hands"), "torchscript", tmp_path / "file" / "below")


def test_the_program_lists_its_commands(capsys):
    assert program.main([]) == program.main(["--help"]) == 0
    assert "madpo export" in capsys.readouterr().out
    assert program.main(["exprot"]) == 2
    assert "Did you mean 'export'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", FORMATS)
def test_the_projects_own_policy_can_be_exported(kind, tmp_path):
    out = export("ShadowHandOver", kind, tmp_path)
    contract, files = read(out, kind)
    assert (contract["task"], contract["run"], len(files)) == ("ShadowHandOver", None, 2)


@needs_onnx
def test_the_file_needs_only_onnxruntime(runs, tmp_path):
    export(str(runs / "fingers"), "onnx", tmp_path)
    code = (
        "import sys, numpy, onnxruntime;"
        f"run = onnxruntime.InferenceSession({str(tmp_path / 'hand0_th.onnx')!r}).run;"
        "action, command = run(None, {'observation': numpy.zeros((3, 211), 'float32')});"
        "assert action.shape == command.shape == (3, 5) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("change", ["nan", "whole numbers"])
def test_parameters_that_are_no_policy_are_named(runs, tmp_path, change):
    path = tmp_path / "x.pth"
    content = torch.load(runs / "near/nn/last.pth", weights_only=True)
    actors = content["algo_state"]["actors"]
    if change == "nan":
        actors[0, 3] = torch.nan
    else:
        content["algo_state"]["actors"] = actors.long()
    torch.save(content, path)
    with pytest.raises(UserError, match=r"x\.pth' has .*actors that are no"):
        export(str(path), kind="torchscript", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
