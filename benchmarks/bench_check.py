"""`ptkit check` against decoding its images once, in the same process; time and memory of a large
list.

    python benchmarks/bench_check.py IMAGES PHOTOS

IMAGES is ROOT/CLASS/*.jpg, such as all of CIFAR-10; PHOTOS the same with photographs.
"""

import resource
from pathlib import Path

from common import arguments, at_most, begin, image_paths, in_turns, report

import ptkit
from ptkit.core.data.lists import list_of
from ptkit.core.data.loading.decoding import decode_each


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path)
    options = parser.parse_args()
    begin("check", note="files in the page cache")
    for folder, kind in ((options.photos, "photographs"), (options.images, "small images")):
        paths = list(map(str, image_paths(folder)))
        images = list_of(paths, ())
        sides = {
            "check": lambda _, folder=folder: ptkit.check(folder),
            "decoding": lambda _, images=images: decode_each(images),
        }
        figures = in_turns(sides, rounds=options.rounds)
        what = f"check, {len(paths):,} {kind}"
        goal = at_most(2) if kind == "photographs" else None
        report(what, figures["check"], figures["decoding"], against="decoding once", goal=goal)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report("check, memory", [peak], [2.0], against="the goal", unit="GiB", goal=at_most(1))


if __name__ == "__main__":
    main()
