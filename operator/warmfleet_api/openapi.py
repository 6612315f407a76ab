"""The API's own description, `GET /openapi.json`: what is read, what is refused, and what passes to the engine unread.

A runner and the router have one each: the router's has what it adds. Bounds stand here only where this API holds them;
every object takes more fields, which are the engine's affair.
"""

from functools import lru_cache
from typing import Any

import msgspec

from warmfleet_api import names

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
PATHS = (CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE, DETOKENIZE)
"""What goes to an engine, all by POST."""
PATH = "/openapi.json"
MODELS = "/v1/models"
HEALTH = "/health"
MAX_N = 128
"""OpenAI's own bound."""
MAX_SEQUENCES = 2048
"""`n` times prompts of one request, which the engine creates all at once. OpenAI's own bound for a list of inputs."""
_INT64 = 2**63 - 1
Schema = dict[str, Any]


@lru_cache(maxsize=1)
def runner_document(served_names: tuple[str, ...]) -> bytes:
    """Return a runner's document as JSON; `model` may be one of the names that are served."""
    health = _got("health", "Whether every engine answers.", 200, {})
    health["responses"]["503"] = {"description": "One does not."}
    return _encoded("runner", "OpenAI's API in front of one runner's engines.", served_names, {HEALTH: {"get": health}})


@lru_cache(maxsize=16)
def router_document(served_names: tuple[str, ...]) -> bytes:
    """Return the router's document as JSON; `model` may be one of the names that its reader may ask for."""
    model = _got("model", "One model, with its state.", 200, _json(_ref("Model")))
    model["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    model["responses"]["404"] = _error("No such model.")
    document = _document(
        "router",
        "OpenAI's API in front of all models. A request for one that sleeps is held while it wakes.",
        served_names,
        {HEALTH: {"get": _got("health", "Whether the router answers.", 200, {})}, MODELS + "/{model}": {"get": model}},
    )
    for path in PATHS:
        posted = document["paths"][path]["post"]
        posted["parameters"].append(
            _header(
                names.HEADER_HEARTBEAT,
                "How often a stream that is held shows a sign of life, in seconds.",
                {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
            )
        )
        posted["responses"]["401"] = _error("The model answers to API keys alone.")
    key = {"type": "http", "scheme": "bearer", "description": "API key of a Tenant, where the namespace has any."}
    document["components"]["securitySchemes"] = {"key": key}
    document["security"] = [{}, {"key": []}]
    return msgspec.json.encode(document)


def _encoded(who: str, description: str, served_names: tuple[str, ...], paths: Schema) -> bytes:
    return msgspec.json.encode(_document(who, description, served_names, paths))


def _document(who: str, description: str, served_names: tuple[str, ...], paths: Schema) -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Warmfleet {who}", "version": "v1", "description": description},
        "paths": {
            CHAT: {"post": _posted("chat", "Answer a conversation.", "ChatRequest", "ChatAnswer", stream=True)},
            COMPLETIONS: {
                "post": _posted("complete", "Continue a text.", "CompletionRequest", "CompletionAnswer", stream=True)
            },
            EMBEDDINGS: {"post": _posted("embed", "Embed texts.", "EmbeddingRequest", "EmbeddingAnswer")},
            TOKENIZE: {"post": _posted("tokenize", "Split a text.", "TokenizeRequest", "TokenizeAnswer")},
            DETOKENIZE: {"post": _posted("detokenize", "Join tokens.", "DetokenizeRequest", "DetokenizeAnswer")},
            MODELS: {"get": _got("models", "List what is served here.", 200, _json(_ref("Models")))},
            PATH: {"get": _got("openapi", "This document.", 200, _json({"type": "object"}))},
            **paths,
        },
        "components": {"schemas": _schemas(served_names)},
    }


def _posted(name: str, summary: str, body: str, answer: str, *, stream: bool = False) -> Schema:
    content = _json(_ref(answer))["content"]
    if stream:
        content = {**content, "text/event-stream": {"schema": _object(["data"], data={"type": "string"})}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*_headers()],
        "requestBody": {"required": True, **_json(_ref(body))},
        "responses": {"200": {"description": "The answer.", "content": content}, **_errors(), "429": _too_many()},
    }


def _got(name: str, summary: str, status: int, response: Schema) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {str(status): {"description": summary, **response}, "405": _error("Another method.")},
    }


def _headers() -> list[Schema]:
    return [
        _header(names.HEADER_SESSION, "Requests of one conversation.", {"type": "string", "maxLength": 256}),
        _header(
            names.HEADER_DEADLINE,
            "How long the sender waits for the first token, in milliseconds.",
            {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
        ),
    ]


def _header(name: str, text: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _errors() -> Schema:
    texts = {
        "400": "The request can never be served: the message names the field.",
        "404": "No such model here, or the model can't do this.",
        "405": "Another method than POST.",
        "408": "The body did not come in time.",
        "413": "The body is too large.",
        "415": "The body is encoded.",
        "501": "The engine does not support this.",
        "503": "The engine takes no requests now: ask again after Retry-After.",
        "504": "The engine did not answer in time.",
    }
    return {status: _error(text) for status, text in texts.items()}


def _error(text: str) -> Schema:
    return {"description": text, **_json(_ref("Error"))}


def _too_many() -> Schema:
    header = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
    return {**_error("Not now: the message says why."), "headers": {"Retry-After": header}}


def _json(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _integer(low: int, high: int = _INT64) -> Schema:
    return _nullable({"type": "integer", "minimum": low, "maximum": high})


def _schemas(served_names: tuple[str, ...]) -> Schema:
    text = {"type": "string"}
    model: Schema = {"type": "string", "minLength": 1}
    if served_names:
        model["enum"] = list(served_names)
    ids = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": _INT64}}
    prompts = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "maxItems": MAX_SEQUENCES, "items": text},
            ids,
            {"type": "array", "minItems": 1, "maxItems": MAX_SEQUENCES, "items": ids},
        ]
    }
    part = _object(["type"], type=text, text=text)
    content = _nullable({"anyOf": [text, {"type": "array", "items": part}]})
    messages = {"type": "array", "minItems": 1, "items": _object(["role"], role=text, content=content)}
    sampling: dict[str, Schema] = {
        "model": model,
        "stream": _nullable({"type": "boolean"}),
        "n": _integer(1, MAX_N),
        "temperature": _nullable({"type": "number"}),
        "seed": _integer(-_INT64 - 1),
        "truncate_prompt_tokens": _integer(-1),
    }
    usage = _object(
        ["prompt_tokens", "total_tokens"], prompt_tokens={"type": "integer"}, total_tokens={"type": "integer"}
    )
    answer = {"id": text, "object": text, "model": text, "usage": usage}
    choices = {"type": "array", "items": {"type": "object"}}
    error = _object(["message"], message=text, type=_nullable(text), param=_nullable(text), code={})
    return {
        "ChatRequest": _object(
            ["model", "messages"],
            **sampling,
            messages=messages,
            max_completion_tokens=_integer(1),
            max_tokens=_integer(1),
        ),
        "CompletionRequest": _object(["model", "prompt"], **sampling, prompt=prompts, max_tokens=_integer(0)),
        "EmbeddingRequest": _object(["model", "input"], model=model, input=prompts),
        "TokenizeRequest": {
            "anyOf": [
                _object(["model", "prompt"], model=model, prompt=text),
                _object(["model", "messages"], model=model, messages=messages),
            ]
        },
        "DetokenizeRequest": _object(["model", "tokens"], model=model, tokens={**ids, "minItems": 0}),
        "ChatAnswer": _object(["id", "choices", "usage"], **answer, choices=choices),
        "CompletionAnswer": _object(["id", "choices", "usage"], **answer, choices=choices),
        "EmbeddingAnswer": _object(["data", "usage"], **answer, data={"type": "array", "items": {"type": "object"}}),
        "TokenizeAnswer": _object(["count", "tokens"], count={"type": "integer"}, tokens={**ids, "minItems": 0}),
        "DetokenizeAnswer": _object(["prompt"], prompt=text),
        "Model": _object(["id", "object"], id=text, object=text),
        "Models": _object(["object", "data"], object=text, data={"type": "array", "items": _ref("Model")}),
        "Error": _object(["error"], error=error),
    }
