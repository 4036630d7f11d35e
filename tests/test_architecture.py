"""The package is built in layers, of small functions in small files."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vit_lightning"
FILES = sorted(SOURCE.rglob("*.py"))

# From low to high. A part, which is a module or a package, imports from lower layers and from
# itself; never from above, and never from its neighbours.
LAYERS = (
    {"errors"},
    {
        "files",
        "console",
        "hardware",
        "memory",
        "onednn",
        "openmp",
        "overrides",
        "precision",
        "progress",
        "threads",
    },
    {"cli_options", "json_file", "dense", "download", "settings", "waiting"},
    {"experiment", "legacy", "models"},
    {"attention", "figures", "checkpoints", "data", "inference", "machine_limits"},
    {"evaluation", "training", "attention_view", "backend", "factory"},
    {"prediction", "info", "bench", "run_folder", "convert"},
    {"parity", "export"},
    {"assemble"},
    {"assess", "check"},
    {"account", "probe"},
    {"run", "publish"},
    {
        "cli_baseline",
        "cli_bench",
        "cli_check",
        "cli_convert",
        "cli_data",
        "cli_export",
        "cli_push",
        "cli_verify",
        "cli_weights",
    },
    {"cli"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# Parts that are to stay clear of more than their layer says.
MODELS_NEED = {"errors", "models"}
STATE_DICTS_NEED_NO_MODULES = {"models.config", "models.presets", "models.pos_embed"}

# Packages that only these parts import; all others may be imported anywhere.
RESERVED = {
    "lightning": {"data", "training", "assess", "run"},
    "torchmetrics": {"training"},
    "pydantic": {"experiment", "settings"},
    "safetensors": {"checkpoints"},
    "sklearn": {"data", "evaluation", "figures"},
    "matplotlib": {"figures", "attention_view", "training", "run"},
    "tqdm": {"download", "progress", "training"},
    "filelock": {"data", "download"},
    "huggingface_hub": {"checkpoints", "publish"},
    "scipy": {"parity"},
    "PIL": {"attention_view", "check", "data"},
    "torchvision": set(),
    "timm": set(),
    "transformers": set(),
}
WITHOUT_TORCH = (
    "errors",
    "files",
    "console",
    "openmp",
    "overrides",
    "json_file",
    "experiment",
    "settings",
    "legacy",
    "download",
    "cli",
    "cli_baseline",
    "cli_bench",
    "cli_check",
    "cli_convert",
    "cli_data",
    "cli_export",
    "cli_options",
    "cli_push",
    "cli_verify",
    "cli_weights",
)
FORGOTTEN = ("TO" + "DO", "FIX" + "ME")


def _name(path: Path) -> str:
    """``data.folder`` for ``data/folder.py``, ``data`` for its ``__init__``, '' for the root's."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _part(module: str) -> str:
    return module.partition(".")[0]


MODULES = {_name(path): path for path in FILES}


def _imports(path: Path) -> Iterator[str]:
    """Every imported name, in full, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules_used(path: Path) -> set[str]:
    """The modules of this package that a file imports from."""
    used = set()
    for imported in _imports(path):
        package, _, rest = imported.partition(".")
        if package == "vit_lightning":
            found = rest if rest in MODULES else rest.rpartition(".")[0]
            assert found in MODULES, f"{path}: {imported}"
            used.add(found)
    return used - {""}  # the version stands in the root


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_point_down(module: str) -> None:
    part = _part(module)
    assert part in LEVEL, f"{part} is new: give it a place in LAYERS"
    wrong = {
        used
        for used in _modules_used(MODULES[module])
        if _part(used) != part and LEVEL[_part(used)] >= LEVEL[part]
    }
    assert not wrong


def test_every_layer_is_there() -> None:
    assert set(LEVEL) == {_part(name) for name in MODULES if name}


def test_models_need_nothing_of_the_package() -> None:
    for name, path in MODULES.items():
        if _part(name) == "models":
            assert {_part(used) for used in _modules_used(path)} <= MODELS_NEED, name


def test_checkpoints_know_no_module_class() -> None:
    for name, path in MODULES.items():
        if _part(name) == "checkpoints":
            used = {used for used in _modules_used(path) if _part(used) == "models"}
            assert used <= STATE_DICTS_NEED_NO_MODULES, name


def test_no_circles_inside_a_package() -> None:
    uses = {name: _modules_used(path) for name, path in MODULES.items() if name}
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join([*way[way.index(name) :], name])
        if name not in finished:
            for used in uses[name]:
                visit(used, (*way, name))
            finished.add(name)

    for name in uses:
        visit(name, ())
    assert len(finished) == len(uses)


def test_packages_are_imported_where_they_belong() -> None:
    wrong = [
        f"{name} imports {package}"
        for name, path in MODULES.items()
        for package in {imported.partition(".")[0] for imported in _imports(path)}
        if package in RESERVED and _part(name) not in RESERVED[package]
    ]
    assert not wrong


def test_torch_is_not_needed_for_help_and_for_errors_of_the_file() -> None:
    for name in WITHOUT_TORCH:
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        at_import = {
            alias.name.partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
        }
        assert not at_import & {"torch", "lightning", "numpy"}, name


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of its docstring."""
    assert function.end_lineno is not None
    first = function.body[0]
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return length
    return length - (first.end_lineno - first.lineno + 1)


def test_functions_fit_a_screen() -> None:
    functions = {
        f"{_name(path)}.{node.name}": _length(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(functions) > 100
    assert not {name: length for name, length in functions.items() if length > 50}


def test_files_are_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {_name(path): length for path, length in lengths.items() if length > 400}


def test_nothing_is_left_to_do() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git working tree")
    left = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content:
            text = content.decode("utf-8", "replace")
            left += [f"{name}: {word}" for word in FORGOTTEN if word in text]
    assert not left


def test_the_same_alternatives_come_in_the_same_order() -> None:
    """Typing keeps one of two equal unions, whichever it meets first: a schema would change."""
    orders: dict[frozenset[str], set[tuple[str, ...]]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                inside = node.slice
                values = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                order = tuple(map(ast.unparse, values))
                orders.setdefault(frozenset(order), set()).add(order)
    assert len(orders) > 10
    assert not [found for found in orders.values() if len(found) > 1]
