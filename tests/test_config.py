"""The typed configuration: defaults, what depends on what, and every check of values."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.config import recipes
from madpo_isaac.config.nodes import from_record, register, task_settings
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import MAX_THREADS, Config
from madpo_isaac.errors import UserError
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.settings import MAX_COUNT, check_types
from madpo_isaac.settings import MAX_INTEGER as MAX_SEED
from madpo_isaac.sim import SimConfig, WarpConfig
from madpo_isaac.tasks.registry import TASKS, suite
from madpo_isaac.training.factory import make_env

ROOT = Path(__file__).resolve().parents[1]


def values(config):
    return OmegaConf.to_container(OmegaConf.structured(config))


# Composition ------------------------------------------------------------------------------------


def test_defaults_are_madpo_on_shadow_hand_over():
    config = compose([])
    assert (config.task.name, config.algo.name, config.sim.name) == (
        "ShadowHandOver",
        "madpo",
        "mujoco",
    )
    assert config.recipe == "tuned"
    config = compose(["recipe=paper"])  # Tables 3 and 4
    assert (config.num_envs, config.algo.horizon, config.algo.gamma) == (128, 75, 0.99)
    assert (config.algo.actor_lr, config.algo.critic_lr) == (5e-4, 5e-4)
    assert (config.algo.epochs, config.algo.clip, config.algo.entropy_coef) == (5, 0.2, 0.01)
    assert config.algo.hidden == [256, 256, 256]
    assert config.algo.divergence.lam == 0.2
    # 20 million steps.
    steps = config.max_iterations * config.num_envs * config.algo.horizon
    assert steps - config.num_envs * config.algo.horizon < 20_000_000 <= steps


LITERALS = [
    ("paper", "ShadowHandOver", "happo", {"algo.gamma": 0.99, "algo.horizon": 75, "num_envs": 128}),
    ("paper", "ShadowHandPen", "madpo", {"algo.divergence.lam": 0.2, "algo.entropy_coef": 0.01}),
    ("paper", "ShadowHandDoorOpenInward", "madpo", {"algo.divergence.lam": 0.5}),
    ("paper", "Walker2d-3x2", "happo", {"algo.clip": 0.05, "algo.actor_lr": 1e-3, "num_envs": 20}),
    ("paper", "Walker2d-3x2", "hatrpo", {"algo.kl_threshold": 0.03, "algo.value_clip": 0.2}),
    ("paper", "Ant-8x1", "mappo", {"algo.hidden": [64, 64], "algo.max_std": 0.5}),
    ("paper", "Humanoid-17x1", "a2po", {"algo.hidden": [256, 256], "algo.clip": 0.1}),
    ("paper", "HalfCheetah-6x1", "madpo", {"algo.divergence.lam": 0.1, "algo.input_norm": "layer"}),
    ("harl", "ShadowHandOver", "happo", {"algo.gamma": 0.95, "num_envs": 256}),
    ("harl", "HalfCheetah-2x3", "happo", {"algo.epochs": 15, "algo.critic_epochs": 15}),
    ("harl", "Walker2d-2x3", "happo", {"algo.lr_schedule": "linear", "algo.num_minibatches": 2}),
    ("harl", "Ant-4x2", "hatrpo", {"algo.kl_threshold": 0.005, "algo.actor_lr": None}),
    ("tuned", "ShadowHandOver", "happo", {"algo.lr_schedule": "adaptive", "algo.gamma": 0.95}),
    ("tuned", "Walker2d-2x3", "happo", {"task.observation": "physical", "algo.horizon": 100}),
    ("tuned", "Ant-4x2", "hatrpo", {"algo.lr_schedule": "constant", "algo.actor_lr": None}),
]


@pytest.mark.parametrize(("recipe", "task", "algo", "expected"), LITERALS)
def test_a_recipe_gives_a_run_its_numbers(recipe, task, algo, expected):
    node = OmegaConf.structured(compose([f"recipe={recipe}", f"task={task}", f"algo={algo}"]))
    assert {key: OmegaConf.select(node, key) for key in expected} == expected
    assert node.recipe == recipe


@pytest.mark.parametrize("recipe", ["tuned", "paper", "harl"])
def test_every_key_of_a_recipe_is_one_that_settings_ask_for(recipe):
    asked = set()
    for path in (ROOT / "cfg").glob("**/*.yaml"):
        asked |= set(re.findall(r"\$\{recipe:(\w+)\}", path.read_text()))
    assert asked - {"kl_threshold"} == set(recipes.KEYS)  # which is HATRPO's
    words = {"activation", "lr_schedule", "input_norm", "hidden_norm", "agents_see", "observation"}
    for task, algo in itertools.product(TASKS, ALGO_SCHEMAS):
        numbers = recipes.numbers(recipe, suite(task), task, algo)
        assert set(numbers) <= {*recipes.KEYS, *ALGO_SCHEMAS[algo].recipe_keys}
        assert set(ALGO_SCHEMAS[algo].recipe_keys) <= set(numbers)
        assert {key for key, value in numbers.items() if isinstance(value, str)} <= words


def test_a_task_of_ones_own_has_numbers_of_its_own():
    own = {"gamma": 0.5, "algos": {"madpo": {"lam": 0.6, "gamma": 0.4}}}
    place = ("paper", "ShadowHandOver")
    assert recipes.value(*place, "happo", "gamma", own) == 0.5
    assert recipes.value(*place, "madpo", "gamma", own) == 0.4
    assert recipes.value(*place, "madpo", "lam", own) == 0.6
    assert recipes.value(*place, "madpo", "horizon", own) == 75
    with pytest.raises(UserError, match=r"Unknown setting in task\.train of ShadowHandOver 'gama'"):
        recipes.value(*place, "happo", "gamma", {"gama": 0.5})
    moved = r"lam in task\.train of ShadowHandOver belongs to .* algos: {madpo: {lam: 0\.4}}"
    with pytest.raises(UserError, match=moved):
        recipes.value(*place, "happo", "gamma", {"lam": 0.4})


def own_task(folder, field, maker, yaml=""):
    """The settings that choose a task with one setting, made by ``maker``."""
    (folder / "own.py").write_text(
        "from dataclasses import dataclass\n"
        "from madpo_isaac.tasks.registry import register_task\n"
        "from toy import ToyEnv\n"
        f"@dataclass\nclass Own:\n    {field}\n{maker}"
    )
    place = folder / "cfg" / "task"
    place.mkdir(parents=True)
    (place / "Own.yaml").write_text(f"defaults: [base_Own, _self_]\n{yaml}")
    return f"plugins=[{folder}/own.py]", "task=Own"


def test_a_task_of_ones_own_has_numbers_for_one_algorithm(tmp_path, plugins_forgotten):
    """They are read from its YAML file, where they are not plain dictionaries."""
    own = own_task(
        tmp_path,
        "many: int = 3",
        "register_task('Own', Own)(ToyEnv)\n",
        "train: {gamma: 0.5, horizon: '${task.many}',\n"
        "  algos: {madpo: {lam: 0.25, hidden: [7, 5]}}}\n",
    )
    madpo, happo = compose([*own, "algo=madpo"]), compose([*own, "algo=happo"])
    assert (madpo.algo.gamma, madpo.algo.divergence.lam, madpo.algo.hidden) == (0.5, 0.25, [7, 5])
    assert (happo.algo.gamma, happo.algo.horizon) == (0.5, 3)


def test_a_setting_called_shaping_is_not_taken_for_the_hands(tmp_path, plugins_forgotten):
    """Evaluations switch off the hands' shaping only."""
    maker = (
        "@register_task('Own', Own)\n"
        "def make(config, num_envs, **_):\n"
        "    env = ToyEnv(num_envs)\n"
        "    env.given = config.shaping\n"
        "    return env\n"
    )
    own = own_task(tmp_path, "shaping: float = 1.0", maker)
    config = compose([*own, "task.shaping=3.0"])
    assert make_env(config, training=True).given == make_env(config).given == 3.0


def test_a_task_needs_a_yaml_file_with_its_schema(tmp_path, plugins_forgotten):
    (tmp_path / "bare.py").write_text(
        "from dataclasses import make_dataclass\n"
        "from madpo_isaac.tasks.registry import register_task\n"
        "from toy import ToyEnv\n"
        "for name in ('Bare', 'Barer'):\n"
        "    register_task(name, make_dataclass(name, [('many', int, 3)]))(ToyEnv)\n"
    )
    (tmp_path / "cfg" / "task").mkdir(parents=True)
    (tmp_path / "cfg" / "task" / "Bare.yaml").write_text("train: {gamma: 0.5}\n")
    plugin = f"plugins=[{tmp_path}/bare.py]"
    with pytest.raises(UserError, match=r"cfg/task/Bare\.yaml has no schema: .* base_Bare"):
        compose([plugin, "task=Bare"])
    with pytest.raises(UserError, match=r"task=Barer has no defaults: put cfg/task/Barer\.yaml"):
        compose([plugin, "task=Barer"])


def test_a_list_of_texts_is_not_one_of_numbers():
    with pytest.raises(UserError, match=r"wandb_tags=a must be a list of texts, such as \[a,b\]"):
        compose(["wandb_tags=a"])


def test_a_recipe_that_is_not_there():
    with pytest.raises(UserError, match=r"Unknown recipe 'tunde'\. Did you mean 'tuned'"):
        compose(["recipe=tunde"])


def test_the_command_line_counts_more_than_the_recipe():
    config = compose(["recipe=paper", "algo.gamma=0.5", "algo.actor_lr=0.125", "algo.epochs=3"])
    assert config.algo.gamma == 0.5
    assert (config.algo.actor_lr, config.algo.critic_lr) == (0.125, 5e-4)
    assert (config.algo.epochs, config.algo.critic_epochs) == (3, 3)


def test_values_have_the_types_of_the_schema():
    config = compose(["algo.clip=1", "algo.hidden=[8,4]", "test=no", "seed=7", "experiment=12"])
    assert (config.algo.clip, type(config.algo.clip)) == (1.0, float)
    assert config.algo.hidden == [8, 4]
    assert (config.test, config.seed, config.experiment) == (False, 7, "12")
    assert type(config.algo) is ALGO_SCHEMAS["madpo"]


def test_the_last_of_several_values_counts():
    config = compose(["algo=madpo", "seed=1", "algo=happo", "seed=2"])
    assert (config.algo.name, config.seed) == ("happo", 2)


def test_task_settings_are_the_tasks_own():
    settings = task_settings(compose(["task.agents=[[0,1,2],[3,4,5]]"]).task)
    assert settings["agents"] == [[0, 1, 2], [3, 4, 5]]
    assert settings["episode_length"] == 75
    assert not {"name", "train"} & settings.keys()


def test_registering_twice_is_harmless():
    register()
    register()
    assert compose([]) == compose([])


# The recorded configuration ---------------------------------------------------------------------


@pytest.mark.parametrize("algo", sorted(ALGO_SCHEMAS))
def test_record_gives_the_same_configuration_back(algo):
    config = compose([f"algo={algo}", "num_envs=4", "algo.hidden=[5]", "task.agents=fingers"])
    record = OmegaConf.create(as_yaml(config))
    assert "${" not in as_yaml(config)
    again = OmegaConf.to_object(from_record(record))
    assert isinstance(again, Config)
    assert again == config


@pytest.mark.parametrize(
    "change",
    [{"algo": {"name": "qmix"}}, {"task": {"name": "X"}}, {"sim": {"name": ""}}, {"task": 3}],
    ids=str,
)
def test_record_of_something_else_is_refused(change):
    record = OmegaConf.create(values(compose([])))
    with pytest.raises(UserError):
        from_record(OmegaConf.merge(record, change))


# Checks of values -------------------------------------------------------------------------------

REFUSED = [
    ("num_envs=0", "num_envs=0 must be at least 1"),
    ("num_envs=-3", "num_envs=-3 must be at least 1"),
    (f"num_envs={MAX_COUNT + 1}", f"at most {MAX_COUNT}"),
    ("max_iterations=0", "max_iterations=0 must be at least 1"),
    ("test_episodes=0", "test_episodes=0 must be at least 1"),
    ("capture_video_len=0", "capture_video_len=0 must be at least 1"),
    ("capture_video_freq=0", "capture_video_freq=0 must be at least 1"),
    ("save_frequency=-1", "save_frequency=-1 must be at least 0"),
    ("num_threads=-1", "num_threads=-1 must be at least 0"),
    (f"num_threads={MAX_THREADS + 1}", f"at most {MAX_THREADS}"),
    ("seed=-2", "seed=-2 must be at least -1"),
    (f"seed={MAX_SEED + 1}", f"at most {MAX_SEED}"),
    ("algo.horizon=0", "algo.horizon=0 must be at least 1"),
    ("algo.epochs=0", "algo.epochs=0 must be at least 1"),
    ("algo.critic_epochs=0", "algo.critic_epochs=0 must be at least 1"),
    ("algo.num_minibatches=0", "algo.num_minibatches=0 must be at least 1"),
    ("algo.num_minibatches=3201", "algo.num_minibatches=3201 exceeds the 3200 samples"),
    ("algo.actor_lr=0", "algo.actor_lr=0.0 must be greater than 0"),
    ("algo.critic_lr=-1", "algo.critic_lr=-1.0 must be greater than 0"),
    ("algo.clip=0", "algo.clip=0.0 must be greater than 0"),
    ("algo.lr_decay=True", "algo.lr_decay is now algo.lr_schedule=linear"),
    ("algo.std_y=1", "algo.std_y is now algo.max_std"),
    ("task.train.gamma=0.9", "task.train.gamma does not exist any more: set algo.gamma"),
    ("algo.std_scale=0", "algo.std_scale=0.0 must be greater than 0"),
    ("algo.init_std=0", "algo.init_std=0.0 must be greater than 0"),
    ("algo.max_std=0.5", "algo.init_std=1.0 must be less than algo.max_std=0.5"),
    ("algo.value_clip=0", "algo.value_clip=0.0 must be greater than 0"),
    ("algo.lr_schedule=cosine", "Unknown algo.lr_schedule 'cosine'"),
    ("algo.input_norm=laier", "Did you mean 'layer'"),
    ("algo.hidden_norm=batch", "Unknown algo.hidden_norm 'batch'"),
    ("algo.joint_kl_target=null", "algo.lr_schedule=adaptive needs algo.joint_kl_target"),
    ("algo.joint_kl_target=0", "algo.joint_kl_target=0.0 must be greater than 0"),
    ("algo.kl_target=-1", "algo.kl_target=-1.0 must be greater than 0"),
    ("algo.min_lr=0.1", "algo.min_lr=0.1 must be at most algo.max_lr=0.01"),
    ("algo.actor_lr=0.5", "algo.actor_lr=0.5 must lie between algo.min_lr"),
    ("algo.actor_lr=null", "algo.actor_lr=null works with hatrpo only"),
    ("task.agents_see=nothing", "Unknown task.agents_see 'nothing'"),
    ("algo.huber_delta=0", "algo.huber_delta=0.0 must be greater than 0"),
    ("algo.max_grad_norm=0", "algo.max_grad_norm=0.0 must be greater than 0"),
    ("algo.reward_scale=0", "algo.reward_scale=0.0 must be greater than 0"),
    ("algo.reward_scale=-1", "algo.reward_scale=-1.0 must be greater than 0"),
    ("algo.std_on_restore=inital", "Did you mean 'initial'? Allowed: initial, keep"),
    ("algo.entropy_coef=-1", "algo.entropy_coef=-1.0 must not be negative"),
    ("algo.value_coef=-1", "algo.value_coef=-1.0 must not be negative"),
    ("algo.output_gain=-1", "algo.output_gain=-1.0 must not be negative"),
    ("algo.divergence.coef=-1", "algo.divergence.coef=-1.0 must not be negative"),
    ("algo.actor_beta1=1", "algo.actor_beta1=1.0 must be at least 0 and less than 1"),
    ("algo.actor_beta1=-0.1", "algo.actor_beta1=-0.1 must be at least 0 and less than 1"),
    ("algo.gamma=1.5", "algo.gamma=1.5 must lie between 0 and 1"),
    ("algo.gamma=-0.1", "algo.gamma=-0.1 must lie between 0 and 1"),
    ("algo.gae_lambda=2", "algo.gae_lambda=2.0 must lie between 0 and 1"),
    ("algo.divergence.lam=2", "algo.divergence.lam=2.0 must lie between 0 and 1"),
    ("algo.hidden=[]", "algo.hidden=[] must list at least one width"),
    ("algo.hidden=[16,0]", "algo.hidden=[16, 0] must list"),
    (f"algo.hidden=[{MAX_COUNT + 1}]", f"from 1 to {MAX_COUNT}"),
    ("algo.agent_order=randm", "Did you mean 'random'? Allowed: default, random"),
    ("algo.divergence.kind=sc", "'sc'. Did you mean 'cs'? Allowed: cs, entropy, kl, none"),
    ("algo.divergence.lam=x", "algo.divergence.lam=x must be null or a number"),
    ("algo.divergence.rows=1.5", "algo.divergence.rows=1.5 must be null or a whole number"),
    ("algo.divergence.preset=gausian", "Did you mean 'gaussian'?"),
    ("algo.divergence.preset=offical", "Did you mean 'official'?"),
    ("algo.divergence.bound=xp", "Did you mean 'exp'?"),
    ("algo.divergence.scale=0", "algo.divergence.scale=0.0 must be greater than 0"),
    ("algo.divergence.sigma=-1", "algo.divergence.sigma=-1.0 must be greater than 0"),
    ("algo.divergence.rows=3", "algo.divergence.rows=3 works with the kernel presets only"),
    ("algo.entropy=men", "Did you mean 'mean'? Allowed: mean, sum"),
    ("algo.gamma=nan", "algo.gamma=nan must be a finite number"),
    ("algo.clip=inf", "algo.clip=inf must be a finite number"),
    ("algo.divergence.coef=nan", "algo.divergence.coef=nan must be a finite number"),
    ("task.fall_height=nan", "task.fall_height=nan must be a finite number"),
    ("rl_device=cuda:0", "rl_device=cuda:0 must equal sim_device=cpu"),
    ("test=True", "test=True needs checkpoint="),
    *((f"experiment='{name}'", f"experiment='{name}'") for name in ("a/b", "a=b", "a b", "..")),
    *((f"experiment='{name}'", f"experiment='{name}'") for name in ("-a", "[a]", "a\\b", "a:b")),
    (f"experiment={'a' * 201}", "must be a plain folder name"),
]


REFUSED_OF = [
    ("hatrpo", "kl_threshold=0", "kl_threshold=0.0 must be greater than 0"),
    ("hatrpo", "kl_threshold=inf", "kl_threshold=inf must be a finite number"),
    ("hatrpo", "actor_beta1=0.98", "algo.actor_beta1=0.98 has no effect"),
    ("hatrpo", "damping=0", "damping=0.0 must be greater than 0"),
    ("hatrpo", "cg_iterations=0", "cg_iterations=0 must be at least 1"),
    ("hatrpo", "cg_tolerance=-1", "cg_tolerance=-1.0 must not be negative"),
    ("hatrpo", "line_search_steps=0", "line_search_steps=0 must be at least 1"),
    ("hatrpo", "backtrack=0", "backtrack=0.0 must be greater than 0"),
    ("hatrpo", "backtrack=1.5", "backtrack=1.5 must lie between 0 and 1"),
    ("hatrpo", "accept_ratio=-0.5", "accept_ratio=-0.5 must lie between 0 and 1"),
    ("hatrpo", "accept_ratio=2", "accept_ratio=2.0 must lie between 0 and 1"),
    ("hatrpo", "agent_order=semi_greedy", "Allowed: default, random, spec"),
    ("a2po", "clip_weight=-0.1", "clip_weight=-0.1 must lie between 0 and 1"),
    ("a2po", "clip_weight=1.5", "clip_weight=1.5 must lie between 0 and 1"),
    ("a2po", "clip_weight=nan", "clip_weight=nan must be a finite number"),
    ("a2po", "agent_order=greedy", "Allowed: default, random, semi_greedy, spec"),
]


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_an_order_of_agents_that_are_updated_at_once_is_refused(algo):
    with pytest.raises(UserError, match=f"agent_order=spec has no effect: {algo} updates all"):
        compose([f"algo={algo}", "algo.agent_order=spec"])
    assert not compose([f"algo={algo}", "algo.share_parameters=False"]).algo.share_parameters


@pytest.mark.parametrize(
    "override", ["algo.input_norm=2.5", "algo.share_parameters=True", "algo.sigma=1"]
)
def test_wrong_types_and_options_of_other_algorithms(override):
    with pytest.raises(UserError, match=override.split("=")[0].rsplit(".", 1)[1]):
        compose(["algo=happo", override])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0][:40])
def test_bad_value(case):
    override, message = case
    with pytest.raises(UserError, match=re.escape(message)):
        compose([override])


@pytest.mark.parametrize("case", REFUSED_OF, ids=lambda case: " ".join(case[:2]))
def test_bad_value_of_one_algorithm(case):
    algo, override, message = case
    with pytest.raises(UserError, match=re.escape(message)):
        compose([f"algo={algo}", f"algo.{override}"])


@pytest.mark.parametrize(
    "override",
    [
        "num_envs=1",
        "seed=-1",
        "seed=0",
        f"seed={MAX_SEED}",
        f"num_threads={MAX_THREADS}",
        "save_frequency=0",
        "algo.gamma=0",
        "algo.gamma=1",
        "algo.gae_lambda=1",
        "algo.actor_beta1=0",
        "algo.entropy_coef=0",
        "algo.divergence.coef=0",
        "algo.divergence.lam=1",
        "algo.divergence.kind=none",
        "algo.divergence.coef=null",
        "algo.agent_order=spec",
        "algo.num_minibatches=3200",
        "algo.hidden=[1]",
        "rl_device=cpu",
        "experiment=2_a.B-c+d",
        f"experiment={'a' * 200}",
        "headless=False",
    ],
)
def test_values_at_the_limit_are_accepted(override):
    assert isinstance(compose([override]), Config)


def test_validate_reports_the_first_problem_of_a_configuration_made_by_hand():
    config = compose([])
    with pytest.raises(UserError, match="num_envs=0"):
        dataclasses.replace(config, num_envs=0, max_iterations=0).check()


# Presets of the divergence ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("gaussian", (0.06, 0.1, None, "exp")),
        ("official", (1000.0, 0.05, None, "none")),
        ("printed", (0.0005, 0.1, 2000.0, "none")),
        ("printed_alg1", (0.0005, 0.1, 2000.0, "none")),
        ("yu", (1.0, 0.1, None, "none")),
    ],
)
def test_a_preset_fills_in_what_is_left_open(preset, expected):
    """On Walker2d 2x3, whose lambda is 0.1 and sigma 2e3 in the paper's table."""
    chosen = ["recipe=paper", "task=Walker2d-2x3", f"algo.divergence.preset={preset}"]
    div = compose(chosen).algo.divergence
    assert (div.coef, div.lam, div.sigma, div.bound) == expected
    div = compose([*chosen, "algo.divergence.coef=7", "algo.divergence.lam=0.75"]).algo.divergence
    assert (div.coef, div.lam) == (7.0, 0.75)
    assert div.scale == (0.1 if preset == "gaussian" else 1.0)


@pytest.mark.parametrize("setting", ["kind=kl", "kind=entropy", "bound=exp", "rows=3201"])
def test_kernel_presets_refuse_settings_of_the_closed_form(setting):
    key, value = setting.split("=")
    with pytest.raises(UserError, match=rf"algo\.divergence\.{key}={value} (works with|must)"):
        compose(["algo.divergence.preset=yu", f"algo.divergence.{setting}"])


def test_the_engine_goes_by_the_device():
    assert compose([]).sim == SimConfig("mujoco")
    assert compose(["sim_device=cuda:0"]).sim == WarpConfig("warp")
    assert compose(["sim=warp", "sim.nconmax=70"]).sim == WarpConfig("warp", nconmax=70)
    assert compose(["sim=mujoco"]).sim == SimConfig("mujoco")
    for argv, part in (
        (["sim.nconmax=70"], "sim.nconmax=70 works with sim=warp only"),
        (["sim=warp", "sim.njmax=0"], "sim.njmax=0 must be"),
        (["sim=wrap"], "Did you mean 'warp'"),
    ):
        with pytest.raises(UserError, match=part):
            compose(argv)


def test_configurations_share_nothing():
    """Files are read once a process."""
    first = compose(["algo.clip=0.3", "task.agents=[[0,1,2],[3,4,5]]"])
    first.algo.hidden.append(7)
    second = compose([])
    assert first.algo.hidden[:-1] == second.algo.hidden
    assert (first.algo.clip, second.algo.clip) == (0.3, 0.2)
    assert (first.task.agents, second.task.agents) == ([[0, 1, 2], [3, 4, 5]], "hands")


def test_types_of_fields_are_checked_as_declared():
    """Checks the types that OmegaConf knows, also those in a user's own settings."""

    @dataclasses.dataclass
    class Inner:
        x: float = 0.5

    @dataclasses.dataclass
    class Own:
        pair: tuple[float, float] = (0.0, 1.0)
        many: tuple[int, ...] = ()
        anything: list = dataclasses.field(default_factory=list)
        table: dict[str, int] = dataclasses.field(default_factory=dict)
        maybe: int | None = None
        inner: Inner = dataclasses.field(default_factory=Inner)

    good = {"pair": [1, 2.5], "many": [1, 2], "anything": ["a", 1], "table": {"a": 1}, "maybe": 3}
    for settings in ({}, good):
        check_types(OmegaConf.to_object(OmegaConf.structured(Own(**settings))), "own.")
        check_types(Own(**settings), "own.")
    for changed, message in (
        ({"pair": [1, "a"]}, "own.pair=[1, 'a'] must be a list, each entry a number."),
        ({"anything": 3}, "own.anything=3 must be a list."),
        ({"maybe": True}, "own.maybe=True must be a whole number or null."),
        ({"table": 1}, "own.table=1 must be a group of settings."),
        ({"inner": Inner(x="a")}, "own.inner.x=a must be a number."),
        ({"inner": 3}, "own.inner=3 must be a group of settings."),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check_types(Own(**changed), "own.")
