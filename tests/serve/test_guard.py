"""Who is let in, and how much they may take. Each rule of SECURITY.md that a server keeps has its test here."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from pangzhu.errors import UsageError
from pangzhu.serve import guard, protocol
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.run import own_names
from pangzhu.serve.shelf import Shelf
from tests.serve.conftest import KEY, SECONDS, Running, Scripted, ScriptedEngine, running, scripts, wait_until

pytest_plugins = ["tests.use_fixtures"]

CHAT = "/v1/chat/completions"
BODY = {"model": "base", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One for all tests of the file: what is refused leaves nothing behind, and a server takes a while to stop."""
    with scripts() as start:
        yield start().server


@pytest.fixture(scope="module")
def keyed() -> Iterator[Running]:
    """One that asks for a key."""
    with scripts() as start:
        yield start(api_key=KEY).server


def raw(server: Running, sent: bytes, *, end: bool = False) -> bytes:
    """What comes back for bytes as they are, until the server closes."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def raw_or_closed(server: Running, sent: bytes) -> bytes:
    """As `raw`; nothing where the server closed before it was asked."""
    try:
        return raw(server, sent)
    except ConnectionError:
        return b""


def clients_of(server: Running) -> set[int]:
    """Ports of those whom the server holds a connection to."""
    connections = psutil.Process().net_connections("tcp")
    return {each.raddr.port for each in connections if each.raddr and each.laddr.port == server.port}


# --- names and origins: DNS rebinding, cross-site requests ----------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "", "169.254.1.1"]
)
@pytest.mark.parametrize(
    ("method", "path", "body"), [("GET", "/v1/models", None), ("POST", CHAT, BODY), ("GET", "/", None)]
)
def test_a_foreign_host_name_is_refused(server: Running, host: str, method: str, path: str, body: object) -> None:
    assert server.ask(method, path, body, Host=host).status == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_this_machines_own_names_are_not(server: Running, host: str) -> None:
    assert server.ask("GET", "/v1/models", Host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_pages_of_other_origins_are_refused(server: Running, origin: str) -> None:
    for method, path, body in (("POST", CHAT, BODY), ("GET", "/v1/models", None), ("OPTIONS", CHAT, None)):
        reply = server.ask(method, path, body, Origin=origin)
        assert reply.status == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_pages_own_origin_is_let_in(server: Running) -> None:
    assert server.ask("POST", CHAT, BODY, Origin=f"http://127.0.0.1:{server.port}").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_posts_that_a_browser_calls_foreign_are_refused(server: Running, site: str) -> None:
    assert server.ask("POST", CHAT, BODY, Sec_Fetch_Site=site).status == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_could_send_is_refused(server: Running, kind: str) -> None:
    assert server.ask("POST", CHAT, BODY, Content_Type=kind).status == 415


def test_the_name_of_json_may_be_written_in_capitals(server: Running) -> None:
    assert server.ask("POST", CHAT, BODY, Content_Type="Application/JSON; charset=UTF-8").status == 200


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v1/examples", "/ready", "/metrics", "/openapi.json", "/nothing"])
@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer schlüssel"]
)
def test_every_route_asks_for_the_key(keyed: Running, path: str, given: str) -> None:
    with closing(keyed.connection()) as connection:
        connection.putrequest("GET", path)
        connection.putheader("Authorization", given.encode())
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 401
        assert json.loads(response.read())["error"]["code"] == "invalid_api_key"


def test_with_its_key_everything_answers_and_health_and_the_page_do_without(keyed: Running) -> None:
    assert keyed.chat("base", "x").status == 200
    for path in ("/health", "/"):
        assert keyed.ask("GET", path, Authorization="").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_others_are_let_near_with_a_key_alone(host: str) -> None:
    with pytest.raises(UsageError) as refused:
        ServeConfig(host=host)
    assert refused.value.key == "error.serve.no_key"
    assert not ServeConfig(host=host, api_key=KEY).is_private


@pytest.mark.parametrize(
    "key", ["1234", "", "密钥密钥密钥密钥密钥密钥密钥密钥", " begins with a blank", "two lines\nof a key as such"]
)
def test_a_key_that_is_short_or_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(UsageError) as refused:
        ServeConfig(api_key=key)
    assert refused.value.key == "error.serve.short_key"


def test_in_public_the_machines_names_count_and_those_that_were_given() -> None:
    names = own_names(ServeConfig(host="0.0.0.0", api_key=KEY, allowed_host=("Models.Example",)))
    assert {"localhost", "127.0.0.1", "models.example", socket.gethostname().lower()} <= names
    assert "evil.example" not in names


# --- sizes and times -------------------------------------------------------------------------------------------------


def test_a_body_over_a_megabyte_is_refused(server: Running) -> None:
    large = {**BODY, "user": "x" * guard.MOST_BODY}
    assert server.ask("POST", CHAT, large).status == 413
    chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
    head = (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert b" 413 " in raw(server, head % CHAT.encode() + chunk * 20 + b"0\r\n\r\n", end=True).split(b"\r\n")[0]


def test_a_body_that_does_not_come_is_given_up(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard.Rules, "receive_seconds", 0.2)
    monkeypatch.setattr("pangzhu.serve.run.Rules", lambda *given: guard.Rules(*given, receive_seconds=0.2))
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    head += b"Connection: close\r\n\r\n{"
    answer = raw(scripted().server, head % CHAT.encode())
    assert b" 408 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_does_not_come_closes_the_connection(
    server: Running, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    started = time.monotonic()
    assert raw(server, sent) == b""
    assert time.monotonic() - started < SECONDS / 2


def test_headers_over_16_kilobytes_are_refused(server: Running) -> None:
    answer = raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", end=True)
    assert b" 400 " in answer.split(b"\r\n")[0] or b" 431 " in answer.split(b"\r\n")[0]


def test_a_reader_that_takes_nothing_loses_its_answer(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.serve.run.Rules", lambda *given: guard.Rules(*given, reader_seconds=0.3))
    script = scripted(["x" * 100_000] * 200)
    script.engine.context_length = 10_000
    body = {**BODY, "max_tokens": 5000, "stream": True}
    connection = script.server.connection()
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    wait_until(lambda: script.server.metric("pangzhu_answers_at_work") == 1, "the answer has begun")
    wait_until(lambda: script.server.metric("pangzhu_answers_at_work") == 0, "the place is free again")
    connection.close()


def test_a_connection_to_a_reader_that_takes_nothing_is_cut_off(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.serve.run.Rules", lambda *given: guard.Rules(*given, reader_seconds=0.3))
    monkeypatch.setattr(protocol, "CLOSE_SECONDS", 0.3)
    script = scripted(["x" * 100_000] * 200)
    script.engine.context_length = 10_000
    connection = script.server.connection()
    body = {**BODY, "max_tokens": 5000, "stream": True}
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    wait_until(lambda: script.server.metric("pangzhu_answers_at_work") == 1, "the answer has begun")
    port = connection.sock.getsockname()[1]
    wait_until(lambda: port not in clients_of(script.server), "the server has let go of the connection")
    connection.close()


def test_a_request_that_takes_too_long_is_ended(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.serve.run.Rules", lambda *given: guard.Rules(*given, request_seconds=0.3))
    script = scripted(["word "] * 100_000)
    script.engine.context_length = 200_000
    reply = script.server.chat("base", "x", max_tokens=100_000)
    assert (reply.status, reply.json["error"]["code"]) == (504, "timeout")
    wait_until(lambda: script.engine.at_work == 0, "the engine stops")


def test_more_connections_than_allowed_are_closed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 3)
    kept = [socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) for _ in range(3)]
    assert raw_or_closed(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    for connection in kept:
        connection.close()


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../english",
        "..%2fenglish",
        "/etc/passwd",
        "C:\\x",
        "con",
        "english/",
        "https://evil.example/x",
        "a" * 64,
        "{{7*7}}",
    ],
)
def test_a_name_is_never_a_place(scripted: Callable[..., Scripted], adapters: Path, name: str) -> None:
    server = scripted(adapters=adapters).server
    reply = server.chat(name, "x")
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
    listed = server.ask("GET", f"/v1/models/{name}" if name[0] not in "/{" else "/v1/models/..")
    assert listed.status == 404


def test_a_link_out_of_the_folder_is_not_followed(
    scripted: Callable[..., Scripted], adapters: Path, trained: object
) -> None:
    try:
        (adapters / "linked").symlink_to(trained.english, target_is_directory=True)  # type: ignore[attr-defined]
    except OSError:
        pytest.skip("this system makes no links")
    assert scripted(adapters=adapters).server.chat("linked", "x").status == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("tools", [{"type": "function"}]), ("functions", [{}]), ("logit_bias", {"1": 5}), ("logprobs", True),
        ("frequency_penalty", 1), ("presence_penalty", 0.5), ("modalities", ["audio"]),
        ("tool_choice", "required"), ("audio", {}), ("top_logprobs", 3), ("web_search_options", {}),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(server: Running, field: str, value: object) -> None:
    error = server.ask("POST", CHAT, {**BODY, field: value}).json["error"]
    assert (error["param"], error["code"]) == (field, "unsupported")
    assert field in error["message"]


def test_unknown_fields_and_those_that_ask_for_nothing_are_ignored(server: Running) -> None:
    idle = {
        "n": 1,
        "tools": [],
        "logprobs": False,
        "frequency_penalty": 0,
        "user": "me",
        "metadata": {},
        "brand_new": 1,
    }
    assert server.ask("POST", CHAT, {**BODY, **idle, "response_format": {"type": "text"}, "stop": None}).status == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"), ({"messages": [{"role": "user"}]}, "messages.0.content"), ({"model": ""}, "model"),
        ({"temperature": float("nan")}, "temperature"), ({"top_p": float("nan")}, "top_p"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"), ({"temperature": 3}, "temperature"),
        ({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 5}, "stop"), ({"messages": [{"role": "user", "content": "x"}] * 201}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_place(server: Running, change: dict[str, object], param: str) -> None:
    reply = server.ask("POST", CHAT, {**BODY, **change})
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert str(reply.json["error"]["param"]).startswith(param)


@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(server: Running, sent: bytes) -> None:
    with closing(server.connection()) as connection:
        connection.request("POST", CHAT, sent, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 400
        assert json.loads(response.read())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("prompt", ["", [""], []])
def test_nothing_cannot_be_continued(server: Running, prompt: object) -> None:
    assert server.ask("POST", "/v1/completions", {"model": "base", "prompt": prompt}).status == 400


def test_no_depth_of_a_schema_breaks_the_server(server: Running) -> None:
    for depth in range(400, 1000, 20):
        schema = '{"a":' * depth + "1" + "}" * depth
        wanted = f'{{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}'
        body = json.dumps(BODY)[:-1] + f', "response_format": {wanted}}}'
        with closing(server.connection()) as connection:
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
            assert connection.getresponse().status in (200, 400)


def test_a_conversation_too_long_for_the_model_is_refused(server: Running) -> None:
    reply = server.chat("base", "word " * 100, max_tokens=3)
    assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", CHAT, 405), ("DELETE", "/", 405)]
)
def test_every_fault_has_openais_shape(server: Running, method: str, path: str, status: int) -> None:
    reply = server.ask(method, path)
    assert reply.status == status
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


def test_a_fault_that_nobody_thought_of_has_openais_shape_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "adapters", lambda _self: (_ for _ in ()).throw(PermissionError("/home/somebody")))
    reply = server.ask("GET", "/v1/models")
    assert (reply.status, reply.json["error"]["type"]) == (500, "server_error")
    assert "somebody" not in reply.body.decode()


def test_a_template_in_a_message_is_text(scripted: Callable[..., Scripted]) -> None:
    reply = scripted(["{{", "7*7}}"]).server.chat("base", "{{ 7*7 }} {% include '/etc/passwd' %}")
    assert reply.json["choices"][0]["message"]["content"] == "{{7*7}}"


# --- what is told ----------------------------------------------------------------------------------------------------


def test_logs_tell_lengths_and_times_and_nothing_of_what_was_written(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with running(lambda config: ScriptedEngine(config, ["secret answer"]), said.append) as server:  # type: ignore[arg-type, return-value]
        assert server.answer("base", "secret question") == "secret answer"
    assert any(line.startswith(f"POST {CHAT} 200 ") for line in said)
    assert "secret" not in "".join(said) + "".join(capfd.readouterr())


def test_what_a_terminal_would_obey_is_not_said() -> None:
    said: list[str] = []
    with running(ScriptedEngine, said.append) as server:  # type: ignore[arg-type, return-value]
        assert server.ask("GET", "/%1b]0;gone%07%0aPOST%20/forged%20200").status == 404
    [line] = [line for line in said if "forged" in line]
    assert line.startswith("GET /·]0;gone··POST /forged 200 404 ")


def test_every_answer_forbids_what_a_browser_might_do_with_it(server: Running) -> None:
    for path in ("/", "/v1/models", "/nothing"):
        headers = server.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = server.ask("GET", "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_server_asks_nobody(scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    connect = socket.socket.connect

    def noted(self: socket.socket, address: object) -> None:
        asked.append(address)
        connect(self, address)  # type: ignore[arg-type]

    server = scripted().server
    monkeypatch.setattr(socket.socket, "connect", noted)
    for path in ("/", "/v1/models", "/metrics", "/ready"):
        assert server.ask("GET", path).status == 200
    link = "see https://example.org/a.png and file:///etc/passwd"
    assert server.chat("base", link).status == 200
    assert asked == [("127.0.0.1", server.port)] * 5  # the test's own questions


@pytest.mark.parametrize("missing", ["nowhere", "a file"])
def test_a_folder_of_adapters_that_is_not_there_is_told(tmp_path: Path, missing: str) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(UsageError) as refused:
        Shelf(tmp_path / missing, ())
    assert refused.value.key == "error.serve.no_folder"
