"""A thousand broken command lines and files: one line and exit code 2 each, and nothing done."""

import contextlib
import io
import re

import pytest
from broken import Broken
from test_runner import _keep_torch_settings  # noqa: F401

from madpo_isaac.commands.train import main
from madpo_isaac.runs import folder as run_folder


def sizes(few, many):
    """A sample, and the slow rest of which it is the beginning."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """An empty working directory, in which no run can start."""

    def started(*_):
        raise AssertionError("a run started")

    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run_folder.RunFolder, "create", classmethod(started))
        yield folder


def fault(argv):
    """Returns the fault in how a broken command line is refused; nothing if all is well."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    except BaseException as problem:  # noqa: BLE001  whatever it is, it is a fault
        return f"{argv}: {type(problem).__name__}: {problem}"
    fine = code == 2 and not out.getvalue() and re.fullmatch(r"error: [^\n]+\n", err.getvalue())
    return None if fine else f"{argv}: exit code {code}, {out.getvalue()!r}, {err.getvalue()!r}"


@sizes(30, 900)
def test_broken_command_lines(elsewhere, count):
    broken = Broken(seed=1)
    lines = [broken.command_line() for _ in range(count)]
    assert len(set(map(tuple, lines))) > 0.9 * count
    faults = list(filter(None, map(fault, lines)))
    assert not faults, "\n".join(faults)
    assert not list(elsewhere.iterdir())


@sizes(10, 100)
def test_broken_files(elsewhere, tmp_path, count):
    broken, faults = Broken(seed=2), []
    for _ in range(count):
        text = broken.file()
        (tmp_path / "config.yaml").write_text(text)
        found = fault([f"--config-path={tmp_path}", "--config-name=config"])
        faults += [f"{found}\n{text}"] if found else []
    assert not faults, "\n\n".join(faults)
    assert not list(elsewhere.iterdir())


def test_what_the_generator_leaves_alone_is_accepted(elsewhere):
    """Else the tests above could pass since everything is refused."""
    with pytest.raises(AssertionError, match="a run started"):
        main(["task=HalfCheetah-2x3", "algo=happo", "seed=3", "headless=True", "num_threads=1"])


@sizes(8, 50)
def test_a_sample_in_processes_of_its_own(zygote, tmp_path, count):
    broken = Broken(seed=3)
    for _ in range(count):
        line = [text.replace("\t", " ") for text in broken.command_line()]
        code, text = zygote.run("train", *line, main="madpo_isaac.__main__", cwd=tmp_path)
        assert code == 2 and re.fullmatch(r"error: [^\n]+\n", text), (line, text)
    assert not list(tmp_path.iterdir())
