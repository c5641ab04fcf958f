import pytest
import torch
from torchvision.transforms import v2

from ptkit.core.calls import parse
from ptkit.core.data.mixing import is_mix, mix
from ptkit.core.data.pipeline import Pipeline
from ptkit.core.data.transforms import complete
from ptkit.core.errors import UsageError

IMAGES = torch.randn(6, 3, 8, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_mixup_gives_torchvisions_pixels_for_the_same_share() -> None:
    mixed, how = mix(v2.MixUp(alpha=0.4), IMAGES, LABELS, seed=1, epoch=2, batch=3)
    own = {"labels": LABELS, "batch_size": 6, "lam": how.share}
    assert torch.equal(mixed, v2.MixUp(num_classes=3).transform(IMAGES, own))
    assert torch.equal(how.partner_labels, LABELS.roll(1))


def test_cutmix_pastes_one_box_of_the_partner_and_the_share_is_its_area() -> None:
    mixed, how = mix(v2.CutMix(alpha=1.0), IMAGES, LABELS, seed=1, epoch=2, batch=3)
    is_pasted = (mixed != IMAGES).any(dim=1)
    assert (is_pasted == is_pasted[0]).all()
    assert how.share == pytest.approx(1 - is_pasted[0].float().mean().item())
    assert torch.equal(mixed[:, :, is_pasted[0]], IMAGES.roll(1, 0)[:, :, is_pasted[0]])


def test_the_share_follows_seed_epoch_and_batch_and_nothing_else() -> None:
    def share(seed: int, epoch: int, batch: int) -> float:
        torch.rand(1)
        return mix(v2.MixUp(), IMAGES, LABELS, seed=seed, epoch=epoch, batch=batch)[1].share

    assert share(0, 1, 2) == share(0, 1, 2)
    assert len({share(0, 1, 2), share(1, 1, 2), share(0, 2, 2), share(0, 1, 3)}) == 4


def test_shares_are_beta_distributed() -> None:
    shares = torch.tensor(
        [mix(v2.MixUp(alpha=0.2), IMAGES, LABELS, seed=0, epoch=1, batch=b)[1].share for b in range(500)]
    )
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 * (2 * 0.2 + 1)).
    assert shares.mean().item() == pytest.approx(0.5, abs=0.06)
    assert shares.var().item() == pytest.approx(1 / 5.6, abs=0.03)


def test_a_choice_takes_turns() -> None:
    choice = v2.RandomChoice([v2.MixUp(), v2.CutMix()])
    results = [mix(choice, IMAGES, LABELS, seed=0, epoch=1, batch=b)[0] for b in range(12)]
    num_cut = sum(bool((mixed == IMAGES).any()) for mixed in results)
    assert 0 < num_cut < 12


def test_a_mix_goes_to_the_end_of_an_automatic_list() -> None:
    calls = complete(["MixUp(alpha=0.2)", "RandomCrop(8)"], size=8, mean=(0, 0, 0), std=(1, 1, 1))
    assert calls[-1] == "MixUp(alpha=0.2)"
    assert isinstance(Pipeline.parse(calls).mix, v2.MixUp)


def test_only_mixes_and_choices_of_mixes_are_mixes() -> None:
    assert is_mix(parse("RandomChoice([MixUp(), CutMix()])"))
    assert not is_mix(parse("RandomChoice([MixUp(), RandomCrop(3)])"))
    assert not is_mix(parse("RandomCrop(3)"))


def test_two_mixes_are_refused() -> None:
    with pytest.raises(UsageError, match="stands once, at the end"):
        Pipeline.parse(["ToTensor()", "MixUp()", "CutMix()"])
