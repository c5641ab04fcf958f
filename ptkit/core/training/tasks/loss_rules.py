"""The table of losses: which labels each is for, what stands before it, its target, and how outputs
are read.
"""

from dataclasses import dataclass

from ptkit.core.data.labels import CLASS, NUMBERS, SEVERAL


@dataclass(frozen=True)
class Use:
    """How a loss is used with one kind of labels.

    before: name in losses.ACTIVATIONS of what the outputs pass before the loss.
    target: name in losses.TARGETS of what makes the target of the labels, or in pairs.PAIRINGS of
    what is compared.
    reading: name in readings.READINGS of what turns the outputs into probabilities or numbers.
    """

    before: str
    target: str
    reading: str


@dataclass(frozen=True)
class LossRule:
    """One row: a loss with its uses; None where it does not fit the labels.

    one: one class an image. several: several classes. numbers: numbers. pairs: images compared by
    their classes.
    """

    summary: str
    one: Use | None = None
    several: Use | None = None
    numbers: Use | None = None
    pairs: Use | None = None


RULES: dict[str, LossRule] = {
    "CrossEntropyLoss": LossRule(
        "softmax and negative log-likelihood",
        one=Use("none", "class index", "softmax"),
    ),
    "NLLLoss": LossRule(
        "negative log-likelihood of log-softmax",
        one=Use("log_softmax", "class index", "softmax"),
    ),
    "MultiMarginLoss": LossRule(
        "hinge between the true class and each other",
        one=Use("none", "class index", "softmax"),
    ),
    "KLDivLoss": LossRule(
        "divergence from the smoothed one-hot",
        one=Use("log_softmax", "smoothed one-hot", "softmax"),
    ),
    "BCELoss": LossRule(
        "binary cross-entropy of each class",
        one=Use("sigmoid", "one-hot", "sigmoid"),
        several=Use("sigmoid", "many-hot", "sigmoid"),
    ),
    "BCEWithLogitsLoss": LossRule(
        "binary cross-entropy of each class, sigmoid inside",
        one=Use("none", "one-hot", "sigmoid"),
        several=Use("none", "many-hot", "sigmoid"),
    ),
    "SoftMarginLoss": LossRule(
        "logistic loss of each class",
        one=Use("none", "±1", "sigmoid"),
        several=Use("none", "±1", "sigmoid"),
    ),
    "MultiLabelSoftMarginLoss": LossRule(
        "one against all, maximum entropy",
        one=Use("none", "one-hot", "sigmoid"),
        several=Use("none", "many-hot", "sigmoid"),
    ),
    "MultiLabelMarginLoss": LossRule(
        "hinge between each class that is there and each that is not",
        one=Use("none", "class indices", "softmax"),
        several=Use("none", "class indices", "sigmoid"),
    ),
    "HingeEmbeddingLoss": LossRule(
        "distances: small for the true class, or (loss.pairs) between images of one class",
        one=Use("softplus", "±1", "negative"),
        pairs=Use("unit length", "distances of pairs", "nearest"),
    ),
    "L1Loss": LossRule(
        "absolute error",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "MSELoss": LossRule(
        "squared error",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "SmoothL1Loss": LossRule(
        "squared error near zero, absolute beyond beta",
        one=Use("none", "one-hot", "clamp"),
        numbers=Use("none", "number", "number"),
    ),
    "PoissonNLLLoss": LossRule(
        "counts; of classes the one-hot",
        one=Use("none", "one-hot", "exp"),
        numbers=Use("none", "number", "exp"),
    ),
    "CosineEmbeddingLoss": LossRule(
        "cosine of pairs: 1 for one class, below the margin for two",
        pairs=Use("unit length", "pairs", "nearest"),
    ),
    "MarginRankingLoss": LossRule(
        "of each triplet: the other class farther than the own, by the margin",
        pairs=Use("unit length", "ranked distances", "nearest"),
    ),
    "TripletMarginLoss": LossRule(
        "the same on anchor, positive and semi-hard negative",
        pairs=Use("unit length", "semi-hard triplets", "nearest"),
    ),
}
# With log_input=False the output itself is the expected count, which must be above zero.
POISSON_WITHOUT_LOG = LossRule(
    "", one=Use("softplus", "one-hot", "softplus"), numbers=Use("softplus", "number", "softplus")
)
# A user's own loss takes scores and labels, as these do.
OWN_CODE = LossRule(
    "",
    one=Use("none", "class index", "softmax"),
    several=Use("none", "many-hot", "sigmoid"),
    numbers=Use("none", "number", "number"),
)

# What is taken where no loss is named.
DEFAULTS = {
    CLASS: "CrossEntropyLoss(label_smoothing=0.1)",
    SEVERAL: "BCEWithLogitsLoss()",
    NUMBERS: "SmoothL1Loss()",
}
