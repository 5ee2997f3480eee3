"""Calls as Hermes and Qwen 2.5 and 3 write them: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``."""

from __future__ import annotations

from carrel.parsers.json_call import JsonCallParser
from carrel.parsers.reader import Steps


class HermesParser(JsonCallParser):
    """One object between each pair of tags.

    >>> from carrel.parsers.tool_set import ToolSet
    >>> delta = HermesParser(ToolSet()).push('好 <tool_call>{"name": "f", "arguments": {"a": [1')
    >>> delta.content, delta.tool_calls[0].name, delta.tool_calls[0].arguments
    ('好 ', 'f', '{"a": [1')
    """

    markers = ("<tool_call>",)
    tokens = ("<tool_call>", "</tool_call>")

    def _calls(self, marker: str) -> Steps[None]:
        yield from self.reader.space()
        yield from self._object()
        yield from self.reader.space()
        yield from self.reader.optional("</tool_call>")
