"""The settings of the way through SNS: what cannot work does not start, and says why."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.notifications.sns_signer import TOPIC

SETTINGS = str(Path(__file__).parents[2] / "portal" / "settings.py")


def settings_of(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> dict[str, Any]:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(SETTINGS)


def test_nothing_of_aws_is_needed_unless_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_of(monkeypatch, {})
    assert (found["NOTIFY_VIA"], found["SMS"], found["NOTIFY_SNS_TOPIC"], found["AWS_REGION"]) == (
        "direct",
        "none",
        "",
        "",
    )


@pytest.mark.parametrize(
    "values",
    [
        {"NOTIFY_VIA": "sns", "NOTIFY_SNS_TOPIC": TOPIC},
        {"NOTIFY_VIA": "sns", "NOTIFY_SNS_TOPIC": "arn:aws-cn:sns:cn-north-1:123456789012:p", "SMS": "sns"},
        {"NOTIFY_VIA": "sns", "NOTIFY_SNS_TOPIC": "arn:aws-us-gov:sns:us-gov-west-1:123456789012:p"},
        {"SMS": "sns", "AWS_REGION": "ap-southeast-2"},
    ],
)
def test_what_can_work_starts(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    found = settings_of(monkeypatch, values)
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"NOTIFY_VIA": "sqs"}, "NOTIFY_VIA: found 'sqs', expected one of direct, sns"),
        ({"NOTIFY_VIA": "sns"}, "NOTIFY_SNS_TOPIC: found '', expected the ARN of a standard topic"),
        ({"NOTIFY_SNS_TOPIC": "portafilter"}, "NOTIFY_SNS_TOPIC: found 'portafilter', expected the ARN"),
        ({"NOTIFY_SNS_TOPIC": f"{TOPIC}.fifo"}, "expected the ARN of a standard topic"),
        ({"NOTIFY_SNS_TOPIC": TOPIC.replace(":sns:", ":sqs:")}, "expected the ARN of a standard topic"),
        ({"SNS_GRACE_S": "0"}, "SNS_GRACE_S: found 0, expected 1 or more"),
        ({"SMS": "sns"}, "AWS_REGION: found nothing, expected the region that sends text messages"),
        ({"AWS_REGION": "Ireland"}, "AWS_REGION: found 'Ireland', expected a region's name as in eu-west-1"),
    ],
)
def test_what_cannot_work_does_not_start(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        settings_of(monkeypatch, values)
    assert words in str(refused.value)
