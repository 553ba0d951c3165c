"""One request, once: bytes to the API server and back, with time-outs and two kinds of failure.

The official client logs in: contexts, tokens, certificates, exec plugins, in a pod its
ServiceAccount. Its own retries are off (`client.py` has ours), and so are its models.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from launcher.cluster.clock import ServerClock
from launcher.errors import UsageError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.client.rest import RESTResponse

CONNECT_TIMEOUT_S = 3.05
"""Just above TCP's first retransmission, so that one lost packet is not a failure."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NotSent(Exception):
    """The server has not seen the request."""


class Untrusted(NotSent):
    """The server cannot show who it is, or does not take our certificate; waiting cures neither."""


class Lost(Exception):
    """The server may have done what was asked, but its answer did not arrive whole."""


class Answer:
    """An answer whose body has not been read yet."""

    def __init__(self, response: RESTResponse, host: str, silence_s: float) -> None:
        self._response, self._host, self._silence_s = response, host, silence_s
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    def read(self) -> bytes:
        """The whole body. Raises Lost."""
        with _translated(self._host, self._silence_s):
            data: bytes = self._response.read()
            return data

    def lines(self) -> Iterator[bytes]:
        """The body as it comes, a line each. Raises Lost when it breaks off or falls silent."""
        rest = b""
        with _translated(self._host, self._silence_s):
            for chunk in self._response.response.stream(amt=None, decode_content=True):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        if rest:
            yield rest

    def interrupt(self) -> None:
        """Ends the answer for the thread that reads it; closing would wait for that thread."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it is at its end already
            self._response.response.shutdown()

    def close(self) -> None:
        """Ends the connection; only for the thread that reads."""
        self._response.response.close()


@dataclass(frozen=True)
class Transport:
    """A way to one API server as one user."""

    client: ApiClient
    namespace: str
    """Of the context; what is asked for without a namespace is there."""
    context: str
    """Its name in the kubeconfig, or "in-cluster"."""
    clock: ServerClock = field(default_factory=ServerClock, compare=False)

    @property
    def host(self) -> str:
        return str(self.client.configuration.host)

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        content: str = "",
        silence_s: float = 30.0,
    ) -> Answer:
        """Sends one request. Raises NotSent or Lost.

        body: what JSON has. silence_s: longest silence of the server, also within an answer.
        """
        headers = {"Accept": "application/json", "User-Agent": "launcher"}
        if content:
            headers["Content-Type"] = content
        for entry in self.client.configuration.auth_settings().values():
            headers[entry["key"]] = entry["value"]
        given = {key: value for key, value in query.items() if value}
        url = f"{self.host}{path}" + (f"?{urlencode(given)}" if given else "")
        with _translated(self.host, silence_s):
            timeout = (CONNECT_TIMEOUT_S, silence_s)
            asked_at = self.clock.steady()
            response = self.client.call_api(method, url, headers, body, _request_timeout=timeout)
            self.clock.hear(response.headers.get("Date", ""), asked_at, self.clock.steady())
        return Answer(response, self.host, silence_s)


def connect(context: str = "") -> Transport:
    """The way to the cluster that kubectl would talk to; in a pod without a kubeconfig, its own.

    Raises UsageError where there is none, or no context of that name.
    """
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration

    settings = Configuration()
    settings.retries = False
    try:
        if not context and not has_kubeconfig() and (SERVICE_ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=settings)
            place = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            return Transport(ApiClient(settings), place, "in-cluster")
        contexts, active = config.list_kube_config_contexts(_kubeconfig())
        chosen = next((each for each in contexts if each["name"] == context), None)
        if context and chosen is None:
            known = ", ".join(each["name"] for each in contexts) or "none"
            raise UsageError(f"--context {context!r} is not in the kubeconfig; known are {known}")
        chosen = chosen or active
        if chosen is None:
            raise UsageError("the kubeconfig has no current context; give --context")
        config.load_kube_config(_kubeconfig(), chosen["name"], client_configuration=settings)
    except config.ConfigException as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"there is no usable kubeconfig ({why}); set KUBECONFIG, or use --local to stay on "
            "this machine"
        ) from error
    namespace = chosen["context"].get("namespace") or "default"
    return Transport(ApiClient(settings), namespace, chosen["name"])


def has_kubeconfig() -> bool:
    """Whether kubectl would find a file, without reading it."""
    return any(
        Path(each).expanduser().is_file() for each in _kubeconfig().split(os.pathsep) if each
    )


def _kubeconfig() -> str:
    """The files that kubectl would read; the official client asks for them once, at its import."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def is_configured() -> bool:
    """Whether there is a cluster to talk to."""
    return has_kubeconfig() or (SERVICE_ACCOUNT / "token").exists()


@contextlib.contextmanager
def _translated(host: str, silence_s: float) -> Iterator[None]:
    """Failures of the official client and of urllib3 as NotSent or Lost."""
    from kubernetes.client.exceptions import ApiException
    from urllib3 import exceptions

    try:
        yield
    except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError) as error:
        raise NotSent(f"{host} cannot be reached: {_cause(error)}") from error
    except exceptions.ReadTimeoutError as error:
        raise Lost(f"{host} has been silent for {silence_s:g} s") from error
    except exceptions.HTTPError as error:
        inner = getattr(error, "reason", None)
        if isinstance(inner, (exceptions.NewConnectionError, exceptions.ConnectTimeoutError)):
            raise NotSent(f"{host} cannot be reached: {_cause(inner)}") from error
        raise Lost(f"the connection to {host} broke off: {_cause(error)}") from error
    except ApiException as error:  # its own kind for TLS failures
        raise Untrusted(
            f"{host} is not trusted: {_cause(error)}; is the context's certificate-authority right?"
        ) from error
    except (OSError, AttributeError, ValueError) as error:
        # A response that another thread closes fails in urllib3's insides.
        raise Lost(f"the connection to {host} broke off: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The innermost words of an error of urllib3, which wraps several times."""
    text = " ".join(str(error).split())
    return text.rpartition(": ")[2][:200] or type(error).__name__
