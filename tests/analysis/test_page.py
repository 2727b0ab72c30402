"""`valid.py --report`: a page that opens from the file system and says what the evaluators say."""

from __future__ import annotations

import json
import multiprocessing
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import pytest

import valid
from lib.analysis.sheet import OTHERS, SIDE, WORST
from lib.core import predictions
from lib.core.evaluate import three_digits
from lib.dataset import reader
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO
from lib.utils import cli
from lib.utils.run_card import CODE, git_state
from tests.browser import BROWSERS, CHROMIUM, FLAGS
from tests.helpers import TINY, YAMLS, tiny_opts
from tests.test_scripts import assert_one_line

WIDTHS = (390, 1280)  # a phone, a desk
XML_NAMES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
WHOLE = "From 0 to 1, under HigherHRNet's names; a dash: nobody to judge"
VOID = {"meta", "img"}  # elements without an end


class Page(HTMLParser):
    """What is in a page; fails where elements do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, Mapping[str, str | None]]] = []
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.text += data
        if "h2" in self.open:
            self.headings[-1] += data
        if "caption" in self.open:
            self.caption = data
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def images(self) -> list[str]:
        return [image["src"] for image in self.all("img")]

    @property
    def curves(self) -> int:
        """How many curves the chart has."""
        return sum((group.get("id") or "").startswith("curve-") for group in self.all("g"))


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    TINY.to_json(path)
    return path


@pytest.fixture
def args(arch, coco_root, tmp_path):
    """Flags and keys of an evaluation of ground-truth maps with a report."""

    def make(
        *opts: str, data_set: str = "coco", data: Path = coco_root, report: Path | None = None
    ) -> list[str]:
        flags = ["--cfg", str(YAMLS[data_set]), "--superconfig", str(arch), "--oracle"]
        flags += ["--report", str(report or tmp_path / "report")]
        return [*flags, *tiny_opts(data, tmp_path), "DATASET.INPUT_SIZE", "128", *opts]

    return make


@pytest.fixture
def report(call, args, tmp_path):
    """The page of an evaluation that goes well."""

    def make(*opts: str, code: int = 0, **kwargs: Any) -> Page:
        done = call("valid", *args(*opts, **kwargs))
        assert (done.code, done.err) == (code, ""), done
        return Page((kwargs.get("report") or tmp_path / "report") / "index.html")

    return make


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """More images than a page shows."""
    root = tmp_path_factory.mktemp("data") / "many"
    few = {"train": 1, "val": WORST + OTHERS + 4, "test": 1}
    size = SceneParams(width=96, height=72, min_people=1, max_people=2, min_labelled=16)
    make_dataset(root, COCO, few, size, seed=2)
    return root


# --- what is in it ----------------------------------------------------------------------


def test_a_report_has_tables_curves_and_images(report, call, args, tmp_path):
    page = report("--json", str(tmp_path / "table.json"))
    assert page.headings == [
        "What was evaluated",
        "Average precision",
        "Precision and recall",
        "By joint",
        "By size of a person",
        "Where AP is lost",
        "Images left out",
        "Worst images",
    ]
    table = json.loads((tmp_path / "table.json").read_text())["table"]
    [head, row] = page.tables[WHOLE]
    assert head == ["Network", *table]
    shown = list(map(three_digits, table.values()))
    assert row == ["oracle", *shown]
    joints = page.tables["One joint at a time"]
    assert [row[0] for row in joints[1:]] == [name.replace("_", " ") for name in COCO.joints]
    assert page.curves == 3
    assert f"AP {table['AP']:.3f}" in page.text
    names = [f"worst_{n:02d}_{kind}.jpg" for n in range(1, 5) for kind in ("truth", "found")]
    assert page.images == [f"pictures/{name}" for name in names]
    assert [link["href"] for link in page.all("a")] == page.images


def test_a_report_says_what_was_evaluated(report, coco_root):
    page = report()
    known = git_state(CODE)
    assert (known["commit"] if known else "unknown") in page.text
    command = shlex.join(sys.orig_argv)
    for fact in ("val2017, 4 images", TINY.summary, str(coco_root), command, "torch 2."):
        assert fact in page.text
    assert re.search(r"20\d\d-\d\d-\d\dT", page.text)
    assert "MODEL:\n" in page.text  # the settings


def test_a_report_needs_nothing_but_its_folder(report):
    """No script, no network: only relative links to files that are there."""
    page = report()
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on")
    ]
    assert set(re.findall(r"http[^\"]*", page.source)) <= XML_NAMES
    assert "url(" not in page.source
    assert "@import" not in page.source
    for source in page.images:
        assert max(cv2.imread(str(page.path.parent / source)).shape) == SIDE
    assert all(image["alt"] for image in page.all("img"))
    assert {path.name for path in page.path.parent.iterdir()} == {"index.html", "pictures"}


def test_other_images_are_spread_over_the_rest_of_the_ranking(report, many):
    page = report(data=many)
    assert page.headings[-2:] == ["Worst images", "Other images"]
    assert len(page.images) == 2 * (WORST + OTHERS)
    captions = re.findall(r"Image (\d+) .*?OKS (\d\.\d\d)", page.text)
    oks = [float(text) for _, text in captions]
    assert oks == sorted(oks)
    assert len({number for number, _ in captions}) == WORST + OTHERS


def test_crowd_pose_has_metrics_by_crowding(report, crowd_pose_root):
    page = report(data_set="crowd_pose", data=crowd_pose_root)
    head, row = page.tables[WHOLE]
    by_crowding = [row[2] for row in page.tables["One range of images at a time"][1:]]
    assert by_crowding == row[head.index("AP (easy)") :]


def test_custom_keypoints_are_named(report, animal_root):
    page = report(data_set="animal", data=animal_root)
    head, *joints = page.tables["One joint at a time"]
    assert len(joints) == 8
    assert any(float(row[2]) > 0 for row in joints)


def test_an_image_that_was_left_out_is_named(report, coco_root, tmp_path):
    root = tmp_path / "spoiled"
    shutil.copytree(coco_root, root)
    bad = sorted((root / "images/val2017").iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:40])
    page = report(data=root, code=1)
    assert f"image {int(bad.stem)}: cannot read {bad}" in page.text
    assert "1 of 4, for these reasons" in page.text
    assert len(page.images) == 2 * 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1)<script>", "<script>alert(1)<script>"),
        ("\"><img src=x onerror='x'>", "\"><img src=x onerror='x'>"),
        ("&lt;{{ title }}", "&lt;{{ title }}"),
        ("a\x01\x1b[31m\udcffb", "a\ufffd\ufffd[31m\ufffdb"),  # control characters, a byte
    ],
)
def test_a_hostile_file_name_is_text(report, coco_root, tmp_path, name, shown):
    root = tmp_path / "hostile"
    shutil.copytree(coco_root, root)
    annotations = root / "annotations/person_keypoints_val2017.json"
    tree = json.loads(annotations.read_text())
    record = tree["images"][0]
    image = root / "images/val2017" / record["file_name"]
    record["file_name"] = f"{name}.png"
    image.rename(image.with_name(record["file_name"]))
    annotations.write_text(json.dumps(tree))
    page = report(data=root)
    assert f"({shown}.png)" in page.text
    assert len(page.all("img")) == 8
    assert not page.all("script")


def test_the_annotations_are_parsed_once(report, monkeypatch):
    parsed, read_tree = [], reader.read_tree
    monkeypatch.setattr(reader, "read_tree", lambda path: parsed.append(path) or read_tree(path))
    report("--diagnose", "--vis", "2")
    assert len(parsed) == 1


def test_matplotlib_is_only_imported_for_a_report():
    code = "import sys, valid; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CODE).returncode == 0


# --- nothing to show --------------------------------------------------------------------


def test_where_nobody_was_found_a_sentence_says_so(report):
    page = report("TEST.DETECTION_THRESHOLD", "2.0")
    assert "Nobody was found, so there is no curve" in page.text
    assert "AP 0.000" in page.source
    assert page.curves == 0
    assert len(page.images) == 8
    assert "OKS 0.00, 0 of" in page.text


def test_test_dev_has_images_and_no_tables(report, test_dev_root):
    page = report("DATASET.TEST", "test-dev2017", data=test_dev_root)
    assert "so nothing could be measured" in page.text
    assert list(page.tables) == []
    assert page.headings[-1] == "People found"
    assert page.images == [f"pictures/first_{n:02d}_found.jpg" for n in range(1, 5)]


# --- where it is written ----------------------------------------------------------------


def test_a_second_report_leaves_nothing_of_the_first(report, many, tmp_path):
    folder = tmp_path / "report"
    first = report(data=many)
    (folder / "pictures/mine.jpg").write_text("not of the report")
    (folder / "notes.txt").write_text("not of the report")
    second = report()
    assert len(first.images) > len(second.images)
    left = {f"pictures/{path.name}" for path in (folder / "pictures").iterdir()}
    assert left == {*second.images, "pictures/mine.jpg"}
    assert {path.name for path in folder.iterdir()} == {"index.html", "pictures", "notes.txt"}


@pytest.mark.parametrize("place", ["file", "file/below", "folder_with_a_file"])
def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(
    call, args, monkeypatch, tmp_path, place
):
    monkeypatch.setattr(predictions, "each_outcome", lambda *_: pytest.fail("the work began"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder_with_a_file").mkdir()
    (tmp_path / "folder_with_a_file/pictures").write_text("")
    done = call("valid", *args(report=tmp_path / place))
    assert_one_line(done, f"--report {tmp_path / place}: ")


def _run(argv: list[str], out: Path) -> None:
    sys.argv = ["valid.py", *argv]
    with out.open("w") as sys.stdout:
        cli.run(valid.main)


def test_of_two_processes_the_first_writes_the_report(args, report, tmp_path):
    flags = ["--world-size", "2", "--dist-url", f"file://{tmp_path / 'meeting'}"]
    running = [
        multiprocessing.get_context("fork").Process(
            target=_run, args=([*flags, "--rank", str(rank), *args()], tmp_path / f"{rank}.out")
        )
        for rank in range(2)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=600)
    assert [process.exitcode for process in running] == [0, 0]
    together = Page(tmp_path / "report/index.html")
    alone = report(report=tmp_path / "alone")
    assert together.tables == alone.tables
    assert together.images == alone.images
    assert "the report: " in (tmp_path / "0.out").read_text()
    assert (tmp_path / "1.out").read_text() == ""


# --- in a browser -----------------------------------------------------------------------

LOOK = """
const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = color => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel);
  return .2126 * r + .7152 * g + .0722 * b;
};
const contrast = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + .05) / (low + .05);
};
const look = frame => {
  const d = frame.contentDocument, w = frame.contentWindow, root = d.documentElement;
  const paper = w.getComputedStyle(root).backgroundColor;
  const tint = d.createElement("i");
  tint.style.color = "var(--tint)";
  d.body.append(tint);
  const bar = w.getComputedStyle(tint).color;
  const written = [...d.querySelectorAll("h1, h2, p, th, td, dt, dd, li, caption, figcaption")];
  const chart = d.querySelector(".chart svg"), box = chart.getBoundingClientRect();
  return {
    width: root.clientWidth,
    dark: w.matchMedia("(prefers-color-scheme: dark)").matches,
    overflow: root.scrollWidth - root.clientWidth,
    images: d.images.length,
    broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    rows: d.querySelectorAll("tbody tr").length,
    hidden: written.filter(e => !e.getBoundingClientRect().height).map(e => e.textContent),
    contrast: Math.min(...written.map(e => contrast(w.getComputedStyle(e).color,
      e.classList.contains("bar") ? bar : paper))),
    ink: contrast(w.getComputedStyle(chart.querySelector("text")).fill, paper),
    bars: [...d.querySelectorAll("td.bar")].filter(e =>
      w.getComputedStyle(e).backgroundImage.includes("gradient")).length,
    curves: [...chart.querySelectorAll("[id^=curve-] path")].map(e => {
      const r = e.getBoundingClientRect();
      return {
        width: r.width / box.width, height: r.height / box.height,
        stroke: contrast(w.getComputedStyle(e).stroke, paper),
        inside: r.left >= box.left && r.right <= box.right && r.top >= box.top &&
          r.bottom <= box.bottom };
    }),
  };
};
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(look);
  document.body.setAttribute("data-seen", JSON.stringify(seen));
});
"""


def seen_by_chromium(page: Page, profile: Path, *flags: str) -> list[dict[str, Any]]:
    """What the browser sees of a page at each of WIDTHS; the page lies in frames of a copy."""
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" '
        f'srcdoc="{escape(page.source)}"></iframe>'
        for width in WIDTHS
    )
    copy = page.path.with_name("looked_at.html")
    copy.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}<script>{LOOK}</script>")
    command = [
        CHROMIUM,
        *FLAGS,
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "--window-size=1400,1000",
        *flags,
    ]
    command += ["--dump-dom", copy.resolve().as_uri()]  # elements after scripts have run
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    [seen] = re.findall(r'data-seen="([^"]*)"', done.stdout)
    return json.loads(unescape(seen))


@pytest.mark.skipif(CHROMIUM is None, reason=f"none of {BROWSERS} is installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_whole_report(report, many, tmp_path, dark):
    """On a phone and on a desk: every image, curve and row, readable, nothing cut off."""
    page = report("DATASET.INPUT_SIZE", "64", data=many)  # few pixels: curves fall
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    phone, desk = seen_by_chromium(page, tmp_path / "profile", scheme)
    assert (phone["width"], desk["width"]) == WIDTHS
    rows = sum(len(rows) - 1 for rows in page.tables.values())
    bars = sum(
        row[2] != "-"
        for name in page.tables
        for row in page.tables[name][1:]
        if name.startswith("One ")
    )
    for seen in (phone, desk):
        assert seen["dark"] == dark
        assert seen["overflow"] == 0
        assert seen["broken"] == []
        assert (seen["images"], seen["rows"]) == (len(page.images), rows)
        assert seen["bars"] == bars > 17
        assert seen["hidden"] == []
        assert min(seen["contrast"], seen["ink"]) >= 4.5  # as WCAG 2.2 wants of text
        assert len(seen["curves"]) == 3
        assert max(curve["height"] for curve in seen["curves"]) > 0.2
        for curve in seen["curves"]:
            assert curve["inside"]
            assert curve["width"] > 0.5
            assert curve["stroke"] >= 3  # of drawings
