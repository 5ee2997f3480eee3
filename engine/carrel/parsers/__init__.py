"""Takes what a chat model wrote apart: thoughts, words, tool calls. Fed text in any split; knows no tokens."""
