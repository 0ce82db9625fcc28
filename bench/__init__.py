"""Measures what is promised of speed and memory; `python -m bench` says how, README.md what came of it."""
