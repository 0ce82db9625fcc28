"""The REST views of rescues: for machines, and for people."""
