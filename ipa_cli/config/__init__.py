"""Settings, and their values from flags, environment and files."""

from ipa_cli.config.adapters import AdapterConfig
from ipa_cli.config.cache import cache_dir, cache_limit
from ipa_cli.config.checks import MAX_SIDE, Choice
from ipa_cli.config.controls import ControlConfig
from ipa_cli.config.embeddings import EmbeddingConfig
from ipa_cli.config.files import FILE_NAME, project_file, user_file
from ipa_cli.config.loras import LoraConfig
from ipa_cli.config.places import expanded, is_file
from ipa_cli.config.project import HINT as TRUST_HINT
from ipa_cli.config.project import Ignored, check_not_stdin, repositories, trust, untrust, with_places
from ipa_cli.config.setting import OWN
from ipa_cli.config.settings import FIELDS, ConfigError, Settings, checked, collecting
from ipa_cli.config.sources import Layer, Resolved, Source, check_together, resolve

__all__ = [
    "FIELDS",
    "FILE_NAME",
    "MAX_SIDE",
    "OWN",
    "TRUST_HINT",
    "AdapterConfig",
    "Choice",
    "ConfigError",
    "ControlConfig",
    "EmbeddingConfig",
    "Ignored",
    "Layer",
    "LoraConfig",
    "Resolved",
    "Settings",
    "Source",
    "cache_dir",
    "cache_limit",
    "check_not_stdin",
    "check_together",
    "checked",
    "collecting",
    "expanded",
    "is_file",
    "project_file",
    "repositories",
    "resolve",
    "trust",
    "untrust",
    "user_file",
    "with_places",
]
