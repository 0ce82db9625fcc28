"""Portafilter's one settings file. Every value that differs between places comes from the environment.

docs/settings.md lists each of them; an unknown or malformed value stops the start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from machines.telemetry import aliases as telemetries
from machines.telemetry import web_rules
from machines.vpn import base as vpns
from machines.vpn import networks
from notifications import mail_server, push_rules
from notifications.sns_messages import AWS_REGION_NAME, TOPIC
from portal import servers
from portal.environment import Environment, SettingError, check
from portal.origins import canonical
from portal.static_headers import keep_while_asking
from sessions.gateways import base as gateways

BASE_DIR = Path(__file__).resolve().parent.parent

try:
    env = Environment()

    # --- where and for whom -------------------------------------------------------------------------------------------
    DEBUG = env.flag("DEBUG", False)
    # Commands that make the secrets, collect files or print help must run before there are any.
    _BEFORE_SECRETS = len(sys.argv) > 1 and sys.argv[1] in {"make_secrets", "collectstatic", "help"}
    SECRET_KEY = env.secret("SECRET_KEY", "x" * 50 if _BEFORE_SECRETS else None)
    # Fernet keys for one-off credentials, comma separated; the first encrypts, all decrypt (rotation).
    CREDENTIAL_KEYS = [key for key in env.secret("CREDENTIAL_KEYS", "" if _BEFORE_SECRETS else None).split(",") if key]
    STATE_DIR = Path(env.text("STATE_DIR", str(BASE_DIR / "var")))
    PUBLIC_BIND = env.address("PUBLIC_BIND", "127.0.0.1:8000")
    # The exact origins (scheme://host[:port]) of the portal, all https or all on this computer; the first is the one
    # shown to people. Without a choice: this computer alone, by the port that it listens on.
    _ORIGINS = env.origins("PUBLIC_ORIGINS", f"http://127.0.0.1:{PUBLIC_BIND[1]},http://localhost:{PUBLIC_BIND[1]}")
    PUBLIC_ORIGINS = [canonical(origin) for origin in _ORIGINS]
    # Who may say, on the public face alone, for whom and over which scheme they ask (portal/proxies.py).
    TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")
    REDIS_URL = env.text("REDIS_URL", "")
    _REDIS = servers.redis_url(REDIS_URL, env.secret("REDIS_PASSWORD", ""))
    DATABASE_URL = env.text("DATABASE_URL", f"sqlite:///{STATE_DIR / 'portafilter.sqlite3'}")
    _DATABASE = servers.database(
        DATABASE_URL, env.secret("DATABASE_PASSWORD", ""), test_file=STATE_DIR / "test.sqlite3"
    )
    # For `migrate` alone: who the others work as, and with which password (portal/database_rights.py).
    DATABASE_APP_ROLE = env.text("DATABASE_APP_ROLE", "")
    DATABASE_APP_PASSWORD = env.secret("DATABASE_APP_PASSWORD", "")
    servers.check_app_role(DATABASE_URL, DATABASE_APP_ROLE, DATABASE_APP_PASSWORD)

    # --- the choice of drivers: an alias or a dotted path -------------------------------------------------------------
    GATEWAY = env.driver("GATEWAY", "local", gateways.ALIASES)
    GATEWAY_FIXED_HOSTS = env.items("GATEWAY_FIXED_HOSTS")
    GUACD_PATH = env.text("GUACD_PATH", "/usr/sbin/guacd")
    # How many gateways of each fleet are ready before help is pressed; "auto" goes by the presses (sessions/pool.py).
    GATEWAY_WARM = env.number_or("GATEWAY_WARM", 0, word="auto", maximum=20)
    GATEWAY_WARM_MAX = env.number("GATEWAY_WARM_MAX", 20, maximum=1000)
    GATEWAY_WARM_HOURS = env.number("GATEWAY_WARM_HOURS", 12, minimum=1, maximum=720)
    # Marks this installation's gateways, so that two installations on one machine or cluster leave each other's alone.
    INSTALLATION = env.text("INSTALLATION", str(STATE_DIR))
    # For ecs: where tasks run, what each of them is, and how machines are reached from there.
    _IS_ECS = GATEWAY == "ecs"
    ECS_CLUSTER = env.matching(
        "ECS_CLUSTER",
        "",
        pattern=r"(arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/)?[A-Za-z0-9_-]{1,255}" + ("" if _IS_ECS else "|"),
        expected="the name or ARN of a cluster in AWS_REGION",
    )
    ECS_TASK_DEFINITION = env.matching(
        "ECS_TASK_DEFINITION",
        "",
        pattern=r"(arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:task-definition/)?[A-Za-z0-9_-]{1,255}(:[1-9][0-9]{0,9})?"
        + ("" if _IS_ECS else "|"),
        expected="a family, family:revision or ARN",
    )
    ECS_SUBNETS = env.ids("ECS_SUBNETS", prefix="subnet-", maximum=16, is_needed=_IS_ECS)
    ECS_SECURITY_GROUPS = env.ids("ECS_SECURITY_GROUPS", prefix="sg-", maximum=5, is_needed=_IS_ECS)
    # Empty: launch type EC2, which has no more room than the computers that are there.
    ECS_CAPACITY_PROVIDER = env.matching(
        "ECS_CAPACITY_PROVIDER",
        "",
        pattern=r"[A-Za-z0-9_-]{0,255}",
        expected="the name of one of the cluster's capacity providers: letters, digits, - and _",
    )
    ECS_NETWORK = env.choice("ECS_NETWORK", ("tunnel", "routed"), "tunnel")
    # Where EventBridge puts what tasks do; empty: the API is asked again and again.
    ECS_EVENTS_QUEUE = env.matching(
        "ECS_EVENTS_QUEUE",
        "",
        pattern=r"(https?://[A-Za-z0-9.:-]+/[0-9]{12}/[A-Za-z0-9_-]{1,80})?",
        expected="the URL of a queue, as in https://sqs.eu-west-1.amazonaws.com/123456789012/portafilter-events",
    )
    # A task that is not ready by then counts as failed; people hear of it within a minute.
    ECS_READY_S = env.number("ECS_READY_S", 50, minimum=5, maximum=900)
    if _IS_ECS and not env.text("INSTALLATION", ""):
        raise SettingError(
            f"INSTALLATION is not set, and GATEWAY={GATEWAY} needs it: the name by which this installation's tasks are "
            "known, the same for all its processes and nobody else's"
        )

    # --- the VPN ------------------------------------------------------------------------------------------------------
    VPN = env.driver("VPN", "loopback", vpns.ALIASES)
    VPN_NETWORK = env.network("VPN_NETWORK", "127.64.0.0/10")
    _HAS_OPENVPN = VPN == "openvpn"
    if _HAS_OPENVPN:
        networks.check_whole(VPN_NETWORK)
    # With a VPN, machines are listened to on the server's own address there and nowhere else.
    _MACHINE_API_HOST = str(networks.server_address(VPN_NETWORK)) if _HAS_OPENVPN else "127.0.0.1"
    MACHINE_API_BIND = env.address("MACHINE_API_BIND", f"{_MACHINE_API_HOST}:8001")
    if _HAS_OPENVPN and MACHINE_API_BIND[0] != _MACHINE_API_HOST:
        raise SettingError(
            f"MACHINE_API_BIND: found {MACHINE_API_BIND[0]}, expected {_MACHINE_API_HOST}, the server's own address in "
            f"VPN_NETWORK {VPN_NETWORK}"
        )
    # What OpenVPN's server reads and writes: its configuration, certificates, keys and management socket.
    VPN_DIR = Path(env.text("VPN_DIR", str(STATE_DIR / "vpn")))
    # What machines connect to, as they see it.
    VPN_REMOTE = env.matching(
        "VPN_REMOTE",
        "" if _HAS_OPENVPN else "127.0.0.1",
        pattern=networks.HOST,
        expected="the host name or IPv4 address that machines connect to",
    )
    VPN_PORT = env.number("VPN_PORT", 1194, minimum=1, maximum=65535)
    VPN_PROTOCOL = env.choice("VPN_PROTOCOL", ("udp", "tcp"), "udp")
    VPN_DEVICE = env.matching(
        "VPN_DEVICE",
        "tun-pf",
        pattern=networks.DEVICE,
        expected="an interface's name: 15 letters, digits, - or _ at most, a letter first",
    )
    # A second OpenVPN at the same server, for machines whose network lets no UDP out; None: there is none.
    VPN_TCP_PORT = env.optional_number("VPN_TCP_PORT", minimum=1, maximum=65535)
    if VPN_TCP_PORT is not None:
        if VPN_PROTOCOL != "udp":
            raise SettingError("VPN_TCP_PORT is for VPN_PROTOCOL=udp: found tcp, which needs no second way")
        networks.tcp_device(VPN_DEVICE)
    # What gateways connect to that join the VPN themselves (ECS_NETWORK=tunnel): they may have a shorter way.
    GATEWAY_VPN_REMOTE = env.matching(
        "GATEWAY_VPN_REMOTE",
        VPN_REMOTE,
        pattern=networks.HOST,
        expected="the host name or IPv4 address at which gateways find the VPN's server",
    )
    # Machines answer through the tunnel to addresses of the VPN alone, so gateways elsewhere borrow the server's.
    VPN_MASQUERADE = env.flag("VPN_MASQUERADE", True)
    # Where `manage.py authorise` answers /healthz for a load balancer before OpenVPN; empty: nowhere.
    VPN_HEALTH_BIND = env.optional_address("VPN_HEALTH_BIND")
    # Local gateways run as users of their own, one a gateway, so that each reaches its own machine only. Needs root.
    GATEWAY_UIDS = env.span("GATEWAY_UIDS")

    # --- telemetry: who is responsible, and how a profile reaches its machine; an alias or a dotted path --------------
    TELEMETRY = env.driver("TELEMETRY", "builtin", telemetries.ALIASES)
    # A press waits so long for a telemetry elsewhere, then something else stands in.
    TELEMETRY_TIMEOUT_S = env.seconds("TELEMETRY_TIMEOUT_S", 0.5, minimum=0.05, maximum=10)
    # So long its last good answer may stand in.
    TELEMETRY_KEEP_S = env.number("TELEMETRY_KEEP_S", 900, minimum=0, maximum=86_400)
    # For http: where it is, and the key that signs what is sent there.
    TELEMETRY_URL = env.text("TELEMETRY_URL", "")
    TELEMETRY_KEY_ID = env.text("TELEMETRY_KEY_ID", "portafilter")
    TELEMETRY_KEY = env.secret("TELEMETRY_KEY", "")
    _IS_WEB_APP = TELEMETRY == "http" and not _BEFORE_SECRETS
    for _name, _value, _rule in (
        ("TELEMETRY_URL", TELEMETRY_URL, web_rules.check_url),
        ("TELEMETRY_KEY_ID", TELEMETRY_KEY_ID, web_rules.check_key_id),
        ("TELEMETRY_KEY", TELEMETRY_KEY, web_rules.check_key),
    ):
        if not _value and _IS_WEB_APP:
            raise SettingError(f"{_name} is not set, and TELEMETRY={TELEMETRY} needs it")
        if _value:
            check(_name, _value, _rule)

    # --- AWS; who we are there is for AWS' own variables or the computer's role ---------------------------------------
    AWS_REGION = env.matching(
        "AWS_REGION",
        "",
        pattern=rf"({AWS_REGION_NAME})?",
        expected="a region's name as in eu-west-1",
    )
    if _IS_ECS and not AWS_REGION:
        raise SettingError(f"AWS_REGION: found nothing, expected the region of the cluster (GATEWAY is {GATEWAY})")
    if TELEMETRY == "iot_core" and not AWS_REGION:
        raise SettingError(f"AWS_REGION: found nothing, expected the region of the things (TELEMETRY is {TELEMETRY})")
    # What a machine's thing is called in IoT Core; a serial is one machine's within its fleet only.
    IOT_THING_NAME = env.matching(
        "IOT_THING_NAME",
        "{fleet}-{serial}",
        pattern=r"(?=.*\{serial\})([A-Za-z0-9_-]|\{fleet\}|\{serial\}){1,60}",
        expected="letters, digits and _- with {serial}, better also {fleet}, in it",
    )
    IOT_THING_TYPE = env.matching(
        "IOT_THING_TYPE",
        "portafilter-machine",
        pattern=r"[A-Za-z0-9:_-]{1,128}",
        expected="1 to 128 letters, digits and :_-",
    )
    # The accelerators of AWS Global Accelerator that the admin shows and turns; empty: none.
    ACCELERATOR = env.matching(
        "ACCELERATOR",
        "",
        pattern=r"({0}(,{0}){{0,3}})?".format(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?"),
        expected="up to four names of accelerators, comma separated: letters, digits, . and - inside",
    )

    # --- notifications ------------------------------------------------------------------------------------------------
    # With sns, a press goes to a topic, and SNS calls /hooks/sns/, which makes its messages due.
    NOTIFY_VIA = env.choice("NOTIFY_VIA", ("direct", "sns"), "direct")
    NOTIFY_SNS_TOPIC = env.matching(
        "NOTIFY_SNS_TOPIC",
        "",
        pattern=TOPIC if NOTIFY_VIA == "sns" else f"({TOPIC})?",
        expected="the ARN of a standard topic, as in arn:aws:sns:eu-west-1:123456789012:portafilter",
    )
    # What SNS has not brought back by then goes out without it.
    SNS_GRACE_S = env.number("SNS_GRACE_S", 5, minimum=1, maximum=60)
    SMS = env.choice("SMS", ("none", "sns"), "none")
    if SMS == "sns" and not (AWS_REGION or NOTIFY_SNS_TOPIC):
        raise SettingError("AWS_REGION: found nothing, expected the region that sends text messages (SMS is sns)")

    # --- messages to people -------------------------------------------------------------------------------------------
    # By this key push services know that it is this installation that sends; without one there is no Web Push.
    VAPID_PRIVATE_KEY = env.secret("VAPID_PRIVATE_KEY", "")
    check("VAPID_PRIVATE_KEY", VAPID_PRIVATE_KEY, push_rules.check_vapid_key)
    # Whom a push service may write to about it; Apple's takes none at localhost.
    _CONTACT = PUBLIC_ORIGINS[0] if PUBLIC_ORIGINS[0].startswith("https://") else "mailto:portafilter@localhost"
    VAPID_SUBJECT = env.matching(
        "VAPID_SUBJECT",
        _CONTACT,
        pattern=push_rules.SUBJECT,
        expected="mailto: with an address, or an https:// address",
    )
    PUSH_SERVICES = env.items("PUSH_SERVICES", push_rules.DEFAULT_SERVICES)
    check("PUSH_SERVICES", tuple(PUSH_SERVICES), push_rules.parse_services)
    # The mail server that takes messages; empty: no e-mail.
    NOTIFY_EMAIL_URL = env.secret("NOTIFY_EMAIL_URL", "")
    check("NOTIFY_EMAIL_URL", NOTIFY_EMAIL_URL, mail_server.parse)
    NOTIFY_EMAIL_FROM = env.matching(
        "NOTIFY_EMAIL_FROM",
        mail_server.default_sender(str(urlsplit(PUBLIC_ORIGINS[0]).hostname)),
        pattern=mail_server.ADDRESS,
        expected="one plain e-mail address",
    )
    # So many pushes that have just begun may be on their way at once; those that hang are counted apart.
    SENDER_AT_ONCE = env.number("SENDER_AT_ONCE", 64, minimum=1, maximum=1000)
    # Who was told what, and where, is of use only so long; a rescue that is under way is never that old.
    MESSAGES_KEPT_DAYS = env.number("MESSAGES_KEPT_DAYS", 90, minimum=7, maximum=3650)

    # --- time limits, in seconds --------------------------------------------------------------------------------------
    # A gateway with the machine's desktop on it must be there within this time.
    GATEWAY_DEADLINE_S = env.number("GATEWAY_DEADLINE_S", 120, minimum=1)
    # Somebody must have claimed within this time.
    ANSWER_DEADLINE_S = env.number("ANSWER_DEADLINE_S", 1800, minimum=1)
    # The ladder of who is asked, unless the fleet has its own. Without a claim the next person is asked after this,
    ASK_NEXT_AFTER_S = env.number("ASK_NEXT_AFTER_S", 45, minimum=1, maximum=86_400)
    # after the last of them the supervisors, and after those the fleet's address of last resort.
    ASK_SUPERVISORS_AFTER_S = env.number("ASK_SUPERVISORS_AFTER_S", 60, minimum=1, maximum=86_400)
    ASK_LAST_RESORT_AFTER_S = env.number("ASK_LAST_RESORT_AFTER_S", 120, minimum=1, maximum=86_400)
    # A desktop that was there and went away may come back within this time.
    MACHINE_GONE_S = env.number("MACHINE_GONE_S", 120, minimum=1)
    # A machine has this long to fetch the news that its rescue is closing.
    MACHINE_TELL_DEADLINE_S = env.number("MACHINE_TELL_DEADLINE_S", 30, minimum=1)
    # A claim without anybody at the desktop for this long goes back to the queue.
    ABANDONED_AFTER_S = env.number("ABANDONED_AFTER_S", 900, minimum=1)
    TUNNEL_IDLE_S = env.number("TUNNEL_IDLE_S", 1800, minimum=1)
    TUNNEL_MAX_S = env.number("TUNNEL_MAX_S", 28800, minimum=1)
    # How often a tunnel asks whether its operator may still be there; T8 wants 5 s at most.
    TUNNEL_RECHECK_S = env.number("TUNNEL_RECHECK_S", 4, minimum=1, maximum=5)
    GATEWAY_ATTEMPTS = env.number("GATEWAY_ATTEMPTS", 3, minimum=1)
    WORKER_THREADS = env.number("WORKER_THREADS", 2, minimum=1)
    LOG_LEVEL = env.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO")
except (SettingError, ValueError) as error:
    raise ImproperlyConfigured(str(error)) from error


DATABASES = {"default": _DATABASE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECURE = all(origin.startswith("https://") for origin in PUBLIC_ORIGINS)
_HOSTS = {str(urlsplit(origin).hostname) for origin in PUBLIC_ORIGINS}
# Django compares an IPv6 address with its brackets on.
ALLOWED_HOSTS = sorted(f"[{host}]" if ":" in host else host for host in _HOSTS)
CSRF_TRUSTED_ORIGINS = PUBLIC_ORIGINS

INSTALLED_APPS = [
    "portal.apps.PortalConfig",
    "sessions.apps.SupportConfig",
    # Before notifications, which takes its page off the admin: that sends without any of our rules.
    "webpush",
    "notifications.apps.NotificationsConfig",
    "machines.apps.MachinesConfig",
    "backbone.apps.BackboneConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "channels",
    "csp",
    "allauth",
    "allauth.account",
    "allauth.mfa",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "portal.health.HealthMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

ROOT_URLCONF = "portal.urls"
# The VPN-side face has its own listener and URLconf: none of its URLs exists on the public one, and the reverse.
MACHINE_URLCONF = "portal.machine_urls"
ASGI_APPLICATION = "portal.asgi.application"
WSGI_APPLICATION = "portal.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "portal" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

CHANNEL_LAYERS = {
    "default": (
        {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [_REDIS]}}
        if _REDIS
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
}
# What guards sign-ins fails without Redis, soon; what only keeps noise away does without it.
CACHES = {
    name: {"BACKEND": backend, "LOCATION": _REDIS, "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1}}
    if _REDIS
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    for name, backend in {
        "default": "django.core.cache.backends.redis.RedisCache",
        "hints": "portal.hints_cache.RedisHints",
    }.items()
}

# --- people ---------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "machines.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_REDIRECT_URL = "/"
LOGIN_URL = "account_login"
ACCOUNT_ADAPTER = "portal.accounts.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_LOGOUT_ON_GET = False
# Accounts are made by managers, who vouch for the address; nobody can sign up.
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Portafilter"
# WebAuthn needs https; browsers make an exception for localhost, and so does this.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not SECURE
# No mail is sent: a link that lets somebody in must not end in a log either. Managers give new passwords.
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

# --- browser-side protection ----------------------------------------------------------------------------------------
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_SAVE_EVERY_REQUEST = False
SECURE_SSL_REDIRECT = False
SECURE_HSTS_SECONDS = 31_536_000 if SECURE else 0
# The proxy sends http to https; and whether a domain's other names have https, and browsers are to know so for ever, is
# its owner's to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
_WEBSOCKET_ORIGINS = [origin.replace("http", "ws", 1) for origin in PUBLIC_ORIGINS]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:", "blob:"],
        "connect-src": ["'self'", *_WEBSOCKET_ORIGINS],
        "object-src": ["'none'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
    }
}

# --- REST: deny by default ------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "machines.api.problems.exception_handler",
    "PAGE_SIZE": 50,
    # The address is the scope's: portal/proxies.py has read the forwarding headers where they may be believed.
    "NUM_PROXIES": 0,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
# A request body is small everywhere: credentials and a fault.
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024
SPECTACULAR_SETTINGS = {
    "TITLE": "Portafilter",
    "DESCRIPTION": "Remote support for coffee vending machines anywhere in the world.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "OperatorRoleEnum": "machines.models.Operator.Role",
        "AttachmentRoleEnum": "sessions.models.Attachment.Role",
    },
}

# --- static files ---------------------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static" / "dist"]
STATIC_ROOT = STATE_DIR / "static"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_ADD_HEADERS_FUNCTION = keep_while_asking

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "uvicorn.access": {"level": "WARNING"},
        "websockets": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},
    },
}
