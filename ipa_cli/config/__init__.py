"""Settings: what there is to set, and what each is set to, by flag, environment and file."""

from .files import FILE_NAME, project_file, user_file
from .settings import (
    FIELDS,
    MAX_SIDE,
    Choice,
    ConfigError,
    Settings,
    cache_dir,
    cache_limit,
    checked,
    suggest,
)
from .sources import Layer, Resolved, Source, resolve
from .trust import HINT as TRUST_HINT
from .trust import Ignored, repositories, trust, untrust, with_places

__all__ = [
    "FIELDS",
    "FILE_NAME",
    "MAX_SIDE",
    "TRUST_HINT",
    "Choice",
    "ConfigError",
    "Ignored",
    "Layer",
    "Resolved",
    "Settings",
    "Source",
    "cache_dir",
    "cache_limit",
    "checked",
    "project_file",
    "repositories",
    "resolve",
    "suggest",
    "trust",
    "untrust",
    "user_file",
    "with_places",
]
