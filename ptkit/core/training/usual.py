"""What `ptkit train` does with photographs where nobody says how: the recipe, and why; and the rate
of a recipe where weights are trained already.

Small images, up to 64 pixels, are trained on from scratch with the defaults of config.py.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ptkit.core.config.layers import Layer, read_recipe
from ptkit.core.config.settings import Settings
from ptkit.core.data.labels import SINGLE
from ptkit.core.data.lists import check_image, read_list
from ptkit.core.data.loading.first_look import choose_size
from ptkit.core.errors import UsageError
from ptkit.core.models.packaged_weights import INSTALL, NAMES, is_installed
from ptkit.core.models.zoo import with_zero_init
from ptkit.core.parts.calls import parse
from ptkit.core.sizes import is_small
from ptkit.core.training.optimization.optimizers import split_rate
from ptkit.core.training.optimization.schedules import rate_of_run

PRETRAINED, SCRATCH = "photos", "photos-scratch"
# Finetuning moves the body at a tenth of the usual rate, the head (times head_lr) at the usual one.
FINETUNE_RATE = 0.1
# A head that answers with one class is fitted, and smoothing is between classes.
_OF_CLASSES = (("loss", "call"), ("train", "method"))


def usual_layer(settings: Settings) -> tuple[Layer, str]:
    """Return the settings that suit the images, below those that the user gave, and a line on why.

    Nothing, and no line, for small images, and where there are weights to start from already.

    Raises:
        DataError: the training list, or what it names, cannot be read.
    """
    data, model = settings.data, settings.model
    # A list that is not there is reported where both lists are read.
    if model.weights is not None or not Path(data.train).exists():
        return {}, ""
    classes, root = (Path(path) if path else None for path in (data.classes, data.root))
    # Read again where the data are prepared: until then nobody knows how.
    images = read_list(Path(data.train), classes=classes, root=root)
    if data.on_bad == "stop":
        check_image(images, 0)
    if is_small(data.size or choose_size(images)):
        return {}, ""
    name, why = _choice(model.call)
    recipe = read_recipe(name)
    left_out = () if images.label_kind == SINGLE else _OF_CLASSES
    loss = settings.loss.call
    if loss is not None and parse(loss).name != "CrossEntropyLoss":
        left_out = (*left_out, ("train", "method"))
    if len(images) < recipe["train"]["batch_size"]:
        left_out = (*left_out, ("train", "batch_size"))
    layer = {
        section: {k: v for k, v in values.items() if (section, k) not in left_out}
        for section, values in recipe.items()
    }
    return layer, f"recipe: {name}, {why}"


def finetuning_rate(recipe: Settings) -> float | None:
    """Return the rate for trained weights with a recipe that names a rate and a model to train from
    scratch; None with another one, such as one that gives layers rates of their own, fits the head
    first or lets layers join later.
    """
    model, asked = recipe.model, recipe.optimizer
    if model.call is None or model.weights is not None or _is_for_trained(recipe):
        return None
    lr = asked.lr
    # What is wrong is refused where it is used, unless something else takes its place.
    with suppress(UsageError):
        lr = lr if asked.call is None else split_rate(parse(asked.call), lr=lr)[1]
    rate = rate_of_run(recipe.scheduler, lr=lr)
    if rate is None:
        return None
    # Not 0.010000000000000002.
    return float(f"{FINETUNE_RATE * rate:.6g}")


def with_identity_blocks(settings: Settings) -> Settings:
    """Return settings whose model, if it is trained from scratch, begins with blocks that are the
    identity, where it has such.

    Only for a new run: its config.toml then says so, and repeats it.

    Raises:
        UsageError: an unknown model.
    """
    model = settings.model
    if model.weights is not None or model.call is None:
        return settings
    return replace(settings, model=replace(model, call=str(with_zero_init(parse(model.call)))))


def _is_for_trained(recipe: Settings) -> bool:
    """Say whether a recipe has what only makes sense for weights that are trained already."""
    asked = recipe.optimizer
    joins_later = any("unfreeze" in line.rpartition(":")[2] for line in asked.groups)
    is_of_layers = asked.head_lr != 1.0 or asked.layer_decay is not None
    return joins_later or is_of_layers or recipe.train.method != "steps"


def _choice(model: str | None) -> tuple[str, str]:
    if model is not None:
        return SCRATCH, f"for photographs, with your model from scratch ({_better()})"
    if is_installed():
        return PRETRAINED, (
            f"for photographs: from the ImageNet weights of {NAMES[0]}; `--recipe {SCRATCH}` uses"
            " none"
        )
    return SCRATCH, f"for photographs, as no pretrained weights are at hand ({_better()})"


def _better() -> str:
    how = f"`ptkit finetune {NAMES[0]}`" if is_installed() else f"{INSTALL}, then this again"
    return (
        "training from scratch on a few hundred photographs rarely gets far; start from pretrained"
        f" weights: {how}"
    )
