"""The look at all files before a run that decodes images as they are needed: its time per file,
against decoding them once.

    python benchmarks/bench_survey.py IMAGES PHOTOS [--rounds 5]

IMAGES and PHOTOS are ROOT/CLASS/*.jpg: small images, and photographs. The files are in the
page cache; otherwise both sides would wait for the disk.
"""

import tempfile
from pathlib import Path

from common import arguments, at_most, begin, image_paths, in_turns, report, write_lists

from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.decoding import decode_each
from ptkit.core.data.loading.keeping import list_key
from ptkit.core.data.loading.survey import survey

MOST = 20_000


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path)
    options = parser.parse_args()
    begin("survey", note="two threads decode; a second start asks for sizes and times only")
    with tempfile.TemporaryDirectory(prefix="bench-survey-") as name:
        for what, source in (("small images", options.images), ("photographs", options.photos)):
            images = read_list(write_lists(image_paths(source, limit=MOST), Path(name)))
            seconds = in_turns(
                {
                    "first": lambda _, images=images: survey(images, lambda _count: None),
                    "again": lambda _, images=images: list_key(images, ("survey",)),
                    "decode": lambda _, images=images: decode_each(images, workers=2),
                },
                rounds=options.rounds,
            )
            each = {
                key: [1e6 * second / len(images) for second in some]
                for key, some in seconds.items()
            }
            for key, start in (("first", "the look at all files"), ("again", "a second start")):
                report(
                    f"{start}, {len(images):,} {what}",
                    each[key],
                    each["decode"],
                    against="decoding them once",
                    goal=at_most(1),
                    unit="µs a file",
                )


if __name__ == "__main__":
    main()
