"""Names of earlier versions: refused in one line when given, translated in old records."""

import pytest
from omegaconf import OmegaConf
from report_runs import write_run

from madpo_isaac import tasks
from madpo_isaac.config import renamed
from madpo_isaac.config.nodes import from_record
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.runs.folder import as_yaml


def record(*overrides):
    return OmegaConf.create(as_yaml(compose(overrides)))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algo.sigma_on_restore=keep", "algo.sigma_on_restore is now algo.std_on_restore."),
        (
            "task.randomise.friction=[1,2]",
            "task.randomise.friction is now task.randomize.friction.",
        ),
        ("task.randomise={friction: [1,2]}", "task.randomise is now task.randomize."),
        ("algo.std_x=1", "algo.std_x is now algo.std_scale."),
    ],
)
def test_an_old_key_names_the_new_one(override, line):
    with pytest.raises(UserError) as problem:
        compose([override])
    assert str(problem.value) == line


def test_an_old_value_names_the_new_one():
    with pytest.raises(UserError, match="Did you mean 'standardized'"):
        compose(["task=HalfCheetah-2x3", "task.observation=standardised"])
    with pytest.raises(UserError, match="Did you mean 'randomize'"):
        tasks.make("ShadowHandOver", 1, randomise={"friction": [1.0, 2.0]})


def test_an_old_record_gives_the_same_configuration():
    wanted = record("task.randomize.friction=[0.7,1.3]", "algo.std_on_restore=initial")
    old = wanted.copy()
    old.task.randomise = old.task.pop("randomize")
    old.algo.sigma_on_restore = old.algo.pop("std_on_restore")
    assert from_record(old) == from_record(wanted)
    assert "randomise" in old.task  # the record itself stays
    wanted = record("task=HalfCheetah-2x3", "task.observation=standardized")
    old = wanted.copy()
    old.task.observation = "standardised"
    assert from_record(old) == from_record(wanted)


def test_a_key_with_another_meaning_is_refused_in_a_record():
    old = record()
    old.algo.lr_decay = True
    with pytest.raises(UserError, match=r"lr_decay is now algo\.lr_schedule=linear"):
        from_record(old)


def test_every_new_name_is_a_key():
    everything = [record(), record("algo=happo"), record("algo=madpo")]
    for new in renamed.KEYS.values():
        key = new.partition("=")[0]
        found = [OmegaConf.select(r, key, default="none") for r in everything]
        assert found != ["none"] * len(found), new


def test_a_hand_with_old_keys_names_the_new_ones(tmp_path):
    text = "base: {palm: p, palm_centre: [0, 0, 0]}"
    (tmp_path / "old.yaml").write_text(text)
    with pytest.raises(UserError, match=r"base\.palm_centre is now base\.palm_center"):
        tasks.make("ShadowHandOver", 1, hand=str(tmp_path / "old.yaml"))


def test_a_report_groups_old_runs_with_new_ones(tmp_path):
    names = {
        "old": ("randomise", "standardised", "sigma_on_restore"),
        "new": ("randomize", "standardized", "std_on_restore"),
    }
    for seed, (name, (randomize, observation, restore)) in enumerate(names.items()):
        run = write_run(tmp_path / name, seed=seed, **{restore: "keep"})
        config = OmegaConf.load(run / "config.yaml")
        config.task[randomize], config.task.observation = {"friction": [0.7, 1.3]}, observation
        OmegaConf.save(config, run / "config.yaml")
    runs = load([str(tmp_path)])
    old, new = ({k: v for k, v in run.settings.items() if k not in _OF_ONE_RUN} for run in runs)
    assert old == new and new["task.randomize.friction"] == [0.7, 1.3]
    assert Study(runs, ["algo", "task.randomize.friction"]).groups == ["happo friction=[0.7,1.3]"]
    assert Study(runs).notes() == []


def test_a_report_leaves_keys_whose_meaning_has_changed():
    old = {"algo.lr_decay": True, "algo.divergence.decay": 1, "algo.std_x": 0.5, "x": ["a"]}
    wanted = {**old, "algo.std_scale": 0.5}
    del wanted["algo.std_x"]
    assert renamed.translated_flat(old) == wanted


_OF_ONE_RUN = ("seed", "run", "experiment")
