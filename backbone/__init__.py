"""Portafilter on AWS: the templates in cloudformation/, `python -m backbone` that makes stacks of them, and what the
portal shows of its accelerator.

The templates and the deploy tool need no Django; models, admin and the worker's hands are this package's Django app.
"""
