"""The process in which one engine is measured; it runs in the engine's own Python, which need not have gptwo.

Run as `python -m worker` with the directory above on PYTHONPATH, so everything in here imports its neighbours
relatively, and beyond that only the standard library, numpy and the engine. `protocol.py` says what is spoken.
"""
