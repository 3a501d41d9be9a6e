"""Why a link does not open: cause, sentence and remedy of each failure; and no key in any of them, nor in the logs."""

import contextlib
import logging
import socket
import traceback
from http import HTTPStatus
from urllib.parse import unquote

import anyio
import pytest
from anyio.streams.tls import TLSStream
from websockets.datastructures import Headers
from websockets.http11 import Response

from deepio_adapters.link import LinkClosed, LinkError, open_link
from deepio_adapters.tls import TLSOptions
from deepio_core.outputs import Cause
from tests.adapters.link_servers import (
    KEY,
    LIMIT,
    address_of,
    authority,
    read_head,
    server_context,
    silence,
    tcp_server,
    upgrade,
    websocket_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(LIMIT)]
INSECURE = TLSOptions(insecure=True)


def without_key(text):
    return KEY not in text and address_of(1).key not in text


@pytest.fixture(autouse=True)
def no_key_in_the_logs(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert without_key(logging.Formatter().format(record))
        assert without_key(repr(record.args))


async def refusal(address, **options):
    """The error with which a link does not open; without secrets, whoever prints it and however."""
    with pytest.raises(LinkError) as raised:
        async with open_link(address, **{"open_timeout": LIMIT, "tls": INSECURE, **options}):
            pytest.fail("opened")
    error = raised.value
    assert error.__context__ is None, "what websockets raised may hold the URL"
    assert error.remedy
    report = traceback.TracebackException.from_exception(error)
    assert without_key("".join(report.format()))
    # The frames of the code under test, as a debugger or a crash report shows them.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if "deepio_adapters" in frame.f_code.co_filename]
    assert ours
    assert all(without_key(repr(frame.f_locals)) for frame in ours)
    return error


async def nobody(stream):
    """Closes at once."""


# --- HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cause", "says"),
    [
        (200, Cause.NOT_SIGNALING, "no hyperpeer server"),
        (302, Cause.NOT_SIGNALING, "HTTP 302"),
        (400, Cause.ADDRESS_REFUSED, "peer type or id"),
        (401, Cause.KEY_REFUSED, "refused the key"),
        (403, Cause.KEY_REFUSED, "HTTP 403"),
        (404, Cause.NOT_SIGNALING, "HTTP 404"),
        (407, Cause.NOT_SIGNALING, "HTTP 407"),
        (409, Cause.ID_IN_USE, "this id already"),
        (426, Cause.NOT_SIGNALING, "HTTP 426"),
        (429, Cause.SERVER_FULL, "no more peers"),
        (500, Cause.NOT_SIGNALING, "HTTP 500"),
        (502, Cause.UNREACHABLE, "does not reach the server"),
        (503, Cause.SERVER_FULL, "no more peers"),
        (504, Cause.UNREACHABLE, "HTTP 504"),
    ],
)
async def test_http_status(status, cause, says):
    def refuse(connection, request):
        # A server may write the path, with the key, into whatever it answers.
        return Response(status, HTTPStatus(status).phrase, Headers({"X-Path": request.path}), request.path.encode())

    async with websocket_server(silence, process_request=refuse) as port:
        error = await refusal(address_of(port))
        assert error.cause is cause
        assert says in error.message
        assert f"ws://127.0.0.1:{port}/stream_capture/cam-1/***" in error.message


async def test_no_key_given_where_one_is_wanted():
    async with websocket_server(silence, process_request=lambda c, r: c.respond(401, "")) as port:
        error = await refusal(address_of(port, key=None))
    assert error.cause is Cause.KEY_REFUSED
    assert "wants a key" in error.message
    assert "key=" in error.remedy


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://user:pass@deepio.example:8443{path}?next={path}", "https://deepio.example:8443"),
        ("/elsewhere{path}", ""),
    ],
)
async def test_a_redirection_is_told_and_not_followed(location, target):
    def redirect(connection, request):
        return Response(301, "Moved", Headers({"Location": location.format(path=request.path)}), b"")

    async with websocket_server(silence, process_request=redirect) as port:
        error = await refusal(address_of(port))
    assert error.cause is Cause.NOT_SIGNALING
    assert "HTTP 301" in error.message
    assert target in error.remedy
    assert "pass" not in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=["smtp", "ssh", "101-without-upgrade", "101-to-something-else", "endless-line"],
)
async def test_something_else_answers(answer):
    async def handler(stream):
        await stream.receive()
        await stream.send(answer)
        await silence(stream)

    async with tcp_server(handler) as port:
        error = await refusal(address_of(port))
    assert error.cause is Cause.NOT_SIGNALING
    assert "no WebSocket server" in error.message


# --- The network ------------------------------------------------------------------------------------------------


async def after_the_request(stream):
    await read_head(stream)


@pytest.mark.parametrize("handler", [nobody, after_the_request])
async def test_closed_without_an_answer(handler):
    # A look whether it speaks TLS follows; the second server leaves that unanswered until the time is up.
    async with tcp_server(handler) as port:
        error = await refusal(address_of(port), open_timeout=0.3)
    assert error.cause is Cause.UNREACHABLE
    assert "without an answer" in error.message


async def test_no_answer():
    async with tcp_server(silence) as port:
        for scheme in ("ws", "wss"):
            error = await refusal(address_of(port, scheme=scheme), open_timeout=0.1)
            assert error.cause is Cause.UNREACHABLE
            assert "did not answer in time" in error.message


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_nobody_listens(scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await refusal(address_of(taken.getsockname()[1], scheme=scheme))
    assert error.cause is Cause.UNREACHABLE
    assert "connection refused" in error.message
    assert "running" in error.remedy


async def test_nobody_listens_on_any_address_of_a_name(monkeypatch):
    def resolve(host, port, *args, **kwargs):
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
        ]

    # What a name resolves to is not for a test to find out from the network.
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await refusal(address_of(taken.getsockname()[1], host="localhost"))
    assert error.cause is Cause.UNREACHABLE
    assert "cannot be reached" in error.message


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_unknown_host(monkeypatch, anyio_backend):
    def resolve(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # uvloop resolves in C, out of reach here; a real lookup would ask the network.
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    error = await refusal(address_of(443, scheme="wss", host="deepio.example"), proxy=None)
    assert error.cause is Cause.UNKNOWN_HOST
    assert "deepio.example" in error.message
    assert "Name or service not known" in error.message


# --- TLS at the wrong port --------------------------------------------------------------------------------------


async def test_plain_to_a_tls_port():
    async with websocket_server(silence, ssl=server_context("127.0.0.1")) as port:
        error = await refusal(address_of(port))
    assert error.cause is Cause.NOT_SIGNALING
    assert "speaks TLS" in error.message
    assert "wss://" in error.remedy


async def test_tls_to_a_plain_port():
    async def web(stream):
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with tcp_server(web) as port:
        error = await refusal(address_of(port, scheme="wss"))
    assert error.cause is Cause.NOT_SIGNALING
    assert "without TLS" in error.message
    assert "ws://" in error.remedy


async def after_the_hello(stream):
    await stream.receive()


@pytest.mark.parametrize("handler", [nobody, after_the_hello])
async def test_closed_during_the_tls_handshake(handler):
    async with tcp_server(handler) as port:
        error = await refusal(address_of(port, scheme="wss"))
    assert error.cause is Cause.UNREACHABLE
    assert "TLS handshake" in error.message


async def test_no_tls_version_in_common():
    async def handler(stream):
        await stream.receive()
        # Alert 70, protocol_version (RFC 8446 section 6).
        await stream.send(b"\x15\x03\x01\x00\x02\x02\x46")
        await silence(stream)

    async with tcp_server(handler) as port:
        error = await refusal(address_of(port, scheme="wss"))
    assert error.cause is Cause.NOT_SIGNALING
    assert "PROTOCOL_VERSION" in error.message


# --- Proxies ----------------------------------------------------------------------------------------------------


def proxy_to(port, *, asked, status=b"200 Connection established"):
    """A proxy that leads to a local port, whatever it is asked for."""

    async def pump(source, sink):
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await sink.aclose()

    async def handler(stream):
        asked.append(await read_head(stream))
        await stream.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if status.startswith(b"200"):
            async with await anyio.connect_tcp("127.0.0.1", port) as server, anyio.create_task_group() as tasks:
                tasks.start_soon(pump, stream, server)
                tasks.start_soon(pump, server, stream)

    return tcp_server(handler)


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch):
    for name in ("ws", "wss", "http", "https", "all", "socks", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.mark.parametrize("by", ["argument", "environment"])
async def test_through_a_proxy(monkeypatch, by, tmp_path):
    asked: list[str] = []
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(ca))

    async def hello(link):
        await link.send("hello")

    async with (
        websocket_server(hello, ssl=server_context("deepio.example")) as port,
        proxy_to(port, asked=asked) as proxy_port,
    ):
        proxy = f"http://user:passw0rd@127.0.0.1:{proxy_port}"
        monkeypatch.setenv("HTTPS_PROXY", proxy if by == "environment" else "http://127.0.0.1:9")
        address = address_of(8443, scheme="wss", host="deepio.example")
        async with open_link(address, tls=TLSOptions(ca_file=ca), proxy=proxy if by == "argument" else True) as link:
            assert await link.receive() == "hello"
            with pytest.raises(LinkClosed):
                await link.receive()
        # The certificate is looked at over the proxy, too.
        error = await refusal(address, tls=TLSOptions(), proxy=proxy)
    assert error.cause is Cause.CERTIFICATE_REFUSED
    assert error.fingerprint
    assert all(head.startswith("CONNECT deepio.example:8443") for head in asked)
    assert len(asked) == 3


async def test_the_environment_has_no_proxy_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with websocket_server(silence_of_link) as port, open_link(address_of(port)):
        pass


async def silence_of_link(link):
    with pytest.raises(LinkClosed):
        await link.receive()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (b"407 Proxy Authentication Required", "user name and password"),
        (b"502 Bad Gateway", "HTTP 502"),
        (b"nonsense", "not as a proxy does"),
    ],
)
async def test_the_proxy_refuses(status, says):
    async with proxy_to(0, asked=[], status=status) as port:
        proxy = f"http://user:passw0rd@127.0.0.1:{port}"
        error = await refusal(address_of(443, scheme="wss", host="deepio.example"), proxy=proxy)
    assert error.cause is Cause.UNREACHABLE
    assert says in str(error)
    assert f"The proxy http://127.0.0.1:{port}" in error.message
    assert "passw0rd" not in str(error)


async def test_nobody_listens_at_the_proxy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = await refusal(address_of(443, scheme="wss", host="deepio.example"), proxy=proxy)
    assert error.cause is Cause.UNREACHABLE
    assert f"The proxy {proxy} cannot be reached: connection refused" in error.message


async def test_the_proxy_does_not_answer():
    async with tcp_server(silence) as port:
        address = address_of(443, scheme="wss", host="deepio.example")
        error = await refusal(address, proxy=f"http://127.0.0.1:{port}", open_timeout=0.1)
    assert error.cause is Cause.UNREACHABLE
    assert "in time" in error.message


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_proxy_has_an_unknown_name(monkeypatch, anyio_backend):
    def resolve(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    address = address_of(443, scheme="wss", host="deepio.example")
    error = await refusal(address, proxy="http://proxy.example:3128")
    assert error.cause is Cause.UNKNOWN_HOST
    assert "http://proxy.example:3128 has an unknown host name" in error.message


async def test_the_certificate_of_the_proxy_is_not_trusted():
    async def handler(stream):
        with contextlib.suppress(OSError):
            await TLSStream.wrap(stream, server_side=True, ssl_context=server_context("127.0.0.1"))

    async with tcp_server(handler) as port:
        address = address_of(443, scheme="wss", host="deepio.example")
        error = await refusal(address, proxy=f"https://127.0.0.1:{port}")
    assert error.cause is Cause.CERTIFICATE_REFUSED
    assert "The proxy https://127.0.0.1" in error.message
    assert error.fingerprint is None


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("socks5h://user:passw0rd@127.0.0.1:9", "python-socks"),
        ("ftp://user:passw0rd@127.0.0.1:9", "scheme ftp"),
        ("http://user@127.0.0.1:9", "without password"),
    ],
)
async def test_a_proxy_that_cannot_be_used(proxy, says):
    error = await refusal(address_of(443, scheme="wss", host="deepio.example"), proxy=proxy)
    assert error.cause is Cause.UNREACHABLE
    assert says in str(error)
    assert "user@" not in error.message
    assert "passw0rd" not in str(error)


# --- The logs ---------------------------------------------------------------------------------------------------


async def test_the_log_shows_the_handshake_without_the_key(caplog):
    async def handler(stream):
        await upgrade(stream)
        await stream.send(b"\x81\x02{}\x88\x02\x03\xe8")

    async with tcp_server(handler) as port, open_link(address_of(port)) as link:
        assert await link.receive() == "{}"
    texts = [record.getMessage() for record in caplog.records]
    assert "> GET /stream_capture/cam-1/*** HTTP/1.1" in texts
    # The fixture of this module looks for the key; that it would find it:
    assert not without_key(f"> GET /stream_capture/cam-1/{address_of(1).key} HTTP/1.1")
    assert unquote(address_of(1).key) == KEY
