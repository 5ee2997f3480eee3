"""``python -m carrel_server --model X``: what ``carrel serve X`` does, spelled as vLLM's module is."""

from carrel_server.cli import run_serve

if __name__ == "__main__":
    run_serve()
