"""Errors of the messages' services; the REST layers turn them into problem+json."""


class NotificationError(Exception):
    """Base of this app's errors; `code` is what a program branches on, the text is what a person reads."""

    code = "notification_error"


class SubscriptionRefused(NotificationError):
    """A browser's subscription cannot be taken; the text says what was found and what to do."""

    code = "subscription_refused"


class SubscriptionTaken(SubscriptionRefused):
    """The endpoint is another person's, and the caller does not have its keys."""

    code = "subscription_taken"


class TooManyDevices(SubscriptionRefused):
    """A person has as many devices as one may have."""

    code = "too_many_devices"


class NoWebPush(NotificationError):
    """This installation has no key for Web Push."""

    code = "no_web_push"
