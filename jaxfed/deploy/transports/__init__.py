"""How vaults reach a coordinator's desk: in memory, over HTTP, over Flower.

HTTP needs the extra `server`, Flower the extra `flower`; both are loaded when they are
first used.
"""

from typing import TYPE_CHECKING, Any

from jaxfed.deploy.transports._memory import Memory as Memory

if TYPE_CHECKING:
    from jaxfed.deploy.transports._flower import Flower as Flower
    from jaxfed.deploy.transports._http import Http as Http
    from jaxfed.deploy.transports._http import Limits as Limits


def __getattr__(name: str) -> Any:
    if name in ("Http", "Limits"):
        try:
            from jaxfed.deploy.transports import _http
        except ImportError as error:
            raise ImportError(
                f"HTTP needs aiohttp, got: {error}; pip install 'jaxfed[server]'."
            ) from error
        return getattr(_http, name)
    if name == "Flower":
        from jaxfed.deploy.transports import _flower

        return _flower.Flower
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
