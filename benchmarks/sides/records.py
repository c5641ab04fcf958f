"""A run of ptkit that records and saves its epochs, and the same run with nothing written.

records.py LIST NETWORK BATCH_SIZE SIZE DEVICE

Words: `recorded` and `unwritten`. Figures: images per second over some epochs in a row, including
the wait for the last write; the earlier writes run beside the next epoch.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

# First: it prepares the environment before torch is imported.
import ptkit_train  # isort: skip
from turns import serve

from ptkit.core.training.holding import held
from ptkit.core.training.loop import fit
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.run_folder import first_image, new_run
from ptkit.core.training.run_place import Place
from ptkit.core.training.setup import prepare

EPOCHS = 3


def main() -> None:
    setup = prepare(ptkit_train.settings_of(sys.argv[1:6]), Unwatched(), is_resumed=False)
    with (
        tempfile.TemporaryDirectory(prefix="bench-run-") as folder,
        held(Place(Path(folder)).folder()) as hold,
    ):
        run = new_run(setup, hold, first_image(setup))
        epochs = fit(run.training)

        def some_epochs(*, is_recorded: bool) -> float:
            begin = time.perf_counter()
            for result in itertools.islice(epochs, EPOCHS):
                is_best = run.history.add(result, metric=run.metric)
                if is_recorded:
                    run.record(result, is_best=is_best, is_due=True)
            run.writer.wait()
            num_images = EPOCHS * len(run.training.train.images)
            return num_images / (time.perf_counter() - begin)

        serve(
            {
                "recorded": lambda: some_epochs(is_recorded=True),
                "unwritten": lambda: some_epochs(is_recorded=False),
            }
        )


if __name__ == "__main__":
    main()
