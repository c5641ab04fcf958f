"""ptkit: from a folder of images to a trained classifier that you can look into."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptkit.api import check, evaluate, load, normstats, predict, split
    from ptkit.api_calibration import calibrate, uncalibrate
    from ptkit.api_convert import convert
    from ptkit.api_data import data
    from ptkit.api_export import export
    from ptkit.api_predictions import predict_each
    from ptkit.api_runs import eject, find_lr, finetune, probe, train
    from ptkit.api_series import finetune_series, train_series
    from ptkit.core.data.dataset import ListDataset
    from ptkit.core.data.pixel_limits import allowing_pixels
    from ptkit.core.models.features import features

__version__ = "0.1.0"

# Public names are imported at first use, so that `import ptkit` stays free of torch.
_PUBLIC = {
    "ListDataset": "ptkit.core.data.dataset",
    "allowing_pixels": "ptkit.core.data.pixel_limits",
    "features": "ptkit.core.models.features",
    "export": "ptkit.api_export",
    "convert": "ptkit.api_convert",
    **dict.fromkeys(("check", "evaluate", "load", "normstats", "predict", "split"), "ptkit.api"),
    **dict.fromkeys(("calibrate", "uncalibrate"), "ptkit.api_calibration"),
    "data": "ptkit.api_data",
    "predict_each": "ptkit.api_predictions",
    **dict.fromkeys(("eject", "find_lr", "finetune", "probe", "train"), "ptkit.api_runs"),
    **dict.fromkeys(("finetune_series", "train_series"), "ptkit.api_series"),
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
