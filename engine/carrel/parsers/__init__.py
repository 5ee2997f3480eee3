"""Takes what a chat model wrote apart: thoughts, words, tool calls. Fed text in any split; knows no tokens."""

from carrel.parsers.answer import answer_format
from carrel.parsers.base import AnswerFormat, MessageParser

__all__ = ["AnswerFormat", "MessageParser", "answer_format"]
