"""The certificates of SNS: noted by the hook, fetched by the worker, and believed while they are good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.utils import timezone

from notifications import sns, sns_certificates
from notifications.models import Delivery, SnsCertificate, SnsMessage
from notifications.sns_messages import topic_of
from tests.notifications.sns_hooking import PEM, announced, post
from tests.notifications.sns_signer import CERTIFICATE_URL, HOST, TOPIC, Signer, certificate, key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("through_sns", "nothing_goes_out")]


def test_unknown_certificate_is_noted_for_the_worker_and_sns_comes_again() -> None:
    genuine = Signer().notification(sns.message_for([announced()]))
    for _ in range(3):
        response = post(genuine)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "20")
    noted = SnsCertificate.objects.get()
    assert (noted.url, noted.pem, noted.fetched_at) == (CERTIFICATE_URL, "", None)
    assert not SnsMessage.objects.exists()

    def fetch(url: str) -> bytes:
        assert url == CERTIFICATE_URL
        return PEM.encode()

    assert sns_certificates.fetch_due(topic_of(TOPIC), now=timezone.now, fetch=fetch) == 1
    assert post(genuine).status_code == 200
    assert Delivery.objects.get().next_try_at <= timezone.now()


def test_few_unknown_certificates_a_day_are_noted() -> None:
    statuses = [
        post(
            Signer().notification("{}", SigningCertURL=f"{HOST}/SimpleNotificationService-{number:032x}.pem")
        ).status_code
        for number in range(8)
    ]
    assert statuses == [503] * 5 + [403] * 3
    assert SnsCertificate.objects.count() == 5
    # One of those days ago leaves room again, and what is noted goes on being answered.
    SnsCertificate.objects.update(noted_at=timezone.now() - timedelta(hours=25))
    assert post(Signer().notification("{}")).status_code == 503


BAD_CERTIFICATES = {
    "ended": lambda: certificate(ends=timezone.now() - timedelta(minutes=1)),
    "not good yet": lambda: certificate(begins=timezone.now() + timedelta(minutes=9)),
    "of a small key": lambda: certificate(key("small", 1024)),
    "of another kind": lambda: certificate(ec.generate_private_key(ec.SECP256R1())),
    "broken": lambda: PEM.replace("A", "B"),
}


@pytest.mark.parametrize("make", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES.keys())
def test_certificate_that_is_no_good_is_neither_kept_nor_believed(make: Callable[[], str]) -> None:
    signer = Signer(key("small", 1024)) if make is BAD_CERTIFICATES["of a small key"] else Signer()
    pem = make()
    SnsCertificate.objects.create(url=CERTIFICATE_URL)
    assert sns_certificates.fetch_due(topic_of(TOPIC), now=timezone.now, fetch=lambda _: pem.encode()) == 0
    assert SnsCertificate.objects.get().problem.startswith("found ")
    # Were it kept all the same (it ends while it is here), it would not be believed either.
    SnsCertificate.objects.update(pem=pem, fetched_at=timezone.now())
    assert post(signer.notification("{}")).status_code == 403
