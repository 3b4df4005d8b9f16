"""Chromium with one page of the router, of which everything is seen: what it shows, what it asks for, what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

from webview import WebView

from score import Failed

WAIT_SECS = 40
STEP_SECS = 0.1


class Browser(WebView):
    """Started with `start([])`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("browser", lambda *_: None)
        self._folder = folder

    async def visit(self, url: str, width: int = 1000, height: int = 900) -> None:
        """Load the page and wait until it is there."""
        await self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.console.clear()
        await self._call("Page.navigate", url=url)
        await self.wait("document.body?.classList.contains('ready')")

    async def value(self, expression: str) -> object:
        """What an expression is, once it has come."""
        answer = await self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise Failed(f"{expression}: {json.dumps(answer['exceptionDetails'])[:400]}")
        return answer.get("result", {}).get("value")

    async def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        for _ in range(int(WAIT_SECS / STEP_SECS)):
            if await self.value(f"!!({condition})"):
                return
            await asyncio.sleep(STEP_SECS)
        seen = await self.value("document.body?.innerText")
        raise Failed(f"never: {condition}; the page shows: {seen}; the console: {self.console}")

    async def press(self, text: str) -> None:
        """Press the button with that text, as soon as there is one, and wait until it is done."""
        found = f"[...document.querySelectorAll('button')].filter(b => b.textContent == {json.dumps(text)} && !b.disabled && b.offsetParent)"
        await self.wait(f"{found}.length == 1")
        await self.value(f"(window.pressed = {found}[0]).click()")
        await self.wait("!window.pressed.disabled")

    async def fill(self, name: str, text: str) -> None:
        """Write into a field of the form; of a list, into its last line."""
        field = f"[...document.querySelectorAll('[data-name={name}] input, [data-name={name}] select')].pop()"
        await self.wait(field)
        await self.value(
            f"(f => {{ f.value = {json.dumps(text)}; f.dispatchEvent(new Event('input', {{bubbles: true}}));"
            f" f.dispatchEvent(new Event('change', {{bubbles: true}})); }})({field})"
        )

    async def text(self, selector: str = "body") -> str:
        """What is shown there."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def message(self) -> str:
        """The newest message above the page, which is then put away."""
        await self.wait("document.querySelector('#maincontent > .alert-message p')")
        return str(await self.value("(m => { const t = m.querySelector('p').innerText; m.remove(); return t })(document.querySelector('#maincontent > .alert-message'))"))

    async def picture(self, name: str) -> None:
        """A picture of the whole page."""
        size = await self._call("Page.getLayoutMetrics")
        clip = {"x": 0, "y": 0, "scale": 1, **{key: size["cssContentSize"][key] for key in ("width", "height")}}
        answer = await self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{name}.png").write_bytes(base64.b64decode(answer["data"]))
