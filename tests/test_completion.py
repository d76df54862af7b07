"""Completion: what a real bash and a real zsh offer for lines that are not finished."""

import shutil
import subprocess

import pytest

from madpo_isaac.__main__ import main
from madpo_isaac.commands import COMMANDS, completion
from madpo_isaac.tasks import TASKS

BASH = """
compopt() {{ :; }}  # it is for a completion that readline has begun
source '{script}'
COMP_WORDS=({words}); COMP_CWORD={last}; COMP_LINE='{line}'; COMP_POINT={point}
_madpo && printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ :; }}  # this and the others are for a completion that the line editor has begun
source '{script}'
compset() {{ PREFIX=${{PREFIX#*=}}; }}
compadd() {{
    local none=1 word
    for word in ${{@:#-*}} ${{(M)@:#--?*}}; do
        [[ -n $word && $word == $PREFIX* ]] && {{ print -r -- $word; none=0; }}
    done
    return none
}}
_files() {{ :; }}
words=({words}); CURRENT={last}+1; PREFIX=${{words[CURRENT]}}
_madpo
"""
"""Stand-ins for what shells do at a request for completion, as far as the scripts need it."""


@pytest.fixture(scope="module", params=completion.SHELLS)
def offered(request, tmp_path_factory):
    """A function from an unfinished line to the words that a shell offers at its end."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"no {request.param} is installed")
    script = tmp_path_factory.mktemp("completion") / "madpo"
    script.write_text(completion.script(request.param))
    flags = {"bash": ("--norc", "-c"), "zsh": ("-f", "-c")}[request.param]

    def at_the_end(line):
        broken = line.replace("=", " = ") if request.param == "bash" else line
        words = broken.split(" ")
        words = [word for word in words[:-1] if word] + [words[-1]]
        code = {"bash": BASH, "zsh": ZSH}[request.param].format(
            script=script,
            words=" ".join(f"'{word}'" for word in words),
            last=len(words) - 1,
            line=line,
            point=len(line),
        )
        done = subprocess.run([shell, *flags, code], capture_output=True, text=True, timeout=60)
        assert not done.stderr, done.stderr
        return [word for word in done.stdout.split("\n") if word]

    return at_the_end


def test_what_is_offered(offered):
    assert offered("madpo ") == list(COMMANDS)
    assert offered("madpo re") == ["replay-dump", "render", "report", "reproduce"]
    assert offered("madpo play --h") == ["--help", "--html"]
    assert offered("madpo play --agent ra") == ["random"]
    assert offered("madpo train task=ShadowHandDoor") == [
        name for name in TASKS if name.startswith("ShadowHandDoor")
    ]
    assert sorted(offered("madpo train seed=1 algo=m")) == ["madpo", "mappo"]
    assert offered("madpo train algo.divergence.l") == ["algo.divergence.lam="]
    assert offered("madpo render q") == ["quad"]
    assert "latest" in offered("madpo eval ")
    assert offered("madpo reproduce fig1") == ["fig10"]
    assert "all" in offered("madpo reproduce a")
    assert offered("madpo reproduce conf") == ["confirm"]
    assert "--scale" in offered("madpo reproduce --")
    assert offered("madpo list r") == ["runs"]
    assert offered("madpo export --format o") == ["onnx"]
    assert offered("madpo completion z") == ["zsh"]
    assert offered("madpo train nothing=x") == []


def test_another_shell_is_one_line(capsys):
    assert main(["completion", "bsh"]) == 2
    assert (
        capsys.readouterr().err
        == "error: Unknown shell 'bsh'. Did you mean 'bash'? Allowed: bash, zsh.\n"
    )
