"""A page of ours opened in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """<script>
const problems = [];
const note = event => problems.push(String(event.message || event.target.src).slice(0, 200));
addEventListener("error", note, true);
addEventListener("load", () => {
  const images = [...document.images].map(image => [image.naturalWidth, image.naturalHeight, image.alt]);
  const overflow = document.documentElement.scrollWidth > innerWidth;
  const probe = document.createElement("pre");
  probe.id = "probe";
  const charts = document.querySelectorAll(".chart").length;
  probe.textContent = JSON.stringify({images, problems, overflow, charts});
  document.body.append(probe);
});
</script>"""


def opened_page(html: str, folder: Path, width: int) -> dict[str, Any]:
    """Open ``html`` in a window of ``width`` px; return its images (width, height, alt) and chart count.

    The page must load without errors and fit the window.
    """
    assert BROWSER is not None
    page = folder / "probe.html"
    page.write_text(html.replace("<head>", "<head>" + PROBE, 1))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000", "--dump-dom"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=8000", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    found = re.search(r'<pre id="probe">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert found, "the page did not finish loading"
    probe = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert probe["problems"] == []
    assert not probe["overflow"], "the page is wider than the window"
    return dict(probe)
