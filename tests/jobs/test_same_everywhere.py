"""Python, the command line and the dock's runs give the same, voxel for voxel: they carry out one job."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera.cli import app
