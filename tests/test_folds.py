from collections import Counter

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_scans import scan_of

from ptkit.core.data.splits.splitting import fold_parts, split_images
from ptkit.core.errors import DataError, UsageError

RATIOS = st.sampled_from([None, (8, 1, 1), (2, 1, 1), (13, 5, 7)])


def split_folds(scan, num_folds, *, ratio=None, **settings):
    names, shares = fold_parts(num_folds, ratio)
    return split_images(scan, shares, part_names=names, **settings)


@settings(max_examples=examples(50), deadline=None)
@given(
    sizes=st.lists(st.integers(12, 40), min_size=2, max_size=5),
    num_folds=st.integers(2, 8),
    ratio=RATIOS,
    seed=st.integers(0, 99),
)
def test_every_image_is_in_one_fold_or_the_test_part_and_folds_differ_by_at_most_one_a_class(
    sizes, num_folds, ratio, seed
):
    split = split_folds(
        scan_of([(k, 0) for k, size in enumerate(sizes) for _ in range(size)]),
        num_folds,
        ratio=ratio,
    )
    assert split.part_names == (
        *(f"fold{k + 1}" for k in range(num_folds)),
        *(["test"] if ratio else []),
    )
    assert [sum(counts) for counts in split.counts] == sizes
    assert split.totals == [
        list(split.part_of).count(part) for part in range(len(split.part_names))
    ]
    for size, counts in zip(sizes, split.counts, strict=True):
        assert max(counts[:num_folds]) - min(counts[:num_folds]) <= 1
        test_share = ratio[2] / sum(ratio) if ratio else 0
        assert abs(sum(counts[num_folds:]) - size * test_share) < 1


@settings(max_examples=examples(30), deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=30, max_size=90),
    ratio=RATIOS,
    seed=st.integers(0, 9),
)
def test_groups_are_in_one_fold_also_across_classes(images, ratio, seed):
    scan = scan_of([*images, *((label, 10 + k) for label in range(3) for k in range(12))])
    split = split_folds(scan, 3, ratio=ratio, seed=seed, group_by=r"/g(\d)-")
    found = {
        (name.partition("/")[2][:3], part)
        for name, part in zip(scan.names, split.part_of, strict=True)
    }
    grouped = [name for name, _ in found if name.endswith("-")]
    assert sorted(grouped) == sorted({f"g{group}-" for _, group in images})


def test_groups_of_many_classes_fill_all_folds_to_within_a_group():
    scan = scan_of(
        [(label, f"{label}{group}") for label in range(10) for group in range(3) for _ in range(4)]
    )
    assert sorted(split_folds(scan, 5, group_by=r"g\d+").totals) == [20, 24, 24, 24, 28]


def test_the_seed_decides_the_folds():
    scan = scan_of([(label, 0) for label in range(2) for _ in range(50)])
    first, again, other = (bytes(split_folds(scan, 5, seed=seed).part_of) for seed in (0, 0, 1))
    assert first == again != other


def test_many_small_classes_fill_all_folds_alike():
    split = split_folds(scan_of([(label, 0) for label in range(12) for _ in range(7)]), 5)
    assert Counter(split.totals) == {17: 4, 16: 1}


@pytest.mark.parametrize("num_folds", [-1, 0, 1, 101])
def test_another_number_of_folds_is_a_usage_error(num_folds):
    with pytest.raises(UsageError, match=f"--kfold must be 2 to 100, found {num_folds}"):
        fold_parts(num_folds)


def test_folds_take_no_ratio_of_two_parts():
    with pytest.raises(
        UsageError, match="leave --ratio out, or give it three parts, such as 8:1:1"
    ):
        fold_parts(5, (8, 2))


def test_a_class_with_fewer_images_than_folds_is_a_data_error_unless_allowed():
    scan = scan_of([(0, 0)] * 20 + [(1, 0)] * 4)
    with pytest.raises(DataError, match="class 1 has fewer images, 4, than the 5 parts"):
        split_folds(scan, 5)
    assert sorted(split_folds(scan, 5, allow_missing=True).counts[1]) == [0, 1, 1, 1, 1]


def test_groups_that_leave_a_fold_empty_are_a_data_error():
    with pytest.raises(DataError, match="fold2 would get no image"):
        split_folds(scan_of([(0, 0)] * 5 + [(1, 1)] * 5), 3, group_by=r"g\d")
