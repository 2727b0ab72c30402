"""The web page in a browser: people of the runner, sources of every kind, offline, on a phone."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import BROWSERS, CHROMIUM, Browser, served
from tests.dataset.test_image_files import save_turned
from tools import device_runner
from tools.web import __main__ as web
from tools.web import runtime as web_runtime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {BROWSERS} is installed"),
]

SHOWN = "import('./app.js').then(page => page.shown)"
SETTLED = "['done', 'error'].includes(document.body.dataset.state)"
ERROR = "document.querySelector('#error').textContent"
RIDERS = "064399795.jpg"
COUNT = 8
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of the project's weights, in a folder of a server's folder."""
    try:
        runtime = web_runtime.find_runtime()
    except ValueError as error:
        pytest.skip(str(error))
    dist = tmp_path_factory.mktemp("dist")
    (dist / web_runtime.SCRIPT).write_bytes(runtime.script)
    (dist / web_runtime.WASM).write_bytes(runtime.wasm)
    out = tmp_path_factory.mktemp("server") / "people"
    assert web.main(["--runtime", str(dist), "--out", str(out)]) == 0
    return out


@pytest.fixture
def url(page) -> Iterator[str]:
    """The address of the page on a web server, below its root."""
    with served(page.parent) as root:
        yield f"{root}{page.name}/"


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile", "--hide-scrollbars", *CAMERA)
    yield browser
    browser.close()


@pytest.fixture
def runner(page, tmp_path) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """What tools/device_runner.py finds in an image with the very model of the page."""
    content = gzip.decompress((page / "model.onnx.gz").read_bytes())
    (tmp_path / "model.onnx").write_bytes(content)
    shutil.copy(page / "card.json", tmp_path)
    model = device_runner.open_model(tmp_path / "model.onnx", threads=1)
    return lambda path: device_runner.find_people(*model, device_runner.read_image(str(path)))


def joints_elsewhere(shown: dict, expected: tuple[np.ndarray, np.ndarray]) -> int:
    """How many joints are more than a pixel apart; people, scores and joints found are equal."""
    people, scores = expected
    np.testing.assert_allclose(shown["scores"], scores, atol=0.002)
    found = np.array(shown["people"]).reshape(people.shape)
    np.testing.assert_array_equal(found[..., 2] > 0, people[..., 2] > 0)
    return int((np.abs(found[..., :2] - people[..., :2]).max(axis=2) > 1).sum())


@pytest.mark.data
def test_the_browser_finds_the_people_of_the_runner(browser, url, page, data_root, runner):
    """On MPII images, one of them of three riders.

    A missing joint is searched where value less rounded distance of tags is largest. At most one of
    thousands lies elsewhere: which one depends on the processor, as a distance near .5 would.
    """
    listed = json.loads((data_root / "mpii/json/crowdpose_val.json").read_text(encoding="utf-8"))
    names = [image["file_name"] for image in listed["images"][:COUNT]]
    assert RIDERS in names
    elsewhere = 0
    for name in names:
        shutil.copy(data_root / "mpii/images" / name, page.parent)
        browser.open(f"{url}?image=../{name}")
        browser.wait(SETTLED)
        assert browser.evaluate(ERROR) == ""
        elsewhere += joints_elsewhere(browser.evaluate(SHOWN), runner(page.parent / name))
        if name == RIDERS:
            assert browser.evaluate("document.querySelector('#people').textContent") == "3"
            label = browser.evaluate("document.querySelector('#view').ariaLabel")
            assert label == f"{RIDERS} with 3 people"
    assert elsewhere <= 1


class Files:
    """Opens files in the page, as a user does."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        root = browser.send("DOM.getDocument")["root"]["nodeId"]
        self.node = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]

    def open(self, name: str, content: bytes | None = None) -> None:
        if content is not None:
            (self.folder / name).write_bytes(content)
        self.browser.evaluate("delete document.body.dataset.state")
        path = str(self.folder / name)
        self.browser.send("DOM.setFileInputFiles", nodeId=self.node, files=[path])
        self.browser.wait(SETTLED)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def test_files_of_every_kind_are_shown_or_refused_in_one_line(browser, url, tmp_path, coco_root):
    browser.open(url)
    browser.wait("document.body.dataset.state == 'ready'")
    files = Files(browser, tmp_path)

    files.open("notes.txt", b"not an image")
    assert "notes.txt is not an image or a video" in browser.evaluate(ERROR)
    files.open("clip.mp4", b"not a video")
    assert "clip.mp4 is not a video that this browser can play" in browser.evaluate(ERROR)
    files.open("narrow.png", encoded(np.zeros((2000, 10, 3), np.uint8), ".png"))
    assert "10 x 2000 pixels become an input of 448 x 89600" in browser.evaluate(ERROR)

    files.open("black.png", encoded(np.zeros((48, 64), np.uint8), ".png"))
    assert browser.evaluate(ERROR + " && !document.querySelector('#error').hidden") is False
    assert browser.evaluate("document.querySelector('#people').textContent") == "0"

    save_turned(tmp_path / "turned.jpg", 6)
    files.open("turned.jpg")
    height, width = cv2.imread(str(tmp_path / "turned.jpg")).shape[:2]  # upright
    assert browser.evaluate(SHOWN)["size"] == [width, height]

    image = cv2.imread(str(next((coco_root / "images/val2017").iterdir())))
    files.open("large.jpg", encoded(cv2.resize(image, (6000, 4500)), ".jpg"))
    shown = browser.evaluate(SHOWN)
    assert (shown["size"], shown["input"]) == ([6000, 4500], [640, 448])
    assert shown["scale"] == pytest.approx(4096 / 6000)
    status = browser.evaluate("document.querySelector('#status').textContent")
    assert status == "large.jpg: 6000 x 4500 pixels, reduced to 4096 x 3072."

    browser.evaluate("document.body.dataset.state = 'again'")
    browser.evaluate(
        "{ const s = document.querySelector('#side'); s.value = 256; s.onchange(); 0 }"
    )
    browser.wait(SETTLED)
    assert browser.evaluate(SHOWN)["input"] == [384, 256]

    for address, line in (("http://other.test/a.jpg", "another server"), ("gone.jpg", "HTTP 404")):
        browser.open(f"{url}?image={address}")
        browser.wait(SETTLED)
        assert line in browser.evaluate(ERROR)


def test_a_video_and_a_camera_are_shown_until_they_are_stopped(browser, url, tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "a.webm"), cv2.VideoWriter_fourcc(*"VP80"), 10, (96, 64)
    )
    for i in range(10):
        writer.write(np.full((64, 96, 3), 20 * i, np.uint8))
    writer.release()
    browser.open(url)
    browser.wait("document.body.dataset.state == 'ready'")
    Files(browser, tmp_path).open("a.webm")
    assert browser.evaluate(ERROR) == ""
    assert browser.evaluate(SHOWN)["size"] == [96, 64]
    browser.evaluate("document.querySelector('#camera').click()")
    browser.wait(f"{SHOWN}.then(shown => shown.name == 'camera')")
    assert browser.evaluate(SHOWN)["size"] == [1280, 720]
    browser.evaluate("document.querySelector('#stop').click()")
    assert browser.evaluate("document.querySelector('#stop').hidden")


def test_the_page_works_offline_and_asks_no_other_server(browser, page):
    with served(page.parent) as root:
        url = f"{root}{page.name}/"
        browser.open(url)
        browser.wait("document.body.dataset.state == 'ready'")
        browser.wait(
            "navigator.serviceWorker.ready.then(ready => ready.active.state == 'activated')"
        )
    browser.open(url)  # the server has ended
    browser.wait("document.body.dataset.state == 'ready'")
    asked = {
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    }
    assert asked
    assert all(address.startswith((url, "data:")) for address in asked), asked


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk(browser, url, width):
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 400}
    browser.send("Emulation.setDeviceMetricsOverride", **metrics)
    browser.open(url)
    browser.wait("document.body.dataset.state == 'ready'")
    for text in ("", "x" * 200):  # a file name without spaces
        browser.evaluate(f"document.querySelector('#status').textContent = '{text}'")
        assert browser.evaluate("document.documentElement.scrollWidth") == width
    small = (
        "[...document.querySelectorAll('button, select, .file')].filter(e => e.offsetHeight < 44)"
    )
    assert browser.evaluate(f"{small}.filter(e => e.offsetHeight).length") == 0
