"""Methods: predictors on the backbone's features. One file a method, chosen by the table below."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.config_method import MethodName

METHODS: dict[MethodName, str] = {
    "bae": "perception.methods.bae",
    "bae_efficientnet": "perception.methods.bae_efficientnet",
    "diffusionmtl": "perception.methods.diffusionmtl",
    "idisc": "perception.methods.idisc",
    "invpt": "perception.methods.invpt",
    "jointnet": "perception.methods.jointnet",
    "mtdiffusion": "perception.methods.mtdiffusion",
    "taskdiffusion": "perception.methods.taskdiffusion",
    "taskprompter": "perception.methods.taskprompter",
    "vpd": "perception.methods.vpd",
}
"""Name to the module whose ``make(spec)`` makes the method; its libraries load where it is used."""
