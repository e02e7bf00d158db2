"""The files of a real installation, as far as they can be judged without it: compose.yaml and the systemd units."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deployments" / "systemd").glob("*.service"))
TIMERS = sorted((ROOT / "deployments" / "systemd").glob("*.timer"))
COMPOSE = yaml.safe_load((ROOT / "deployments" / "compose.yaml").read_text())
SERVICE_KEYS = {
    *(
        "image",
        "build",
        "restart",
        "environment",
        "command",
        "depends_on",
        "healthcheck",
        "volumes",
        "ports",
    ),
    *("security_opt", "stop_grace_period"),
}


def command_of(unit: Path) -> list[str]:
    return shlex.split(re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)[1])


@pytest.mark.parametrize("unit", [*UNITS, *TIMERS], ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit, tmp_path):
    for other in UNITS:  # a timer must find its service
        (tmp_path / other.name).write_text(other.read_text().replace("/opt/darkroom", str(ROOT)))
    installed = tmp_path / unit.name.replace("@", "@1")
    installed.write_text(unit.read_text().replace("/opt/darkroom", str(ROOT)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, check=False
    )

    assert str(installed.name) not in done.stderr
    assert done.returncode == 0, done.stderr


def test_every_service_is_one_that_compose_knows_and_depends_on_others_that_exist():
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        assert "image" in service, name
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] in ("service_healthy", "service_completed_successfully")
            healthy = condition["condition"] == "service_healthy"
            assert "healthcheck" in services[other] or not healthy, f"{name} waits for {other}"
        named = {volume.partition(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./$"}
        assert named <= set(COMPOSE["volumes"]), name


def test_every_variable_of_compose_is_in_the_example_or_has_a_default():
    example = (ROOT / "deployments" / "compose.env.example").read_text()
    given = set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))
    text = (ROOT / "deployments" / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{([A-Z0-9_]+)(?!:-|[A-Z0-9_])", text))

    assert used <= given | set(re.findall(r"\$\{([A-Z0-9_]+):-", text))
    assert {"PREFECT_PASSWORD", "POSTGRES_PASSWORD", "DARKROOM_NAME"} <= used


def test_no_secret_is_in_the_files():
    for file in [*(ROOT / "deployments").glob("compose*"), *UNITS]:
        for name, value in re.findall(
            r"^ *(\w*(?:PASSWORD|SECRET|KEY_ID)\w*)[=:] *([^\s]+)", file.read_text(), re.MULTILINE
        ):
            assert value.startswith("${") or "change-me" in value, f"{file.name}: {name}"


def ours() -> list[list[str]]:
    """Each command of ours that compose or a unit starts, by the words behind the program."""
    commands = [service["command"] for service in COMPOSE["services"].values() if service["image"] == "darkroom:local"]
    apart = {tuple(command[1:5]): command for command in [*commands, *map(command_of, UNITS)]}
    return list(apart.values())


@pytest.mark.parametrize("command", ours(), ids=lambda command: " ".join(command[1:5]))
def test_every_command_is_one_that_its_program_takes(command):
    """With `--help` for what would run on; all others options are parsed before it."""
    words = [str(word) for word in command]
    words[0] = str(Path(sys.executable).with_name(Path(words[0]).name))
    if "deployments.apply" in " ".join(words):
        assert (ROOT / "deployments" / "apply.py").exists()
        return

    done = subprocess.run([*words, "--help"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)

    assert done.returncode == 0, done.stderr
    options = [word for word in words if word.startswith("--")]
    assert [option for option in options if option not in done.stdout] == []
