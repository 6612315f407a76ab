"""What the front reads of a body, and what it refuses before an engine sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api.openapi import (
    CHAT,
    COMPLETIONS,
    DETOKENIZE,
    EMBEDDINGS,
    MAX_N,
    MAX_SEQUENCES,
    PATHS,
    TOKENIZE,
)
from warmfleet_runtime.front import request
from warmfleet_runtime.front.request import MAX_BYTES_PER_TOKEN, BadRequest, ParsedRequest

HELLO = [{"role": "user", "content": "Hello"}]


def read(path: str, **fields: Any) -> ParsedRequest:
    parsed = request.parse(path, [], json.dumps({"model": "m", **fields}).encode())
    assert isinstance(parsed, ParsedRequest), parsed
    return parsed


def refused(path: str, body: bytes) -> BadRequest:
    parsed = request.parse(path, [], body)
    assert isinstance(parsed, BadRequest), parsed
    return parsed


def deep(depth: int) -> bytes:
    return b'{"model":"m","prompt":"x","field":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        (CHAT, b"", None, "not JSON"),
        (CHAT, b"{", None, "not JSON"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}]} x', None, "not JSON"),
        (CHAT, b"[]", None, "the body has to be an object, and is a list"),
        (CHAT, b"null", None, "the body has to be an object, and is null"),
        (CHAT, b"\xef\xbb\xbf{}", None, "not JSON"),
        (CHAT, '{"model":"m"}'.encode("utf-16"), None, "not UTF-8"),
        (COMPLETIONS, b'{"model":"m","prompt":"\xff"}', None, "not UTF-8: invalid byte at 23"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","user":"\xff"}', None, "not UTF-8"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","user":"\\ud800"}', None, "not JSON"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","temperature":NaN}', None, "not JSON"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","min_p":NaN}', None, "not JSON"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","temperature":-Infinity}', None, "not JSON"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","temperature":1e999}', "temperature", "out of range"),
        (COMPLETIONS, deep(100_000), None, "nested too deeply"),
        (CHAT, b"[" * 100_000, None, "the body has to be an object"),
        (CHAT, b'{"messages":[{"role":"user","content":"x"}]}', "model", "model is missing"),
        (CHAT, b'{"model":"","messages":[{"role":"user","content":"x"}]}', "model", "model has to be a string"),
        (CHAT, b'{"model":3,"messages":[]}', "model", "model has to be a string, and is a number"),
        (CHAT, b'{"model":"m"}', "messages", "messages is missing"),
        (CHAT, b'{"model":"m","messages":[]}', "messages", "messages has to be a list, and is empty"),
        (CHAT, b'{"model":"m","messages":["x"]}', "messages[0]", "has to be an object, and is a string"),
        (
            CHAT,
            b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":1}]}]}',
            "messages[0].content[0].text",
            "has to be a string or null, and is a number",
        ),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"n":1000000}', "n", f"from 1 to {MAX_N}"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"n":0}', "n", f"from 1 to {MAX_N}"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"n":true}', "n", "has to be a number or null"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"max_tokens":-1}', "max_tokens", "has to be an integer"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"max_tokens":9223372036854775808}', "max_tokens", "64 bits"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"max_tokens":1.5}', "max_tokens", "an integer"),
        (CHAT, b'{"model":"m","messages":[{"content":"x"}],"stream":"yes"}', "stream", "true or false or null"),
        (COMPLETIONS, b'{"model":"m"}', "prompt", "not empty"),
        (COMPLETIONS, b'{"model":"m","prompt":""}', "prompt", "not empty"),
        (COMPLETIONS, b'{"model":"m","prompt":[]}', "prompt", "not empty"),
        (COMPLETIONS, b'{"model":"m","prompt":[1,"x"]}', "prompt", "either strings or token ids"),
        (COMPLETIONS, b'{"model":"m","prompt":[-1]}', "prompt", "token ids of 0 or more"),
        (COMPLETIONS, b'{"model":"m","prompt":{"x":1}}', "prompt", "has to be a string or a list or null"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","top_k":9223372036854775808}', "top_k", "64 bits"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","a":[{"b":-9223372036854775809}]}', "a", "64 bits"),
        (COMPLETIONS, b'{"model":"m","prompt":"x","a":' + b"9" * 5000 + b"}", None, "out of range"),
        (COMPLETIONS, b'{"model":"m","n":128,"prompt":[' + b'"a",' * 16 + b'"b"]}', "n", "times prompts"),
        (EMBEDDINGS, b'{"model":"m"}', "input", "not empty"),
        (DETOKENIZE, b'{"model":"m","tokens":["x"]}', "tokens[0]", "has to be a number, and is a string"),
        (DETOKENIZE, b'{"model":"m","tokens":[-1]}', "tokens", "token ids of 0 or more"),
    ],
)  # fmt: skip
def test_a_hostile_body_is_refused_with_the_field_and_what_it_may_be(
    path: str, body: bytes, param: str | None, words: str
) -> None:
    bad = refused(path, body)
    assert (bad.status, bad.param) == (400, param)
    assert words in bad.message
    assert bad.body["error"] == {
        "message": bad.message,
        "type": "invalid_request_error",
        "param": param,
        "code": bad.code,
    }


def test_an_encoded_body_and_an_unknown_path_are_refused() -> None:
    bad = request.parse(CHAT, [(b"content-encoding", b"gzip")], b"")
    assert isinstance(bad, BadRequest) and bad.status == 415
    assert refused("/v1/unknown", b"{}").status == 404


@pytest.mark.parametrize(
    ("parsed", "sequences", "size", "ids"),
    [
        (lambda: read(CHAT, messages=HELLO), 1, 5, 0),
        (lambda: read(CHAT, messages=HELLO, n=3), 3, 5, 0),
        (lambda: read(CHAT, messages=HELLO, n=3.0), 3, 5, 0),
        (lambda: read(CHAT, messages=[{"content": [{"type": "text", "text": "né"}]}]), 1, 3, 0),
        (lambda: read(CHAT, messages=[{"content": [{"type": "image_url"}]}]), 1, 0, request.IMAGE_TOKENS),
        (lambda: read(CHAT, messages=[{"role": "assistant", "tool_calls": []}]), 1, 0, 0),
        (lambda: read(COMPLETIONS, prompt="abc"), 1, 3, 0),
        (lambda: read(COMPLETIONS, prompt=["abc", "de"], n=2), 4, 5, 0),
        (lambda: read(COMPLETIONS, prompt=[7, 8, 9]), 1, 0, 3),
        (lambda: read(COMPLETIONS, prompt=[[7, 8], [9]]), 2, 0, 3),
        (lambda: read(EMBEDDINGS, input=["abc", "de"]), 2, 5, 0),
        (lambda: read(EMBEDDINGS, input=HELLO), 1, 5, 0),
        (lambda: read(EMBEDDINGS, messages=HELLO), 1, 5, 0),
        (lambda: read(TOKENIZE, prompt="abc"), 1, 3, 0),
        (lambda: read(DETOKENIZE, tokens=[1, 2]), 1, 0, 2),
    ],
)
def test_prompts_are_counted_as_sequences_bytes_and_ids(parsed: Any, sequences: int, size: int, ids: int) -> None:
    its = parsed()
    assert (its.sequences, its.prompt_bytes, its.prompt_ids) == (sequences, size, ids)


def test_the_answer_s_length_is_what_was_asked_for_or_openai_s_default() -> None:
    assert read(COMPLETIONS, prompt="x").answer_tokens == 16
    assert read(COMPLETIONS, prompt="x", max_tokens=3).answer_tokens == 3
    assert read(CHAT, messages=HELLO).answer_tokens is None
    assert read(CHAT, messages=HELLO, max_tokens=3, max_completion_tokens=5).answer_tokens == 5
    assert read(EMBEDDINGS, input="x").answer_tokens == 0


def test_what_vllm_adds_to_openai_s_fields_passes() -> None:
    its = read(CHAT, messages=HELLO, top_k=5, structured_outputs={"regex": "a+"}, vllm_xargs={"a": 1}, unheard_of=[{}])
    assert json.loads(its.body)["unheard_of"] == [{}]


def test_a_field_written_with_escapes_is_the_same_field() -> None:
    parsed = request.parse(CHAT, [], b'{"mod\\u0065l": "m", "messages": [{"content": "x"}]}')
    assert isinstance(parsed, ParsedRequest) and parsed.model == "m"


# The model's context -------------------------------------------------------------------------------------------------


def test_what_a_context_can_not_hold_whatever_the_tokenizer_is_refused() -> None:
    context = 100
    most = "x" * (context * MAX_BYTES_PER_TOKEN)
    assert read(COMPLETIONS, prompt=most).exceeds(context) is None
    for its, param in (
        (read(COMPLETIONS, prompt=most + "x"), "prompt"),
        (read(COMPLETIONS, prompt=["a", most + "x"]), "prompt"),
        (read(COMPLETIONS, prompt=list(range(101))), "prompt"),
        (read(EMBEDDINGS, input=most + "x"), "input"),
        (read(CHAT, messages=[{"content": most + "x"}]), "messages"),
        (read(COMPLETIONS, prompt="x", max_tokens=101), "max_tokens"),
        (read(CHAT, messages=HELLO, max_completion_tokens=101), "max_completion_tokens"),
    ):
        bad = its.exceeds(context)
        assert bad and (bad.code, bad.param) == ("context_length_exceeded", param)
        assert "100" in bad.message


def test_many_prompts_are_measured_one_by_one() -> None:
    assert read(COMPLETIONS, prompt=["x" * 200] * 200, max_tokens=1).exceeds(1) is None


def test_a_prompt_the_engine_is_to_cut_may_be_of_any_length() -> None:
    assert read(COMPLETIONS, prompt=list(range(500)), truncate_prompt_tokens=50, max_tokens=1).exceeds(100) is None


# Merging -------------------------------------------------------------------------------------------------------------


def key(path: str = CHAT, **fields: Any) -> bytes | None:
    defaults: dict[str, dict[str, Any]] = {
        CHAT: {"messages": HELLO},
        COMPLETIONS: {"prompt": "x"},
        EMBEDDINGS: {"input": "x"},
    }
    return read(path, **{**defaults[path], **fields}).merge_key


def test_only_answers_that_the_request_determines_have_a_key() -> None:
    assert key() is None
    assert key(temperature=0.7) is None
    assert key(temperature=None) is None
    for certain in ({"temperature": 0}, {"temperature": 0.0}, {"seed": 1}, {"temperature": 0.7, "seed": 1}):
        assert key(**certain)
    assert key(EMBEDDINGS)


def test_who_asks_and_what_says_nothing_changes_no_key() -> None:
    same = key(temperature=0)
    assert same == key(temperature=0, user="u") == key(temperature=0, stream=False) == key(temperature=0, stop=None)
    spaced = request.parse(CHAT, [], b'{"temperature" : 0, "messages":[{"content":"Hello","role":"user"}],"model":"m"}')
    assert isinstance(spaced, ParsedRequest) and spaced.merge_key == same


def test_anything_else_changes_the_key() -> None:
    keys = [
        key(temperature=0),
        key(temperature=0, stream=True),
        key(temperature=0, stream=True, stream_options={"include_usage": True}),
        key(temperature=0, max_tokens=3),
        key(temperature=0, n=2),
        key(temperature=0, logprobs=True),
        key(temperature=0, unheard_of=1),
        key(temperature=0, messages=[*HELLO, *HELLO]),
        key(COMPLETIONS, temperature=0),
        key(seed=1),
        key(seed=2),
    ]
    assert None not in keys and len(set(keys)) == len(keys)


def test_a_body_whose_unread_part_is_odd_is_not_merged() -> None:
    parsed = request.parse(COMPLETIONS, [], b'{"model":"m","prompt":"x","seed":1,"odd":1e999}')
    assert isinstance(parsed, ParsedRequest) and parsed.merge_key is None


# Properties ----------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *("model", "messages", "prompt", "input", "tokens", "n", "max_tokens", "max_completion_tokens", "stream"),
        *("temperature", "seed", "truncate_prompt_tokens", "prompt_embeds", "user", "top_k"),
    ]
)


@given(st.sampled_from(PATHS), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(path: str, body: bytes) -> None:
    assert isinstance(request.parse(path, [], body), ParsedRequest | BadRequest)


@given(st.sampled_from(PATHS), st.dictionaries(FIELDS, VALUES, max_size=8), st.integers(1, 1000))
def test_any_object_is_read_or_refused_and_what_is_read_is_bounded(path: str, fields: Any, context: int) -> None:
    parsed = request.parse(path, [], json.dumps(fields).encode(errors="surrogatepass"))
    if isinstance(parsed, BadRequest):
        assert parsed.status == 400 and parsed.message
        return
    assert parsed.model == fields["model"]
    assert 1 <= parsed.sequences <= MAX_SEQUENCES
    assert parsed.prompt_tokens >= 0
    assert parsed.answer_tokens is None or parsed.answer_tokens >= 0
    assert parsed.merge_key is None or len(parsed.merge_key) == 16
    assert parsed.exceeds(context) is None or parsed.generates
