"""Runs the task that brings the database to what an image's code expects, and waits for its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from backbone import one_off

if TYPE_CHECKING:
    from backbone.cloud import Cloud


class MigrationError(Exception):
    """The database is not as the code expects; the text says why, or where to read it."""


def run(cloud: Cloud, outputs: Mapping[str, str], say: Callable[[str], None], *, poll_s: float = 5.0) -> None:
    """Runs it once more, which changes nothing where nothing is to do; one that still runs is waited for.

    Raises MigrationError, AwsError.
    """
    order = one_off.Order(
        cluster=outputs["MigrateCluster"],
        task_definition=outputs["MigrateTaskDefinitionArn"],
        container="migrate",
        subnets=outputs["MigrateSubnets"].split(","),
        security_groups=[outputs["MigrateSecurityGroup"]],
        log_group=outputs["MigrateLogGroup"],
        is_alone=True,
    )
    say("migrate: bringing the database up to date.")
    try:
        ended = one_off.run(cloud, order, lambda line: say(f"migrate: {line}"), poll_s=poll_s)
    except one_off.TaskError as error:
        raise MigrationError(f"migrate: {error}") from error
    if ended.code != 0:
        status = "no exit status" if ended.code is None else ended.code
        raise MigrationError(
            f"migrate: the task ended with {status} ({ended.why}). No service was changed. What it said is in the log "
            f"{order.log_group}; when the cause is gone, the same command goes on from here."
        )
    say("migrate: the database is up to date.")
