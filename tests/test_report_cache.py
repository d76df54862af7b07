"""The cache of what reports read of a metrics.jsonl: used only while the file is the same."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from madpo_isaac.report import cache, lines


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache is in a folder of the test; one test does not tidy up for the next."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_WORTH", 0)
    cache._tidy.cache_clear()
    return tmp_path / "cache" / "madpo_isaac" / "report"


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were read themselves."""
    found = []
    whole = lines.read_columns

    def counted(path):
        found.append(path.name)
        return whole(path)

    monkeypatch.setattr(lines, "read_columns", counted)
    return found


def write(path, returns, age=60.0):
    """Writes a metrics.jsonl that was written to ``age`` seconds ago."""
    text = "".join(
        json.dumps({"env_steps": 10 * k + 10, "episode_return": x}) + "\n"
        for k, x in enumerate(returns)
    )
    path.write_text(text)
    at = path.stat().st_mtime - age
    os.utime(path, (at, at))
    return path


def returns(path):
    return cache.read_columns(path)["episode_return"].tolist()


def test_a_file_is_read_once(tmp_path, read):
    path = write(tmp_path / "metrics.jsonl", [1.0, None, 0.1])
    first = cache.read_columns(path)
    again = cache.read_columns(path)
    assert read == ["metrics.jsonl"]
    assert list(again) == list(first)
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [1.0, 2.0])
    assert returns(path) == [1.0, 2.0]
    before = path.stat()
    with path.open("a") as file:  # it grows
        file.write('{"env_steps": 30, "episode_return": 3.0}\n')
    assert returns(path) == [1.0, 2.0, 3.0]
    write(path, [1.0])  # it is cut
    assert returns(path) == [1.0]
    write(path, [7.0, 8.0])  # others of the same size and time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert returns(path) == [7.0, 8.0]
    write(tmp_path / "other", [5.0, 6.0])  # another file takes the name
    (tmp_path / "other").replace(path)
    assert returns(path) == [5.0, 6.0]


def test_a_file_that_was_written_just_now_is_not_kept(tmp_path, folder):
    path = write(tmp_path / "metrics.jsonl", [1.0], age=0.0)
    assert returns(path) == [1.0]
    assert not folder.exists()


def test_a_file_that_grows_while_it_is_read_is_not_kept(tmp_path, folder, monkeypatch):
    path = write(tmp_path / "metrics.jsonl", [1.0])
    whole = lines.read_columns

    def and_grow(path):
        columns = whole(path)
        write(path, [1.0, 2.0])
        return columns

    monkeypatch.setattr(lines, "read_columns", and_grow)
    assert returns(path) == [1.0]
    assert not folder.exists()
    monkeypatch.undo()
    assert returns(path) == [1.0, 2.0]


def test_a_damaged_file_of_the_cache_is_none(tmp_path, folder):
    path = write(tmp_path / "metrics.jsonl", [1.0, 2.0])
    returns(path)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    damaged = [
        b"",
        b"\n",
        whole[:40],
        whole[:-1],
        whole + b"\0",
        whole.replace(b"return", b"rexurn"),
    ]
    damaged += [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in (0, 40, len(whole) - 2)]
    for content in damaged:
        kept.write_bytes(content)
        assert returns(path) == [1.0, 2.0]
        assert kept.read_bytes() == whole


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, monkeypatch, read):
    path = write(tmp_path / "metrics.jsonl", [1.0])
    (tmp_path / "file").touch()
    for place in (str(tmp_path / "file"), "relative", "/proc/nothing"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert [returns(path), returns(path)] == [[1.0], [1.0]]
    assert len(read) == 6
    assert not Path("relative").exists()


def test_a_run_that_cannot_be_written_is_kept_elsewhere(tmp_path, read):
    run = tmp_path / "run"
    run.mkdir()
    path = write(run / "metrics.jsonl", [1.0])
    run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert [returns(path), returns(path)] == [[1.0], [1.0]]
    assert len(read) == 1
    assert list(run.iterdir()) == [path]
    run.chmod(stat.S_IRWXU)


def test_reports_at_once_see_whole_files(tmp_path):
    paths = [write(tmp_path / f"{k}.jsonl", [float(k)] * 50) for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(returns, paths * 8))
    assert found == [[float(k)] * 50 for k in range(4)] * 8


def test_what_no_report_uses_goes(tmp_path, folder):
    old, new = (write(tmp_path / f"{name}.jsonl", [1.0]) for name in ("old", "new"))
    returns(old)
    (kept,) = folder.iterdir()
    os.utime(kept, (0.0, 0.0))
    cache._tidy.cache_clear()
    returns(new)
    assert kept not in list(folder.iterdir()) and len(list(folder.iterdir())) == 1


def test_another_reader_reads_anew(tmp_path, monkeypatch, read):
    path = write(tmp_path / "metrics.jsonl", [1.0])
    returns(path)
    monkeypatch.setattr(cache, "_reader", lambda: "another")
    returns(path)
    assert len(read) == 2
