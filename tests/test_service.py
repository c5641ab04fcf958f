"""The service of docs/service.md, over HTTP, and what it relies on."""

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from example_run import CLASSES, write_run
from PIL import Image

import ptkit

PAGE = (Path(__file__).parent.parent / "docs" / "service.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def picture(shade):
    """Return a JPEG of 40×30 pixels, as bytes."""
    rng = np.random.default_rng(shade)
    pixels = rng.integers(0, 100, (30, 40, 3), dtype=np.uint8) + np.uint8(shade)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return ptkit.load(folder / "ckpt.pkl")


@pytest.fixture(scope="module")
def address(folder):
    """The service as the page has it, on a free port of this machine."""
    names = {"__name__": "service"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(CODE, "docs/service.md", "exec"), names)
    settings = {"host": "127.0.0.1", "port": 0, "log_level": "error", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(names["app"], **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def post(address, *files, **query):
    named = [("files", (f"{k}.jpg", file)) for k, file in enumerate(files)]
    return httpx.post(f"{address}/predict", files=named, params=query, trust_env=False)


def test_a_jpeg_that_is_sent_gets_the_answer_of_the_model(address, model):
    answer = post(address, picture(0))
    assert (answer.status_code, answer.json()) == (200, model.predict(picture(0)))
    assert answer.json()[0].keys() == {"path", "class", "index", "probability"}


def test_several_pictures_and_several_classes_can_be_asked_for(address, model):
    pictures = [picture(0), picture(100)]
    expected = [row for one in pictures for row in model.predict(one, top=3)]
    assert post(address, *pictures, top=3).json() == expected
    assert httpx.get(f"{address}/classes", trust_env=False).json() == list(CLASSES)


@pytest.mark.parametrize(
    ("file", "query", "message"),
    [
        (b"<!DOCTYPE html><html></html>", {}, "it is HTML"),
        (picture(0)[:-50], {}, "truncated"),
        (picture(0), {"top": 0}, "top must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(address, file, query, message):
    answer = post(address, file, **query)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("0.jpg: ")
    assert message in answer.json()["detail"]


def test_eight_threads_get_the_rows_that_one_gets(model):
    pictures = [picture(shade) for shade in range(40)]
    alone = [model.predict(one, top=3) for one in pictures]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda one: model.predict(one, top=3), pictures * 2))
    assert together == alone * 2
