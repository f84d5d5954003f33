"""A real Chromium without a window, driven over its debugging pipe."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
_SECONDS = 60.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-component-extensions-with-background-pages",
    "--metrics-recording-only",
    "--no-startup-window",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3 and answers on 4.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_browser() -> str | None:
    """Return the path of a Chromium, or None where none is installed."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One process; a `Page` is a tab of it that no other has at the same time.

    A tab costs a second of processor time: `spare` are the contexts and sessions of those that are closed, for others.
    """

    def __init__(self, folder: Path) -> None:
        path = find_browser()
        assert path is not None
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        launch = [sys.executable, "-c", _LAUNCH, *map(str, theirs), path, *_OPTIONS, f"--user-data-dir={folder}"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(launch, pass_fds=theirs, stdout=log, stderr=log)
        for end in (commands, answers, *theirs):
            os.close(end)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self.spare: list[tuple[str, str]] = []

    def close(self) -> None:
        try:
            with contextlib.suppress(OSError, RuntimeError):
                self.call("Browser.close")
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def close_pages(self) -> None:
        """Close all pages that are open, and forget what they have said."""
        spare = {context for context, _ in self.spare}
        for context in self.call("Target.getBrowserContexts")["browserContextIds"]:
            if context not in spare:
                self.call("Target.disposeBrowserContext", browserContextId=context)
        self.events.clear()

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result; raises `RuntimeError` where it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        for answer in self._messages(time.monotonic() + _SECONDS):
            if answer.get("id") != self._number:
                continue
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            result: dict[str, Any] = answer["result"]
            return result
        raise TimeoutError(method)

    def _messages(self, limit: float) -> Iterator[dict[str, Any]]:
        while True:
            *whole, self._rest = self._rest.split(b"\0")
            for number, text in enumerate(whole):
                message = json.loads(text)
                if "id" not in message:
                    self.events.append(message)
                    continue
                self._rest = b"".join(other + b"\0" for other in whole[number + 1 :]) + self._rest
                yield message
                break
            else:
                if not select.select([self._read], [], [], max(0.0, limit - time.monotonic()))[0]:
                    return
                piece = os.read(self._read, 1 << 20)
                if not piece:
                    raise ConnectionError("the browser has ended")
                self._rest += piece


class Page:
    """A tab, as it is when it is new: without storage, with nothing said."""

    def __init__(self, browser: Browser, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        self._browser = browser
        if browser.spare:
            self._context, self._session = browser.spare.pop()
            browser.events[:] = [one for one in browser.events if one.get("sessionId") != self._session]
        else:
            self._open_tab()
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def _open_tab(self) -> None:
        browser = self._browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.shifts = []; new PerformanceObserver(list => { for (const one of list.getEntries()) "
            "if (!one.hadRecentInput) shifts.push([one.value, ...one.sources.map(s => s.node && (s.node.id || "
            "s.node.className || s.node.nodeName))]); }).observe({type: 'layout-shift', buffered: true})",
        )

    def close(self) -> None:
        """Leave the tab to the next page, which finds nothing of this one in it."""
        self.run("location.protocol.startsWith('http') && (sessionStorage.clear(), localStorage.clear())")
        for domain in ("Network.clearBrowserCookies", "Network.clearBrowserCache"):
            self.call(domain)
        self.open("about:blank")
        self.call("Page.resetNavigationHistory")
        self._browser.spare.append((self._context, self._session))

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression; raises `RuntimeError` with what it raises."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"])
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = _SECONDS) -> Any:
        """Return the value of an expression once it is true."""
        limit = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < limit, f"{script}: {value}\n{self.errors()}\n{self.text('main')}"
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, script: str) -> None:
        """Click on what an expression returns, as somebody with a mouse does."""
        shown = "(node => { node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect(); "
        at = self.run(f"{shown} return [box.left + box.width / 2, box.top + box.height / 2] }})({script})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        typed = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = codes.get(key, ord(key[0].upper()))
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def errors(self, *, network: bool = True) -> list[str]:
        """Return what the console has shown as an error, and what scripts raised; without `network` not of requests."""
        self.run("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            told = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(told["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(told["args"]))
            elif event["method"] == "Log.entryAdded" and (network or told["entry"]["source"] != "network"):
                found.append(told["entry"]["text"])
        return found

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
