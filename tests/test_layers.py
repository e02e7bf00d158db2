"""The structure: who imports whom, what starts fast, how long files and functions are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {
    "darkroom": set(),
    "blocks": {"darkroom"},
    "tasks": {"blocks", "darkroom"},
    "flows": {"tasks", "darkroom"},
    "commands": {"flows", "tasks", "darkroom"},
    "deployments": {"flows", "tasks", "blocks", "darkroom"},
}
MAX_FILE, MAX_FUNCTION = 350, 70


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package):
    allowed = LAYERS[package] | {package}
    ours = set(LAYERS) | {"tests", "benchmarks", "demo"}
    for path in sources(package):
        found = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert found & ours <= allowed, path


def test_the_map_of_the_domain_names_each_module_once():
    names = sorted(path.stem for path in (ROOT / "darkroom").iterdir() if not path.name.startswith("__"))
    text = (ROOT / "darkroom" / "__init__.py").read_text()
    lines = [line.strip().partition("    ")[0] for line in text.splitlines() if line.startswith("    ")]

    assert sorted(" ".join(lines).split()) == names


def test_the_domain_knows_no_prefect():
    for path in sources("darkroom"):
        found = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert "prefect" not in found, path


def test_commands_that_only_read_load_neither_prefect_nor_what_else_is_slow():
    code = (
        "import sys; from commands import main; main._parser()\n"
        "print(sorted({'prefect', 'boto3', 'pandas', 'numpy', 'oslo_utils'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def test_aead_is_called_in_one_file():
    users = [path.name for path in sources("darkroom") if "AESGCM" in path.read_text()]

    assert users == ["crypto.py"]


@pytest.mark.parametrize("package", LAYERS)
def test_files_and_functions_fit_their_budgets(package):
    for path in sources(package):
        text = path.read_text()
        assert len(text.splitlines()) <= MAX_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{path}: {node.name}"
