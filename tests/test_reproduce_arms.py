"""reproduce.py: the arms and the tasks of each figure."""

import re

import pytest

from madpo_isaac.config.overrides import compose
from madpo_isaac.divergence.presets import PRESETS
from madpo_isaac.reproduce.arms import METHODS
from madpo_isaac.reproduce.paper import FIGURES, HANDS, MUJOCO, suite
from madpo_isaac.tasks import TASKS, registry

CLOSED = "algo=madpo algo.divergence.preset=gaussian"
CODE = "algo=madpo algo.divergence.preset=official algo.entropy_coef=0"
EQ_11 = "algo=madpo algo.divergence.preset=printed algo.entropy_coef=0"
BASELINES = {name: f"algo={name}" for name in ("happo", "hatrpo", "a2po", "mappo")}
ALGORITHMS = {
    "gaussian": {"madpo_gaussian": CLOSED, **BASELINES},
    "official": {"madpo_official": CODE, **BASELINES},
    "printed": {"madpo_printed": EQ_11, **BASELINES},
}
ALONE = {
    f"only_{kind}": f"{CLOSED} algo.entropy_coef=0 algo.divergence.kind={kind}"
    for kind in ("cs", "kl", "entropy", "none")
}
NOT_CS = {name: text for name, text in ALONE.items() if name != "only_cs"}
LAMS = (0, 0.1, 0.2, 0.5, 1)
SWEEPS = {
    "gaussian": {
        "happo": "algo=happo",
        **{f"madpo_gaussian_lam{x}": f"{CLOSED} algo.divergence.lam={x}" for x in LAMS},
        "madpo_gaussian_coef0.02": f"{CLOSED} algo.divergence.coef=0.02",
        "madpo_gaussian_coef0.06": f"{CLOSED} algo.divergence.coef=0.06",
        "madpo_gaussian_coef0.2": f"{CLOSED} algo.divergence.coef=0.2",
    },
    "official": {
        "happo": "algo=happo",
        "only_none": ALONE["only_none"],
        **{f"madpo_official_lam{x}": f"{CODE} algo.divergence.lam={x}" for x in LAMS},
        "madpo_official_coef500": f"{CODE} algo.divergence.coef=500",
        "madpo_official_coef1000": f"{CODE} algo.divergence.coef=1000",
        "madpo_official_coef2000": f"{CODE} algo.divergence.coef=2000",
    },
    "printed": {
        "happo": "algo=happo",
        "only_none": ALONE["only_none"],
        **{f"madpo_printed_lam{x}": f"{EQ_11} algo.divergence.lam={x}" for x in LAMS},
        "madpo_printed_sigma500": f"{EQ_11} algo.divergence.sigma=500",
        "madpo_printed_sigma1000": f"{EQ_11} algo.divergence.sigma=1000",
        "madpo_printed_sigma2000": f"{EQ_11} algo.divergence.sigma=2000",
    },
}
INCENTIVES = {
    "gaussian": ALONE,
    "official": {"madpo_official": CODE, **NOT_CS},
    "printed": {"madpo_printed": EQ_11, **NOT_CS},
}
ORDERS = {
    method: {
        f"madpo_{method}": own,
        f"madpo_{method}_index": f"{own} algo.agent_order=default",
        f"madpo_{method}_role": f"{own} algo.agent_order=spec",
    }
    for method, own in (("gaussian", CLOSED), ("official", CODE), ("printed", EQ_11))
}
COSTS = {
    **BASELINES,
    "madpo_gaussian": CLOSED,
    "madpo_official": CODE,
    "madpo_printed": EQ_11,
    "madpo_yu": "algo=madpo algo.divergence.preset=yu",
}
ARMS = {
    **dict.fromkeys(("fig2", "fig3", "fig4", "fig7", "fig8"), ALGORITHMS),
    **{"fig5": INCENTIVES, "fig6": SWEEPS, "fig9": ORDERS, "fig10": SWEEPS},
    "table5": dict.fromkeys(METHODS, COSTS),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FIGURES)
def test_arms_are_these(name, method):
    arms = FIGURES[name].arms(method)
    assert {arm: " ".join(each.settings) for arm, each in arms.items()} == ARMS[name][method]
    assert len({each.title for each in arms.values()}) == len(arms)
    assert all(re.fullmatch(r"[\w.-]+", arm) for arm in arms)


def test_there_is_every_figure_with_results_and_the_table_of_times():
    assert list(FIGURES) == [*(f"fig{k}" for k in range(2, 11)), "table5"]


def test_a_name_means_the_same_settings_in_all_figures():
    named = {}
    for by_method in ARMS.values():
        for arms in by_method.values():
            for name, settings in arms.items():
                assert named.setdefault(name, settings) == settings
    assert len(set(named.values())) == len(named)


def configured(settings, *more):
    return compose([f"task={MUJOCO[5]}", "recipe=paper", *settings.split(), *more])


def test_incentives_differ_in_the_incentive_alone():
    configs = {name: configured(text) for name, text in ALONE.items()}
    assert {config.algo.entropy_coef for config in configs.values()} == {0.0}
    for name, config in configs.items():
        assert config.algo.divergence.kind == name.removeprefix("only_")
        config.algo.divergence.kind = "cs"
    assert all(config == configs["only_cs"] for config in configs.values())


@pytest.mark.parametrize("settings", [CODE, EQ_11])
def test_presets_that_drop_the_entropy_bonus_say_so(settings):
    config = configured(settings)
    assert config.algo.entropy_coef == 0.0
    assert not PRESETS[config.algo.divergence.preset].keep_entropy


def test_orders_and_methods_are_what_their_names_say():
    orders = {"": "random", "_index": "default", "_role": "spec"}
    for end, order in orders.items():
        assert configured(ORDERS["gaussian"][f"madpo_gaussian{end}"]).algo.agent_order == order
    for method in METHODS:
        (own,) = (text for name, text in ALGORITHMS[method].items() if name not in BASELINES)
        assert configured(own).algo.divergence.preset == method


@pytest.mark.parametrize("task", sorted({*MUJOCO, *HANDS}))
def test_tasks_are_those_of_the_registry(task):
    assert task in TASKS
    assert suite(task) == {"mujoco": "MA-MuJoCo", "hands": "Bi-DexHands"}[registry.suite(task)]


def test_tasks_of_the_figures():
    both = (*MUJOCO, *HANDS)
    wanted = {"fig2": MUJOCO, "fig3": HANDS, "fig4": both, "fig7": MUJOCO, "fig8": HANDS}
    assert {name: FIGURES[name].tasks for name in wanted} == wanted
    assert {name: len(tasks) for name, tasks in FIGURES["fig4"].panels.items()} == {
        **{"MA-MuJoCo": 10, "Bi-DexHands": 10},
        **{"Ant": 3, "HalfCheetah": 3, "Walker2d": 3},
    }
    assert FIGURES["fig4"].panels["Ant"] == ("Ant-4x2", "Ant-2x4", "Ant-8x1")
    assert set(FIGURES["fig6"].tasks) < set(FIGURES["fig10"].tasks)


def test_every_task_of_the_registry_but_those_beyond_the_paper_is_in_some_figure():
    names = ("TwoCatchUnderarm", "PushBlock", "ReOrientation", "LiftUnderarm", "Switch")
    beyond = {f"ShadowHand{name}" for name in names}
    beyond |= {"Ant-1x8", "HalfCheetah-1x6", "Walker2d-1x6", "Humanoid-1x17"}
    assert set(TASKS) - beyond == {task for figure in FIGURES.values() for task in figure.tasks}
    assert (len(set(MUJOCO)), len(set(HANDS))) == (10, 10)
