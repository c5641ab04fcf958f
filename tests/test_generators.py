"""A user's transform that draws from a generator of its own repeats with the image's draw alone."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.transforms.catalogue import build_transform
from ptkit.core.data.transforms.foreign import apply_foreign
from ptkit.core.data.transforms.generators import all_kept, reachable
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.parts.calls import parse

# Each adds a number of one generator to the image; each is held in another way.
CODE = """
import functools, random
import numpy as np, torch
import {helper}

NUMPY, LEGACY = np.random.default_rng(), np.random.RandomState()
PYTHON, TORCH = random.Random(), torch.Generator()
TABLE = {{"rng": [np.random.default_rng()]}}
DRAW = np.random.default_rng().integers

def from_numpy(image): return image + int(NUMPY.integers(100))
def from_legacy(image): return image + int(LEGACY.randint(100))
def from_python(image): return image + PYTHON.randrange(100)
def from_torch(image): return image + int(torch.randint(100, (1,), generator=TORCH))
def from_table(image): return image + int(TABLE["rng"][0].integers(100))
def from_bound_method(image): return image + int(DRAW(100))
def from_default(image, rng=np.random.default_rng()): return image + int(rng.integers(100))
def from_helper(image): return image + {helper}.number()

def make(rng=None):
    rng = np.random.Generator(np.random.MT19937())
    def closure(image): return image + int(rng.integers(100))
    return functools.partial(closure)

class Held:
    shared = random.Random()
    def __init__(self): self.rngs = [np.random.Generator(np.random.Philox())]
    def __call__(self, image):
        return image + int(self.rngs[0].integers(50)) + self.shared.randrange(50)

class Slots:
    __slots__ = ("rng",)
    def __init__(self): self.rng = np.random.default_rng()
    def __call__(self, image): return image + int(self.rng.integers(100))

class Inner(Held):
    @property
    def rng(self): return NUMPY
    def __call__(self, image): return image + int(self.rng.integers(100))
"""
HELPER = """
import numpy as np
RNG = np.random.default_rng()
def number(): return int(RNG.integers(100))
"""
FUNCTIONS = (
    *("from_numpy", "from_legacy", "from_python", "from_torch", "from_table", "from_bound_method"),
    *("from_default", "from_helper"),
)
CALLS = [f'Lambda("{{}}:{name}")' for name in FUNCTIONS] + [
    f"{{}}:{name}()" for name in ("make", "Held", "Slots", "Inner")
]
BLACK = torch.zeros(3, 2, 2, dtype=torch.uint8)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    helper = f"helper_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{helper}.py").write_text(HELPER)
    file = tmp_path / "own.py"
    file.write_text(CODE.format(helper=helper))
    return file


@pytest.mark.parametrize("call", CALLS)
def test_a_generator_of_ones_own_depends_on_the_images_draw_alone(own, call):
    transform = build_transform(parse(call.format(own)))
    draws = np.random.default_rng(0).random((20, 1))
    with all_kept([transform]):
        first = [apply_foreign(transform, BLACK, row).tolist() for row in draws]
        again = [apply_foreign(transform, BLACK, row).tolist() for row in draws[::-1]][::-1]
    assert first == again
    assert len({str(image) for image in first}) > 10


def test_each_generator_is_seeded_with_another_number(own):
    held = build_transform(parse(f"{own}:Held()"))
    with all_kept([held]):
        apply_foreign(held, BLACK, np.array([0.5]))
        numbers = [
            generator.random() for generator in reachable(held) if hasattr(generator, "random")
        ]
    assert len(numbers) == len(set(numbers)) > 5


@pytest.mark.parametrize("call", CALLS)
def test_trying_a_transform_leaves_every_generator_as_it_was(own, call):
    pipeline = Pipeline.parse([call.format(own), "ToTensor()"])
    (step,) = pipeline.plan.image_steps

    def states():
        found = reachable(step.transform)
        return repr(
            [
                *(g.bit_generator.state for g in found if isinstance(g, np.random.Generator)),
                *(g.getstate() for g in found if isinstance(g, random.Random)),
                *(g.get_state() for g in found if isinstance(g, torch.Generator)),
                (random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()),
            ]
        )

    before = states()
    pipeline.view(np.zeros((2, 2, 3), np.uint8))
    assert len(reachable(step.transform)) > 0
    assert states() == before


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("from random import random as draw", lambda: random.Random(1 << 51).random()),
        ("from numpy.random import random as draw", lambda: np.random.RandomState(0).random()),
        (
            "import torch\ndef draw(): return torch.rand(()).item()",
            lambda: torch.rand((), generator=torch.Generator().manual_seed(1 << 51)).item(),
        ),
    ],
)
def test_the_global_generators_are_seeded_as_ever(tmp_path, line, number):
    # Runs of earlier versions resume with the same numbers.
    (tmp_path / "old.py").write_text(
        f"{line}\ndef step(image): return image + int(draw() * (1 << 30))\n"
    )
    transform = build_transform(parse(f'Lambda("{tmp_path}/old.py:step")'))
    with all_kept([]):
        found = apply_foreign(transform, torch.zeros(1, dtype=torch.int64), np.array([0.25]))
    assert reachable(transform.function) == ()
    assert found.tolist() == [int(number() * (1 << 30))]


def test_what_no_module_of_the_users_holds_is_not_looked_through():
    assert reachable(build_transform(parse("AutoAugment()"))) == ()
    assert reachable(random.SystemRandom()) == ()


@pytest.fixture
def images(tmp_path):
    for number in range(6):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = "".join(f"{tmp_path}/{number}.png {number % 2}\n" for number in range(6))
    (tmp_path / "list.txt").write_text(lines)
    return read_list(tmp_path / "list.txt")


def test_workers_do_not_change_what_own_generators_draw(own, images):
    pipeline = Pipeline.parse([f'Lambda("{own}:from_numpy")', "ToTensor()"])
    epochs = []
    for workers in (1, 2):
        batches = Batches(images, pipeline, Sampling(2), workers=workers)
        epochs.append([[batch.images for batch in batches.epoch(k)] for k in (1, 2)])
        batches.close()
    for one, other in zip(*epochs, strict=True):
        assert torch.equal(torch.cat(one), torch.cat(other))
    first, second = (torch.cat(epoch)[:, 1, 0, 0] for epoch in epochs[0])
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) > 3
