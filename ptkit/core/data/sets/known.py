"""The public data sets that `ptkit data` knows by name: torchvision's.

One row a set; nothing here is loaded or downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TRAIN_AND_TEST = {"train": {"train": True}, "test": {"train": False}}
_SPLIT_TRAIN_AND_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_SPLIT_IN_THREE = {part: {"split": part} for part in ("train", "val", "test")}
_DIGITS = tuple("0123456789")
_NOT_STATED = "none stated"
_RESEARCH = "for research that is not commercial"

# torchvision has no names for these where class_names.txt is missing.
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
# torchvision 0.21 has no names for these.
_FLOWERS = tuple(
    """pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold,
    tiger lily, moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot,
    king protea, spear thistle, yellow iris, globe-flower, purple coneflower, peruvian lily,
    balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red ginger,
    grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
    sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly,
    ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy,
    daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup,
    oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium,
    bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata,
    japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus,
    bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple,
    morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
    columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum,
    bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia,
    blanket flower, trumpet creeper, blackberry lily""".replace("\n", " ").split(",")
)


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A data set of torchvision.

    target: its class in torchvision.datasets. summary: what is in it. parts: the name of each
    part's folder, "" where the set has no parts, to the arguments of the class. options: arguments
    for all parts. class_names: where torchvision's are missing or no names of folders.
    is_transposed: rows and columns are exchanged in its files. needs: a library beside torchvision.
    """

    target: str
    summary: str
    parts: Mapping[str, Mapping[str, Any]]
    source: str
    licence: str
    citation: str
    options: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    is_transposed: bool = False
    needs: str = ""


def _emnist(split: str, summary: str, class_names: tuple[str, ...]) -> KnownSet:
    return KnownSet(
        target="EMNIST",
        summary=summary,
        parts=_TRAIN_AND_TEST,
        options={"split": split},
        class_names=class_names,
        is_transposed=True,
        source="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        licence=_NOT_STATED,
        citation="Cohen, Afshar, Tapson, van Schaik: EMNIST: an extension of MNIST to handwritten"
        " letters, 2017, arXiv:1702.05373",
    )


def _cifar(number: int) -> KnownSet:
    return KnownSet(
        target=f"CIFAR{number}",
        summary=f"photos of 32×32 in {number} classes: 50,000 and 10,000; 170 MB",
        parts=_TRAIN_AND_TEST,
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence=_NOT_STATED,
        citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009",
    )


# Capital and small letters in folders of their own, also on disks for which they are the same.
_BALANCED = (
    *_DIGITS,
    *(f"capital {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    *(f"small {letter}" for letter in "abdefghnqrt"),
)

KNOWN_SETS: dict[str, KnownSet] = {
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "mnist": KnownSet(
        target="MNIST",
        summary="handwritten digits of 28×28, grey: 60,000 and 10,000; 12 MB",
        parts=_TRAIN_AND_TEST,
        class_names=_DIGITS,
        source="https://huggingface.co/datasets/ylecun/mnist",
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document"
        " Recognition, Proceedings of the IEEE, 1998",
    ),
    "fashion-mnist": KnownSet(
        target="FashionMNIST",
        summary="clothes of 28×28, grey, in 10 classes: 60,000 and 10,000; 31 MB",
        parts=_TRAIN_AND_TEST,
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        citation="Xiao, Rasul, Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking"
        " Machine Learning Algorithms, 2017, arXiv:1708.07747",
    ),
    "kmnist": KnownSet(
        target="KMNIST",
        summary="cursive Japanese of 28×28, grey, in 10 classes: 60,000 and 10,000; 21 MB",
        parts=_TRAIN_AND_TEST,
        source="https://github.com/rois-codh/kmnist",
        licence="CC BY-SA 4.0",
        citation="Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto, Ha: Deep Learning for Classical"
        " Japanese Literature, 2018, arXiv:1812.01718",
    ),
    "emnist-balanced": _emnist(
        "balanced",
        "handwritten digits and letters of 28×28, grey, in 47 classes: 112,800 and 18,800; 560 MB",
        _BALANCED,
    ),
    "emnist-letters": _emnist(
        "letters",
        "handwritten letters of 28×28, grey, in 26 classes: 124,800 and 20,800; 560 MB",
        # Its labels begin with 1.
        ("none", *"abcdefghijklmnopqrstuvwxyz"),
    ),
    "emnist-digits": _emnist(
        "digits", "handwritten digits of 28×28, grey: 240,000 and 40,000; 560 MB", _DIGITS
    ),
    "usps": KnownSet(
        target="USPS",
        summary="handwritten digits of 16×16, grey: 7,291 and 2,007; 8 MB",
        parts=_TRAIN_AND_TEST,
        class_names=_DIGITS,
        source="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        licence=_NOT_STATED,
        citation="Hull: A Database for Handwritten Text Recognition Research, IEEE PAMI, 1994",
    ),
    "svhn": KnownSet(
        target="SVHN",
        summary="house numbers of 32×32 in 10 classes: 73,257 and 26,032; 246 MB",
        parts=_SPLIT_TRAIN_AND_TEST,
        class_names=_DIGITS,
        source="http://ufldl.stanford.edu/housenumbers/",
        licence=_RESEARCH,
        citation="Netzer, Wang, Coates, Bissacco, Wu, Ng: Reading Digits in Natural Images with"
        " Unsupervised Feature Learning, 2011",
        needs="scipy",
    ),
    "stl10": KnownSet(
        target="STL10",
        summary="photos of 96×96 in 10 classes: 5,000 and 8,000; 2.6 GB with those without labels",
        parts=_SPLIT_TRAIN_AND_TEST,
        class_names=_STL10,
        source="https://cs.stanford.edu/~acoates/stl10/",
        licence=_NOT_STATED,
        citation="Coates, Lee, Ng: An Analysis of Single-Layer Networks in Unsupervised Feature"
        " Learning, AISTATS 2011",
    ),
    "flowers102": KnownSet(
        target="Flowers102",
        summary="photos of 102 flowers: 1,020, 1,020 and 6,149; 345 MB",
        parts=_SPLIT_IN_THREE,
        class_names=tuple(name.strip() for name in _FLOWERS),
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence=_NOT_STATED,
        citation="Nilsback, Zisserman: Automated Flower Classification over a Large Number of"
        " Classes, ICVGIP 2008",
        needs="scipy",
    ),
    "food101": KnownSet(
        target="Food101",
        summary="photos of 101 dishes: 75,750 and 25,250; 5 GB",
        parts=_SPLIT_TRAIN_AND_TEST,
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence=_NOT_STATED,
        citation="Bossard, Guillaumin, Van Gool: Food-101 - Mining Discriminative Components with"
        " Random Forests, ECCV 2014",
    ),
    "pets": KnownSet(
        target="OxfordIIITPet",
        summary="photos of 37 breeds of cats and dogs: 3,680 and 3,669; 811 MB",
        parts={"train": {"split": "trainval"}, "test": {"split": "test"}},
        source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC BY-SA 4.0",
        citation="Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012",
    ),
    "dtd": KnownSet(
        target="DTD",
        summary="photos of 47 textures, its first partition: 1,880, 1,880 and 1,880; 625 MB",
        parts=_SPLIT_IN_THREE,
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="for research",
        citation="Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi: Describing Textures in the Wild, CVPR"
        " 2014",
    ),
    "eurosat": KnownSet(
        target="EuroSAT",
        summary="satellite images of 64×64 in 10 classes, without parts: 27,000; 94 MB",
        parts={"": {}},
        source="https://github.com/phelber/EuroSAT",
        licence="MIT",
        citation="Helber, Bischke, Dengel, Borth: EuroSAT: A Novel Dataset and Deep Learning"
        " Benchmark for Land Use and Land Cover Classification, 2019, arXiv:1709.00029",
    ),
    "gtsrb": KnownSet(
        target="GTSRB",
        summary="photos of 43 traffic signs, numbered: 26,640 and 12,630; 276 MB",
        parts=_SPLIT_TRAIN_AND_TEST,
        # As its own folders.
        class_names=tuple(f"{number:05d}" for number in range(43)),
        source="https://benchmark.ini.rub.de/gtsrb_news.html",
        licence=_NOT_STATED,
        citation="Stallkamp, Schlipsing, Salmen, Igel: Man vs. computer: Benchmarking machine"
        " learning algorithms for traffic sign recognition, Neural Networks, 2012",
    ),
    "aircraft": KnownSet(
        target="FGVCAircraft",
        summary="photos of 100 variants of aircraft: 3,334, 3,333 and 3,333; 2.8 GB",
        parts=_SPLIT_IN_THREE,
        source="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        licence=_RESEARCH,
        citation="Maji, Rahtu, Kannala, Blaschko, Vedaldi: Fine-Grained Visual Classification of"
        " Aircraft, 2013, arXiv:1306.5151",
    ),
    "imagenette": KnownSet(
        target="Imagenette",
        summary="photos of 10 easy classes of ImageNet, 320 pixels: 9,469 and 3,925; 342 MB",
        parts={"train": {"split": "train"}, "val": {"split": "val"}},
        options={"size": "320px"},
        source="https://github.com/fastai/imagenette",
        licence="Apache 2.0; the photos are those of ImageNet",
        citation="Howard: Imagenette, https://github.com/fastai/imagenette",
    ),
    "country211": KnownSet(
        target="Country211",
        summary="photos of 211 countries: 31,650, 10,550 and 21,100; 11 GB",
        parts={part: {"split": part} for part in ("train", "valid", "test")},
        source="https://github.com/openai/CLIP/blob/main/data/country211.md",
        licence="Creative Commons, each photo its own",
        citation="Radford et al.: Learning Transferable Visual Models From Natural Language"
        " Supervision, 2021, arXiv:2103.00020",
    ),
    "sun397": KnownSet(
        target="SUN397",
        summary="photos of 397 kinds of places, without parts: 108,754; 37 GB",
        parts={"": {}},
        source="https://vision.princeton.edu/projects/2010/SUN/",
        licence=_NOT_STATED,
        citation="Xiao, Hays, Ehinger, Oliva, Torralba: SUN Database: Large-scale Scene Recognition"
        " from Abbey to Zoo, CVPR 2010",
    ),
}
