import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, Symbol, parse, split_selector
from ptkit.core.wording import nearest

NAMES = st.sampled_from(["f", "RandomCrop", "kaiming_normal_", "p2", "_x"])
NUMBERS = st.integers() | st.floats(allow_nan=False)
SYMBOLS = st.builds(Symbol, NAMES, NAMES)
PREFIXES = st.sampled_from(
    ["", "timm", "package.module", "my nets/net.py", "../图像/net.py", "C:\\nets\\net.py"]
)


def calls_of(values):
    return st.builds(
        Call,
        NAMES,
        st.lists(values, max_size=3).map(tuple),
        st.dictionaries(NAMES, values, max_size=3),
    )


def containers_of(values):
    lists = st.lists(values, max_size=3)
    return lists | lists.map(tuple) | calls_of(values)


# Surrogates cannot be typed; everything else can.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(st.characters(exclude_categories=["Cs"]))
    | SYMBOLS,
    containers_of,
    max_leaves=8,
)


@st.composite
def whole_calls(draw):
    call = draw(calls_of(VALUES))
    return Call(call.name, call.args, call.kwargs, draw(PREFIXES))


def error_of(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    return str(caught.value).split("\n")


def read_or_none(text):
    try:
        return parse(text)
    except UsageError:
        return None


@given(whole_calls())
@settings(max_examples=examples(100), deadline=None)
def test_a_call_written_out_is_read_back_the_same(call):
    assert parse(str(call)) == call


@given(st.text(max_size=40) | st.text("f(1,'\"[=:.\r\n\t é)]*-x", max_size=40))
@settings(max_examples=examples(150), deadline=None)
def test_any_text_is_a_call_or_a_usage_error(text):
    call = read_or_none(text)
    assert call is None or parse(str(call)) == call


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("resnet8", Call("resnet8")),
        (" resnet8( ) ", Call("resnet8")),
        ("StepLR(step_size=50, gamma=0.1)", Call("StepLR", (), {"step_size": 50, "gamma": 0.1})),
        ("normal_(-1, +2.5)", Call("normal_", (-1, 2.5))),
        ("Resize((16, 32), antialias=True)", Call("Resize", ((16, 32),), {"antialias": True})),
        (
            "RandomApply([ColorJitter(0.4)], p=0.5)",
            Call("RandomApply", ([Call("ColorJitter", (0.4,))],), {"p": 0.5}),
        ),
        (
            "RandomRotation(9, InterpolationMode.NEAREST)",
            Call("RandomRotation", (9, Symbol("InterpolationMode", "NEAREST"))),
        ),
        ("normal_(\n    0,\r\n    std=1,\n)", Call("normal_", (0,), {"std": 1})),
        (r"Lambda('C:\data\my.py:f')", Call("Lambda", (r"C:\data\my.py:f",))),
    ],
)
def test_calls_are_read_as_pytorch_writes_them(text, call):
    assert parse(text) == call


@pytest.mark.parametrize(
    ("text", "prefix", "name"),
    [
        ("timm:resnet10t", "timm", "resnet10t"),
        ("nets.mine:Net(width=3)", "nets.mine", "Net"),
        ("net.py:Net", "net.py", "Net"),
        ("../my nets/net.py:Net()", "../my nets/net.py", "Net"),
        ("C:\\nets\\net.py:Net()", "C:\\nets\\net.py", "Net"),
        ('Lambda("net.py:Net")', "", "Lambda"),
    ],
)
def test_a_prefix_names_where_a_users_part_comes_from(text, prefix, name):
    call = parse(text)
    assert (call.prefix, call.name) == (prefix, name)


@pytest.mark.parametrize(
    "text",
    [
        "f(__import__('os').system('touch ran'))",
        "f(exec=[print('ran') for x in [1]])",
        "f(lambda: open('ran', 'w'))",
        "f(1 + 1)",
        "f(f'{open(1)}')",
        "f(*[1])",
        "f(**{'a': 1})",
        "f({'a': 1})",
        "f(os.path.sep)",
        "f(b'bytes')",
        "f(x := 1)",
        "f(1)(2)",
        "f(1).g",
        "(lambda: 1)()",
    ],
)
def test_nothing_but_calls_and_literals_is_accepted(text):
    assert error_of(text)[-1].strip() == "^"


def test_a_call_that_python_could_run_is_only_read(tmp_path):
    text = f"f(open({str(tmp_path / 'ran')!r}, 'w'))"
    assert parse(text).args == (Call("open", (str(tmp_path / "ran"), "w")),)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("RandomCrop(32, padding=four)", 'four is not a value; text needs quotes: "four"', "four)"),
        ("RandomCrop(32, 1 2)", "invalid syntax. Perhaps you forgot a comma?", "1 2)"),
        ("RandomCrop(32", "'(' was never closed", "(32"),
        ("RandomCrop(size=32, size=1)", "size is given twice", "size=1)"),
        ("f(**x)", "** is not part of the notation", "x)"),
        ("f(1 + 1)", "only numbers, strings, lists and nested calls can be arguments", "1 + 1)"),
        ("f(p=true)", "true is written True here", "true)"),
        ("f(p=none)", "none is written None here", "none)"),
        ("f(-True)", "True and False have no sign", "-True)"),
        ("net.py:Net(size=big)", 'big is not a value; text needs quotes: "big"', "big)"),
        ("f(g(1, h([x])))", 'x is not a value; text needs quotes: "x"', "x])))"),
        ("f(1,\n  2,\n  x)", 'x is not a value; text needs quotes: "x"', "x)"),
        ("f(1,\r\n  padding=$)", "invalid syntax", "$)"),
        ("f(1,\r  x)", 'x is not a value; text needs quotes: "x"', "x)"),
        ("= 3", "expected a name or a call such as Name(key=1), found", "= 3"),
        ("", "expected a name or a call such as Name(key=1), found", ""),
    ],
)
def test_the_caret_is_under_the_mistake(text, message, marked):
    found, line, caret = error_of(text)
    assert found == message
    assert line[caret.index("^") :] == marked


def test_the_caret_is_under_the_mistake_after_chinese_which_is_twice_as_wide():
    assert error_of('f("图像", x)')[1:] == ['    f("图像", x)', "              ^"]
    assert error_of('图像/é.py:f("ü" 1)')[1:] == ['    图像/é.py:f("ü" 1)', "                ^"]


def test_the_caret_is_under_the_mistake_after_tabs_and_combining_marks():
    assert error_of("f(1,\tx)")[1:] == ["    f(1, x)", "         ^"]
    assert error_of('f("e\u0301", x)')[1:] == ['    f("e\u0301", x)', "           ^"]


def test_an_argument_knows_its_place_for_later_errors():
    call = parse("net.py:Net(3, width=[1, 2])")
    assert str(call.error("too wide", "width")) == (
        "too wide\n    net.py:Net(3, width=[1, 2])\n                  ^"
    )  # fmt: skip
    assert str(call.error("too many", 0)).endswith("\n" + " " * 15 + "^")
    assert str(call.error("unknown")).endswith("\n" + " " * 11 + "^")


def test_deep_nesting_is_refused_and_not_a_crash():
    assert error_of("f(" * 5000)[0] == "too many nested parentheses"
    assert error_of("f(" + "-" * 100_000 + "1)")[-1].strip() == "^"


def test_infinity_survives_although_python_prints_it_as_a_name():
    assert str(parse("clip(1e999, -1e999)")) == "clip(1e999, -1e999)"


def test_the_nearest_name_is_offered_whatever_its_case():
    names = ["CrossEntropyLoss", "NLLLoss", "MSELoss"]
    assert nearest("crossentropyloss", names) == "; did you mean CrossEntropyLoss?"
    assert nearest("MSELos", names) == "; did you mean MSELoss?"
    assert nearest("resnet18", names) == ""


def test_what_others_call_a_choice_is_known():
    assert nearest("gpu", ["auto", "cpu", "cuda", "mps"]) == "; did you mean cuda?"
    assert nearest("half", ["auto", "fp32", "bf16", "fp16"]) == "; did you mean fp16?"
    assert nearest("gpu", ["cpu"]) == "; did you mean cpu?"


def test_a_selector_ends_at_the_first_separator():
    assert split_selector("Conv2d = kaiming_normal_(mode='fan_out')", "=") == (
        "Conv2d",
        "kaiming_normal_(mode='fan_out')",
    )
    assert split_selector("layer1.*: frozen", ":") == ("layer1.*", "frozen")


@pytest.mark.parametrize("text", ["Conv2d", "=constant_(0)", "Conv2d= "])
def test_a_selector_without_both_sides_is_refused(text):
    with pytest.raises(UsageError, match="expected SELECTOR=VALUE"):
        split_selector(text, "=")
