import datetime
import hashlib
import random
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

from darkroom import sources
from darkroom.errors import DarkroomError
from darkroom.model import KiB, MiB
from darkroom.settings import Limits, Settings
from darkroom.sources import SourceChangedError, SourceUnavailableError, addresses, remote
from tests import webserver
from tests.webserver import Site

DATA = random.Random(7).randbytes(9 * MiB + 123)
OPEN = Settings(private_addresses=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0, 0, 0))


@pytest.fixture
def serve():
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda site, tls=None: stack.enter_context(webserver.serve(site, tls))


@pytest.fixture
def loopback_is_public(monkeypatch):
    """So that the server of the test counts as one outside, and nothing else does that should not."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or real(address))


def opened(site, spool, settings=OPEN, path="/disk.raw", **arguments):
    return sources.open_source(site.url + path, settings, spool, **arguments)


def refused(site, spool, settings=OPEN, path="/disk.raw"):
    with pytest.raises(DarkroomError) as caught, opened(site, spool, settings, path) as source:
        source.reader.read(0, source.reader.size)
    return caught.value


def test_ranges_are_read_where_the_server_has_them(serve, tmp_path):
    site = serve(Site(DATA))

    with opened(site, tmp_path, path="/images/disk.qcow2?X-Signature=secret#part") as source:
        assert source.reader.read(5 * MiB, 10) == DATA[5 * MiB : 5 * MiB + 10]
        assert source.reader.read(len(DATA) - 5, 5) == DATA[-5:]
        source.check_unchanged()
    assert (source.name, source.hint, source.fd) == ("disk.qcow2", "qcow2", None)
    assert source.url == f"{site.url}/images/disk.qcow2"
    assert "secret" not in source.identity + repr(source)
    assert sources.identify(site.url + "/images/disk.qcow2", OPEN) == (source.url, source.identity)
    assert not list(tmp_path.iterdir())
    assert {path for path, _ in site.requests} == {"/images/disk.qcow2?X-Signature=secret", "/images/disk.qcow2"}


@pytest.mark.parametrize("step", [1 * MiB, 4 * MiB, 4 * MiB + 1, 9 * MiB])
def test_every_byte_arrives_whatever_the_step(serve, tmp_path, step):
    site = serve(Site(DATA))

    with opened(site, tmp_path) as source:
        read = [source.reader.read(at, min(step, len(DATA) - at)) for at in range(0, len(DATA), step)]
    assert hashlib.sha256(b"".join(read)).digest() == hashlib.sha256(DATA).digest()


def test_many_small_reads_by_many_threads_ask_for_each_window_once(serve, tmp_path):
    site = serve(Site(DATA))

    with opened(site, tmp_path) as source, ThreadPoolExecutor(16) as pool:
        offsets = [random.Random(n).randrange(len(DATA) - 4096) for n in range(400)]
        read = list(pool.map(lambda at: source.reader.read(at, 4096), offsets))
    assert read == [DATA[at : at + 4096] for at in offsets]
    windows = [asked for asked in site.ranges_asked if asked not in ("bytes=0-0", "bytes=0-15", "")]
    assert len(windows) == len(set(windows)) == 3


@pytest.mark.parametrize(
    "site",
    [
        Site(DATA, ranges=False),
        Site(DATA, ranges=False, chunked=True),
        Site(DATA, etag=""),
        Site(DATA, content_range="bytes 0-0/*"),
        Site(DATA, content_range="bytes 5-5/99"),
        Site(DATA, ranges=False, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["no-ranges", "chunked", "no-version", "size-unknown", "another-range", "content-encoding"],
)
def test_without_usable_ranges_the_file_goes_through_the_spool_once(serve, tmp_path, site):
    site = serve(site)
    seen = []

    with opened(site, tmp_path, progress=lambda done, total: seen.append((done, total))) as source:
        assert source.reader.read(0, len(DATA)) == DATA
        assert source.fd is not None
    with opened(site, tmp_path) as again:
        assert again.reader.read(1, 9) == DATA[1:10]
        assert again.identity == source.identity
    assert seen[-1] == (len(DATA), 0 if site.chunked else len(DATA))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len([entry for entry in tmp_path.iterdir() if entry.name.startswith("download-")]) == 1


@pytest.mark.parametrize("script", ["OR", "OT", "O5", "OL", "OH", "ORTO", "OF", "ON"])
def test_a_read_that_breaks_off_is_tried_again(serve, tmp_path, script):
    site = serve(Site(DATA, script=script))

    with opened(site, tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
@pytest.mark.parametrize("script", ["R", "T", "RRT"])
def test_a_download_that_breaks_off_is_tried_again(serve, tmp_path, script, chunked):
    site = serve(Site(DATA, ranges=False, chunked=chunked, script=script))

    with opened(site, tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "download"])
@pytest.mark.parametrize("fault", "RT5H")
def test_a_server_that_stays_broken_is_given_up_and_nothing_stays_behind(serve, tmp_path, ranges, fault):
    site = serve(Site(DATA, ranges=ranges, script=("O" if ranges else "") + fault * 50))

    error = refused(site, tmp_path)
    assert isinstance(error, SourceUnavailableError)
    assert error.exit_code == 6
    assert len(site.requests) < 20
    assert not [entry for entry in tmp_path.iterdir() if entry.name != "lock"]


def test_a_file_that_changes_between_reads_is_refused(serve, tmp_path):
    other = random.Random(8).randbytes(len(DATA))
    site = serve(Site(DATA))

    with opened(site, tmp_path) as source:
        assert source.reader.read(0, 10) == DATA[:10]
        site.data, site.etag = other, '"two"'
        with pytest.raises(SourceChangedError, match="source-changed"):
            source.reader.read(5 * MiB, 10)
        with pytest.raises(SourceChangedError):
            source.check_unchanged()


def test_a_file_of_another_size_or_without_ranges_any_more_is_refused(serve, tmp_path):
    site = serve(Site(DATA))

    with opened(site, tmp_path) as source:
        site.data = DATA[: 6 * MiB]
        with pytest.raises(SourceChangedError):
            source.reader.read(4 * MiB, 10)
        site.data, site.ranges = DATA, False
        with pytest.raises(SourceChangedError):
            source.reader.read(4 * MiB, 10)


def test_a_download_that_breaks_off_and_changed_is_refused(serve, tmp_path):
    site = serve(Site(DATA, ranges=False, script="R", change_at=(1, DATA[::-1], '"two"')))

    assert refused(site, tmp_path).code == "source-changed"


def test_a_download_with_a_wrong_length_has_another_identity_than_the_file(serve, tmp_path):
    site = serve(Site(DATA, ranges=False, script="L"))

    with opened(site, tmp_path) as source:
        assert source.reader.size == len(DATA) // 2
    with opened(site, tmp_path) as again:
        assert again.reader.read(0, len(DATA)) == DATA
        assert again.identity != source.identity


def test_a_body_whose_end_cannot_be_told_is_refused(serve, tmp_path):
    site = serve(Site(DATA, ranges=False, length=False))

    assert refused(site, tmp_path).code == "source-answer"


def test_a_download_over_the_limit_is_refused(serve, tmp_path):
    site = serve(Site(DATA, ranges=False))

    settings = Settings(private_addresses=True, limits=Limits(virtual_size=1 * MiB))
    assert refused(site, tmp_path, settings).code == "source-too-large"
    assert not [entry for entry in tmp_path.iterdir() if entry.name != "lock"]


def test_a_signed_redirect_that_expires_is_followed_again(serve, tmp_path):
    site = serve(Site(DATA))
    site.redirects = {"/disk.raw": "/store/disk.raw?token=1"}

    with opened(site, tmp_path) as source:
        source.reader.read(0, 10)
        site.redirects["/store/disk.raw?token=1"] = "/login"
        site.redirects["/disk.raw"] = "/store/disk.raw?token=2"
        site.script = "O" * len(site.requests) + "F"
        site.redirects.pop("/store/disk.raw?token=1")
        assert source.reader.read(5 * MiB, 10) == DATA[5 * MiB : 5 * MiB + 10]
    assert ("/store/disk.raw?token=2", "bytes=4194304-8388607") in site.requests
    assert source.url == f"{site.url}/store/disk.raw"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [("N", "source-not-found", 4), ("F", "source-denied", 3), ("5", "source-unavailable", 6)],
)
def test_a_status_has_its_error(serve, tmp_path, status, code, exit_code):
    site = serve(Site(DATA, script=status * 9))

    error = refused(site, tmp_path)
    assert (error.code, error.exit_code) == (code, exit_code)


def test_an_empty_file_is_refused_without_a_try_again(serve, tmp_path):
    error = refused(serve(Site(b"")), tmp_path)

    assert (error.code, error.retryable) == ("source-answer", False)


INSIDE = [
    "127.0.0.2", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "168.63.129.16", "192.0.0.192", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "169.16689662", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]",
    "[::ffff:169.254.169.254]", "[::a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_addresses_inside_are_refused_however_they_are_spelt(tmp_path, host):
    with pytest.raises(addresses.AddressRefusedError), sources.open_source(f"http://{host}/x", Settings(), tmp_path):
        pass


@pytest.mark.parametrize("host", [host for host in INSIDE if host != "localhost"])
def test_redirects_to_addresses_inside_are_refused(serve, tmp_path, loopback_is_public, host):
    site = serve(Site(DATA))
    site.redirects = {"/disk.raw": "/hop", "/hop": f"http://{host}/latest/meta-data/"}

    assert refused(site, tmp_path, Settings()).code == "address-refused"
    assert [path for path, _ in site.requests] == ["/disk.raw", "/hop"]


def test_public_addresses_are_not_refused():
    found = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"]
    assert [address for address in found if not addresses.is_public(address)] == []


def test_a_name_with_one_address_inside_among_others_is_refused(monkeypatch, tmp_path):
    answers = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    with pytest.raises(addresses.AddressRefusedError), sources.open_source("http://a.example/x", Settings(), tmp_path):
        pass


def resolving(monkeypatch, answers):
    """Names of example are resolved by `answers`, one after the other; literal addresses as ever."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, port, *arguments, **options):
        if not host.endswith(".example"):
            return real(host, port, *arguments, **options)
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_connection_goes_to_the_address_that_was_checked(serve, tmp_path, loopback_is_public, monkeypatch):
    site = serve(Site(DATA))
    asked = resolving(monkeypatch, [["127.0.0.1"], ["127.0.0.2"]])

    with sources.open_source(f"http://images.example:{site.port}/disk.raw", Settings(), tmp_path) as source:
        assert source.reader.read(0, len(DATA)) == DATA
    assert asked == ["images.example"]
    assert source.url == f"http://images.example:{site.port}/disk.raw"


def test_the_second_address_of_a_name_is_tried_when_the_first_does_not_answer(serve, tmp_path, monkeypatch):
    site = serve(Site(DATA))
    resolving(monkeypatch, [["127.0.0.2", "127.0.0.1"]])

    with sources.open_source(f"http://images.example:{site.port}/disk.raw", OPEN, tmp_path) as source:
        assert source.reader.read(0, 10) == DATA[:10]


def test_redirects_end(serve, tmp_path):
    site = serve(Site(DATA))
    site.redirects = {"/disk.raw": "/disk.raw"}
    assert refused(site, tmp_path).code == "redirect-refused"
    assert len(site.requests) == 6

    site.redirects = {f"/{n}": f"/{n + 1}" for n in range(5)}
    with opened(site, tmp_path, path="/0") as source:
        assert source.url == f"{site.url}/5"


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://a.example/x", "nbd://127.0.0.1/x", "gopher://x", "//"])
def test_a_redirect_to_another_kind_of_address_is_refused(serve, tmp_path, to):
    site = serve(Site(DATA))
    site.redirects = {"/disk.raw": to}

    assert refused(site, tmp_path).code in ("redirect-refused", "source-url")


@pytest.mark.parametrize("to", ["http://user:hunter2@127.0.0.1/x", "http://[bad/", "http://127.0.0.1:99999/"])
def test_a_redirect_to_what_is_no_plain_url_is_refused_and_not_shown(serve, tmp_path, to):
    site = serve(Site(DATA))
    site.redirects = {"/disk.raw": to}

    error = refused(site, tmp_path)
    assert error.code == "source-url"
    assert "hunter2" not in str(error)


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A server context with a certificate for images.example, and a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    text = certificate.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(
        text
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_https_is_read_when_the_certificate_is_the_hosts(serve, tmp_path, tls, monkeypatch):
    site = serve(Site(DATA), tls)
    resolving(monkeypatch, [["127.0.0.1"]])

    with sources.open_source(f"https://images.example:{site.port}/disk.raw", OPEN, tmp_path / "spool") as source:
        assert source.reader.read(0, 64 * KiB) == DATA[: 64 * KiB]


def test_https_with_the_certificate_of_another_host_is_refused(serve, tmp_path, tls, monkeypatch):
    site = serve(Site(DATA), tls)
    resolving(monkeypatch, [["127.0.0.1"]])
    url = f"https://other.example:{site.port}/disk.raw"

    with pytest.raises(SourceUnavailableError), sources.open_source(url, OPEN, tmp_path / "spool"):
        pass
    assert site.requests == []


def test_a_redirect_from_https_to_http_is_refused(serve, tmp_path, tls, monkeypatch):
    plain, secure = serve(Site(DATA)), serve(Site(DATA), tls)
    secure.redirects = {"/disk.raw": f"{plain.url}/disk.raw"}
    resolving(monkeypatch, [["127.0.0.1"]])
    url = f"https://images.example:{secure.port}/disk.raw"

    with pytest.raises(DarkroomError, match="redirect-refused"), sources.open_source(url, OPEN, tmp_path):
        pass
    assert plain.requests == []
