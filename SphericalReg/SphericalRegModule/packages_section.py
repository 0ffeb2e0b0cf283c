"""The panel's part with the Python packages that the module brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from . import dependencies

if TYPE_CHECKING:
    from .panel import Panel


class PackagesSection:
    """Lists what was installed, and removes it."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.ui.removePackagesButton.connect("clicked(bool)", self.on_remove)
        self.ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self.on_opened)

    def forget(self) -> None:
        """Packages do not belong to a scene."""

    def update(self) -> None:
        """Nor do they depend on the parameters."""

    def show_state(self, busy: bool) -> None:
        if self.ui.advancedCollapsibleButton.collapsed:  # nobody looks, and to look up all packages takes a moment
            return
        found = dependencies.installed()
        listed = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        self.ui.packagesLabel.text = listed or _("none: all that is needed was there")
        self.ui.removePackagesButton.enabled = bool(found) and not self.panel.working

    def on_opened(self, collapsed: bool = False) -> None:
        """The list comes into sight."""
        self.show_state(self.panel.working)

    def on_remove(self, checked: bool = False) -> None:
        """Uninstall them, after asking."""
        with self.panel.reporting(self.ui.advancedCollapsibleButton):
            names = sorted(dependencies.installed())
            question = _("Remove these Python packages?\n\n{names}\n\nRestart Slicer afterwards; the next registration asks for them again.")
            if names and slicer.util.confirmOkCancelDisplay(question.format(names="\n".join(names)), windowTitle="SphericalReg"):
                dependencies.remove_installed()
                self.ui.statusLabel.text = _("Removed {names}. Restart Slicer now.").format(names=", ".join(names))
        self.show_state(self.panel.working)
