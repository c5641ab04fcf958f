"""Decoding files to RGB pixels and nothing else, in one thread.

decoder.py LIST NAME

NAME: ptkit, opencv, torchvision, pillow or simplejpeg. Figures: images per second.
"""

import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    file, name = sys.argv[1:3]
    from turns import serve

    decode = MAKERS[name]()
    with open(file) as lines:
        paths = [line.rsplit(" ", 1)[0] for line in lines]

    def epoch() -> float:
        start = time.perf_counter()
        for path in paths:
            decode(path)
        return len(paths) / (time.perf_counter() - start)

    serve({"round": epoch})


def ptkit() -> Callable[[str], Any]:
    from ptkit.core.data import images

    return images.read


def opencv() -> Callable[[str], Any]:
    import cv2

    cv2.setNumThreads(0)
    return lambda path: cv2.imread(path, cv2.IMREAD_COLOR_RGB)


def torchvision() -> Callable[[str], Any]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    torch.set_num_threads(1)
    return lambda path: decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def pillow() -> Callable[[str], Any]:
    import numpy as np
    from PIL import Image

    return lambda path: np.asarray(Image.open(path).convert("RGB"))


def simplejpeg() -> Callable[[str], Any]:
    from pathlib import Path

    import simplejpeg

    return lambda path: simplejpeg.decode_jpeg(Path(path).read_bytes())


MAKERS = {maker.__name__: maker for maker in (ptkit, opencv, torchvision, pillow, simplejpeg)}

if __name__ == "__main__":
    main()
