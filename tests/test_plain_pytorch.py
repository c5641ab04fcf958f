"""docs/plain_pytorch.md: its program gives ptkit's probabilities, without ptkit."""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from example_run import write_images, write_run
from PIL import Image

import ptkit
from ptkit.core.models.checkpoints import read_checkpoint, save_checkpoint

PAGE = (Path(__file__).parent.parent / "docs" / "plain_pytorch.md").read_text(encoding="utf-8")
FIRST, TORCHVISION, TIMM, LAST = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize(
    ("call", "builds", "temperature"),
    [
        ("resnet18(stem='standard')", TORCHVISION, None),
        ("resnet18(stem='standard')", TORCHVISION, 0.2),
        ("timm:resnet18", TIMM, None),
    ],
    ids=["torchvision", "calibrated", "timm"],
)
def test_the_program_gives_the_probabilities_of_predict(
    tmp_path, monkeypatch, call, builds, temperature
):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path, call)
    contents = read_checkpoint(run)
    task = contents["task"] | {"temperature": temperature}
    save_checkpoint(run / "ckpt.pkl", contents | {"task": task})
    write_images(tmp_path)
    Image.open("images/green/0.png").resize((50, 40)).save("image.jpg", quality=95)
    model = call if call.startswith("timm:") else None
    expected = ptkit.predict(run, "image.jpg", model=model, top=3)
    names = {}
    with monkeypatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        # What is not there cannot be imported.
        patch.setitem(sys.modules, "ptkit", None)
        for block in (FIRST, builds, LAST):
            exec(compile(block, "docs/plain_pytorch.md", "exec"), names)
    np.testing.assert_allclose(names["probabilities"], expected.values[0], atol=1e-6)
    assert printed.getvalue().splitlines()[1:] == [
        f"{row['class']}: {row['probability']:.1%}" for row in expected.rows[0]["top"]
    ]
