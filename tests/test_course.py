"""The page that follows the course: every chapter in two languages, its command and its picture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("course.md", "course.zh.md")}
# Of the course: what the page calls each of its chapters.
CHAPTERS = {
    "数据集划分": "Splitting a data set",
    "读取图片": "Reading images",
    "transforms 的各种方法": "The transforms",
    "计算 Normalize 所用均值和方差": "Mean and standard deviation for Normalize",
    "模型定义": "Defining a model",
    "权值初始化流程": "Initial weights: how",
    "权值初始化的十种方法": "Initial weights: the ten methods",
    "模型加载与保存 Finetune": "Saving, loading, finetuning",
    "不同层设置不同的学习率": "A rate for each layer",
    "十七个损失函数": "The seventeen losses",
    "优化器与参数组": "Optimizers and parameter groups",
    "十个优化器": "The ten optimizers",
    "六个学习率调整方法": "The six schedules",
    "TensorBoard": "TensorBoard",
    "卷积核可视化": "Kernels",
    "特征图可视化": "Feature maps",
    "梯度、权值与偏置的监控": "Weights, gradients and biases while training",
    "文末思考": "The three closing thoughts",
    "混淆矩阵及其可视化": "The confusion matrix",
}


def lines_of(page: str, pattern: str) -> list[str]:
    return re.findall(pattern, PAGES[page], re.MULTILINE)


def test_every_chapter_of_the_course_is_on_both_pages_in_its_order():
    assert lines_of("course.md", r"^### (.+)$") == list(CHAPTERS.values())
    assert lines_of("course.zh.md", r"^### (.+)$") == list(CHAPTERS)


@pytest.mark.parametrize(
    "pattern",
    [r"^\$ (.+)$", r"^<!-- picture: (.+) -->$", r"^!\[.+\]\((.+)\)$"],
    ids=["commands", "sources", "pictures"],
)
def test_both_languages_show_the_same(pattern):
    english, chinese = (lines_of(page, pattern) for page in PAGES)
    assert english == chinese
    assert english


def test_every_chapter_has_its_command_or_picture():
    chapters = re.split(r"^### ", PAGES["course.md"], flags=re.MULTILINE)[1:]
    assert [text for text in chapters if "$ ptkit" not in text and "![" not in text] == []


@pytest.mark.slow
def test_the_commands_run_and_make_every_picture(tmp_path):
    script = DOCS.parent / "scripts" / "make_course.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    pictures = {Path(name).name for name in lines_of("course.md", r"^!\[.+\]\((.+)\)$")}
    assert {path.name for path in tmp_path.iterdir()} == pictures
