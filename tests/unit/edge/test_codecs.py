"""What is encoded elsewhere and decoded here: frames, gzip, paths, queries, tokens: round trips, named refusals."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput, TooLarge, Unauthenticated
from services.edge.body import RATIO, RATIO_FROM, Body, Limits
from services.edge.contract.frame import ClientFrame
from services.edge.keys import Caller
from services.edge.request import Request
from services.edge.routes import PATH_MAX, Target, target_of
from services.edge.token import PREFIX, Session, Tokens
from services.edge.web_socket import _Connection
from tests.fakes import virtual_time
from tests.unit.edge.fakes import DEFAULTS

LIMITS = Limits(20_000, 5_000, 10.0)
SCALARS = st.one_of(st.none(), st.text(max_size=20), st.integers(-(2**53), 2**53))
FRAMES = st.builds(
    ClientFrame,
    type=st.sampled_from(["ping", "message"]),
    ref=SCALARS,
    player_id=SCALARS,
    text=st.none() | st.text(max_size=50),
)
# Secrets come from the operating system otherwise.
TOKENS = Tokens(DEFAULTS.model_copy(update={"data": ":memory:"}))


async def _sent(_: dict[str, Any]) -> None:
    raise AssertionError("reading sends nothing")


def connection(*, packed: bool) -> _Connection:
    return _Connection(_sent, packed=packed)


def refused(decode: Any) -> str | Any:
    """The value, or the reason of its refusal: nothing else may come out."""
    try:
        return decode()
    except (BadInput, TooLarge, Unauthenticated) as error:
        return error.reason


@given(FRAMES)
def test_a_frame_says_the_same_in_json_and_messagepack(frame: ClientFrame) -> None:
    assert connection(packed=True).read(msgspec.msgpack.encode(frame)) == frame
    assert connection(packed=False).read(msgspec.json.encode(frame)) == frame


@given(st.binary(max_size=200) | FRAMES.map(msgspec.msgpack.encode).map(lambda data: data[:-1]))
def test_what_is_no_frame_is_named(data: bytes) -> None:
    for packed, reasons in (
        (True, {"INVALID_MSGPACK", "INVALID_FIELD"}),
        (False, {"INVALID_JSON", "INVALID_FIELD", "EMPTY_BODY", "NOT_UTF8", "TOO_DEEP"}),
    ):
        told = refused(lambda packed=packed: connection(packed=packed).read(data))
        assert isinstance(told, ClientFrame) or told in reasons


def body_of(chunks: list[bytes], coding: bytes = b"gzip") -> bytes | str:
    """A body that came in these chunks, or the reason of its refusal."""
    left = [*chunks]

    async def receive() -> dict[str, Any]:
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def read() -> bytes | str:
        try:
            return await Body(receive, {b"content-encoding": coding}, LIMITS).read()
        except (BadInput, TooLarge) as error:
            return error.reason

    found: list[bytes | str] = []

    async def run() -> None:
        found.append(await read())

    virtual_time.run(run())
    return found[0]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000), st.integers(0, 9), st.lists(st.integers(0, 4000), max_size=4))
def test_gzip_in_any_chunks_is_what_was_packed(content: bytes, level: int, cuts: list[int]) -> None:
    packed = gzip.compress(content, level)
    edges = [0, *sorted(min(cut, len(packed)) for cut in cuts), len(packed)]
    chunks = [packed[a:b] for a, b in pairwise(edges)]
    assert body_of(chunks) == content
    assert body_of([*chunks, b"more"]) == "BAD_GZIP"
    assert body_of([packed[:-1]]) == "BAD_GZIP", "cut short"
    assert body_of([zlib.compress(content)]) == "BAD_GZIP"


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3), st.integers(1, 60_000))
def test_what_inflates_too_much_is_refused(pattern: bytes, times: int) -> None:
    content = pattern * times
    packed = gzip.compress(content, 9)
    told = body_of([packed])
    if len(content) > LIMITS.size:
        assert told in ("BODY_TOO_LARGE", "GZIP_RATIO")
    elif len(content) > RATIO_FROM and len(content) > RATIO * len(packed):
        assert told == "GZIP_RATIO"
    else:
        assert told == content


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=10), max_size=5))
def test_paths_are_what_was_quoted(segments: list[str]) -> None:
    told = target_of("/".join(["", "x", *(quote(one, safe="") for one in segments)]).encode())
    assert told.segments == ("x", *segments)


@given(st.binary(max_size=60))
def test_any_path_is_read_or_refused(path: bytes) -> None:
    told = refused(lambda: target_of(path))
    assert told == "NOT_UTF8" or (isinstance(told, Target) and all(told.segments))
    assert refused(lambda: target_of(b"/" * (PATH_MAX + 1))) == "TOO_LONG"


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=10), max_size=5))
def test_a_query_is_what_was_quoted(values: dict[str, str]) -> None:
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in values.items())
    assert query_of(text.encode()) == values


@given(st.binary(max_size=60))
def test_any_query_is_read_or_refused(text: bytes) -> None:
    told = refused(lambda: query_of(text))
    assert told == "NOT_UTF8" or isinstance(told, dict)


def query_of(text: bytes) -> dict[str, str]:
    async def never() -> dict[str, Any]:
        raise AssertionError("a query has no body")

    return Request("GET", {}, text, Caller("t"), Body(never, {}, LIMITS)).query


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2**62), st.integers(1, 2**40), st.data())
def test_a_token_is_what_was_signed_and_no_other(
    tenant: str, world: str, epoch: int, expires: int, data: st.DataObject
) -> None:
    session = Session(tenant, "k", world, epoch, expires)
    token = TOKENS.sign(session)
    assert TOKENS.check(token, expires - 1) == session
    with pytest.raises(Unauthenticated) as late:
        TOKENS.check(token, expires)
    assert late.value.reason == "SESSION_EXPIRED"
    place = data.draw(st.integers(len(PREFIX), len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[place]))
    spoilt = token[:place] + other + token[place + 1 :]
    told = refused(lambda: TOKENS.check(spoilt, expires - 1))
    # Base64 has spare bits: another last letter may stand for the same bytes.
    assert told in ("UNKNOWN_SESSION", session)
