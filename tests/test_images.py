import contextlib
import ctypes
import errno
import functools
import io
import multiprocessing
import os
import signal
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from ptkit.core.data import images
from ptkit.core.data.complaints import with_stderr, without_warnings
from ptkit.core.data.formats import sniff
from ptkit.core.data.images import cv2
from ptkit.core.data.pixel_limits import allowing_pixels
from ptkit.core.errors import DataError, StorageError

ROWS, COLUMNS = np.mgrid[0:24, 0:20]
PICTURE = np.stack([COLUMNS * 12, ROWS * 10, (ROWS + COLUMNS) * 5], axis=2).astype(np.uint8)
OTHER_PICTURE = 255 - PICTURE


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


KINDS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "BMP": {},
    "GIF": {},
    "WebP": {},
    "lossless WebP": {"lossless": True},
    "extended WebP": {"exif": exif(1)},
    "TIFF": {},
}

# What makes a stored image upright, by the EXIF orientation it carries.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}

FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PSD": b"8BPS\0\1",
    "PDF": b"%PDF-1.7\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "zip archive": b"PK\x03\x04\x14\0",
    "a checkpoint or a file of weights": b"PK\x03\x04\0\0\x08\x08" + bytes(22) + b"ckpt/data.pkl",
    "the file is empty": b"",
    "only zero bytes": bytes(1000),
    "HTML": b"\n<!DOCTYPE html><html>404</html>",
    "not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC": b"hello, I am text",
    "not a JPEG": b"RIFF\x24\0\0\0WAVEfmt ",
}


def picture(mode="RGB"):
    return Image.fromarray(PICTURE).convert(mode)


def encoded(image, kind, **options):
    """Return the bytes of a Pillow image or of pixels; `kind` may carry words before the format's
    name.
    """
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind.rpartition(" ")[2], **KINDS.get(kind, {}), **options)
    return file.getvalue()


def encoded_16_bit(pixels):
    """Return PNG bytes of uint16 pixels (H, W) or, RGB, (H, W, 3)."""
    channels_last_first = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
    return cv2.imencode(".png", channels_last_first)[1].tobytes()


def chunk(name, data):
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def png_claiming(width, height):
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def reason(data):
    """Return why these bytes are refused."""
    with pytest.raises(DataError) as caught:
        images.decode(data, "photo.jpg")
    assert str(caught.value).startswith("cannot read photo.jpg: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("cannot read photo.jpg: ")


def outcome(data):
    """Return (message, None) of a DataError, or (None, pixels)."""
    try:
        return None, images.decode(data)
    except DataError as error:
        return str(error), None


def whole_or_refused(data, whole):
    """Say whether these bytes give exactly the pixels `whole`, or a DataError."""
    error, pixels = outcome(data)
    return error is not None or np.array_equal(pixels, whole)


@pytest.fixture
def saved(tmp_path):
    """A function that writes bytes to a file and returns its path."""

    def write(data, name="photo.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def alarm():
    """End the test with an error if it blocks."""

    def too_late(_number, _frame):
        pytest.fail("still blocked after 5 seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# -------------------------------------------------------------------------------------- good images


@pytest.mark.parametrize(
    ("kind", "tolerance"), list(zip(KINDS, (18, 18, 0, 0, 18, 18, 0, 18, 0), strict=True))
)
def test_every_format_gives_rgb_pixels(saved, kind, tolerance):
    pixels = images.read(saved(encoded(PICTURE, kind)))
    assert (pixels.shape, pixels.dtype) == ((24, 20, 3), np.uint8)
    # Writable as well: torch warns of arrays that are not.
    assert (pixels.flags.c_contiguous, pixels.flags.writeable) == (True, True)
    assert np.abs(pixels.astype(int) - PICTURE).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_every_mode_becomes_rgb_and_alpha_is_dropped(kind, mode):
    image = picture(mode)
    assert np.array_equal(images.decode(encoded(image, kind)), np.asarray(image.convert("RGB")))


def test_transparent_pixels_keep_their_colour():
    transparent = picture("RGBA")
    transparent.putalpha(0)
    for kind in ("PNG", "lossless WebP"):
        assert np.array_equal(images.decode(encoded(transparent, kind, exact=True)), PICTURE)
    grey = np.asarray(picture("L").convert("RGB"))
    assert np.array_equal(images.decode(encoded(transparent.convert("LA"), "PNG")), grey)


def test_palette_with_transparency_becomes_rgb():
    image = picture("P")
    assert np.array_equal(
        images.decode(encoded(image, "PNG", transparency=3)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("num_cut", [0, 12], ids=["OpenCV", "Pillow"])
def test_16_bit_grey_is_scaled_and_never_clipped(num_cut):
    grey = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(24, 20)
    data = encoded_16_bit(grey)
    pixels = images.decode(data[: len(data) - num_cut])
    assert np.array_equal(pixels, np.repeat((grey >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("num_cut", [0, 12], ids=["OpenCV", "Pillow"])
def test_16_bit_rgb_is_scaled_and_never_clipped(num_cut):
    deep = PICTURE.astype(np.uint16) * 257
    data = encoded_16_bit(deep)
    assert np.array_equal(images.decode(data[: len(data) - num_cut]), PICTURE)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "lossless WebP"])
@pytest.mark.parametrize("tail", [b"", b"junk"], ids=["whole", "bytes after the end"])
def test_exif_orientation_is_applied(kind, orientation, tail):
    stored = images.decode(encoded(PICTURE, kind))
    pixels = images.decode(encoded(PICTURE, kind, exif=exif(orientation)) + tail)
    assert np.array_equal(pixels, UPRIGHT[orientation](stored))
    assert pixels.flags.c_contiguous


def test_an_orientation_just_before_the_pixels_is_found_after_a_jpeg_without_one():
    plain = encoded(picture(), "JPEG")
    start = plain.rindex(b"\xff\xda")
    profile = exif(6)
    segment = b"\xff\xe1" + (len(profile) + 2).to_bytes(2) + profile
    rotated = plain[:start] + segment + plain[start:]
    upright = images.decode(plain)
    for _ in range(2):
        assert np.array_equal(images.decode(rotated), np.rot90(upright, -1))
        assert np.array_equal(images.decode(plain), upright)


def test_broken_exif_is_ignored():
    plain = images.decode(encoded(PICTURE, "JPEG"))
    for broken in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", exif(77)):
        assert np.array_equal(images.decode(encoded(PICTURE, "JPEG", exif=broken)), plain)
        assert np.array_equal(images.decode(encoded(PICTURE, "JPEG", exif=broken) + b"junk"), plain)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "lossless WebP", "MPO"])
def test_first_frame_of_an_animation_is_taken(kind):
    alone = images.decode(encoded(PICTURE, kind.replace("MPO", "JPEG")))
    both = encoded(PICTURE, kind, save_all=True, append_images=[Image.fromarray(OTHER_PICTURE)])
    assert np.array_equal(images.decode(both), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (100, 1)])
def test_tiny_and_narrow_images_are_read(kind, shape):
    grey = np.full((*shape, 3), 100, np.uint8)
    pixels = images.decode(encoded(grey, kind))
    assert pixels.shape == (*shape, 3)
    assert np.abs(pixels.astype(int) - 100).max() <= 3


def test_content_counts_and_not_the_name(saved):
    assert np.array_equal(images.read(saved(encoded(PICTURE, "PNG"), "photo.jpg")), PICTURE)
    assert np.array_equal(images.read(saved(encoded(PICTURE, "PNG"), "no_extension")), PICTURE)


NAMES = [
    "two words.png",
    "tab\there.png",
    'a,"b".png',
    "line\nbreak.png",
    "\x1b[31m.png",
    "-n.png",
    "=1.png",
    "猫🐈.png",
]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff\xfe.png")])
def test_any_file_name_opens(saved, name):
    path = saved(encoded(PICTURE, "PNG"), f"{name}.png")
    assert np.array_equal(images.read(str(path)), PICTURE)


def test_symlink_is_followed(saved, tmp_path):
    (tmp_path / "link.png").symlink_to(saved(encoded(PICTURE, "PNG")))
    assert np.array_equal(images.read(tmp_path / "link.png"), PICTURE)


@pytest.mark.parametrize("kind", KINDS)
def test_size_comes_from_the_header_without_decoding(saved, kind):
    assert images.size_of(saved(encoded(PICTURE, kind))) == (24, 20)
    assert images.size_of(saved(png_claiming(300, 200))) == (200, 300)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG", "lossless WebP", "MPO"])
def test_size_of_a_turned_image_is_that_of_its_pixels(saved, kind, orientation):
    data = encoded(PICTURE, kind, exif=exif(orientation))
    shape = images.decode(data).shape[:2]
    assert (images.size_of(saved(data)), images.header_size(data)) == (shape, shape)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_size_of_a_jpeg_of_any_mode_is_that_of_its_pixels(mode, orientation):
    data = encoded(picture(mode), "JPEG", exif=exif(orientation))
    assert images.header_size(data) == images.decode(data).shape[:2]


@pytest.mark.parametrize("more", [{"icc_profile": bytes(200_000)}, {"comment": "\xff\xc0"}])
def test_size_of_a_turned_jpeg_is_found_after_much_else(saved, more):
    data = encoded(PICTURE, "JPEG", exif=exif(6), **more)
    assert images.size_of(saved(data)) == images.decode(data).shape[:2] == (20, 24)


@pytest.mark.parametrize(
    "more", [b"\xff\xff\xff", b"\xff\xc4\0\x08\0\1\1\1\1\1"], ids=["fill bytes", "Huffman table"]
)
def test_segments_before_the_frame_of_a_jpeg_are_skipped(more):
    data = encoded(PICTURE, "JPEG")
    assert images.header_size(data[:2] + more + data[2:]) == (24, 20)


def test_exif_of_either_byte_order_turns():
    little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    for tiff in (little, big):
        data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + tiff)
        assert images.header_size(data) == images.decode(data).shape[:2] == (20, 24)


@pytest.mark.parametrize("broken", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", exif(77)])
def test_broken_exif_turns_no_size(broken):
    assert images.header_size(encoded(PICTURE, "JPEG", exif=broken)) == (24, 20)


@pytest.mark.parametrize("num_bytes", [0, 100_000], ids=["small", "large"])
def test_orientation_of_a_png_may_come_after_its_pixels(saved, num_bytes):
    data = encoded(PICTURE, "PNG")
    more = chunk(b"teSt", bytes(num_bytes)) + chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))
    data = data[:-12] + more + data[-12:]
    assert images.size_of(saved(data)) == images.decode(data).shape[:2] == (20, 24)


def test_a_header_that_is_cut_off_has_no_size():
    data = encoded(PICTURE, "JPEG")
    for end in range(data.index(b"\xff\xc0") + 9):
        with pytest.raises(DataError):
            images.header_size(data[:end])


# ------------------------------------------------------------------------------ the same as Pillow


def with_pillow(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"", b"junk"], ids=["whole", "bytes after the end"])
def test_every_format_has_the_pixels_that_pillow_gives(kind, tail):
    for pixels in (PICTURE, NOISE):
        data = encoded(pixels, kind)
        assert np.array_equal(images.decode(data + tail), with_pillow(data))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("is_progressive", [False, True])
def test_every_kind_of_jpeg_has_the_pixels_that_pillow_gives(mode, subsampling, is_progressive):
    image = Image.fromarray(NOISE[:37, :35]).convert(mode)
    data = encoded(image, "JPEG", subsampling=subsampling, progressive=is_progressive)
    assert np.array_equal(images.decode(data), with_pillow(data))


@pytest.mark.parametrize("is_progressive", [False, True])
def test_a_cmyk_jpeg_is_within_one_level_of_what_pillow_gives(is_progressive):
    for image in (picture("CMYK"), Image.fromarray(NOISE).convert("CMYK")):
        data = encoded(image, "JPEG", progressive=is_progressive)
        assert np.abs(images.decode(data).astype(int) - with_pillow(data)).max() <= 1


def tiff_header(orientation):
    return b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0%c\0\0\0\0\0\0\0" % orientation


def png_with(chunk, *, after_pixels):
    data = encoded(PICTURE, "PNG")
    place = len(data) - 12 if after_pixels else 33
    return data[:place] + chunk + data[place:]


def webp_with(name, content):
    """Return a WebP file with an EXIF or XMP chunk; Pillow's own writer adds a prefix to EXIF."""
    extended = struct.pack("<IB3x", 10, {b"EXIF": 8, b"XMP ": 4}[name]) + b"\x13\0\0\x17\0\0"
    more = name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    body = b"WEBPVP8X" + extended + encoded(PICTURE, "WebP")[12:] + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with(segment, before=b"\xff\xdb"):
    data = encoded(PICTURE, "JPEG")
    whole = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    return data.replace(before, whole + before, 1)


def raw_profile(data):
    return f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


@functools.cache
def turned(orientation):
    """Return an image of each format with the orientation in each place where Pillow finds it."""
    plain, prefixed = tiff_header(orientation), b"Exif\0\0" + tiff_header(orientation)
    xmp = b'<rdf:Description tiff:Orientation="%d"/>' % orientation
    element = b"<tiff:Orientation>%d</tiff:Orientation>" % orientation
    text = b"XML:com.adobe.xmp\0\0\0\0\0"
    profile = b"Raw profile type exif\0"
    chunks = {
        "eXIf": chunk(b"eXIf", plain),
        "eXIf, prefix": chunk(b"eXIf", prefixed),
        "iTXt": chunk(b"iTXt", text + xmp),
        "iTXt element": chunk(b"iTXt", text + element),
        "tEXt": chunk(b"tEXt", profile + raw_profile(prefixed)),
        "zTXt": chunk(b"zTXt", profile + b"\0" + zlib.compress(raw_profile(plain))),
    }
    pngs = {
        f"PNG {name}, {'after' if after else 'before'} the pixels": png_with(it, after_pixels=after)
        for name, it in chunks.items()
        for after in (False, True)
    }
    return pngs | {
        "JPEG": jpeg_with(prefixed),
        "JPEG, in front of the pixels": jpeg_with(prefixed, before=b"\xff\xda"),
        "JPEG XMP": jpeg_with(b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "JPEG element": encoded(PICTURE, "JPEG", xmp=element),
        "MPO": encoded(PICTURE, "MPO", exif=exif(orientation)),
        "WebP": webp_with(b"EXIF", plain),
        "WebP, prefix": webp_with(b"EXIF", prefixed),
        "WebP XMP": webp_with(b"XMP ", xmp),
        "TIFF": encoded(PICTURE, "TIFF", exif=exif(orientation)),
        "TIFF, packed": encoded(PICTURE, "TIFF", exif=exif(orientation), compression="tiff_lzw"),
        "TIFF XMP": encoded(PICTURE, "TIFF", tiffinfo={700: xmp}),
        "GIF XMP": encoded(PICTURE, "GIF", xmp=xmp),
    }


@pytest.mark.parametrize("name", turned(1))
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_orientation_is_found_wherever_pillow_finds_it(name, orientation):
    data = turned(orientation)[name]
    pixels = images.decode(data)
    assert np.array_equal(pixels, with_pillow(data))
    assert pixels.flags.c_contiguous
    assert images.header_size(data) == pixels.shape[:2]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["JPEG", "JPEG XMP"])
def test_a_reduced_jpeg_is_turned(name, orientation):
    stored = images.decode_reduced(encoded(PICTURE, "JPEG"), 2)
    reduced = images.decode_reduced(turned(orientation)[name], 2)
    assert np.array_equal(reduced, UPRIGHT[orientation](stored))


def test_exif_comes_before_xmp():
    data = encoded(PICTURE, "JPEG", exif=exif(1), xmp=b'tiff:Orientation="6"')
    assert np.array_equal(images.decode(data), encoded_and_decoded(PICTURE))


def encoded_and_decoded(pixels):
    return images.decode(encoded(pixels, "JPEG"))


@pytest.mark.parametrize("name", ["AVIF", "HEIC"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_avif_and_heic_are_read_where_a_plugin_is_there(name, orientation):
    if name == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(PICTURE, name.replace("HEIC", "HEIF"), exif=exif(orientation))
    pixels = images.decode(data)
    assert sniff(data) == name
    assert np.array_equal(pixels, with_pillow(data))
    assert images.header_size(data) == pixels.shape[:2]


WITHOUT_PLUGIN = {
    "HEIC": ("pillow_heif", "run `pip install 'ptkit[heif]'`"),
    "AVIF": ("PIL._avif", "install a Pillow that was built with AVIF (this one was not)"),
}


@pytest.mark.parametrize(
    ("brand", "kind"), [(b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF")]
)
def test_a_format_without_its_plugin_says_what_to_install(brand, kind, monkeypatch):
    module, remedy = WITHOUT_PLUGIN[kind]
    # As Python has it where there is no such module.
    monkeypatch.setitem(sys.modules, module, None)
    data = b"\0\0\0\x14ftyp%b\0\0\0\0mif1" % brand
    assert reason(data) == f"it is {kind}; {remedy}, or convert it to PNG or JPEG"


def bmp(num_bits, rows, *, masks=(), header=40):
    """Return a BMP of rows of numbers (24, 20), with bit masks where there are any."""
    content = rows[::-1].astype(f"<u{num_bits // 8}").tobytes()
    start = 14 + header + (4 * len(masks) if header == 40 else 0)
    fields = header, 20, 24, 1, num_bits, 3 if masks else 0, len(content), 0, 0, 0, 0
    head = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
    file = struct.pack("<2sIII", b"BM", start + len(content), 0, start)
    return file + head.ljust(start - 14, b"\0") + content


RED, GREEN, BLUE = PICTURE.astype(np.uint32).transpose(2, 0, 1)
FIVE_SIX_FIVE = (RED >> 3 << 11) | (GREEN >> 2 << 5) | BLUE >> 3
FIVES = (RED >> 3 << 10) | (GREEN >> 3 << 5) | BLUE >> 3
BMPS = {
    "five bits": bmp(16, FIVES),
    "masks of five bits": bmp(16, FIVES, masks=(0x7C00, 0x3E0, 0x1F)),
    "565": bmp(16, FIVE_SIX_FIVE, masks=(0xF800, 0x7E0, 0x1F)),
    "565 in a header of 56": bmp(16, FIVE_SIX_FIVE, masks=(0xF800, 0x7E0, 0x1F, 0), header=56),
    "red in front": bmp(
        32, (RED << 24) | (GREEN << 16) | (BLUE << 8), masks=(0xFF000000, 0xFF0000, 0xFF00)
    ),
    "alpha": bmp(
        32,
        (RED << 16) | (GREEN << 8) | BLUE | (128 << 24),
        masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        header=108,
    ),
    "32 bits": bmp(32, (RED << 16) | (GREEN << 8) | BLUE | (77 << 24)),
}


@pytest.mark.parametrize("name", BMPS)
def test_bmps_of_all_masks_are_read_as_pillow_reads_them(name):
    assert np.array_equal(images.decode(BMPS[name]), with_pillow(BMPS[name]))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_of_a_tiff_the_first_page_is_read(compression):
    pages = [Image.fromarray(OTHER_PICTURE)]
    data = encoded(PICTURE, "TIFF", compression=compression, save_all=True, append_images=pages)
    assert np.array_equal(images.decode(data), PICTURE)


def test_a_tiff_of_16_bits_is_scaled_and_never_clipped():
    deep = np.random.default_rng(0).integers(0, 65536, (24, 20, 3), dtype=np.uint16)
    grey = cv2.imencode(".tif", deep[:, :, 0])[1].tobytes()
    assert np.array_equal(images.decode(grey), np.repeat(deep[:, :, :1] >> 8, 3, axis=2))
    colour = cv2.imencode(".tif", deep[:, :, ::-1])[1].tobytes()
    assert np.array_equal(images.decode(colour), deep >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_tiff_of_32_bits_is_refused(mode):
    words = "its pixels are numbers of 32 bits; save it with 8 or 16"
    assert reason(encoded(picture(mode), "TIFF")) == words


def test_the_first_image_of_an_apng_may_lie_outside_the_animation():
    frames = [Image.fromarray(OTHER_PICTURE), Image.fromarray(PICTURE // 2)]
    data = encoded(PICTURE, "PNG", save_all=True, default_image=True, append_images=frames)
    assert np.array_equal(images.decode(data), PICTURE)


# ----------------------------------------------------------------------------------- damaged images

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def with_hole(data, of=b"\0"):
    """Return data with 40 equal bytes in its middle."""
    half = len(data) // 2
    return data[:half] + of * 40 + data[half + 40 :]


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG"])
@pytest.mark.parametrize("tail", [b"", b"junk"])
def test_damage_inside_a_jpeg_is_an_error_with_the_decoders_words(kind, tail, capfd):
    assert reason(with_hole(encoded(NOISE, kind)) + tail).startswith("Corrupt JPEG data: ")
    assert images.decode_reduced(with_hole(encoded(NOISE, kind)), 2) is None
    assert capfd.readouterr() == ("", "")


def test_an_unknown_revision_is_harmless_and_hides_no_damage(capfd):
    data = encoded(NOISE, "JPEG")
    old = data.replace(b"JFIF\0\1\1", b"JFIF\0\0\0")
    assert np.array_equal(images.decode(old), images.decode(data))
    assert reason(with_hole(old)).startswith("Corrupt JPEG data: ")
    assert capfd.readouterr() == ("", "")


def test_a_png_with_odd_notes_is_read_in_silence(capfd):
    for odd in (chunk(b"iCCP", b"x\0\0garbage"), chunk(b"pHYs", b"x"), chunk(b"gAMA", bytes(4))):
        assert np.array_equal(images.decode(png_with(odd, after_pixels=False)), PICTURE)
    assert capfd.readouterr() == ("", "")


def test_a_png_with_too_few_pixels_is_refused_in_silence(capfd):
    data = encoded(NOISE, "PNG")
    short = png_claiming(40, 40).replace(
        chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IDAT", zlib.compress(bytes(2000)))
    )
    assert reason(short)
    assert images.decode(data).shape == (40, 40, 3)
    assert capfd.readouterr() == ("", "")


def test_damage_inside_a_fax_tiff_is_refused_in_silence(capfd):
    data = encoded(Image.fromarray(NOISE).convert("1"), "TIFF", compression="group4")
    assert reason(with_hole(data, of=b"\xff")).startswith("Fax4Decode: ")
    assert capfd.readouterr() == ("", "")


def test_a_pillow_that_logs_an_error_reaches_no_screen(capfd):
    data = encoded(PICTURE, "TIFF")
    entry = b"\x15\x01\x03\0\x01\0\0\0"
    assert reason(data.replace(entry + b"\3\0", entry + b"\x99\x99"))
    assert capfd.readouterr() == ("", "")


def test_what_decoders_say_is_told_apart_by_thread(capfd):
    good, bad = encoded(NOISE, "JPEG"), with_hole(encoded(NOISE, "JPEG"))
    data = [bad if k % 3 == 0 else good for k in range(300)]
    with ThreadPoolExecutor(4) as pool:
        refused = [error is not None for error, _ in pool.map(outcome, data)]
    assert refused == [k % 3 == 0 for k in range(300)]
    assert capfd.readouterr() == ("", "")


def test_other_threads_still_write_to_standard_error(capfd):
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")

    def write(text):
        libc.fputs(text, ctypes.c_void_p(stderr.value))
        return 7

    def elsewhere():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(write, b"of another\n").result()

    assert with_stderr(write, b"ours\n") == (7, "ours\n")
    assert with_stderr(elsewhere) == (7, "")
    assert write(b"afterwards\n") == 7
    libc.fflush(None)
    assert capfd.readouterr() == ("", "of another\nafterwards\n")


def test_an_error_ends_the_capture():
    stderr = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    before = stderr.value
    with pytest.raises(ZeroDivisionError):
        with_stderr(lambda: 1 // 0)
    assert stderr.value == before


def test_a_process_that_is_forked_while_pillow_works_warns_as_before():
    before = list(warnings.filters)
    forked = multiprocessing.get_context("fork").Process(
        target=lambda: sys.exit(warnings.filters != before)
    )
    with without_warnings():
        forked.start()
        forked.join()
    assert (forked.exitcode, warnings.filters) == (0, before)


# --------------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("kind", KINDS)
def test_image_cut_off_anywhere_is_refused_or_whole(kind):
    # Where only check-sums and the end marker are gone every pixel is still there.
    data = encoded(PICTURE, kind)
    whole = images.decode(data)
    assert all(whole_or_refused(data[:length], whole) for length in range(len(data)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_image_is_refused(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    assert reason(data[: int(share * len(data))])


def test_a_png_that_ends_in_its_header_is_told_in_words():
    data = encoded(np.zeros((4, 4, 3), np.uint8), "PNG")
    assert {reason(data[:length]) for length in (24, 40)} == {
        "Truncated File Read",
        "damaged PNG header",
    }


@pytest.mark.parametrize(("words", "data"), FOREIGN.items())
def test_what_is_no_image_is_named(words, data):
    assert words in reason(data)


def test_path_and_reason_stand_in_the_error(saved):
    path = saved(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(DataError) as caught:
        images.read(path)
    assert str(caught.value) == f"cannot read {path}: it is EPS; convert it to PNG or JPEG"


def test_png_with_a_corrupt_chunk_is_refused_in_silence(capfd):
    data = bytearray(encoded(PICTURE, "PNG"))
    data[data.index(b"IDAT") + 10] ^= 1
    assert "broken data stream" in reason(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_png_with_any_bit_flipped_is_refused_or_whole(capfd):
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    # Stored and not compressed: no code in it can break, so only the check-sums tell.
    data = int.from_bytes(encoded(noise, "PNG", compress_level=0))
    flipped = [
        (data ^ (1 << bit)).to_bytes(data.bit_length() + 7 >> 3)
        for bit in range(data.bit_length() - 8)
    ]
    assert all(whole_or_refused(damaged, noise) for damaged in flipped)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_image_is_refused_in_silence(kind, capfd):
    data = encoded(PICTURE, kind)
    reason(data[: len(data) // 2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_image_without_pixels_is_refused(width, height):
    assert reason(png_claiming(width, height))
    empty_gif = b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0\0\0;"
    assert reason(empty_gif)


def test_too_many_pixels_are_refused_from_the_header():
    assert reason(png_claiming(9_000, 10_000)) == (
        "its header claims 9000×10000 pixels, over 89,000,000; --max-pixels sets the limit"
    )
    gif = bytearray(encoded(PICTURE, "GIF"))
    gif[6:10] = (10_000).to_bytes(2, "little") * 2
    assert "10000×10000" in reason(bytes(gif))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lower_limit_of_pixels_holds_for_every_format(kind):
    data = encoded(PICTURE, kind)
    with allowing_pixels(20 * 24):
        assert images.decode(data).shape == (24, 20, 3)
    with allowing_pixels(20 * 24 - 1):
        assert reason(data).startswith("its header claims 20×24 pixels, over 479;")


def test_a_higher_limit_of_pixels_reads_what_the_default_refuses():
    data = encoded(Image.new("RGB", (5_600, 5_600)), "lossless WebP")
    assert reason(data).endswith("if that is right, pass --max-pixels 31360000")
    with allowing_pixels(31_360_000):
        assert images.decode(data).shape == (5_600, 5_600, 3)


def test_a_file_of_a_few_bytes_claims_no_89_million_pixels(saved, megabytes):
    plain, extended = (bytearray(encoded(PICTURE, f"{k} WebP")) for k in ("lossless", "extended"))
    # 16,384×5,400 in 14 bits each, and in 24.
    plain[21:25] = (16_383 | 5_399 << 14).to_bytes(4, "little")
    extended[24:30] = (16_383).to_bytes(3, "little") + (5_399).to_bytes(3, "little")
    lossy = bytearray(encoded(PICTURE, "WebP"))
    lossy[26:30] = struct.pack("<HH", 16_383, 5_401)
    files = [saved(data, f"{k}.webp") for k, data in enumerate((plain, extended, lossy))]
    setup = "from ptkit.core.data import images\nfrom ptkit.core.errors import DataError"
    work = (
        "for path in sys.argv[1:]:\n"
        "    try: images.read(path)\n"
        "    except DataError as error: assert '--max-pixels 88' in str(error), error\n"
        "    else: raise AssertionError(path)"
    )
    assert megabytes(setup, work, *files) < 100


def test_claim_of_50000_by_50000_pixels_takes_less_than_100_megabytes(saved, megabytes):
    jpeg = bytearray(encoded(PICTURE, "JPEG"))
    start_of_frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[start_of_frame : start_of_frame + 4] = (50_000).to_bytes(2, "big") * 2
    bmp = bytearray(encoded(PICTURE, "BMP"))
    bmp[18:26] = (50_000).to_bytes(4, "little") * 2
    files = [
        saved(png_claiming(50_000, 50_000), "a.png"),
        saved(jpeg, "b.jpg"),
        saved(bmp, "c.bmp"),
    ]
    setup = "from ptkit.core.data import images\nfrom ptkit.core.errors import DataError"
    work = (
        "for path in sys.argv[1:]:\n"
        "    try: images.read(path)\n"
        "    except DataError: continue\n"
        "    raise AssertionError(path)"
    )
    assert megabytes(setup, work, *files) < 100


# ---------------------------------------------------------------------------------------- bad files


def test_fifo_is_refused_and_never_blocks(tmp_path, alarm):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a regular file"):
        images.read(tmp_path / "pipe.png")


def test_device_and_folder_are_refused(tmp_path):
    for path in ("/dev/zero", tmp_path):
        with pytest.raises(DataError, match="not a regular file"):
            images.read(path)


def test_missing_file_and_broken_links_are_refused(tmp_path):
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "circle.png").symlink_to("circle.png")
    for name, words in (
        ("a.png", "No such file"),
        ("broken.png", "No such file"),
        ("circle.png", "symbolic link"),
    ):
        with pytest.raises(DataError, match=f"{name}: .*{words}"):
            images.read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(saved):
    path = saved(encoded(PICTURE, "PNG"))
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        images.read(path)


def test_disk_that_fails_three_times_is_a_storage_error(saved, monkeypatch):
    path, tries = saved(encoded(PICTURE, "PNG")), []

    def failing_open(*arguments):
        tries.append(arguments)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", failing_open)
    with pytest.raises(StorageError, match="after three tries: Input/output error"):
        images.read(path)
    assert len(tries) == 3


def test_disk_that_fails_once_is_tried_again(saved, monkeypatch):
    path, failures = saved(encoded(PICTURE, "PNG")), [OSError(errno.ESTALE, "Stale file handle")]
    real_open = os.open

    def open_at_last(*arguments):
        for failure in failures[:1]:
            failures.clear()
            raise failure
        return real_open(*arguments)

    monkeypatch.setattr(os, "open", open_at_last)
    assert np.array_equal(images.read(path), PICTURE)
    assert failures == []


def test_file_that_is_read_in_small_pieces_is_read_whole(saved, monkeypatch):
    path, real_read = saved(encoded(PICTURE, "PNG")), os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: real_read(descriptor, min(count, 7)))
    assert np.array_equal(images.read(path), PICTURE)


def test_reading_leaves_no_file_open(saved):
    path, bad = saved(encoded(PICTURE, "PNG"), "good.png"), saved(b"bad", "bad.png")
    before = len(os.listdir("/proc/self/fd"))
    images.read(path)
    with pytest.raises(DataError):
        images.read(bad)
    with pytest.raises(DataError):
        images.read(path.parent)
    assert len(os.listdir("/proc/self/fd")) == before


# --------------------------------------------------------------------------------------------- fuzz

SMALL = PICTURE[:9, :7]
SEEDS = [
    *(encoded(SMALL, kind) for kind in KINDS),
    encoded(SMALL, "JPEG", exif=exif(6)),
    webp_with(b"EXIF", tiff_header(6)),
    *BMPS.values(),
    encoded(Image.fromarray(SMALL).convert("P"), "PNG", transparency=1),
    encoded(SMALL, "GIF", save_all=True, append_images=[Image.fromarray(255 - SMALL)]),
    encoded_16_bit(SMALL[:, :, 0].astype(np.uint16) * 257),
    encoded(SMALL, "TIFF", compression="tiff_lzw"),
]
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.binary(max_size=4)),
    max_size=6,
)


@settings(max_examples=examples(500), deadline=None, derandomize=True, database=None)
@given(seed=st.sampled_from(SEEDS), edits=EDITS, length=st.none() | st.floats(0, 1))
def test_damaged_bytes_give_an_image_or_a_data_error(seed, edits, length):
    data = bytearray(seed)
    for place, num_removed, inserted in edits:
        start = int(place * len(data))
        data[start : start + num_removed] = inserted
    data = bytes(data[: int((1.0 if length is None else length) * len(data))])
    with contextlib.suppress(DataError):
        assert min(images.header_size(data)) > 0
    error, pixels = outcome(data)
    if error is None:
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert min(pixels.shape) > 0
    else:
        assert error.startswith("cannot read image: ")
        assert "\n" not in error
