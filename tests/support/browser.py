"""A headless Chromium that is driven through its DevTools protocol, over a pipe of its own.

The program is Debian's package `chromium`. What a page logs, throws or asks the network for is
kept, so that a test can say that there was nothing of it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.absent import absent
from tests.support.paths import ROOT

#: Names that distributions give the program.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

#: Where `npm install axe-core` puts it; .ci/run does.
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

#: Longest wait for one answer, in seconds.
PATIENCE_S = 60.0

#: Keys by name: code and virtual key code (Windows), as Input.dispatchKeyEvent wants them.
_KEYS = {
    "Tab": ("Tab", 9), "Enter": ("Enter", 13), "Escape": ("Escape", 27), "Space": ("Space", 32),
    "ArrowLeft": ("ArrowLeft", 37), "ArrowUp": ("ArrowUp", 38), "ArrowRight": ("ArrowRight", 39),
    "ArrowDown": ("ArrowDown", 40), "Backspace": ("Backspace", 8),
}  # fmt: skip


class Failed(Exception):
    """The browser refused a command, or a script threw."""


class Browser:
    """One Chromium process."""

    def __init__(self, program: str, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--no-first-run", "--disable-extensions", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--force-color-profile=srgb", f"--user-data-dir={folder}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "sh", program, *flags],
            pass_fds=(ours[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = ours[1], theirs[0]
        self._number = 0
        self._rest = b""
        self._pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; what else is said goes to the pages."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            said = self._read(deadline)
            if said.get("id") == self._number:
                if "error" in said:
                    raise Failed(f"{method}: {said['error']}")
                answer: dict[str, Any] = said["result"]
                return answer
            self._hear(said)

    def open(self, file: Path, *, width: int = 1440, dark: bool = False) -> Page:
        """A new page that shows a file."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.size(width, dark=dark)
        page.go(file)
        return page

    def _hear(self, said: dict[str, Any]) -> None:
        page = self._pages.get(said.get("sessionId", ""))
        if page is not None:
            page.hear(said["method"], said["params"])

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise Failed(f"the browser did not answer for {PATIENCE_S:.0f} s")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise Failed("the browser has ended")
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        said: dict[str, Any] = json.loads(line)
        return said

    def wait(self, page: Page, what: str) -> None:
        """Wait until a page has said something."""
        deadline = time.monotonic() + PATIENCE_S
        while what not in page.events:
            self._hear(self._read(deadline))

    def close(self) -> None:
        """End the process, and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


class Page:
    """What one tab shows."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        #: Names of the events since the page was last loaded.
        self.events: list[str] = []
        #: What was logged as a warning or an error, or thrown.
        self.complaints: list[str] = []
        #: What was asked for and lies outside of the file.
        self.requests: list[str] = []
        #: Dialogs that a script opened; the page waits behind them.
        self.dialogs = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol."""
        return self._browser.call(method, self._session, **parameters)

    def hear(self, method: str, said: dict[str, Any]) -> None:
        """An event of the protocol."""
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(said["entry"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {said['message']}")
            self.dialogs += 1
        elif method == "Network.requestWillBeSent":
            url = said["request"]["url"]
            if not url.startswith(("data:", "blob:")) and said.get("type") != "Document":
                self.requests.append(url)

    def go(self, file: Path) -> None:
        """Show a file, and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self._browser.wait(self, "Page.loadEventFired")

    def size(self, width: int, height: int = 900, *, dark: bool = False, media: str = "") -> None:
        """As on a screen of so many pixels, light or dark, or on paper (`print`)."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def evaluate(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise Failed(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def press(self, key: str, *, shift: bool = False, control: bool = False) -> None:
        """Press and release a key: one of its names, or a character."""
        code, number = _KEYS.get(key, (key, ord(key.upper()) if len(key) == 1 else 0))
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        common = {
            "key": " " if key == "Space" else key, "code": code, "windowsVirtualKeyCode": number,
            "modifiers": 8 * shift + 2 * control,
        }  # fmt: skip
        down = "keyDown" if text and not control else "rawKeyDown"
        self.call(
            "Input.dispatchKeyEvent", type=down, **common,
            **({"text": text} if down == "keyDown" else {}),
        )  # fmt: skip
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text where the keyboard is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG, all of it or what a screen shows."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed on A4."""
        data = self.call(
            "Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69
        )
        return base64.b64decode(data["data"])

    def downloads(self, folder: Path) -> None:
        """Let what is saved be saved in a folder, without asking."""
        self._browser.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder)
        )

    def faults(self) -> list[str]:
        """What axe-core finds that is serious or critical, in words."""
        if not AXE.is_file():
            absent(f"no {AXE.relative_to(ROOT)}: `npm install --no-save axe-core` brings it")
        self.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        found = self.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{fault['impact']} {fault['id']}: {node['target']} {node['failureSummary']}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"][:3]
        ]

    def wide(self) -> list[str]:
        """What is wider than the page and cannot be scrolled: it is cut off on a phone."""
        found: list[str] = self.evaluate(
            """[...document.querySelectorAll('body *')].filter(e => {
                const box = e.getBoundingClientRect();
                return box.width && box.right > document.documentElement.clientWidth + 1
                  && !e.closest('.scroll, .aside, .skip, svg, .stage');
            }).map(e => e.tagName + '.' + e.className + ' ' + e.getBoundingClientRect().right)"""
        )
        return found

    def close(self) -> None:
        """Close the tab."""
        self.call("Page.close")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser; what needs one is skipped where there is none, and fails in CI."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        absent("no Chromium: `apt-get install chromium` brings it")
    with tempfile.TemporaryDirectory(
        prefix="pneumoq-browser-", ignore_cleanup_errors=True
    ) as folder:
        started = Browser(program, Path(folder))
        try:
            yield started
        finally:
            started.close()
