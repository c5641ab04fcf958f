"""Choose a penalty and fit a head, by ptkit and by scikit-learn, on features that a probe saved.

heads.py FOLD: a folder with train.txt, valid.txt and classes.txt, after `ptkit probe` there.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV

from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.entries import list_entries
from ptkit.core.training.probe.features import kept_features
from ptkit.core.training.probe.linear_head import PENALTIES, choose_penalty, stratified_folds


def main() -> None:
    os.chdir(sys.argv[1])
    found = {}
    for name, num_views in (("train", 2), ("valid", 1)):
        images = read_list(Path(f"{name}.txt"))
        place = str(images.file.absolute())
        entry = next(entry for entry in list_entries() if entry.facts["list"] == place)
        found[name] = kept_features(images, entry.facts["key"], num_views=num_views)
    train, valid = found["train"], found["valid"]
    torch.set_num_threads(2)
    folds = stratified_folds(train.labels.numpy(), 5, seed=0)
    start = time.perf_counter()
    chosen = choose_penalty(train.views, train.labels, num_classes=2, seed=0)
    head = train.fitted(num_classes=2, penalty=chosen.penalty)
    seconds = time.perf_counter() - start
    right = (head.scores(valid.views[0]).argmax(1) == valid.labels).double().mean().item()
    ours = {"accuracy": right, "seconds": seconds}
    print(json.dumps({"ptkit": ours, "sklearn": theirs(train, valid, folds)}))


def theirs(train, valid, folds: np.ndarray) -> dict[str, float]:
    """Both views of an image are in one fold, as ours are."""
    features = torch.cat(train.views).numpy()
    labels, both = train.labels.repeat(len(train.views)).numpy(), np.tile(folds, len(train.views))
    start = time.perf_counter()
    mean, std = features.mean(0), features.std(0)
    scaled = (features - mean) / np.where(std > 0, std, 1)
    splits = [(np.flatnonzero(both != k), np.flatnonzero(both == k)) for k in range(5)]
    # Its C is over the sum of the losses.
    strengths = [1 / (penalty * len(labels)) for penalty in PENALTIES]
    with warnings.catch_warnings(action="ignore"):
        model = LogisticRegressionCV(
            Cs=strengths, cv=splits, scoring="neg_log_loss", max_iter=200, n_jobs=2
        )
        model.fit(scaled, labels)
    seconds = time.perf_counter() - start
    answers = model.predict((valid.views[0].numpy() - mean) / np.where(std > 0, std, 1))
    return {"accuracy": float((answers == valid.labels.numpy()).mean()), "seconds": seconds}


if __name__ == "__main__":
    main()
