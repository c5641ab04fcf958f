"""The Typer app: one line per command, and the one place where an error becomes a line and an exit
code.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ptkit import __version__
from ptkit.commands.cache import cache
from ptkit.commands.calibrate import calibrate
from ptkit.commands.check import check
from ptkit.commands.compare import compare
from ptkit.commands.completion import COMPLETE, completed, words_of_bash
from ptkit.commands.confmat import confmat
from ptkit.commands.convert import convert
from ptkit.commands.data import data
from ptkit.commands.diagnose import diagnose
from ptkit.commands.export import export
from ptkit.commands.finetune import finetune
from ptkit.commands.gradcam import gradcam
from ptkit.commands.list import list_parts
from ptkit.commands.normstats import normstats
from ptkit.commands.options import with_printer
from ptkit.commands.output import complain
from ptkit.commands.predict import predict
from ptkit.commands.probe import probe
from ptkit.commands.report import report
from ptkit.commands.split import split
from ptkit.commands.summary import summary
from ptkit.commands.train import train
from ptkit.commands.viz_featuremaps import viz_featuremaps
from ptkit.commands.viz_transforms import viz_transforms
from ptkit.commands.viz_weights import viz_weights
from ptkit.core.errors import PtkitError, StorageError, UsageError
from ptkit.core.ranks import rank_of_environment, refuse_several

# What torchrun may start several times.
_IN_RANKS = ("train", "finetune", "probe", "confmat", "predict")

# What Typer raises of flags that it does not take; where the class is differs among its versions.
_FlagError: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """Prints errors the user can fix as one line; our own bugs keep their traceback. Of several
    processes of one job the first prints help and errors of flags.
    """

    def main(self, *args: Any, **keywords: Any) -> Any:
        if COMPLETE in os.environ:
            return self._complete(*args, **keywords)
        with redirect_stdout(io.StringIO()) if _is_another() else nullcontext():
            return super().main(*args, **keywords)

    def _complete(self, *args: Any, **keywords: Any) -> Any:
        # It takes the texts of help for rich's markup, which eats [DIR], and imports rich for it.
        typer._completion_classes._sanitize_help_text = lambda text: text
        with words_of_bash(os.environ):
            return super().main(*args, **keywords)

    def make_context(self, *args: Any, **keywords: Any) -> Any:
        with _ended_in_a_line(), _said_by_first():
            try:
                return super().make_context(*args, **keywords)
            except OSError as error:
                # Only --install-completion writes here.
                complain(f"cannot install the completion: {error.filename}: {error.strerror}")
                raise typer.Exit(StorageError.exit_code) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found = super().resolve_command(ctx, args)
        if found[0] not in _IN_RANKS:
            refuse_several(str(found[0]))
        return found

    def invoke(self, ctx: Any) -> Any:
        with _ended_in_a_line(), _said_by_first():
            return super().invoke(ctx)


def _is_another() -> bool:
    """Whether another process of the job is the first one."""
    try:
        return not rank_of_environment().is_main
    except PtkitError:
        # Who joins the job says what is wrong with its environment.
        return False


@contextmanager
def _ended_in_a_line() -> Iterator[None]:
    try:
        yield
    except PtkitError as error:
        # Of several processes one says what is wrong.
        if str(error):
            complain(str(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(130) from None
    except (RuntimeError, MemoryError) as error:
        # Typer's own ways out are RuntimeErrors too.
        if isinstance(error, typer.Exit | typer.Abort) or not _is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        complain(
            f"out of memory{f' ({reason})' if reason else ''}: free what other programs hold, or"
            " take a smaller model or smaller images"
        )
        raise typer.Exit(UsageError.exit_code) from None


def _is_out_of_memory(error: Exception) -> bool:
    # Where torch was not needed, only Python or numpy can have said it.
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from ptkit.core.device import is_out_of_memory

    return is_out_of_memory(error)


@contextmanager
def _said_by_first() -> Iterator[None]:
    try:
        yield
    except _FlagError as error:
        if not _is_another():
            raise
        raise typer.Exit(error.exit_code) from None


# Before 0.21.2 Typer escapes the help for rich, with backslashes, though its markup is off.
typer.core.HAS_RICH = False
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
# In the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "data": data,
    "split": split,
    "check": check,
    "normstats": normstats,
    "train": train,
    "finetune": finetune,
    "probe": probe,
    "viz-weights": viz_weights,
    "viz-featuremaps": viz_featuremaps,
    "viz-transforms": viz_transforms,
    "gradcam": gradcam,
    "confmat": confmat,
    "calibrate": calibrate,
    "compare": compare,
    "diagnose": diagnose,
    "report": report,
    "summary": summary,
    "predict": predict,
    "export": export,
    "convert": convert,
    "list": list_parts,
    "cache": cache,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(completed(with_printer(_command)))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"ptkit {__version__}")
        raise typer.Exit


@app.callback()
def ptkit(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """From a folder of images to a trained classifier that you can look into: one command a step.

    Start with: ptkit split data/ && ptkit normstats train.txt && ptkit train && ptkit viz-weights
    ckpt.pkl
    """
