"""The rooms and which way they look (DESIGN.md): imports go up the list, one way within a layer, and cost nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "inkwash"

# A room is a module or a package directly below inkwash. Each layer may import itself and the layers above it.
LAYERS = {
    "core": ["types", "noise", "kinds", "paths", "ode", "targets", "times", "grids", "model", "guidance", "drive"],
    "methods": ["losses", "samplers", "bound", "likelihood", "fewstep", "objectives", "edit"],
    "parts": ["nets", "codec", "data", "optim", "device", "ranks", "features", "text", "conditions"],
    "application": [
        "checkpoint",
        "modelfolder",
        "codecfolder",
        "sampling",
        "earlier",
        "asking",
        "samples",
        "pipeline",
        "editing",
        "pictures",
        "evaluation",
        "gallery",
        "compare",
        "teaching",
        "training",
        "distilling",
        "report",
        "recipes",
        "autoencoding",
        "exchange",
    ],
    "faces": ["cli"],
}
FREE = ["__init__", "__main__", "_version"]  # the public names, imported lazily, and the version: anyone's

LEVEL = {room: level for level, rooms in enumerate(LAYERS.values()) for room in rooms}
FILES = sorted(SRC.rglob("*.py"))


def name_of(file: Path) -> str:
    """inkwash.nets.unet for nets/unet.py, inkwash.nets for nets/__init__.py."""
    parts = file.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(file: Path, *, typing_too: bool) -> Iterator[str]:
    """The modules of inkwash a file imports, anywhere in it; those under TYPE_CHECKING where asked for."""
    tree = ast.parse(file.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "inkwash")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports out in full"
            if (node.module or "").split(".")[0] == "inkwash":
                for alias in node.names:  # `from inkwash.pictures import text` is the module text, if there is one
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in MODULES else str(node.module)


def test_every_room_has_its_layer() -> None:
    rooms = {room_of(module) for module in MODULES} - set(FREE)
    unplaced = rooms - LEVEL.keys()
    assert not unplaced, f"{sorted(unplaced)}: add the room to LAYERS, and to the table in DESIGN.md"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_up_the_layers(module: str) -> None:
    room = room_of(module)
    if room in FREE:
        return
    for imported in imports(MODULES[module], typing_too=True):
        other = room_of(imported)
        assert other in FREE or LEVEL[other] <= LEVEL[room], f"{module} imports {imported}, from a layer below its own"


def test_files_import_one_another_in_one_direction() -> None:
    files = {m: set(imports(f, typing_too=False)) - {m} for m, f in MODULES.items() if m != "inkwash"}
    rooms: dict[str, set[str]] = {}
    for module, imported in files.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(i) for i in imported} - {room, *FREE})
    for graph in (files, rooms):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", ["inkwash", "inkwash.cli"])
def test_importing_is_cheap(module: str) -> None:
    """A fresh interpreter that imports it has loaded neither torch nor pydantic, nor anything else that is slow."""
    heavy = ["torch", "pydantic", "numpy", "PIL", "scipy", "diffusers", "safetensors"]
    script = f"import {module}, sys; print(*[m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_public_names_are_where_they_are_said_to_be() -> None:
    import inkwash

    for name in inkwash.__all__:
        assert getattr(inkwash, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Unett'"):
        inkwash.Unett  # noqa: B018
    # What type checkers are told is what is there.
    tree = ast.parse((SRC / "__init__.py").read_text())
    told = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told | {"__version__"} == set(inkwash.__all__)


def test_no_file_has_outgrown_one_idea() -> None:
    long = {str(f.relative_to(SRC)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_cited_equations_exist() -> None:
    """Every "math.md, eq. 7-8" in the source is there."""
    tags = {int(n) for n in re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / "math.md").read_text())}
    assert tags == set(range(1, len(tags) + 1))
    cited = 0
    for file in [*FILES, *(ROOT / "tests").glob("*.py")]:
        for numbers in re.findall(r"math\.md,? (?:eq\. )?([\d, -]*\d)", file.read_text()):
            for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
                cited += 1
                assert set(range(int(first), int(last or first) + 1)) <= tags, f"{file}: {numbers}"
    assert cited > 10
