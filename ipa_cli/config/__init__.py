"""Settings: what there is to set, and what each is set to, by flag, environment and file."""

from ipa_cli.config.files import FILE_NAME, project_file, user_file
from ipa_cli.config.project import HINT as TRUST_HINT
from ipa_cli.config.project import Ignored, repositories, trust, untrust, with_places
from ipa_cli.config.settings import (
    FIELDS,
    MAX_SIDE,
    OWN,
    Choice,
    ConfigError,
    Settings,
    cache_dir,
    cache_limit,
    checked,
    expanded,
    is_file,
    left_out,
)
from ipa_cli.config.sources import Layer, Resolved, Source, resolve

__all__ = [
    "FIELDS",
    "FILE_NAME",
    "MAX_SIDE",
    "OWN",
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
    "expanded",
    "is_file",
    "left_out",
    "project_file",
    "repositories",
    "resolve",
    "trust",
    "untrust",
    "user_file",
    "with_places",
]
