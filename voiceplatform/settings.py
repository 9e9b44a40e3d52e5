"""Every setting, grouped. The environment overrides what ``make run`` keeps in its data folder.

Owns: where each value comes from. Refuses to start without ``SECRET_KEY`` and ``VOICE_SECRET_KEYS``.
Secure by default: ``DEBUG`` is off, hosts and origins are checked, cookies are HTTP-only and same-site.
"""

import warnings
from pathlib import Path
from typing import Any

import dj_database_url

from voiceplatform import datafolder, env, logs

BASE_DIR = Path(__file__).resolve().parent.parent

# --- where data is -----------------------------------------------------------------------------------------------
VOICE_DATA_DIR = env.folder("VOICE_DATA_DIR", BASE_DIR / ".data")
_folder = datafolder.read(VOICE_DATA_DIR)

# --- secrets -------------------------------------------------------------------------------------------------------
SECRET_KEY = env.text("SECRET_KEY", _folder.secret_key)
# The first encrypts backend secrets, all decrypt: rotate by putting a new one first.
VOICE_SECRET_KEYS = env.words("VOICE_SECRET_KEYS", _folder.secret_keys)
datafolder.require_secrets(SECRET_KEY, VOICE_SECRET_KEYS)

# --- stores ----------------------------------------------------------------------------------------------------------
DATABASE_URL = env.text("DATABASE_URL", _folder.database_url)
VALKEY_URL = env.text("VALKEY_URL", _folder.valkey_url)
# The ledger's few statements are long: planning them anew costs more than running them.
VOICE_DB_PREPARE = env.flag("VOICE_DB_PREPARE", default=True)
DB_POOL_SIZE = env.integer("VOICE_DB_POOL_SIZE", 8, minimum=1, maximum=100)

DATABASES: dict[str, Any] = {
    "default": {
        **dj_database_url.parse(DATABASE_URL, conn_max_age=0),
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {
            # Every HTTP request has a thread of its own under ASGI: without a pool each would open a connection.
            # Who waits longer is told that the database is away. A lost one is tried again with the next request: the pool's own backoff
            # would go on for minutes after it is back, and nodes without a heartbeat would be taken for lost.
            "pool": {"min_size": 0, "max_size": DB_POOL_SIZE, "timeout": 3, "reconnect_timeout": 1},
            # Transaction-pooling pgbouncer must work.
            "prepare_threshold": None,
            "connect_timeout": 3,
            # A server that is gone without a word (its machine lost power) is noticed in seconds, not in the kernel's quarter of an hour.
            "tcp_user_timeout": 5000,
            "application_name": "voiceplatform",
        },
        # After a restart of PostgreSQL the pool would hand out dead connections.
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
}
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [VALKEY_URL], "prefix": "voice", "capacity": 1000, "expiry": 10},
    }
}

# --- Django ----------------------------------------------------------------------------------------------------------
DEBUG = env.flag("DEBUG", False)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
ROOT_URLCONF = "voiceplatform.urls"
ASGI_APPLICATION = "voiceplatform.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
DATETIME_FORMAT = "Y-m-d H:i:s"

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "voiceplatform",
    "sessions_app",
    "tenants",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "voiceplatform.outage.OutageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
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
STATIC_URL = "static/"
# Served from where they are; a proxy that serves them itself wants them gathered (`collectstatic`) in a folder.
STATIC_ROOT = env.text("STATIC_ROOT") or None
WHITENOISE_USE_FINDERS = True
# WhiteNoise answers with plain iterators. Django reads them in a thread, which is right for small files, and warns of it in each process.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

# --- security: HTTPS is a matter of the deployment, so it is one switch, on for everything but this machine ------------
HTTPS = env.flag("VOICE_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
# Load balancers ask these on the port that they send traffic to.
SECURE_REDIRECT_EXEMPT = [r"^readyz$", r"^healthz$"]
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Browsers may open the WebSocket from these origins besides the server's own host and port.
VOICE_ALLOWED_ORIGINS = env.words("VOICE_ALLOWED_ORIGINS")

# --- voice: timing is policy; each with its unit, checked at start by sessions_app.checks --------------------------------
VOICE_HEARTBEAT_S = 2.0  # a node writes one row this often
VOICE_LEASE_S = 8.0  # a heartbeat this old means that the node is lost: four missed ones
VOICE_LOST_GRACE_S = 12.0  # sessions of a lost node may be resumed this long after its last heartbeat
VOICE_SWEEP_S = 1.0  # a node looks for lost leases this often
VOICE_SWEEP_TASK_S = 5.0  # Celery does too
VOICE_PROBE_S = 10.0  # Celery probes each enabled backend this often
VOICE_PROBE_FALLBACK_S = 15.0  # a node probes what nobody has probed for this long
VOICE_PROBE_STALE_S = 30.0  # a backend whose last probe is older is not chosen
VOICE_PROBE_TIMEOUT_S = 3.0
VOICE_RECONCILE_S = 15.0  # Celery compares each backend that makes rooms with its sessions this often
VOICE_RECONCILE_FALLBACK_S = 20.0  # a node does what nobody has done for this long
VOICE_ROOMS_TASK_S = 5.0  # Celery looks after rooms that nobody has looked after
VOICE_OPEN_TIMEOUT_S = 5.0  # opening the provider's side
VOICE_CLOSE_TIMEOUT_S = 5.0  # closing it; the slot is given back after this at the latest
VOICE_START_TIMEOUT_S = 5.0  # from the socket's open to its session.start
VOICE_REFUSALS_RECORDED_PER_S = 20  # for one tenant and reason, by one process; further ones are counted
VOICE_CONNECT_TOKEN_S = 60  # how long a connect token lives
VOICE_RETENTION_DAYS = env.integer("VOICE_RETENTION_DAYS", 90, minimum=0, maximum=36_500)  # of history, from a session's end; 0: for ever
VOICE_PRUNE_TASK_S = 3600.0  # Celery deletes what is older this often

VOICE_PROVIDERS = {
    "loopback": "sessions_app.providers.loopback.provider.LoopbackProvider",
    "livekit": "sessions_app.providers.livekit.provider.LiveKitProvider",
}

# --- LiveKit of ``make run``: from it the backend "livekit" is made at the first start, and kept up with at each further one -------
LIVEKIT_URL = env.text("LIVEKIT_URL", _folder.livekit_url)
LIVEKIT_API_KEY = env.text("LIVEKIT_API_KEY", _folder.livekit_api_key)
LIVEKIT_API_SECRET = env.text("LIVEKIT_API_SECRET", _folder.livekit_api_secret)
ECHO_AGENT_URL = env.text("VOICE_ECHO_AGENT_URL")  # where the echo agent is asked; empty: none runs

# --- Celery --------------------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = VALKEY_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": "voice:"}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_SOFT_TIME_LIMIT = 30
CELERY_TASK_TIME_LIMIT = 40
# A task expires after its period, so that a pause is not followed by a burst.
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "probe": {"task": "sessions_app.tasks.probe", "schedule": VOICE_PROBE_S, "options": {"expires": VOICE_PROBE_S}},
    "sweep": {"task": "sessions_app.tasks.sweep", "schedule": VOICE_SWEEP_TASK_S, "options": {"expires": VOICE_SWEEP_TASK_S}},
    "reconcile": {"task": "sessions_app.tasks.reconcile", "schedule": VOICE_RECONCILE_S, "options": {"expires": VOICE_RECONCILE_S}},
    "rooms": {"task": "sessions_app.tasks.rooms", "schedule": VOICE_ROOMS_TASK_S, "options": {"expires": VOICE_ROOMS_TASK_S}},
    "prune": {"task": "sessions_app.tasks.prune", "schedule": VOICE_PRUNE_TASK_S, "options": {"expires": VOICE_PRUNE_TASK_S}},
}

# --- logs ------------------------------------------------------------------------------------------------------------------
LOGGING = logs.configuration(level=env.text("LOG_LEVEL", "INFO").upper(), plain=env.text("VOICE_LOG_FORMAT", "json") == "plain")
