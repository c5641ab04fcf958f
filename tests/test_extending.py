from math import ceil
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_scans import scan_of

from ptkit.core.data.splits.existing_lists import ExistingLists
from ptkit.core.data.splits.extending import extend_split
from ptkit.core.data.splits.given_parts import PART_NAMES
from ptkit.core.data.splits.scanning import Scan
from ptkit.core.data.splits.splitting import split_images
from ptkit.core.errors import DataError, UsageError

RATIOS = st.sampled_from([(8, 1, 1), (7, 3), (2, 1, 1), (1, 1), (13, 5, 7)])
SIZES = st.lists(st.tuples(st.integers(5, 30), st.integers(0, 30)), min_size=2, max_size=5)


def existing_of(scan, parts, *, class_names=None):
    """Return lists that name the first images of a scan, whose files are nowhere."""
    count = len(parts)
    names = tuple(PART_NAMES[part] for part in sorted(set(parts)))
    labels = list(scan.labels[:count])
    return ExistingLists(
        Path(),
        {},
        class_names or scan.class_names,
        names,
        (),
        scan.paths[:count],
        labels,
        list(parts),
    )


def with_more(scan, labels):
    """Return a scan with more images, each the last of its class."""
    rows = sorted(
        [
            *zip(scan.labels, scan.names, strict=True),
            *((k, f"{k}/new{n}.png") for n, k in enumerate(labels)),
        ]
    )
    names = [name for _, name in rows]
    class_names = tuple(str(label) for label in range(max(rows)[0] + 1))
    return Scan(
        Path("images"), class_names, names, names, [label for label, _ in rows], [0] * len(rows)
    )


@settings(max_examples=examples(60), deadline=None)
@given(sizes=SIZES, ratio=RATIOS, seed=st.integers(0, 9))
def test_old_images_stay_and_old_and_new_together_are_within_one_of_their_shares(
    sizes, ratio, seed
):
    old = scan_of([(label, 0) for label, (size, _) in enumerate(sizes) for _ in range(size)])
    split = split_images(old, ratio, seed=seed)
    more = with_more(old, [label for label, (_, size) in enumerate(sizes) for _ in range(size)])
    extension = extend_split(more, existing_of(old, split.part_of), ratio, seed=seed)
    assert sorted([*old.names, *extension.scan.names]) == sorted(more.names)
    added = [[0] * len(ratio) for _ in sizes]
    for label, part in zip(extension.scan.labels, extension.split.part_of, strict=True):
        added[label][part] += 1
    for before, new, after in zip(split.counts, added, extension.split.counts, strict=True):
        assert after == [a + b for a, b in zip(before, new, strict=True)]
        assert all(
            abs(count - sum(after) * share / sum(ratio)) < 1
            for count, share in zip(after, ratio, strict=True)
        )


@settings(max_examples=examples(60), deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(1, 20), min_size=3, max_size=3), min_size=2, max_size=3),
    num_new=st.integers(1, 30),
)
def test_lists_of_any_shares_are_brought_nearer_to_the_ratio(counts, num_new):
    old = scan_of([(label, 0) for label, row in enumerate(counts) for _ in range(sum(row))])
    existing = existing_of(
        old, [part for row in counts for part, count in enumerate(row) for _ in range(count)]
    )
    extension = extend_split(with_more(old, [0] * num_new), existing, (8, 1, 1))
    after = extension.split.counts
    assert after[1:] == counts[1:]
    assert sum(after[0]) == sum(counts[0]) + num_new
    for before, count, share in zip(counts[0], after[0], (0.8, 0.1, 0.1), strict=True):
        assert before <= count <= max(before, ceil(share * sum(after[0])))


@settings(max_examples=examples(30), deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=40),
    seed=st.integers(0, 9),
)
def test_new_members_of_a_group_go_where_the_group_is(groups, seed):
    old = scan_of([(label, group) for label in (0, 1) for group in range(6) for _ in range(3)])
    split = split_images(old, (1, 1), group_by=r"g\d", seed=seed)
    more = with_more(old, [])
    for number, (label, group) in enumerate(groups):
        row = sum(known <= label for known in more.labels)
        for column, value in (
            (more.names, f"{label}/g{group}-new{number}.png"),
            (more.labels, label),
            (more.sizes, 0),
        ):
            column.insert(row, value)
    extension = extend_split(more, existing_of(old, split.part_of), (1, 1), group_by=r"g\d")
    parts = dict(zip([name[:4] for name in old.names], split.part_of, strict=True))
    by_group = {name[2:]: part for name, part in parts.items()}
    names, part_of = extension.scan.names, extension.split.part_of
    assert len(names) == len(groups)
    assert list(part_of) == [by_group[name[2:4]] for name in names]
    assert extension.straddling == ()


def test_new_images_of_a_group_in_several_parts_go_to_the_first_and_it_is_reported():
    old = scan_of([(label, group) for label in (0, 1) for group in (0, 1, 2, 2)])
    existing = existing_of(old, [0, 1, 2, 1, 0, 1, 2, 1])
    extension = extend_split(with_more(old, []), existing, (2, 1, 1), group_by=r"g\d")
    assert extension.straddling == (("0/g2-2.png", ("valid", "test")),)
    more = with_more(old, [])
    more.names.append("1/g2-new.png")
    more.labels.append(1)
    more.sizes.append(0)
    extension = extend_split(more, existing, (2, 1, 1), group_by=r"g\d")
    assert (extension.scan.names, list(extension.split.part_of)) == (["1/g2-new.png"], [1])


def test_a_new_class_gets_the_next_index_wherever_its_name_sorts():
    old = scan_of([(1, 0)] * 10 + [(2, 0)] * 10)
    existing = existing_of(
        Scan(
            old.source,
            ("1", "2"),
            old.names,
            old.paths,
            [label - 1 for label in old.labels],
            old.sizes,
        ),
        [0, 1] * 10,
    )
    extension = extend_split(with_more(old, [0] * 4), existing, (1, 1))
    assert (extension.scan.class_names, extension.new_classes) == (("1", "2", "0"), ("0",))
    assert extension.scan.labels == [2, 2, 2, 2]
    assert extension.split.counts == [[5, 5], [5, 5], [2, 2]]


def test_a_new_image_goes_to_the_part_that_is_furthest_below_its_share():
    # Rounding the shares of all five, 2.6, 1.0 and 1.4, says that it is the training part that
    # lacks one.
    old = scan_of([(label, 0) for label in (0, 1) for _ in range(4)])
    extension = extend_split(
        with_more(old, [0]), existing_of(old, [0, 0, 2, 2, 0, 0, 1, 2]), (13, 5, 7)
    )
    assert extension.split.counts[0] == [2, 1, 2]


def test_a_list_of_a_part_that_the_ratio_does_not_have_is_left_as_it_is():
    old = scan_of([(label, 0) for label in (0, 1) for _ in range(3)])
    extension = extend_split(with_more(old, [0] * 8), existing_of(old, [0, 1, 2] * 2), (1, 1))
    assert extension.split.counts == [[5, 5, 1], [1, 1, 1]]


def test_a_part_that_has_no_list_yet_gets_its_whole_share_of_the_new_images():
    old = scan_of([(label, 0) for label in (0, 1) for _ in range(8)])
    extension = extend_split(
        with_more(old, [0, 0, 1, 1]), existing_of(old, [0, 0, 0, 0, 0, 0, 0, 1] * 2), (8, 1, 1)
    )
    assert extension.split.counts == [[8, 1, 1], [8, 1, 1]]


def test_a_class_that_grows_but_stays_smaller_than_the_parts_is_a_data_error_unless_allowed():
    old = scan_of([(label, 0) for label in (0, 1) for _ in range(3)])
    more, existing = with_more(old, [2, 2]), existing_of(old, [0, 1, 2] * 2, class_names=("0", "1"))
    with pytest.raises(DataError, match="class 2 has fewer images, 2, than the 3 parts"):
        extend_split(more, existing, (2, 1, 1))
    assert sum(extend_split(more, existing, (2, 1, 1), allow_missing=True).split.counts[2]) == 2


def test_lists_give_the_ratio_where_no_split_recorded_one():
    old = scan_of([(label, 0) for label in (0, 1) for _ in range(5)])
    assert existing_of(old, [0, 0, 0, 1, 2] * 2).ratio == "6:2:2"
    with pytest.raises(UsageError, match=r"\. has only a list for train, test; pass --ratio"):
        _ = existing_of(old, [0, 0, 0, 0, 2] * 2).ratio
