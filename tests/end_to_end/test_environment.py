"""What is promised of the environment, the package's layering and its text, checked without running anything of it."""

import ast
import dataclasses
import enum
import inspect
import itertools
import re
import sys
import tomllib
from collections import Counter

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import ROOT, files_of_the_checkout, run

import geolib

pytestmark = pytest.mark.smoke

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNLOCKED = ("bench", "mutants")  # extras that one target installs for itself
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
MODULES = sorted((ROOT / "geolib").rglob("*.py"))
CORE = [path for path in MODULES if "companion" not in path.parts]

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


# --- pyproject.toml, requirements.lock, environment.yml


def declared():
    kinds = PROJECT["optional-dependencies"]
    extras = itertools.chain.from_iterable(kinds[kind] for kind in kinds if kind not in UNLOCKED)
    return [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]


def pins(python, platform):
    """What the lock installs there: version by name."""
    systems = {"linux": ("posix", "Linux"), "darwin": ("posix", "Darwin"), "win32": ("nt", "Windows")}
    there = default_environment() | {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": platform,
        "os_name": systems[platform][0],
        "platform_system": systems[platform][1],
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found = {}
    for line in LOCK:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(there):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is pinned twice for Python {python} on {platform}"
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found[name] = pin.version
    return found


def test_the_extras_are_those_the_lock_is_made_of():
    assert set(PROJECT["optional-dependencies"]) == {"companion", "dev", *UNLOCKED}
    assert [canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]] == [
        "torch",
        "numpy",
        "scipy",
        "scikit-learn",
    ]


def test_peers_are_no_dependency():
    """They are measured, not used: not locked, and imported by the benchmark alone."""
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["bench"]}
    assert not names & {canonicalize_name(Requirement(line).name) for line in LOCK}
    assert all(name not in path.read_text(encoding="utf-8") for name in names for path in MODULES)


@pytest.mark.parametrize("python", ["3.11.4", "3.11.13", "3.12.11", "3.13.5"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_lock_pins_every_dependency_within_its_bounds(python, platform):
    found = pins(python, platform)
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in found, f"{name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(found[name]), f"{requirement} but {found[name]} is pinned: make lock"


def test_the_lock_serves_every_machine():
    for line in LOCK:
        assert re.fullmatch(r"[a-z0-9.\[\]-]+==[0-9][0-9a-z.]*( ; .+)?", line), line
        assert not line.startswith(("nvidia", "cuda", "triton")), f"torch names its own: {line}"
        assert "+" not in line, f"no index but the one it came from has that version: {line}"


def test_conda_brings_python_pip_and_make_and_pip_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"]
    assert environment["channels"] == ["conda-forge"]
    *conda, last = environment["dependencies"]
    assert last == {"pip": ["-r requirements.lock", "-e ."]}
    asked = {Requirement(line).name: Requirement(line).specifier for line in conda}
    assert set(asked) == {"python", "pip", "make"}
    assert str(asked["python"]) == PROJECT["requires-python"] == ">=3.11"
    assert not asked["make"].contains("4.2")
    assert asked["make"].contains("4.4.1")


# --- layers


def imports(tree):
    """(module, line) of every import, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_reads_no_files_and_draws_nothing(path):
    allowed = {name.replace("scikit-learn", "sklearn") for name in ("torch", "numpy", "scipy", "scikit-learn")}
    forbidden = {"os", "pathlib", "io", "shutil", "subprocess", "tempfile", "matplotlib", "seaborn", "pickle", "sys"}
    forbidden_calls = {"open", "print", "input", "exec", "eval"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for module, line in imports(tree):
        top = module.split(".")[0]
        assert not module.startswith("geolib.companion"), f"{path}:{line}"
        assert top not in forbidden, f"{path}:{line} imports {module}"
        assert top in allowed | {"geolib"} or top in sys.stdlib_module_names, (
            f"{path}:{line}: {module} is no dependency of the core"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in forbidden_calls, f"{path}:{node.lineno}"


def test_the_core_is_all_but_the_companion():
    assert {path.parent.name for path in CORE} == {
        "geolib",
        "trials",
        "solvers",
        "paths",
        "energy",
        "kinks",
        "starts",
        "plane",
    }
    assert len(CORE) >= 10


# Each floor may import from the floors before it, and a room from itself.
FLOORS = (
    ("checks",),
    ("jacobian",),
    ("trials",),
    ("metric", "spline", "variance"),
    ("riemannian",),
    ("curves",),
    ("paths",),
    ("plane", "solvers", "attempts", "walks"),
    ("geodesics",),
    ("exponential", "evaluation"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
COMPANION_ROOMS = ("cache", "data", "models", "studies", "figures", "pipeline", "interface")
MOST_FILES = 12


def rooms_imported(path, package):
    """(room, line) of what a file imports from below ``package``: the first name after it."""
    for module, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if module.startswith(f"{package}."):
            yield module.removeprefix(f"{package}.").split(".")[0], line


@pytest.mark.parametrize("path", [p for p in CORE if p != ROOT / "geolib" / "__init__.py"], ids=lambda path: path.stem)
def test_imports_of_the_core_point_one_way(path):
    room = path.relative_to(ROOT / "geolib").with_suffix("").parts[0]
    assert room in FLOOR_OF, f"{path} has no place in the order"
    for other, line in rooms_imported(path, "geolib"):
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room], f"{path}:{line}: {room} imports {other}"


def test_the_order_of_the_core_names_what_exists():
    rooms = {path.relative_to(ROOT / "geolib").with_suffix("").parts[0] for path in CORE} - {"__init__"}
    assert set(FLOOR_OF) == rooms


def test_imports_of_the_companion_point_one_way():
    companion = ROOT / "geolib" / "companion"
    for path in set(MODULES) - set(CORE) - {companion / "__init__.py"}:
        room = path.relative_to(companion).parts[0]
        assert room in COMPANION_ROOMS, f"{path} has no place in the order"
        for other, line in rooms_imported(path, "geolib.companion"):
            assert COMPANION_ROOMS.index(other) <= COMPANION_ROOMS.index(room), f"{path}:{line}: {room} imports {other}"


def test_no_folder_is_crowded():
    counts = Counter(path.parent for top in ("geolib", "tests") for path in (ROOT / top).rglob("*.py"))
    counts.subtract(path.parent for top in ("geolib", "tests") for path in (ROOT / top).rglob("__init__.py"))
    assert {str(folder): n for folder, n in counts.items() if n > MOST_FILES} == {}


@every_module
def test_nothing_is_imported_inside_a_function(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            assert list(imports(node)) == [], f"{path}:{node.lineno}"


@every_module
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert text, path
    assert len(text.splitlines()[0]) > 20
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    for node in public:
        assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


# --- the public names


@pytest.mark.parametrize("name", geolib.__all__)
def test_every_public_name_says_what_it_does_and_where_it_comes_from(name):
    thing = getattr(geolib, name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        assert name.isupper(), f"{name} is neither a function nor a class nor a constant"
        return
    text = inspect.getdoc(thing)
    assert text
    if inspect.isclass(thing) and (issubclass(thing, (Exception, enum.Enum)) or dataclasses.is_dataclass(thing)):
        return  # an error, a status or a result: nothing that a paper could be the source of
    assert re.search(r"^(Source|Sources):", text, flags=re.MULTILINE), f"{name}: its docstring has no Source"


def test_public_names_are_few_and_exported():
    assert len(set(geolib.__all__)) == len(geolib.__all__) <= 30
    missing = [name for name in geolib.__all__ if not hasattr(geolib, name)]
    assert missing == []
    assert geolib.__version__ == PROJECT["version"]


def test_an_editor_sees_the_names_that_there_are():
    """They are loaded when asked for, and stand a second time where an editor looks for them."""
    tree = ast.parse((ROOT / "geolib" / "__init__.py").read_text(encoding="utf-8"))
    seen = sorted(name for name, _ in imports(tree) if name.startswith("geolib."))
    assert seen == sorted(f"geolib.{home}.{name}" for home, names in geolib._HOMES.items() for name in names)
    assert sorted(name.rpartition(".")[2] for name in seen) == sorted(geolib.__all__)
    assert set(geolib.__all__) <= set(dir(geolib))
    with pytest.raises(AttributeError, match="no attribute 'geodesics_'"):
        _ = geolib.geodesics_


def test_a_notebook_is_started_without_torch():
    """Every notebook has a process that starts it, and one that runs it; only the second has to wait for torch."""
    slow = {"torch", "numpy", "rfc3987_syntax.utils"}
    code = f"import sys, geolib.companion.pipeline.execute; print({slow} & {{*sys.modules}})"
    done = run([sys.executable, "-c", code], PYTHONPATH=ROOT)
    assert done.stdout == "set()\n", done.stderr


# --- the files


def text_files():
    for name in files_of_the_checkout():
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            assert name.suffix in {".png", ".pdf"}, f"{name} is no text"


def test_no_file_names_a_place_on_somebodys_machine():
    homes = "|".join(["home", "Users", "root", "work", "mnt", "media", "srv"])
    place = re.compile(rf"(?<![\w.:/$}}~*)\]-])/(?:{homes})/\w+|[A-Z]:\\Users")
    found = [f"{name}: {match.group()}" for name, text in text_files() for match in place.finditer(text)]
    assert found == []


def test_links_in_the_readmes_lead_somewhere():
    for name, text in text_files():
        if name.suffix == ".md":
            for link in re.findall(r"\]\(([^)#]+)", text):
                if "://" not in link:
                    assert (ROOT / name.parent / link).exists(), f"{name}: {link}"


def test_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^|&& )make ([a-z]+)", readme, flags=re.MULTILINE))
    assert {"figures", "test"} <= named
    for target in sorted(named):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"


def test_every_promise_names_a_test_that_there_is():
    promises = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", promises)
    assert len(named) > 40
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_readme_lays_out_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(geolib/(?:\w+/)?) ", readme, flags=re.MULTILINE))
    rooms = {f"geolib/{file.parent.name}/" for file in (ROOT / "geolib").glob("*/__init__.py")}
    assert listed == rooms | {"geolib/"}


# --- the linter


def test_the_linter_reads_every_module_and_finds_nothing():
    ruff = [sys.executable, "-m", "ruff", "check"]
    listed = run([*ruff, "--show-files", ROOT])
    assert listed.returncode == 0, listed.stderr
    assert {str(path) for path in MODULES} <= set(listed.stdout.splitlines())
    done = run([*ruff, "--no-cache", ROOT])
    assert done.returncode == 0, done.stdout
