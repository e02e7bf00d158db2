"""Compute hosts: added when guests run there, looked at, told what is missing, removed when empty."""

import dataclasses
import json
import shutil

import pytest

from commands import main
from darkroom import servers
from darkroom.catalog import Catalog, ProjectMissingError, create_project
from darkroom.compute import checks, hosts
from darkroom.compute.connection import HostUnavailableError
from darkroom.compute.hosts import Host, HostAmbiguousError, HostInUseError, HostMissingError, HostTakenError
from tests import computing


def run(capsys, *words):
    code = main.main([*words])
    said = capsys.readouterr()
    return code, said.out.strip(), said.err.strip()


def test_a_host_is_added_when_a_guest_ran_on_it_and_is_listed_and_checked(to, libvirt_uri, home, capsys):
    code, out, err = run(capsys, "host", "add", "kvm1", "--uri", libvirt_uri, "--cache", "1", "--open-to", "default")
    assert (code, out) == (0, "kvm1")

    _, out, _ = run(capsys, "host", "list", "--json")
    (found,) = json.loads(out)
    assert found == {
        "name": "kvm1",
        "uri": libvirt_uri,
        "storage": f"{home}/hosts/kvm1",
        "accelerator": found["accelerator"],
        "cache_size": 1 << 30,
        "open_to": ["default"],
    }
    assert ("emulated" in err) == (found["accelerator"] == "tcg")
    code, out, _ = run(capsys, "host", "check", "--json")
    verdicts = {finding["what"]: finding["verdict"] for finding in json.loads(out)}
    assert code == 0
    assert set(verdicts) == {"qemu-img", "nbdkit", "xorriso", "QEMU", "guests", "rights", "UEFI", "space"}
    assert run(capsys, "host", "remove", "kvm1")[:2] == (0, "kvm1")
    assert json.loads(run(capsys, "host", "list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--uri", "qemu+unix:///system?socket=/nowhere"], 6, "start libvirtd"),
        (["--storage", "/tmp/with a space"], 3, "host-storage"),
        (["--storage", "/" + "x" * 80], 3, "sockets need it short"),
    ],
)
def test_a_machine_that_cannot_be_one_is_refused_with_the_remedy(to, libvirt_uri, capsys, options, code, says):
    found, _, err = run(
        capsys, "host", "add", "kvm1", *(["--uri", libvirt_uri] if "--uri" not in options else []), *options
    )

    assert found == code
    assert says in err
    assert json.loads(run(capsys, "host", "list", "--json")[1]) == []


def test_what_is_missing_is_named_with_what_to_install(compute_host, monkeypatch):
    real = shutil.which
    monkeypatch.setattr(checks.shutil, "which", lambda name: None if name == "nbdkit" else real(name))
    monkeypatch.setattr(checks, "_SPACE", 1 << 60)
    monkeypatch.setattr(checks.domain, "OVMF_CODE", compute_host.storage / "none")
    monkeypatch.setattr(checks, "_QEMU", 99_000_000)
    monkeypatch.setattr(checks.probe, "accelerator", lambda *_: "")

    found = {finding.what: finding for finding in checks.check(compute_host)}

    assert not checks.is_usable(list(found.values()))
    assert found["nbdkit"].remedy == "install nbdkit"
    assert [name for name in found if found[name].verdict == "missing"] == ["nbdkit", "QEMU", "guests"]
    assert [name for name in found if found[name].verdict == "slow"] == ["UEFI", "space"]


def test_a_host_with_servers_stays_and_a_name_belongs_to_one_storage(to, compute_host, small_disk, catalog_url):
    computing.image_of(to, small_disk, endless=True)
    servers.register(to, computing.request_for())
    with Catalog(catalog_url, None) as operator:
        with pytest.raises(HostInUseError):
            hosts.remove(operator, "kvm1")
        with pytest.raises(HostTakenError):
            hosts.add(operator, Host("kvm1", compute_host.uri, compute_host.storage / "other", "tcg", 1))
        hosts.add(operator, Host("kvm2", compute_host.uri, compute_host.storage / "other", "tcg", 1))
        with pytest.raises(HostMissingError):
            hosts.find(operator, "kvm3")
    with pytest.raises(HostAmbiguousError, match="kvm1, kvm2"):
        hosts.find(to.catalog)
    with to.catalog.transaction() as transaction, pytest.raises(Exception, match="permission denied"):
        transaction.execute("DELETE FROM hosts")


def test_a_host_is_open_to_those_projects_that_the_operator_names_now(to, compute_host, catalog_url, capsys):
    with Catalog(catalog_url, None) as operator:
        with operator.transaction() as transaction:
            create_project(transaction, "acme")
        hosts.add(operator, dataclasses.replace(compute_host, open_to=("default", "acme", "default")))
        assert hosts.find(operator).open_to == ("acme", "default")
        assert hosts.find(to.catalog).open_to == ("default",)  # a project sees no other's name
        assert run(capsys, "host", "list")[1].endswith("/host  open to acme, default")

        with pytest.raises(ProjectMissingError):
            hosts.add(operator, dataclasses.replace(compute_host, open_to=("nobody",)))
        assert hosts.find(operator).open_to == ("acme", "default")
        hosts.add(operator, compute_host)
        assert hosts.find(to.catalog).open_to == ()
    for statement in ("INSERT INTO open_hosts SELECT 'kvm1', current_project()", "DELETE FROM open_hosts"):
        with to.catalog.transaction() as transaction, pytest.raises(Exception, match="permission denied"):
            transaction.execute(statement)


def test_a_libvirt_that_went_away_is_told_by_whoever_needs_it(to, compute_host, small_disk, catalog_url):
    computing.image_of(to, small_disk)
    with Catalog(catalog_url, None) as operator:
        hosts.add(operator, Host("kvm2", "qemu+unix:///system?socket=/none", compute_host.storage / "b", "tcg", 1))

    with pytest.raises(HostUnavailableError, match="host check"):
        servers.register(to, computing.request_for(host="kvm2"))
