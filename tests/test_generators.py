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
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.foreign import apply_foreign
from ptkit.core.data.transforms.generators import all_kept, next_draws, reachable
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.parts.calls import parse, parse_all

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

LAZY = None
def lazily(image):
    global LAZY
    LAZY = LAZY or np.random.default_rng()
    return image + int(LAZY.integers(100))

class Lazily:
    rng = None
    def __call__(self, image):
        self.rng = self.rng or random.Random()
        # In place: an image that is needed again must be another one.
        image += self.rng.randrange(100)
        return image

class LazilyOnPil:
    rng = None
    def __call__(self, image):
        self.rng = self.rng or random.Random()
        image.putpixel((0, 0), image.getpixel((0, 0)) + self.rng.randrange(100))
        return image

class Seldom:
    rngs = {{}}
    def __call__(self, image):
        if random.random() > 0.9 and not self.rngs:
            self.rngs["late"] = np.random.default_rng()
        drawn = self.rngs["late"].integers(50) if self.rngs else 0
        return image + random.randrange(50) + int(drawn)

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
    *("from_default", "from_helper", "lazily"),
)
CALLS = [f'Lambda("{{}}:{name}")' for name in FUNCTIONS] + [
    f"{{}}:{name}()" for name in ("make", "Held", "Slots", "Inner", "Lazily")
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


def test_a_step_that_runs_again_gets_the_image_as_it_came(own):
    lazily = build_transform(parse(f"{own}:LazilyOnPil()"))
    with all_kept([lazily]):
        first, again = (
            apply_foreign(lazily, Image.new("L", (1, 1)), np.array([0.3])).getpixel((0, 0))
            for _ in range(2)
        )
    assert first == again > 0


def test_a_generator_that_is_made_late_is_seeded_from_the_image_that_made_it(own):
    seldom = build_transform(parse(f"{own}:Seldom()"))
    draws = np.random.default_rng(0).random((60, 1))
    with all_kept([seldom]):
        first, is_made = zip(
            *((apply_foreign(seldom, BLACK, row).tolist(), bool(seldom.rngs)) for row in draws),
            strict=True,
        )
        again = tuple(apply_foreign(seldom, BLACK, row).tolist() for row in draws)
    # Before it was there, no image could depend on it.
    start = is_made.index(True)
    assert start > 0
    assert first[start:] == again[start:]


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
                *(g.get_state() for g in found if isinstance(g, np.random.RandomState)),
                *(g.get_state().tolist() for g in found if isinstance(g, torch.Generator)),
                (random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()),
            ]
        )

    # What is made when it is first needed is there from here on.
    pipeline.view(np.zeros((2, 2, 3), np.uint8))
    # Elsewhere than where the next image puts them.
    next_draws(step.transform)
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


@pytest.mark.parametrize("name", ["from_numpy", "lazily"])
@pytest.mark.parametrize("is_tried", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_do_not_change_what_own_generators_draw(own, images, name, is_tried):
    calls = [f'Lambda("{own}:{name}")', "ToTensor()"]
    pipeline, epochs = Pipeline.parse(calls), []
    if is_tried:
        evaluation_of(parse_all(calls), [np.zeros((4, 4, 3), np.uint8)])
    for workers in (1, 2):
        batches = Batches(images, pipeline, Sampling(2), workers=workers)
        epochs.append([[batch.images for batch in batches.epoch(k)] for k in (1, 2)])
        batches.close()
    for one, other in zip(*epochs, strict=True):
        assert torch.equal(torch.cat(one), torch.cat(other))
    first, second = (torch.cat(epoch)[:, 1, 0, 0] for epoch in epochs[0])
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) > 3
