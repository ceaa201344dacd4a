"""Make the pictures of docs/images anew: report, audit and live page of demo runs, as a person sees them.

``python -m tests.browser.pictures`` runs the demo, with names of sites and statements of an operator, audits it, and
shows both pages to a Chromium: on a desk and on a phone in light and in dark, and on paper. It does the same with the
page of ``fedtrain watch --web`` while a longer demo goes on. Each picture has few colours, so that it stays below
150 kB.
"""

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from fedtrain.status import FILE, Follower
from tests.browser.conftest import DESK, DESK_DARK, PAPER, PHONE, PHONE_DARK, PROGRAMS, View

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
LARGEST = 150_000
COLOURS = 160
ROUNDS = 100  # of the demo whose page is seen while it goes on
SETTINGS = {
    "name": "Handwritten digits, ten sites",
    "report.operator": "Digits Consortium, c/o Example University",
    "report.contact": "privacy@digits.example",
    "report.purpose": "read handwritten digits on paper forms",
    "report.intended_use": "a proposal that a person confirms; forms of the ten sites",
    "report.limits": "not for signatures, nor for digits that children wrote",
    "report.data_origin": "UCI optical recognition of handwritten digits, its test set: 13 writers, 1998",
    "report.people": "a writer has some 140 records, spread over all sites: one record is protected, not a writer",
    "report.reference": "accuracy 0.967 in the same 30 rounds without privacy",
}
SITES = {0: "St. Mary's Hospital", 1: "Northern Clinic", 2: "Harbour Practice"}


def fedtrain(*arguments: str, status: int = 0) -> None:
    """Run a command of fedtrain, and see it end as it should."""
    done = subprocess.run([Path(sys.executable).with_name("fedtrain"), *arguments], cwd=ROOT, check=False)
    if done.returncode != status:
        sys.exit(f"fedtrain {arguments[0]} ended with {done.returncode}, and {status} was expected")


def make_pages(folder: Path) -> dict[str, str]:
    """Run the demo and audit it; give both pages."""
    for client, name in SITES.items():
        site = folder / "sites" / f"client-{client:04d}"
        site.mkdir(parents=True)
        (site / "site.toml").write_text(f'[site]\nname = "{name}"\n\n[budget]\nepsilon = 20.0\ndelta = 1e-4\n')
    changed = {"federation.sites": str(folder / "sites"), **SETTINGS}
    settings = [text for key, value in changed.items() for text in ("--set", f"{key}={value}")]
    run, audit = folder / "run", folder / "audit.html"
    fedtrain("simulate", "--config", "simulations/demo.toml", *settings, "--out", str(run))
    # Status 4: no check fails, and the noise of a simulation protects nobody.
    fedtrain("audit", str(run), "--roster", str(run / "roster.json"), "--html", str(audit), status=4)
    return {"report": (run / "report.html").read_text(), "audit": audit.read_text()}


@contextmanager
def watched(folder: Path) -> Iterator[str]:
    """Run a longer demo, and give the address of its page once half of the rounds are done."""
    run = folder / "watched"
    settings = ("--set", f"federation.rounds={ROUNDS}", "--set", f"name={SETTINGS['name']}")
    command = [str(Path(sys.executable).with_name("fedtrain"))]
    running = subprocess.Popen(
        [*command, "simulate", "--config", "simulations/demo.toml", *settings, "--out", str(run), "--quiet"], cwd=ROOT
    )
    try:
        while done(run) < ROUNDS // 2:
            if running.poll() is not None:
                sys.exit(f"the demo ended with {running.returncode} before its page was seen")
            time.sleep(0.5)
        page = subprocess.Popen([*command, "watch", str(run), "--web"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert page.stdout is not None
            yield page.stdout.readline().strip()
        finally:
            page.terminate()
            page.wait()
    finally:
        running.terminate()
        running.wait()


def done(run: Path) -> int:
    """Give how many rounds of a run are complete."""
    status = Follower(run / FILE).status()
    return 0 if status is None else status.done


def taken(browser: Browser, html: str, view: View, height: int) -> Image.Image:
    """Give what is seen of a page in a view, from its top on; ``html`` is its text or its address."""
    context = browser.new_context(
        viewport={"width": view.width, "height": height},
        color_scheme=view.scheme,
        device_scale_factor=1 if view.width > PHONE.width else 1.5,
    )
    page = context.new_page()
    page.emulate_media(media=view.media, color_scheme=view.scheme)
    if html.startswith("http://"):
        page.goto(html)
        page.wait_for_selector("html[data-shown=yes]")
    else:
        page.set_content(html)
    image = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    return image.convert("RGB")


def beside(*images: Image.Image) -> Image.Image:
    """Give images in one row."""
    row = Image.new("RGB", (sum(image.width for image in images), images[0].height), "white")
    place = 0
    for image in images:
        row.paste(image, (place, 0))
        place += image.width
    return row


def save(name: str, image: Image.Image) -> None:
    """Write a small file."""
    path = IMAGES / f"{name}.png"
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
    if path.stat().st_size > LARGEST:
        sys.exit(f"{path} is larger than {LARGEST:,} bytes")


def main() -> None:
    """Make all pictures."""
    chromium = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if chromium is None:
        sys.exit("there is no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, html in make_pages(Path(folder)).items():
            show(browser, name, html)
        with watched(Path(folder)) as address:
            show(browser, "live", address)
        browser.close()


def show(browser: Browser, name: str, html: str) -> None:
    """Make the pictures of a page."""
    save(f"{name}-desk", taken(browser, html, DESK, 900))
    save(f"{name}-desk-dark", taken(browser, html, DESK_DARK, 900))
    save(f"{name}-phone", beside(*(taken(browser, html, view, 800) for view in (PHONE, PHONE_DARK))))
    save(f"{name}-paper", taken(browser, html, PAPER, 976))


if __name__ == "__main__":
    main()
