"""`ptkit cache`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptkit.commands.output import Printer
from ptkit.core.errors import UsageError
from ptkit.core.wording import amount, counted, nearest, table

if TYPE_CHECKING:
    from ptkit.core.data.loading.entries import Entry

EVERYTHING = "all"


def cache(
    printer: Printer,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Entries; all if none is named.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the named entries; NAME may be 'all'.")
    ] = False,
) -> None:
    """List the decoded images and features that training keeps on disk, or remove them.

    They are in $PTKIT_CACHE, $XDG_CACHE_HOME/ptkit or ~/.cache/ptkit, an entry for each list and
    its first transforms. A changed image makes a new entry; the old one stays until it is removed.
    Entries that are left over from a process that was killed are listed too; what a running process
    is making stays.

    Example: ptkit cache --remove all
    """
    from ptkit.core.data.loading.entries import (
        BUILDING,
        cache_folder,
        list_entries,
        remove_entry,
        shown,
    )

    if remove and not names:
        raise UsageError("--remove needs entry names, or all: ptkit cache --remove all")
    entries = _chosen(list_entries(), names or [EVERYTHING])
    removed = [entry for entry in entries if remove and entry.state != BUILDING]
    left = [entry for entry in entries if entry not in removed]
    if remove and (busy := [entry.name for entry in left if entry.name in (names or ())]):
        raise UsageError(
            f"{busy[0]} is being built by a running process: remove it when that process has ended"
        )
    for entry in removed:
        remove_entry(entry)
    if left:
        printer.say(_entry_table(left))
    total = amount(sum(entry.nbytes for entry in removed or left))
    place = f"{'removed from' if removed else 'in'} {shown(cache_folder())}"
    printer.say(f"{counted(len(removed or left), 'entry', 'entries')}, {total}, {place}")
    printer.result(
        {
            "folder": str(cache_folder()),
            "entries": [_as_json(entry) for entry in left],
            "removed": [entry.name for entry in removed],
        }
    )


def _chosen(entries: "list[Entry]", names: list[str]) -> "list[Entry]":
    if EVERYTHING in names:
        return entries
    known = {entry.name: entry for entry in entries}
    for name in names:
        if name not in known:
            raise UsageError(f"no entry {name!r}{nearest(name, known)}; `ptkit cache` lists them")
    return [known[name] for name in dict.fromkeys(names)]


def _entry_table(entries: "list[Entry]") -> str:
    header = ["entry", "images", "size", "bytes", "made", "state"]
    rows: list[list[Any]] = []
    for entry in entries:
        sides = "×".join(map(str, entry.facts.get("size") or ())) or entry.facts.get("kind", "own")
        # The time without its zone.
        made = entry.facts.get("made", "?").replace("T", " ")[:16]
        num_images = entry.facts.get("num_images", "?")
        rows.append([entry.name, num_images, sides, amount(entry.nbytes), made, entry.state])
    # Not a column of the table, which puts all but the first to the right.
    lists = ["list", *(entry.facts.get("list", "") for entry in entries)]
    lines = zip(table(header, rows).split("\n"), lists, strict=True)
    return "\n".join(f"{line}  {name}".rstrip() for line, name in lines)


def _as_json(entry: "Entry") -> dict[str, Any]:
    keys = ("kind", "list", "num_images", "size", "calls", "made", "versions")
    facts = {key: entry.facts.get(key) for key in keys}
    return {"name": entry.name, "state": entry.state, "bytes": entry.nbytes, **facts}
