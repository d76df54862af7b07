"""``madpo completion``: a script that lets bash complete madpo's command line."""

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

SHELLS = ("bash",)


class _Script(Template):
    """A template whose fields begin with @, as $ is bash's own sign."""

    delimiter = "@"


_TEMPLATE = _Script(r"""# Completion of madpo in bash, made by: madpo completion bash
_madpo() {
    local line=${COMP_LINE:0:COMP_POINT} words= values=
    local word=${line##* } command=${COMP_WORDS[1]}
    local before=${line% *}; before=${before##* }
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "@commands" -- "$word"))
        return
    fi
    case $before in
@after
    esac
    case $word in
        -*) case $command in
@options
            esac ;;
        *=*)
            case ${word%%=*} in
@values
            esac
            COMPREPLY=($(compgen -W "$values" -- "${word#*=}"))
            return ;;
        *) case $command in
@words
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _madpo madpo
""")


def main(argv: Sequence[str]) -> int:
    """Prints the script; returns 0."""
    parser = Parser(
        "madpo completion",
        "Prints a script that lets a shell complete madpo's commands, options, settings and names.",
    )
    parser.add_argument("shell", nargs="?", default=SHELLS[0], help=", ".join(SHELLS))
    options = parser.parse(argv)
    if options.shell not in SHELLS:
        raise unknown("shell", options.shell, SHELLS)
    console.info(script())
    return 0


def script() -> str:
    """Returns the script for bash."""
    from madpo_isaac.reproduce.paper import FIGURES

    plugins.load_installed()
    groups = {"task": TASKS, "algo": ALGO_SCHEMAS, "sim": SIM_SCHEMAS, "recipe": recipes.names()}
    after = {"--agent": AGENTS, "--format": SUFFIXES}
    keys = [*(f"{group}=" for group in groups), *settings()]
    words = {name: [*keys, *TASKS, "latest", "best"] for name in ("eval", "play")}
    words |= {"train": keys, "render": [*keys, *TASKS, *hand.names(), "sheet"]}
    words |= {"list": listing.WHAT, "reproduce": [*FIGURES, *keys], "completion": SHELLS}
    words |= {"export": [*TASKS, "latest", "best"]}
    sources = {name: f"{module.rsplit('.', 1)[1]}.py" for name, (module, _) in COMMANDS.items()}
    return _TEMPLATE.substitute(
        commands=" ".join(COMMANDS),
        after=_cases(after, "COMPREPLY=($(compgen -W '{}' -- \"$word\")); return", 8),
        options=_cases({x: _options(file) for x, file in sources.items()}, "words='{}'", 16),
        values=_cases(groups, "values='{}'", 16),
        words=_cases(words, "words='{}'", 16),
    )


def settings() -> list[str]:
    """Returns the keys of train.py, each with ``=`` behind it."""
    found = [
        f"{prefix}{key.name}="
        for _, prefix, file, name, _ in train_help.SECTIONS
        for key in train_help.keys(train_help.PACKAGE / file, name)
    ]
    return list(dict.fromkeys(found))


def _options(file: str) -> list[str]:
    """Returns the options of a subcommand, as its source has them."""
    source = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return ["--help", *re.findall(r'\badd(?:_argument)?\(\s*"(--[\w-]+)"', source)]


def _cases(words: Mapping[str, Iterable[str]], action: str, indent: int) -> str:
    lines = (f"{name}) {action.format(' '.join(found))} ;;" for name, found in words.items())
    return "\n".join(" " * indent + line for line in lines)
