"""The parts of ``benchmarks/gpu.py``: sections that check and measure, each on its own, and the report of all."""
