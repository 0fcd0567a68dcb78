"""The folder of LoRA adapters that may be loaded while the server runs: names to files."""

from __future__ import annotations

from pathlib import Path

from llamakit.errors import LONGEST_NAME, NotFoundError, UsageError
from llamakit.options import near

ENDINGS = (".gguf", ".bin")


class AdapterFolder:
    """The adapters in a folder; "" means that there is none. It is read again each time."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) if folder else None

    def files(self) -> dict[str, Path]:
        """Files by name: without the ending, unless two would be called the same; only names that can be written."""
        if self.folder is None:
            return {}
        try:
            found = [path for path in self.folder.iterdir() if path.suffix in ENDINGS and path.name.isprintable()]
            paths = sorted(path for path in found if path.is_file())
        except OSError:
            return {}
        stems = [path.stem for path in paths]
        return {path.name if stems.count(path.stem) > 1 else path.stem: path for path in paths if path.stem[:1] != "."}

    def file(self, name: str) -> Path:
        """The file of a name that is exactly one of `files`. A name is looked up, never made into a path."""
        if self.folder is None:
            raise UsageError(
                "no adapter can be loaded while this server runs", hint="start it with --lora-dir DIR", param="name"
            )
        files = self.files()
        if name not in files:
            name = name[:LONGEST_NAME]
            raise NotFoundError(
                f"no adapter {name!r} can be loaded", found=near(name, files) or "the folder holds none",
                hint="GET /lora-adapters/load lists what can be", param="name",
            )  # fmt: skip
        return files[name]
