"""Every error that carrel raises on purpose.

::

    CarrelError
    ├── ModelError                     the model cannot be served
    │   ├── ModelNotFoundError         no such name, folder or bundled model
    │   ├── UnsupportedModelError      an architecture or option that carrel does not have (yet)
    │   └── WeightsError               weights are missing, damaged, or only there as pickle
    ├── RequestError (ValueError)      this request is wrong; the engine goes on
    │   ├── InvalidParamsError         a parameter is out of range; ``param`` names it
    │   ├── ContextLengthError         more tokens than the model's context
    │   ├── ChatTemplateError          the model has no chat template, or it refused the messages
    │   └── UnsupportedTaskError       e.g. embeddings asked of a chat model
    ├── CapacityError                  nothing is wrong but there is no room
    │   ├── QueueFullError             try again later
    │   └── OutOfMemoryError           the memory plan does not fit the machine
    └── EngineError                    the engine failed, not the request
        ├── EngineClosedError          close() was called
        ├── EngineDeadError            the engine loop ended by an error, kept as __cause__
        └── StepError                  the model failed on the batch that held this request

A message says what is wrong and what to do next. A bug in carrel is an AssertionError, never one of these.
"""

from __future__ import annotations


class CarrelError(Exception):
    """Base of all errors that carrel raises on purpose."""


class ModelError(CarrelError):
    """The model cannot be served."""


class ModelNotFoundError(ModelError):
    """No model of that name: not a folder, not bundled, not downloaded."""


class UnsupportedModelError(ModelError):
    """The model's architecture, or an option it needs, is not supported."""


class WeightsError(ModelError):
    """The weights are missing, damaged, or only there as pickle."""


class RequestError(CarrelError, ValueError):
    """The request is wrong; nothing else is affected. ``param`` names the field at fault, if one is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidParamsError(RequestError):
    """A parameter is out of its range or does not fit another one."""


class ContextLengthError(RequestError):
    """The prompt, or the prompt with ``max_tokens``, is longer than the model's context."""

    def __init__(self, message: str, *, num_tokens: int, max_model_len: int, param: str | None = "prompt") -> None:
        super().__init__(message, param=param)
        self.num_tokens = num_tokens
        self.max_model_len = max_model_len

    def of_input(self, index: int) -> ContextLengthError:
        """The same error for one of many inputs, which it names."""
        return ContextLengthError(
            f"Input {index}: {self}", num_tokens=self.num_tokens, max_model_len=self.max_model_len, param=self.param
        )


class ChatTemplateError(RequestError):
    """The model has no chat template, or its template refused the messages."""


class UnsupportedTaskError(RequestError):
    """The model cannot do what was asked, e.g. embeddings of a chat model."""


class CapacityError(CarrelError):
    """Nothing is wrong with the request, but there is no room for it."""


class QueueFullError(CapacityError):
    """Too many requests wait already; try again later."""


class OutOfMemoryError(CapacityError):
    """The memory plan does not fit the machine."""


class EngineError(CarrelError):
    """The engine failed, not the request."""


class EngineClosedError(EngineError):
    """The engine was closed."""


class EngineDeadError(EngineError):
    """The engine loop ended by an error, kept as ``__cause__``."""


class StepError(EngineError):
    """The model failed on the batch that held this request."""
