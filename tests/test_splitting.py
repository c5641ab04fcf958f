import random
from collections import Counter

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_scans import scan_of

from ptkit.core.data.splits.grouping import find_duplicates
from ptkit.core.data.splits.scanning import scan_class_folders
from ptkit.core.data.splits.splitting import largest_remainder, parse_ratio, split_images
from ptkit.core.errors import DataError, UsageError

RATIOS = st.sampled_from([(8, 1, 1), (7, 3), (2, 1, 1), (1, 1), (13, 5, 7)])


@pytest.fixture
def make_tree(tmp_path):
    """Write {name: content} as files and scan them."""

    def make(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return scan_class_folders(tmp_path)

    return make


def assert_near_shares(split, ratio, largest):
    for counts, slack in zip(split.counts, largest, strict=True):
        for count, share in zip(counts, ratio, strict=True):
            assert abs(count - sum(counts) * share / sum(ratio)) < max(slack, 1)


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("8:1:1", (8, 1, 1)),
        ("0.7:0.3", (7, 3)),
        (".5:1", (5, 10)),
        (" 80 : 12.5 : 7.5", (800, 125, 75)),
        ("7.:3", (7, 3)),
    ],
)
def test_a_ratio_becomes_integers(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    "text", ["", "8", "8:0:2", "8:-1", "8:1:1:1", "a:b", "8,1,1", "1e1:1", "8::1", ".:1", "nan:1"]
)
def test_another_ratio_is_a_usage_error(text):
    with pytest.raises(UsageError, match="two or three positive numbers such as 8:1:1"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("num_images", "ratio", "counts"),
    [
        (10, (8, 1, 1), [8, 1, 1]),
        (178, (8, 1, 1), [142, 18, 18]),
        (5, (7, 3), [4, 1]),
        (3, (8, 1, 1), [3, 0, 0]),
        (0, (1, 1), [0, 0]),
    ],
)
def test_shares_are_rounded_by_largest_remainder(num_images, ratio, counts):
    assert largest_remainder(num_images, ratio) == counts


@settings(max_examples=examples(100), deadline=None)
@given(
    sizes=st.lists(st.integers(10, 60), min_size=2, max_size=5),
    ratio=RATIOS,
    seed=st.integers(0, 99),
)
def test_split_keeps_every_image_exactly_once_and_every_class_within_one_of_its_share(
    sizes, ratio, seed
):
    scan = scan_of([(label, 0) for label, size in enumerate(sizes) for _ in range(size)])
    split = split_images(scan, ratio, seed=seed)
    assert [sum(counts) for counts in split.counts] == sizes
    assert split.totals == [list(split.part_of).count(part) for part in range(len(ratio))]
    assert_near_shares(split, ratio, [1] * len(sizes))


@settings(max_examples=examples(100), deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=30, max_size=120),
    ratio=RATIOS,
    seed=st.integers(0, 9),
)
def test_groups_within_a_class_stay_whole_and_within_the_largest_group_of_the_share(
    images, ratio, seed
):
    scan = scan_of([*images, *((label, 10 + k) for label in range(3) for k in range(12))])
    split = split_images(scan, ratio, seed=seed, group_by=r"^\d/g\d+")
    parts = {}
    for name, part in zip(scan.names, split.part_of, strict=True):
        assert parts.setdefault(name.partition("-")[0], part) == part
    sizes = Counter(images)
    assert_near_shares(
        split, ratio, [max(sizes[label, group] for group in range(10)) for label in range(3)]
    )


# In draw 53, placing each patient once and never moving it again is not near enough.
@pytest.mark.parametrize("draw", [0, 1, 53])
def test_groups_across_classes_stay_whole_and_classes_near_their_shares(draw):
    choose = random.Random(draw)
    images = [
        (choose.choice([0, 0, 0, 1, 2]), patient)
        for patient in range(20)
        for _ in range(choose.randint(1, 9))
    ]
    scan = scan_of(images)
    split = split_images(scan, (8, 1, 1), group_by=r"/g(\d+)-")
    patients = [name.partition("/")[2].partition("-")[0] for name in scan.names]
    assert len(set(zip(patients, split.part_of, strict=True))) == split.grouping.num_groups == 20
    sizes = Counter(images)
    assert_near_shares(
        split,
        (8, 1, 1),
        [max(sizes[label, patient] for patient in range(20)) for label in range(3)],
    )


def test_many_small_classes_share_what_rounding_leaves():
    scan = scan_of([(label, 0) for label in range(20) for _ in range(5)])
    assert split_images(scan, (8, 1, 1)).totals == [80, 10, 10]


def test_the_seed_decides_and_the_same_seed_gives_the_same_parts():
    scan = scan_of([(label, 0) for label in range(2) for _ in range(50)])
    first, again, other = (
        bytes(split_images(scan, (1, 1), seed=seed).part_of) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_parts_stay_the_same_from_version_to_version():
    scan = scan_of([(label, 0) for label in range(2) for _ in range(8)])
    parts = split_images(scan, (2, 1, 1), seed=3).part_of
    assert "".join(map(str, parts)) == "0020102100120012"


def test_images_that_do_not_match_stay_single():
    scan = scan_of([(0, 1), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)])
    split = split_images(scan, (1, 1), group_by="g1-")
    assert (split.grouping.num_groups, split.grouping.num_ungrouped) == (1, 4)
    assert split.part_of[0] == split.part_of[1]


def test_a_group_pattern_that_is_wrong_or_matches_nothing_is_a_usage_error():
    scan = scan_of([(0, 0), (0, 0), (1, 0), (1, 0)])
    with pytest.raises(UsageError, match="not a regular expression"):
        split_images(scan, (1, 1), group_by="(")
    with pytest.raises(UsageError, match=r"matches no image; paths look like '0/g0-0\.png'"):
        split_images(scan, (1, 1), group_by="patient")


def test_a_class_with_fewer_images_than_parts_is_a_data_error_unless_allowed():
    scan = scan_of([(0, 0)] * 20 + [(1, 0)] * 2)
    with pytest.raises(DataError, match="class 1 has fewer images, 2, than the 3 parts"):
        split_images(scan, (8, 1, 1))
    assert split_images(scan, (8, 1, 1), allow_missing=True).totals == [18, 2, 2]


@pytest.mark.parametrize("ratio", [(8, 1, 1), (98, 1, 1), (999, 1)])
def test_no_part_is_left_empty_by_rounding(ratio):
    split = split_images(scan_of([(label, 0) for label in range(2) for _ in range(3)]), ratio)
    assert split.totals == [6 - len(ratio[1:])] + [1] * len(ratio[1:])
    assert_near_shares(split, ratio, [1, 1])


def test_groups_that_leave_a_part_empty_are_a_data_error():
    with pytest.raises(DataError, match="valid would get no image"):
        split_images(
            scan_of([(label, 0) for label in range(2) for _ in range(3)]), (1, 1), group_by="g0"
        )


def test_exact_duplicates_stay_on_one_side_also_across_classes_and_groups(make_tree):
    unique = {
        f"{label}/{number}.png": b"%d-%d" % (label, number)
        for label in (1, 2)
        for number in range(10, 40)
    }
    copies = {
        "1/a.png": b"same",
        "1/b.png": b"same",
        "2/c.png": b"same",
        "1/s-d.png": b"x",
        "2/s-e.png": b"y",
        "2/f.png": b"y",
    }
    scan = make_tree(unique | copies)
    for seed in range(5):
        split = split_images(scan, (1, 1), seed=seed, group_by="s-")
        part = dict(zip(scan.names, split.part_of, strict=True))
        assert part["1/a.png"] == part["1/b.png"] == part["2/c.png"]
        assert part["1/s-d.png"] == part["2/s-e.png"] == part["2/f.png"]
        assert split.grouping.num_duplicates == 3
        assert split.grouping.conflicts == (("1/a.png", "2/c.png"),)


def test_duplicates_are_equal_in_all_bytes_and_not_empty(make_tree):
    long = bytes(100_000)
    files = {
        "a/1.png": long,
        "a/2.png": long,
        "a/3.png": long[:-1] + b"x",
        "b/1.png": b"",
        "b/2.png": b"",
        "b/3.png": b"1",
    }
    scan = make_tree(files)
    groups = find_duplicates(scan.paths, scan.sizes)
    assert [[scan.names[index] for index in group] for group in groups] == [["a/1.png", "a/2.png"]]


def test_many_files_are_compared_as_few_are(make_tree, monkeypatch):
    scan = make_tree({f"{k % 2}/{k}.png": b"%03d" % (k % 350) for k in range(700)})
    one_by_one = find_duplicates(scan.paths, scan.sizes)
    monkeypatch.setattr("ptkit.core.data.splits.grouping._SLOW_FILE_S", 0)
    monkeypatch.setattr("ptkit.core.data.splits.grouping._WORTH_THREADS_S", 0)
    assert find_duplicates(scan.paths, scan.sizes) == one_by_one
    assert len(one_by_one) == 350
    # In copies of the process.
    monkeypatch.setattr("ptkit.core.data.splits.grouping._SLOW_FILE_S", 60)
    monkeypatch.setattr("ptkit.core.data.splits.grouping._MANY_FILES", 0)
    monkeypatch.setattr("ptkit.core.data.splits.grouping.num_cores", lambda: 3)
    monkeypatch.setattr("ptkit.core.data.forked.can_fork", lambda: True)
    assert find_duplicates(scan.paths, scan.sizes) == one_by_one


def test_a_file_that_vanished_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.png: No such file"):
        find_duplicates([str(tmp_path / "gone.png")] * 2, [5, 5])
