"""One function for each command-line tool; they take any detector, segmenter or classifier."""

from .cluster_picture import visualize_clusters
from .config import add_config_options
from .conversion import convert_released
from .inference import infer
from .models import get_model, list_models
from .test import test
from .train import train
from .verification import verify_images

__all__ = [
    'add_config_options',
    'convert_released',
    'get_model',
    'infer',
    'list_models',
    'test',
    'train',
    'verify_images',
    'visualize_clusters',
]
