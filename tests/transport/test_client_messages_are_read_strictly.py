"""Whatever a client sends is a message or ``InvalidMessage``; nothing else ever comes out of reading it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.transport import messages
from sessions_app.transport.messages import InvalidMessage, Ping, SessionStart, SessionStop

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
types = st.sampled_from(["session.start", "session.stop", "ping", "session.started", "error", ""])


def read(text: str) -> Any:
    try:
        return messages.read(text)
    except InvalidMessage as error:
        assert str(error)
        return None


@given(text=st.text(max_size=500) | st.binary(max_size=500).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_is_a_message_or_invalid(text: str) -> None:
    read(text)


@given(kind=types, fields=st.dictionaries(st.sampled_from(["metadata", "pipeline", "transport", "backend", "t", "x"]), values, max_size=5))
def test_any_fields_are_a_message_or_invalid_and_what_is_read_can_be_stored(kind: str, fields: dict[str, Any]) -> None:
    message = read(json.dumps({"type": kind, **fields}))
    if isinstance(message, SessionStart):
        stored = json.dumps(message.metadata)
        assert "\\u0000" not in stored
        assert json.loads(stored) == message.metadata
    elif isinstance(message, Ping):
        assert json.loads(messages.encode(messages.Pong(t=message.t)))["t"] == message.t


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"session.start"}', SessionStart()),
        ('{"type":"session.start","pipeline":"s2s","transport":"webrtc","backend":"b-1","metadata":{"a":[1]}}',
         SessionStart(metadata={"a": [1]}, pipeline="s2s", transport="webrtc", backend="b-1")),
        ('{"type":"session.stop"}', SessionStop()),
        ('{"type":"ping"}', Ping()),
        ('{"type":"ping","t":"x"}', Ping(t="x")),
        ('{"type":"ping","t":1.5}', Ping(t=1.5)),
    ],
)  # fmt: skip
def test_what_the_protocol_has_is_read(text: str, message: Any) -> None:
    assert messages.read(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"ping"',
        "{}",
        '{"type":5}',
        '{"type":"session.begin"}',
        '{"type":"session.start","metadata":null}',
        '{"type":"session.start","metadata":[]}',
        '{"type":"session.start","pipeline":"telepathy"}',
        '{"type":"session.start","backend":5}',
        '{"type":"session.start","backend":"a b"}',
        '{"type":"session.start","user":"root"}',
        '{"type":"ping","t":{}}',
        '{"type":"ping","t":99999999999999999999999}',
        '{"type":"ping"} {"type":"ping"}',
        "[" * 60_000,
        '{"type":"session.start","metadata":' + '{"a":' * 9_000 + "1" + "}" * 9_000 + "}",
        '{"type":"session.start","metadata":{"a":"\\u0000"}}',
        '{"type":"session.start","metadata":{"\\u0000":1}}',
        '{"type":"session.start","metadata":{"a":"' + "x" * 4096 + '"}}',
        '{"type":"session.start","metadata":{"a":' + "[" * 17 + "]" * 17 + "}}",
    ],
)
def test_what_the_protocol_does_not_have_is_invalid(text: str) -> None:
    with pytest.raises(InvalidMessage):
        messages.read(text)


def test_metadata_of_exactly_4_kib_is_read() -> None:
    padding = "x" * (messages.MAX_METADATA_BYTES - len('{"a":""}'))
    assert messages.read(json.dumps({"type": "session.start", "metadata": {"a": padding}})) == SessionStart(metadata={"a": padding})
