"""Passwords kept apart from the addresses of database and Redis, and TLS to both."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
import redis.connection

from portal import servers
from portal.environment import SettingError

_FILE = Path("/nowhere/test.sqlite3")


def test_password_apart_from_the_databases_address_is_used_as_it_is() -> None:
    entry = servers.database("postgresql://portafilter@db:5432/fleet", "a/b#c:d%41", test_file=_FILE)
    assert (entry["USER"], entry["PASSWORD"], entry["HOST"], entry["PORT"]) == (
        "portafilter",
        "a/b#c:d%41",
        "db",
        "5432",
    )


def test_database_over_tls_is_known_by_the_roots_of_a_file() -> None:
    url = "postgresql://portafilter@db:5432/fleet?sslmode=verify-full&sslrootcert=/etc/portafilter/rds-roots.pem"
    options = servers.database(url, "secret", test_file=_FILE)["OPTIONS"]
    assert isinstance(options, dict)
    assert (options["sslmode"], options["sslrootcert"]) == ("verify-full", "/etc/portafilter/rds-roots.pem")
    assert options["connect_timeout"] == 5


@pytest.mark.parametrize("query", ["sslmode=canary", "canary", "sslrootcert=canary", "options=-c%20canary"])
def test_what_libpq_is_not_to_hear_is_refused_without_showing_it(query: str) -> None:
    with pytest.raises(SettingError, match="DATABASE_URL: found something else after the question mark") as caught:
        servers.database(f"postgresql://db/fleet?{query}", "", test_file=_FILE)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("password", ["plain", "a/b#c:d@e%41 ü"])
def test_redis_gets_the_password_and_checks_whom_it_talks_to(password: str) -> None:
    client = redis.Redis.from_url(servers.redis_url("rediss://redis.example.com:6379/0", password))
    connection = client.connection_pool.make_connection()
    assert isinstance(connection, redis.connection.SSLConnection)
    assert connection.password == password and connection.host == "redis.example.com"
    assert connection.cert_reqs.name == "CERT_REQUIRED" and connection.check_hostname


def test_redis_with_its_password_in_the_address_stays_as_it_is() -> None:
    assert servers.redis_url("redis://:p%41@redis:6379/1", "") == "redis://:p%41@redis:6379/1"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: servers.redis_url("redis://:canary@r", "canary"), "REDIS_PASSWORD: found one in REDIS_URL, too"),
        (lambda: servers.redis_url("", "canary"), "REDIS_PASSWORD: found one without a REDIS_URL"),
        (lambda: servers.redis_url("http://r", ""), "REDIS_URL: found scheme 'http', expected redis://"),
        (lambda: servers.redis_url("redis://:canary/2@r", ""), "REDIS_URL: found what is no URL"),
        (
            lambda: servers.database("postgresql://u:canary@d/f", "canary", test_file=_FILE),
            "DATABASE_PASSWORD: found one in DATABASE_URL, too",
        ),
    ],
)
def test_two_passwords_or_none_to_use_stop_the_start_in_words(read: object, message: str) -> None:
    assert callable(read)
    with pytest.raises(SettingError) as caught:
        read()
    assert message in str(caught.value) and "canary" not in str(caught.value)
