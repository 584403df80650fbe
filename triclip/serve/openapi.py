"""The API as an OpenAPI 3.1 document, for generated clients and for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .limits import Limits

_PARAMETERS = {
    "q": "Words that are searched for.",
    "without": "Words that are not wanted.",
    "like": "Id of a picture of the folder that is wanted; may be repeated.",
    "unlike": "Id of a picture of the folder that is not wanted; may be repeated.",
    "name": "Part of the file's name, or a pattern with * and ?.",
    "filter": "A filter over the index's columns, such as year>=2020; all must hold; may be repeated.",
    "top": "How many pictures.",
}
_SEVERAL = ("like", "unlike", "filter")
_ERRORS = {
    "400": "A parameter that can't be.", "404": "No such picture.", "408": "The body came too slowly.",
    "413": "Too large.", "415": "No picture.", "429": "Too often; see Retry-After.", "503": "Too many at once.",
}  # fmt: skip
_FOUND = {
    "id": {"type": "string"}, "name": {"type": "string"}, "similarity": {"type": "number"},
    "picture": {"type": "string"}, "thumbnail": {"type": "string"}, "metadata": {"type": "object"},
}  # fmt: skip
_RESULT = {
    "query": {"type": "object"}, "count": {"type": "integer"}, "seconds": {"type": "number"},
    "results": {"type": "array", "items": {"$ref": "#/components/schemas/Found"}},
}  # fmt: skip
_ERROR = {
    "error": {"type": "object", "properties": {"status": {"type": "integer"}, "message": {"type": "string"}}}
}  # fmt: skip


def document(limits: Limits, version: str) -> dict[str, Any]:
    """The document of a server with these limits."""
    found = _json("What was found, best first.", {"$ref": "#/components/schemas/Result"})
    search = {"parameters": [_parameter(name, limits) for name in _PARAMETERS], "responses": _answers(found)}
    picture = {"type": "string", "format": "binary"}
    fields = {name: {"type": "string"} for name in _PARAMETERS}
    form = {"schema": {"type": "object", "properties": {"picture": picture, **fields}}}
    body = {"content": {"image/*": {"schema": picture}, "multipart/form-data": form}}
    by_id = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    health = _json("It runs.", {"type": "object"})
    return {
        "openapi": "3.1.0",
        "info": {"title": "triclip serve", "version": version},
        "paths": {
            "/api/search": {
                "get": {"summary": "Search by words and pictures of the folder.", **search},
                "post": {"summary": "Search by a picture, too.", "requestBody": body, **search},
            },
            "/api/health": {"get": {"summary": "That it runs.", "responses": {"200": health}}},
            "/thumbnail/{id}": {"get": _file("A small JPEG.", "image/jpeg", by_id)},
            "/picture/{id}": {"get": _file("The file.", "image/*", by_id)},
        },
        "components": {"schemas": {"Found": _schema(_FOUND), "Result": _schema(_RESULT), "Error": _schema(_ERROR)}},
    }


def _parameter(name: str, limits: Limits) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "string", "maxLength": limits.query_letters}
    if name == "top":
        kind = {"type": "integer", "minimum": 1, "maximum": limits.results, "default": limits.default_results}
    schema = {"type": "array", "items": kind, "maxItems": limits.parts} if name in _SEVERAL else kind
    return {"name": name, "in": "query", "description": _PARAMETERS[name], "schema": schema}


def _schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties)}


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answers(good: Mapping[str, Any], errors: Sequence[str] = tuple(_ERRORS)) -> dict[str, Any]:
    return {"200": good, **{code: _json(_ERRORS[code], {"$ref": "#/components/schemas/Error"}) for code in errors}}


def _file(summary: str, kind: str, parameters: Sequence[Any]) -> dict[str, Any]:
    content = {"description": summary, "content": {kind: {"schema": {"type": "string", "format": "binary"}}}}
    return {"summary": summary, "parameters": parameters, "responses": _answers(content, ("404",))}
