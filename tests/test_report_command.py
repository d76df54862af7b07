"""madpo report: input that it refuses, and how it is called."""

import re
import subprocess
import sys
from pathlib import Path

from report_runs import write_run, write_two_tasks

from madpo_isaac.__main__ import main

ROOT = Path(__file__).resolve().parents[1]


def refused(capsys, argv, *parts):
    assert main(["report", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert all(part in captured.err for part in parts), captured.err


def test_bad_input_is_one_line(tmp_path, capsys):
    runs = write_two_tasks(tmp_path / "runs")
    empty = tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text('{"iterat')
    files = {
        "a.csv": "run,env_steps\nx,1\n",
        "b.csv": "run,env_steps,episode_return\nx,1,y\n",
        "c.csv": "run,env_steps,episode_return\n",
        "d.jsonl": '{"env_steps": 1}\n',
        "e.txt": "",
        "f.csv": "run;env_steps;episode_return\nx;1;2\n",
        "g.csv": "run,env_steps,episode_return\nx,1,2,3\n",
        "h.csv": "",
        "own/curves.csv": "run,env_steps,episode_return\nx,1,2\n",
    }
    (tmp_path / "own").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    broken = write_run(tmp_path / "broken")
    (broken / "config.yaml").write_text("a: [")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for argv, *parts in (
        ([], "RUN"),
        (["nope"], "There is no run 'nope'"),
        ([empty], "empty' has no metrics.jsonl"),
        ([begun], "holds no metrics"),
        ([broken], "holds no configuration"),
        ([tmp_path / "a.csv"], "no column episode_return"),
        ([tmp_path / "b.csv"], "Line 2"),
        ([tmp_path / "c.csv"], "holds no runs"),
        ([tmp_path / "d.jsonl"], "holds no episode_return"),
        ([tmp_path / "e.txt"], "neither a run folder"),
        ([tmp_path / "f.csv"], "no column run: its first line is 'run;env_steps;episode_return'"),
        ([tmp_path / "g.csv"], "Line 2 of", "has more than 3 fields"),
        ([tmp_path / "loop.csv"], "There is no run"),
        ([tmp_path / "h.csv"], "no column run: it is empty"),
        ([tmp_path / "own/curves.csv", "--out", tmp_path / "own"], "would be overwritten"),
        ([f"T={tmp_path}/own/curves.csv", "--out", tmp_path / "own"], "would be overwritten"),
        ([runs, "--by", "algo.divergence.lamb"], "Did you mean 'algo.divergence.lam'?"),
        ([runs, "--at", "1e5,x"], "--at 1e5,x"),
        ([runs, "--window", "-1"], "--window -1"),
        ([runs, "--window", "10,20"], "--window 10,20"),
        ([runs, "--baseline", "hapo"], "Did you mean 'happo'?"),
        ([runs, "--out", tmp_path / "e.txt"], "Cannot write"),
        ([runs, "--flag"], "--flag"),
    ):
        refused(capsys, argv, *parts)
    for name, text in files.items():
        assert (tmp_path / name).read_text() == text


def test_commands_work_as_a_module():
    command = [sys.executable, "-m", "madpo_isaac", "repot"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]+ Did you mean 'report'\?[^\n]*\n", done.stderr)


def test_unknown_command_names_the_closest(capsys):
    assert main(["repot"]) == 2
    assert "Did you mean 'report'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "madpo report" in capsys.readouterr().out
