"""Walk the calls of the package as a reader does, without running them, and print the files passed.

    python scripts/walk.py                      # every walk below, the climbs, the imports
    python scripts/walk.py --root OTHER/CLONE   # the same of another version
    python scripts/walk.py train loss           # some of them, file by file
    python scripts/walk.py --from session.run --to save_checkpoint

A walk has a start and stations. From all that was passed so far the shortest chain of calls leads
to the next station, and the files on it count. Calls are found by names, imports, annotations, and
methods that only one class has; a function that is handed on, or is in a table that a function
reads, counts as called. "In reach" is every file that some chain of calls from the start enters.
"""

import argparse
import ast
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Stations: what a run on the CPU with the default settings enters. Each is the end of a qualified
# name, which must be unique; after | the name in older versions. The first is the start; a + makes
# a station another start.
WALKS = {
    "train": """train.train +cli.main settings_of|config_layers.gather|layers.gather
        config.resolve|config_layers.resolve|layers.resolve
        train_and_print|api.train|runs.train TrainingScreen session.run stop_on_signals prepare
        check_log choose_device prepare_data read_lists numbered_lines|_numbered_lines label_table
        load_source|load_list Pipeline check_order steps_of divide kernel_of|spec_of decode_all
        read_ahead images.decode Batches build_loss losses.RULES facts_of
        _prepare_model|prepare_model build_model build_optimizer plan_parameters calls.parse
        Catalogue.resolve build_schedule new_run_folder|new_run open_events|open_recorders
        session._start|new_run session._train fit train_epoch Batches.epoch keyed.epoch_order
        permutation InMemory.batches Pipeline.together|Pipeline.apply_to_batch
        Pipeline.finish|Pipeline.finish_on_device outputs_of|Batch.outputs loop.make_step
        Loss.forward Totals.add loop.evaluate|evaluating.evaluate session._record row_of|_row_of
        write_metrics|_write_metrics checkpoint_of environment|_environment save_checkpoint Events
        last_checkpoint write_atomically""",
    "image": """prepare_data +loop.fit numbered_lines|_numbered_lines _read_rows label_table
        load_source|load_list decode_all read_ahead images.decode
        Pipeline.before|Pipeline.apply_prefix Kept Pipeline steps_of divide kernel_of|spec_of
        Batches.epoch keyed.epoch_order permutation Batches._plans|Batches._selections
        InMemory.batches Pipeline.together|Pipeline.apply_to_batch
        Pipeline.finish|Pipeline.finish_on_device loop.make_step outputs_of|Batch.outputs
        Loss.forward""",
    "confmat": """confmat.confmat load_subject read_weights read_weight_file build_model
        calls.parse Pipeline.parse read_task read_matching_list numbered_lines|_numbered_lines
        evaluate_list|evaluation.evaluate predict_list outputs_of|Batch.outputs Batches.epoch
        InMemory.batches images.decode most_confused worst_mistakes draw_evaluation
        confusion_figure contact_sheet PictureFolder write_atomically""",
    "loss": """prepare +loop.fit calls.parse build_loss Catalogue.resolve LOSSES facts_of
        losses.RULES _triplets loop.make_step outputs_of|Batch.outputs Loss.forward
        loop.evaluate|evaluating.evaluate
        KeptScore|EmbeddingScore check_metric""",
}
SETTINGS = ("session.run", "config.Settings|settings.Settings")

# Methods of the standard library's and torch's own objects: their names say nothing about ours.
FOREIGN = {name for kind in (str, bytes, list, dict, set, int, Path) for name in dir(kind)}
FOREIGN |= {"backward", "close", "detach", "eval", "flatten", "item", "load_state_dict", "numpy"}
FOREIGN |= {"parameters", "result", "shutdown", "size", "start", "state_dict", "step", "submit"}
FOREIGN |= {"to", "train", "zero_grad"}


@dataclass
class Package:
    """What is defined where. Names are qualified, as `ptkit.core.files.write_atomically`."""

    trees: dict[str, ast.Module] = field(default_factory=dict)
    # Functions, methods, classes, and module variables that hold tables.
    nodes: dict[str, ast.AST] = field(default_factory=dict)
    # Of each module, what a name in it means.
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    methods: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    subclasses: dict[str, list[str]] = field(default_factory=dict)
    edges: dict[str, list[str]] = field(default_factory=dict)

    def module_of(self, name: str) -> str:
        while name not in self.trees:
            name = name.rpartition(".")[0]
        return name

    def find(self, ending: str) -> str | None:
        """Return the one node whose name ends so, or one of the alternatives after |."""
        for choice in ending.split("|"):
            found = [name for name in self.nodes if f".{name}".endswith(f".{choice}")]
            if len(found) > 1:
                raise SystemExit(f"{choice} is ambiguous: {', '.join(found)}")
            if found:
                return found[0]
        return None

    def resolve(self, module: str, node: ast.AST) -> str | None:
        """Return the node, or the module, that a dotted name in a module means."""
        if isinstance(node, ast.Name):
            name = self.names[module].get(node.id)
        elif isinstance(node, ast.Attribute):
            base = self.resolve(module, node.value)
            name = f"{base}.{node.attr}" if base else None
        else:
            return None
        # A name may be imported from a module that imported it.
        while name and name not in self.nodes and name not in self.trees:
            above, _, last = name.rpartition(".")
            again = self.names.get(above, {}).get(last)
            name = again if again != name else None
        return name

    def annotated(self, module: str, note: ast.AST | None) -> str | None:
        """Return the class of the package that an annotation names."""
        match note:
            case None:
                return None
            case ast.BinOp(left=left, right=right):
                return self.annotated(module, left) or self.annotated(module, right)
            case ast.Constant(value=str(text)):
                return self.annotated(module, ast.parse(text, mode="eval").body)
        found = self.resolve(module, note)
        return found if found in self.classes else None

    def lineage(self, owner: str | None) -> Iterator[tuple[str, ast.ClassDef]]:
        """Yield a class and those that it inherits from."""
        if owner in self.classes:
            yield owner, self.classes[owner]
            for base in self.classes[owner].bases:
                yield from self.lineage(self.resolve(self.module_of(owner), base))

    def member(self, owner: str | None, name: str) -> str | None:
        """Return a method of a class or of those that it inherits from."""
        places = (f"{kind}.{name}" for kind, _ in self.lineage(owner))
        return next((place for place in places if place in self.nodes), None)

    def member_type(self, owner: str, attribute: str) -> str | None:
        """Return the class of a field or property."""
        for kind, node in self.lineage(owner):
            for item in node.body:
                match item:
                    case ast.AnnAssign(target=ast.Name(id=name)) if name == attribute:
                        return self.annotated(self.module_of(kind), item.annotation)
                    case ast.FunctionDef(name=name) if name == attribute:
                        return self.returned(f"{kind}.{name}")
        return None

    def returned(self, function: str) -> str | None:
        """Return the class that a function is annotated to return."""
        note = getattr(self.nodes[function], "returns", None)
        if isinstance(note, ast.Name) and note.id == "Self":
            return function.rpartition(".")[0]
        return self.annotated(self.module_of(function), note)

    def calls(self, name: str) -> list[str]:
        """Return what a node calls: of a class its making; of a method also what overrides it."""
        if name not in self.edges:
            if name in self.classes:
                made = ("__init__", "__post_init__")
                found = [method for key in made if (method := self.member(name, key))]
            else:
                found = [target for target, _ in Reader(self, name).in_order() if target]
            owner, _, method = name.rpartition(".")
            below = (f"{child}.{method}" for child in self.subclasses.get(owner, ()))
            found += [place for place in below if place in self.nodes]
            self.edges[name] = list(dict.fromkeys(found))
        return self.edges[name]


def read_package(root: Path, name: str = "ptkit") -> Package:
    """Parse every module under root/name."""
    package = Package()
    for file in sorted((root / name).rglob("*.py")):
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        package.trees[module] = ast.parse(file.read_text(encoding="utf-8"))
    for module, tree in package.trees.items():
        names = package.names.setdefault(module, {})
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Import):
                names |= {a.asname: a.name for a in node.names if a.asname}
        _define(package, module, tree.body, names)
    for name, node in package.classes.items():
        for base in node.bases:
            parent = package.resolve(package.module_of(name), base)
            package.subclasses.setdefault(parent or "", []).append(name)
    return package


def _define(package: Package, scope: str, body: Iterable[ast.stmt], names: dict[str, str]) -> None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{scope}.{node.name}"
            package.nodes[name] = node
            names[node.name] = name
            if isinstance(node, ast.ClassDef):
                package.classes[name] = node
                _define(package, name, node.body, {})
            if scope not in package.trees:
                package.methods.setdefault(node.name, []).append(name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and scope in package.trees and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    package.nodes[f"{scope}.{target.id}"] = node.value
                    names[target.id] = f"{scope}.{target.id}"
        elif isinstance(node, ast.If | ast.Try):
            _define(package, scope, node.body, names)


class Reader:
    """Read one function: the types of its names, and what it calls."""

    def __init__(self, package: Package, name: str) -> None:
        self.package, self.module = package, package.module_of(name)
        self.node = package.nodes[name]
        self.types: dict[str, str | None] = {}
        owner = name.rpartition(".")[0]
        if owner in package.nodes:
            self.types = {"self": owner, "cls": owner}
        for node in sorted(ast.walk(self.node), key=lambda n: getattr(n, "lineno", 0)):
            match node:
                case ast.arg(arg=to, annotation=note):
                    self.types.setdefault(to, package.annotated(self.module, note))
                case ast.Assign(targets=[ast.Name(id=to)], value=value):
                    self.types[to] = self.type_of(value) or self.types.get(to)
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                    for name, value in zip(names, values, strict=False):
                        if isinstance(name, ast.Name):
                            self.types[name.id] = self.type_of(value) or self.types.get(name.id)
                case ast.AnnAssign(target=ast.Name(id=to)):
                    self.types[to] = package.annotated(self.module, node.annotation)
                case ast.NamedExpr(target=ast.Name(id=to), value=value):
                    self.types[to] = self.type_of(value)
                case ast.withitem(context_expr=value, optional_vars=ast.Name(id=to)):
                    self.types[to] = self.type_of(value)

    def type_of(self, node: ast.AST) -> str | None:
        match node:
            case ast.Name(id=name):
                return self.types.get(name)
            case ast.Attribute(value=value, attr=attribute):
                owner = self.type_of(value)
                return self.package.member_type(owner, attribute) if owner else None
            case ast.Call(func=ast.Name(id="replace"), args=[first, *_]):
                return self.type_of(first)
            case ast.IfExp(body=body, orelse=other):
                return self.type_of(body) or self.type_of(other)
            case ast.Call():
                target = self.target(node.func)
                if isinstance(self.package.nodes.get(target or ""), ast.FunctionDef):
                    return self.package.returned(target or "")
                return target if target in self.package.classes else None
        return None

    def target(self, called: ast.AST) -> str | None:
        """Return the node that is called."""
        member = self.package.member
        if isinstance(called, ast.Name) and called.id in self.types:
            owner = self.types[called.id]
            return member(owner, "__call__") or member(owner, "forward")
        found = self.package.resolve(self.module, called)
        if found in self.package.nodes or not isinstance(called, ast.Attribute):
            return found
        if owner := self.type_of(called.value):
            return member(owner, called.attr)
        only = self.package.methods.get(called.attr, [])
        return only[0] if len(only) == 1 and called.attr not in FOREIGN else None

    def in_order(self) -> Iterator[tuple[str | None, ast.expr]]:
        """Yield names and calls in textual order, inner ones first, with what they enter."""
        nodes = list(ast.walk(self.node))
        inside = [n for n in nodes if isinstance(n, ast.Call | ast.Name | ast.Attribute)]
        inside.sort(key=lambda n: (n.end_lineno, n.end_col_offset, isinstance(n, ast.Call)))
        skipped = {id(n.func) for n in inside if isinstance(n, ast.Call)}
        notes = [getattr(n, key, None) for n in nodes for key in ("annotation", "returns")]
        skipped |= {id(part) for note in notes if note for part in ast.walk(note)}
        skipped |= {id(n) for n in inside if isinstance(n, ast.Name) and n.id in self.types}
        for node in inside:
            found = None
            if isinstance(node, ast.Call):
                found = self.target(node.func)
            elif id(node) not in skipped:
                found = self.handed(node)
            yield found if found in self.package.nodes else None, node

    def handed(self, node: ast.expr) -> str | None:
        """Return the function, method, property or table that is named without being called."""
        found = self.package.resolve(self.module, node)
        owner = self.type_of(node.value) if isinstance(node, ast.Attribute) and not found else None
        found = self.package.member(owner, node.attr) if owner else found
        # A class is made where it is called, or by what looks it up in a table.
        is_made = found in self.package.classes and isinstance(self.node, ast.FunctionDef)
        return None if is_made else found


def spread(starts: Iterable[str], onwards: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """Return all that can be reached, nearest first, each with what it was reached from."""
    came = dict.fromkeys(starts, "")
    waiting = list(came)
    for name in waiting:
        new = [target for target in onwards(name) if target not in came]
        came |= dict.fromkeys(new, name)
        waiting += new
    return came


def chain(package: Package, passed: Iterable[str], goal: str) -> list[str]:
    """Return the shortest chain of calls from anything passed to the goal, without its start."""
    came = spread(passed, package.calls)
    steps = []
    while came.get(goal):
        steps.append(goal)
        goal = came[goal]
    return steps[::-1]


def imports(package: Package, module: str) -> set[str]:
    """Return the modules of the package that one imports, also inside functions."""
    names = {f"{node.module}.{alias.name}" for node in ast.walk(package.trees[module])
             if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
    found = {name if name in package.trees else name.rpartition(".")[0] for name in names}
    return (found & package.trees.keys()) - {module}


def closure(package: Package, module: str) -> set[str]:
    """Return the modules that one imports, directly or not, also inside functions."""
    return set(spread([module], lambda name: imports(package, name)))


def heights(package: Package) -> dict[str, int]:
    """Return the layer of each module: how long the longest chain of imports below it is."""
    below = {module: imports(package, module) for module in package.trees}
    found = dict.fromkeys(below, 0)
    # Each round lifts a module above those that it imports; circles stop with the rounds.
    for _ in range(len(below) // 2):
        found = {m: max((found[n] + 1 for n in names), default=0) for m, names in below.items()}
    return found


def handed_on(package: Package, start: str, settings: str) -> list[str]:
    """Follow an object, and the parts that its fields hold, from call to call, each function once.

    Return the modules that use one of them, in the order in which a reader passes.
    """
    (_, node), *_ = package.lineage(settings)
    fields = [ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)]
    kinds = {settings, *(package.member_type(settings, name) for name in fields)} - {None}
    seen, path = {start}, [package.module_of(start)]

    def follow(name: str) -> None:
        inside = ()
        if name in package.classes:
            inside = ((made, None) for made in package.calls(name))
        elif isinstance(package.nodes[name], ast.FunctionDef):
            reader = Reader(package, name)
            inside = reader.in_order()
        for place, used in inside:
            if used and reader.type_of(used) in kinds and path[-1] != reader.module:
                path.append(reader.module)
            if place and place not in seen:
                seen.add(place)
                follow(place)

    follow(start)
    return path


def walk(package: Package, stations: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the files of a walk with what is passed in each, and the stations not reached."""
    start, *others = stations.split()
    names = {text: package.find(text.removeprefix("+")) for text in (start, *others)}
    passed = [name for text, name in names.items() if name and text.startswith((start, "+"))]
    for text in others:
        passed += [name for name in chain(package, passed, names[text] or "") if name not in passed]
    files: dict[str, list[str]] = {}
    for name in passed:
        module = package.module_of(name)
        files.setdefault(module, []).append(name.removeprefix(f"{module}."))
    return files, [text for text, name in names.items() if name not in passed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("walks", nargs="*", help=f"{', '.join(WALKS)}; all, in short, if left out")
    parser.add_argument("--root", type=Path, default=ROOT, help="a clone")
    parser.add_argument("--from", dest="start", help="the start of a walk of your own")
    parser.add_argument("--to", nargs="+", default=[], help="its stations")
    asked = parser.parse_args()
    package = read_package(asked.root)
    own = {"own": " ".join((asked.start, *asked.to))} if asked.start else {}
    chosen = own or {name: WALKS[name] for name in asked.walks or WALKS}
    for name, stations in chosen.items():
        files, missing = walk(package, stations)
        start = package.find(stations.split()[0]) or ""
        in_reach = len({package.module_of(node) for node in spread([start], package.calls)})
        print(f"{name}: {len(files)} files, {in_reach} in reach")
        for module, names in files.items() if own or asked.walks else ():
            print(f"  {module.replace('.', '/')}.py: {', '.join(names)}")
        print(*(f"  not found: {text}" for text in missing), sep="\n", end="\n" if missing else "")
    if not asked.walks and not own:
        path = handed_on(package, *(package.find(name) or "" for name in SETTINGS))
        height = heights(package)
        climbs = sum(height[after] > height[before] for before, after in itertools.pairwise(path))
        print(f"settings: in {len(set(path))} files, climbs {climbs} times")
        entry = package.module_of(package.find("train.train") or "")
        print(f"imports of {entry}: {len(closure(package, entry))} modules")


if __name__ == "__main__":
    main()
