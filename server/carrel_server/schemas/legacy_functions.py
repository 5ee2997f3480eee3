"""``functions`` and ``function_call``, which ``tools`` has replaced. Knows how to say the same in today's spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carrel.errors import InvalidParamsError

from carrel_server.schemas.tools import ToolUse, checked_function, read_tools


def read_functions(functions: Sequence[Any], function_call: Any) -> ToolUse:
    """
    >>> read_functions([{"name": "f"}], {"name": "f"}).forced
    True

    Raises:
        InvalidParamsError: a function without a name, or a choice that is none.
    """
    tools = [{"function": checked_function(f"functions[{i}]", function)} for i, function in enumerate(functions)]
    if function_call not in (None, "auto", "none") and not isinstance(function_call, Mapping):
        raise InvalidParamsError("function_call must be auto, none or name a function.", param="function_call")
    return read_tools(tools, function_call)


def with_tool_messages(messages: Sequence[Any]) -> list[Any]:
    """The old messages in today's spelling: an assistant's ``function_call``, and role ``function`` for its result."""
    result: list[Any] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            result.append(message)
        elif isinstance(message.get("function_call"), Mapping):
            call = {"id": f"call_{index}", "type": "function", "function": message["function_call"]}
            rest = {key: value for key, value in message.items() if key != "function_call"}
            result.append({**rest, "tool_calls": [call]})
        elif message.get("role") == "function":
            result.append({**message, "role": "tool", "tool_call_id": _last_call_id(result)})
        else:
            result.append(message)
    return result


def _last_call_id(messages: Sequence[Any]) -> str:
    calls = messages[-1].get("tool_calls") if messages and isinstance(messages[-1], Mapping) else None
    return str(calls[0]["id"]) if calls else "call_0"
