"""Files of a model on the Hugging Face hub, without loading anything."""

from __future__ import annotations

from pathlib import Path

from dpo_lab.errors import Refused
from dpo_lab.spelling import did_you_mean


def download(name: str, revision: str | None, patterns: list[str]) -> Path:
    """The local folder of a hub model with the files that match `patterns`.

    Raises `Refused` where the name is no hub name, or the hub is out of reach and nothing is
    cached.
    """
    from huggingface_hub import snapshot_download

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        parent = Path(name).expanduser().parent
        near = [str(path) for path in parent.iterdir()] if parent.is_dir() else []
        raise Refused(f"there is no folder {name}{did_you_mean(name, near[:50]) if near else ''}")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise Refused(
            f"{name} is no folder here, and the hub did not give it ({type(error).__name__})\n"
            f"{reason[0][:200] if reason else ''}"
        ) from None
