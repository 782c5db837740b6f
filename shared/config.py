"""Settings: from the environment or ``.env``, every one with its default and its unit (see ``.env.example``)."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, create_model, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def state_dir() -> Path:
    """The user's state directory: XDG on Linux, Application Support on macOS, LOCALAPPDATA on Windows."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "genai-protocols"


def default_store_url() -> str:
    """``sqlite:///<state directory>/chat.db``."""
    return f"sqlite:///{state_dir() / 'chat.db'}"


class Settings(BaseSettings):
    """What an operator may set. An unknown name in ``.env`` is ignored; a wrong value ends the start with one clear line."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, populate_by_name=True)

    genai_provider: Literal["auto", "gemini", "openai", "offline"] = Field(
        "auto", description="the provider of the chat"
    )
    genai_model_id: str | None = Field(None, description="chat model; unset: the provider's default")
    genai_system_instruction: str | None = Field(None, description="system instruction for every chat")
    gemini_api_key: SecretStr | None = Field(None, description="key for Gemini")
    google_api_key: SecretStr | None = Field(None, description="key for Gemini where GEMINI_API_KEY is unset")
    image_provider: Literal["auto", "openai", "offline"] = Field("auto", description="the provider of the pictures")
    openai_api_key: SecretStr | None = Field(None, description="key for OpenAI")
    openai_image_model: str = Field("gpt-image-2.6-flare", description="image model at OpenAI")

    google_gemini_base_url: str | None = Field(None, description="where Gemini is; unset: Google")
    openai_base_url: str | None = Field(None, description="where OpenAI, or a server like it, is; with its /v1")
    provider_connect_timeout_s: float = Field(10, gt=0, description="longest wait for a connection to a provider")
    provider_first_frame_timeout_s: float = Field(
        600,
        gt=0,
        validation_alias=AliasChoices("PROVIDER_FIRST_FRAME_TIMEOUT_S", "PROVIDER_FIRST_TOKEN_TIMEOUT_S"),
        description="longest wait for the first sign of a reply, all attempts together",
    )
    provider_between_frames_timeout_s: float = Field(
        60,
        gt=0,
        validation_alias=AliasChoices("PROVIDER_BETWEEN_FRAMES_TIMEOUT_S", "PROVIDER_BETWEEN_TOKENS_TIMEOUT_S"),
        description="longest silence inside a reply; thoughts are no silence",
    )
    provider_total_timeout_s: float = Field(3600, gt=0, description="longest reply")
    provider_retries: int = Field(2, ge=0, description="further attempts, only before a provider begins to answer")
    provider_max_connections: int = Field(2000, gt=0, description="connections to a provider at once")
    image_timeout_s: float = Field(180, gt=0, description="longest wait for a picture")

    api_secret_key: SecretStr | None = Field(None, description="the key every client must send; unset: loopback only")
    allowed_origins: str | None = Field(
        None, description="comma-separated browser origins; unset: the five servers' own"
    )
    tls_cert: Path | None = Field(
        None, description="servers speak TLS with this certificate, a PEM file with its chain"
    )
    tls_key: Path | None = Field(None, description="the certificate's private key, a PEM file; set both or neither")
    tls_ca: Path | None = Field(
        None, description="clients speak TLS and trust this CA, a PEM file; unset: the system's CAs, with --tls alone"
    )
    store_url: str = Field(
        default_factory=default_store_url,
        description="sqlite:///path, sqlite:// in memory, or redis://host:port/0 for many machines (docs/many-machines.md)",
    )
    store_password: SecretStr | None = Field(None, description="password of the store, where STORE_URL has none")
    store_ack_replicas: int = Field(
        0, ge=0, description="replicas of a Redis that must have an event before it is shown"
    )
    store_patience_s: float = Field(
        20, gt=0, description="a turn stops when the store accepts no events of it for this long"
    )

    disconnect_grace_s: float = Field(30, ge=0, description="a turn nobody reads is cancelled after this long")
    drain_s: float = Field(10, ge=0, description="how long SIGTERM lets running turns finish")
    turn_retention_h: float = Field(24, gt=0, description="how long the events of a turn are kept")
    session_active_s: float = Field(3600, gt=0, description="a session used within this time counts as active")
    lease_s: float = Field(3, gt=0.2, description="a generating process renews its turns' leases three times in this")
    heartbeat_s: float = Field(15, gt=0, description="silence on a stream after which a heartbeat is sent")
    stall_timeout_s: float = Field(30, gt=0, description="a reader that reads nothing for this long is disconnected")
    request_timeout_s: float = Field(20, gt=0, description="a client that does not finish its request is dropped")
    keep_alive_s: int = Field(
        150, gt=0, description="an idle HTTP connection is closed after this long; a proxy must close its own before"
    )
    retry_ms: int = Field(500, ge=0, description="how long an EventSource waits before it reconnects")

    incremental: bool = Field(
        False, description="on, off: whether streams ask proxies with Incremental: ?1 (RFC 10036) to pass each piece on"
    )
    http2: bool = Field(
        False,
        description="on, off: HTTP/2 beside HTTP/1.1 on REST, NDJSON, Server-Sent Events and GRPC_WEB_PORT; needs the extra http2",
    )
    probe: bool | None = Field(
        None,
        description="on, off: whether /echo tells how a request arrived; unset: on while the offline model answers",
    )

    offline_tokens_per_s: float = Field(40, ge=0, description="rate of the offline model; 0: as fast as it can")
    offline_first_token_ms: float = Field(150, ge=0, description="the offline model's own time to first token")
    offline_tokens: int = Field(0, ge=0, description="length of the offline reply in tokens; 0: its natural length")

    max_message_chars: int = Field(1_000_000, gt=0, description="longest message or prompt, in characters")
    max_body_bytes: int = Field(8 * 1024 * 1024, gt=0, description="largest request body or frame")
    max_context_chars: int = Field(400_000, gt=0, description="the newest turns that fit are the model's context")
    max_image_pixels: int = Field(4096 * 4096, gt=0, description="largest picture, in pixels")
    max_streams: int = Field(20_000, gt=0, description="open streams a process serves at once")
    max_streams_per_connection: int = Field(100, gt=0, description="calls that one gRPC connection may have open")
    max_running_turns: int = Field(10_000, gt=0, description="turns a process generates at once")

    @field_validator("api_secret_key", "gemini_api_key", "google_api_key", "openai_api_key", mode="after")
    @classmethod
    def _clean_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        if value.get_secret_value().strip():
            return SecretStr(clean_key(value.get_secret_value()))
        if info.field_name == "api_secret_key":
            raise ValueError("API_SECRET_KEY is set but empty; set a key or remove the setting")
        return None

    @field_validator("genai_model_id", "genai_system_instruction", mode="after")
    @classmethod
    def _blank_is_unset(cls, value: str | None) -> str | None:
        return value.strip() or None if value is not None else None

    @field_validator("tls_cert", "tls_key", "tls_ca", mode="before")
    @classmethod
    def _blank_file_is_unset(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("tls_ca", mode="after")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:
                raise ValueError(f"no certificates can be read from {value} ({error.strerror or error})") from error
        return value

    @field_validator("google_gemini_base_url", "openai_base_url", mode="after")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        address = value.strip() if value is not None else ""
        if address and not re.fullmatch(r"https?://[^\s/?#]+[^\s]*", address):
            raise ValueError("the address must begin with http:// or https:// and name a host")
        return address or None


def clean_key(key: str) -> str:
    """A key without the white space around it. Raises ValueError unless the rest is visible ASCII, as a header needs."""
    key = key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("a key may have visible ASCII characters only; this one is empty or has others inside it")
    return key


def tls_environment(settings: Settings) -> dict[str, str]:
    """The settings of TLS as variables for another process; an empty one is unset."""
    return {name.upper(): str(getattr(settings, name) or "") for name in ("tls_cert", "tls_key", "tls_ca")}


class _Ports(BaseSettings):
    """Ports have no fixed names, because the table of transports is not in this package."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")


def configured_ports(defaults: Mapping[str, int]) -> dict[str, int]:
    """The ports in these settings, from the environment or ``.env``, else their defaults.

    All ports are read at once, because each reading takes 3 ms. Raises ValidationError for a value that is no port.
    """
    fields: dict[str, Any] = {name.lower(): (int, Field(port, ge=0, le=65535)) for name, port in defaults.items()}
    given = create_model("Ports", __base__=_Ports, **fields)()
    return {name: int(getattr(given, name.lower())) for name in defaults}


def optional_port(name: str) -> int | Literal["off"] | None:
    """The port in the setting ``name``, or ``off``; None where it is unset. Raises ValueError for anything else."""
    fields: dict[str, Any] = {name.lower(): (str | None, None)}
    given: Any = getattr(create_model("Ports", __base__=_Ports, **fields)(), name.lower())
    if given is None:
        return None
    if given == "off":
        return "off"
    if not (given.isdecimal() and int(given) < 65536):
        raise ValueError(f"{name}: a port is 0 to 65535, or off; not {given!r}")
    return int(given)


def settings_help(ports: Mapping[str, tuple[int | str, str]]) -> str:
    """One line for each setting with its default, for ``--help``.

    ``ports`` gives each port's setting: its name, its default and its description.
    """
    lines = [f"  {name:<33} {what} (default: {default})" for name, (default, what) in ports.items()]
    words = {None: "unset", False: "off", True: "on"}
    for name, field in Settings.model_fields.items():
        default = "in your state directory" if name == "store_url" else field.default
        shown = words[default] if default is None or isinstance(default, bool) else default
        lines.append(f"  {name.upper():<33} {field.description} (default: {shown})")
    return "settings (environment or .env):\n" + "\n".join(lines)


def settings_problems(error: ValidationError) -> str:
    """What is wrong with which setting, in one line: ``SSE_PORT: Input should be a valid integer``."""
    problems = ((".".join(map(str, each["loc"])).upper(), each["msg"]) for each in error.errors())
    return "; ".join(f"{name}: {message.removeprefix('Value error, ')}" for name, message in problems)
