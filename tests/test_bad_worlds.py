"""Worlds, losses and gradients that go bad: planted, and what the rest of the run makes of it."""

import json
import math
import re

import numpy as np
import pytest
import torch
from test_runner import _keep_torch_settings, assert_same  # noqa: F401
from toy import ToyEnv, build, collect, settings

from madpo_isaac import tasks
from madpo_isaac.__main__ import main as madpo
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS, HAPPO, HATRPO, MADPO, MAPPO
from madpo_isaac.algos.steps import Faults
from madpo_isaac.algos.storage import gae
from madpo_isaac.commands.train import main
from madpo_isaac.errors import RunFailed
from madpo_isaac.models import NetworkSettings, ValueNorm
from madpo_isaac.models.mlp import FlatAdam, MLPStack
from madpo_isaac.sim.cpu import MjBatchSim

CPU = torch.device("cpu")
SMALL = (
    "task=HalfCheetah-2x3",
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "num_threads=1",
    "max_iterations=3",
    "experiment=x",
    "algo.num_minibatches=1",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its warnings


def small(kind, **changed):
    schema = ALGO_SCHEMAS[kind]
    return settings(schema, **{"name": kind, "epochs": 2, "num_minibatches": 2, **changed})


# Environments -----------------------------------------------------------------------------------

FAULTS = {
    "explosion": lambda env: env.sim.qvel[1].fill_(1e6),
    "position": lambda env: env.sim.qpos[1].fill_(math.nan),
}


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3", "Humanoid-17x1"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_state_resets_its_row_and_leaves_the_others_alone(task, fault):
    steps = []
    for planted in (False, True):
        env = tasks.make(task, num_envs=3, seed=2, num_threads=1)
        env.reset()
        if planted:
            FAULTS[fault](env)
        action = torch.zeros(3, env.action_dim)
        steps.append((env.step(action), env.step(action), env))
    (clean, then, _), (step, later, env) = steps
    assert step.diverged.tolist() == [False, True, False]
    assert not later.diverged.any() and not clean.diverged.any()
    assert step.reward[1] == 0.0 and step.terminated[1]
    assert env.episode_step.tolist() == [2, 1, 2]
    for one, two in ((clean, step), (then, later)):
        for a, b in zip((*one[:5], *one.log.values()), (*two[:5], *two.log.values()), strict=True):
            assert torch.equal(a[::2], b[::2])
            assert b.isfinite().all()


@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3"])
def test_numbers_that_are_not_finite_reset_their_row(task, what, monkeypatch):
    """Physics that are fine, and a reward or an observation that is not."""
    env = tasks.make(task, num_envs=3, seed=2, num_threads=1)
    env.reset()
    spoilt = []

    def spoil(name, change):
        original = getattr(env, name)

        def once(*args):
            result = original(*args)
            if not spoilt:
                spoilt.append(name)
                change(result)
            return result

        monkeypatch.setattr(env, name, once)

    if what == "observation":
        spoil("observe", lambda state: state[1].fill_(math.nan))
    elif task == "ShadowHandOver":
        spoil("evaluate", lambda outcome: outcome.reward[1].fill_(math.inf))
    else:
        env._x = env._x.clone()
        env._x[1] = math.nan
    step = env.step(torch.zeros(3, env.action_dim))
    assert step.diverged.tolist() == [False, True, False]
    assert env.episode_step.tolist() == [1, 0, 1]
    for tensor in (*step[:5], *step.log.values()):
        assert tensor.isfinite().all()


# The update -------------------------------------------------------------------------------------


def test_nothing_is_carried_over_an_invalid_step_by_hand():
    """gamma = 1/2, lam = 1/2, T = 4: the step before ends at the value of the state it led to.

    deltas 1 + 4/2 - 2 = 1, 1 + 8/2 - 4 = 1, -, 2 + 6/2 - 4 = 1; A3 = 1, A2 = 0, A1 = 1,
    A0 = 1 + 1/4.
    """
    column = lambda *values: torch.tensor(values)[:, None]  # noqa: E731
    never = torch.zeros(4, 1, dtype=torch.bool)
    advantage = gae(
        column(1.0, 1.0, math.nan, 2.0),
        column(2.0, 4.0, 8.0, 4.0),
        column(4.0, 8.0, 4.0, 6.0),
        never,
        never,
        0.5,
        0.5,
        valid=column(True, True, False, True),
    )
    assert advantage[:, 0].tolist() == [1.25, 1.0, 0.0, 1.0]


def updated(kind, garbage, t=5, i=2, **changed):
    """Parameters after two updates, the first on a rollout whose step (t, i) is garbage."""
    env = ToyEnv()
    algo = build(ALGORITHMS[kind], small(kind, **changed), env)
    state = env.reset()
    rollout, state = collect(algo, env, state)
    rollout.terminated[t, i] = True
    if garbage is not None:
        rollout.valid[t, i] = False
        for field in (rollout.reward, rollout.action, rollout.log_prob):
            field[t, i] = garbage
    before = algo._prepare(rollout)
    metrics = algo.update(rollout)
    rollout, _ = collect(algo, env, state)
    algo.update(rollout)
    return algo, before, metrics


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_an_invalid_step_does_not_enter_the_loss(kind):
    """Whatever is in it, all parameters and normalizers come out the same, and finite."""
    options = {"input_norm": "both"}
    (one, _, metrics), (two, _, _), (without, _, _) = (
        updated(kind, garbage, **options) for garbage in (math.nan, 1e30, None)
    )
    assert_same(one.state_dict(), two.state_dict())
    for value in (*metrics.values(), one.actors.stack.flat, one.critic.stack.flat):
        assert value.isfinite().all()
    assert not torch.equal(one.actors.stack.flat, without.actors.stack.flat)
    counts = [moments.count.item() for moments in one.actors.moments]
    assert counts == [1 + 72 - 1 + 72] * 3
    assert metrics["critic/skipped"] == 0 and metrics["agent0/skipped"] == 0


@pytest.mark.parametrize("preset", ["yu", "printed", "official"])
def test_kernel_estimators_take_batches_of_different_sizes(preset):
    algo, _, _ = updated("madpo", math.nan, num_minibatches=1, divergence={"preset": preset})
    assert algo.actors.stack.flat.isfinite().all()


@pytest.mark.parametrize("kind", ["happo", "ippo", "a2po"])
def test_batch_and_statistics_are_those_of_the_valid_steps(kind):
    _, batch, _ = updated(kind, math.nan)
    kept = [k for k in range(12 * 6) if k != 5 * 6 + 2]
    state = batch.rollout.state.flatten(0, 1).numpy()
    np.testing.assert_array_equal(batch.state.numpy(), state[kept])
    assert len(batch.action) == len(batch.log_prob) == len(batch.returns) == len(kept)
    advantage = batch.advantage.double().numpy()
    np.testing.assert_allclose(advantage.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(advantage.std(0), 1.0, atol=1e-3)
    numbers = torch.arange(71.0)
    scattered = batch.scatter(numbers, -1.0).flatten()
    assert scattered[5 * 6 + 2] == -1.0 and torch.equal(scattered[kept], numbers)


# Loss and gradient ------------------------------------------------------------------------------


class Planted(MADPO):
    """MADPO whose bonus is NaN in the minibatches of one agent whose numbers are listed."""

    agent, steps = 1, (1,)
    taken = 0

    def begin_minibatch(self, view, rows):
        super().begin_minibatch(view, rows)
        self.taken += view.index == self.agent

    def bonus(self, view, rows, mean, std):
        bonus = super().bonus(view, rows, mean, std)
        bad = view.index == self.agent and self.taken - 1 in self.steps
        return bonus * math.nan if bad and mean.requires_grad else bonus


def trained(kind, env, **changed):
    algo = build(kind, small("madpo", agent_order="default", epochs=3, **changed), env)
    rollout, _ = collect(algo, env, env.reset())
    return algo, rollout


def test_a_minibatch_with_a_loss_that_is_not_finite_is_skipped():
    """The others go on as if it had not been there."""

    class Missing(MADPO):
        def update_agent(self, view):
            if view.index == Planted.agent:
                optimizer, step = self.actor_optimizers[view.index], FlatAdam.step
                calls = iter(range(6))

                def but_one(loss):
                    if next(calls) not in Planted.steps:
                        return step(optimizer, loss)
                    return loss.new_tensor(math.nan)

                optimizer.step = but_one
            return super().update_agent(view)

    (one, rollout), (two, twin) = trained(Planted, ToyEnv()), trained(Missing, ToyEnv())
    metrics, wanted = one.update(rollout), two.update(twin)
    assert_same(one.state_dict(), two.state_dict())
    skipped = [metrics[f"agent{p}/skipped"].item() for p in range(3)]
    assert skipped == [0, 1, 0] == [wanted[f"agent{p}/skipped"].item() for p in range(3)]
    steps = [optimizer.state_dict()["step"].item() for optimizer in one.actor_optimizers]
    assert steps == [6, 5, 6]
    assert metrics["agent1/loss"].isfinite() and metrics["agent1/grad_norm"].isfinite()
    one.faults.check(2)


def test_repeated_skips_name_the_agent_and_the_term(monkeypatch):
    monkeypatch.setattr(Planted, "steps", range(3, 100))
    algo, rollout = trained(Planted, ToyEnv())
    before = algo.actors.stack.flat[1].clone()
    algo.update(rollout)
    algo.faults.check(4)  # three so far
    with pytest.raises(RunFailed, match=r"agent1 \(right\): the bonus was .* in 3 grad"):
        algo.faults.check(3)
    assert not torch.equal(before, algo.actors.stack.flat[1])
    algo.update(rollout)
    with pytest.raises(RunFailed, match=r"in 9 gradient steps in a row \(max_skipped=9\)"):
        algo.faults.check(9)


@pytest.mark.parametrize("kind", [HAPPO, HATRPO, MAPPO])
def test_an_objective_and_a_value_that_are_not_finite(kind):
    env = ToyEnv()
    algo = build(kind, settings(ALGO_SCHEMAS[kind.__name__.lower()], epochs=3), env)
    rollout, _ = collect(algo, env, env.reset())
    rollout.reward[3, 2] = math.inf  # not marked as invalid
    before = algo.state_dict()
    metrics = algo.update(rollout)
    after = algo.state_dict()
    assert torch.equal(before["actors"], after["actors"])
    assert torch.equal(before["critic"], after["critic"])
    assert_same(before["value_norm"], after["value_norm"])
    times = 1 if kind is HATRPO else 3
    assert [metrics[f"agent{p}/skipped"].item() for p in range(3)] == [times] * 3
    assert metrics["critic/skipped"] == 2
    with pytest.raises(RunFailed, match=r"agent[0-2] \(\w+\): the surrogate objective was not"):
        algo.faults.check(1)


def test_skips_in_a_row_end_with_a_step():
    def step(kl, gradient):
        return {"kl": torch.tensor(kl), "grad_norm": torch.tensor(gradient)}

    good, better, bad = step(1.0, 2.0), step(3.0, 6.0), step(1.0, math.nan)
    faults = Faults()
    means, skipped = faults.summary("net", [bad, good, bad, better, bad])
    assert (means, skipped.item()) == (step(2.0, 4.0), 3)
    with pytest.raises(RunFailed, match="net: the gradient was not finite in 1 gradient steps"):
        faults.check(1)
    faults.summary("net", [bad, bad])
    faults.check(4)
    with pytest.raises(RunFailed, match="in 3 gradient"):
        faults.check(3)
    means, _ = faults.summary("net", [bad, good])
    faults.check(1)
    assert means == good


@pytest.mark.parametrize("broken", ["gradient", "loss"])
def test_the_optimizer_stays_as_it_is(broken):
    generator = torch.Generator().manual_seed(3)
    networks = NetworkSettings([4], "tanh", generator, CPU)
    stack = MLPStack(networks, [3], [2], output_gain=1.0)
    optimizer = FlatAdam(stack, 0, lr=0.1, max_grad_norm=1.0)
    stack.grad.fill_(0.5)
    assert optimizer.step(torch.tensor(1.0)).isfinite()
    kept = stack.flat.clone(), optimizer.state_dict()
    loss = torch.tensor(math.inf if broken == "loss" else 1.0)
    stack.grad.fill_(0.5)
    if broken == "gradient":
        stack.grad[0, 3] = math.inf
    assert optimizer.step(loss).isnan()
    assert_same((stack.flat, optimizer.state_dict()), kept)
    stack.grad.fill_(0.5)
    assert optimizer.step().isfinite()
    assert not torch.equal(stack.flat, kept[0])


def test_returns_that_are_not_finite_do_not_reach_the_normalizer():
    norm = ValueNorm(CPU)
    norm.update(torch.arange(5.0))
    kept = norm.state_dict()
    norm.update(torch.tensor([1.0, math.inf]))
    assert_same(norm.state_dict(), kept)


# Runs -------------------------------------------------------------------------------------------


@pytest.fixture
def explode(monkeypatch):
    """Makes row 1 of the simulation explode before some of the steps it is asked to take."""

    def plant(when):
        calls, step = iter(range(10**6)), MjBatchSim.step

        def planted(self, substeps):
            if when(next(calls)):
                self.qvel[1].fill_(1e6)
            step(self, substeps)

        monkeypatch.setattr(MjBatchSim, "step", planted)

    return plant


def lines(tmp_path):
    return [json.loads(x) for x in (tmp_path / "runs/x/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algo", ["madpo", "a2po", "ppo"])
def test_a_run_survives_a_bad_world_and_keeps_it_for_replay(tmp_path, explode, algo, capsys):
    explode(lambda call: call in (11, 13))  # the fourth and sixth step of iteration 2
    assert main([*SMALL, f"algo={algo}", "max_bad_share=0.07"]) == 0
    assert [line["nan_resets"] for line in lines(tmp_path)] == [0, 2, 0]
    assert [line["episodes"] for line in lines(tmp_path)] == [0, 0, 0]
    for line in lines(tmp_path):
        assert line["agent0/skipped"] == 0 and line["loss"] is not None
    dump = tmp_path / "runs/x/dumps/iteration_2.pth"
    assert [path.name for path in dump.parent.iterdir()] == [dump.name]
    content = torch.load(dump, weights_only=True)
    assert content["faults"].tolist() == [[3, 1], [5, 1]]
    assert content["actions"].shape == (6, 4, 6)
    # The fault is planted, so in fresh environments it does not come again ...
    capsys.readouterr()
    assert madpo(["replay-dump", str(dump)]) == 1
    assert capsys.readouterr().out.count("did not go bad this time") == 2


def test_a_dump_without_steps_is_refused(tmp_path, explode, capsys):
    explode(lambda call: call == 11)
    assert main([*SMALL, "max_bad_share=0.04"]) == 0
    path = "runs/x/dumps/iteration_2.pth"
    content = torch.load(path, weights_only=True)
    torch.save(content | {name: content[name][:0] for name in ("actions", "faults")}, path)
    capsys.readouterr()
    assert madpo(["replay-dump", path]) == 2
    assert capsys.readouterr().err == f"error: Dump '{path}' has no steps.\n"


def test_a_replay_repeats_what_happened(tmp_path, explode, capsys):
    """... and does if it is planted at the same place of the iteration there, too."""
    explode(lambda call: call == 11)
    assert main([*SMALL, "max_bad_share=0.04"]) == 0
    explode(lambda call: call == 3)
    capsys.readouterr()
    assert madpo(["replay-dump", "runs/x/dumps/iteration_2.pth"]) == 0
    assert capsys.readouterr().out == "step 3 environment 1: went bad again\n"


def test_a_fault_of_the_state_itself_comes_again(tmp_path, monkeypatch, capsys):
    """A velocity just below the limit and an action, all of which the dump holds."""
    env = tasks.make("HalfCheetah-2x3", num_envs=4)
    kind, reset = type(env), type(env).reset

    def spoilt(self):
        state = reset(self)
        self.sim.qpos[2, 3] = 9e9  # which becomes a fault in the step that follows
        return state

    monkeypatch.setattr(kind, "reset", spoilt)
    assert main([*SMALL, "max_bad_share=0.04"]) == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    content = torch.load("runs/x/dumps/iteration_1.pth", weights_only=True)
    capsys.readouterr()
    assert madpo(["replay-dump", "runs/x/dumps/iteration_1.pth"]) == 0
    assert capsys.readouterr().out.count("went bad again") == len(content["faults"]) == 1


@pytest.mark.parametrize("algo", ["happo", "ppo"])
def test_too_many_bad_steps_stop_the_run(tmp_path, explode, algo, capsys):
    explode(lambda call: call % 8 < 3 and call >= 8)  # 3 of 32 steps from iteration 2 on
    assert main([*SMALL, f"algo={algo}"]) == 1
    error = capsys.readouterr().err
    wanted = (
        r"error: 3 of 32 environment steps of iteration 2 went bad \(9\.4%, max_bad_share=0\.05"
    )
    assert re.fullmatch(wanted + r"\); dump: runs/x/dumps/iteration_2\.pth\.\n", error)
    assert len(lines(tmp_path)) == 1
    assert torch.load("runs/x/nn/last.pth", weights_only=True)["iteration"] == 1


def test_dumps_are_bounded(tmp_path, explode):
    explode(lambda call: call % 8 == 0)
    assert main([*SMALL, "max_iterations=5", "max_dumps=2"]) == 0
    found = sorted(path.name for path in (tmp_path / "runs/x/dumps").iterdir())
    assert found == ["iteration_1.pth", "iteration_2.pth"]
    assert [line["nan_resets"] for line in lines(tmp_path)] == [1] * 5


def test_no_dumps_if_none_are_wanted(tmp_path, explode):
    explode(lambda call: call % 8 == 0)
    assert main([*SMALL, "max_dumps=0"]) == 0
    assert not (tmp_path / "runs/x/dumps").exists()


def test_a_policy_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, capsys):
    act = HAPPO.freeze

    def broken(self):
        policy = act(self)
        spoil = {"action": torch.nan}
        return lambda obs: policy(obs)._replace(
            **{k: getattr(policy(obs), k) * v for k, v in spoil.items()}
        )

    monkeypatch.setattr(HAPPO, "freeze", broken)
    assert main([*SMALL, "algo=happo"]) == 1
    assert (
        "went bad (100.0%, max_bad_share=0.05); actions are not finite" in capsys.readouterr().err
    )


def test_repeated_skips_stop_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Planted, "steps", range(100))
    monkeypatch.setitem(ALGORITHMS, "madpo", Planted)
    assert main([*SMALL, "max_skipped=8"]) == 1
    error = capsys.readouterr().err
    wanted = r"error: agent1 \(agent1\): the bonus was not finite in 10 gradient steps"
    assert re.fullmatch(wanted + r" in a row \(max_skipped=8\)\.\n", error)
    assert lines(tmp_path)[0]["agent1/skipped"] == 5
    assert lines(tmp_path)[0]["agent1/loss"] is None


# The command ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "missing"])
def test_a_file_that_is_no_dump(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "dump.pth").write_bytes(content)
    assert madpo(["replay-dump", "dump.pth"]) == 2
    assert re.fullmatch(r"error: [^\n]*'dump.pth'[^\n]*\n", capsys.readouterr().err)


def test_other_files_and_arguments_are_refused(tmp_path, capsys):
    torch.save({"iteration": 3}, "other.pth")
    for argv in (
        ["replay-dump", "other.pth"],
        ["replay-dump"],
        ["replay-dmp"],
        ["replay-dump", "a", "b"],
    ):
        assert madpo(argv) == 2
        assert re.fullmatch(r"error: [^\n]+\n", capsys.readouterr().err)


def test_the_command_lists_what_there_is_and_trains(tmp_path, capsys):
    assert madpo([]) == 0 == madpo(["--help"])
    assert capsys.readouterr().out.count("madpo replay-dump") == 2
    assert madpo(["train", *SMALL, "max_iterations=1"]) == 0
    assert (tmp_path / "runs/x/nn/last.pth").is_file()
