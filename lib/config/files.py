"""YAML files: see lib/utils/yaml_text.py."""

from lib.utils.yaml_text import parse_yaml as parse_yaml
from lib.utils.yaml_text import read_yaml as read_yaml
