"""The Kubernetes API as the farm's processes use it: plain objects over the official client (extra `[kube]`).

The client is imported when a connection is made; everything else of `astra_api` works without it. A call blocks its
thread, for 30 seconds at most.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote, urlencode

from astra_api.environment import SourceRef
from astra_api.resource import API_VERSION

Object = dict[str, Any]
_TIMEOUT = (5.0, 30.0)  # seconds: to connect, to answer
_WATCH_SECONDS = 60  # until a server ends a watch: what is silent for longer is a dead connection
_PAGE = 250  # objects in one answer to a list
_NEVER_STORED = "1"  # a resourceVersion that no object has: etcd counts from it
_NO_VERSION = "resourceVersion should not be set on objects to be created"  # of Services, before Kubernetes 1.23
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECTIONS = 32


@dataclass(frozen=True)
class Kind:
    """A namespaced kind and its path in the API."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of one object, of all in a namespace, or (without a namespace) of all there are."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        parts = [root, *(["namespaces", quote(namespace)] if namespace else []), self.plural]
        return "/".join([*parts, *(quote(part) for part in (name, subresource) if part)])


ENVIRONMENT = Kind(API_VERSION, "Environment", "environments")
SYNTHESIS_RUN = Kind(API_VERSION, "SynthesisRun", "synthesisruns")
TRAINING_RUN = Kind(API_VERSION, "TrainingRun", "trainingruns")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
POD = Kind("v1", "Pod", "pods")
SECRET = Kind("v1", "Secret", "secrets")


class KubeError(Exception):
    """The API refused, or could not be reached (`status` 0). `reason` is the server's own word, such as Forbidden."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    @property
    def missing(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """It exists already, or is another object than was meant."""
        return self.status == 409

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (0, 409, 429) or self.status >= 500


class Kube:
    """A connection to an API server. May be used from several threads.

    `before_write` is called before each request that changes something; what it raises keeps the request from being
    sent. `timeout` is in seconds: to connect, to answer.
    """

    def __init__(
        self,
        api_client: Any,
        *,
        before_write: Callable[[], None] | None = None,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> None:
        self._client, self._before_write, self._timeout = api_client, before_write, timeout

    def guarded(self, before_write: Callable[[], None]) -> "Kube":
        """The same connection, with something to look at before each write."""
        return Kube(self._client, before_write=before_write, timeout=self._timeout)

    def hurried(self, seconds: float) -> "Kube":
        """The same connection, for requests that are no use after some seconds."""
        return Kube(self._client, before_write=self._before_write, timeout=(seconds, seconds))

    @classmethod
    def connect(cls) -> "Kube":
        """As the pod's service account; outside a cluster as `KUBECONFIG` says. Raises KubeError."""
        from kubernetes import client, config

        load_own, load_file = cast(Any, config.load_incluster_config), cast(Any, config.load_kube_config)
        configuration = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
                load_own(client_configuration=configuration)
            else:
                load_file(client_configuration=configuration)
        except config.ConfigException as error:
            raise KubeError(0, f"no way to a Kubernetes API: {error}") from None
        configuration.connection_pool_maxsize = _CONNECTIONS
        return cls(client.ApiClient(configuration))

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object; None if there is none. Raises KubeError, as all these do."""
        try:
            return self._call("GET", kind.path(namespace, name))
        except KubeError as error:
            if error.missing:
                return None
            raise

    def list(self, kind: Kind, namespace: str | None, labels: str = "", fields: str = "") -> Iterator[Object]:
        """The objects that match a label selector (and a field selector), a page at a time."""
        for page in self.pages(kind, namespace, labels, fields):
            for item in page.get("items") or []:
                yield {"apiVersion": kind.api_version, "kind": kind.kind, **item}

    def pages(
        self,
        kind: Kind,
        namespace: str | None,
        labels: str = "",
        fields: str = "",
        *,
        size: int = _PAGE,
        accept: str = _JSON,
    ) -> Iterator[Object]:
        """The answers to a list, of `size` objects each; all are of one resourceVersion, which stands in each."""
        query = {"limit": str(size), "labelSelector": labels, "fieldSelector": fields}
        while True:
            given = {key: value for key, value in query.items() if value}
            page = self._call("GET", kind.path(namespace), given, accept=accept)
            query["continue"] = page["metadata"].get("continue") or ""
            yield page
            del page  # before the next one is read
            if not query["continue"]:
                return

    def list_metadata(self, kind: Kind, namespace: str) -> Iterator[Object]:
        """The metadata of the objects of a namespace, and nothing else of them."""
        for page in self.pages(kind, namespace, accept=_METADATA):
            for item in page.get("items") or []:
                yield item["metadata"]

    def watch(self, kind: Kind, namespace: str | None, version: str) -> Iterator[Object]:
        """The changes since a resourceVersion, as `{"type": ..., "object": ...}`, for about a minute.

        Bookmarks are among them. Raises KubeError: with status 410 when the version is too old, and 0 when the
        connection is cut or dead.
        """
        from urllib3.exceptions import HTTPError

        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        query["timeoutSeconds"] = str(_WATCH_SECONDS)
        path, timeout = kind.path(namespace), (self._timeout[0], _WATCH_SECONDS + self._timeout[1])
        response = self._request("GET", path, query, None, _JSON, _JSON, timeout)
        line = bytearray()
        try:
            for data in response.response.stream(None, decode_content=False):
                line += data
                while (end := line.find(b"\n")) >= 0:
                    event: Object = json.loads(line[:end])
                    del line[: end + 1]
                    if event["type"] == "ERROR":
                        raise KubeError(event["object"].get("code") or 0, event["object"].get("message") or "")
                    yield event
        except (HTTPError, OSError) as error:
            raise KubeError(0, f"watch of {path}: {error}") from None
        finally:
            response.response.close()

    def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Object:
        """Creates an object; a KubeError with `conflict` if one of its name exists."""
        return self._call("POST", kind.path(namespace), body=body)

    def replace(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        """Replaces an object; a KubeError with `conflict` if it is not of the resourceVersion in `body` any more."""
        return self._call("PUT", kind.path(namespace, name), body=body)

    def apply(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], manager: str, *, uid: str | None
    ) -> Object:
        """Server-side apply to the object of a uid, or (without one) to none: then it creates.

        What other managers set in the same fields gives way. A KubeError with `conflict` if another has the name.
        """
        query = {"fieldManager": manager, "force": "true"}
        precondition = {"resourceVersion": _NEVER_STORED} if uid is None else {"uid": uid}
        body = {**body, "metadata": {**body["metadata"], **precondition}}
        try:
            return self._call("PATCH", kind.path(namespace, name), query, body, "application/apply-patch+yaml")
        except KubeError as error:
            if uid is not None and error.status == 422 and "metadata.uid" in str(error):
                raise KubeError(409, str(error), error.reason) from None
            if uid is not None or _NO_VERSION not in str(error):
                raise
        del body["metadata"]["resourceVersion"]
        return self._call("POST", kind.path(namespace), {"fieldManager": manager}, body)

    def annotate(self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str]) -> Object:
        """Sets annotations of an object."""
        body = {"metadata": {"annotations": dict(annotations)}}
        return self._call("PATCH", kind.path(namespace, name), None, body, "application/merge-patch+json")

    def patch_status(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        uid: str | None = None,
        first: bool = False,
    ) -> Object:
        """Sets fields of an object's status; None removes one. With `uid`, only if the object is that one (else
        `conflict`): a JSON patch tests it, as servers take no heed of a uid in a merged status.

        An object without a status, and one with, need different patches: `first` says which is tried first.
        """
        test = [] if uid is None else [{"op": "test", "path": "/metadata/uid", "value": uid}]
        path = kind.path(namespace, name, "status")
        fields = [{"op": "add", "path": f"/status/{key}", "value": value} for key, value in status.items()]
        whole = {key: value for key, value in status.items() if value is not None}
        none_yet: list[Object] = [
            {"op": "test", "path": "/status", "value": None},
            {"op": "add", "path": "/status", "value": whole},
        ]
        patch, other = (none_yet, fields) if first else (fields, none_yet)
        try:
            return self._json_patch(path, [*test, *patch])
        except KubeError as error:
            if not error.conflict:
                raise
        return self._json_patch(path, [*test, *other])

    def patch(self, kind: Kind, namespace: str, name: str, operations: Sequence[Object], *, uid: str) -> Object:
        """A JSON patch of the object of a uid (else `conflict`)."""
        test = {"op": "test", "path": "/metadata/uid", "value": uid}
        return self._json_patch(kind.path(namespace, name), [test, *operations])

    def _json_patch(self, path: str, operations: Sequence[Object]) -> Object:
        """A KubeError with `conflict` if a test in it fails, or a path is not there: servers tell neither apart."""
        try:
            return self._call("PATCH", path, None, operations, "application/json-patch+json")
        except KubeError as error:
            if error.status == 422 and " is invalid: " not in str(error):
                raise KubeError(409, "it is another object now, or another wrote it meanwhile", "Conflict") from None
            raise

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        propagation: Literal["Background", "Foreground"] = "Background",
    ) -> None:
        """Deletes an object; nothing if it is gone, or not that one, already."""
        body: Object = {"propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._call("DELETE", kind.path(namespace, name), body=body)
        except KubeError as error:
            if not error.missing and not (uid is not None and error.conflict):
                raise

    def version(self) -> Object:
        """What the server says of itself: `major`, `minor`, `gitVersion` and more."""
        return self._call("GET", "/version")

    def offers(self, api_version: str) -> bool:
        """Whether the server serves a group and version, such as policy/v1."""
        try:
            self._call("GET", f"/apis/{api_version}")
        except KubeError as error:
            if error.missing:
                return False
            raise
        return True

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = _JSON,
    ) -> Object:
        from urllib3.exceptions import HTTPError

        response = self._request(method, path, query, body, content_type, accept, self._timeout)
        try:
            data = response.read()
        except (HTTPError, OSError) as error:
            raise KubeError(0, f"{method} {path}: {error}") from None
        parsed: Object = json.loads(data) if data else {}
        return parsed

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        accept: str,
        timeout: tuple[float, float],
    ) -> Any:
        """The response, once its head is there and does not refuse."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        if method != "GET" and self._before_write is not None:
            self._before_write()
        headers = {"Accept": accept, "Content-Type": content_type}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._client.call_api(method, url, headers, body, _request_timeout=timeout)
            if response.status >= 400:
                message, reason = _words(response.read())
                raise KubeError(response.status, message or f"{method} {path}: status {response.status}", reason)
        except ApiException as error:
            message, reason = _words(error.body)
            raise KubeError(error.status or 0, message or str(error.reason), reason) from None
        except (HTTPError, OSError) as error:
            raise KubeError(0, f"{method} {path}: {error}") from None
        return response


def referenced_source(kube: Kube, namespace: str, reference: SourceRef) -> str | None:
    """The source that a sourceRef points to; None if there is none. Raises KubeError."""
    config_map = kube.get(CONFIG_MAP, namespace, reference.config_map) or {}
    source: str | None = (config_map.get("data") or {}).get(reference.key)
    return source


def own_namespace() -> str | None:
    """The namespace of the pod that this process runs in; None outside a cluster."""
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return None


def _words(body: Any) -> tuple[str, str]:
    """The message and the reason of a `Status` object; empty where there is none."""
    try:
        status = json.loads(body)
        return str(status["message"]), str(status.get("reason") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
