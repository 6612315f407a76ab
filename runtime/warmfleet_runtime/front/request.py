"""What the front reads of a request's body, and what it refuses before an engine sees it.

Only the fields that admission needs are decoded; all others pass to the engine as they came. What is refused here is
what no engine could serve: it costs microseconds instead of an engine's time, and the message names the field.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from warmfleet_api.openapi import CHAT, COMPLETIONS, DETOKENIZE, EMBEDDINGS, MAX_N, MAX_SEQUENCES, TOKENIZE

MAX_BYTES_PER_TOKEN = 256
"""Of a whole prompt on average. The longest tokens of known vocabularies are runs of 128 or fewer characters, so a
prompt with more bytes than this per token of the model's context can't fit into it, whatever the tokenizer."""
BYTES_PER_TOKEN = 4.0
"""Of ordinary text, while nothing better is known of the model's tokenizer."""
IMAGE_TOKENS = 1024
"""Estimate for a part of a message that is no text."""
_COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""
_INT64 = 2**63 - 1
_LONG = b"0" * 19
_DIGITS = bytes(ord("0") if chr(each).isdecimal() and each < 128 else ord(" ") for each in range(256))
"""Makes every digit a 0 and all else a space."""
_GREEDY = 1e-5
"""Temperatures below it are 0 to vLLM."""
_IDENTITY = frozenset({"user", "safety_identifier", "prompt_cache_key"})
"""Fields that say who asks and change no answer."""


@dataclass(frozen=True, slots=True)
class BadRequest:
    """Why a request is refused."""

    message: str
    param: str | None = None
    """The field at fault, as OpenAI's clients show it."""
    code: str = "invalid_request"
    status: int = 400

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body in OpenAI's shape."""
        error = {"message": self.message, "type": "invalid_request_error", "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class ParsedRequest:
    """What admission has to know of a request."""

    path: str
    body: bytes
    model: str
    stream: bool
    sequences: int
    """`n` times prompts, at least 1."""
    prompt_bytes: int
    """UTF-8 bytes of text in all prompts together."""
    prompt_ids: int
    """Tokens that came as ids, and estimates for what is no text."""
    longest_prompt_bytes: int
    longest_prompt_ids: int
    answer_tokens: int | None
    """The most one sequence may generate; None: whatever the context leaves."""
    is_deterministic: bool
    """Greedy, seeded, or nothing is generated: the same body gets the same answer."""
    truncates: bool
    """The engine was asked to cut prompts to size."""

    @property
    def generates(self) -> bool:
        """Whether it takes a place in the engine's batch; tokenizing does not."""
        return self.path not in {TOKENIZE, DETOKENIZE}

    @property
    def prompt_tokens(self) -> int:
        """All prompts together, estimated."""
        return self.prompt_tokens_at(BYTES_PER_TOKEN)

    def prompt_tokens_at(self, bytes_per_token: float) -> int:
        """All prompts together, estimated with what is known of the model's tokenizer."""
        return self.prompt_ids + round(self.prompt_bytes / bytes_per_token)

    def longest_prompt_tokens_at(self, bytes_per_token: float) -> int:
        """The longest of its prompts, estimated."""
        return self.longest_prompt_ids + round(self.longest_prompt_bytes / bytes_per_token)

    @cached_property
    def merge_key(self) -> bytes | None:
        """Equal for requests that get the same answer in the same form; None: the answer is not determined by them."""
        if not self.is_deterministic or not self.generates:
            return None
        try:
            told = msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, RecursionError):
            # In a field that is the engine's alone: what it makes of it is its own affair.
            return None
        fields = {
            name: value
            for name, value in told.items()
            if name not in _IDENTITY and value is not None and (name, value) != ("stream", False)
        }
        canonical = msgspec.json.encode([self.path, fields], order="deterministic")
        return hashlib.blake2b(canonical, digest_size=16).digest()

    def exceeds(self, context_tokens: int) -> BadRequest | None:
        """Return why a model with this context can't serve it, as far as that is certain without its tokenizer."""
        if self.answer_tokens is not None and self.answer_tokens > context_tokens:
            field = _answer_field(self.body)
            message = f"{field} asks for {self.answer_tokens} tokens, and the model's context holds {context_tokens}"
            return _too_long(message, field)
        if self.truncates or not self.generates:
            return None
        field = {CHAT: "messages", COMPLETIONS: "prompt"}.get(self.path, "input")
        if self.longest_prompt_ids > context_tokens:
            message = f"{field} has a prompt of {self.longest_prompt_ids} tokens, and the model's context holds"
            return _too_long(f"{message} {context_tokens}", field)
        if self.longest_prompt_bytes > context_tokens * MAX_BYTES_PER_TOKEN:
            message = f"{field} has a prompt of {self.longest_prompt_bytes} bytes, more than the model's context of"
            return _too_long(f"{message} {context_tokens} tokens can hold", field)
        return None


# Where OpenAI's type is an integer, 1.0 is one too, as to every JSON schema; `_integer` refuses the others.
_Number = int | float


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part | str] | _Part | None = None


_Prompts = str | list[int | str | list[int | _Message] | _Message] | None


class _Common(msgspec.Struct):
    model: Annotated[str, Meta(min_length=1)]


class _Generation(_Common):
    stream: bool | None = None
    n: _Number | None = None
    max_tokens: _Number | None = None
    temperature: float | None = None
    seed: _Number | None = None
    truncate_prompt_tokens: _Number | None = None


class _Chat(_Generation, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_completion_tokens: _Number | None = None


class _Completion(_Generation):
    prompt: _Prompts = None
    prompt_embeds: str | list[str] | None = None


class _Embedding(_Common):
    input: _Prompts = None
    messages: list[_Message | list[_Message]] | None = None
    truncate_prompt_tokens: _Number | None = None


class _Tokenize(_Common):
    prompt: str | None = None
    messages: list[_Message] | None = None


class _Detokenize(_Common, kw_only=True):
    tokens: list[int]


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(_Chat),
    COMPLETIONS: msgspec.json.Decoder(_Completion),
    EMBEDDINGS: msgspec.json.Decoder(_Embedding),
    TOKENIZE: msgspec.json.Decoder(_Tokenize),
    DETOKENIZE: msgspec.json.Decoder(_Detokenize),
}


class _RefusedError(Exception):
    def __init__(self, answer: BadRequest) -> None:
        super().__init__(answer.message)
        self.answer = answer


def parse(path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> ParsedRequest | BadRequest:
    """Read the body of a POST to one of `PATHS`. Headers are ASGI's: names in lower case."""
    try:
        encoding = next((value for name, value in headers if name == b"content-encoding"), b"identity")
        if encoding.lower() != b"identity":
            raise _refused("send the body without Content-Encoding", code="unsupported_encoding", status=415)
        if path not in _DECODERS:
            raise _refused(f"no such path: {path}", code="not_found", status=404)
        return _read(path, body, _decode(path, body))
    except _RefusedError as refused:
        return refused.answer


def _refused(message: str, param: str | None = None, code: str = "invalid_request", status: int = 400) -> _RefusedError:
    return _RefusedError(BadRequest(message, param, code, status))


def _bad_field(field: str, problem: str) -> _RefusedError:
    return _refused(f"{field} {problem}", field)


def _decode(path: str, body: bytes) -> Any:
    try:
        # As text, because the decoder skips fields it does not know without looking at their bytes.
        fields = _DECODERS[path].decode(body.decode())
        if _LONG in body.translate(_DIGITS):
            _check_integers(body)
        return fields
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not UTF-8: invalid byte at {error.start}", code="invalid_json") from None
    except RecursionError:
        raise _refused("the body is nested too deeply", code="invalid_json") from None
    except msgspec.ValidationError as error:
        raise _RefusedError(_wrong_type(str(error))) from None
    except msgspec.DecodeError as error:
        raise _refused(f"the body is not JSON: {error}", code="invalid_json") from None


def _check_integers(body: bytes) -> None:
    """Refuse integers that no engine can take over, wherever they stand: to it they are an error of its own."""
    for name, value in msgspec.json.decode(body).items():
        left = [value]
        while left:
            each = left.pop()
            if isinstance(each, dict):
                left += each.values()
            elif isinstance(each, list):
                left += each
            elif isinstance(each, int) and not -_INT64 - 1 <= each <= _INT64:
                raise _bad_field(name, "has an integer that does not fit into 64 bits")


def _read(path: str, body: bytes, fields: Any) -> ParsedRequest:
    prompts = _Sizes()
    answer_tokens: int | None = 0
    stream, is_deterministic = False, True
    match fields:
        case _Chat():
            prompts.add_chat(fields.messages)
            answer_tokens = _integer(fields, "max_completion_tokens", 1) or _integer(fields, "max_tokens", 1)
        case _Completion():
            prompts.add_all("prompt", fields.prompt)
            answer_tokens = _integer(fields, "max_tokens", 0)
            if answer_tokens is None:
                answer_tokens = _COMPLETION_TOKENS
            embeds = [fields.prompt_embeds] if isinstance(fields.prompt_embeds, str) else fields.prompt_embeds or []
            prompts.count += len(embeds)
            if prompts.count == 0:
                raise _bad_field("prompt", "has to be a string, a list of them, or a list of token ids, and not empty")
        case _Embedding():
            if fields.input is None and not fields.messages:
                raise _bad_field("input", "has to be a string, a list of them, or a list of token ids, and not empty")
            prompts.add_all("input", fields.input)
            for chat in fields.messages or ():
                prompts.add_chat(chat if isinstance(chat, list) else [chat])
        case _Tokenize():
            prompts.add_all("prompt", fields.prompt)
            prompts.add_chat(fields.messages or [])
        case _Detokenize():
            _check_ids("tokens", fields.tokens)
            prompts.add_ids(len(fields.tokens))
    if isinstance(fields, _Generation):
        sequences = (_integer(fields, "n", 1) or 1) * max(1, prompts.count)
        stream = bool(fields.stream)
        is_greedy = fields.temperature is not None and fields.temperature < _GREEDY
        is_deterministic = is_greedy or _integer(fields, "seed", -(2**63)) is not None
    else:
        sequences = max(1, prompts.count)
    if sequences > MAX_SEQUENCES:
        raise _bad_field("n", f"times prompts has to be at most {MAX_SEQUENCES}, and is {sequences}")
    return ParsedRequest(
        path=path,
        body=body,
        model=fields.model,
        stream=stream,
        sequences=sequences,
        prompt_bytes=prompts.text_bytes,
        prompt_ids=prompts.ids,
        longest_prompt_bytes=prompts.longest_bytes,
        longest_prompt_ids=prompts.longest_ids,
        answer_tokens=answer_tokens,
        is_deterministic=is_deterministic,
        truncates=getattr(fields, "truncate_prompt_tokens", None) is not None,
    )


class _Sizes:
    """Adds prompts up."""

    def __init__(self) -> None:
        self.count = 0
        self.text_bytes = self.longest_bytes = 0
        self.ids = self.longest_ids = 0

    def add_all(self, field: str, prompts: Any) -> None:
        """Add a field that holds one prompt, or many, of text, token ids or messages."""
        if prompts is None or prompts in ("", []):
            return
        if isinstance(prompts, str):
            self.add_text(_utf8_bytes(prompts))
        elif isinstance(prompts[0], int):
            _check_ids(field, prompts)
            self.add_ids(len(prompts))
        elif isinstance(prompts[0], _Message):
            self.add_chat([each for each in prompts if isinstance(each, _Message)])
        else:
            for prompt in prompts:
                self._add_one(field, prompt)

    def add_chat(self, messages: list[_Message]) -> None:
        """Add a conversation."""
        text, others = 0, 0
        for message in messages:
            parts = message.content if isinstance(message.content, list) else [message.content]
            for part in parts:
                words = part.text if isinstance(part, _Part) else part
                if words is not None:
                    text += _utf8_bytes(words)
                elif part is not None:
                    others += IMAGE_TOKENS
        if messages:
            self.add_text(text)
            self.ids += others

    def add_text(self, size: int) -> None:
        """Add a prompt of so many bytes."""
        self.count += 1
        self.text_bytes += size
        self.longest_bytes = max(self.longest_bytes, size)

    def add_ids(self, count: int) -> None:
        """Add a prompt of so many token ids."""
        self.count += 1
        self.ids += count
        self.longest_ids = max(self.longest_ids, count)

    def _add_one(self, field: str, prompt: Any) -> None:
        if isinstance(prompt, str):
            self.add_text(_utf8_bytes(prompt))
        elif isinstance(prompt, list) and prompt and isinstance(prompt[0], _Message):
            self.add_chat([each for each in prompt if isinstance(each, _Message)])
        elif isinstance(prompt, list):
            _check_ids(field, prompt)
            self.add_ids(len(prompt))
        else:
            raise _bad_field(field, "has to hold either strings or token ids, not both")


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _check_ids(field: str, ids: list[Any]) -> None:
    if any(not isinstance(each, int) for each in ids):
        raise _bad_field(field, "has to hold either strings or token ids, not both")
    if ids and min(ids) < 0:
        raise _bad_field(field, "has to hold token ids of 0 or more")


def _integer(fields: _Generation, name: str, low: int) -> int | None:
    value: _Number | None = getattr(fields, name)
    if value is None:
        return None
    high = MAX_N if name == "n" else _INT64
    if not (low <= value <= high and value == int(value)):
        raise _bad_field(name, f"has to be an integer from {low} to {high}")
    return int(value)


_TYPE_ERROR = re.compile(r"^(?P<text>.*?)(?: - at `(?P<place>(?:key in )?\$.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected `(?P<wanted>[^`]*)`(?:, got `(?P<got>[^`]*)`| of length >= 1)$")
_WORDS = {
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _wrong_type(error: str) -> BadRequest:
    """Say msgspec's words for a Python programmer in words for whoever wrote the JSON."""
    found = _TYPE_ERROR.match(error)
    text, place = (found["text"], found["place"] or "$") if found else (error, "$")
    field = place.replace("[...]", "").removeprefix("$").removeprefix(".")
    missing = re.match(r"Object missing required field `(\w+)`", text)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        return BadRequest(f"{field} is missing", field)
    expected = _EXPECTED.match(text)
    if expected:
        wanted = " or ".join(dict.fromkeys(_WORDS.get(each, each) for each in expected["wanted"].split(" | ")))
        got = f"is {_WORDS.get(expected['got'], expected['got'])}" if expected["got"] else "is empty"
        got = "is a boolean" if expected["got"] == "bool" else got
        return BadRequest(f"{field or 'the body'} has to be {wanted}, and {got}", field or None)
    return BadRequest(f"{field or 'the body'}: {text}", field or None)


def _too_long(message: str, field: str) -> BadRequest:
    return BadRequest(message, field, code="context_length_exceeded")


def _answer_field(body: bytes) -> str:
    return "max_completion_tokens" if b'"max_completion_tokens"' in body else "max_tokens"
