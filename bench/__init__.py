"""Measurements of the whole program and of its parts: `./run bench`.

Each table is a module with one function `measure(folder, quick=...)` that returns rows.
What the numbers mean, and how not to be fooled by them: docs/explanation/benchmarks.md.
"""
