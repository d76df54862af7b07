"""madpo report: the page and the figures beside it."""

import json
import re
import shutil
import subprocess

import pytest
from report_runs import write_run, write_two_tasks

from madpo_isaac.__main__ import main
from madpo_isaac.report import tables, write
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write.write, "__kwdefaults__", {**write.write.__kwdefaults__, "reps": 50})
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_two_tasks(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """The page about all runs, one of them with a video and a name that HTML must not see."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(runs, folder / "runs")
    for name, content in (("old.mp4", b"old"), ("new.mp4", b"new"), ("episode.html", b"page")):
        path = folder / "runs" / "A_madpo_s1" / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    arguments = ["report", str(folder / "runs"), "--out", str(folder / "out"), "--at", "1e3"]
    assert main([*arguments, "--title", "a <b> & c"]) == 0
    return folder / "out"


def test_page_needs_nothing_beside_it(report):
    html = (report / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,22})', html)
    assert {source.partition(";")[0] for source in sources} == {"data:video/mp4"}
    links = re.findall(r'href="([^"]*)"', html)
    run = "../runs/A_madpo_s1"
    assert {"figures/curves.pdf", run, f"{run}/config.yaml"} <= set(links)
    assert [link for link in links if "episode" in link] == [f"{run}/videos/episode.html"]
    assert all((report / link).exists() for link in links)
    assert not re.search(r"https?:|@import|url\(|<script|<link", html)
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in html
    assert "bmV3" in html  # "new" in base64, the newest video
    assert "b2xk" not in html
    headings = ("Learning curves", "Results", "Aggregates", "Wall time and memory", "Agents")
    for heading in (*headings, "Videos"):
        assert f"<h2>{heading}</h2>" in html


def test_figures_are_there_as_png_and_pdf(report):
    names = {path.stem for path in (report / "figures").glob("*.pdf")}
    assert names == {path.stem for path in (report / "figures").glob("*.png")}
    assert names == {"curves", "success", "iqm", "aggregates", "profiles", "improvement"}
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in (report / "figures").glob("*.pdf"))


def test_evaluations_are_drawn_where_there_are_some(tmp_path):
    run = write_run(tmp_path / "a_s1", lines=20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for k in (4, 9, 14, 19):
        lines[k]["eval/return"] = float(k)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grid, values = Study(load([str(run)])).whole_curves("Task", "happo", "eval/return")
    assert grid.tolist() == [500.0, 1000.0, 1500.0, 2000.0]
    assert values.tolist() == [[4.0, 9.0, 14.0, 19.0]]
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "figures" / "evaluations.pdf").is_file()


def test_numbers_stand_on_the_right(report):
    html = (report / "report.html").read_text()
    assert '<td>happo</td><td class="n">2</td><td class="n">2000</td>' in html


def test_a_page_says_when_about_what_and_by_which_command_it_was_made(report):
    html = (report / "report.html").read_text()
    made = re.search(r'<div class="made">(.*?)</div>', html)[1]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d \S+ · A, B<pre>madpo report ", made)
    assert "--title &#x27;a &lt;b&gt; &amp; c&#x27;</pre>" in made


def test_a_point_says_its_numbers(report):
    """HAPPO's runs end at 4 and 6 in task A: 100 steps an iteration, 20 iterations."""
    html = (report / "report.html").read_text()
    assert "<title>happo: 5 [4 to 6] at 2 environment steps (thousands)</title>" in html
    assert html.count('<input type="checkbox"') == 2  # returns and successes have single runs
    assert "<title>A_happo_s1</title>" in html


def test_curves_of_a_file_have_no_wall_time(runs, tmp_path):
    tables.write_csv(Study(load([str(runs / "A_happo_s1")])), tmp_path / "A.csv")
    assert main(["report", str(tmp_path / "A.csv"), "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Wall time</h2>" not in html and "<h2>Results</h2>" in html


@pytest.mark.parametrize("level", [1e16, -1e17, 1e99, 1e-99, 0.0])
def test_constant_curves_of_any_size_are_drawn(level, tmp_path, recwarn):
    """Also those of runs whose names have letters that no font of Matplotlib has."""
    rows = [f"\u6f22_s{seed},{k},{level}" for seed in (1, 2) for k in (100, 200)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["run,env_steps,episode_return", *rows]) + "\n")
    assert main(["report", str(path), "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in html and "nan" not in html.split("<svg", 1)[1].split("</svg>")[0]
    assert not [str(warning.message) for warning in recwarn]


def test_a_success_that_never_changes_is_not_drawn(tmp_path):
    run = write_run(tmp_path / "runs" / "a")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):  # no episode has ended in the first ones
        line["success_rate"], line["episodes"] = (1.0, 4) if k > 2 else (None, 0)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "figures" / "success.png").exists()


@pytest.mark.slow
def test_equal_runs_give_equal_reports(report, tmp_path):
    folder = str(report.parent / "runs")
    arguments = ["report", folder, "--out", str(tmp_path), "--at", "1e3", "--title", "a <b> & c"]
    assert main(arguments) == 0
    for path in (*report.glob("*.*"), *report.glob("figures/*")):
        there = (tmp_path / path.relative_to(report)).read_bytes()
        # But for the date, the command and the way to the runs.
        ours, theirs = (
            re.sub(rb'<div class="made">.*?</div>|href="[^"]*"', b"", x)
            for x in (path.read_bytes(), there)
        )
        assert ours == theirs, path.name


def test_a_browser_shows_every_picture(report, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    html = (report / "report.html").read_text()
    found = re.findall(r'<div class="panels (\w+).*?">(.*?)</div>', html, re.S)
    shown, narrow = (
        sum(part.count("<svg viewBox") for kind, part in found if (kind == "narrow") == hidden)
        for hidden in (False, True)
    )
    script = (
        "<script>onload = () => { document.querySelectorAll('details').forEach(d => d.open = true);"
        "document.title = [...document.querySelectorAll('.panels > svg')]"
        ".filter(i => i.getBoundingClientRect().width > 100).length + ' shown'; }</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"{script}</body>"))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'data'}")
    command = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (shown, narrow) == (15, 7)  # three aggregates and the agents of four groups have a panel
    assert f"<title>{shown} shown</title>" in done.stdout
