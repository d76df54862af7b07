"""Settings of domain randomization: typed, checked, and clear about what is wrong."""

import pytest
import torch

from madpo_isaac import tasks
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.hands.randomize import RandomizeConfig
from madpo_isaac.tasks.registry import TASKS


def test_the_command_line_sets_it():
    assert compose([]).task.randomize == RandomizeConfig()
    line = ["task.randomize.friction=[0.7,1]", "task.randomize.action_noise=0.02"]
    settings = compose(line).task.randomize
    assert settings == RandomizeConfig(friction=[0.7, 1.0], action_noise=0.02)
    env = tasks.make("ShadowHandOver", num_envs=1, num_threads=1, randomize=settings)
    assert list(env.randomizer.scales) == ["friction"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("friction=[1.3,0.7]", r"task\.randomize\.friction=\[1\.3, 0\.7\] .*the lower one first"),
        ("friction=[0.7,1,3]", "two numbers"),
        ("friction=[1]", "two numbers"),
        ("friction=[]", "two numbers"),
        ("friction=0.7", r"task\.randomize\.friction=0\.7 must be null or a list"),
        ("friction=high", "friction=high must be null or a list"),
        ("friction=[a,b]", r"friction=\[a,b\] must be null or a list of numbers"),
        ("object_mass=[0,1]", "object_mass=.*two numbers above 0"),
        ("object_size=[-1,1]", "object_size=.*two numbers above 0"),
        ("object_size={a:1}", "object_size={a:1} must be null or a list"),
        ("actuator_gain=[1,inf]", "actuator_gain=.*two numbers"),
        ("actuator_gain=[1,nan]", "actuator_gain=.*two numbers"),
        ("action_noise=-0.1", r"action_noise=-0\.1 must be null or a number of at least 0"),
        ("action_noise=nan", "action_noise=nan must"),
        ("observation_noise=inf", "observation_noise=inf must"),
        ("observation_noise=much", "observation_noise=much must be null or a number"),
        ("frictoin=[1,2]", "Did you mean 'task.randomize.friction'.*Allowed in task.randomize"),
    ],
)
def test_bad_settings_are_one_clear_line(line, message):
    with pytest.raises(UserError, match=message) as problem:
        compose([f"task.randomize.{line}"])
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frictoin": [1, 2]}, "Unknown setting of task.randomize 'frictoin'.*'friction'"),
        ({"friction": (True, 2)}, "friction=.*two numbers"),
        ({"friction": "ab"}, "friction=ab must"),
        ({"action_noise": True}, "action_noise=True must"),
        (None, "task.randomize=None must be a group of settings"),
        (0.5, "task.randomize=0.5 must be a group of settings"),
    ],
)
def test_bad_settings_from_python(settings, message):
    with pytest.raises(UserError, match=message):
        tasks.make("ShadowHandOver", num_envs=1, randomize=settings)


# All tasks --------------------------------------------------------------------------------------

HAND_TASKS = [name for name in TASKS if name.startswith("ShadowHand")]
TWO_OBJECTS = ("TwoCatchUnderarm", "ReOrientation", "PushBlock", "BlockStack", "Switch")


@pytest.mark.parametrize("task", HAND_TASKS)
def test_every_hand_task_takes_what_its_objects_allow(task):
    """All but the size of what has joints; each environment has its own friction, mass, gains."""
    multipliers = {key: [0.7, 1.3] for key in ("friction", "object_mass", "actuator_gain")}
    env = tasks.make(task, num_envs=3, num_threads=1, randomize=multipliers)
    env.reset()
    for _ in range(5):
        step = env.step(torch.zeros(3, env.action_dim))
    assert torch.isfinite(step.state).all()
    for value in env.randomizer.scales.values():
        assert (value >= 0.7).all() and (value <= 1.3).all()
        assert len(value[:, 0].unique()) == 3
    resized = {"object_size": [0.9, 1.1]}
    if any(jointed in task for jointed in ("Door", "Pen", "Switch")):
        with pytest.raises(UserError, match=r"object_size.*is not one free body"):
            tasks.make(task, num_envs=1, randomize=resized)
    else:
        tasks.make(task, num_envs=1, randomize=resized).reset()


@pytest.mark.parametrize("name", TWO_OBJECTS)
def test_each_of_two_objects_has_a_mass_of_its_own(name):
    settings = {"object_mass": (0.5, 2.0)}
    env = tasks.make(f"ShadowHand{name}", num_envs=16, num_threads=1, randomize=settings)
    env.reset()
    model, mass = env.sim.model, env.sim.expand("body_mass")
    scale = env.randomizer.scales["object_mass"]
    assert scale.shape == (16, 2) and (scale[:, 0] != scale[:, 1]).all()
    for k, body in enumerate(env.objects):
        expected = scale[:, k].double() * model.body(body).mass[0]
        assert torch.allclose(mass[:, model.body(body).id].double(), expected, rtol=1e-5)
