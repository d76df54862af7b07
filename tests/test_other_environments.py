"""Runs that go on from a checkpoint in a folder of their own, where environments may be others."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from test_resume import (
    OWN,
    TINY,
    first_half,  # noqa: F401
    half,  # noqa: F401
    recorded,
    refused,
    status,
    train,
)
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    assert_same,
    metrics,
    timeless,
    weights,
)
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.config.overrides import compose
from madpo_isaac.training.run import Run


def by_path(tree, above=()):
    """The leaves of nested mappings and lists, by the keys that lead to them."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            yield from by_path(value, (*above, key))
        else:
            yield (*above, key), value


@pytest.mark.parametrize(
    "algo",
    [OWN[:1], ("algo=ppo",), ("algo=madpo", "algo.divergence.preset=printed"), ("algo=a2po",)],
    ids=str,
)
def test_a_new_folder_may_have_other_environments(tmp_path, algo, capsys):
    tiny = [text for text in TINY if algo != ("algo=ppo",) or text not in ONCE[:2]]
    train(tmp_path, *tiny, *algo, "seed=7", "experiment=x", "max_iterations=2")
    saved = weights(tmp_path / "x")
    new = f"checkpoint={tmp_path}/x", "experiment=y", "num_envs=6", "seed=9", "max_iterations=4"
    config = compose([f"runs_dir={tmp_path}", *new])
    untouched, work = Run(config), Run(config)
    capsys.readouterr()
    work.restore(tmp_path / "x" / "nn" / "last.pth", elsewhere=True)
    said = capsys.readouterr().out
    assert "was trained with num_envs=4, not 6; seed=7, not 9" in said
    fresh = dict(by_path(untouched.checkpoint(untouched.now())))
    anew = {"env_state", "tracker", "state"}
    drawn = {"generator", "order_generator", "random"}
    taken = 0
    for path, value in by_path(work.checkpoint(work.now())):
        if path[0] in ("config", "wall_s"):
            continue
        own = path[0] in anew or drawn & set(map(str, path))
        assert_same(value, (fresh if own else dict(by_path(saved)))[path], str(path))
        taken += not own and isinstance(value, torch.Tensor)
    assert taken > 4
    train(tmp_path, *new)
    last = metrics(tmp_path / "y")[-1]
    assert (last["iteration"], last["env_steps"]) == (4, 2 * 4 * 8 + 2 * 6 * 8)
    assert recorded(tmp_path / "y").num_envs == 6


def test_seeds_part_after_a_common_checkpoint(half, tmp_path):  # noqa: F811
    for name, seed in (("a", 8), ("b", 9), ("c", 8)):
        command = f"checkpoint={half}", f"experiment={name}", f"seed={seed}", "max_iterations=3"
        train(tmp_path, *command)
    a, b, c = (weights(tmp_path / name)["algo_state"]["actors"] for name in "abc")
    assert torch.equal(a, c)
    assert not torch.equal(a, b)


def test_a_run_with_other_environments_starts_again_and_goes_on(half, tmp_path, capsys):  # noqa: F811
    """It is killed before its first checkpoint, and after it; the same command starts it."""
    command = f"checkpoint={half}", "experiment=y", "num_envs=6", "resume=auto"
    train(tmp_path, *command, "max_iterations=4")
    whole, run = timeless(tmp_path / "y"), tmp_path / "y"
    shutil.rmtree(run / "nn")
    (run / "status.json").write_text(json.dumps(status(run) | {"state": "running"}))
    train(tmp_path, *command, "max_iterations=3")
    assert "environments and random numbers begin anew" in capsys.readouterr().out
    train(tmp_path, *command, "max_iterations=4")
    assert "begin anew" not in capsys.readouterr().out
    assert timeless(run) == whole


@pytest.mark.parametrize(
    ("sim", "engine", "device"),
    [
        ("auto", "warp", "cuda:0"),
        ("warp", "warp", "cpu"),
        ("auto", "mujoco", "cpu"),
        ("mujoco", "mujoco", "cpu"),
    ],
)
def test_a_new_folder_may_have_another_engine(half, tmp_path, sim, engine, device):  # noqa: F811
    new = f"checkpoint={half}", "experiment=y", f"sim={sim}", f"sim_device={device}"
    config = compose([f"runs_dir={tmp_path}", *new, "max_iterations=4"])
    assert (config.sim.name, config.sim_device, config.seed) == (engine, device, 7)


def test_the_engine_that_a_device_chooses_keeps_its_settings(half, tmp_path):  # noqa: F811
    """They are lost only with the engine."""
    record = recorded(half)
    record.sim = {"name": "warp", "nconmax": 77, "njmax": None, "solver": "cg"}
    record.sim_device = "cuda:0"
    OmegaConf.save(record, half / "config.yaml")
    for sim, device, found in (
        ("auto", "cuda:0", ("warp", 77)),
        ("warp", "cuda:0", ("warp", 77)),
        ("auto", "cpu", ("mujoco", None)),
    ):
        new = f"checkpoint={half}", "experiment=y", f"sim={sim}", f"sim_device={device}"
        config = compose([f"runs_dir={tmp_path}", *new, "max_iterations=4"])
        assert (config.sim.name, getattr(config.sim, "nconmax", None)) == found


def names(runs):
    return sorted(path.name for path in runs.iterdir())


def test_a_sweep_over_seeds_continues_each_seed(tmp_path):
    """The place of a run refers to settings of the same command line, here the seed."""
    sweep = "-m", *TINY, *OWN[:1], "seed=1,2", "experiment=q_s${seed}", "resume=auto"
    train(tmp_path, *sweep, "max_iterations=1")
    train(tmp_path, *sweep, "max_iterations=2")
    runs = [tmp_path / f"q_s{seed}" for seed in (1, 2)]
    assert [recorded(run).seed for run in runs] == [1, 2]
    assert [recorded(run).checkpoint for run in runs] == ["", ""]
    assert [[line["iteration"] for line in metrics(run)] for run in runs] == [[1, 2], [1, 2]]
    new = "seed=1,2", "checkpoint=" + str(tmp_path) + "/q_s${seed}", "experiment=new_s${seed}"
    train(tmp_path, "-m", *new, "num_envs=6", "max_iterations=3")
    forks = [tmp_path / f"new_s{seed}" for seed in (1, 2)]
    assert [recorded(run).checkpoint for run in forks] == [str(r / "nn/last.pth") for r in runs]


@pytest.mark.parametrize(("resume", "name"), [("never", "y_s7"), ("auto", "y_s1")])
def test_a_name_may_refer_to_settings(half, tmp_path, resume, name):  # noqa: F811
    """To the run's own, but with resume=auto to the command line's, where it is looked for."""
    new = f"checkpoint={half}", "experiment=y_s${seed}", f"resume={resume}"
    train(tmp_path, *new, "max_iterations=3")
    assert recorded(tmp_path / name).seed == 7
    if resume == "auto":
        train(tmp_path, *new, "max_iterations=4")
        assert [line["iteration"] for line in metrics(tmp_path / name)] == [3, 4]


def test_the_same_command_again_goes_on_with_the_engine_of_the_device(half, tmp_path):  # noqa: F811
    command = f"checkpoint={half}", "experiment=y", "num_envs=6", "sim=auto", "resume=auto"
    train(tmp_path, *command, "max_iterations=3")
    train(tmp_path, *command, "max_iterations=4")
    assert [line["iteration"] for line in metrics(tmp_path / "y")] == [3, 4]


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_checkpoint_that_leaves_nothing_to_do_is_an_error(half, tmp_path, capsys, resume):  # noqa: F811
    new = f"checkpoint={half}", "experiment=y", "num_envs=6", f"resume={resume}"
    error = refused(capsys, tmp_path, *new)
    assert "max_iterations counts the whole run" in error


def test_a_new_folder_may_draw_a_seed(half, tmp_path):  # noqa: F811
    train(tmp_path, f"checkpoint={half}", "experiment=y", "seed=-1", "max_iterations=3")
    assert recorded(tmp_path / "y").seed not in (-1, 7)


def test_a_folder_of_checkpoints_may_be_a_link(half, tmp_path, capsys):  # noqa: F811
    elsewhere = tmp_path / "scratch"
    (half / "nn").rename(elsewhere)
    (half / "nn").symlink_to(elsewhere)
    error = refused(capsys, half.parent, f"checkpoint={half}", "num_envs=6", "max_iterations=4")
    assert "in its folder" in error
    train(half.parent, "experiment=x", "resume=auto", "max_iterations=3")
    assert [line["iteration"] for line in metrics(half)] == [1, 2, 3]


def test_a_checkpoint_that_is_a_link_is_the_run_folders(half, tmp_path):  # noqa: F811
    last, elsewhere = half / "nn" / "last.pth", tmp_path / "moved.pth"
    last.rename(elsewhere)
    last.symlink_to(elsewhere)
    train(half.parent, f"checkpoint={half}", "max_iterations=3")
    assert [line["iteration"] for line in metrics(half)] == [1, 2, 3]
    assert not last.is_symlink() and elsewhere.is_file()


def test_a_run_killed_before_its_first_checkpoint_may_change_everything_again(half, tmp_path):  # noqa: F811
    command = f"checkpoint={half}", "experiment=y", "resume=auto", "max_iterations=3"
    train(tmp_path, *command, "num_envs=6")
    run = tmp_path / "y"
    shutil.rmtree(run / "nn")
    (run / "status.json").write_text(json.dumps(status(run) | {"state": "running"}))
    train(tmp_path, *command, "num_envs=5")
    assert recorded(run).num_envs == 5 and len(weights(run)["state"]) == 5


def test_the_level_of_a_curriculum_goes_on():
    one, other = (
        tasks.make(
            "ShadowHandCatchUnderarm",
            num_envs=n,
            num_threads=1,
            shaping={"curriculum_start": 0.25, "curriculum_step": 0.125},
        )
        for n in (2, 3)
    )
    one.reset()
    one.shaping.level.copy_(torch.tensor([0.5, 1.0]))
    assert other.shaping.level.tolist() == [0.25] * 3
    other.reset()
    easy = other.goal_positions.clone()
    assert other.adopt(one.state_dict())
    assert other.shaping.level.tolist() == [0.75] * 3
    other.reset()
    assert not torch.equal(other.goal_positions, easy)  # farther away, from the reset on
    assert not tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1).adopt({})


@pytest.mark.parametrize("schedule", ["constant", "adaptive"])
def test_a_constant_rate_of_rl_games_is_the_present_one(tmp_path, schedule):
    tiny = [text for text in TINY if text not in ONCE[:2]]
    ppo = "algo=ppo", f"algo.lr_schedule={schedule}", "algo.kl_threshold=1"
    train(tmp_path, *tiny, *ppo, "algo.lr=1e-6", "experiment=x", "max_iterations=2")
    train(tmp_path, f"checkpoint={tmp_path}/x", "algo.lr=1e-7", "max_iterations=4")
    found = [line["agent0/lr"] for line in metrics(tmp_path / "x")]
    if schedule == "constant":
        assert found == pytest.approx([1e-6, 1e-6, 1e-7, 1e-7])
    else:  # a small KL divergence raises it after every epoch, from where it was
        assert found == sorted(found)


def test_what_a_policy_predicts_may_weigh_more(tmp_path, capsys):
    happo = *TINY, *OWN[:1], "algo.value_aux_coef=0.5"
    train(tmp_path, *happo, "experiment=x", "max_iterations=1")
    again = f"checkpoint={tmp_path}/x", "max_iterations=2"
    error = refused(capsys, tmp_path, *again, "algo.value_aux_coef=0")
    assert "made with algo.value_aux_coef=0.5" in error
    error = refused(capsys, tmp_path, *again, "algo.std_scale=3")
    assert "algo.std_scale=3" in error
    train(tmp_path, *again, "algo.value_aux_coef=0.25")
