"""ptkit: from a folder of images to a trained classifier that you can look into."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptkit.api.calibrating import calibrate, uncalibrate
    from ptkit.api.channel_statistics import normstats
    from ptkit.api.checking import check
    from ptkit.api.converting import convert
    from ptkit.api.data_sets import data
    from ptkit.api.ejecting import eject
    from ptkit.api.evaluation import evaluate
    from ptkit.api.exporting import export
    from ptkit.api.lr_find import find_lr
    from ptkit.api.models import load
    from ptkit.api.predictions import predict, predict_each
    from ptkit.api.probing import probe
    from ptkit.api.runs import finetune, train
    from ptkit.api.series import finetune_series, train_series
    from ptkit.api.splitting import split
    from ptkit.core.data.dataset import ListDataset
    from ptkit.core.data.pixel_limits import allowing_pixels
    from ptkit.core.models.features import features

__version__ = "0.1.0"

# Public names are imported at first use, so that `import ptkit` stays free of torch.
_PUBLIC = {
    "ListDataset": "ptkit.core.data.dataset",
    "allowing_pixels": "ptkit.core.data.pixel_limits",
    "features": "ptkit.core.models.features",
    "calibrate": "ptkit.api.calibrating",
    "check": "ptkit.api.checking",
    "convert": "ptkit.api.converting",
    "data": "ptkit.api.data_sets",
    "eject": "ptkit.api.ejecting",
    "evaluate": "ptkit.api.evaluation",
    "export": "ptkit.api.exporting",
    "find_lr": "ptkit.api.lr_find",
    "finetune": "ptkit.api.runs",
    "finetune_series": "ptkit.api.series",
    "load": "ptkit.api.models",
    "normstats": "ptkit.api.channel_statistics",
    "predict": "ptkit.api.predictions",
    "predict_each": "ptkit.api.predictions",
    "probe": "ptkit.api.probing",
    "split": "ptkit.api.splitting",
    "train": "ptkit.api.runs",
    "train_series": "ptkit.api.series",
    "uncalibrate": "ptkit.api.calibrating",
}
__all__ = [
    "ListDataset",
    "__version__",
    "allowing_pixels",
    "calibrate",
    "check",
    "convert",
    "data",
    "eject",
    "evaluate",
    "export",
    "features",
    "find_lr",
    "finetune",
    "finetune_series",
    "load",
    "normstats",
    "predict",
    "predict_each",
    "probe",
    "split",
    "train",
    "train_series",
    "uncalibrate",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ptkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
