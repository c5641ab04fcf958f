"""Files to pixels in one thread: ptkit's reading, with its checks, against other decoders.

python benchmarks/bench_decode.py IMAGES [PHOTOS] [--peers PYTHON]
"""

import os
import tempfile
from pathlib import Path

from common import arguments, begin, image_paths, report, write_lists
from contest import Program, contest

OTHERS = {
    "opencv": "OpenCV's imread, which checks nothing",
    "torchvision": "torchvision.io",
    "pillow": "Pillow",
    "simplejpeg": "simplejpeg",
}


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path, nargs="?")
    options = parser.parse_args()
    begin("decode", note="files in the page cache, one thread")
    measure(
        options.images, "JPEGs of 32×32", count=5_000, rounds=options.rounds, peers=options.peers
    )
    if options.photos:
        measure(
            options.photos, "photographs", count=244, rounds=options.rounds, peers=options.peers
        )


def measure(
    images: Path, kind: str, *, count: int, rounds: int, peers: str | os.PathLike[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-decode-") as name:
        paths = image_paths(images, limit=count)
        file = str(write_lists(paths, Path(name)))
        programs = {who: Program("decoder.py", (file, who)) for who in ("ptkit", *OTHERS)}
        programs["simplejpeg"] = Program(
            "decoder.py", (file, "simplejpeg"), os.fspath(peers), module="simplejpeg"
        )
        figures = contest(programs, rounds=rounds)
        for who, against in OTHERS.items():
            what = f"decoding {len(paths):,} {kind}"
            report(what, figures["ptkit"], figures[who], against=against, unit="images/s")


if __name__ == "__main__":
    main()
