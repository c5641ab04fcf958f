"""ptkit: from a folder of images to a trained classifier that you can look into."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names are imported at first use, so that `import ptkit` stays free of torch.
_PUBLIC = {
    "ListDataset": "ptkit.core.data.dataset",
    "load": "ptkit.core.models.checkpoints",
}
__all__ = ["ListDataset", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ptkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
