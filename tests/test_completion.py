"""Completion in bash: what a real bash offers for lines that are not finished."""

import shutil
import subprocess

import pytest

from madpo_isaac.__main__ import main
from madpo_isaac.commands import COMMANDS
from madpo_isaac.tasks import TASKS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    if shutil.which("bash") is None:
        pytest.skip("no bash is installed")
    from madpo_isaac.commands import completion

    path = tmp_path_factory.mktemp("completion") / "madpo"
    path.write_text(completion.script())
    return path


def offered(script, line):
    """Returns the words that bash offers at the end of ``line``, which it breaks at =, too."""
    words = line.replace("=", " = ").split(" ")
    words = [word for word in words[:-1] if word] + [words[-1]]
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"""
    compopt() {{ :; }}  # it is for a completion that readline has begun
    source '{script}'
    COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
    _madpo && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return [word for word in done.stdout.split("\n") if word]


def test_what_is_offered(script):
    assert offered(script, "madpo ") == list(COMMANDS)
    assert offered(script, "madpo re") == ["replay-dump", "render", "report", "reproduce"]
    assert offered(script, "madpo play --h") == ["--help", "--html"]
    assert offered(script, "madpo play --agent ra") == ["random"]
    assert offered(script, "madpo train task=ShadowHandDoor") == [
        name for name in TASKS if name.startswith("ShadowHandDoor")
    ]
    assert sorted(offered(script, "madpo train seed=1 algo=m")) == ["madpo", "mappo"]
    assert offered(script, "madpo train algo.divergence.l") == ["algo.divergence.lam="]
    assert offered(script, "madpo render q") == ["quad"]
    assert "latest" in offered(script, "madpo eval ")
    assert offered(script, "madpo reproduce fig1") == ["fig10"]
    assert "--scale" in offered(script, "madpo reproduce --")
    assert offered(script, "madpo list r") == ["runs"]
    assert offered(script, "madpo export --format o") == ["onnx"]


def test_another_shell_is_one_line(capsys):
    assert main(["completion", "bsh"]) == 2
    assert (
        capsys.readouterr().err
        == "error: Unknown shell 'bsh'. Did you mean 'bash'? Allowed: bash.\n"
    )
