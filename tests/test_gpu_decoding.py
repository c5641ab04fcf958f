"""Which JPEGs a GPU decodes, and that all others go the usual way; the GPU here is torchvision's
decoder on the CPU.
"""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from queue import LifoQueue

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode

import ptkit
from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading import batches as batches_module
from ptkit.core.data.loading import gpu_decoding
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.gpu_decoding import GpuDecoder, can_decode, gpu_decoder
from ptkit.core.data.transforms import pipeline as pipeline_module
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import MOST_MODES
from ptkit.core.errors import DataError, UsageError

# Newer versions of torchvision send people to torchcodec.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
CPU = torch.device("cpu")
CALLS = ["RandomResizedCrop(24)", "RandomHorizontalFlip()", "ToTensor()"]


def encoded(mode="RGB", kind="JPEG", turned=None, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(pixels).convert(mode), io.BytesIO()
    if turned is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turned
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Whether the GPU decodes it.
FILES = {
    "plain": (encoded(), True),
    "grey": (encoded("L"), True),
    "progressive": (encoded(progressive=True), True),
    "subsampled": (encoded(subsampling=2), True),
    "upright by EXIF": (encoded(turned=1), True),
    "turned by EXIF": (encoded(turned=6), False),
    "mirrored by EXIF": (encoded(turned=2), False),
    "four channels": (encoded("CMYK"), False),
    "stored as RGB": (encoded(keep_rgb=True), False),
    "PNG": (encoded(kind="PNG"), False),
    "cut off": (encoded()[:-300], False),
}


def renamed(data, old, new):
    assert old in data
    return data.replace(old, new, 1)


FRAME = b"\xff\xc0\x00\x11\x08"
FILES |= {
    # libjpeg takes channels with these names for RGB where nothing else says what they are.
    "channels named RGB": (
        renamed(encoded(keep_rgb=True), b"\xff\xee\x00\x0eAdobe", b"\xff\xed\x00\x0eAdobe"),
        False,
    ),
}


def test_a_header_that_claims_too_many_pixels_is_the_cpus_to_refuse():
    data = encoded()
    assert data.count(FRAME) == 1
    at = data.index(FRAME) + len(FRAME)
    large = data[:at] + (12_000).to_bytes(2) + (8_000).to_bytes(2) + data[at + 4 :]
    assert can_decode(data)
    assert not can_decode(large)
    with pytest.raises(DataError, match="8000×12000 pixels, over 89,000,000"):
        decoder.decode(large)


class OnCpu:
    """Decodes as a GPU would, and counts the images."""

    def __init__(self):
        self.num_images, self.num_calls = 0, 0

    def __call__(self, encoded):
        self.num_calls += 1
        found = decode_jpeg(encoded, mode=ImageReadMode.RGB)
        self.num_images += len(encoded)
        return found


@pytest.fixture
def gpu(monkeypatch):
    decode = OnCpu()
    monkeypatch.setattr(batches_module, "gpu_decoder", lambda *_: GpuDecoder(CPU, decode))
    return decode


@pytest.fixture
def images(tmp_path):
    good = {name: data for name, (data, _) in FILES.items() if name != "cut off"}
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
    write_list(tmp_path / "list.txt", [(name, number % 2) for number, name in enumerate(good)])
    return read_list(tmp_path / "list.txt")


@pytest.mark.parametrize("name", FILES)
def test_the_gpu_decodes_what_it_decodes_as_we_do(name):
    data, expected = FILES[name]
    assert can_decode(data) is expected
    if expected:
        pixels = GpuDecoder(CPU, OnCpu()).images([data])[0]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), decoder.decode(data))


@pytest.mark.parametrize("calls", [CALLS, ["Resize((24, 24))", *CALLS], [*CALLS, "RandomErasing()"],
                                   ["Resize((24, 24))", "ToTensor()"],
                                   ["Resize(24)", "FiveCrop(24)", "ToTensor()"]])  # fmt: skip
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_those_of_the_cpu(images, gpu, calls, workers):
    batches = [
        list(
            Batches(
                images,
                # Flips are among the steps that a GPU does for a whole batch.
                Pipeline.parse(calls).for_device(torch.device("cuda")),
                Sampling(4),
                workers=workers,
                decode=decode,
            ).epoch(1)
        )
        for decode in ("whole", "gpu")
    ]
    for expected, found in zip(*batches, strict=True):
        # The same kernels on the same pixels, in another layout of memory.
        torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1.01 / 255)
        assert torch.equal(found.labels, expected.labels)
    assert gpu.num_images == 5


def test_one_that_the_gpu_refuses_is_decoded_as_usual():
    good, strange = encoded(), encoded(progressive=True)

    def decode(images):
        if any(len(image) == len(strange) for image in images):
            raise RuntimeError("nvjpegDecodeJpeg failed: 3")
        return decode_jpeg(images, mode=ImageReadMode.RGB)

    found = GpuDecoder(CPU, decode).images([good, strange, good, good])
    assert [image is None for image in found] == [False, True, False, False]


@pytest.fixture
def decoder_for(monkeypatch):
    """Return a function that chooses among decoders for a GPU that is not there."""
    device = torch.device("cuda")
    monkeypatch.setattr(GpuDecoder, "own_stream", lambda _: nullcontext())

    def choose(*decoders, calls=CALLS):
        monkeypatch.setattr(gpu_decoding, "_decode_functions", lambda _: iter(decoders))
        return gpu_decoder(device, Pipeline.parse(calls).for_device(device))

    return choose


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        # nvJPEG says it by a number.
        RuntimeError("Failed to decode batch: 5\nException raised from decode"),
    ],
)
def test_memory_that_is_used_up_is_no_refusal(decoder_for, error):
    def decode(images):
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        GpuDecoder(CPU, decode).images([encoded(), encoded()])
    with pytest.raises(torch.OutOfMemoryError):
        decoder_for(decode, OnCpu())


def refusing(images):
    raise RuntimeError("not compiled with nvJPEG support\nmore")


def test_a_decoder_that_cannot_decode_is_refused_before_training(decoder_for):
    expected = "cannot decode here: not compiled with nvJPEG support; install"
    with pytest.raises(UsageError, match=expected):
        decoder_for(refusing)
    with pytest.raises(UsageError, match="neither torchvision nor torchcodec has a decoder"):
        decoder_for()


def test_the_first_decoder_that_can_is_taken(decoder_for):
    assert decoder_for(refusing, OnCpu(), refusing).decode.num_images == 1


@pytest.mark.parametrize(
    ("calls", "named"),
    [
        (
            ["Resize((24, 24))", "RandomHorizontalFlip()", "RandomRotation(9)"],
            r"RandomRotation\(9\)",
        ),
        (["RandomResizedCrop(24)", "AutoAugment()"], r"AutoAugment\(\)"),
        (
            ["Resize(24)", "RandomResizedCrop(24, interpolation=InterpolationMode.LANCZOS)"],
            r"RandomResizedCrop\(24, interpolation=InterpolationMode.LANCZOS\)",
        ),
        (
            ["RandomApply([Resize(24, interpolation=InterpolationMode.LANCZOS)])"],
            r"RandomApply\(.*\)",
        ),
    ],
)
def test_the_step_that_does_not_run_on_a_gpu_is_named(decoder_for, calls, named):
    if "LANCZOS" in str(calls) and InterpolationMode.LANCZOS not in MOST_MODES:
        pytest.skip("refused for all tensors by this version of torch")
    with pytest.raises(UsageError, match=f"run on the device; {named} does not"):
        decoder_for(OnCpu(), calls=[*calls, "ToTensor()"])


def test_an_image_that_shrinks_too_much_for_a_gpu_is_resized_on_the_cpu(monkeypatch):
    tries = []

    def apply_steps(steps, image, draws):
        tries.append(image)
        if len(tries) == 1:
            raise UsageError("Resize cannot be applied: Too much shared memory required: 98304")
        return pipeline_module.apply_steps(steps, image, draws)

    monkeypatch.setattr(gpu_decoding, "apply_steps", apply_steps)
    pipeline = Pipeline.parse(["Resize((24, 24))", "ToTensor()"])
    image = decode_jpeg(torch.frombuffer(bytearray(encoded()), dtype=torch.uint8))
    found = GpuDecoder(CPU, OnCpu()).batch(pipeline, [image], np.empty((1, 0)), None)
    expected = pipeline.apply_prefix(image.permute(1, 2, 0).numpy())
    assert np.array_equal(found[0].numpy(), expected)
    assert len(tries) == 2


def test_no_stream_is_used_by_two_threads_at_once(monkeypatch):
    class Stream:
        num_threads = 0

        def synchronize(self):
            time.sleep(0.001)

    @contextmanager
    def entered(stream):
        stream.num_threads += 1
        assert stream.num_threads == 1
        try:
            yield
        finally:
            stream.num_threads -= 1

    streams = LifoQueue()
    for _ in range(3):
        streams.put(Stream())
    monkeypatch.setattr(gpu_decoding, "_streams", lambda _: streams)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", entered)
    gpu = GpuDecoder(torch.device("cuda"), OnCpu())

    def work(number):
        with suppress(ValueError), gpu.own_stream():
            if number % 7 == 0:
                raise ValueError("not an image")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(50)))
    assert streams.qsize() == 3


def test_an_image_that_cannot_be_read_is_the_usual_error(images, gpu, tmp_path):
    (tmp_path / "plain").write_bytes(FILES["cut off"][0])
    batches = Batches(images, Pipeline.parse(CALLS), Sampling(4), decode="gpu")
    with pytest.raises(DataError, match="plain"):
        list(batches.epoch())
    bad = {}
    list(batches.epoch(bad=bad))
    assert list(bad) == [0]


def test_without_a_gpu_it_is_refused():
    with pytest.raises(UsageError, match=r"on a CUDA device, and this run is on cpu"):
        gpu_decoder(CPU, Pipeline.parse(CALLS))


@pytest.mark.parametrize("more", [{"cache": "ram"}, {"reduced_decode": True, "cache": "auto"}])
def test_what_excludes_it_is_refused(images, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"data.decode=gpu decodes whole images"):
        ptkit.train(
            train="list.txt", valid="list.txt", allow_leak=True, decode="gpu", size=24,
            transforms=CALLS[:1], model="lenet(size=24)", **more,
        )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("calls", [CALLS, [*CALLS, "RandomErasing()"]])
def test_batches_of_a_gpu_are_those_of_the_cpu(images, calls):
    """Beside work that frees memory while the GPU still has to do it."""
    batches = [
        Batches(images, Pipeline.parse(calls), Sampling(2), device="cuda", workers=3, decode=decode)
        for decode in ("whole", "gpu")
    ]
    busy = torch.rand(2000, 2000, device="cuda")
    for _ in range(5):
        for expected, found in zip(*(each.epoch(1) for each in batches), strict=True):
            for _ in range(20):
                busy = (busy @ busy.clone()).clamp(0, 1)
            difference = (found.images - expected.images).abs()
            assert difference.mean() < 4 / 255
            assert torch.equal(found.labels, expected.labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nvjpeg_differs_by_a_few_levels():
    device = torch.device("cuda")
    gpu = gpu_decoder(device, Pipeline.parse(CALLS).for_device(device))
    contents = [data for data, expected in FILES.values() if expected]
    for data, pixels in zip(contents, gpu.images(contents), strict=True):
        assert pixels is not None
        difference = pixels.permute(1, 2, 0).cpu().numpy().astype(int) - decoder.decode(data)
        # Noise, the worst that there is: colours are interpolated in another way.
        assert np.abs(difference).mean() < 4
