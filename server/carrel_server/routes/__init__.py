"""One file a group of routes. A route reads a body, asks the engine, writes a dict."""
