"""docs/onnx.md and docs/onnx.html: the programs there, as they are."""

import base64
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Browser
from example_run import CLASSES, write_images
from PIL import Image
from tiny_onnx import write_onnx

import ptkit

DOCS = Path(__file__).parent.parent / "docs"
(PYTHON,) = re.findall(
    r"^```python\n(.*?)^```$", (DOCS / "onnx.md").read_text(encoding="utf-8"), re.M | re.S
)
# Of npm's package; .ci/run fetches it.
RUNTIME = os.environ.get("ONNXRUNTIME_WEB", "")
needs_browser = pytest.mark.skipif(
    PROGRAM is None or not (Path(RUNTIME) / "dist" / "ort.wasm.min.js").is_file(),
    reason="needs Chromium, and npm's onnxruntime-web in the folder $ONNXRUNTIME_WEB",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the page, a model, its classes, and images."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    write_onnx("model.onnx")
    shutil.copy(DOCS / "onnx.html", tmp_path)
    return tmp_path


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_python_of_the_page_gives_the_answers_of_predict(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open("images/green/0.png").convert("RGB").save("image.jpg", exif=exif, quality=95)
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(PYTHON, "docs/onnx.md", "exec"), {})
    (row,) = ptkit.predict("model.onnx", "image.jpg", top=3).rows
    assert printed.getvalue().splitlines() == [
        f"{found['class']}: {found['probability']:.1%}" for found in row["top"]
    ]


def test_the_python_of_the_page_needs_neither_ptkit_nor_torch(folder):
    Image.open("images/green/0.png").save("image.jpg")
    program = "import sys\nsys.modules |= dict.fromkeys(['torch', 'ptkit', 'onnx'])\n" + PYTHON
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:6]) == (0, "green:"), done.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(folder):
    """Where the folder is served."""
    (folder / "onnxruntime-web").symlink_to(Path(RUNTIME).resolve())
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/onnx.html"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def chosen(browser):
    """Return what the page says after its answer, or its error."""
    return browser.wait(
        "new Promise(done => { const look = () => { const said = at('said').textContent;"
        " if (/^(Loading|Choose)/.test(said)) setTimeout(look, 20); else done(said); };"
        " look(); })"
    )


def choose(browser, path):
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path.resolve())])


@needs_browser
@pytest.mark.slow
def test_the_page_gives_the_answers_of_python(folder, browser, address):
    # Neither pure nor alike, so that a swapped channel or a turned picture would show.
    pixels = np.random.default_rng(0).integers(90, 110, (7, 5, 3), dtype=np.uint8)
    pixels[..., 1] += 12
    Image.fromarray(pixels).save("image.png")
    browser.open(address)
    choose(browser, folder / "image.png")
    assert chosen(browser) == "green"
    data = base64.b64encode(Path("image.png").read_bytes()).decode()
    script = f"fetch('data:image/png;base64,{data}').then(sent => sent.blob()).then(answers)"
    found = {row["name"]: row["value"] for row in browser.wait(script)}
    (values,) = ptkit.predict("model.onnx", "image.png").values
    np.testing.assert_allclose([found[name] for name in CLASSES], values, atol=1e-6)
    assert browser.problems == []
    rows = "[...at('answers').rows].map(row => row.cells[0].textContent)"
    assert browser.run(rows) == [CLASSES[k] for k in np.argsort(-values)]
    if picture := os.environ.get("SCREENSHOT"):
        shot = browser.call("Page.captureScreenshot")["data"]
        Path(picture).write_bytes(base64.b64decode(shot))


@needs_browser
@pytest.mark.slow
def test_the_page_says_what_is_wrong(folder, browser, address):
    Path("text.png").write_text("no picture")
    browser.open(address)
    choose(browser, folder / "text.png")
    assert "could not be decoded" in chosen(browser)


def test_the_metadata_of_the_file_has_the_names(folder):
    import onnxruntime

    metadata = onnxruntime.InferenceSession("model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == dict(zip("012", CLASSES, strict=True))
