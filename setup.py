from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mmqsdt/version.py').read_text(), version)

# The lower ends are run, see docs/compatibility.md; some are where a known
# vulnerability was mended: torch, pillow, onnx, scikit-learn, tqdm.
cls = ['onedl-mmpretrain>=1.3.5,<2']
det = ['onedl-mmdetection>=3.5,<4', 'pycocotools>=2.0.8']
seg = ['onedl-mmsegmentation>=1.4,<2']
demo = ['scikit-learn>=1.5', 'pycocotools>=2.0.8', 'tqdm>=4.66.3']
onnx = ['onnx>=1.17', 'onnxruntime>=1.20']
data = ['datasets>=4', 'pyarrow']  # the hub's parquet files
everything = sorted({*cls, *det, *seg, *demo, *onnx, *data})
docs = ['sphinx>=8', 'myst-parser>=4', 'furo']
test = [
    *everything, *docs, 'pytest>=8', 'pytest-xdist>=3', 'ruff', 'scipy>=1.13'
]

setup(
    name='mmqsdt',
    version=version['__version__'],
    description='Quantized Spike-driven Transformer for OpenMMLab',
    long_description=(here / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.11',
    packages=[
        *find_packages(include=['mmqsdt', 'mmqsdt.*']), 'mmqsdt.configs'
    ],
    package_dir={'mmqsdt.configs': 'configs'},
    package_data={
        'mmqsdt': ['weights/*/*.safetensors'],
        'mmqsdt.cli': ['templates/*.md'],
        'mmqsdt.configs': ['**/*.py', '**/*.yml'],
    },
    entry_points={'console_scripts': ['mmqsdt = mmqsdt.__main__:run']},
    install_requires=[
        'torch>=2.6', 'torchvision>=0.21', 'onedl-mmengine>=0.10.10',
        'onedl-mmcv>=2.3.3', 'spikingjelly>=2.0.0,<3', 'matplotlib>=3.9',
        'numpy>=2', 'opencv-python>=4.10', 'packaging>=23', 'pillow>=10.3',
        'pyyaml>=6', 'rich>=13', 'safetensors>=0.4.3', 'yapf>=0.40'
    ],
    extras_require=dict(
        cls=cls, det=det, seg=seg, demo=demo, onnx=onnx, data=data, docs=docs,
        all=everything, test=test),
)
