"""A real browser for tests, driven over chromedriver's plain HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """Headless Chromium with a profile of its own in `folder`; `close` ends it."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, dark: bool = False):
        driver = shutil.which("chromedriver")
        binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), "")
        if not driver or not binary:
            pytest.skip("no chromium with chromedriver on this machine: sort and filter not driven")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        flags += ["--force-prefers-reduced-motion"]  # a click waits for no smooth scrolling
        flags += ["--disable-background-networking", f"--user-data-dir={folder}"]
        flags += [f"--window-size={width},{height}"]
        if dark:
            flags.append("--blink-settings=preferredColorScheme=0")
        options: dict[str, Any] = {"binary": binary, "args": flags}
        if width < 500:  # a desktop window cannot be so narrow
            size = {"width": width, "height": height, "pixelRatio": 1}
            options["mobileEmulation"] = {"deviceMetrics": size}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            self._wait()
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end()
            raise
        self.session = f"/session/{made['sessionId']}"

    def open(self, page: Path) -> None:
        """Load a file; what was logged before is forgotten."""
        self.console()
        self.requests()
        self._ask("POST", f"{self.session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self._ask("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def click(self, css: str) -> None:
        """A real click."""
        self._ask("POST", f"{self.session}/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Real key presses; `\\ue007` is Enter."""
        self._ask("POST", f"{self.session}/element/{self._find(css)}/value", {"text": text})

    def console(self) -> list[str]:
        """Errors and warnings of the console."""
        entries = self._ask("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        entries = self._ask("POST", f"{self.session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        own = [event["params"] for event in sent if "file:" in event["params"]["documentURL"]]
        return [params["request"]["url"] for params in own]

    def screenshot(self, path: Path) -> None:
        """The window, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def close(self) -> None:
        """End the browser and its driver."""
        self._ask("DELETE", self.session)
        self._end()

    def _find(self, css: str) -> str:
        asked = {"using": "css selector", "value": css}
        return self._ask("POST", f"{self.session}/element", asked)[_ELEMENT]

    def _wait(self) -> None:
        for _ in range(100):
            try:
                if self._ask("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail("chromedriver did not start within 10 s")

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from None
