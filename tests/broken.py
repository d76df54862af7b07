"""Broken command lines and configuration files, drawn at random from the typed configuration."""

import copy
import functools
import itertools
import random
import string

from omegaconf import OmegaConf

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.config.overrides import compose
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.tasks import TASKS

WRONG = {
    bool: ("maybe", "2.5", "[True]", "{a: 1}", "null", "''"),
    int: ("abc", "1.5", "null", "[1]", "{a: 1}", "1e3", "''", "0x", "1_a", "True"),
    float: ("abc", "null", "[0.5]", "{a: 1}", "''", "1..2", "0,5", "--1"),
    str: ("[a]", "{a: 1}", "[]"),
    list: ("3", "abc", "{a: 1}", "[a]", "[1.5]", "[[1]]", "[null]", "[]", "[0]", "[-4]"),
}
"""Texts that are no value of a type."""
BEYOND = {
    float: ("nan", "inf", "-inf", "1e999"),
    int: ("-5", str(10**30), str(-(10**30))),
}
"""Values that no number of the configuration may have."""
RANGES = {
    ("num_envs", "max_iterations", "test_episodes", "max_skipped"): ("0", "-1", "1000000001"),
    ("num_threads",): ("-1", "1025"),
    ("algo.horizon", "algo.num_minibatches"): ("0", "-1", "1000000001"),
    ("algo.gamma", "max_bad_share"): ("-0.01", "1.01", "2", "-1"),
    ("algo.reward_scale",): ("0", "-1", "-0.0"),
    ("max_dumps", "save_frequency"): ("-1", "-2"),
    ("seed",): ("-2", str(2**63)),
    ("task.episode_length",): ("0", "-1"),
    ("sim_device",): ("tpu", "cuda:99", "cpu:x", "''"),
    ("experiment",): ("a/b", "'a b'", "..", "-a", "a:b", "a" * 201, "'[a]'", "'a=b'"),
    ("checkpoint",): ("nowhere.pth", "latest", "best", "nowhere/at/all"),
    ("resume",): ("atuo",),
    ("precision",): ("fp16", "tf32"),
    ("algo.activation",): ("rellu", "3", "gelu2"),
}
COMBINATIONS = (
    "test=True",
    "rl_device=cuda:0",
    "capture_video=True capture_video_len=100 capture_video_freq=10",
    "multi_gpu=True",
    "algo=ppo multi_gpu=True",
    "algo=ppo num_envs=7 algo.horizon=3 algo.num_minibatches=2",
    "algo=happo algo.num_minibatches=11 num_envs=2 algo.horizon=5",
    "algo=mappo algo.agent_order=spec",
    "algo=ippo algo.agent_order=default",
    "algo=happo algo.agent_order=semi_greedy",
    "algo=happo algo.divergence.coef=1",
    "algo=hatrpo algo.clip_weight=0.5",
    "algo=a2po algo.cg_iterations=3",
    "algo=madpo algo.divergence.preset=yu algo.divergence.kind=kl",
    "algo=madpo algo.divergence.preset=printed algo.divergence.bound=exp",
    "algo=madpo algo.divergence.rows=3",
    "algo=madpo algo.divergence.preset=yu algo.divergence.rows=100000000",
    "algo=madpo algo.divergence.preset=yu multi_gpu=True",
    "task=Ant-2x4 task.agents=fingers",
    "task=HalfCheetah-2x3 task.reset_dof_pos_noise=0.1",
    "task=ShadowHandOver task.agent_obsk=1",
    "task=ShadowHandOver task.agents=toes",
    "task=ShadowHandOver task.agents=[[0,1],[1,2]]",
    "task=Ant-2x4 task.version=v5",
    "task=HalfCheetah-2x3 task.version=v9",
    "-m --cfg job",
    "-m seed=1,2 num_envs=0",
    "-m algo=happo,nothing",
    "seed=1,2",
    "--resolve",
)
SYNTAX = ("=", "=3", "num_envs", "num_envs=4=5", "task=[", "algo.hidden=[1", "a b", "é=1", "~seed",
          "+seed=1", "++x=1", "--seed=1", "-t", "--", "algo@x=happo", "task={a:b}", "'", '"',
          "seed='1",
          "num_envs=${x}", "num_envs=${num_envs}", "num_envs=${oc.env:NOT_SET}", "hydra.x=1",
          "hydra/launcher=nothing", "task.name=X", "algo.name=happo", "sim.name=x", "\t", "seed:1",
          "num_envs=choice(1)x", "seed=glob(*)", "seed=range(1,3)")  # fmt: skip


PAIRS = tuple(zip(sorted(TASKS), itertools.cycle(sorted(ALGO_SCHEMAS)), strict=False))
"""Every task and every algorithm at least once; composing all pairs would take a minute."""


class Broken:
    """Draws; the same seed gives the same ones."""

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def command_line(self):
        """Arguments of which at least one is wrong."""
        kind = self.draw.choice(("type", "type", "key", "key", "beyond", "range", "rest", "name"))
        task, algo = self.draw.choice(PAIRS)
        groups = [f"task={task}", f"algo={algo}"]
        if kind == "rest":
            if self.draw.random() < 0.5:
                return self.draw.choice(COMBINATIONS).split(" ")
            return self._hidden([*groups, self.draw.choice(SYNTAX)])
        if kind == "name":
            group, name = self.draw.choice((("task", task), ("algo", algo), ("sim", "mujoco")))
            return self._hidden([f"{group}={self._typo(name)}"])
        key, value = self._leaf(task, algo)
        if kind == "range":
            keys, values = self.draw.choice(sorted(RANGES.items()))
            key, wrong = self.draw.choice(keys), self.draw.choice(values)
            if key == "algo.reward_scale" or key in leaves(task, algo):
                return self._hidden([*groups, f"{key}={wrong}"])
            return self._hidden([*groups, f"{key}x={wrong}"])
        if kind == "key":
            return self._hidden([*groups, f"{self._wrong_key(key, task, algo)}={value}"])
        return self._hidden([*groups, f"{key}={self._wrong_value(kind, value)}"])

    def _hidden(self, wrong):
        """Puts something harmless before, between and after."""
        harmless = ("seed=3", "headless=True", "max_iterations=5", "num_threads=1", "experiment=y")
        arguments = list(wrong)
        for text in self.draw.sample(harmless, self.draw.randint(0, 3)):
            if text.partition("=")[0] not in {w.partition("=")[0].lstrip("+~-") for w in wrong}:
                arguments.insert(self.draw.randint(0, len(arguments)), text)
        return arguments

    def _leaf(self, task, algo):
        """A key and its value. Switches that change what else is checked are left alone."""
        return self.draw.choice(sorted(leaves(task, algo).items(), key=lambda item: item[0]))

    def _wrong_value(self, kind, value):
        known = type(value) if type(value) in WRONG else str
        wrong = BEYOND if kind == "beyond" and known in BEYOND else WRONG
        return self.draw.choice(wrong[known])

    def _wrong_key(self, key, task, algo):
        while True:
            new = self.draw.choice(
                (self._typo(key), f"{key}.x", f"algo.{key}", f"x.{key}", key.upper())
            )
            if new not in leaves(task, algo) and new not in ("task", "algo", "sim"):
                return new

    def _typo(self, text):
        """Drops, doubles, swaps or replaces a letter."""
        while True:
            i, letter = self.draw.randrange(len(text)), self.draw.choice(string.ascii_lowercase)
            new = self.draw.choice(
                (
                    text[:i] + text[i + 1 :],
                    text[:i] + letter + text[i:],
                    text[:i] + letter + text[i + 1 :],
                    text[: i - 1] + text[i : i + 1] + text[i - 1 : i] + text[i + 1 :],
                )
            )
            if new != text and new not in TASKS and new not in ALGO_SCHEMAS:
                return new

    def file(self):
        """A recorded configuration in which something is wrong, as YAML text."""
        task, algo = self.draw.choice(PAIRS)
        content = copy.deepcopy(recorded(task, algo))
        kind = self.draw.choice(("type", "type", "key", "beyond", "gone", "text"))
        if kind == "text":
            text = OmegaConf.to_yaml(OmegaConf.create(content))
            cut = self.draw.randrange(20, len(text))
            return self.draw.choice(
                (text[:cut] + "\n  : [", text + "\n\tx: 1", "[1, 2]", "3", "a: b: c")
            )
        if kind == "gone":
            group = self.draw.choice(("task", "algo", "sim"))
            if self.draw.random() < 0.5:
                content[group] = self.draw.choice((None, 3, "x", [1], {"name": "nothing"}))
            else:
                del content[group]
            return OmegaConf.to_yaml(OmegaConf.create(content))
        key, value = self._leaf(task, algo)
        *parents, last = key.split(".")
        node = functools.reduce(lambda tree, name: tree[name], parents, content)
        if kind == "key":
            node[self._typo(last) + "x"] = value
        else:
            node[last] = "WRONG"
        text = OmegaConf.to_yaml(OmegaConf.create(content))
        return text.replace("WRONG", self._wrong_value(kind, value)) if kind != "key" else text


@functools.cache
def recorded(task, algo):
    return OmegaConf.to_container(
        OmegaConf.create(as_yaml(compose([f"task={task}", f"algo={algo}"])))
    )


@functools.cache
def leaves(task, algo):
    """Every key with the value it has; what may be anything is left out."""
    free = {
        "task.agents",
        "task.agent_obsk",
        "algo.value_clip",
        "sim.name",
        "task.name",
        "algo.name",
        "wandb_tags",
    }

    def walk(node, prefix=""):
        for name, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            elif value is not None and f"{prefix}{name}" not in free:
                yield f"{prefix}{name}", value

    return dict(walk(recorded(task, algo)))
