"""Every way to check the server's certificate, what is refused and what is warned of."""

import hashlib
import logging
import socket
import ssl
import threading

import anyio
import pytest
import trustme
from anyio.streams.tls import TLSStream

from deepio_adapters import link_failures, tls, websocket
from deepio_adapters.link import LinkClosed, LinkError, open_link
from deepio_adapters.tls import (
    DEEP_DEFAULT_FINGERPRINT,
    TLSOptions,
    certificate_fingerprint,
    normalized_fingerprint,
    plain_allowed,
)
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from tests.adapters.link_servers import LIMIT, address_of, authority, server_context, tcp_server, websocket_server

pytestmark = pytest.mark.timeout(LIMIT)
DIGITS = "6b83066d0567ea1384cf4c509ff44d8a3b3b71f9f5f56311df44ba68382ba101"
VARIABLES = ("DEEPIO_TLS_CA", "DEEPIO_TLS_FINGERPRINT", "DEEPIO_TLS_INSECURE", "DEEPIO_ALLOW_PLAIN")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ca_file(tmp_path):
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


# --- Options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        DIGITS,
        DIGITS.upper(),
        DEEP_DEFAULT_FINGERPRINT,
        f"  {DEEP_DEFAULT_FINGERPRINT.lower()}\n",
        f"sha256 Fingerprint={DEEP_DEFAULT_FINGERPRINT}",
        f"SHA256 Fingerprint={DEEP_DEFAULT_FINGERPRINT}",
    ],
)
def test_fingerprint(text):
    assert normalized_fingerprint(text) == DEEP_DEFAULT_FINGERPRINT
    assert TLSOptions(fingerprint=text).fingerprint == text


@pytest.mark.parametrize("text", ["", "abc", DIGITS[:-1], DIGITS + "0", "g" + DIGITS[1:], "ab" * 20])
def test_no_fingerprint(text):
    with pytest.raises(LocalProtocolError, match="no SHA-256 fingerprint") as raised:
        TLSOptions(fingerprint=text)
    assert ("SHA-1" in raised.value.message) is (text == "ab" * 20)
    assert "openssl" in raised.value.remedy


def test_fingerprint_of_a_certificate():
    assert certificate_fingerprint(b"der").replace(":", "") == hashlib.sha256(b"der").hexdigest().upper()


@pytest.mark.parametrize(
    "given",
    [
        {"ca_file": "ca.pem", "insecure": True},
        {"ca_file": "ca.pem", "fingerprint": DIGITS},
        {"ssl_context": ssl.create_default_context(), "insecure": True},
        {"ssl_context": ssl.create_default_context(), "ca_file": "ca.pem", "fingerprint": DIGITS},
    ],
)
def test_a_certificate_is_checked_in_one_way(given):
    with pytest.raises(LocalProtocolError, match="in one way"):
        TLSOptions(**given)
    with pytest.raises(LocalProtocolError, match="in one way"):
        TLSOptions.from_environment({}, **given)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, TLSOptions()),
        ({"DEEPIO_TLS_CA": "", "DEEPIO_TLS_FINGERPRINT": "", "DEEPIO_TLS_INSECURE": ""}, TLSOptions()),
        ({"DEEPIO_TLS_CA": "/ca.pem"}, TLSOptions(ca_file="/ca.pem")),
        ({"DEEPIO_TLS_FINGERPRINT": DIGITS}, TLSOptions(fingerprint=DIGITS)),
        ({"DEEPIO_TLS_INSECURE": "1"}, TLSOptions(insecure=True)),
        ({"DEEPIO_TLS_INSECURE": " Yes "}, TLSOptions(insecure=True)),
        ({"DEEPIO_TLS_INSECURE": "0", "DEEPIO_TLS_CA": "/ca.pem"}, TLSOptions(ca_file="/ca.pem")),
    ],
)
def test_from_the_environment(environ, expected):
    assert TLSOptions.from_environment(environ) == expected


@pytest.mark.parametrize(
    "given",
    [{"ca_file": "/mine.pem"}, {"fingerprint": DIGITS}, {"insecure": True}, {"insecure": False}],
)
def test_what_is_given_overrules_the_environment(given):
    environ = {"DEEPIO_TLS_INSECURE": "1", "DEEPIO_TLS_CA": "/ca.pem"}
    assert TLSOptions.from_environment(environ, **given) == TLSOptions(**given)


def test_two_ways_in_the_environment_are_refused():
    with pytest.raises(LocalProtocolError, match="tls_ca and tls_insecure"):
        TLSOptions.from_environment({"DEEPIO_TLS_INSECURE": "1", "DEEPIO_TLS_CA": "/ca.pem"})


def test_a_variable_that_is_neither_yes_nor_no():
    with pytest.raises(LocalProtocolError, match="DEEPIO_TLS_INSECURE is 'maybe'"):
        TLSOptions.from_environment({"DEEPIO_TLS_INSECURE": "maybe"})
    with pytest.raises(LocalProtocolError, match="DEEPIO_ALLOW_PLAIN is '2'"):
        plain_allowed({"DEEPIO_ALLOW_PLAIN": "2"})


def test_plain_allowed():
    assert plain_allowed({"DEEPIO_ALLOW_PLAIN": "true"})
    assert not plain_allowed({"DEEPIO_ALLOW_PLAIN": "off"})
    assert not plain_allowed({})


# --- Contexts ---------------------------------------------------------------------------------------------------


def test_verified_by_default():
    context = TLSOptions().make_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_given_context_is_used_as_it_is():
    context = ssl.create_default_context()
    assert TLSOptions(ssl_context=context).make_context() is context


def test_a_ca_file_trusts_what_is_in_it_whatever_the_version_of_python(ca_file):
    context = TLSOptions(ca_file=ca_file).make_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509"] == 1
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read: No such file"), ("no PEM", "no certificate")])
def test_a_ca_file_that_is_none(tmp_path, content, says):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LocalProtocolError, match=says) as raised:
        TLSOptions(ca_file=path).make_context()
    assert str(path) in raised.value.message
    assert raised.value.remedy


@pytest.mark.parametrize("right", [True, False])
def test_a_pin_is_checked_over_a_plain_socket_too(right):
    # Not how links use it, but a context that checks in some libraries only would be a trap.
    ours, theirs = socket.socketpair()
    context = server_context("127.0.0.1")
    seen = []

    def serve():
        with theirs, context.wrap_socket(theirs, server_side=True, suppress_ragged_eofs=True) as server:
            seen.append(server.recv(100))

    server = threading.Thread(target=serve)
    server.start()
    pin = fingerprint_of(context) if right else DIGITS
    with ours:
        if right:
            with TLSOptions(fingerprint=pin).make_context().wrap_socket(ours) as connection:
                connection.send(b"hello")
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="not 6B:83"):
                TLSOptions(fingerprint=pin).make_context().wrap_socket(ours)
    server.join()
    assert seen == [b"hello" if right else b""]


def fingerprint_of(context):
    """What a server with this context shows, read in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate_fingerprint(certificate)


# --- Links ------------------------------------------------------------------------------------------------------


async def hello(link):
    await link.send("hello")


async def greeted(address, options):
    async with open_link(address, tls=options) as link:
        assert await link.receive() == "hello"
        with pytest.raises(LinkClosed, match="1000"):
            await link.receive()


async def refused(address, options):
    with pytest.raises(LinkError) as raised:
        async with open_link(address, tls=options):
            pytest.fail("opened")
    assert raised.value.cause is Cause.CERTIFICATE_REFUSED
    return raised.value


@pytest.mark.anyio
async def test_trusted_by_ca_file(ca_file):
    async with websocket_server(hello, ssl=server_context("127.0.0.1")) as port:
        await greeted(address_of(port, scheme="wss"), TLSOptions(ca_file=ca_file))


@pytest.mark.anyio
async def test_trusted_by_the_certificate_itself(tmp_path):
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    path = tmp_path / "server.pem"
    certificate.cert_chain_pems[0].write_to_path(str(path))
    async with websocket_server(hello, ssl=context) as port:
        await greeted(address_of(port, scheme="wss"), TLSOptions(ca_file=path))


@pytest.mark.anyio
async def test_trusted_by_a_context():
    context = ssl.create_default_context()
    authority().configure_trust(context)
    async with websocket_server(hello, ssl=server_context("127.0.0.1")) as port:
        await greeted(address_of(port, scheme="wss"), TLSOptions(ssl_context=context))


@pytest.mark.anyio
async def test_trusted_by_fingerprint_whatever_its_name():
    context = server_context("deepio.example")
    async with websocket_server(hello, ssl=context) as port:
        await greeted(address_of(port, scheme="wss"), TLSOptions(fingerprint=fingerprint_of(context)))


@pytest.mark.anyio
@pytest.mark.parametrize("variable", ["DEEPIO_TLS_CA", "DEEPIO_TLS_FINGERPRINT", "DEEPIO_TLS_INSECURE"])
async def test_trusted_by_the_environment(monkeypatch, variable, ca_file):
    context = server_context("127.0.0.1")
    values = {"DEEPIO_TLS_CA": ca_file, "DEEPIO_TLS_FINGERPRINT": fingerprint_of(context), "DEEPIO_TLS_INSECURE": 1}
    monkeypatch.setenv(variable, str(values[variable]))
    async with websocket_server(hello, ssl=context) as port:
        await greeted(address_of(port, scheme="wss"), None)


@pytest.mark.anyio
async def test_a_certificate_of_nobody_we_know(caplog):
    context = server_context("127.0.0.1")
    async with websocket_server(hello, ssl=context) as port:
        address = address_of(port, scheme="wss")
        error = await refused(address, None)
        seen = fingerprint_of(context)
        assert "not trusted" in error.message
        assert "unable to get local issuer certificate" in error.message
        assert error.fingerprint == seen
        assert f'tls_fingerprint="{seen}"' in error.remedy
        assert f"DEEPIO_TLS_FINGERPRINT={seen}" in error.remedy
        assert "tls_ca=" in error.remedy
        # The remedy works.
        await greeted(address, TLSOptions(fingerprint=error.fingerprint))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.anyio
async def test_a_certificate_for_another_name(ca_file):
    async with websocket_server(hello, ssl=server_context("deepio.example")) as port:
        error = await refused(address_of(port, scheme="wss"), TLSOptions(ca_file=ca_file))
    assert "IP address mismatch" in error.message
    assert error.fingerprint


@pytest.mark.anyio
async def test_a_server_that_is_gone_when_its_certificate_is_looked_at(ca_file):
    # The one handshake that it takes fails; nobody can tell its fingerprint any more.
    first = True

    async def once(stream):
        nonlocal first
        if first:
            first = False
            await tls_until_refused(stream)

    async with tcp_server(once) as port:
        error = await refused(address_of(port, scheme="wss"), None)
    assert error.fingerprint is None
    assert "fingerprint" not in str(error)
    assert "tls_ca=" in error.remedy


async def tls_until_refused(stream):
    with pytest.raises(ssl.SSLError):
        await TLSStream.wrap(stream, server_side=True, ssl_context=server_context("127.0.0.1"))


@pytest.mark.anyio
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_another_certificate_than_the_pinned_one_gets_nothing(version):
    received, done = [], anyio.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(context)
    context.minimum_version = context.maximum_version = version

    async def handler(stream):
        try:
            wrapped = await TLSStream.wrap(stream, server_side=True, ssl_context=context)
            received.append(await wrapped.receive())
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            done.set()

    async with tcp_server(handler) as port:
        error = await refused(address_of(port, scheme="wss"), TLSOptions(fingerprint=DIGITS))
        await done.wait()
    assert error.fingerprint == fingerprint_of(context)
    assert f"has the SHA-256 fingerprint {error.fingerprint}, but {DEEP_DEFAULT_FINGERPRINT} is pinned" in error.message
    assert f'tls_fingerprint="{error.fingerprint}"' in error.remedy
    assert "in between" in error.remedy
    # The request, with the key in it, did not go out.
    assert received == []


@pytest.mark.anyio
async def test_insecure_is_warned_of_at_every_connection(caplog):
    async with websocket_server(hello, ssl=server_context("deepio.example")) as port:
        for _ in range(2):
            await greeted(address_of(port, scheme="wss"), TLSOptions(insecure=True))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "not checked (tls_insecure)" in warnings[-1].getMessage()
    assert "***" in warnings[-1].getMessage()


@pytest.mark.anyio
async def test_insecure_is_nothing_to_warn_of_without_tls(caplog):
    async with websocket_server(hello) as port:
        await greeted(address_of(port), TLSOptions(insecure=True))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.anyio
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_published_certificate_is_warned_of(monkeypatch, caplog, trusted):
    # The real one has a key that is not ours to publish: one of ours stands in for it.
    context = server_context("127.0.0.1")
    known = fingerprint_of(context)
    for module in (websocket, link_failures):
        monkeypatch.setattr(module, "DEEP_DEFAULT_FINGERPRINT", known)
    async with websocket_server(hello, ssl=context) as port:
        address = address_of(port, scheme="wss")
        if trusted:
            await greeted(address, TLSOptions(fingerprint=known))
            (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
            assert "default certificate of the DEEP Framework" in warning
            assert "anyone can pass for" in warning
        else:
            error = await refused(address, None)
            assert "default certificate of the DEEP Framework" in error.message


def test_the_published_fingerprint():
    assert normalized_fingerprint(tls.DEEP_DEFAULT_FINGERPRINT) == tls.DEEP_DEFAULT_FINGERPRINT
