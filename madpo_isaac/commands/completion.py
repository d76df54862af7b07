"""``madpo completion``: a script that lets bash or zsh complete madpo's command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from madpo_isaac import console, plugins
from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.commands import COMMANDS, listing, train_help
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config import recipes
from madpo_isaac.errors import unknown
from madpo_isaac.evaluation.agents import AGENTS
from madpo_isaac.interop.export import SUFFIXES
from madpo_isaac.sim import SIM_SCHEMAS
from madpo_isaac.tasks import TASKS
from madpo_isaac.tasks.hands import hand


class _Script(Template):
    """A template whose fields begin with @, as $ is a shell's own sign."""

    delimiter = "@"


_BASH = _Script(r"""# Completion of madpo in bash, made by: madpo completion bash
_madpo() {
    local line=${COMP_LINE:0:COMP_POINT} found=
    local word=${line##* } command=${COMP_WORDS[1]}
    local before=${line% *}; before=${before##* }
    if ((COMP_CWORD == 1)); then found='@commands'; else
@found
    fi
    COMPREPLY=($(compgen -W "$found" -- "${word#*=}"))
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _madpo madpo
""")
_ZSH = _Script(r"""#compdef madpo
# Completion of madpo in zsh, made by: madpo completion zsh
_madpo() {
    local word=$PREFIX command=${words[2]} before=${words[CURRENT-1]} found= none=1
    if ((CURRENT == 2)); then found='@commands'; else
@found
    fi
    local -a every=(${=found})
    compset -P 1 '*='
    compadd -S '' -- ${(M)every:#*=} && none=0
    compadd -- ${every:#*=} && none=0
    ((none)) && _files
}
if [[ ${funcstack[1]} == _madpo ]]; then  # zsh has found this file in its fpath
    _madpo
else
    ((${+functions[compdef]})) || { autoload -Uz compinit && compinit }
    compdef _madpo madpo
fi
""")
SHELLS = {"bash": _BASH, "zsh": _ZSH}
_FOUND = _Script(
    r"""
    case $before in
@after
        *) case $word in
            -*) case $command in
@options
            esac ;;
            *=*) case ${word%%=*} in
@values
            esac ;;
            *) case $command in
@words
            esac ;;
        esac ;;
    esac
""".strip("\n")
)
"""Sets ``found`` to what is offered, in the language that both shells know.

``word`` is the one under way, up to the cursor; ``before`` is the word in front of it.
"""


def main(argv: Sequence[str]) -> int:
    """Prints the script; returns 0."""
    parser = Parser(
        "madpo completion",
        "Prints a script that lets a shell complete madpo's commands, options, settings and names.",
    )
    parser.add_argument("shell", nargs="?", default="bash", help=f"{', '.join(SHELLS)} (bash)")
    options = parser.parse(argv)
    if options.shell not in SHELLS:
        raise unknown("shell", options.shell, SHELLS)
    console.info(script(options.shell))
    return 0


def script(shell: str) -> str:
    """Returns the script for one of :data:`SHELLS`."""
    from madpo_isaac.commands.reproduce import ALL, FIGURES

    plugins.load_installed()
    groups = {"task": TASKS, "algo": ALGO_SCHEMAS, "sim": SIM_SCHEMAS, "recipe": recipes.names()}
    after = {"--agent": AGENTS, "--format": SUFFIXES}
    keys = dict.fromkeys([*(f"{group}=" for group in groups), *settings()])
    words = {name: [*keys, *TASKS, "latest", "best"] for name in ("eval", "play")}
    words |= {"train": keys, "render": [*keys, *TASKS, *hand.names(), "sheet"]}
    words |= {"list": listing.WHAT, "reproduce": [*FIGURES, ALL, *keys], "completion": SHELLS}
    words |= {"export": [*TASKS, "latest", "best"]}
    sources = {name: f"{module.rsplit('.', 1)[1]}.py" for name, (module, _) in COMMANDS.items()}
    found = _FOUND.substitute(
        after=_cases(after, 8),
        options=_cases({name: _options(file) for name, file in sources.items()}, 16),
        values=_cases(groups, 16),
        words=_cases(words, 16),
    )
    return SHELLS[shell].substitute(commands=" ".join(COMMANDS), found=found)


def settings() -> list[str]:
    """Returns the keys of train.py, each with ``=`` behind it."""
    return [
        f"{prefix}{key.name}="
        for _, prefix, file, name, _ in train_help.SECTIONS
        for key in train_help.keys(train_help.PACKAGE / file, name)
    ]


def _options(file: str) -> list[str]:
    """Returns the options of a subcommand, as its source has them."""
    source = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return ["--help", *re.findall(r'\badd(?:_argument)?\(\s*"(--[\w-]+)"', source)]


def _cases(found: Mapping[str, Iterable[str]], indent: int) -> str:
    lines = (f"{name}) found='{' '.join(each)}' ;;" for name, each in found.items())
    return "\n".join(" " * indent + line for line in lines)
