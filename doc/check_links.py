"""Whether every link of the built site leads to a file and a place in it: ``python doc/check_links.py doc/_build``."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page and the places in it that others may link to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.places.add(value)


def broken_links(site):
    """Pairs of a page and a link in it that leads nowhere; links to other sites are not followed."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = not target.is_file()
            if missing or (target in pages and unquote(parts.fragment) not in pages[target].places):
                yield path.relative_to(site), link


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    broken = list(broken_links(site))
    for page, link in broken:
        print(f"{page}: {link}")
    print(f"{len(broken)} broken links")
    sys.exit(bool(broken))
