"""What `mkdocs build` needs of us: pages that are kept beside docs/, and a page of the API for each folder.

Links in the pages are those of the repository, so that they work where the files are read as they are;
here they are turned into those of the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "medretrieval"
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "experiments/*.md", "experiments/*.png")
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each folder of the package at the end of the navigation."""
    assert config.nav is not None
    config.nav.append({"API reference": [{name: f"api/{name}.md"} for name in ("medretrieval", *_folders())]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are kept beside docs/, and the pages of the API."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for folder in (PACKAGE, *(PACKAGE / name for name in _folders())):
        files.append(File.generated(config, f"api/{folder.name}.md", content=_api_page(folder, ROOT / "src")))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    source = f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri

    def in_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        return posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(uri) or ".")

    return LINK.sub(in_site, markdown)


def _folders() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def _api_page(folder: Path, top: Path) -> str:
    """A heading for the folder and one for each module, with what their docstrings say."""
    names = [
        ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(folder.glob("*.py"), key=lambda p: (p.stem != "__init__", p.stem))
        if path.stem != "__main__"
    ]
    title = f"::: {names[0]}\n    options:\n      heading_level: 1"
    return "\n\n".join([title, *(f"::: {name}" for name in names[1:])]) + "\n"
