"""The list of tools/plant_faults.py fits the code; the tool itself takes minutes."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("plant_faults", ROOT / "tools/plant_faults.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.mark.parametrize("fault", tool.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_and_its_test_is_there(fault):
    assert tool.planted(fault, ROOT) != (ROOT / fault.file).read_text()
    file, _, name = fault.test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_text_that_is_gone_is_named():
    fault = tool.Fault("x", "train.py", "no such text", "", "")
    with pytest.raises(tool.ListError, match=r"'no such text' is 0 times in train\.py"):
        tool.planted(fault, ROOT)
