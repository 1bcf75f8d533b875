#!/usr/bin/env python3
"""Takes pictures of a run's report with a headless browser.

    tools/report_screenshots.py REPORT FOLDER [--chromium PROGRAM] [--height PIXELS]

writes report-light.png, report-dark.png and report-phone.png into FOLDER: the page in a window of 1100 pixels, in both
colour schemes, and in one of 390 pixels, as wide as a phone. Needs chromium (Debian: apt-get install chromium).
"""

import argparse
import html
import subprocess
import sys
import tempfile
from pathlib import Path

DARK = "--blink-settings=preferredColorScheme=0"


def picture(chromium, url, target, width, height, *flags):
    """Shows `url` in a window and writes its picture to `target`."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={target}"]
        done = subprocess.run([*command, *flags, url], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 or not target.is_file():
        sys.exit(f"{chromium} made no picture of {url}:\n{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a run's report.html")
    parser.add_argument("folder", type=Path, help="where to write the pictures")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument("--height", type=int, default=1180, help="of the windows, in pixels")
    given = parser.parse_args()
    if not given.report.is_file():
        sys.exit(f"there is no file {given.report}")
    folder, url = given.folder.resolve(), given.report.resolve().as_uri()
    folder.mkdir(parents=True, exist_ok=True)
    picture(given.chromium, url, folder / "report-light.png", 1100, given.height)
    picture(given.chromium, url, folder / "report-dark.png", 1100, given.height, DARK)
    # A window has at least 500 pixels, so the narrow page is in a frame.
    with tempfile.TemporaryDirectory() as frames:
        frame = Path(frames) / "phone.html"
        style = f"border:0;border-radius:12px;display:block;width:390px;height:{given.height - 48}px"
        body = f'<iframe src="{html.escape(url)}" style="{style}"></iframe>'
        frame.write_text(f'<body style="margin:0;padding:24px 55px;background:#d9dee4">{body}', encoding="utf-8")
        picture(given.chromium, frame.as_uri(), folder / "report-phone.png", 500, given.height)


if __name__ == "__main__":
    main()
