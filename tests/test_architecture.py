"""The shape of the house: few files a folder, imports that run one way, short functions.

`python -m tests.test_architecture` prints the measures.
"""

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "medretrieval"
# From the ground up: a room imports from itself and from what stands before it.
LAYERS = (
    "private", "errors", "files", "vectors", "config", "checks", "instantiate", "cache", "images", "datasets",
    "encoders", "protocol", "embed", "index", "rerank", "evaluate", "load", "adapt", "uncertainty",
    "evidence", "subgroups", "explain", "runs", "track", "query", "figures", "report", "describe",
    "runner", "dry_run", "sweep", "verify", "commands", "cli", "__main__",
)  # fmt: skip
MOST_FILES = 12  # modules a folder
MOST_LINES = 60  # of a function
MOST_PARAMETERS = 6


def modules():
    """Every module with its dotted name below the package, and its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), ast.parse(path.read_text())


def imported(tree):
    """Dotted names below the package that a module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medretrieval":
            below = node.module.split(".")[1:]
            yield from (".".join([*below, alias.name]) for alias in node.names)


def room_of(name):
    return name.split(".")[0]


def functions():
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node


def parameters(function):
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [a.arg for a in every if a.arg not in ("self", "cls")]


def test_every_room_stands_in_the_list_of_layers():
    rooms = {room_of(name) for name, _ in modules()} - {"__init__"}
    assert rooms == set(LAYERS)


def test_no_import_runs_upward():
    upward = [
        f"{name} imports {other}"
        for name, tree in modules()
        if name != "__init__"  # the public names, imported when they are asked for
        for other in imported(tree)
        if room_of(other) in LAYERS and LAYERS.index(room_of(other)) > LAYERS.index(room_of(name))
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    names = {name for name, _ in modules()}
    arrows = defaultdict(set)
    for name, tree in modules():
        for other in imported(tree):
            target = other if other in names else other.rpartition(".")[0]
            if target in names and target != name:
                arrows[name].add(target)
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            path.append(name)
            for other in sorted(arrows[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in sorted(arrows):
        visit(name)


def files_by_folder():
    found = defaultdict(list)
    for path in sorted(SOURCE.rglob("*")):
        if path.is_file() and path.name != "__init__.py" and path.suffix in (".py", ".j2", ".css", ".js"):
            found[str(path.parent.relative_to(SOURCE))].append(path.name)
    return found


def test_no_folder_holds_more_files_than_can_be_seen_at_once():
    assert {
        folder: len(files) for folder, files in files_by_folder().items() if len(files) > MOST_FILES
    } == {}


def test_functions_are_short_and_take_few_parameters():
    long = [name for name, node in functions() if node.end_lineno - node.lineno >= MOST_LINES]
    # A component's arguments are the keys of its YAML.
    wide = [
        name
        for name, node in functions()
        if node.name != "__init__" and len(parameters(node)) > MOST_PARAMETERS
    ]
    assert (long, wide) == ([], [])


def test_mlflow_is_imported_in_the_room_of_trackers_alone():
    importing = set()
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] == "mlflow" for module in named):
                importing.add(room_of(name))
    assert importing == {"track"}


def test_tests_mirror_the_rooms():
    tests = Path(__file__).resolve().parent
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {path.parent.name for path in tests.rglob("test_*.py") if path.parent != tests}
    assert folders - rooms == set()


def main():
    """Print the measures."""
    for folder, files in files_by_folder().items():
        print(f"{len(files):3} files in {folder}")
    longest = sorted(((n.end_lineno - n.lineno + 1, name) for name, n in functions()), reverse=True)
    widest = sorted(((len(parameters(n)), name) for name, n in functions()), reverse=True)
    print("longest functions:", *(f"{lines} lines {name}" for lines, name in longest[:5]), sep="\n  ")
    print("most parameters:", *(f"{count} {name}" for count, name in widest[:5]), sep="\n  ")
    count = sum(path.read_text().count("dict[str, Any]") for path in SOURCE.rglob("*.py"))
    print(f"{count} times dict[str, Any]")


if __name__ == "__main__":
    main()
