"""Schemas in, parsers out: what ``ChatCarrel.with_structured_output`` asks the model for, and how it reads the answer.

Knows LangChain's spellings of a schema; the grammar that holds the answer is the engine's.
"""

from __future__ import annotations

import inspect
from operator import itemgetter
from typing import Any, Literal, TypeGuard, get_args

from carrel.errors import InvalidParamsError
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

Method = Literal["json_schema", "function_calling", "json_mode"]


def asking(model: BaseChatModel, schema: Any, method: Method, strict: bool | None, options: dict[str, Any]) -> Any:
    """The model, bound to what makes it answer so; ``options`` are bound, too.

    Raises:
        InvalidParamsError: no such method, or ``strict`` with ``json_mode``.
    """
    if method not in get_args(Method):
        message = f"method must be {', '.join(get_args(Method))}, got {method!r}."
        raise InvalidParamsError(message, param="method")
    how: dict[str, Any] = {"method": method} if strict is None else {"method": method, "strict": strict}
    bound: dict[str, Any] = {"ls_structured_output_format": {"kwargs": how, "schema": schema}, **options}
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        return model.bind_tools([schema], tool_choice=name, strict=strict, parallel_tool_calls=False, **bound)
    if method == "json_schema":
        wrapped = {"name": "answer", "schema": _json_schema(schema, strict)}
        return model.bind(response_format={"type": "json_schema", "json_schema": wrapped}, **bound)
    if strict is not None:
        raise InvalidParamsError("strict needs a schema that is held to; json_mode holds to none.", param="strict")
    return model.bind(response_format={"type": "json_object"}, **bound)


def reading(schema: Any, method: Method) -> Runnable[Any, Any]:
    """What makes an object of the class, or a dict, of the answer."""
    if method == "function_calling":
        if _is_model(schema):
            return WholeModelCall(tools=[schema], first_tool_only=True)
        return WholeCall(key_name=convert_to_openai_tool(schema)["function"]["name"], first_tool_only=True)
    return WholeModel(pydantic_object=schema) if _is_model(schema) else WholeJson()


def beside_raw(asked: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """``{"raw", "parsed", "parsing_error"}``: what cannot be parsed is told, not raised."""
    parse = RunnablePassthrough.assign(parsed=RunnableLambda(itemgetter("raw")) | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=asked) | parse.with_fallbacks([failed], exception_key="parsing_error")


def _is_model(schema: Any) -> TypeGuard[type[BaseModel]]:
    return inspect.isclass(schema) and is_basemodel_subclass(schema)


def _json_schema(schema: Any, strict: bool | None) -> dict[str, Any]:
    """``strict`` closes objects and asks for every property, as OpenAI has it."""
    if not strict and inspect.isclass(schema) and issubclass(schema, BaseModel):
        return schema.model_json_schema()  # LangChain's way writes references out, which a recursive class cannot have
    return convert_to_json_schema(schema, strict=strict)


# Parsers. LangChain's read what there is of an answer that was cut off; half a record is worse than an error.


class _Whole:
    """Refuses what ``max_tokens`` cut off."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """
        Raises:
            OutputParserException: the answer was cut off, or is not what was asked for.
        """
        first = result[0]
        metadata = first.message.response_metadata if isinstance(first, ChatGeneration) else {}
        if metadata.get("finish_reason") == "length":
            raise OutputParserException("The answer was cut off before its form was complete; give more max_tokens.")
        return super().parse_result(result, partial=partial)  # type: ignore[misc]  # the parser that it stands before


class WholeJson(_Whole, JsonOutputParser):
    """A dict."""


class WholeModel(_Whole, PydanticOutputParser[Any]):
    """An object of a pydantic class."""


class WholeCall(_Whole, JsonOutputKeyToolsParser):
    """The arguments of a call."""


class WholeModelCall(_Whole, PydanticToolsParser):
    """The arguments of a call, as an object of a pydantic class."""
