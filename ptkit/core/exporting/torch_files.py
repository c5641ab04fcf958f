"""Exported files that PyTorch reads: torch.export, TorchScript, and weights as safetensors."""

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ptkit.core.exporting.answering import Answering, Given, Interface, Run, several
from ptkit.core.exporting.metadata import FILE, Description
from ptkit.core.exporting.quiet import quietly


def write_torch_export(
    path: Path, module: Answering, interface: Interface, description: Description
) -> None:
    """Write a graph that torch.export.load reads."""
    with quietly(), torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(
            module,
            (interface.example,),
            dynamic_shapes={"images": interface.dimensions},
            strict=False,
        )
        # Those of branches and loops are graphs of their own.
        graphs = (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule))
        for node in (node for graph in graphs for node in graph.graph.nodes):
            # The files of this machine are nobody's business.
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path, extra_files={FILE: description.as_json()})


def write_torchscript(
    path: Path, module: Answering, interface: Interface, description: Description
) -> None:
    """Write a graph that torch.jit.load reads, also from C++."""
    with quietly(), torch.no_grad():
        traced = traced_of(module, interface)
        whole = io.BytesIO()
        torch.jit.save(traced, whole, _extra_files={FILE: description.as_json()})
    _write_without_sources(path, whole)


def _write_without_sources(path: Path, archive: io.BytesIO) -> None:
    """Write an archive of TorchScript without where in which files of this machine each step comes
    from.
    """
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    names = reader.get_all_records()
    # Of the operators: by it a reader knows what their arguments mean. Older ones are not in .data.
    version = ".data/version" if ".data/version" in names else "version"
    num_version = int(reader.get_record(version))
    with path.open("wb") as file:
        writer = torch._C.PyTorchFileWriter(file)
        writer.set_min_version(num_version)
        for name in names:
            # The writer adds the version and an id of its own.
            if name.endswith(".debug_pkl") or name == "version" or name.startswith(".data/"):
                continue
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
        writer.write_end_of_file()


def traced_of(module: Answering, interface: Interface) -> torch.jit.ScriptModule:
    """Return the module as TorchScript: the model traced, what stands before it compiled."""
    traced: torch.jit.ScriptModule = torch.jit.trace(
        _compiled(module), interface.example, check_trace=False
    )
    return traced


def _compiled(module: Answering) -> Answering:
    """Return the module with its preprocessing compiled: tracing would settle sizes for good."""
    if module.preprocessing is None:
        return module
    before = torch.jit.script(module.preprocessing)
    compiled = Answering(
        module.model, module.read, preprocessing=before, strangers=module.strangers
    )
    compiled.is_half = module.is_half
    return compiled.eval()


def write_safetensors(path: Path, model: nn.Module, description: Description) -> None:
    """Write the weights alone, under the names of the model's state dict."""
    # Not save_file, whose files are for the owner alone.
    path.write_bytes(safetensors_of(model.state_dict(), description.properties()))


def safetensors_of(
    state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return weights as the contents of a .safetensors file."""
    from safetensors.torch import save

    # Tied weights share memory, which such a file cannot; each name gets its own.
    own = {name: t.detach().clone().contiguous() for name, t in state_dict.items()}
    return save(own, {"format": "pt", **(metadata or {})})


def runner_of_torch_export(path: Path) -> Run:
    """Return what runs a file of torch.export."""
    with quietly():
        return _runner(torch.export.load(path).module())


def runner_of_torchscript(path: Path) -> Run:
    """Return what runs a file of TorchScript."""
    with quietly():
        return _runner(torch.jit.load(path))


def runner_of_weights(path: Path, module: Answering) -> Run:
    """Return what runs the weights in a file, in the model that they are of."""
    from safetensors.torch import load_file

    model = copy.deepcopy(module.model)
    model.load_state_dict(load_file(path), strict=True)
    return _runner(Answering(model.float(), module.read))


def _runner(module: Callable[[Tensor], Given]) -> Run:
    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        # Not inference_mode: the graph of torch.export would refuse its tensors.
        with quietly(), torch.no_grad():
            return tuple(found.numpy() for found in several(module(torch.from_numpy(images))))

    return run
