"""Run folders as train.py leaves them, with made-up numbers."""

import json

import yaml


def write_run(folder, task="Task", algo="happo", seed=1, lines=20, gain=1.0, pace=0.5, **settings):
    """A run of two agents whose return is gain * env_steps / 1000.

    An iteration has 100 steps and takes ``pace`` seconds.
    """
    folder.mkdir(parents=True)
    config = {
        "task": {"name": task},
        "algo": {"name": algo, **settings},
        "seed": seed,
        "experiment": folder.name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps({"state": "finished"}))
    (folder / "env.json").write_text(json.dumps({"git_revision": "abc1234"}))
    with (folder / "metrics.jsonl").open("w") as file:
        for k in range(1, lines + 1):
            line = {
                "iteration": k,
                "env_steps": 100 * k,
                "wall_s": pace * k,
                "episode_return": gain * k / 10,
                "success_rate": k / lines,
                "episodes": 4,
                **{f"agent{i}/kl": 0.01 * k * (i + 1) for i in range(2)},
                "agent0/divergence_intra": None,
            }
            file.write(json.dumps(line) + "\n")
    return folder


def write_two_tasks(folder):
    """Two tasks, HAPPO and MADPO, two seeds each; HAPPO is the better one in the first."""
    for task, algo, seed, gain in (
        *(("A", "happo", 1, 2.0), ("A", "happo", 2, 3.0), ("A", "madpo", 1, 1.0)),
        *(("A", "madpo", 2, 2.5), ("B", "happo", 1, 10.0), ("B", "happo", 2, 20.0)),
        *(("B", "madpo", 1, 30.0), ("B", "madpo", 2, 40.0)),
    ):
        extra = {"divergence": {"lam": 0.5}} if algo == "madpo" else {}
        write_run(folder / f"{task}_{algo}_s{seed}", task, algo, seed, gain=gain, **extra)
    return folder
