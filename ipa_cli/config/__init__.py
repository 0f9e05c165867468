"""Settings: what there is to set, and what each is set to, by flag, environment and file."""

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
from .sources import FILE_NAME, Layer, Resolved, Source, project_file, resolve, user_file

__all__ = [
    "FIELDS",
    "FILE_NAME",
    "MAX_SIDE",
    "Choice",
    "ConfigError",
    "Layer",
    "Resolved",
    "Settings",
    "Source",
    "cache_dir",
    "cache_limit",
    "checked",
    "project_file",
    "resolve",
    "suggest",
    "user_file",
]
