"""Who may import whom: the order in which the parts of gptwo stand upon each other, read from their imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import gptwo

PACKAGE = Path(gptwo.__file__).parent

# From the top: each part may import what stands on the lines below it. Parts of one line do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("training", "bench", "batch", "course"),
    ("server", "evaluation"),
    ("language_model", "inspection"),
    ("loading", "scoring", "conversion", "shared_engine"),
    ("engine",),
    ("sampling",),
    ("decoder", "export", "unencodable"),
    ("checkpoint", "model", "tokenizer"),
    ("tokenizer_reading", "tokenizer_training", "text_encoder"),
    ("tokenizer_kinds", "tokenizer_table", "incremental_decoder", "vocabulary_files", "gguf_file", "padding"),
    ("config",),
    ("options", "files", "cpus"),
    ("errors", "version", "embedded", "_native"),
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

# PyTorch is imported with these modules; elsewhere only inside the functions that cannot do without it.
NEEDS_TORCH = {
    "model",
    "decoder.reference",
    "inspection.hooks",
    "inspection.inspector",
    "export.coreml",
    "export.torch_program",
    "training.clipping",
    "training.dropout",
    "training.fast_blocks",
    "training.gelu",
    "training.lora",
    "training.loss",
    "training.model_files",
    "training.muon",
    "training.optimizer",
    "training.parallel",
    "training.peak",
    "training.run_checkpoint",
    "training.run_state",
    "training.sample",
    "training.sharded_state",
    "training.start",
    "training.step",
    "training.trainer",
    "training.validation",
    "training.world",
    "bench.peers.worker.transformers_engine",
    "course.answers",
    "course.attention",
    "course.block",
    "course.cache",
    "course.forward",
    "course.judging",
    "course.loading",
    "course.model",
    "course.modules",
    "course.penalties",
    "course.quantization",
    "course.roles",
    "course.sampling",
    "course.speed",
    "course.tokenizer",
    "course.toy",
    "course.training",
}
# The other engines that `gptwo bench` compares with, each imported in a process of its own that has it.
PEERS = "bench.peers.worker."
NEEDS_TORCH_IN_FUNCTIONS = {
    "checkpoint.torch_pickle",
    "cli.train",
    "cli.train_display",
    "course",
    "training.tensorboard",
}

# What only some of the installations have.
EXTRAS = {"torch", "transformers", "tiktoken", "fastapi", "uvicorn", "ray", "onnx", "matplotlib", "llguidance"} | {
    "coremltools",
    "onnxruntime",
    "pyarrow",
    "starlette",
    "pydantic",
    "pydantic_core",
    "prometheus_client",
    "lm_eval",
    "gguf",
}

# A module that only lm-eval's users import.
NEEDS_LM_EVAL = {"evaluation.harness"}

# The modules of the server that need none of it; the others are imported by `gptwo serve` when it starts.
WITHOUT_EXTRAS = {"server"} | {
    f"server.{name}" for name in ("settings", "logprobs", "runner", "engine_thread", "observer", "ticket", "metrics")
}


class Import(NamedTuple):
    """One import statement: the module it stands in, what it imports, and where."""

    module: str
    imported: str
    line: int
    at_import: bool
    """Whether it runs when the module is imported."""
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imported}"


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of gptwo by its name within the package; a package by its own name, gptwo itself by ""."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())
COMPILED = "_native"  # the core, which has no source here


def imports_of(module: str, path: Path) -> Iterator[Import]:
    def visit(node: ast.AST, at_import: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, at_import, typing_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} has a relative import; write it out"
            for alias in node.names:
                # `from gptwo.checkpoint import hub` imports a module, `… import resolve` a name of one.
                whole = f"{node.module}.{alias.name}"
                is_module = whole.startswith("gptwo.") and whole.removeprefix("gptwo.") in {*MODULES, COMPILED}
                yield Import(module, whole if is_module else str(node.module), node.lineno, at_import, typing_only)
        for child in ast.iter_child_nodes(node):
            in_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and child in node.body
            yield from visit(child, at_import and not in_function and not guarded, typing_only or guarded)

    return visit(ast.parse(path.read_text(encoding="utf-8")), True, False)


IMPORTS = [found for module, path in MODULES.items() for found in imports_of(module, path)]
OWN = [found for found in IMPORTS if found.imported.partition(".")[0] == "gptwo"]


def part_of(module: str) -> str:
    """The part that a module belongs to: "engine" for "engine.text" and for "gptwo.engine.text"."""
    return module.removeprefix("gptwo").lstrip(".").partition(".")[0]


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in MODULES} - {""} <= RANKS.keys()


def test_the_imports_are_found() -> None:
    found = {(one.module, one.imported, one.at_import, one.typing_only) for one in IMPORTS}
    assert ("engine.engine", "gptwo.sampling", True, False) in found
    assert ("decoder", "gptwo.decoder.reference", False, False) in found  # inside a function
    assert ("cli.loading", "gptwo.language_model", False, True) in found  # for the type checker
    assert ("checkpoint", "gptwo.checkpoint.hub", False, False) in found  # a module by `from … import`
    assert ("checkpoint.torch_pickle", "torch", False, False) in found


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_a_module_imports_only_what_stands_below_it(module: str) -> None:
    own_part = part_of(module)
    wrong = [
        str(one)
        for one in OWN
        if one.module == module
        and part_of(one.imported) not in (own_part, "")
        and RANKS[part_of(one.imported)] <= RANKS[own_part]
    ]
    assert wrong == []


def test_only_the_top_imports_the_package_as_a_whole() -> None:
    # `import gptwo` gives all of the public API, which stands above everything but the command line.
    whole = {one.module for one in OWN if one.imported == "gptwo"}
    assert {part_of(module) for module in whole} <= {
        "cli",
        "training",
        "bench",
        "batch",
        "course",
        "server",
        "evaluation",
    }


def test_the_package_itself_imports_nothing_when_it_is_imported() -> None:
    eager = {one.imported for one in IMPORTS if one.module == "" and one.at_import}
    assert eager == {"__future__", "importlib", "typing", "gptwo.version"}


def test_pytorch_is_imported_only_where_it_is_needed() -> None:
    torch = [one for one in IMPORTS if part_of(one.imported) == "torch" and not one.typing_only]
    assert {one.module for one in torch if one.at_import} <= NEEDS_TORCH
    assert {one.module for one in torch if not one.at_import} <= NEEDS_TORCH | NEEDS_TORCH_IN_FUNCTIONS


def test_what_needs_pytorch_is_imported_by_others_of_its_kind_or_in_functions() -> None:
    wrong = [
        str(one)
        for one in OWN
        if one.imported.removeprefix("gptwo.") in NEEDS_TORCH and one.at_import and one.module not in NEEDS_TORCH
    ]
    assert wrong == []


def test_what_is_installed_with_an_extra_is_imported_in_functions_only() -> None:
    eager = [
        one
        for one in IMPORTS
        if one.at_import
        and part_of(one.imported) in EXTRAS - {"torch"}
        and not one.module.startswith(PEERS)
        and one.module not in NEEDS_LM_EVAL
        and (part_of(one.module) != "server" or one.module in WITHOUT_EXTRAS)
    ]
    assert eager == []


def test_the_rest_of_gptwo_reaches_the_server_without_its_extra_or_in_functions() -> None:
    server = [one for one in OWN if part_of(one.imported) == "server" and part_of(one.module) != "server"]
    eager = {one.imported.removeprefix("gptwo.") for one in server if one.at_import}
    assert eager <= WITHOUT_EXTRAS


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import gptwo", {"numpy", "torch", "tokenizers", "huggingface_hub", "click", "rich"}),
        ("import gptwo; gptwo.SamplingParams(); gptwo.GPTConfig()", {"torch", "tokenizers", "huggingface_hub", "rich"}),
        ("from gptwo.tokenizer import Tokenizer", {"torch", "huggingface_hub", "click", "rich"}),
        ("import gptwo; gptwo.load, gptwo.LanguageModel, gptwo.Completion", {"torch", "huggingface_hub", "rich"}),
        ("import gptwo.cli.commands", {"torch", "tokenizers", "huggingface_hub", "numpy"}),
        ("import gptwo.cli.serve", {"fastapi", "starlette", "uvicorn", "pydantic", "torch", "tokenizers", "numpy"}),
    ],
)
def test_an_import_brings_no_more_than_it_must(statement: str, absent: set[str]) -> None:
    code = f"import sys\n{statement}\nprint(*sorted({absent!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
