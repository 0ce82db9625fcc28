"""SQLite for one process with many writers: see base.py."""
