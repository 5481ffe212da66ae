"""Which vision-language model the commands ask, and within what budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grape_training.errors import BadInputError

if TYPE_CHECKING:
    from grape_preference.vlm import Budget, VlmModel
    from grape_preference.vlm_client import VlmClient

UrlOption = Annotated[
    str,
    typer.Option(
        "--vlm-url", help="Chat server of a model, e.g. http://localhost:11434/v1; key: GRAPE_VLM_API_KEY."
    ),
]
ModelOption = Annotated[str, typer.Option("--vlm-model", help="The model's name at the server.")]
LocalOption = Annotated[
    Path | None,
    typer.Option("--vlm-local", help="Checkpoint folder of an image-text-to-text model to run here."),
]
DeviceOption = Annotated[
    str, typer.Option("--vlm-device", help="Device of models that run here: cpu, cuda, ...")
]
FolderOption = Annotated[
    Path, typer.Option("--vlm-folder", help="Folder of the audit (what was sent and answered) and the cache.")
]
TimeoutOption = Annotated[float, typer.Option("--vlm-timeout", min=0.1, help="Seconds for one answer.")]
RequestsOption = Annotated[
    int, typer.Option("--vlm-max-requests", min=1, help="Budget of requests, tries included.")
]
TokensOption = Annotated[
    int, typer.Option("--vlm-max-tokens", min=1, help="Budget of tokens, questions included.")
]
DEFAULT_FOLDER, DEFAULT_TIMEOUT = Path("runs/vlm"), 300.0


def open_client(
    url: str, name: str, local: Path | None, device: str, timeout: float, folder: Path, budget: Budget
) -> VlmClient:
    """Return the client of a server or of a local model; raise BadInputError unless exactly one is named."""
    from grape_preference.vlm_client import VlmClient

    if bool(url) == (local is not None) or bool(url) != bool(name):
        remedy = "Give --vlm-url with --vlm-model (a server), or --vlm-local (a checkpoint folder)"
        raise BadInputError("it is not clear which vision-language model to ask", remedy)
    return VlmClient(_model(url, name, local, device, timeout), folder, budget)


def _model(url: str, name: str, local: Path | None, device: str, timeout: float) -> VlmModel:
    if local is not None:
        from grape_preference.vlm_local import LocalModel

        return LocalModel(local, device, timeout=timeout)
    from grape_preference.vlm_http import ChatServer
    from grape_preference.vlm_transport import HttpOptions

    return ChatServer(url, name, HttpOptions(timeout=timeout))
