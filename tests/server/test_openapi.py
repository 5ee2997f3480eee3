"""/openapi.json describes every body, and its references lead somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def follow(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/")]
    return document


def test_bodies_are_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        if "post" in operations and path != "/":  # which only answers with the list of paths
            schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert schema["properties"], path
    found = set(references(document))
    assert found
    assert all(follow(document, reference) for reference in found)
    assert client.get("/docs").status_code == 200
