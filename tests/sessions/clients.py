"""Browsers of people who have signed in, without the pages on which they do."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Permission
from django.test import Client

from machines.models import User
from tests.sessions.rescues import person


def client_of(user: User, **options: Any) -> Client:
    """A browser in which this person has just signed in; what else Django's client takes are options."""
    client = Client(**options)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def manager_of_north() -> User:
    """Fiona manages the fleet North, with every right but a superuser's."""
    fiona = person("Fiona")
    fiona.is_staff = True
    fiona.save()
    fiona.user_permissions.set(Permission.objects.all())
    return fiona
