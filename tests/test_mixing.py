import pytest
import torch
from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import is_mix
from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.mixing import mix
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse, parse_all

IMAGES = torch.randn(6, 3, 8, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_mixup_gives_torchvisions_pixels_for_the_share_of_each_image() -> None:
    mixed, how = mix(v2.MixUp(alpha=0.4), IMAGES, LABELS, seed=1, epoch=2, batch=3)
    assert (how.share.dtype, len(how.share.unique())) == (torch.float32, 6)
    for index, share in enumerate(how.share.tolist()):
        own = {"labels": LABELS, "batch_size": 6, "lam": share}
        assert torch.equal(mixed[index], v2.MixUp(num_classes=3).transform(IMAGES, own)[index])
    assert torch.equal(how.partner_labels, LABELS.roll(1))


def box_of(is_pasted: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = is_pasted.nonzero(as_tuple=True)
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_cutmix_gives_torchvisions_pixels_for_the_box_of_each_image() -> None:
    mixed, how = mix(v2.CutMix(alpha=1.0), IMAGES, LABELS, seed=1, epoch=2, batch=3)
    boxes = [box_of((mixed[index] != IMAGES[index]).any(dim=0)) for index in range(6)]
    assert len(set(boxes)) > 3
    for index, (box, share) in enumerate(zip(boxes, how.share.tolist(), strict=True)):
        own = {"labels": LABELS, "batch_size": 6, "box": box, "lam_adjusted": share}
        assert torch.equal(mixed[index], v2.CutMix(num_classes=3).transform(IMAGES, own)[index])
        assert share == pytest.approx(1 - (box[2] - box[0]) * (box[3] - box[1]) / 80)


def test_cutmix_boxes_are_distributed_as_torchvisions() -> None:
    ours = torch.cat(
        [mix(v2.CutMix(), IMAGES, LABELS, seed=0, epoch=1, batch=b)[1].share for b in range(300)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.tensor(
            [v2.CutMix(num_classes=3).make_params([IMAGES])["lam_adjusted"] for _ in range(1800)]
        )
    levels = torch.linspace(0, 1, 41)
    gaps = [
        abs((ours <= level).float().mean() - (theirs <= level).float().mean()) for level in levels
    ]
    # The 0.1 % point of Kolmogorov and Smirnov's statistic for two samples of 1,800.
    assert max(gaps) < 0.065


@pytest.mark.parametrize("call", [v2.MixUp(), v2.CutMix()])
def test_mixed_images_stay_channels_last(call: v2.Transform) -> None:
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    mixed, _ = mix(call, images, LABELS, seed=0, epoch=0, batch=0)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None] == torch.arange(3), torch.randn(6, 2)])
def test_labels_of_every_kind_are_those_of_the_partner(labels: torch.Tensor) -> None:
    _, how = mix(v2.MixUp(), IMAGES, labels, seed=0, epoch=0, batch=0)
    assert torch.equal(how.partner_labels, labels[[5, 0, 1, 2, 3, 4]])


def test_the_shares_follow_seed_epoch_and_batch_and_nothing_else() -> None:
    def shares(seed: int, epoch: int, batch: int) -> tuple[float, ...]:
        torch.rand(1)
        return tuple(
            mix(v2.MixUp(), IMAGES, LABELS, seed=seed, epoch=epoch, batch=batch)[1].share.tolist()
        )

    assert shares(0, 1, 2) == shares(0, 1, 2)
    assert len({shares(0, 1, 2), shares(1, 1, 2), shares(0, 2, 2), shares(0, 1, 3)}) == 4


def test_shares_are_beta_distributed() -> None:
    shares = torch.cat(
        [
            mix(v2.MixUp(alpha=0.2), IMAGES, LABELS, seed=0, epoch=1, batch=b)[1].share
            for b in range(300)
        ]
    )
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 * (2 * 0.2 + 1)).
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(1 / 5.6, abs=0.02)


def test_a_choice_takes_turns() -> None:
    choice = v2.RandomChoice([v2.MixUp(), v2.CutMix()])
    results = [mix(choice, IMAGES, LABELS, seed=0, epoch=1, batch=b)[0] for b in range(12)]
    num_cut = sum(bool((mixed == IMAGES).any()) for mixed in results)
    assert 0 < num_cut < 12


def test_a_mix_goes_to_the_end_of_an_automatic_list() -> None:
    listed = parse_all(["MixUp(alpha=0.2)", "RandomCrop(8)"])
    calls = complete(listed, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    assert calls[-1] == listed[0]
    assert isinstance(Pipeline.of(calls).mix, v2.MixUp)


def test_only_mixes_and_choices_of_mixes_are_mixes() -> None:
    assert is_mix(parse("RandomChoice([MixUp(), CutMix()])"))
    assert not is_mix(parse("RandomChoice([MixUp(), RandomCrop(3)])"))
    assert not is_mix(parse("RandomCrop(3)"))


def test_two_mixes_are_refused() -> None:
    with pytest.raises(UsageError, match="put it at the end, once"):
        Pipeline.parse(["ToTensor()", "MixUp()", "CutMix()"])
