"""Shell completion: what could be typed next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from dpo_lab.errors import Refused


def complete(request: str, verbs: Iterable[str]) -> int:
    """Shell completion, by Hydra; the verb is taken out of the line, since Hydra knows none."""
    what, _, shell = request.partition("=")
    if what not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise Refused(f"-sc {request}: type -sc install=bash (or zsh, fish)")
    import hydra

    from dpo_lab.compose import calls, conf_dir, prepare, register

    prepare()
    register((group, name) for group, names in calls().items() for name in names)
    typed = os.environ.get("COMP_LINE", "")
    words = typed.split(" ")
    for verb in verbs:
        if verb in words[1:2]:
            shorter = typed.replace(f" {verb}", "", 1)
            os.environ["COMP_LINE"] = shorter
            point = int(os.environ.get("COMP_POINT", len(typed)))
            os.environ["COMP_POINT"] = str(max(0, point - len(typed) + len(shorter)))
    sys.argv = [sys.argv[0], "-sc", request]
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(
        lambda config: None
    )()
    return 0
