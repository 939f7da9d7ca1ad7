"""Table [releases]: where a vehicle's releases come from. In agent.toml and in drive.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from convoy_edge_client.releases.pace import TransferLimits
from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.cohort import VehicleProfile
from convoy_privacy.releases.layout import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasesConfig:
    """Table [releases]; off where neither server nor depot is named.

    Attributes:
        server: HOST:PORT of the release service; empty: there is none.
        depot: Folder or USB stick with a copy of the repository, instead of a server; empty: none.
        folder: Where releases and their states are kept; the processes that fetch and that drive share it.
        root: The root metadata that the vehicle was given when it joined; empty: root.json in `folder`.
        channel: Whose pointer counts.
        canary: Take what the others do not have yet.
        tags: Of the vehicle, such as {"hardware": "jetson-orin", "region": "eu"}.
        check_every_s: Seconds from one check to the next; in 1..86400.
        transfer: What one transfer may take.
    """

    server: str = ""
    depot: str = ""
    folder: str = "releases"
    root: str = ""
    channel: str = "stable"
    canary: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    check_every_s: float = 300.0
    transfer: TransferLimits = field(default_factory=TransferLimits)

    def __post_init__(self) -> None:
        if self.server and self.depot:
            raise ValueError("server and depot exclude each other; name the one that is asked")
        if not 1 <= self.check_every_s <= 86400:
            raise ValueError(f"check_every_s must be in 1..86400, got {self.check_every_s}")
        for name in (self.channel, *self.tags, *self.tags.values()):
            try:
                check_name(name)
            except ReleaseFormatError as error:
                raise ValueError(f"channel and tags: {error}") from error

    @property
    def is_on(self) -> bool:
        """Whether a repository is named."""
        return bool(self.server or self.depot)

    @property
    def folder_path(self) -> Path:
        """Where releases are kept."""
        return Path(self.folder)

    @property
    def root_path(self) -> Path:
        """The first root metadata."""
        return Path(self.root) if self.root else self.folder_path / "root.json"

    def profile(self, vehicle: str) -> VehicleProfile:
        """What a rollout may ask about the vehicle of this name."""
        return VehicleProfile(vehicle=vehicle, canary=self.canary, tags=self.tags)

    def below(self, base: Path) -> "ReleasesConfig":
        """The same with paths that start at a folder."""

        def absolute(path: str) -> str:
            return str(base / path) if path else ""

        return replace(
            self,
            depot=absolute(self.depot),
            folder=absolute(self.folder),
            root=absolute(self.root),
        )
