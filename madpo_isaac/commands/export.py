"""``madpo export``: writes the policies of a run as ONNX or TorchScript files."""

from __future__ import annotations

import json

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.interop.export import SUFFIXES, export


def main(argv: list[str]) -> int:
    """Exports the policies that ``argv`` names and returns the exit code."""
    parser = Parser("madpo export", "Writes a run's policies, a file per agent.")
    parser.add_policy()
    parser.add_argument("--format", default="onnx", help=" or ".join(SUFFIXES))
    parser.add_argument(
        "--out", type=parser.path, help="folder to write to, instead of the run's export/"
    )
    options = parser.parse(argv)
    out = export(options.policy, options.format, options.out)
    agents = json.loads((out / "contract.json").read_text())["agents"]
    error = max(agent["largest_error"] for agent in agents)
    console.info(f"wrote {out / 'contract.json'} and a file per agent ({len(agents)})")
    console.info(f"largest difference from the policy's actions: {error:.1e}")
    return 0
