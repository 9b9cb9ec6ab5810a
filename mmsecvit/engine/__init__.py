"""What the command-line tools do, for any detector, segmenter or classifier of a config file."""

from .cluster_picture import visualize_clusters
from .config import add_config_options
from .conversion import convert_released
from .images import verify_images
from .inference import infer
from .run import test, train

__all__ = [
    'add_config_options',
    'convert_released',
    'infer',
    'test',
    'train',
    'verify_images',
    'visualize_clusters',
]
